"""PERSISTENT RESERVE IN and OUT (SPC-4, 6.15 and 6.16), RESERVE and RELEASE (SPC-2).

Here the bytes are read and the ports looked up that they name; `reservations.py` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from daiko.command_control.command_table import BY_NAME
from daiko.device.block import Buffer
from daiko.scsi import sense
from daiko.scsi.opcode import PersistentReserveOut, Status
from daiko.scsi.persistent_reservation import (
    APTPL_BIT,
    FLAGS_BYTE,
    LIST_LENGTH,
    LU_SCOPE,
    MOVE_APTPL_BIT,
    MOVE_FLAGS_BYTE,
    MOVE_PORT_BYTE,
    FullStatus,
    ReservationType,
    pack_capabilities,
    pack_full_status,
    pack_read_keys,
    pack_read_reservation,
    parse_move,
    parse_reserve_out,
)
from daiko.scsi.sense import CheckCondition
from daiko.scsi.transport_id import LONGEST, TransportId
from daiko.target.commands.handler import serves
from daiko.target.registrations import MAXIMUM_REGISTRATIONS, ItNexus, Registrations, Request
from daiko.target.reservations import it_nexus

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

GOOD = int(Status.GOOD)

_LONGEST_LIST = LIST_LENGTH + 4 + MAXIMUM_REGISTRATIONS * LONGEST
"""Bytes: more ports than can be registered need not be named."""

# --- PERSISTENT RESERVE IN -----------------------------------------------------------------------


@serves("READ_KEYS", "READ_RESERVATION", "REPORT_CAPABILITIES", "READ_FULL_STATUS")
def persistent_reserve_in(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Who is registered, and who holds what. While the unit is reserved by RESERVE it conflicts
    even for the one who has reserved it (SPC-2, 5.5.1)."""
    if unit.reservations.reserved_by is not None:
        itl.finish(task, Status.RESERVATION_CONFLICT)
        return
    cdb = BY_NAME["READ_KEYS"].layout.unpack(task.cdb)
    state = unit.reservations.state
    match task.cdb[1] & 0x1F:
        case 0x00:
            data = pack_read_keys(state.generation, state.keys.values())
        case 0x01:
            data = pack_read_reservation(state.generation, state.holder_key, state.type)
        case 0x02:
            keeps = unit.reservations.can_be_kept
            data = pack_capabilities(keeps=keeps, is_kept=state.is_kept)
        case _:
            data = _full_status(state)
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


def _full_status(state: Registrations) -> bytes:
    return pack_full_status(
        state.generation,
        [
            FullStatus(
                key,
                TransportId(nexus.initiator, nexus.isid),
                nexus.target_port,
                state.type if state.holds(nexus) else None,
            )
            for nexus, key in state.keys.items()
        ],
    )


# --- PERSISTENT RESERVE OUT ----------------------------------------------------------------------

_TYPED = frozenset({"RESERVE", "RELEASE", "PREEMPT", "PREEMPT_AND_ABORT"})
"""Those whose SCOPE and TYPE mean something (table 216)."""


