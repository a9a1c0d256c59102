"""Sense data: both formats both ways, golden bytes, hostile bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi import sense
from daiko.scsi.layout import MalformedData
from daiko.scsi.sense_data import (
    CheckCondition,
    FieldPointer,
    ForwardedSense,
    Sense,
    SenseKey,
    parse_sense,
)
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
waiting = st.builds(
    Sense,
    st.sampled_from([SenseKey.NO_SENSE, SenseKey.NOT_READY]),
    codes,
    codes,
    progress=st.one_of(st.none(), words),
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


@given(st.one_of(plain(0xFFFFFFFF), illegal, waiting, aborted))
def test_parse_of_fixed_returns_the_sense(value: Sense) -> None:
    data = value.fixed()
    assert parse_sense(data) == value
    assert len(data) == 8 + data[7]
    assert parse_sense(data + b"\xff\xff") == value


@given(st.one_of(plain(2**64 - 1), illegal, waiting, aborted))
def test_parse_of_descriptor_returns_the_sense(value: Sense) -> None:
    data = value.descriptor()
    assert parse_sense(data) == value
    assert len(data) == 8 + data[7]
    assert parse_sense(data + b"\x00\x0a\x80\x00" + bytes(8)) == value


def test_progress_stands_in_the_bytes_specific_to_the_sense_key() -> None:
    half = Sense(SenseKey.NOT_READY, 0x04, 0x1B, progress=0x8000)
    assert half.fixed() == bytes.fromhex("7000 0200000000 0a 00000000 041b00 808000")
    assert half.descriptor() == bytes.fromhex("7202041b00000008 0206000080800000")


@given(st.one_of(plain(0xFFFFFFFF), illegal, waiting, aborted), st.booleans())
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


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (sense.lba_out_of_range(7), "ILLEGAL REQUEST, LOGICAL BLOCK ADDRESS OUT OF RANGE (21/00)"),
        (sense.third_party_error(3), "(0D/00), segment 3"),
        (Sense(0x10, 0x00, 0x00), "KEY 10h, NO ADDITIONAL SENSE INFORMATION (00/00)"),
    ],
    ids=["plain", "segment", "unknown key"],
)
def test_sense_is_shown_for_people(value: Sense, text: str) -> None:
    assert text in str(value)


def test_descriptors_that_do_not_fit_are_left_out_whole() -> None:
    long = ForwardedSense(2, bytes(200))
    value = Sense(0xA, 0x0D, 0x01, 7, segment=1, source=long, destination=long)
    read = parse_sense(value.descriptor())
    assert (read.information, read.segment, read.source) == (7, 1, long)
    assert read.destination is None


@pytest.mark.parametrize(
    "descriptor",
    [
        "0c 01 81",
        "00 09 80 00 00000000000000",
        "02 04 00 00 c0 00",
        "01 02 00 00",
        "0c 04 83 02 7000",
    ],
    ids=["forwarded cut", "information cut", "pointer cut", "segment cut", "side unknown"],
)
def test_descriptor_that_does_not_fit_is_passed_over(descriptor: str) -> None:
    body = bytes.fromhex(descriptor) + sense.third_party_error(4).descriptor()[8:]
    read = parse_sense(bytes((0x72, 0x0A, 0x0D, 0x00, 0, 0, 0, len(body))) + body)
    assert read == sense.third_party_error(4)


def test_command_specific_information_above_32_bits_is_left_out_of_the_fixed_format() -> None:
    value = Sense(0x0, 0x00, 0x00, command_specific=1 << 32)
    assert parse_sense(value.fixed()) == Sense(0x0, 0x00, 0x00)


# ---------------------------------------------------------------------- progress, length


@pytest.mark.parametrize(
    ("data", "descriptor_format"),
    [
        ("70 00 02 00000000 0a 00000000 04 09 00 80 40 00", False),
        ("72 02 04 09 00 00 00 08 02 06 00 00 80 40 00 00", True),
    ],
    ids=["fixed", "descriptor"],
)
def test_golden_progress_indication(data: str, descriptor_format: bool) -> None:
    value = sense.self_test_in_progress(0x4000)
    assert value.pack(descriptor_format=descriptor_format) == bytes.fromhex(data)
    assert parse_sense(bytes.fromhex(data)) == value


def test_progress_never_says_that_all_is_done() -> None:
    assert parse_sense(sense.self_test_in_progress(1 << 16).fixed()).progress == 0xFFFF


@given(
    st.one_of(plain(0xFFFFFFFF), illegal, waiting, aborted),
    st.booleans(),
    st.integers(8, 252),
)
def test_limit_cuts_sense_data_and_says_so(
    value: Sense, descriptor_format: bool, limit: int
) -> None:
    whole = value.pack(descriptor_format=descriptor_format)
    cut = value.pack(descriptor_format=descriptor_format, limit=limit)
    assert len(cut) == min(limit, len(whole))
    overflow = cut[4] & 0x80 if descriptor_format else cut[2] & 0x10
    assert bool(overflow) is (len(whole) > limit)
    assert cut[7] == whole[7], "the additional sense length stays"
    assert cut[8:] == whole[8:limit]
