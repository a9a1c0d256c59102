"""Persistent reservations as values: who is registered, who holds, and what each service action of
PERSISTENT RESERVE OUT makes of that (SPC-4, 5.13).

Nothing here acts. `carry_out` takes the state and a request and returns an `Outcome`: the state
afterwards, or why not; whom to tell what; who lost what he had. `reservations.py` makes it true.
What decides is written as tables: `_REGISTER` is table 67, `_IGNORE` table 68, `_ACTIONS` says for
each service action what carries it out and whether PRgeneration counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import NamedTuple

from daiko.scsi import sense
from daiko.scsi.opcode import PersistentReserveOut
from daiko.scsi.persistent_reservation import (
    FLAGS_BYTE,
    LIST_LENGTH,
    SERVICE_ACTION_KEY_BYTE,
    SPEC_I_PT_BIT,
    ReservationType,
)
from daiko.scsi.sense import Sense
from daiko.target.event import Event

MAXIMUM_REGISTRATIONS = 1024
"""I_T nexuses that can be registered with one logical unit."""


class ItNexus(NamedTuple):
    """An I_T nexus, in session or not: an initiator port and a target port."""

    initiator: str
    """iSCSI name, in lower case."""
    isid: bytes
    target_port: int
    """Relative target port identifier."""


@dataclass(frozen=True, slots=True)
class Registrations:
    """The registrations of a logical unit, and its persistent reservation."""

    keys: Mapping[ItNexus, int] = field(default_factory=dict)
    """Registered I_T nexus -> its key, in the order of their registration. Never changed."""
    type: ReservationType | None = None
    """Of the reservation; None: there is none."""
    holder: ItNexus | None = None
    """The one holder; None where there is no reservation, or all registrants hold it."""
    is_kept: bool = False
    """They outlive a loss of power (the last valid APTPL bit)."""
    generation: int = 0
    """PRgeneration, 32 bits; 0 after a start."""

    def holds(self, nexus: ItNexus) -> bool:
        """Is it the holder, or one of them (5.13.10)?"""
        if self.type is not None and self.type.is_all_registrants:
            return nexus in self.keys
        return self.holder == nexus

    def admits(self, nexus: ItNexus) -> bool:
        """May it do what a holder may? Also true where there is no reservation."""
        if self.type is None or self.holder == nexus:
            return True
        return self.type.admits_registrants and nexus in self.keys

    @property
    def holder_key(self) -> int:
        """What READ RESERVATION returns: 0 where all registrants hold it (6.15.3.2)."""
        return 0 if self.holder is None else self.keys[self.holder]

    def without(self, gone: Iterable[ItNexus]) -> Registrations:
        """After these registrations were removed; the reservation goes with its last holder."""
        removed = set(gone)
        keys = {nexus: key for nexus, key in self.keys.items() if nexus not in removed}
        left = replace(self, keys=keys)
        if self.holder in removed or not keys:
            return left.released()
        return left

    def released(self) -> Registrations:
        """After the reservation was released."""
        return replace(self, type=None, holder=None)

    def reserved(self, type: ReservationType, by: ItNexus) -> Registrations:
        """With a reservation of this type."""
        return replace(self, type=type, holder=None if type.is_all_registrants else by)

    def registered(self, nexuses: Iterable[ItNexus], key: int) -> Registrations:
        """With these I_T nexuses registered, anew or by another key."""
        return replace(self, keys={**self.keys, **dict.fromkeys(nexuses, key)})


NOBODY = Registrations()
"""Nobody is registered."""


@dataclass(frozen=True, slots=True)
class Request:
    """One PERSISTENT RESERVE OUT, with everything in it that names a port looked up."""

    action: PersistentReserveOut
    by: ItNexus
    key: int
    """RESERVATION KEY."""
    new_key: int = 0
    """SERVICE ACTION RESERVATION KEY."""
    type: ReservationType | None = None
    aptpl: bool = False
    spec_i_pt: bool = False
    others: tuple[ItNexus, ...] = ()
    """What the TransportIDs of SPEC_I_PT name."""
    target_ports: tuple[int, ...] = ()
    """With ALL_TG_PT: every target port that there is."""
    move_to: ItNexus | None = None
    unreg: bool = False
    wrong_byte: int | None = None
    """Where the parameter list names a port that is not known."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request comes to."""

    state: Registrations
    """Afterwards; the same one where nothing changes."""
    refusal: Refusal | None = None
    told: Mapping[ItNexus, Event] = field(default_factory=dict)
    """Who is to have which unit attention condition."""
    preempted: frozenset[ItNexus] = frozenset()
    """Whose commands PREEMPT AND ABORT ends."""


class Refusal(NamedTuple):
    """Why a request was not carried out."""

    condition: Sense | None
    """None: RESERVATION CONFLICT."""


CONFLICT = Refusal(None)


