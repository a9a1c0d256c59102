"""PERSISTENT RESERVE IN and OUT: golden bytes, round trips, every refusal with its pointer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.layout import MalformedData
from daiko.scsi.persistent_reservation import (
    FullStatus,
    MoveList,
    ReservationType,
    ReserveOutList,
    pack_capabilities,
    pack_full_status,
    pack_read_keys,
    pack_read_reservation,
    parse_full_status,
    parse_move,
    parse_read_keys,
    parse_read_reservation,
    parse_reserve_out,
)
from daiko.scsi.sense import CheckCondition, FieldPointer
from daiko.scsi.transport_id import TransportId
from scsi.test_transport_id import transport_ids

PORT = TransportId("iqn.x", bytes.fromhex("0023d0000001"))
PORT_BYTES = bytes.fromhex("4500 0018 69716e2e78 2c692c3078 303032336430303030303031 0000")
KEY, NEW_KEY = 0x1122334455667788, 0x0123456789ABCDEF

keys = st.integers(0, 2**64 - 1)
generations = st.integers(0, 2**32 - 1)
types = st.sampled_from(ReservationType)
ports = st.integers(0, 0xFFFF)

# --- types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "write_exclusive", "registrants", "all_registrants"),
    [
        (0x1, True, False, False),
        (0x3, False, False, False),
        (0x5, True, True, False),
        (0x6, False, True, False),
        (0x7, True, True, True),
        (0x8, False, True, True),
    ],
)
def test_types_are_those_of_the_standard(
    code: int, write_exclusive: bool, registrants: bool, all_registrants: bool
) -> None:
    type = ReservationType(code)
    assert type.is_write_exclusive is write_exclusive
    assert type.admits_registrants is registrants
    assert type.is_all_registrants is all_registrants


# --- PERSISTENT RESERVE IN -----------------------------------------------------------------------


def test_read_keys_is_as_in_table_202() -> None:
    data = bytes.fromhex("00000007 00000010 1122334455667788 0123456789abcdef")
    assert pack_read_keys(7, [KEY, NEW_KEY]) == data
    assert parse_read_keys(data) == (7, (KEY, NEW_KEY))


def test_read_reservation_is_as_in_table_204() -> None:
    data = bytes.fromhex("00000007 00000010 1122334455667788 00000000 00 06 0000")
    type = ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY
    assert pack_read_reservation(7, KEY, type) == data
    assert parse_read_reservation(data) == (7, KEY, type)


def test_read_reservation_without_one_is_a_header() -> None:
    assert pack_read_reservation(7, 0, None) == bytes.fromhex("00000007 00000000")
    assert parse_read_reservation(bytes.fromhex("00000007 00000000")) == (7, 0, None)


@pytest.mark.parametrize(
    ("keeps", "is_kept", "expected"),
    [
        (True, True, "0008 1d c1 ea 01 0000"),
        (True, False, "0008 1d c0 ea 01 0000"),
        (False, False, "0008 1c c0 ea 01 0000"),
    ],
)
def test_capabilities_are_as_in_table_207(keeps: bool, is_kept: bool, expected: str) -> None:
    assert pack_capabilities(keeps=keeps, is_kept=is_kept) == bytes.fromhex(expected)


def test_full_status_is_as_in_table_211() -> None:
    data = bytes.fromhex(
        "00000007 00000068"
        "1122334455667788 00000000 01 05 00000000 0002 0000001c"
    ) + PORT_BYTES + bytes.fromhex(
        "0123456789abcdef 00000000 00 00 00000000 0001 0000001c"
    ) + PORT_BYTES  # fmt: skip
    held = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
    nexuses = (FullStatus(KEY, PORT, 2, held), FullStatus(NEW_KEY, PORT, 1))
    assert pack_full_status(7, nexuses) == data
    assert parse_full_status(data) == (7, nexuses)


@given(generations, st.lists(keys))
def test_read_keys_round_trips(generation: int, some: list[int]) -> None:
    assert parse_read_keys(pack_read_keys(generation, some)) == (generation, tuple(some))


@given(generations, keys, types)
def test_read_reservation_round_trips(generation: int, key: int, type: ReservationType) -> None:
    data = pack_read_reservation(generation, key, type)
    assert parse_read_reservation(data) == (generation, key, type)


@given(
    generations,
    st.lists(st.builds(FullStatus, keys, transport_ids, ports, st.none() | types), max_size=4),
)
def test_full_status_round_trips(generation: int, nexuses: list[FullStatus]) -> None:
    data = pack_full_status(generation, nexuses)
    assert parse_full_status(data) == (generation, tuple(nexuses))


def test_generation_wraps() -> None:
    assert parse_read_keys(pack_read_keys(1 << 32, []))[0] == 0


@pytest.mark.parametrize("size", [12, 30])
def test_answer_that_is_cut_short_is_refused(size: int) -> None:
    data = pack_full_status(1, [FullStatus(KEY, PORT, 1)])[:size]
    with pytest.raises(MalformedData):
        parse_full_status(data)
    with pytest.raises(MalformedData):
        parse_full_status(data[:4] + (size - 8).to_bytes(4, "big") + data[8:])
    with pytest.raises(MalformedData):
        parse_read_keys(pack_read_keys(1, [1, 2, 3])[:size])


def test_transport_id_that_reaches_beyond_the_answer_is_refused() -> None:
    data = bytearray(pack_full_status(1, [FullStatus(KEY, PORT, 1)]))
    data[8 + 23] += 4
    with pytest.raises(MalformedData, match="cut short"):
        parse_full_status(data)


def test_type_that_there_is_not_is_refused() -> None:
    data = bytearray(pack_read_reservation(1, KEY, ReservationType.WRITE_EXCLUSIVE))
    data[8 + 13] = 0x02
    with pytest.raises(MalformedData, match="no type"):
        parse_read_reservation(data)


# --- PERSISTENT RESERVE OUT ----------------------------------------------------------------------

BASIC = bytes.fromhex("1122334455667788 0123456789abcdef 00000000 05 00 0000")
WITH_PORTS = (
    bytes.fromhex("1122334455667788 0123456789abcdef 00000000 08 00 0000 0000001c") + PORT_BYTES
)
MOVE = bytes.fromhex("1122334455667788 0123456789abcdef 00 03 0002 0000001c") + PORT_BYTES


def test_basic_list_is_as_in_table_214() -> None:
    value = ReserveOutList(KEY, NEW_KEY, aptpl=True, all_tg_pt=True)
    assert value.pack() == BASIC
    assert parse_reserve_out(BASIC, takes_ports=False) == value


def test_list_with_ports_is_as_in_table_215() -> None:
    value = ReserveOutList(KEY, NEW_KEY, spec_i_pt=True, transport_ids=(PORT,))
    assert value.pack() == WITH_PORTS
    assert parse_reserve_out(WITH_PORTS, takes_ports=True) == value


def test_move_list_is_as_in_table_217() -> None:
    value = MoveList(KEY, NEW_KEY, PORT, 2, unreg=True, aptpl=True)
    assert value.pack() == MOVE
    assert parse_move(MOVE) == value


def test_obsolete_fields_are_ignored() -> None:
    data = BASIC[:16] + b"\xff" * 4 + BASIC[20:22] + b"\xff" * 2
    assert parse_reserve_out(data, takes_ports=False).key == KEY


@given(
    st.builds(ReserveOutList, keys, keys, st.booleans(), st.booleans()),
    st.none() | st.lists(transport_ids, max_size=4).map(tuple),
)
def test_basic_list_round_trips(value: ReserveOutList, ids: tuple[TransportId, ...] | None) -> None:
    if ids is not None:
        value = ReserveOutList(
            value.key, value.service_action_key, value.aptpl, value.all_tg_pt, True, ids
        )
    assert parse_reserve_out(value.pack(), takes_ports=True) == value


@given(st.builds(MoveList, keys, keys, transport_ids, ports, st.booleans(), st.booleans()))
def test_move_list_round_trips(value: MoveList) -> None:
    assert parse_move(value.pack()) == value


LENGTH_ERROR = (0x1A, 0x00, None)


def in_list(byte: int, bit: int | None = None) -> tuple[int, int, FieldPointer]:
    return (0x26, 0x00, FieldPointer(byte, bit))


@pytest.mark.parametrize(
    ("data", "takes_ports", "refusal"),
    [
        pytest.param(BASIC[:23], True, LENGTH_ERROR, id="23 bytes"),
        pytest.param(BASIC + b"\0", True, LENGTH_ERROR, id="25 bytes without SPEC_I_PT"),
        pytest.param(WITH_PORTS, False, in_list(20, 3), id="ports, but not by REGISTER"),
        pytest.param(WITH_PORTS[:26], True, LENGTH_ERROR, id="no length of the ports"),
        pytest.param(WITH_PORTS[:-1], True, LENGTH_ERROR, id="length beyond the list"),
        pytest.param(
            WITH_PORTS[:27] + b"\x18" + WITH_PORTS[28:], True, in_list(24), id="cut TransportID"
        ),
        pytest.param(BASIC[:20] + b"\x85" + BASIC[21:], True, in_list(20, 7), id="reserved bit"),
        pytest.param(BASIC[:21] + b"\x01" + BASIC[22:], True, in_list(21, 0), id="reserved byte"),
    ],
)
def test_basic_list_that_cannot_be_is_refused(
    data: bytes, takes_ports: bool, refusal: tuple[int, int, FieldPointer | None]
) -> None:
    with pytest.raises(CheckCondition) as caught:
        parse_reserve_out(data, takes_ports=takes_ports)
    found = caught.value.sense
    assert (found.asc, found.ascq, found.field) == refusal


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        pytest.param(MOVE[:47], LENGTH_ERROR, id="no room for a TransportID"),
        pytest.param(MOVE[:23] + b"\x20" + MOVE[24:], LENGTH_ERROR, id="length beyond the list"),
        pytest.param(MOVE[:23] + b"\x18" + MOVE[24:], in_list(24), id="cut TransportID"),
        pytest.param(MOVE[:23] + b"\0" + MOVE[24:], in_list(24), id="no TransportID"),
        pytest.param(
            MOVE[:23] + b"\x38" + MOVE[24:] + PORT_BYTES, in_list(24), id="two TransportIDs"
        ),
        pytest.param(MOVE[:16] + b"\x01" + MOVE[17:], in_list(16, 0), id="reserved byte"),
        pytest.param(MOVE[:17] + b"\x04" + MOVE[18:], in_list(17, 2), id="reserved bit"),
    ],
)
def test_move_list_that_cannot_be_is_refused(
    data: bytes, refusal: tuple[int, int, FieldPointer | None]
) -> None:
    with pytest.raises(CheckCondition) as caught:
        parse_move(data)
    found = caught.value.sense
    assert (found.asc, found.ascq, found.field) == refusal
