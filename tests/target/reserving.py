"""Persistent reservations as a host asks for them, on the hosts of `fake.py`."""

from __future__ import annotations

from daiko.scsi import persistent_reservation as layouts
from daiko.scsi.opcode import Status
from daiko.scsi.persistent_reservation import (
    FullStatus,
    MoveList,
    ReservationType,
    ReserveOutList,
    parse_full_status,
    parse_read_keys,
    parse_read_reservation,
)
from daiko.scsi.transport_id import TransportId
from target.fake import FakeTask, Host

GOOD, CONFLICT = Status.GOOD, Status.RESERVATION_CONFLICT


def out(
    host: Host,
    action: str,
    key: int = 0,
    new_key: int = 0,
    *,
    type: int = 0,
    scope: int = 0,
    **fields: object,
) -> FakeTask:
    """PERSISTENT RESERVE OUT with the basic list; it may still be going on."""
    data = ReserveOutList(key, new_key, **fields).pack()  # type: ignore[arg-type]
    layout = getattr(layouts, action)
    return host.start(layout.pack(scope=scope, type=type, parameter_list_length=len(data)), data)


def status(task: FakeTask) -> int:
    """Of a command that has ended."""
    assert task.answers == 1, "not completed"
    assert task.status is not None
    return task.status


def register(host: Host, new_key: int, key: int = 0, **fields: object) -> int:
    return status(out(host, "Register", key, new_key, **fields))


def reserve(host: Host, key: int, type: ReservationType) -> int:
    return status(out(host, "Reserve", key, type=type))


def move(host: Host, value: MoveList, *, type: int = 0, scope: int = 0) -> FakeTask:
    data = value.pack()
    cdb = layouts.RegisterAndMove.pack(scope=scope, type=type, parameter_list_length=len(data))
    return host.start(cdb, data)


def read(host: Host, action: str, length: int = 0xFFFF) -> bytes:
    """The data of a PERSISTENT RESERVE IN."""
    task = host.run(getattr(layouts, action).pack(allocation_length=length))
    assert task.status == GOOD, task.condition
    return task.data_in


def keys(host: Host) -> tuple[int, ...]:
    return parse_read_keys(read(host, "ReadKeys"))[1]


def generation(host: Host) -> int:
    return parse_read_keys(read(host, "ReadKeys"))[0]


def reservation(host: Host) -> tuple[int, ReservationType | None]:
    """(key, type) of READ RESERVATION."""
    return parse_read_reservation(read(host, "ReadReservation"))[1:]


def full_status(host: Host) -> tuple[FullStatus, ...]:
    return parse_full_status(read(host, "ReadFullStatus"))[1]


def port_of(host: Host) -> TransportId:
    return TransportId(host.nexus.initiator_name, host.nexus.isid)


def attentions(host: Host) -> list[tuple[int, int]]:
    """The (ASC, ASCQ) that wait for a host at LUN 0; taken."""
    itl = host.nexus.units.get(0)
    assert itl is not None
    found = [(each.asc, each.ascq) for each in itl.attentions]
    itl.attentions.clear()
    return found
