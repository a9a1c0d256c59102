"""Persistent reservations as a host asks for them, on the hosts of `fake.py`."""

from __future__ import annotations

from daiko.scsi import persistent_reservation as layouts
from daiko.scsi import sbc
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
from daiko.target.access import Access
from daiko.target.logical_unit import LogicalUnit
from target.fake import FakeTask, Host

GOOD, CONFLICT = Status.GOOD, Status.RESERVATION_CONFLICT
WE, EA = ReservationType.WRITE_EXCLUSIVE, ReservationType.EXCLUSIVE_ACCESS
WE_RO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
EA_AR = ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS
WRITE = sbc.Write10.pack(transfer_length=1)
READ = sbc.Read10.pack(transfer_length=1)
BLOCK = bytes(512)
PREEMPTED, RELEASED, LOST = (0x2A, 0x03), (0x2A, 0x04), (0x2A, 0x05)
POWER_ON = (0x29, 0x00)
BAD_LIST, BAD_CDB = (0x5, 0x26, 0x00), (0x5, 0x24, 0x00)
RESERVE_6, RELEASE_6 = layouts.Reserve6.pack(), layouts.Release6.pack()
RESERVE_10, RELEASE_10 = layouts.Reserve10.pack(), layouts.Release10.pack()


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


def access_to(*units: LogicalUnit) -> Access:
    access = Access()
    access.publish({"*": dict(enumerate(units))})
    return access


def hosts_of(unit: LogicalUnit, count: int = 2) -> list[Host]:
    access = access_to(unit)
    return [Host(access, f"iqn.2026-11.test:{letter}") for letter in "abcd"[:count]]


def writes(host: Host) -> FakeTask:
    return host.start(WRITE, BLOCK)


def pointer(task: FakeTask) -> tuple[bool, int, int | None] | None:
    """(in CDB, byte, bit) of the field that was refused."""
    assert task.sense is not None
    field = task.sense.field
    return None if field is None else (field.in_cdb, field.byte, field.bit)
