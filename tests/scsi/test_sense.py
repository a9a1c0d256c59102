"""Every named condition. The two formats of sense data: test_sense_data.py."""

from __future__ import annotations

import inspect

import pytest

from daiko.scsi import sense
from daiko.scsi.sense import parse_sense
from daiko.scsi.sense_code import NAMES

CONDITIONS = {
    "no_sense": (0x0, 0x00, 0x00),
    "rounded_parameter": (0x1, 0x37, 0x00),
    "not_ready_manual_intervention": (0x2, 0x04, 0x03),
    "not_ready_becoming_ready": (0x2, 0x04, 0x01),
    "not_ready_initializing_command_required": (0x2, 0x04, 0x02),
    "format_in_progress": (0x2, 0x04, 0x04),
    "sanitize_in_progress": (0x2, 0x04, 0x1B),
    "target_port_in_standby": (0x2, 0x04, 0x0B),
    "target_port_in_transition": (0x2, 0x04, 0x0A),
    "set_target_port_groups_failed": (0x4, 0x67, 0x0A),
    "target_port_unavailable": (0x2, 0x04, 0x0C),
    "unreachable": (0x2, 0x08, 0x00),
    "medium_not_present": (0x2, 0x3A, 0x00),
    "unrecovered_read_error": (0x3, 0x11, 0x00),
    "write_error": (0x3, 0x0C, 0x00),
    "medium_error": (0x3, 0x11, 0x00),
    "deferred_write_error": (0x3, 0x0C, 0x00),
    "medium_format_corrupted": (0x3, 0x31, 0x00),
    "format_command_failed": (0x3, 0x31, 0x01),
    "sanitize_command_failed": (0x3, 0x31, 0x03),
    "defect_list_not_found": (0x1, 0x1C, 0x00),
    "self_test_in_progress": (0x2, 0x04, 0x09),
    "failed_self_test": (0x4, 0x3E, 0x03),
    "internal_target_failure": (0x4, 0x44, 0x00),
    "invalid_opcode": (0x5, 0x20, 0x00),
    "invalid_field_in_cdb": (0x5, 0x24, 0x00),
    "invalid_field_in_parameter_list": (0x5, 0x26, 0x00),
    "parameter_list_length_error": (0x5, 0x1A, 0x00),
    "lba_out_of_range": (0x5, 0x21, 0x00),
    "logical_unit_not_supported": (0x5, 0x25, 0x00),
    "saving_parameters_not_supported": (0x5, 0x39, 0x00),
    "invalid_bits_in_identify_message": (0xB, 0x3D, 0x00),
    "invalid_message_error": (0x5, 0x49, 0x00),
    "invalid_field_in_command_information_unit": (0x5, 0x0E, 0x03),
    "command_sequence_error": (0x5, 0x2C, 0x00),
    "medium_removal_prevented": (0x5, 0x53, 0x02),
    "insufficient_resources": (0x5, 0x55, 0x03),
    "insufficient_registration_resources": (0x5, 0x55, 0x04),
    "invalid_release_of_persistent_reservation": (0x5, 0x26, 0x04),
    "too_many_cscds": (0x5, 0x26, 0x06),
    "unsupported_cscd_type": (0x5, 0x26, 0x07),
    "too_many_segments": (0x5, 0x26, 0x08),
    "unsupported_segment_type": (0x5, 0x26, 0x09),
    "inline_data_length_exceeded": (0x5, 0x26, 0x0B),
    "operation_in_progress": (0x5, 0x00, 0x16),
    "not_authorized": (0x5, 0x26, 0x15),
    "write_protected": (0x7, 0x27, 0x00),
    "space_allocation_failed": (0x7, 0x27, 0x07),
    "overlapped_commands_attempted": (0xB, 0x4E, 0x00),
    "data_phase_error": (0xB, 0x4B, 0x00),
    "protocol_service_crc_error": (0xB, 0x47, 0x05),
    "unexpected_unsolicited_data": (0xB, 0x0C, 0x0C),
    "not_enough_unsolicited_data": (0xB, 0x0C, 0x0D),
    "miscompare": (0xE, 0x1D, 0x00),
    "power_on_reset_or_bus_device_reset": (0x6, 0x29, 0x00),
    "copy_aborted": (0xA, 0x0D, 0x01),
    "third_party_device_failure": (0xA, 0x0D, 0x01),
    "third_party_error": (0xA, 0x0D, 0x00),
    "copy_target_not_reachable": (0xA, 0x0D, 0x02),
    "incorrect_copy_target_device_type": (0xA, 0x0D, 0x03),
    "copy_target_data_underrun": (0xA, 0x0D, 0x04),
    "copy_target_data_overrun": (0xA, 0x0D, 0x05),
    "unexpected_inexact_segment": (0xA, 0x26, 0x0A),
    "invalid_operation_for_copy": (0xA, 0x26, 0x0C),
    "copy_segment_lba_out_of_range": (0xA, 0x21, 0x00),
    "copy_commands_cleared": (0xA, 0x2F, 0x02),
    "extended_copy_information_available": (0xF, 0x00, 0x20),
}
ARGUMENTS = {
    "progress": 100,
    "writing": False,
    "byte": 4,
    "offset": 7,
    "segment": 2,
    "segments": 3,
    "asc": 0x0D,
    "ascq": 0x01,
}


def constructors() -> dict[str, object]:
    return {
        name: function
        for name, function in inspect.getmembers(sense, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == sense.__name__
    }


def test_every_constructor_has_a_row() -> None:
    assert set(constructors()) - {"parse_sense"} == set(CONDITIONS)


@pytest.mark.parametrize("name", CONDITIONS)
def test_condition_has_the_codes_of_the_standard_and_a_name(name: str) -> None:
    function = getattr(sense, name)
    needed = {
        parameter.name: ARGUMENTS[parameter.name]
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is inspect.Parameter.empty
    }
    value = function(**needed)
    assert (value.key, value.asc, value.ascq) == CONDITIONS[name]
    assert (value.asc, value.ascq) in NAMES
    assert parse_sense(value.fixed()).name == value.name
