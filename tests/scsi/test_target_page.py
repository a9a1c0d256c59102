"""VPD pages 85h, 87h and 88h: both ways, golden bytes, hostile bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.layout import MalformedData
from daiko.scsi.target_page import (
    pack_management_addresses,
    pack_mode_page_policy,
    pack_scsi_ports,
    parse_management_addresses,
    parse_mode_page_policy,
    parse_scsi_ports,
)
from daiko.scsi.vpd import Association, Designator, pack_page

urls = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 31), urls), max_size=5))
def test_parse_of_pack_returns_the_addresses(value: list[tuple[int, int, str]]) -> None:
    data = pack_management_addresses(value)
    assert parse_management_addresses(data) == tuple(value)
    assert len(data) % 4 == 0


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 255), st.integers(0, 3)), max_size=6))
def test_parse_of_pack_returns_the_policies(value: list[tuple[int, int, int]]) -> None:
    assert parse_mode_page_policy(pack_mode_page_policy(value)) == tuple(value)


@given(st.lists(st.tuples(st.integers(1, 0xFFFF), st.lists(urls, max_size=3)), max_size=4))
def test_parse_of_pack_returns_the_ports(value: list[tuple[int, list[str]]]) -> None:
    ports = [
        (port, [Designator.scsi_name(name, Association.TARGET_PORT) for name in names])
        for port, names in value
    ]
    expected = tuple((port, tuple(names)) for port, names in ports)
    assert parse_scsi_ports(pack_scsi_ports(ports)) == expected


def test_golden_pages() -> None:
    assert pack_management_addresses([(2, 1, "http://a")]).hex(" ", 4) == (
        "00850010 4100000c 68747470 3a2f2f61 00000000"
    )
    assert pack_mode_page_policy([(0x0A, 1, 0), (0x1C, 0, 3)]).hex(" ", 4) == (
        "00870008 0a010000 1c000300"
    )
    name = Designator.scsi_name("iqn.x:y,t,0x0001", Association.TARGET_PORT)
    assert pack_scsi_ports([(1, [name])]).hex(" ", 4) == (
        "00880024 00000001 00000000 00000018 53980014 69716e2e 783a792c 742c3078 30303031 00000000"
    )


@pytest.mark.parametrize(
    ("code", "parse", "body"),
    [
        (0x85, parse_management_addresses, "41000010 68747470"),
        (0x85, parse_management_addresses, "4100"),
        (0x85, parse_management_addresses, "41000004 c3a90000"),
        (0x87, parse_mode_page_policy, "0a01"),
        (0x88, parse_scsi_ports, "00000001 00000000 00000018 53980014"),
        (0x88, parse_scsi_ports, "00000001"),
        (0x88, parse_scsi_ports, "00000001 000000ff 00000000"),
    ],
)
def test_descriptor_cut_short_is_malformed(code: int, parse, body: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MalformedData):
        parse(pack_page(code, bytes.fromhex(body)))


@pytest.mark.parametrize(
    ("code", "parse"),
    [
        (0x85, parse_management_addresses),
        (0x87, parse_mode_page_policy),
        (0x88, parse_scsi_ports),
    ],
)
@given(body=st.binary(max_size=60))
def test_whatever_bytes_come_they_are_read_or_malformed(code: int, parse, body: bytes) -> None:  # type: ignore[no-untyped-def]
    try:
        found = parse(pack_page(code, body))
    except MalformedData:
        return
    assert isinstance(found, tuple)
