"""The reservations of a logical unit as they live: persistent ones, and those of RESERVE(6).

`registrations.py` decides what a PERSISTENT RESERVE OUT comes to; here it becomes true, one request
after the other (SPC-4, 5.13.1: each is a single indivisible event). Where registrations have to
outlive a loss of power (APTPL) the `Keeper` brings the new state to stable storage first; requests
that come meanwhile wait. Then, in one turn of the loop: the state, the bars of every I_T nexus
(`bar.py`), the unit attentions; and with PREEMPT AND ABORT the commands of those who were
preempted end before the status is sent, also those of a session that is lost already and whose
writes are still at the device.

Registrations belong to I_T nexuses whether these are in session or not. What a nexus that is not
is to be told waits here until it is.

A reservation by RESERVE belongs to an I_T nexus in session and ends with it, or with a reset
(SPC-2, 5.5.1). The two kinds exclude each other: while one of them is there, commands of the other
conflict, but for the exceptions of SPC-4, 5.13.3 (CRH).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import structlog

from daiko.scsi import sense
from daiko.scsi.opcode import PersistentReserveOut, Status
from daiko.target.bar import Bar
from daiko.target.event import Event
from daiko.target.registrations import (
    MAXIMUM_REGISTRATIONS,
    NOBODY,
    ItNexus,
    Outcome,
    Registrations,
    Request,
    carry_out,
    cleared,
)

if TYPE_CHECKING:
    from daiko.target.kept import Keeper
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus, Nexus
    from daiko.target.task import Task

log = structlog.get_logger(__name__)

GOOD = int(Status.GOOD)
CONFLICT = int(Status.RESERVATION_CONFLICT)


class Reservations:
    """Who may do what at one logical unit."""

    __slots__ = ("_is_keeping", "_keeper", "_pending", "_unit", "_waiting", "reserved_by", "state")

    def __init__(self, unit: LogicalUnit, keeper: Keeper | None = None) -> None:
        self._unit = unit
        self._keeper = keeper
        self.state = NOBODY if keeper is None else keeper.registrations
        self.reserved_by: ItlNexus | None = None
        """Who has the unit by RESERVE."""
        self._waiting: list[Callable[[], None]] = []
        """Requests behind one that is being kept; seldom more than a few."""
        self._is_keeping = False
        self._pending: dict[ItNexus, list[Event]] = {}
        """What is to be told to I_T nexuses that are not in session, oldest first."""

    @property
    def can_be_kept(self) -> bool:
        """Registrations can outlive a loss of power."""
        return self._keeper is not None and self._keeper.is_lasting

    def take_over(self, other: Reservations) -> None:
        """Go on where the reservations of this volume's former logical unit were."""
        self.state = other.state
        self._pending = other._pending

    # --- what follows for a nexus

    def bars_for(self, nexus: Nexus) -> Bar:
        """What the reservations bar to an I_T nexus."""
        if self.reserved_by is not None:
            return Bar(0) if self.reserved_by.nexus is nexus else Bar.RESERVED
        state = self.state
        if state.type is None or state.admits(it_nexus(nexus)):
            return Bar(0)
        return Bar.WRITE_EXCLUSIVE if state.type.is_write_exclusive else Bar.EXCLUSIVE_ACCESS

    def attached(self, itl: ItlNexus) -> None:
        """An I_T_L nexus is new: it hears what happened to it while it was away."""
        if self._pending:
            for event in self._pending.pop(it_nexus(itl.nexus), ()):
                itl.attentions.establish(event.sense)

    def detached(self, itl: ItlNexus) -> None:
        """An I_T_L nexus is gone, by the loss of its session or because its host may not see the
        unit any more. Registrations stay, a RESERVE does not."""
        if self.reserved_by is itl:
            self._hand_over(None)

    def reset(self) -> None:
        """A logical unit or target reset ends a RESERVE, and touches no registration."""
        self._hand_over(None)

    def _hand_over(self, itl: ItlNexus | None) -> None:
        self.reserved_by = itl
        self._unit.refresh_bars()

    # --- RESERVE and RELEASE (SPC-2, 6.21 and 6.22; SPC-4, 5.13.3)

    def reserve(self, itl: ItlNexus, task: Task) -> None:
        """RESERVE(6) and (10): the whole unit for this I_T nexus."""

        def decide() -> int:
            if self.state.keys:
                return self._compatible(itl)
            if self.reserved_by is not None and self.reserved_by.nexus is not itl.nexus:
                return CONFLICT
            self._hand_over(itl)
            return GOOD

        self._in_turn(itl, task, decide)

    def release(self, itl: ItlNexus, task: Task) -> None:
        """RELEASE(6) and (10). From anyone else than the holder it does nothing."""

        def decide() -> int:
            if self.state.keys:
                return self._compatible(itl)
            if self.reserved_by is not None and self.reserved_by.nexus is itl.nexus:
                self._hand_over(None)
            return GOOD

        self._in_turn(itl, task, decide)

    def _compatible(self, itl: ItlNexus) -> int:
        """Where there are registrations RESERVE and RELEASE change nothing (CRH)."""
        nexus = it_nexus(itl.nexus)
        may = self.state.type is not None and self.state.admits(nexus)
        return GOOD if may else CONFLICT

    def _in_turn(self, itl: ItlNexus, task: Task, decide: Callable[[], int]) -> None:
        def turn() -> None:
            ends = itl.is_ending(task) or itl.is_lost
            itl.finish(task, Status.TASK_ABORTED if ends else decide())

        self._queue(turn)

    # --- PERSISTENT RESERVE OUT

    def request(self, itl: ItlNexus, task: Task, asked: Callable[[Registrations], Request]) -> None:
        """Carry out a request and end its task. `asked` makes it, when its turn has come, of the
        state as it then is."""

        def turn() -> None:
            if itl.is_ending(task):
                itl.finish(task, Status.TASK_ABORTED)
                return
            if self.reserved_by is not None:
                itl.finish(task, CONFLICT)
                return
            request = asked(self.state)
            outcome = carry_out(self.state, request)
            if outcome.refusal is None:
                self._keep(outcome, lambda is_kept: self._end(itl, task, request, outcome, is_kept))
            elif outcome.refusal.condition is None:
                itl.finish(task, CONFLICT)
            else:
                itl.refuse(task, outcome.refusal.condition)

        self._queue(turn)

    def clear(self, done: Callable[[bool], None]) -> None:
        """Take all registrations and reservations away, whoever has them: an administrator's
        order. `done(False)`: they are kept on stable storage, and that cannot be written."""

        def turn() -> None:
            outcome = cleared(self.state)

            def kept(is_kept: bool) -> None:
                if is_kept:
                    self.reserved_by = None
                    self._establish(outcome)
                done(is_kept)

            self._keep(outcome, kept)

        self._queue(turn)

    def _end(
        self, itl: ItlNexus, task: Task, request: Request, outcome: Outcome, is_kept: bool
    ) -> None:
        if not is_kept:
            itl.refuse(task, sense.internal_target_failure())
            return
        self._establish(outcome)
        self._note(request, outcome)
        if request.action is not PersistentReserveOut.PREEMPT_AND_ABORT:
            itl.finish(task, GOOD)
            return
        self._abort(outcome.preempted, itl, task)

    def _queue(self, turn: Callable[[], None]) -> None:
        self._waiting.append(turn)
        self._advance()

    def _advance(self) -> None:
        while self._waiting and not self._is_keeping:
            self._waiting.pop(0)()

    def _keep(self, outcome: Outcome, then: Callable[[bool], None]) -> None:
        """Bring the new state to stable storage where it or the one before belongs there."""
        before, after = self.state, outcome.state
        if self._keeper is None or after is before or not (after.is_kept or before.is_kept):
            then(True)
            return

        def done(is_kept: bool) -> None:
            self._is_keeping = False
            then(is_kept)
            self._advance()

        self._is_keeping = True
        self._keeper.keep_registrations(after, done)

    def _note(self, request: Request, outcome: Outcome) -> None:
        """For who wonders later why a member of a cluster cannot write any more."""
        lost = {
            nexus.initiator
            for nexus, event in outcome.told.items()
            if event is not Event.RESERVATIONS_RELEASED
        }
        if lost:
            log.info(
                "a host took the registrations of others",
                volume=self._unit.identity.name,
                action=request.action.name.lower(),
                by=request.by.initiator,
                lost=sorted(lost),
            )

    def _establish(self, outcome: Outcome) -> None:
        self.state = outcome.state
        self._unit.refresh_bars()
        for nexus, event in outcome.told.items():
            self._tell(nexus, event)
        if self._unit.third_party_copy is not None:
            self._unit.third_party_copy.reservations_changed(self._unit)

    def _tell(self, nexus: ItNexus, event: Event) -> None:
        present = [itl for itl in self._unit.nexuses if it_nexus(itl.nexus) == nexus]
        self._unit.announce(event, to=present)
        if present:
            return
        events = self._pending.setdefault(nexus, [])
        if event not in events:
            events.append(event)
        if len(self._pending) > MAXIMUM_REGISTRATIONS:
            # Whoever logs in after so long is told POWER ON in any case, and asks.
            del self._pending[next(iter(self._pending))]

    def _abort(self, preempted: Iterable[ItNexus], itl: ItlNexus, task: Task) -> None:
        """End the commands of those who were preempted, this one excepted, then this one too."""
        who = frozenset(preempted)
        unit = self._unit
        victims = {
            (owner, each)
            for owner, each in unit.task_set.tasks()
            if each is not task and it_nexus(owner.nexus) in who
        }
        copies = unit.third_party_copy.copies_at(unit) if unit.third_party_copy else ()
        elsewhere = [
            copy
            for copy in copies
            if copy not in victims and it_nexus(copy[0].nexus) in who and copy[1] is not task
        ]
        left = 1 + len(elsewhere)

        def one_done() -> None:
            nonlocal left
            left -= 1
            if not left:
                itl.finish(task, GOOD)

        for owner, copy in elsewhere:
            owner.unit.task_set.abort([(owner, copy)], one_done, itl.nexus)
        unit.task_set.abort(victims, one_done, itl.nexus)


def it_nexus(nexus: Nexus) -> ItNexus:
    """The I_T nexus of a session, by its names."""
    return ItNexus(nexus.initiator_name, bytes(nexus.isid), nexus.portal_group_tag)
