"""Registrations, and what is asked of them, for tests of the rules alone."""

from __future__ import annotations

from daiko.scsi.opcode import PersistentReserveOut as Out
from daiko.scsi.persistent_reservation import ReservationType as Type
from daiko.target.event import Event
from daiko.target.registrations import (
    ItNexus,
    Outcome,
    Registrations,
    Request,
    carry_out,
)

A, B, C, D = (ItNexus(f"iqn.{name}", bytes(6), 1) for name in "abcd")
A2, A3 = A._replace(target_port=2), A._replace(target_port=3)
KEY_A, KEY_B, KEY_C = 0xA, 0xB, 0xC
WE, EA = Type.WRITE_EXCLUSIVE, Type.EXCLUSIVE_ACCESS
WE_RO, EA_RO = Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, Type.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY
WE_AR, EA_AR = Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS, Type.EXCLUSIVE_ACCESS_ALL_REGISTRANTS
CONFLICT = "conflict"
BAD_LIST, BAD_CDB, BAD_RELEASE, NO_ROOM = (0x26, 0), (0x24, 0), (0x26, 4), (0x55, 4)
RELEASED, REGISTRATIONS, PREEMPTED = (
    Event.RESERVATIONS_RELEASED,
    Event.REGISTRATIONS_PREEMPTED,
    Event.RESERVATIONS_PREEMPTED,
)


def state_of(type: Type | None = None, holder: ItNexus = A, **fields: object) -> Registrations:
    """A, B and C are registered; with a type A (or another) holds a reservation."""
    state = Registrations({A: KEY_A, B: KEY_B, C: KEY_C}, **fields)  # type: ignore[arg-type]
    return state if type is None else state.reserved(type, holder)


def refusal(outcome: Outcome) -> object:
    """None, CONFLICT, or (ASC, ASCQ)."""
    if outcome.refusal is None:
        return None
    condition = outcome.refusal.condition
    return CONFLICT if condition is None else (condition.asc, condition.ascq)


def ask(state: Registrations, action: Out, by: ItNexus, key: int = 0, **fields: object) -> Outcome:
    outcome = carry_out(state, Request(action, by, key, **fields))  # type: ignore[arg-type]
    if outcome.refusal is not None:
        assert outcome.state is state
        assert not outcome.told
        assert not outcome.preempted
    return outcome
