"""Sense data: both formats both ways, golden bytes, and every named condition."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi import sense
from daiko.scsi.layout import MalformedData
from daiko.scsi.sense import (
    CheckCondition,
    FieldPointer,
    ForwardedSense,
    Sense,
    SenseKey,
    parse_sense,
)
from daiko.scsi.sense_code import NAMES
from scsi.golden import golden

codes = st.integers(0, 255)
bits = st.one_of(st.none(), st.integers(0, 7))
words = st.integers(0, 0xFFFF)
forwarded = st.one_of(
    st.none(), st.builds(ForwardedSense, codes, st.binary(max_size=40), st.just(False))
)


def plain(limit: int) -> st.SearchStrategy[Sense]:
    number = st.one_of(st.none(), st.integers(1, limit))
    return st.builds(
        Sense,
        st.sampled_from([key for key in SenseKey if key not in (0x5, 0xA)]),
        codes,
        codes,
        number,
        number,
        deferred=st.booleans(),
    )


illegal = st.builds(
    Sense,
    st.just(SenseKey.ILLEGAL_REQUEST),
    codes,
    codes,
    field=st.one_of(st.none(), st.builds(FieldPointer, words, bits, st.booleans())),
)
aborted = st.builds(
    Sense,
    st.just(SenseKey.COPY_ABORTED),
    codes,
    codes,
    st.one_of(st.none(), st.integers(0, 0xFFFFFFFF)),
    segment=words,
    field=st.one_of(st.none(), st.builds(FieldPointer, words, bits, st.just(False), st.booleans())),
    source=forwarded,
    destination=forwarded,
)


@given(st.one_of(plain(0xFFFFFFFF), illegal, aborted))
def test_parse_of_fixed_returns_the_sense(value: Sense) -> None:
    data = value.fixed()
    assert parse_sense(data) == value
    assert len(data) == 8 + data[7]
    assert parse_sense(data + b"\xff\xff") == value


@given(st.one_of(plain(2**64 - 1), illegal, aborted))
def test_parse_of_descriptor_returns_the_sense(value: Sense) -> None:
    data = value.descriptor()
    assert parse_sense(data) == value
    assert len(data) == 8 + data[7]
    assert parse_sense(data + b"\x00\x0a\x80\x00" + bytes(8)) == value


@given(st.one_of(plain(0xFFFFFFFF), illegal, aborted), st.booleans())
def test_pack_takes_the_format_asked_for(value: Sense, descriptor_format: bool) -> None:
    data = value.pack(descriptor_format=descriptor_format)
    assert data[0] & 0x7F == (0x72 if descriptor_format else 0x70) + value.deferred


def test_golden_write_failure_of_a_copy_is_read_and_written() -> None:
    data = golden("sense_copy_aborted_write_failure")
    medium_error = bytes.fromhex("70000300000000 0a 00000000 0c00 00000000")
    value = sense.third_party_device_failure(
        3, cscd_byte=48, destination=ForwardedSense(0x02, medium_error)
    )
    assert value.fixed() == data
    assert parse_sense(data) == value
    assert parse_sense(parse_sense(data).destination.sense) == Sense(SenseKey.MEDIUM_ERROR, 0x0C, 0)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("SCST", "72 0a 0d 01 00 00 00 0c 01 0a 00 00 00 00 00 05 00 00 00 00"),
        ("FreeBSD", "72 0a 0d 01 00 00 00 0c 01 0a 00 00 00 00 00 00 00 00 00 05"),
    ],
    ids=["bytes 6-7", "bytes 10-11"],
)
def test_segment_number_is_found_where_each_copy_manager_puts_it(name: str, data: str) -> None:
    assert parse_sense(bytes.fromhex(data)).segment == 5


def test_refusal_of_lio_without_details_is_read() -> None:
    data = bytes.fromhex("70 00 0a 00 00 00 00 0a 00 00 00 00 0d 02 00 00 00 00").ljust(96, b"\0")
    value = parse_sense(data)
    assert (value.key, value.asc, value.ascq) == (SenseKey.COPY_ABORTED, 0x0D, 0x02)
    assert (value.segment, value.field, value.source, value.destination) == (0, None, None, None)


@pytest.mark.parametrize("value", [sense.miscompare(1 << 32), sense.lba_out_of_range(1 << 40)])
def test_information_above_32_bits_is_left_out_of_the_fixed_format(value: Sense) -> None:
    assert value.fixed()[0] == 0x70
    assert parse_sense(value.fixed()).information is None
    assert parse_sense(value.descriptor()).information == value.information


def test_long_forwarded_sense_is_cut_to_what_fits() -> None:
    long = ForwardedSense(2, bytes(range(250)))
    value = sense.third_party_device_failure(1, source=long, destination=long)
    assert len(value.fixed()) == 252
    assert parse_sense(value.fixed()).source == ForwardedSense(2, bytes(range(233)))
    in_descriptors = parse_sense(value.descriptor())
    assert in_descriptors.source == ForwardedSense(2, bytes(range(200)), truncated=True)
    assert len(value.descriptor()) <= 252 + 11


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_called_malformed(data: bytes) -> None:
    try:
        value = parse_sense(data)
    except MalformedData:
        assert len(data) < 8 or data[0] & 0x7F not in (0x70, 0x71, 0x72, 0x73)
    else:
        assert parse_sense(value.descriptor()).asc == value.asc
        assert value.name
        assert str(value)


@pytest.mark.parametrize("data", [b"", b"\x70", bytes(8), b"\x70" + bytes(6), b"\x7f" + bytes(30)])
def test_bytes_that_are_no_sense_data_are_called_malformed(data: bytes) -> None:
    with pytest.raises(MalformedData):
        parse_sense(data)


def test_sense_cut_before_the_additional_code_reads_as_zeros() -> None:
    assert parse_sense(sense.invalid_opcode().fixed()[:8]) == Sense(SenseKey.ILLEGAL_REQUEST, 0, 0)


def test_pointer_of_the_cdb_has_its_bits() -> None:
    data = sense.invalid_field_in_cdb(1, 5).fixed()
    assert data == bytes.fromhex("70 00 05 00000000 0a 00000000 24 00 00 cd 00 01")


def test_pointer_into_a_segment_has_the_sd_bit() -> None:
    data = sense.copy_segment_lba_out_of_range(2, byte=12).fixed()
    assert data[10:18] == bytes.fromhex("0002 2100 00 a0 000c")


def test_check_condition_says_what_it_is() -> None:
    error = CheckCondition(sense.invalid_field_in_parameter_list(9))
    assert str(error) == (
        "ILLEGAL REQUEST, INVALID FIELD IN PARAMETER LIST (26/00), byte 9 of the parameter list"
    )


def test_unknown_code_is_shown_in_hexadecimal() -> None:
    assert Sense(0x9, 0xAB, 0xCD).name == "ASC ABh ASCQ CDh"


CONDITIONS = {
    "no_sense": (0x0, 0x00, 0x00),
    "not_ready_manual_intervention": (0x2, 0x04, 0x03),
    "not_ready_becoming_ready": (0x2, 0x04, 0x01),
    "not_ready_initializing_command_required": (0x2, 0x04, 0x02),
    "unreachable": (0x2, 0x08, 0x00),
    "medium_not_present": (0x2, 0x3A, 0x00),
    "unrecovered_read_error": (0x3, 0x11, 0x00),
    "write_error": (0x3, 0x0C, 0x00),
    "medium_error": (0x3, 0x11, 0x00),
    "deferred_write_error": (0x3, 0x0C, 0x00),
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
    "power_on_occurred": (0x6, 0x29, 0x01),
    "power_on_reset_or_bus_device_reset": (0x6, 0x29, 0x00),
    "bus_device_reset_occurred": (0x6, 0x29, 0x03),
    "nexus_loss_occurred": (0x6, 0x29, 0x07),
    "mode_parameters_changed": (0x6, 0x2A, 0x01),
    "capacity_data_changed": (0x6, 0x2A, 0x09),
    "commands_cleared_by_another_initiator": (0x6, 0x2F, 0x00),
    "inquiry_data_changed": (0x6, 0x3F, 0x03),
    "reported_luns_data_changed": (0x6, 0x3F, 0x0E),
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
