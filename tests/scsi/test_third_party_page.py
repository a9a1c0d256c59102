"""Page 8Fh."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.layout import MalformedData
from daiko.scsi.third_party_page import (
    BlockRodLimits,
    GeneralOperations,
    ParameterData,
    ThirdPartyCopyPage,
)
from daiko.scsi.vpd import PageCode, pack_page

PAGE = ThirdPartyCopyPage(
    commands=((0x83, (0x00,)), (0x84, (0x00, 0x03, 0x04)), (0xA4, (0x0B,))),
    general=GeneralOperations(8, 8, 0x10000000, 9),
    parameter_data=ParameterData(4, 16, 1024),
    descriptor_types=(0x02, 0x07, 0xE4, 0xE6),
    cscd_ids=(0xFFFF,),
)
BYTES = bytes.fromhex(
    "00 8f 00 68"
    "0001 000c  0b 83 01 00  84 03 00 03 04  a4 01 0b"
    "0004 001c  00000000 0004 0010 00000400 00000000 000000000000000000000000"
    "0008 0008  04 02 07 e4 e6 00 00 00"
    "000c 0004  0002 ffff"
    "8001 0020  00000008 00000008 10000000 09 00 000000000000000000000000000000000000"
)

types = st.sets(st.integers(0, 255)).map(lambda codes: tuple(sorted(codes)))
words = st.integers(0, 2**32 - 1)
halves = st.integers(0, 0xFFFF)
octet = st.integers(0, 255)
pages = st.builds(
    ThirdPartyCopyPage,
    st.lists(st.tuples(octet, st.lists(octet, max_size=8).map(tuple)), max_size=8).map(tuple),
    st.one_of(st.none(), st.builds(GeneralOperations, words, words, words, octet, octet)),
    st.one_of(st.none(), st.builds(ParameterData, halves, halves, words, words)),
    st.one_of(st.none(), types),
    st.one_of(st.none(), st.sets(halves).map(lambda ids: tuple(sorted(ids)))),
    st.one_of(
        st.none(),
        st.builds(BlockRodLimits, halves, words, words, words, words),
    ),
    st.sampled_from([(), ((0x9101, bytes(12)), (0xC001, bytes(28)))]),
)


def test_page_is_written_as_the_standard_says() -> None:
    assert PAGE.pack() == BYTES
    assert ThirdPartyCopyPage.parse(BYTES) == PAGE


@given(pages)
def test_parse_of_pack_returns_the_page(value: ThirdPartyCopyPage) -> None:
    data = value.pack(peripheral=0x1F)
    assert data[0] == 0x1F
    assert ThirdPartyCopyPage.parse(data) == value


@given(pages)
def test_descriptors_are_ascending_and_in_words(value: ThirdPartyCopyPage) -> None:
    data, at, seen = value.pack(), 4, []
    while at < len(data):
        seen.append(int.from_bytes(data[at : at + 2], "big"))
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        assert length % 4 == 0
        at += 4 + length
    assert at == len(data)
    assert seen == sorted(seen)


def test_supports_looks_at_opcode_and_service_action() -> None:
    assert PAGE.supports(0x84, 0x03)
    assert not PAGE.supports(0x84, 0x05)
    assert not PAGE.supports(0x85, 0x00)


def test_page_cut_anywhere_is_malformed() -> None:
    data = PAGE.pack()
    for length in range(len(data)):
        with pytest.raises(MalformedData):
            ThirdPartyCopyPage.parse(data[:length])


@pytest.mark.parametrize(
    "body",
    [
        "0001 00",
        "0001 0008 00",
        "0001 0004 05 83 01 00",
        "0001 0004 03 83 02 00",
        "0001 0004 01 83 00 00",
        "0004 0004 00000000",
        "0008 0004 04 00 00 00",
        "000c 0004 0004 ffff",
        "000c 0004 0001 ffff",
        "8001 0004 00000000",
    ],
)
def test_descriptor_that_does_not_hold_what_it_says_is_malformed(body: str) -> None:
    with pytest.raises(MalformedData):
        ThirdPartyCopyPage.parse(pack_page(PageCode.THIRD_PARTY_COPY, bytes.fromhex(body)))
