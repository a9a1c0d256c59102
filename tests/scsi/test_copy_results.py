"""What RECEIVE COPY RESULTS returns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.copy_results import (
    BLOCKS,
    NO_FAILURE_DETAILS,
    CopyState,
    CopyStatus,
    FailureDetails,
    OperatingParameters,
)
from daiko.scsi.layout import MalformedData
from scsi.golden import golden

LIO = OperatingParameters(
    max_cscds=2,
    max_segments=1,
    max_list_bytes=1024,
    max_segment_bytes=256 << 20,
    total_concurrent=1,
    concurrent=1,
    data_granularity=9,
    inline_granularity=9,
    held_granularity=9,
)

halves = st.integers(0, 0xFFFF)
words = st.integers(0, 2**32 - 1)
octet = st.integers(0, 255)
parameters = st.builds(
    OperatingParameters,
    halves,
    halves,
    words,
    words,
    words,
    words,
    words,
    halves,
    octet,
    octet,
    octet,
    octet,
    st.booleans(),
    st.sets(octet, max_size=255).map(lambda codes: tuple(sorted(codes))),
)


def test_golden_operating_parameters_are_read_and_written() -> None:
    data = golden("operating_parameters_lio")
    assert OperatingParameters.parse(data) == LIO
    assert LIO.pack() == data
    assert OperatingParameters.parse(data + bytes(8)) == LIO


def test_types_are_told_apart() -> None:
    assert (LIO.segment_types, LIO.cscd_types) == ((0x02,), (0xE4,))


@given(parameters)
def test_parse_of_pack_returns_the_parameters(value: OperatingParameters) -> None:
    data = value.pack()
    assert OperatingParameters.parse(data) == value
    assert int.from_bytes(data[:4], "big") == len(data) - 4


def test_operating_parameters_cut_short_are_malformed() -> None:
    data = golden("operating_parameters_lio")
    for length in range(len(data)):
        with pytest.raises(MalformedData):
            OperatingParameters.parse(data[:length])


@given(
    st.builds(CopyStatus, st.integers(0, 127), halves, words, octet, st.booleans()),
)
def test_copy_status_is_read_back(value: CopyStatus) -> None:
    assert len(value.pack()) == 12
    assert CopyStatus.parse(value.pack()) == value


@given(st.integers(0, 2**80), st.integers(0, 2**20))
def test_status_of_bytes_says_them_as_exactly_as_it_can(transferred: int, segments: int) -> None:
    status = CopyStatus.of_bytes(CopyState.COMPLETED, segments, transferred)
    told = CopyStatus.parse(status.pack()).transferred
    assert told is not None
    assert told <= transferred < told + 1024**status.units
    assert status.units == 0 or transferred >> (10 * (status.units - 1)) > 0xFFFFFFFF


def test_copy_status_is_written_as_the_standard_says() -> None:
    value = CopyStatus(CopyState.COMPLETED_WITH_ERRORS, 3, 0x800, BLOCKS, held_discarded=True)
    assert value.pack() == bytes.fromhex("00000008 82 0003 f1 00000800")
    assert value.transferred is None


def test_copy_status_cut_short_is_malformed() -> None:
    with pytest.raises(MalformedData):
        CopyStatus.parse(bytes(11))


@given(st.builds(FailureDetails, octet, st.binary(max_size=252)))
def test_failure_details_are_read_back(value: FailureDetails) -> None:
    data = value.pack()
    assert FailureDetails.parse(data) == value
    assert int.from_bytes(data[:4], "big") == len(data) - 4


def test_failure_details_are_written_as_the_standard_says() -> None:
    data = FailureDetails(0x02, b"\x70\x00\x0a").pack()
    assert data == bytes.fromhex("0000003b") + bytes(52) + bytes.fromhex("02 00 0003 70000a")


def test_no_failure_details_are_none() -> None:
    assert FailureDetails.parse(NO_FAILURE_DETAILS) is None
    assert FailureDetails.parse(NO_FAILURE_DETAILS + bytes(60)) is None


@pytest.mark.parametrize("length", [0, 3, 4, 59, 60, 62])
def test_failure_details_cut_short_are_malformed(length: int) -> None:
    with pytest.raises(MalformedData):
        FailureDetails.parse(FailureDetails(0x02, b"\x70\x00\x0a").pack()[:length])
