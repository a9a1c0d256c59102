"""A session at the target port: numbering, the tasks in progress, how much is taken up at once.

MaxConnections is 1, so a session has one connection and one StatSN. Three bounds keep the memory
that an initiator can make this side hold: the command window (tasks that exist), the session's
share of the memory for data (`data_budget.py`; at most `ROOM`) for the tasks that were taken up,
and the transport's high-water mark (answers not yet read). Commands beyond the last two wait, in
the order of their unit, and are taken up when there is room again. What came with commands that
wait, their immediate data, may be as much again; then TASK SET FULL is the answer. While a session
waits for memory of others, its command window shrinks as commands end, so that its host keeps the
rest back.

**No unit takes all.** A host has one session for all of its units, and one of them may lie on a
back end that is slow or dead. So a unit may hold no more than what is still free, of the room and
of the window alike: the first to fill up stops at half, the next at a quarter, and there is always
something left for a unit that works. As long as less than half is taken nothing is counted. What
goes beyond the room waits; what goes beyond the window is answered with TASK SET FULL, since a
closed window would keep back the other units' commands too. A unit that holds no room at all may
take up one command even when there is none, up to as much again as the room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Final, Protocol

import structlog

from daiko.iscsi.bhs import RESERVED_TAG, TaskManagementFunction
from daiko.iscsi.error import RejectReason
from daiko.iscsi.negotiation import Parameters
from daiko.iscsi.pdu import NopIn, Reject
from daiko.iscsi.session import MASK, CommandWindow, TaskTags
from daiko.port.connection import Connection
from daiko.scsi.opcode import Status
from daiko.scsi.sense import Sense
from daiko.target.data_budget import DataBudget
from daiko.target.nexus import Nexus
from daiko.target.port_task import PortTask
from daiko.target.task import Task

log = structlog.get_logger(__name__)

WINDOW: Final = 256
"""Commands of one session in progress; of one unit no more than half."""
UNCROWDED: Final = WINDOW // 2
"""Commands in progress up to which no unit can have more than its share."""
ROOM: Final = 32 * 1024 * 1024
"""Bytes of data-in and data-out of commands taken up, at most; one larger command goes alone."""
LARGEST: Final = 8 * 1024 * 1024
"""Bytes that count of one command: no unit takes a longer transfer, whatever is announced."""
WORTH_WHILE: Final = 64 * 1024
"""Bytes that a host must move, from time to time, to keep what it holds while others wait."""
NARROW: Final = 8
"""Commands that the window still allows when memory is short."""
_CLOSED: Final = 1 << 62
"""Bytes taken off the room so that no command fits any more."""
MAXIMUM_IMMEDIATE: Final = 32
"""Immediate commands and task management functions in progress; the command window does not
bound them."""


class TargetAccess(Protocol):
    """What the port needs of the logical units behind it (`target/access.py`)."""

    def authorize(self, initiator_name: str, target_name: str) -> bool:
        """Whether this initiator may log in."""

    def portal_group_tags(self, initiator_name: str) -> Collection[int]:
        """The portal groups that this initiator may use; empty (and false) = all."""

    def submit(self, task: Task) -> None:
        """Carry a command out."""

    def task_management(
        self,
        nexus: Nexus,
        function: int,
        lun: int,
        referenced_tag: int,
        done: Callable[[int], None],
    ) -> None:
        """RFC 7143, 11.5; `done` with the response code of 11.6.1."""

    def nexus_started(self, nexus: Nexus) -> None:
        """A session has begun."""

    def nexus_lost(self, nexus: Nexus) -> None:
        """A session has ended; its tasks need no answer."""


class ImmediateRoom:
    """For immediate commands and task management functions in progress."""

    __slots__ = ("_taken",)

    def __init__(self) -> None:
        self._taken = 0

    @property
    def is_left(self) -> bool:
        """Whether one more may begin."""
        return self._taken < MAXIMUM_IMMEDIATE

    def take(self) -> None:
        """One has begun."""
        self._taken += 1

    def give_back(self) -> None:
        """One has ended."""
        self._taken -= 1


class TargetSession:
    """One normal session."""

    __slots__ = (
        "_access",
        "_budget",
        "_deferred",
        "_free",
        "_is_draining",
        "_is_taking_up",
        "_is_waiting",
        "_kept",
        "_on_idle",
        "_orphans",
        "collapse_limit",
        "connection",
        "immediate_limit",
        "immediate_room",
        "is_lost",
        "nexus",
        "parameters",
        "share",
        "stat_sn",
        "tasks",
        "transfer_tags",
        "tsih",
        "window",
    )

    def __init__(
        self,
        access: TargetAccess,
        nexus: Nexus,
        tsih: int,
        connection: Connection,
        parameters: Parameters,
        window: CommandWindow,
        stat_sn: int,
        budget: DataBudget,
    ) -> None:
        self._access = access
        self.nexus = nexus
        self.tsih = tsih
        self.connection = connection
        self.parameters = parameters
        self.window = window
        self.stat_sn = stat_sn
        """StatSN of the next answer."""
        self.collapse_limit = 0
        """Bytes that go in one Data-In PDU with the status."""
        self.immediate_limit = 0
        """Bytes of data that a command may carry."""
        self.follow_parameters()
        self.tasks: dict[int, PortTask] = {}
        """Tasks in progress by initiator task tag, deferred ones included."""
        self._deferred: dict[int, deque[PortTask]] = {}
        """By LUN field, never empty."""
        self._budget = budget
        self.share = 0
        """Bytes of data that may be held; changed by the budget."""
        budget.join(self)
        self._free = self.share // 2
        """Bytes that may be taken up without counting; below 0 where more is."""
        connection.limit_unsent(self.share)
        self._kept = 0
        """Bytes that came with commands that wait."""
        self._is_waiting = False
        """For memory that others hold."""
        self._orphans = 0
        """Tasks at devices when the session was lost."""
        self.immediate_room = ImmediateRoom()
        self._is_draining = False
        self._is_taking_up = False
        self.transfer_tags = TaskTags()
        self.is_lost = False
        self._on_idle: Callable[[], None] | None = None

    def follow_parameters(self) -> None:
        """The initiator may have declared its segment length again."""
        parameters = self.parameters
        self.collapse_limit = min(parameters.send_limit, parameters.max_burst_length)
        self.immediate_limit = parameters.first_burst_length if parameters.immediate_data else 0

    # --- taking up commands

    def submit(self, task: PortTask) -> None:
        """Take the command up now, or when there is room. Its tag is free (checked before)."""
        self.tasks[task.tag] = task
        if task.is_immediate:
            self.immediate_room.take()
        size = task.expected_in + task.expected_out
        if (
            size <= self._free
            and len(self.tasks) <= UNCROWDED
            and not self._deferred
            and not self.connection.is_congested
        ):
            self._free -= size
            self._access.submit(task)
        else:
            self._submit_contested(task, size)

    def _submit_contested(self, task: PortTask, size: int) -> None:
        lun = task.lun
        if len(self.tasks) > UNCROWDED and not task.is_immediate:
            of_unit = sum(each.lun == lun for each in self.tasks.values())
            if of_unit > WINDOW - len(self.tasks):
                self._free -= size
                task.complete(Status.TASK_SET_FULL)
                return
        waiting = self._deferred.get(lun)
        if waiting is None and not self.connection.is_congested and self._finds_room(lun, size):
            self._free -= size
            self._access.submit(task)
            return
        kept = task.kept
        if kept and self._kept + kept > self.share:
            self._free -= size
            task.complete(Status.TASK_SET_FULL)
            return
        self._kept += kept
        if waiting is None:
            self._deferred[lun] = deque((task,))
        else:
            waiting.append(task)

    def _finds_room(self, lun: int, size: int) -> bool:
        """May a unit take up its next command, of `size` bytes? Where the session's share is too
        small for it, a larger one is asked for."""
        while not self._has_room(lun, size):
            wanted = min(max(2 * self.share, min(size + 1 & ~1, LARGEST)), ROOM)
            if wanted <= self.share or self._is_draining:
                return False
            before = self.share
            if not self._budget.grow(self, wanted):
                self._is_waiting = True
                return False
            if self.share == before:
                return False  # as large as it can be
        return True

    def _has_room(self, lun: int, size: int) -> bool:
        share = self.share
        taken = share // 2 - self._free
        if taken <= 0:
            return not self._is_draining and min(size, LARGEST) <= share
        of_unit = sum(_size(each) for each in self.tasks.values() if each.lun == lun)
        waiting = self._deferred.get(lun)
        of_unit -= size if waiting is None else sum(map(_size, waiting))
        if of_unit:
            return of_unit + size <= share - taken
        return size <= share - taken or (share >= ROOM and taken + size <= 2 * share)

    def answer_unsubmitted(self, task: PortTask, failure: Sense) -> None:
        """End a command with CHECK CONDITION that no unit ever saw."""
        self.tasks[task.tag] = task
        if task.is_immediate:
            self.immediate_room.take()
        self._free -= task.expected_in + task.expected_out
        task.complete(Status.CHECK_CONDITION, (), failure.fixed())

    def take_up(self) -> None:
        """Take up deferred commands as far as there is room."""
        if self._is_taking_up:
            return  # A task that completes inline: the loop below goes on.
        self._is_taking_up = True
        try:
            for lun in tuple(self._deferred):
                self._take_up_of(lun)
        finally:
            self._is_taking_up = False
        if self.window.withheld and not self._is_waiting:
            self._give_back_places()

    def _take_up_of(self, lun: int) -> None:
        """Take up what waits for one unit, in order."""
        while not self.connection.is_congested:
            waiting = self._deferred.get(lun)
            if waiting is None:
                return
            task = waiting[0]
            size = _size(task)
            if not self._finds_room(lun, size):
                return
            self._leave_queue(task)
            self._free -= size
            self._access.submit(task)

    def _leave_queue(self, task: PortTask) -> bool:
        """Take a command out of those that wait; False: it is not one of them."""
        waiting = self._deferred.get(task.lun)
        if waiting is None or task not in waiting:
            return False
        waiting.remove(task)
        self._kept -= task.kept
        if not waiting:
            del self._deferred[task.lun]
            if self._is_waiting and not self._deferred:
                self._is_waiting = False
                self._budget.forget(self)
        return True

    def retire(self, task: PortTask) -> bool:
        """A task has its answer; whether the answer can be sent."""
        if self.is_lost:
            self._orphans -= 1
            if self._orphans <= 0:
                self._budget.leave(self)
            return False
        tasks, tag = self.tasks, task.tag
        if tasks.get(tag) is not task:
            log.error("a task was completed twice", tag=tag, lun=task.lun)
            return False
        del tasks[tag]
        self._free += task.expected_in + task.expected_out
        if task.is_immediate or self._on_idle is not None:
            self._release(task)
        else:
            window = self.window
            window.max_cmd_sn = window.max_cmd_sn + 1 & MASK
        if self._deferred:
            if self._is_waiting and not task.is_immediate:
                # No PDU has told of the place that this command has left.
                self.window.withhold(NARROW)
            # Later, so that this answer keeps its place before theirs.
            self.connection.call_soon(self.take_up)
        return True

    def _release(self, task: PortTask) -> None:
        if task.is_immediate:
            self.immediate_room.give_back()
        else:
            self.window.max_cmd_sn = self.window.max_cmd_sn + 1 & MASK
        if self._on_idle is not None:
            self._tell_if_idle()

    # --- memory (`data_budget.Client`)

    def in_use(self) -> int:
        """Bytes held: by tasks taken up, and by what the host has not read yet."""
        if self._is_draining:
            return self.share
        taken = self.share // 2 - self._free
        return max(taken, 0) + self._kept + self.connection.unsent

    def progress(self) -> object | None:
        """Where the host is waited for: what changes when it sends or reads something worth while
        (a byte now and then is not)."""
        connection = self.connection
        fetching = [task for task in self.tasks.values() if task.fetching]
        if not fetching and not connection.is_congested:
            return None
        received = sum(task.received for task in fetching)
        return (len(fetching), received // WORTH_WHILE, connection.unsent // WORTH_WHILE)

    def share_changed(self, before: int) -> None:
        self._free += self.share // 2 - before // 2
        self.connection.limit_unsent(self.share)
        if self.share > before and self._is_waiting:
            self._is_waiting = False
            self.connection.call_soon(self.take_up)

    def end_stalled(self) -> None:
        log.warning(
            "session ended", initiator=self.nexus.initiator_name, tsih=self.tsih, held=self.share,
            reason="it holds memory that others wait for, and neither sends nor reads",
        )  # fmt: skip
        self.connection.abort()

    def _give_back_places(self) -> None:
        """Open the window again, and say so: the host may have nothing in progress whose answer
        would."""
        window = self.window
        window.give_back()
        self.connection.send(
            NopIn(
                0, RESERVED_TAG, RESERVED_TAG, self.stat_sn, window.exp_cmd_sn, window.max_cmd_sn
            ).pack()
        )

    def drain(self, idle: Callable[[], None]) -> None:
        """Take up no more commands; call `idle` when those in progress have ended."""
        self._is_draining = True
        self._free -= _CLOSED
        self._on_idle = idle
        self._tell_if_idle()

    def _tell_if_idle(self) -> None:
        waiting = sum(map(len, self._deferred.values()))
        if self._on_idle is not None and len(self.tasks) <= waiting:
            idle, self._on_idle = self._on_idle, None
            idle()

    # --- task management

    def abort_deferred(self, matches: Callable[[PortTask], bool]) -> int:
        """Drop commands that were not taken up yet; how many."""
        dropped = [task for each in self._deferred.values() for task in each if matches(task)]
        for task in dropped:
            self._leave_queue(task)
            task.aborted = True
            del self.tasks[task.tag]
            self._release(task)
        return len(dropped)

    def abort_for_port(self, task: PortTask) -> None:
        """Make the unit let go of a task whose data went wrong; `complete` then answers with the
        task's failure."""
        if self._leave_queue(task):
            self._free -= task.expected_in + task.expected_out
            task.complete(0)
            return
        self._access.task_management(
            self.nexus, TaskManagementFunction.ABORT_TASK, task.lun, task.tag, _nothing
        )

    # --- numbers

    def take_stat_sn(self) -> int:
        stat_sn = self.stat_sn
        self.stat_sn = stat_sn + 1 & MASK
        return stat_sn

    def reject(self, header: bytes, reason: RejectReason) -> None:
        """Reject a PDU (11.17)."""
        self.connection.send(
            Reject(
                reason, self.take_stat_sn(), self.window.exp_cmd_sn, self.window.max_cmd_sn,
                0, header,
            ).pack(),
            header,
        )  # fmt: skip

    # --- end

    def lose(self) -> None:
        """The session has ended: its tasks need no answer any more."""
        if self.is_lost:
            return
        self.is_lost = True
        self._orphans = len(self.tasks) - sum(map(len, self._deferred.values()))
        self._deferred.clear()
        self._kept = 0
        self._budget.forget(self)
        if not self._orphans:
            self._budget.leave(self)
        for task in self.tasks.values():
            task.aborted = True
        self._access.nexus_lost(self.nexus)
        self.tasks.clear()
        self._tell_if_idle()


def _size(task: PortTask) -> int:
    """Bytes of data that a command may hold."""
    return task.expected_in + task.expected_out


def _nothing(response: int) -> None:
    """The port's own ABORT TASK is answered by the task's end."""
