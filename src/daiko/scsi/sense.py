"""Sense data: the value, its two formats, and one named constructor for each condition.

Nobody outside this module writes a key and an ASC/ASCQ by hand. A constructor returns a `Sense`;
`raise CheckCondition(invalid_field_in_cdb(2, 5))` where the caller unwinds, or
`task.complete(Status.CHECK_CONDITION, sense=invalid_opcode().fixed())` on the data path, where no
exception is made.

Two formats exist (SPC-4, 4.5). Fixed (response code 70h) has room for 32-bit information only, and
for COPY ABORTED its command-specific bytes hold two offsets and the segment number. Descriptor
(72h) has a descriptor for each piece. Readers meet both, and copy managers that put the segment
number into other bytes than the standard says; `parse_sense` takes all of that.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from daiko.scsi.layout import Buffer, MalformedData
from daiko.scsi.sense_code import NAMES


class SenseKey(IntEnum):
    """SPC-4, table of 4.5.6."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    BLANK_CHECK = 0x8
    VENDOR_SPECIFIC = 0x9
    COPY_ABORTED = 0xA
    ABORTED_COMMAND = 0xB
    RESERVED = 0xC
    VOLUME_OVERFLOW = 0xD
    MISCOMPARE = 0xE
    COMPLETED = 0xF


_WITH_POINTER = frozenset({SenseKey.ILLEGAL_REQUEST, SenseKey.COPY_ABORTED})


@dataclass(frozen=True, slots=True)
class FieldPointer:
    """Which field was wrong (SPC-4, 4.5.2.4.2 and, for segments, 4.5.2.4.4)."""

    byte: int
    """From the start of the CDB, of the parameter list, or of the segment descriptor."""
    bit: int | None = None
    """The left-most bit of the field in error, where that says more than the byte."""
    in_cdb: bool = False
    """C/D; False: in the parameter list. Means nothing with COPY ABORTED."""
    segment_relative: bool = False
    """SD: `byte` counts from the start of the segment descriptor. COPY ABORTED only."""


@dataclass(frozen=True, slots=True)
class ForwardedSense:
    """What the copy source or the copy destination answered to the copy manager."""

    status: int
    sense: bytes
    truncated: bool = False
    """FSDT; the fixed format cannot say it."""


@dataclass(frozen=True, slots=True)
class Sense:
    """Sense data without its format. Equal values describe the same condition."""

    key: int
    asc: int
    ascq: int
    information: int | None = None
    """An LBA, an offset or a residual; None = not valid."""
    command_specific: int | None = None
    """COMMAND-SPECIFIC INFORMATION, except with COPY ABORTED, where `segment` takes its place."""
    segment: int | None = None
    """Segment in work when the copy was aborted, from 0. COPY ABORTED only. Read from the fixed
    format it is always a number, as that format cannot leave it out."""
    field: FieldPointer | None = None
    source: ForwardedSense | None = None
    destination: ForwardedSense | None = None
    deferred: bool = False

    @property
    def name(self) -> str:
        """The standard's name of the additional sense code, in capitals."""
        known = NAMES.get((self.asc, self.ascq))
        return known or f"ASC {self.asc:02X}h ASCQ {self.ascq:02X}h"

    def __str__(self) -> str:
        try:
            key = SenseKey(self.key).name.replace("_", " ")
        except ValueError:
            key = f"KEY {self.key:X}h"
        text = f"{key}, {self.name} ({self.asc:02X}/{self.ascq:02X})"
        if self.segment is not None:
            text += f", segment {self.segment}"
        if self.field is not None:
            where = "CDB" if self.field.in_cdb else "parameter list"
            text += f", byte {self.field.byte} of the {where}"
        return text

    def fixed(self) -> bytes:
        """Fixed format (SPC-4, 4.5.3), without the length field that iSCSI puts in front.
        Information or command-specific information above 32 bits is left out, as the standard
        asks; of a forwarded sense what does not fit 252 bytes is cut off."""
        information = self.information
        valid = information is not None and 0 <= information < 1 << 32
        specific = b"\0\0\0\0"
        extra = b""
        if self.key == SenseKey.COPY_ABORTED:
            source_at, destination_at, extra = self._forwarded_areas()
            specific = struct.pack(">BBH", source_at, destination_at, (self.segment or 0) & 0xFFFF)
        elif self.command_specific is not None and self.command_specific < 1 << 32:
            specific = self.command_specific.to_bytes(4, "big")
        pointer = self._pointer()
        head = struct.pack(
            ">BBBIB",
            (0x80 if valid else 0) | (0x71 if self.deferred else 0x70),
            0,
            self.key,
            information if valid and information is not None else 0,
            10 + len(extra),
        )
        return head + specific + bytes((self.asc, self.ascq, 0)) + pointer + extra

    def descriptor(self) -> bytes:
        """Descriptor format (SPC-4, 4.5.2)."""
        parts = []
        if self.information is not None:
            parts.append(struct.pack(">BBBxQ", 0x00, 0x0A, 0x80, self.information))
        if self.key == SenseKey.COPY_ABORTED:
            if self.segment is not None:
                parts.append(struct.pack(">BB4xH4x", 0x01, 0x0A, self.segment & 0xFFFF))
        elif self.command_specific is not None:
            parts.append(struct.pack(">BBxxQ", 0x01, 0x0A, self.command_specific))
        if self.field is not None and self.key in _WITH_POINTER:
            parts.append(struct.pack(">BBxx3sx", 0x02, 0x06, self._pointer()))
        if self.key == SenseKey.COPY_ABORTED:
            for side, forwarded in ((1, self.source), (2, self.destination)):
                if forwarded is not None:
                    parts.append(_forwarded_descriptor(side, forwarded))
        code = 0x73 if self.deferred else 0x72
        # The additional length is one byte: descriptors that no longer fit are left out whole.
        while sum(map(len, parts)) > 255:
            parts.pop()
        length = sum(map(len, parts))
        return bytes((code, self.key, self.asc, self.ascq, 0, 0, 0, length)) + b"".join(parts)

    def pack(self, *, descriptor_format: bool = False) -> bytes:
        """The format that the D_SENSE bit of the control mode page asks for."""
        return self.descriptor() if descriptor_format else self.fixed()

    def _forwarded_areas(self) -> tuple[int, int, bytes]:
        at, area, offsets = 18, b"", [0, 0]
        for index, forwarded in enumerate((self.source, self.destination)):
            room = 252 - at - 1
            if forwarded is None or room < 0:
                continue
            offsets[index] = at
            piece = bytes((forwarded.status,)) + forwarded.sense[:room]
            area += piece
            at += len(piece)
        return offsets[0], offsets[1], area

    def _pointer(self) -> bytes:
        if self.field is None or self.key not in _WITH_POINTER:
            return b"\0\0\0"
        first = 0x80
        if self.key == SenseKey.COPY_ABORTED:
            first |= 0x20 if self.field.segment_relative else 0
        else:
            first |= 0x40 if self.field.in_cdb else 0
        if self.field.bit is not None:
            first |= 0x08 | (self.field.bit & 7)
        return bytes((first,)) + (self.field.byte & 0xFFFF).to_bytes(2, "big")


