"""The task set of a logical unit: order among tasks, and their abortion (SAM-5, 7 and 8).

One task set for all I_T nexuses (TST = 000b), unrestricted reordering of SIMPLE tasks (QUEUE
ALGORITHM MODIFIER = 1): a SIMPLE task begins as soon as it arrives, and the data path asks for no
more than `is_gated`. The rest of this module is at work only while one of these is true:

- An ORDERED or HEAD OF QUEUE task is in the set: it is a *barrier*. Tasks that come after it wait
  until it has ended; an ORDERED task itself waits until everything before it has ended, a HEAD OF
  QUEUE task waits for no other task of its session.
- A session was lost while tasks of it were at the device. What the same initiator sends in its
  next session waits until they have ended there, HEAD OF QUEUE or not, else a write of the old
  session could land on top of a newer one.
- Task management has told tasks to end that are at the device. The device cannot be called back;
  the function is answered once they have ended, so that nothing changes the medium afterwards.
- A command wants blocks for itself and waits until tasks at the device have ended
  (`exclusion.py`).

Tasks aborted by their own initiator end without status. Those aborted by another initiator end
with TASK ABORTED, or, where the TAS bit of the control mode page is 0, without status and with a
unit attention (COMMANDS CLEARED BY ANOTHER INITIATOR).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from daiko.device.block import Buffer
from daiko.scsi.opcode import Status
from daiko.target.event import Event
from daiko.target.task import TaskAttribute

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus, Nexus
    from daiko.target.task import Task

ORDERED: Final = int(TaskAttribute.ORDERED)
HEAD_OF_QUEUE: Final = int(TaskAttribute.HEAD_OF_QUEUE)


class _Abortion:
    """One task management function that waits for tasks to end."""

    __slots__ = ("done", "left")

    def __init__(self, done: Callable[[], None]) -> None:
        self.left = 1
        """Tasks still at the device, and one for `TaskSet.abort` itself while it goes through."""
        self.done = done

    def one_ended(self) -> None:
        self.left -= 1
        if not self.left:
            self.done()


class TaskSet:
    """All tasks of one logical unit."""

    __slots__ = (
        "_awaited",
        "_barriers",
        "_ending",
        "_is_advancing",
        "_lost",
        "_unit",
        "_waiting",
        "is_gated",
        "is_watched",
    )

    def __init__(self, unit: LogicalUnit) -> None:
        self._unit = unit
        self.is_gated = False
        """A task that arrives has to ask `admit`, whatever its attribute."""
        self.is_watched = False
        """A task that ends has to go through `end`."""
        self._waiting: deque[tuple[ItlNexus, Task]] = deque()
        """Not begun, in order of arrival."""
        self._barriers: set[Task] = set()
        """ORDERED and HEAD OF QUEUE tasks, waiting or begun."""
        self._ending: dict[Task, tuple[bool, list[_Abortion]]] = {}
        """Told to end, still at the device: (report TASK ABORTED?, who waits)."""
        self._awaited: dict[Task, list[_Abortion]] = {}
        """Whose end somebody waits for who has not told them to end."""
        self._lost: set[ItlNexus] = set()
        """Nexuses lost with tasks at the device."""
        self._is_advancing = False

    def tasks(self) -> list[tuple[ItlNexus, Task]]:
        """Everything in the set: of every host in session, and what is still at the device of
        those whose session is lost."""
        return [(itl, task) for itl in (*self._unit.nexuses, *self._lost) for task in itl.tasks]

    # ------------------------------------------------------------------ order

    def admit(self, itl: ItlNexus, task: Task) -> bool:
        """May this new task begin now? If not, it is kept, and begun later by
        `LogicalUnit.execute`. Asked only for tasks that are not SIMPLE or while `is_gated`."""
        attribute = task.attribute
        if attribute == HEAD_OF_QUEUE:
            may_begin = not self._waits_for_lost(itl)
            self._barriers.add(task)
            if not may_begin:
                self._waiting.appendleft((itl, task))
            self._update()
            return may_begin
        if attribute == ORDERED:
            may_begin = self._begun() == 1 and not self._waiting
            self._barriers.add(task)
        else:
            may_begin = not self._barriers and not self._waits_for_lost(itl)
        if not may_begin:
            self._waiting.append((itl, task))
        self._update()
        return may_begin

    def end(
        self, itl: ItlNexus, task: Task, status: int, data: Sequence[Buffer], sense: bytes
    ) -> None:
        """Complete a task that has just been taken out of its nexus's tasks, and see what may
        happen now that it is gone."""
        self._barriers.discard(task)
        ending = self._ending.pop(task, None)
        if ending is not None and ending[0]:
            status, data, sense = Status.TASK_ABORTED, (), b""
        if itl.is_lost and not itl.tasks:
            self._lost.discard(itl)
        task.complete(status, data, sense)
        exclusion = self._unit.exclusion
        if exclusion is not None:
            exclusion.ended(task)
        self._advance()
        for waiting in self._awaited.pop(task, ()):
            waiting.one_ended()
        if ending is not None:
            for abortion in ending[1]:
                abortion.one_ended()

    def is_ending(self, task: Task) -> bool:
        return task in self._ending

    def watch(self) -> None:
        """Tasks have to be seen to end."""
        self.is_watched = True

    def at_device(self) -> list[Task]:
        """The tasks that have begun and wait for no data: what the device may be at work on."""
        waiting = {task for _, task in self._waiting}
        return [
            task
            for itl in (*self._unit.nexuses, *self._lost)
            for task in itl.tasks
            if task not in waiting and not task.fetching
        ]

    def _begun(self) -> int:
        """Tasks that have begun and not ended."""
        tasks = sum(len(itl.tasks) for itl in self._unit.nexuses)
        return tasks + sum(len(itl.tasks) for itl in self._lost) - len(self._waiting)

    def _waits_for_lost(self, itl: ItlNexus) -> bool:
        name = itl.nexus.initiator_name
        return any(lost.nexus.initiator_name == name for lost in self._lost)

    def _advance(self) -> None:
        """Begin what may begin. Not recursive: a task that completes inline while it is begun
        here leads back to `end`, which leaves the rest to the loop."""
        if self._is_advancing:
            return
        self._is_advancing = True
        try:
            while self._begin_one():
                pass
        finally:
            self._is_advancing = False
            self._update()

    def _begin_one(self) -> bool:
        begun_barriers = len(self._barriers) - sum(
            1 for _, task in self._waiting if task in self._barriers
        )
        is_blocked = bool(begun_barriers)
        for index, (itl, task) in enumerate(self._waiting):
            waits = self._waits_for_lost(itl)
            if task.attribute == HEAD_OF_QUEUE:
                # It waits for nothing else, and stands before all that waits for it.
                if waits:
                    is_blocked = True
                    continue
            elif is_blocked:
                return False
            elif task in self._barriers:
                if index or self._begun():
                    return False
            elif waits:
                continue
            del self._waiting[index]
            self._unit.execute(itl, task, True)
            return True
        return False

    def _update(self) -> None:
        self.is_gated = bool(self._barriers or self._waiting or self._lost)
        exclusion = self._unit.exclusion
        self.is_watched = (
            self.is_gated
            or bool(self._ending or self._awaited)
            or (exclusion is not None and exclusion.is_watching)
        )

    def await_end(self, tasks: Iterable[Task], done: Callable[[], None]) -> Callable[[], None]:
        """Call `done` when these tasks have ended, of themselves. Returns what gives that up."""
        waiting = _Abortion(done)
        for task in tasks:
            self._awaited.setdefault(task, []).append(waiting)
            waiting.left += 1
        self.is_watched = True

        def give_up() -> None:
            for task in [task for task, whose in self._awaited.items() if waiting in whose]:
                self._awaited[task].remove(waiting)
                if not self._awaited[task]:
                    del self._awaited[task]
            self._update()

        waiting.one_ended()
        return give_up

    # ------------------------------------------------------------------ abortion

    def abort(
        self,
        victims: Iterable[tuple[ItlNexus, Task]],
        done: Callable[[], None],
        by: Nexus | None = None,
    ) -> None:
        """End tasks early. `done` is called when none of them can change anything any more.
        Tasks of nexuses other than `by` are answered with TASK ABORTED, or as TAS wants it; those
        that no nexus ends always so."""
        abortion = _Abortion(done)
        victims = list(victims)
        is_silent = by is not None and not self._unit.mode.reports_abortion
        doomed = {task for _, task in victims}
        early = {task for _, task in self._waiting} & doomed
        self._waiting = deque(each for each in self._waiting if each[1] not in doomed)
        for itl, task in victims:
            is_foreign = itl.nexus is not by
            task.aborted = task.aborted or not is_foreign or is_silent
            if is_foreign and is_silent:
                itl.attentions.establish(Event.COMMANDS_CLEARED.sense)
            self._ending.setdefault(task, (is_foreign, []))[1].append(abortion)
            abortion.left += 1
        self.is_watched = True
        for itl, task in victims:
            if task in early or task.fetching:
                itl.finish(task, Status.TASK_ABORTED)
            else:
                self._unit.call_back(task)
        self._advance()
        abortion.one_ended()

    def nexus_lost(self, itl: ItlNexus, *, is_session_lost: bool) -> None:
        """The host is gone, or may not see the unit any more: what has not begun never begins,
        what is at the device holds back the same initiator's next session until it has ended.
        A host that is still there is told TASK ABORTED."""
        itl.is_lost = True
        if not itl.tasks:
            return
        self._lost.add(itl)
        victims = [(itl, task) for task in itl.tasks]
        self.abort(victims, _nothing, itl.nexus if is_session_lost else None)


def _nothing() -> None:
    """Nobody waits for these tasks to end."""
