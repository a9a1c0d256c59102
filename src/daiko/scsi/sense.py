"""Sense conditions: one named constructor for each, and the exception that carries one.

Nobody outside this module writes a key and an ASC/ASCQ by hand. A constructor returns a `Sense`;
`raise CheckCondition(invalid_field_in_cdb(2, 5))` where the caller unwinds, or
`task.complete(Status.CHECK_CONDITION, sense=invalid_opcode().fixed())` on the data path, where no
exception is made. The value itself and its formats: `sense_data.py`; its names are here as well.
"""

from __future__ import annotations

from daiko.scsi.sense_data import MAXIMUM_LENGTH as MAXIMUM_LENGTH
from daiko.scsi.sense_data import CheckCondition as CheckCondition
from daiko.scsi.sense_data import FieldPointer as FieldPointer
from daiko.scsi.sense_data import ForwardedSense as ForwardedSense
from daiko.scsi.sense_data import Sense as Sense
from daiko.scsi.sense_data import SenseKey as SenseKey
from daiko.scsi.sense_data import parse_sense as parse_sense


def no_sense() -> Sense:
    """Nothing to report: the answer to REQUEST SENSE when nothing is pending."""
    return Sense(SenseKey.NO_SENSE, 0x00, 0x00)


def rounded_parameter() -> Sense:
    """A mode parameter holds, but with a value near to the one asked for."""
    return Sense(SenseKey.RECOVERED_ERROR, 0x37, 0x00)


# NOT READY


def not_ready_manual_intervention() -> Sense:
    return Sense(SenseKey.NOT_READY, 0x04, 0x03)


def not_ready_becoming_ready() -> Sense:
    return Sense(SenseKey.NOT_READY, 0x04, 0x01)


def not_ready_initializing_command_required() -> Sense:
    """A unit that START STOP UNIT has stopped."""
    return Sense(SenseKey.NOT_READY, 0x04, 0x02)


def format_in_progress(progress: int | None = None) -> Sense:
    """FORMAT UNIT is at work; `progress` in parts of 65,536."""
    return Sense(SenseKey.NOT_READY, 0x04, 0x04, progress=progress)


def sanitize_in_progress(progress: int | None = None) -> Sense:
    """SANITIZE is at work; `progress` in parts of 65,536."""
    return Sense(SenseKey.NOT_READY, 0x04, 0x1B, progress=progress)


def target_port_in_standby() -> Sense:
    """The target port is in the asymmetric access state standby (SPC-4, 5.16.2.4)."""
    return Sense(SenseKey.NOT_READY, 0x04, 0x0B)


def target_port_unavailable() -> Sense:
    """The target port is in the asymmetric access state unavailable (SPC-4, 5.16.2.5)."""
    return Sense(SenseKey.NOT_READY, 0x04, 0x0C)


def target_port_in_transition() -> Sense:
    """The target port is on its way to another asymmetric access state (SPC-4, 5.16.2.6)."""
    return Sense(SenseKey.NOT_READY, 0x04, 0x0A)


def unreachable() -> Sense:
    """The storage behind the unit cannot be reached for the time being: the host tries again."""
    return Sense(SenseKey.NOT_READY, 0x08, 0x00)


def medium_not_present() -> Sense:
    return Sense(SenseKey.NOT_READY, 0x3A, 0x00)


def self_test_in_progress(progress: int) -> Sense:
    """`progress` in 1/65536."""
    return Sense(SenseKey.NOT_READY, 0x04, 0x09, progress=progress)


# MEDIUM ERROR, HARDWARE ERROR


def unrecovered_read_error(lba: int | None = None) -> Sense:
    return Sense(SenseKey.MEDIUM_ERROR, 0x11, 0x00, information=lba)


def write_error(lba: int | None = None) -> Sense:
    return Sense(SenseKey.MEDIUM_ERROR, 0x0C, 0x00, information=lba)


def deferred_write_error() -> Sense:
    """Data of a command that has had its status could not be written (SPC-4, 4.5.7)."""
    return Sense(SenseKey.MEDIUM_ERROR, 0x0C, 0x00, deferred=True)


def medium_error(*, writing: bool, lba: int | None = None) -> Sense:
    """The blocks could not be read or written; `lba` is the first one concerned."""
    return write_error(lba) if writing else unrecovered_read_error(lba)


def medium_format_corrupted() -> Sense:
    """A FORMAT UNIT did not come to its end (SBC-4, 4.10): the medium must be formatted."""
    return Sense(SenseKey.MEDIUM_ERROR, 0x31, 0x00)


def format_command_failed() -> Sense:
    return Sense(SenseKey.MEDIUM_ERROR, 0x31, 0x01)


def sanitize_command_failed() -> Sense:
    """A SANITIZE did not come to its end: nobody may see what is left on the medium."""
    return Sense(SenseKey.MEDIUM_ERROR, 0x31, 0x03)


def defect_list_not_found() -> Sense:
    """There is none in the format asked for, so that another was returned."""
    return Sense(SenseKey.RECOVERED_ERROR, 0x1C, 0x00)