def _forwarded_descriptor(side: int, forwarded: ForwardedSense) -> bytes:
    room = 200
    sense = forwarded.sense[:room]
    cut = forwarded.truncated or len(forwarded.sense) > room
    head = (0x0C, 2 + len(sense), (0x80 if cut else 0) | side, forwarded.status)
    return bytes(head) + sense


class CheckCondition(Exception):
    """Ends a command with status CHECK CONDITION and this sense data."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(str(sense))
        self.sense = sense


# --- reading -------------------------------------------------------------------------------------


def parse_sense(data: Buffer) -> Sense:
    """Read sense data of either format, cut short or not, without the iSCSI length field.

    Raises MalformedData when the response code is none of 70h to 73h or the bytes end before the
    additional sense code. Descriptors that do not fit are passed over.
    """
    data = bytes(data)
    if len(data) < 4:
        raise MalformedData(f"sense data of {len(data)} bytes")
    code = data[0] & 0x7F
    if code in (0x70, 0x71):
        return _parse_fixed(data)
    if code in (0x72, 0x73):
        return _parse_descriptors(data)
    raise MalformedData(f"sense data with response code {code:02X}h")


def _parse_fixed(data: bytes) -> Sense:
    if len(data) < 8:
        raise MalformedData(f"fixed format sense data of {len(data)} bytes")
    end = min(len(data), 8 + data[7])
    data = data[:end]
    # A short answer simply has no more to say: zeros mean that in every field.
    head = data[:18].ljust(18, b"\0")
    key = head[2] & 0x0F
    specific = int.from_bytes(head[8:12], "big")
    segment, source, destination = None, None, None
    if key == SenseKey.COPY_ABORTED:
        segment = specific & 0xFFFF
        source, destination = _split_areas(data, head[8], head[9])
    return Sense(
        key,
        head[12],
        head[13],
        information=int.from_bytes(head[3:7], "big") if head[0] & 0x80 else None,
        command_specific=specific if specific and key != SenseKey.COPY_ABORTED else None,
        segment=segment,
        field=_parse_pointer(key, head[15:18]),
        source=source,
        destination=destination,
        deferred=head[0] & 0x7F == 0x71,
    )


def _split_areas(
    data: bytes, source_at: int, destination_at: int
) -> tuple[ForwardedSense | None, ForwardedSense | None]:
    """The two areas of a fixed COPY ABORTED. Each runs to the start of the other or to the end."""
    found: list[ForwardedSense | None] = []
    for at, other in ((source_at, destination_at), (destination_at, source_at)):
        if not 18 <= at < len(data):
            found.append(None)
            continue
        end = other if other > at else len(data)
        found.append(ForwardedSense(data[at], data[at + 1 : end]))
    return found[0], found[1]


def _parse_pointer(key: int, pointer: bytes) -> FieldPointer | None:
    if len(pointer) < 3 or not pointer[0] & 0x80 or key not in _WITH_POINTER:
        return None
    aborted = key == SenseKey.COPY_ABORTED
    return FieldPointer(
        int.from_bytes(pointer[1:3], "big"),
        pointer[0] & 7 if pointer[0] & 0x08 else None,
        in_cdb=not aborted and bool(pointer[0] & 0x40),
        segment_relative=aborted and bool(pointer[0] & 0x20),
    )


def _parse_descriptors(data: bytes) -> Sense:
    if len(data) < 8:
        raise MalformedData(f"descriptor format sense data of {len(data)} bytes")
    key = data[1] & 0x0F
    information = specific = segment = pointer = source = destination = None
    end = min(len(data), 8 + data[7])
    at = 8
    while at + 2 <= end:
        kind, body = data[at], data[at + 2 : min(end, at + 2 + data[at + 1])]
        at += 2 + data[at + 1]
        if kind == 0x00 and len(body) >= 10 and body[0] & 0x80:
            information = int.from_bytes(body[2:10], "big")
        elif kind == 0x01 and len(body) >= 10:
            if key == SenseKey.COPY_ABORTED:
                # By the text bytes 6-7 of the descriptor; FreeBSD writes 10-11.
                segment = int.from_bytes(body[4:6], "big") or int.from_bytes(body[8:10], "big")
            else:
                specific = int.from_bytes(body[2:10], "big")
        elif kind == 0x02 and len(body) >= 5:
            pointer = _parse_pointer(key, body[2:5])
        elif kind == 0x0C and len(body) >= 2:
            forwarded = ForwardedSense(body[1], body[2:], bool(body[0] & 0x80))
            if body[0] & 0x0F == 1:
                source = forwarded
            elif body[0] & 0x0F == 2:
                destination = forwarded
    return Sense(
        key,
        data[2],
        data[3],
        information=information,
        command_specific=specific,
        segment=segment,
        field=pointer,
        source=source,
        destination=destination,
        deferred=data[0] & 0x7F == 0x73,
    )


# --- the conditions ------------------------------------------------------------------------------


def no_sense() -> Sense:
    """Nothing to report: the answer to REQUEST SENSE when nothing is pending."""
    return Sense(SenseKey.NO_SENSE, 0x00, 0x00)


# NOT READY


def not_ready_manual_intervention() -> Sense:
    return Sense(SenseKey.NOT_READY, 0x04, 0x03)


def not_ready_becoming_ready() -> Sense:
    return Sense(SenseKey.NOT_READY, 0x04, 0x01)


def not_ready_initializing_command_required() -> Sense:
    """A unit that START STOP UNIT has stopped."""
    return Sense(SenseKey.NOT_READY, 0x04, 0x02)


def unreachable() -> Sense:
    """The storage behind the unit cannot be reached for the time being: the host tries again."""
    return Sense(SenseKey.NOT_READY, 0x08, 0x00)


def medium_not_present() -> Sense:
    return Sense(SenseKey.NOT_READY, 0x3A, 0x00)


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


def internal_target_failure() -> Sense:
    """Something that must not happen in this controller did happen."""
    return Sense(SenseKey.HARDWARE_ERROR, 0x44, 0x00)


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


# UNIT ATTENTION


def _attention(asc: int, ascq: int) -> Sense:
    return Sense(SenseKey.UNIT_ATTENTION, asc, ascq)


def power_on_occurred() -> Sense:
    return _attention(0x29, 0x01)


def power_on_reset_or_bus_device_reset() -> Sense:
    return _attention(0x29, 0x00)


def bus_device_reset_occurred() -> Sense:
    """A LOGICAL UNIT RESET or TARGET RESET by another initiator."""
    return _attention(0x29, 0x03)


def nexus_loss_occurred() -> Sense:
    return _attention(0x29, 0x07)


def mode_parameters_changed() -> Sense:
    return _attention(0x2A, 0x01)


def capacity_data_changed() -> Sense:
    return _attention(0x2A, 0x09)


def commands_cleared_by_another_initiator() -> Sense:
    return _attention(0x2F, 0x00)


def inquiry_data_changed() -> Sense:
    return _attention(0x3F, 0x03)


def reported_luns_data_changed() -> Sense:
    return _attention(0x3F, 0x0E)


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