def carry_out(state: Registrations, request: Request) -> Outcome:
    """Decide on a request. Everything happens together, or nothing at all (5.13.1)."""
    action = _ACTIONS[request.action]
    if not action.takes_unregistered and state.keys.get(request.by) != request.key:
        return Outcome(state, CONFLICT)
    outcome = action.carry_out(state, request)
    if outcome.refusal is not None or outcome.state is state:
        return Outcome(state, outcome.refusal)
    if len(outcome.state.keys) > MAXIMUM_REGISTRATIONS:
        return Outcome(state, Refusal(sense.insufficient_registration_resources()))
    after = outcome.state
    if action.takes_aptpl:
        after = replace(after, is_kept=request.aptpl)
    if action.counts:
        after = replace(after, generation=(after.generation + 1) & 0xFFFFFFFF)
    return replace(outcome, state=after)


def cleared(state: Registrations) -> Outcome:
    """An administrator takes everything away, for hosts that cannot do it any more."""
    return Outcome(
        replace(
            state.released(), keys={}, generation=(state.generation + 1) & 0xFFFFFFFF, is_kept=False
        ),
        told=dict.fromkeys(state.keys, Event.RESERVATIONS_PREEMPTED),
    )


# --- registering (5.13.7) ------------------------------------------------------------------------


class _Effect(Enum):
    NOTHING = auto()
    REGISTER = auto()
    CHANGE_KEY = auto()
    UNREGISTER = auto()
    CONFLICT = auto()
    REFUSE_PORTS = auto()


class _Rule(NamedTuple):
    """A row of table 67 or 68; None in a cell: whatever it is."""

    is_registered: bool
    key_fits: bool | None
    """RESERVATION KEY is the one registered; where none is, it is 0."""
    has_new_key: bool | None
    """SERVICE ACTION RESERVATION KEY is not 0."""
    spec_i_pt: bool | None
    effect: _Effect


_REGISTER = (
    _Rule(False, True, False, None, _Effect.NOTHING),
    _Rule(False, True, True, None, _Effect.REGISTER),
    _Rule(False, False, None, None, _Effect.CONFLICT),
    _Rule(True, False, None, None, _Effect.CONFLICT),
    _Rule(True, True, False, False, _Effect.UNREGISTER),
    _Rule(True, True, None, True, _Effect.REFUSE_PORTS),
    _Rule(True, True, True, False, _Effect.CHANGE_KEY),
)
"""Table 67: REGISTER."""

_IGNORE = (
    _Rule(False, None, False, None, _Effect.NOTHING),
    _Rule(False, None, True, None, _Effect.REGISTER),
    _Rule(True, None, False, None, _Effect.UNREGISTER),
    _Rule(True, None, True, None, _Effect.CHANGE_KEY),
)
"""Table 68: REGISTER AND IGNORE EXISTING KEY."""

_TABLES = {
    PersistentReserveOut.REGISTER: _REGISTER,
    PersistentReserveOut.REGISTER_AND_IGNORE_EXISTING_KEY: _IGNORE,
}


def _effect(state: Registrations, request: Request, nexus: ItNexus) -> _Effect:
    is_registered = nexus in state.keys
    cells = (
        is_registered,
        request.key == state.keys.get(nexus, 0),
        request.new_key != 0,
        request.spec_i_pt,
    )
    return next(
        rule.effect
        for rule in _TABLES[request.action]
        if all(want in (None, have) for want, have in zip(rule[:4], cells, strict=True))
    )


def _register(state: Registrations, request: Request) -> Outcome:
    """By the tables, for the target port of the command, and with ALL_TG_PT as if the command had
    come by each of the others too (6.16.3). Where nothing is registered by another port, a change
    of the key or its removal leaves that port alone."""
    nexuses = (request.by, *_by_other_ports(request.by, request.target_ports))
    effects = {nexus: _effect(state, request, nexus) for nexus in nexuses}
    if any(effects[nexus] is _Effect.CONFLICT and nexus in state.keys for nexus in nexuses):
        return Outcome(state, CONFLICT)
    match effects[request.by]:
        case _Effect.NOTHING:
            return Outcome(state)
        case _Effect.CONFLICT:
            return Outcome(state, CONFLICT)
        case _Effect.REFUSE_PORTS:
            pointer = sense.invalid_field_in_parameter_list(FLAGS_BYTE, SPEC_I_PT_BIT)
            return Outcome(state, Refusal(pointer))
        case _Effect.UNREGISTER:
            return _unregister(state, [n for n in nexuses if effects[n] is _Effect.UNREGISTER])
    changed = [n for n in nexuses if effects[n] in (_Effect.REGISTER, _Effect.CHANGE_KEY)]
    others = {
        each: None
        for other in request.others
        for each in (other, *_by_other_ports(other, request.target_ports))
        if each not in nexuses
    }
    if request.wrong_byte is not None or any(other in state.keys for other in others):
        return Outcome(state, Refusal(sense.invalid_field_in_parameter_list(LIST_LENGTH)))
    return Outcome(state.registered([*changed, *others], request.new_key))


def _by_other_ports(nexus: ItNexus, target_ports: Iterable[int]) -> list[ItNexus]:
    return [nexus._replace(target_port=p) for p in target_ports if p != nexus.target_port]


