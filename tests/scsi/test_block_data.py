"""Parameter data of READ CAPACITY, UNMAP and GET LBA STATUS."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.block_data import (
    Capacity,
    LbaRange,
    LbaStatus,
    pack_capacity_10,
    pack_lba_status,
    pack_unmap,
    parse_capacity_10,
    parse_lba_status,
    parse_unmap,
)
from daiko.scsi.layout import MalformedData
from daiko.scsi.sense import CheckCondition, FieldPointer

words = st.integers(0, 2**32 - 1)
lbas = st.integers(0, 2**64 - 1)


@given(st.integers(1, 2**32 - 1), words)
def test_capacity_10_is_read_back(blocks: int, block_size: int) -> None:
    assert parse_capacity_10(pack_capacity_10(blocks, block_size)) == (blocks, block_size)


@pytest.mark.parametrize("blocks", [2**32, 2**32 + 1, 2**40])
def test_capacity_10_of_a_large_unit_sends_to_capacity_16(blocks: int) -> None:
    assert pack_capacity_10(blocks, 512) == bytes.fromhex("ffffffff 00000200")
    assert parse_capacity_10(pack_capacity_10(blocks, 512)) is None


@given(
    st.builds(
        Capacity,
        st.integers(1, 2**64),
        words,
        st.integers(0, 15),
        st.booleans(),
        st.booleans(),
        st.integers(0, 2**14 - 1),
        st.booleans(),
    )
)
def test_capacity_16_is_read_back(value: Capacity) -> None:
    assert len(value.pack()) == 32
    assert Capacity.parse(value.pack()) == value
    short = Capacity.parse(value.pack()[:12])
    assert (short.blocks, short.block_size) == (value.blocks, value.block_size)


def test_capacity_16_is_written_as_the_standard_says() -> None:
    data = Capacity(2048, 512, 3, lbpme=True, lbprz=True, lowest_aligned_lba=1).pack()
    assert data.hex(" ", 4).startswith("00000000 000007ff 00000200 0003c001")


@pytest.mark.parametrize(("parser", "length"), [(Capacity.parse, 11), (parse_capacity_10, 7)])
def test_capacity_cut_short_is_malformed(parser: object, length: int) -> None:
    with pytest.raises(MalformedData):
        parser(bytes(length))  # type: ignore[operator]


ranges = st.lists(st.builds(LbaRange, lbas, words), max_size=10)


@given(ranges)
def test_unmap_list_is_read_back(value: list[LbaRange]) -> None:
    assert parse_unmap(pack_unmap(value), 10) == tuple(value)


def test_unmap_list_is_written_as_the_standard_says() -> None:
    data = pack_unmap([LbaRange(0x1000, 8)])
    assert data.hex(" ", 4) == "00160010 00000000 00000000 00001000 00000008 00000000"


@given(ranges.filter(bool), st.integers(1, 15))
def test_last_range_that_is_cut_is_ignored(value: list[LbaRange], cut: int) -> None:
    data = bytearray(pack_unmap(value))
    data[2:4] = (16 * len(value) - cut).to_bytes(2, "big")
    assert parse_unmap(data, 10) == tuple(value[:-1])


@pytest.mark.parametrize(
    ("data", "codes", "field"),
    [
        (bytes(7), (0x1A, 0x00), None),
        (pack_unmap([LbaRange(0, 1)])[:23], (0x1A, 0x00), None),
        (pack_unmap([LbaRange(0, 1)] * 3), (0x26, 0x00), FieldPointer(2)),
    ],
    ids=["header cut", "list cut", "too many"],
)
def test_bad_unmap_list_is_refused(
    data: bytes, codes: tuple[int, int], field: FieldPointer | None
) -> None:
    with pytest.raises(CheckCondition) as caught:
        parse_unmap(data, 2)
    sense = caught.value.sense
    assert ((sense.asc, sense.ascq), sense.field) == (codes, field)


statuses = st.lists(st.builds(LbaStatus, lbas, words, st.integers(0, 15)), max_size=10)


@given(statuses, st.integers(0, 200))
def test_lba_status_cut_or_not_gives_the_whole_descriptors(
    value: list[LbaStatus], length: int
) -> None:
    data = pack_lba_status(value)
    assert parse_lba_status(data) == tuple(value)
    if length >= 8:
        assert parse_lba_status(data[:length]) == tuple(value[: (length - 8) // 16])


def test_lba_status_is_written_as_the_standard_says() -> None:
    data = pack_lba_status([LbaStatus(0x10, 8, 1)])
    assert data.hex(" ", 4) == "00000014 00000000 00000000 00000010 00000008 01000000"


def test_lba_status_without_header_is_malformed() -> None:
    with pytest.raises(MalformedData):
        parse_lba_status(bytes(7))
