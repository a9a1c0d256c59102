"""Mode parameters: what MODE SENSE answers and MODE SELECT takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.layout import Layout, MalformedData
from daiko.scsi.mode_page import (
    DPOFUA,
    WRITE_PROTECTED,
    CachingPage,
    ControlPage,
    InformationalExceptionsPage,
    first_unchangeable,
    pack_block_descriptor,
    pack_mode_parameters,
    parse_mode_select,
    parse_mode_sense,
)
from daiko.scsi.sense import CheckCondition, FieldPointer

PAGES = (CachingPage, ControlPage, InformationalExceptionsPage)
SUBPAGE = bytes.fromhex("4a 01 00 04 01020304")


@pytest.mark.parametrize("layout", PAGES, ids=lambda layout: layout.name)
def test_page_says_its_code_and_its_length(layout: Layout) -> None:
    data = layout.pack()
    assert data[1] == len(data) - 2
    assert data[2:] == bytes(len(data) - 2)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (CachingPage.pack(wce=1), "08 12 04 " + "00 " * 17),
        (
            CachingPage.pack(rcd=1, dra=1, cache_segments=20),
            "08 12 01 " + "00 " * 9 + "20 14 " + "00 " * 6,
        ),
        (ControlPage.pack(d_sense=1, tas=1, swp=1), "0a 0a 04 00 08 40 00 00 00 00 00 00"),
        (
            ControlPage.pack(queue_algorithm_modifier=1, busy_timeout=0xFFFF),
            "0a 0a 00 10 00 00 00 00 ff ff 00 00",
        ),
        (InformationalExceptionsPage.pack(dexcpt=1, mrie=6), "1c 0a 08 06 " + "00 " * 8),
    ],
)
def test_page_is_written_as_the_standard_says(data: bytes, text: str) -> None:
    assert data == bytes.fromhex(text)


def test_mode_sense_6_is_written_as_the_standard_says() -> None:
    data = pack_mode_parameters(
        [ControlPage.pack()],
        ten=False,
        device_specific=WRITE_PROTECTED | DPOFUA,
        block_descriptor=pack_block_descriptor(2048, 512),
    )
    assert data == bytes.fromhex("17 00 90 08 00000800 00 000200 0a0a" + "00" * 10)


def test_mode_sense_10_with_long_descriptor_sets_longlba() -> None:
    descriptor = pack_block_descriptor(1 << 40, 4096, long_lba=True)
    data = pack_mode_parameters([], ten=True, block_descriptor=descriptor)
    assert data == bytes.fromhex("0016 00 00 01 00 0010 0000010000000000 00000000 00001000")


def test_short_descriptor_of_a_large_unit_says_all_ones() -> None:
    assert pack_block_descriptor(1 << 32, 512) == bytes.fromhex("ffffffff 00 000200")


pages = st.lists(
    st.sampled_from([CachingPage.pack(wce=1), ControlPage.pack(), SUBPAGE]), max_size=4
)
descriptors = st.sampled_from(
    [b"", pack_block_descriptor(100, 512), pack_block_descriptor(1 << 33, 512, long_lba=True)]
)


@given(pages, descriptors, st.booleans(), st.integers(0, 255))
def test_mode_sense_is_read_back(
    value: list[bytes], descriptor: bytes, ten: bool, device_specific: int
) -> None:
    if len(descriptor) == 16 and not ten:
        descriptor = descriptor[:8]
    data = pack_mode_parameters(
        value, ten=ten, device_specific=device_specific, block_descriptor=descriptor
    )
    read = parse_mode_sense(data + b"\xff\xff", ten=ten)
    assert [page.data for page in read.pages] == value
    assert read.block_descriptor == descriptor
    assert read.device_specific == device_specific
    assert read.write_protected == bool(device_specific & 0x80)
    assert (read.blocks_and_size is None) == (not descriptor)
    assert parse_mode_select(data, ten=ten) == read
    for page in read.pages:
        assert data[page.offset :].startswith(page.data)


def test_mode_sense_cut_in_a_page_gives_the_pages_before() -> None:
    data = pack_mode_parameters([CachingPage.pack(), ControlPage.pack()], ten=False)
    assert [page.code for page in parse_mode_sense(data[:-1], ten=False).pages] == [0x08]
    assert parse_mode_sense(data, ten=False).page(0x0A) is not None
    assert parse_mode_sense(data, ten=False).page(0x1C) is None


def test_pages_are_found_by_subpage() -> None:
    read = parse_mode_sense(pack_mode_parameters([SUBPAGE], ten=True), ten=True)
    found = read.page(0x0A, 1)
    assert found is not None
    assert (found.data, found.offset) == (SUBPAGE, 8)
    assert read.page(0x0A) is None


@pytest.mark.parametrize(
    ("data", "ten"),
    [(bytes(3), False), (bytes(7), True), (bytes.fromhex("0b000008 00000000"), False)],
    ids=["header", "header 10", "descriptor"],
)
def test_mode_sense_without_its_beginning_is_malformed(data: bytes, ten: bool) -> None:
    with pytest.raises(MalformedData):
        parse_mode_sense(data, ten=ten)


REFUSED = {
    "no header": (bytes(3), False, (0x1A, 0x00), None),
    "no header 10": (bytes(7), True, (0x1A, 0x00), None),
    "descriptor of 7": (bytes.fromhex("00000007") + bytes(7), False, (0x26, 0), FieldPointer(3)),
    "long one in 6": (bytes.fromhex("00000010") + bytes(16), False, (0x26, 0), FieldPointer(3)),
    "long one unsaid": (
        bytes.fromhex("0000000000000010") + bytes(16),
        True,
        (0x26, 0),
        FieldPointer(6),
    ),
    "descriptor cut": (bytes.fromhex("00000008") + bytes(7), False, (0x1A, 0x00), None),
    "page cut": (bytes(4) + CachingPage.pack()[:-1], False, (0x1A, 0x00), None),
    "page head cut": (bytes(4) + b"\x08", False, (0x1A, 0x00), None),
    "subpage head cut": (bytes(4) + SUBPAGE[:3], False, (0x1A, 0x00), None),
}


@pytest.mark.parametrize(("data", "ten", "codes", "field"), REFUSED.values(), ids=REFUSED)
def test_bad_mode_select_is_refused(
    data: bytes, ten: bool, codes: tuple[int, int], field: FieldPointer | None
) -> None:
    with pytest.raises(CheckCondition) as caught:
        parse_mode_select(data, ten=ten)
    sense = caught.value.sense
    assert ((sense.asc, sense.ascq), sense.field) == (codes, field)


def test_change_of_what_may_change_is_allowed() -> None:
    current, changeable = CachingPage.pack(), CachingPage.pack(wce=1)
    assert first_unchangeable(CachingPage.pack(wce=1), current, changeable) is None
    assert first_unchangeable(CachingPage.pack(wce=1, ps=1), current, changeable) is None


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (CachingPage.pack(rcd=1), (2, 0)),
        (CachingPage.pack(wce=1, mf=1), (2, 1)),
        (CachingPage.pack(maximum_prefetch=0x100), (8, 0)),
    ],
)
def test_change_of_what_may_not_change_is_pointed_at(new: bytes, expected: tuple[int, int]) -> None:
    assert first_unchangeable(new, CachingPage.pack(), CachingPage.pack(wce=1)) == expected
