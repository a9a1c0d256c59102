"""Aliases: CHANGE ALIASES lists and REPORT ALIASES data."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.alias import (
    Alias,
    AliasFormat,
    pack_change_aliases,
    pack_report_aliases,
    parse_change_aliases,
    parse_report_aliases,
)
from daiko.scsi.layout import MalformedData
from daiko.scsi.sense import CheckCondition, FieldPointer

values = st.integers(0, 2**64 - 1)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=55)
ports = st.integers(0, 0xFFFF)
host_names = st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z][a-z0-9-]{0,10}){1,3}", fullmatch=True)
hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    host_names,
)
aliases = st.one_of(
    st.builds(Alias, values, names, hosts, ports),
    st.builds(Alias, values, names),
    st.builds(Alias, values, st.just("")),
)


@given(st.lists(aliases, max_size=6))
def test_change_list_is_read_back(value: list[Alias]) -> None:
    assert parse_change_aliases(pack_change_aliases(value)) == tuple(value)


@given(st.lists(aliases, max_size=6))
def test_report_data_is_read_back(value: list[Alias]) -> None:
    data = pack_report_aliases(value)
    assert parse_report_aliases(data) == tuple(value)
    assert int.from_bytes(data[6:8], "big") == len(value)
    assert int.from_bytes(data[:4], "big") == len(data) - 4


@pytest.mark.parametrize(
    ("alias", "text"),
    [
        (Alias(7, ""), "0000000000000007 80 0000 00 0000 0000"),
        (Alias(7, "iqn.a:b"), "0000000000000007 05 0000 00 0000 0008 69716e2e613a6200"),
        (Alias(7, "iqn.a:bc"), "0000000000000007 05 0000 00 0000 000c 69716e2e613a626300000000"),
        (
            Alias(7, "iqn.a:b", "10.0.0.1", 3261),
            "0000000000000007 05 0000 01 0000 0014 69716e2e613a6200 0a000001 0000 0cbd 0000 0006",
        ),
        (
            Alias(7, "iqn.a:b", "h.x"),
            "0000000000000007 05 0000 02 0000 0014 69716e2e613a6200 682e7800 0000 0cbc 0000 0006",
        ),
        (
            Alias(7, "iqn.a:b", "::1"),
            "0000000000000007 05 0000 03 0000 0020 69716e2e613a6200"
            + "00" * 15
            + "01 0000 0cbc 0000 0006",
        ),
    ],
    ids=["delete", "name", "name padded by a word", "ipv4", "host", "ipv6"],
)
def test_entry_is_written_as_the_standard_says(alias: Alias, text: str) -> None:
    assert alias.pack() == bytes.fromhex(text)


def test_format_follows_from_the_host() -> None:
    assert Alias(1, "a").format == AliasFormat.NAME
    assert Alias(1, "a", "1.2.3.4").format == AliasFormat.NAME_IPV4
    assert Alias(1, "a", str(ipaddress.ip_address("fe80::1"))).format == AliasFormat.NAME_IPV6
    assert Alias(1, "a", "storage.example").format == AliasFormat.NAME_HOST


def test_list_without_entries_is_empty() -> None:
    assert parse_change_aliases(pack_change_aliases([])) == ()


def test_bytes_after_the_list_are_ignored() -> None:
    data = pack_change_aliases([Alias(7, "iqn.a:b")])
    assert parse_change_aliases(data + b"\xff" * 9) == (Alias(7, "iqn.a:b"),)


def change(entry: str) -> bytes:
    data = bytes.fromhex(entry)
    return (4 + len(data)).to_bytes(4, "big") + bytes(4) + data


VALUE = "0000000000000007"
NAME = "69716e2e613a6200"
PORTAL = "0000 0cbc 0000 0006"
REFUSED = {
    "no header": (bytes(7), (0x1A, 0), None),
    "shorter than it says": (bytes.fromhex("00000005 00000000"), (0x1A, 0), None),
    "header not in its length": (bytes.fromhex("00000003 00000000"), (0x1A, 0), None),
    "entry cut": (change(VALUE + "05 0000 00 0000 00"), (0x1A, 0), None),
    "designation cut": (change(VALUE + "05 0000 00 0000 000c" + NAME), (0x1A, 0), None),
    "other protocol": (change(VALUE + "06 0000 00 0000 0008" + NAME), (0x26, 0), 16),
    "other format": (change(VALUE + "05 0000 04 0000 0008" + NAME), (0x26, 0), 19),
    "deletion with a format": (change(VALUE + "80 0000 01 0000 0000"), (0x26, 0), 19),
    "deletion with a name": (change(VALUE + "80 0000 00 0000 0008" + NAME), (0x26, 0), 22),
    "length not in words": (change(VALUE + "05 0000 00 0000 0006" + NAME[:12]), (0x26, 0), 22),
    "no name": (change(VALUE + "05 0000 00 0000 0000"), (0x26, 0), 22),
    "empty name": (change(VALUE + "05 0000 00 0000 0004 00000000"), (0x26, 0), 24),
    "name without end": (change(VALUE + "05 0000 00 0000 0004 69716e2e"), (0x26, 0), 24),
    "name with a tail": (change(VALUE + "05 0000 00 0000 0008 61620063 64000000"), (0x26, 0), 24),
    "name padded too far": (
        change(VALUE + "05 0000 00 0000 0008 61000000 00000000"),
        (0x26, 0),
        24,
    ),
    "name not utf-8": (change(VALUE + "05 0000 00 0000 0004 ff610000"), (0x26, 0), 24),
    "name too long": (
        change(VALUE + "05 0000 00 0000 00e4" + "61" * 224 + "00000000"),
        (0x26, 0),
        24,
    ),
    "portal cut": (change(VALUE + "05 0000 01 0000 000c 00000000" + PORTAL), (0x26, 0), 22),
    "portal not tcp": (
        change(VALUE + "05 0000 01 0000 0014" + NAME + "0a000001 0000 0cbc 0000 0011"),
        (0x26, 0),
        42,
    ),
    "no host": (change(VALUE + "05 0000 02 0000 0010" + NAME + PORTAL), (0x26, 0), 32),
    "host not a name": (
        change(VALUE + "05 0000 02 0000 0014" + NAME + "ff612000" + PORTAL),
        (0x26, 0),
        32,
    ),
}


@pytest.mark.parametrize(("data", "codes", "byte"), REFUSED.values(), ids=REFUSED)
def test_bad_list_is_refused(data: bytes, codes: tuple[int, int], byte: int | None) -> None:
    with pytest.raises(CheckCondition) as caught:
        parse_change_aliases(data)
    sense = caught.value.sense
    assert ((sense.asc, sense.ascq)) == codes
    assert sense.field == (None if byte is None else FieldPointer(byte))


@pytest.mark.parametrize(("data", "codes", "byte"), REFUSED.values(), ids=REFUSED)
def test_bad_report_is_malformed(data: bytes, codes: tuple[int, int], byte: int | None) -> None:
    if data[:4] == bytes.fromhex("00000003"):
        assert parse_report_aliases(data) == ()
        return
    with pytest.raises(MalformedData):
        parse_report_aliases(data)


@pytest.mark.parametrize(
    "alias",
    [
        Alias(1 << 64, "a"),
        Alias(1, "a\0b"),
        Alias(1, "a" * 224),
        Alias(1, "a", "not a host"),
        Alias(1, "a", "h", 65536),
    ],
    ids=["value", "nul", "long", "host", "port"],
)
def test_alias_that_does_not_fit_is_not_packed(alias: Alias) -> None:
    with pytest.raises(ValueError, match=r"fit|name|port"):
        alias.pack()


def test_list_too_long_for_two_byte_lengths_is_still_counted() -> None:
    many = [Alias(number, "iqn.a:b") for number in range(3000)]
    assert parse_report_aliases(pack_report_aliases(many)) == tuple(many)
