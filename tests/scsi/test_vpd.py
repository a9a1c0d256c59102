"""VPD pages and designators."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.layout import MalformedData
from daiko.scsi.vpd import (
    Association,
    BlockDeviceCharacteristics,
    BlockLimits,
    Designator,
    DesignatorType,
    ExtendedInquiry,
    LogicalBlockProvisioning,
    PageCode,
    pack_designators,
    pack_device_identification,
    pack_page,
    pack_supported_vpd_pages,
    pack_unit_serial_number,
    page_length,
    parse_designators,
    parse_device_identification,
    parse_supported_vpd_pages,
    parse_unit_serial_number,
)
from scsi.golden import golden

NAA = bytes.fromhex("60014056c696f0000000000000100000")
FIXED = (ExtendedInquiry, BlockLimits, BlockDeviceCharacteristics, LogicalBlockProvisioning)

designators = st.builds(
    Designator,
    st.integers(0, 15),
    st.integers(0, 3),
    st.integers(0, 15),
    st.binary(max_size=255),
    st.integers(0, 15),
    st.booleans(),
)


@given(st.lists(designators, max_size=6))
def test_parse_of_packed_designators_returns_them(value: list[Designator]) -> None:
    assert parse_designators(pack_designators(value)) == tuple(value)
    assert parse_device_identification(pack_device_identification(value)) == tuple(value)


def test_golden_page_83h_is_read_and_written() -> None:
    data = golden("device_identification_lio")
    expected = (
        Designator.naa(NAA),
        Designator.relative_target_port(1),
        Designator.target_port_group(0),
        Designator.scsi_name("iqn.2026-11.net.daiko:a", Association.TARGET_DEVICE),
    )
    assert parse_device_identification(data) == expected
    assert pack_device_identification(expected) == data


@pytest.mark.parametrize("length", range(68))
def test_page_83h_cut_short_is_malformed(length: int) -> None:
    with pytest.raises(MalformedData):
        parse_device_identification(golden("device_identification_lio")[:length])


@pytest.mark.parametrize("data", ["010300", "01030004 010203", "01030000 0103"])
def test_designator_that_runs_past_the_end_is_malformed(data: str) -> None:
    with pytest.raises(MalformedData):
        parse_designators(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("designator", "data", "text"),
    [
        (Designator.naa(NAA), "01030010" + NAA.hex(), f"naa.{NAA.hex()}"),
        (
            Designator.naa(bytes.fromhex("5000000000000001")),
            "01030008 5000000000000001",
            "naa.5000000000000001",
        ),
        (Designator.eui_64(bytes(8)), "01020008 0000000000000000", "eui.0000000000000000"),
        (
            Designator.t10_vendor_id("DAIKO", "v:1"),
            "0201000b 4441494b4f202020 763a31",
            "DAIKO   v:1",
        ),
        (Designator.scsi_name("naa.6"), "03080008 6e61612e36000000", "naa.6"),
        (Designator.relative_target_port(2), "51940004 00000002", "00000002"),
    ],
)
def test_designator_is_written_as_the_standard_says(
    designator: Designator, data: str, text: str
) -> None:
    assert designator.pack() == bytes.fromhex(data)
    assert designator.text == text


def test_name_string_that_fills_its_words_still_ends_with_nul() -> None:
    assert Designator.scsi_name("naa.").data == b"naa.\0\0\0\0"


def test_designator_knows_what_it_names() -> None:
    assert Designator.naa(NAA).names_logical_unit
    assert Designator.naa(NAA).is_naa
    assert not Designator.relative_target_port(1).names_logical_unit
    assert Designator.eui_64(bytes(8)).type == DesignatorType.EUI_64


@pytest.mark.parametrize(
    "make",
    [
        lambda: Designator.naa(NAA[:8]),
        lambda: Designator.naa(b""),
        lambda: Designator.naa(b"\x50" + bytes(15)),
        lambda: Designator.eui_64(bytes(9)),
        lambda: Designator.t10_vendor_id("NINECHARS", ""),
        lambda: Designator(1, 0, 3, bytes(256)).pack(),
        lambda: Designator(16, 0, 3, bytes(8)).pack(),
    ],
    ids=["naa 6 short", "naa empty", "naa 5 long", "eui", "vendor", "long", "code set"],
)
def test_designator_that_does_not_fit_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"NAA|EUI|characters|fit"):
        make()


# --- frame


@given(st.binary(max_size=40), st.integers(0, 255))
def test_page_length_is_that_of_the_whole_page(body: bytes, peripheral: int) -> None:
    data = pack_page(0x80, body, peripheral=peripheral)
    assert page_length(data) == len(data) == 4 + len(body)
    assert page_length(data[:4]) == len(data)
    assert data[0] == peripheral


@pytest.mark.parametrize("page", FIXED, ids=lambda page: page.__name__)
def test_page_with_another_code_is_malformed(page: Any) -> None:
    with pytest.raises(MalformedData, match="VPD page 80h"):
        page.parse(pack_unit_serial_number("1"))


def test_page_length_of_nothing_is_malformed() -> None:
    with pytest.raises(MalformedData):
        page_length(b"\0\0\0")


# --- lists


@given(st.sets(st.integers(0, 255)))
def test_supported_pages_are_sorted_and_read_back(codes: set[int]) -> None:
    assert parse_supported_vpd_pages(pack_supported_vpd_pages(list(codes))) == tuple(sorted(codes))


def test_serial_number_is_read_without_padding() -> None:
    assert parse_unit_serial_number(pack_unit_serial_number("  a1 ")) == "a1"
    assert parse_unit_serial_number(pack_page(0x80, b"a\xff\0\0")) == "a\ufffd"
    assert pack_unit_serial_number("a1") == bytes.fromhex("00 80 0002 6131")


# --- fixed pages


@pytest.mark.parametrize("page", FIXED, ids=lambda page: page.__name__)
@given(data=st.data())
def test_fixed_page_is_read_back(page: Any, data: st.DataObject) -> None:
    layout = {item.name: item for item in page._LAYOUT.fields}
    names = [item.name for item in fields(page)]
    assert names == [name for name in layout if name != "page_code"]
    values = {
        name: data.draw(st.integers(0, (1 << layout[name].width) - 1), label=name) for name in names
    }
    value = page(**values)
    packed = value.pack(peripheral=0x1F)
    assert page.parse(packed) == value
    assert (packed[0], packed[1]) == (0x1F, page.CODE)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            BlockLimits(
                wsnz=1,
                max_compare_and_write=255,
                optimal_granularity=8,
                max_transfer=0x8000,
                optimal_transfer=0x800,
                max_unmap=0x10000,
                max_unmap_descriptors=255,
                unmap_granularity=8,
                unmap_alignment_valid=1,
                unmap_alignment=4,
                max_write_same=1 << 32,
            ),
            "00b0003c 01ff0008 00008000 00000800 00000000 00010000 000000ff 00000008 80000004"
            "00000001 00000000" + "00" * 20,
        ),
        (BlockDeviceCharacteristics(rotation_rate=1, fuab=1), "00b1003c 0001 0000 02" + "00" * 55),
        (
            LogicalBlockProvisioning(lbpu=1, lbpws=1, lbprz=1, provisioning_type=2),
            "00b20004 00c40200",
        ),
        (
            ExtendedInquiry(headsup=1, ordsup=1, simpsup=1, v_sup=1, maximum_sense_length=252),
            "0086003c 00 07 01 00 00 00 00 00 00 fc" + "00" * 50,
        ),
    ],
    ids=["B0h", "B1h", "B2h", "86h"],
)
def test_fixed_page_is_written_as_the_standard_says(value: Any, text: str) -> None:
    assert value.pack() == bytes.fromhex(text)


def test_page_of_an_older_shorter_form_reads_as_zeros() -> None:
    old = pack_page(PageCode.BLOCK_LIMITS, bytes.fromhex("0000 0008 00001000 00000100"))
    read = BlockLimits.parse(old)
    assert (read.optimal_granularity, read.max_transfer, read.max_unmap) == (8, 0x1000, 0)


def test_page_longer_than_known_is_read() -> None:
    page = BlockLimits(max_transfer=5).pack()
    longer = pack_page(PageCode.BLOCK_LIMITS, page[4:] + b"\xff" * 8)
    assert BlockLimits.parse(longer) == BlockLimits(max_transfer=5)


@pytest.mark.parametrize("page", FIXED, ids=lambda page: page.__name__)
def test_fixed_page_cut_short_is_malformed(page: Any) -> None:
    data = page().pack()
    for length in range(len(data)):
        with pytest.raises(MalformedData):
            page.parse(data[:length])
