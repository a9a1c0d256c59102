"""TransportIDs of iSCSI: golden bytes, round trips, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.layout import MalformedData
from daiko.scsi.transport_id import (
    LONGEST,
    TransportId,
    pack_transport_ids,
    parse_transport_id,
    parse_transport_ids,
)

NAME = "iqn.1993-08.org.debian:01:e5a4"
GOLDEN_DEVICE = bytes.fromhex(
    "0500 0020 69716e2e 31393933 2d30382e 6f72672e 64656269 616e3a30 313a6535 61340000"
)
GOLDEN_PORT = bytes.fromhex(
    "4500 0030 69716e2e 31393933 2d30382e 6f72672e 64656269 616e3a30 313a6535 6134"
    "2c692c3078 303032336430303030303031 00"
)

letters = st.sampled_from("abcxyz019.-:")
names = st.text(letters, min_size=1, max_size=223)
transport_ids = st.builds(TransportId, names, st.none() | st.binary(min_size=6, max_size=6))


def test_device_is_packed_as_in_table_505() -> None:
    assert TransportId(NAME).pack() == GOLDEN_DEVICE
    assert parse_transport_id(GOLDEN_DEVICE) == (TransportId(NAME), len(GOLDEN_DEVICE))


def test_port_is_packed_as_in_table_506() -> None:
    port = TransportId(NAME, bytes.fromhex("0023d0000001"))
    assert port.pack() == GOLDEN_PORT
    assert parse_transport_id(GOLDEN_PORT) == (port, len(GOLDEN_PORT))


def test_short_name_is_padded_to_24_bytes() -> None:
    assert len(TransportId("iqn.a").pack()) == 24


def test_longest_name_fits() -> None:
    assert len(TransportId("a" * 223, bytes(6)).pack()) == LONGEST


def test_name_is_compared_in_lower_case_and_isid_with_fewer_digits_is_read() -> None:
    text = b"iqn.X,i,0xAB"
    data = bytes([0x45, 0, 0, 20]) + text.ljust(20, b"\0")
    assert parse_transport_id(data)[0] == TransportId("iqn.x", bytes.fromhex("0000000000ab"))


def test_null_ends_the_name_whatever_follows() -> None:
    data = bytes([0x05, 0, 0, 20]) + b"iqn.x\0,i,0x1".ljust(20, b"z")
    assert parse_transport_id(data)[0] == TransportId("iqn.x")


@given(st.lists(transport_ids, max_size=5))
def test_list_round_trips(ids: list[TransportId]) -> None:
    data = pack_transport_ids(ids)
    assert len(data) % 4 == 0
    assert parse_transport_ids(b"??" + data + b"rest", 2, len(data)) == tuple(ids)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(GOLDEN_DEVICE[:20], id="less than 24 bytes"),
        pytest.param(GOLDEN_PORT[:-4], id="cut short"),
        pytest.param(b"\x06" + GOLDEN_DEVICE[1:], id="another protocol"),
        pytest.param(b"\x85" + GOLDEN_DEVICE[1:], id="reserved format code"),
        pytest.param(bytes([5, 0, 0, 16]) + bytes(20), id="additional length below 20"),
        pytest.param(bytes([5, 0, 0, 21]) + b"iqn".ljust(21), id="length no multiple of 4"),
        pytest.param(bytes([5, 0, 0, 20]) + bytes(20), id="no name"),
        pytest.param(bytes([5, 0, 0, 20]) + b"\xff" * 20, id="name not UTF-8"),
        pytest.param(bytes([0x45, 0, 0, 20]) + b"iqn.x".ljust(20, b"\0"), id="port without ISID"),
        pytest.param(bytes([5, 0, 0, 20]) + b"iqn.x,i,0x1".ljust(20, b"\0"), id="device with ISID"),
        pytest.param(bytes([0x45, 0, 0, 20]) + b"iqn.x,i,0xg".ljust(20, b"\0"), id="no digits"),
    ],
)
def test_what_names_nothing_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedData):
        parse_transport_id(data)


@pytest.mark.parametrize(
    "wrong",
    [
        TransportId(""),
        TransportId("a" * 224),
        TransportId("a,i,0x1"),
        TransportId("a\0b"),
        TransportId("a", b"12345"),
    ],
)
def test_name_that_cannot_be_written_is_not_packed(wrong: TransportId) -> None:
    with pytest.raises(ValueError, match=r"ISID|name"):
        wrong.pack()