def internal_target_failure() -> Sense:
    """Something that must not happen in this controller did happen."""
    return Sense(SenseKey.HARDWARE_ERROR, 0x44, 0x00)


def failed_self_test() -> Sense:
    return Sense(SenseKey.HARDWARE_ERROR, 0x3E, 0x03)


def set_target_port_groups_failed() -> Sense:
    """The states are as they were (SPC-4, 5.16.2.7)."""
    return Sense(SenseKey.HARDWARE_ERROR, 0x67, 0x0A)


# ILLEGAL REQUEST


def _illegal(asc: int, ascq: int, field: FieldPointer | None = None) -> Sense:
    return Sense(SenseKey.ILLEGAL_REQUEST, asc, ascq, field=field)


def invalid_opcode() -> Sense:
    return _illegal(0x20, 0x00)


def invalid_field_in_cdb(byte: int, bit: int | None = None) -> Sense:
    """`byte` of the CDB, and the highest bit of the field in it where it does not begin at 7."""
    return _illegal(0x24, 0x00, FieldPointer(byte, bit, in_cdb=True))


def invalid_field_in_parameter_list(byte: int, bit: int | None = None) -> Sense:
    return _illegal(0x26, 0x00, FieldPointer(byte, bit))


def parameter_list_length_error() -> Sense:
    return _illegal(0x1A, 0x00)


def lba_out_of_range(lba: int | None = None) -> Sense:
    return Sense(SenseKey.ILLEGAL_REQUEST, 0x21, 0x00, information=lba)


def logical_unit_not_supported() -> Sense:
    return _illegal(0x25, 0x00)


def saving_parameters_not_supported() -> Sense:
    return _illegal(0x39, 0x00)


def invalid_bits_in_identify_message() -> Sense:
    return Sense(SenseKey.ABORTED_COMMAND, 0x3D, 0x00)


def invalid_message_error() -> Sense:
    """A task attribute or message that means nothing here (SAM-5, 8.4)."""
    return _illegal(0x49, 0x00)


def invalid_field_in_command_information_unit() -> Sense:
    """The transport announced an amount of data that does not fit the command (FCP-4, SRP and,
    by custom, iSCSI)."""
    return _illegal(0x0E, 0x03)


def command_sequence_error() -> Sense:
    return _illegal(0x2C, 0x00)


def medium_removal_prevented() -> Sense:
    return _illegal(0x53, 0x02)


def insufficient_resources() -> Sense:
    return _illegal(0x55, 0x03)


def insufficient_registration_resources() -> Sense:
    """More I_T nexuses are registered for persistent reservations than there is room for."""
    return _illegal(0x55, 0x04)


def invalid_release_of_persistent_reservation() -> Sense:
    """The holder named another type or scope than that of its reservation."""
    return _illegal(0x26, 0x04)


def too_many_cscds(byte: int = 2) -> Sense:
    """TOO MANY TARGET DESCRIPTORS."""
    return _illegal(0x26, 0x06, FieldPointer(byte))


def unsupported_cscd_type(byte: int) -> Sense:
    """UNSUPPORTED TARGET DESCRIPTOR TYPE CODE; `byte` of the parameter list."""
    return _illegal(0x26, 0x07, FieldPointer(byte))


def too_many_segments(byte: int = 8) -> Sense:
    """TOO MANY SEGMENT DESCRIPTORS."""
    return _illegal(0x26, 0x08, FieldPointer(byte))


def unsupported_segment_type(byte: int) -> Sense:
    """UNSUPPORTED SEGMENT DESCRIPTOR TYPE CODE; `byte` of the parameter list."""
    return _illegal(0x26, 0x09, FieldPointer(byte))


def inline_data_length_exceeded(byte: int = 12) -> Sense:
    return _illegal(0x26, 0x0B, FieldPointer(byte))


def operation_in_progress(byte: int | None = None) -> Sense:
    """The list identifier, or an alias to be changed, is in use by a copy that still runs."""
    return _illegal(0x00, 0x16, None if byte is None else FieldPointer(byte))


def not_authorized(byte: int | None = None) -> Sense:
    """COPY SOURCE OR COPY DESTINATION NOT AUTHORIZED: the CSCD at this byte of the parameter list
    names a logical unit that is not this host's."""
    return _illegal(0x26, 0x15, None if byte is None else FieldPointer(byte))


# DATA PROTECT, ABORTED COMMAND, MISCOMPARE


def write_protected() -> Sense:
    return Sense(SenseKey.DATA_PROTECT, 0x27, 0x00)


def space_allocation_failed() -> Sense:
    """A thin unit has no room left (SBC-4: SPACE ALLOCATION FAILED WRITE PROTECT)."""
    return Sense(SenseKey.DATA_PROTECT, 0x27, 0x07)


def overlapped_commands_attempted() -> Sense:
    return Sense(SenseKey.ABORTED_COMMAND, 0x4E, 0x00)


def data_phase_error() -> Sense:
    """Fewer or other data than the command needs."""
    return Sense(SenseKey.ABORTED_COMMAND, 0x4B, 0x00)