def _unregister(state: Registrations, gone: Iterable[ItNexus]) -> Outcome:
    """5.13.11.2.3: whoever worked under a registrants only reservation is told of its end."""
    after = state.without(gone)
    told = {}
    if state.type is not None and after.type is None and state.type.admits_registrants:
        told = dict.fromkeys(after.keys, Event.RESERVATIONS_RELEASED)
    return Outcome(after, told=told)


# --- the other service actions: from a registered I_T nexus with its key -------------------------


def _reserve(state: Registrations, request: Request) -> Outcome:
    """5.13.9."""
    assert request.type is not None
    if state.type is None:
        return Outcome(state.reserved(request.type, request.by))
    if state.holds(request.by) and request.type is state.type:
        return Outcome(state)
    return Outcome(state, CONFLICT)


def _release(state: Registrations, request: Request) -> Outcome:
    """5.13.11.2.2."""
    if state.type is None or not state.holds(request.by):
        return Outcome(state)
    if request.type is not state.type:
        return Outcome(state, Refusal(sense.invalid_release_of_persistent_reservation()))
    told = {}
    if state.type.admits_registrants:
        told = dict.fromkeys(state.keys, Event.RESERVATIONS_RELEASED)
        del told[request.by]
    return Outcome(state.released(), told=told)


def _clear(state: Registrations, request: Request) -> Outcome:
    """5.13.11.2.7."""
    told = dict.fromkeys(state.keys, Event.RESERVATIONS_PREEMPTED)
    del told[request.by]
    return Outcome(replace(state.released(), keys={}), told=told)


def _preempt(state: Registrations, request: Request) -> Outcome:
    """Table 72: whom the key names decides whether the reservation is preempted as well."""
    key = request.new_key
    is_all_registrants = state.type is not None and state.type.is_all_registrants
    if key == 0:
        if not is_all_registrants:
            return Outcome(
                state, Refusal(sense.invalid_field_in_parameter_list(SERVICE_ACTION_KEY_BYTE))
            )
        return _replace_reservation(state, request, frozenset(state.keys))
    named = frozenset(nexus for nexus, registered in state.keys.items() if registered == key)
    if not named:
        return Outcome(state, CONFLICT)
    if state.holder in named:
        return _replace_reservation(state, request, named)
    told = dict.fromkeys(named - {request.by}, Event.REGISTRATIONS_PREEMPTED)
    return Outcome(state.without(named), told=told, preempted=named)


def _replace_reservation(
    state: Registrations, request: Request, named: frozenset[ItNexus]
) -> Outcome:
    """5.13.11.2.4.3."""
    assert request.type is not None
    gone = named - {request.by}
    after = state.without(gone).released().reserved(request.type, request.by)
    told = dict.fromkeys(gone, Event.REGISTRATIONS_PREEMPTED)
    if request.type is not state.type:
        stayed = [nexus for nexus in after.keys if nexus != request.by]
        told |= dict.fromkeys(stayed, Event.RESERVATIONS_RELEASED)
    return Outcome(after, told=told, preempted=named)


def _move(state: Registrations, request: Request) -> Outcome:
    """5.13.8 and table 70."""
    if state.type is None:
        return Outcome(state, Refusal(sense.invalid_field_in_cdb(1, 4)))
    if state.holder != request.by:
        return Outcome(state, CONFLICT)  # not the holder, or all registrants hold it
    if request.new_key == 0:
        return Outcome(
            state, Refusal(sense.invalid_field_in_parameter_list(SERVICE_ACTION_KEY_BYTE))
        )
    to = request.move_to
    if to is None or to[:2] == request.by[:2]:
        wrong = request.wrong_byte or LIST_LENGTH
        return Outcome(state, Refusal(sense.invalid_field_in_parameter_list(wrong)))
    after = state.registered([to], request.new_key)
    after = after.reserved(state.type, to)
    return Outcome(after.without([request.by]) if request.unreg else after)


class _Action(NamedTuple):
    carry_out: Callable[[Registrations, Request], Outcome]
    takes_unregistered: bool
    """It may come by an I_T nexus that is not registered; then it checks the key itself."""
    counts: bool
    """PRgeneration is incremented (table 213)."""
    takes_aptpl: bool
    """Its APTPL bit is valid (table 216)."""


_Out = PersistentReserveOut
_ACTIONS: dict[PersistentReserveOut, _Action] = {
    _Out.REGISTER: _Action(_register, True, True, True),
    _Out.REGISTER_AND_IGNORE_EXISTING_KEY: _Action(_register, True, True, True),
    _Out.RESERVE: _Action(_reserve, False, False, False),
    _Out.RELEASE: _Action(_release, False, False, False),
    _Out.CLEAR: _Action(_clear, False, True, False),
    _Out.PREEMPT: _Action(_preempt, False, True, False),
    _Out.PREEMPT_AND_ABORT: _Action(_preempt, False, True, False),
    _Out.REGISTER_AND_MOVE: _Action(_move, False, True, True),
}
