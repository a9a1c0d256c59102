"""Invariant: lists and data of PERSISTENT RESERVE are refused, or pack to what they say."""

from __future__ import annotations

from daiko.scsi.layout import MalformedData
from daiko.scsi.persistent_reservation import (
    FullStatus,
    MoveList,
    ReservationType,
    ReserveOutList,
    pack_full_status,
    pack_read_keys,
    pack_read_reservation,
    parse_full_status,
    parse_move,
    parse_read_keys,
    parse_read_reservation,
    parse_reserve_out,
)
from daiko.scsi.sense import CheckCondition, SenseKey
from daiko.scsi.transport_id import TransportId

PORT = TransportId("iqn.2026-11.test:host", bytes.fromhex("0023d0000001"))
DEVICE = TransportId("iqn.2026-11.test:host")


def corpus() -> list[bytes]:
    """The first byte chooses: 0 basic list, 1 move list, 2 READ FULL STATUS, 3 READ KEYS,
    4 READ RESERVATION."""
    held = ReservationType.WRITE_EXCLUSIVE
    return [
        b"\0" + ReserveOutList(1, 2, aptpl=True).pack(),
        b"\0" + ReserveOutList(0, 2, spec_i_pt=True, transport_ids=(PORT, DEVICE)).pack(),
        b"\1" + MoveList(1, 2, PORT, 1, unreg=True).pack(),
        b"\2" + pack_full_status(3, [FullStatus(1, PORT, 1, held), FullStatus(2, DEVICE, 2)]),
        b"\3" + pack_read_keys(3, [1, 2, 3]),
        b"\4" + pack_read_reservation(3, 1, held),
    ]


def check(data: bytes) -> bool:
    if not data:
        return False
    kind, data = data[0] % 5, data[1:]
    return _check_list(kind, data) if kind < 2 else _check_answer(kind, data)


def _check_list(kind: int, data: bytes) -> bool:
    parse = parse_move if kind else _basic
    try:
        value = parse(data)
    except CheckCondition as refusal:
        sense = refusal.sense
        assert sense.key == SenseKey.ILLEGAL_REQUEST
        assert sense.field is None or sense.field.byte < len(data)
        return False
    assert parse(value.pack()) == value
    return True


def _basic(data: bytes) -> ReserveOutList:
    return parse_reserve_out(data, takes_ports=True)


def _check_answer(kind: int, data: bytes) -> bool:
    try:
        if kind == 2:
            status = parse_full_status(data)
            assert parse_full_status(pack_full_status(*status)) == status
        elif kind == 3:
            keys = parse_read_keys(data)
            assert parse_read_keys(pack_read_keys(*keys)) == keys
        else:
            held = parse_read_reservation(data)
            if held[2] is not None:
                assert parse_read_reservation(pack_read_reservation(*held)) == held
    except MalformedData:
        return False
    return True