def protocol_service_crc_error() -> Sense:
    """A data digest was wrong (RFC 7143, 11.4.7.2)."""
    return Sense(SenseKey.ABORTED_COMMAND, 0x47, 0x05)


def unexpected_unsolicited_data() -> Sense:
    """RFC 7143, 11.4.7.2: unsolicited data came where none was allowed."""
    return Sense(SenseKey.ABORTED_COMMAND, 0x0C, 0x0C)


def not_enough_unsolicited_data() -> Sense:
    """RFC 7143, 11.4.7.2: the unsolicited data that was announced did not come."""
    return Sense(SenseKey.ABORTED_COMMAND, 0x0C, 0x0D)


def miscompare(offset: int) -> Sense:
    """MISCOMPARE DURING VERIFY OPERATION; `offset` in bytes to the first byte that differs."""
    return Sense(SenseKey.MISCOMPARE, 0x1D, 0x00, information=offset)


# UNIT ATTENTION: what hosts are told of is in `target/event.py`


def power_on_reset_or_bus_device_reset() -> Sense:
    """The storage under a unit was reset: a command that relied on its cache ends with this."""
    return Sense(SenseKey.UNIT_ATTENTION, 0x29, 0x00)


# COPY ABORTED (third-party copy), COMPLETED


def copy_aborted(
    asc: int,
    ascq: int,
    *,
    segment: int,
    field: FieldPointer | None = None,
    residual: int | None = None,
    source: ForwardedSense | None = None,
    destination: ForwardedSense | None = None,
) -> Sense:
    """The frame of the conditions below; also for passing on what a second controller reported.
    `residual`: destination blocks of the segment not written, only when something was written."""
    return Sense(
        SenseKey.COPY_ABORTED,
        asc,
        ascq,
        information=residual,
        segment=segment,
        field=field,
        source=source,
        destination=destination,
    )


def third_party_device_failure(
    segment: int,
    *,
    cscd_byte: int | None = None,
    residual: int | None = None,
    source: ForwardedSense | None = None,
    destination: ForwardedSense | None = None,
) -> Sense:
    """The source or the destination answered with an error, which is forwarded; `cscd_byte` is
    the offset of its CSCD descriptor in the parameter list."""
    return copy_aborted(
        0x0D,
        0x01,
        segment=segment,
        field=_cscd_pointer(cscd_byte),
        residual=residual,
        source=source,
        destination=destination,
    )


def third_party_error(segment: int, *, residual: int | None = None) -> Sense:
    """ERROR DETECTED BY THIRD PARTY TEMPORARY INITIATOR: the copy manager itself failed."""
    return copy_aborted(0x0D, 0x00, segment=segment, residual=residual)


def copy_target_not_reachable(
    segment: int, *, cscd_byte: int | None = None, residual: int | None = None
) -> Sense:
    """COPY TARGET DEVICE NOT REACHABLE."""
    field = _cscd_pointer(cscd_byte)
    return copy_aborted(0x0D, 0x02, segment=segment, field=field, residual=residual)


def incorrect_copy_target_device_type(segment: int, *, cscd_byte: int | None = None) -> Sense:
    return copy_aborted(0x0D, 0x03, segment=segment, field=_cscd_pointer(cscd_byte))


def copy_target_data_underrun(segment: int, *, residual: int | None = None) -> Sense:
    return copy_aborted(0x0D, 0x04, segment=segment, residual=residual)


def copy_target_data_overrun(segment: int, *, residual: int | None = None) -> Sense:
    return copy_aborted(0x0D, 0x05, segment=segment, residual=residual)


def unexpected_inexact_segment(segment: int) -> Sense:
    """Source bytes that fill no whole destination block (third-party copy without PAD, CAT)."""
    return copy_aborted(0x26, 0x0A, segment=segment)


def invalid_operation_for_copy(segment: int, *, byte: int) -> Sense:
    """INVALID OPERATION FOR COPY SOURCE OR DESTINATION; `byte` of the segment descriptor."""
    field = FieldPointer(byte, segment_relative=True)
    return copy_aborted(0x26, 0x0C, segment=segment, field=field)


def copy_segment_lba_out_of_range(segment: int, *, byte: int) -> Sense:
    """The range leaves the device; `byte` of the segment descriptor is the LBA field's."""
    field = FieldPointer(byte, segment_relative=True)
    return copy_aborted(0x21, 0x00, segment=segment, field=field)


def copy_commands_cleared(segment: int, *, residual: int | None = None) -> Sense:
    """COMMANDS CLEARED BY DEVICE SERVER: the copy was taken back."""
    return copy_aborted(0x2F, 0x02, segment=segment, residual=residual)


def extended_copy_information_available(segments: int) -> Sense:
    """Ends a successful copy with G_SENSE: GOOD with the number of segments processed."""
    return Sense(SenseKey.COMPLETED, 0x00, 0x20, command_specific=segments)


def _cscd_pointer(byte: int | None) -> FieldPointer | None:
    return None if byte is None else FieldPointer(byte)