@serves(
    "REGISTER",
    "RESERVE",
    "RELEASE",
    "CLEAR",
    "PREEMPT",
    "PREEMPT_AND_ABORT",
    "REGISTER_AND_IGNORE_EXISTING_KEY",
    "REGISTER_AND_MOVE",
)
def persistent_reserve_out(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Change them."""
    action = PersistentReserveOut(task.cdb[1] & 0x1F)
    cdb = BY_NAME[action.name].layout.unpack(task.cdb)
    type = _type_of(cdb) if action.name in _TYPED else None
    length = cdb.parameter_list_length
    if not LIST_LENGTH <= length <= _LONGEST_LIST:
        raise CheckCondition(sense.parameter_list_length_error())

    def received(data: Buffer) -> None:
        if len(data) < length:
            raise CheckCondition(sense.parameter_list_length_error())
        request = _read(unit, itl, action, type, bytes(data))
        unit.reservations.request(itl, task, request)

    unit.receive(itl, task, length, received)


def _type_of(cdb: Any) -> ReservationType:
    if cdb.scope != LU_SCOPE:
        raise CheckCondition(sense.invalid_field_in_cdb(2, 7))
    try:
        return ReservationType(cdb.type)
    except ValueError:
        raise CheckCondition(sense.invalid_field_in_cdb(2, 3)) from None


def _read(
    unit: LogicalUnit,
    itl: ItlNexus,
    action: PersistentReserveOut,
    type: ReservationType | None,
    data: bytes,
) -> Callable[[Registrations], Request]:
    """Read the parameter list; what it asks for depends on who is registered when its turn has
    come. Raises CheckCondition."""
    if action is PersistentReserveOut.REGISTER_AND_MOVE:
        return _read_move(unit, itl, data)
    is_register = action is PersistentReserveOut.REGISTER
    value = parse_reserve_out(data, takes_ports=is_register)
    registers = is_register or action is PersistentReserveOut.REGISTER_AND_IGNORE_EXISTING_KEY
    if registers and value.aptpl and not unit.reservations.can_be_kept:
        raise CheckCondition(sense.invalid_field_in_parameter_list(FLAGS_BYTE, APTPL_BIT))
    by = it_nexus(itl.nexus)
    all_ports = unit.asymmetric_access.groups.ports if registers and value.all_tg_pt else ()

    def request(state: Registrations) -> Request:
        others = [
            each
            for port in value.transport_ids
            for each in _nexuses(unit, state, port, by.target_port) or (None,)
        ]
        return Request(
            action=action,
            by=by,
            key=value.key,
            new_key=value.service_action_key,
            type=type,
            aptpl=value.aptpl,
            spec_i_pt=value.spec_i_pt,
            others=tuple(each for each in others if each is not None),
            target_ports=all_ports,
            wrong_byte=LIST_LENGTH if None in others else None,
        )

    return request


def _read_move(unit: LogicalUnit, itl: ItlNexus, data: bytes) -> Callable[[Registrations], Request]:
    value = parse_move(data)
    if value.aptpl and not unit.reservations.can_be_kept:
        raise CheckCondition(sense.invalid_field_in_parameter_list(MOVE_FLAGS_BYTE, MOVE_APTPL_BIT))

    def request(state: Registrations) -> Request:
        target_port = value.relative_target_port
        found = _nexuses(unit, state, value.transport_id, target_port)
        wrong = None if len(found) == 1 else LIST_LENGTH
        if target_port not in unit.asymmetric_access.groups.ports:
            wrong = MOVE_PORT_BYTE
        return Request(
            action=PersistentReserveOut.REGISTER_AND_MOVE,
            by=it_nexus(itl.nexus),
            key=value.key,
            new_key=value.service_action_key,
            aptpl=value.aptpl,
            move_to=None if wrong else found[0],
            unreg=value.unreg,
            wrong_byte=wrong,
        )

    return request


def _nexuses(
    unit: LogicalUnit, state: Registrations, port: TransportId, target_port: int
) -> list[ItNexus]:
    """The I_T nexuses that a TransportID names at a target port. One that names a device stands
    for all ports of it that are known to the unit (SPC-4, 7.6.4.6); there may be none."""
    if port.isid is not None:
        return [ItNexus(port.name, port.isid, target_port)]
    in_session = (it_nexus(itl.nexus) for itl in unit.nexuses)
    isids = {n.isid for n in (*in_session, *state.keys) if n.initiator == port.name}
    return [ItNexus(port.name, isid, target_port) for isid in sorted(isids)]


# --- RESERVE and RELEASE -------------------------------------------------------------------------


@serves("RESERVE_6", "RESERVE_10")
def reserve(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """The whole unit for this initiator."""
    unit.reservations.reserve(itl, task)


@serves("RELEASE_6", "RELEASE_10")
def release(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """And back."""
    unit.reservations.release(itl, task)
