"""A session at the target port: numbering, the tasks in progress, how much is taken up at once.

MaxConnections is 1, so a session has one connection and one StatSN. Three bounds keep the memory
that an initiator can make this side hold: the command window (tasks that exist), `ROOM` (bytes of
data of the tasks that were taken up) and the transport's high-water mark (answers not yet read).
Commands beyond the last two wait, in the order of their unit, and are taken up when there is room
again.

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
from typing import Protocol

import structlog

from daiko.iscsi.bhs import TaskManagementFunction
from daiko.iscsi.error import RejectReason
from daiko.iscsi.negotiation import Parameters
from daiko.iscsi.pdu import Reject
from daiko.iscsi.session import MASK, CommandWindow, TaskTags
from daiko.port.connection import Connection
from daiko.scsi.opcode import Status
from daiko.scsi.sense import Sense
from daiko.target.nexus import Nexus
from daiko.target.port_task import PortTask
from daiko.target.task import Task

log = structlog.get_logger(__name__)

WINDOW = 256
"""Commands of one session in progress; of one unit no more than half."""
UNCROWDED = WINDOW // 2
"""Commands in progress up to which no unit can have more than its share."""
ROOM = 32 * 1024 * 1024
"""Bytes of data-in and data-out of commands taken up; one larger command goes alone."""
UNCONTESTED = ROOM // 2
"""Bytes taken up to which no unit can have more than its share."""
_CLOSED = 1 << 62
"""Bytes taken off the room so that no command fits any more."""
MAXIMUM_IMMEDIATE = 32
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


class TargetSession:
    """One normal session."""

    __slots__ = (
        "_access",
        "_deferred",
        "_free",
        "_immediate",
        "_is_taking_up",
        "_on_idle",
        "_transfer_tags",
        "collapse_limit",
        "connection",
        "is_lost",
        "nexus",
        "parameters",
        "stat_sn",
        "tasks",
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
        self.follow_parameters()
        self.tasks: dict[int, PortTask] = {}
        """Tasks in progress by initiator task tag, deferred ones included."""
        self._deferred: dict[int, deque[PortTask]] = {}
        """By LUN field, never empty."""
        self._free = UNCONTESTED
        """Bytes that may be taken up without counting; below 0 where more is."""
        self._immediate = 0
        self._is_taking_up = False
        self._transfer_tags = TaskTags()
        self.is_lost = False
        self._on_idle: Callable[[], None] | None = None

    def follow_parameters(self) -> None:
        """The initiator may have declared its segment length again."""
        parameters = self.parameters
        self.collapse_limit = min(parameters.send_limit, parameters.max_burst_length)

    def start(self) -> None:
        self._access.nexus_started(self.nexus)

    # --- taking up commands

    def submit(self, task: PortTask) -> None:
        """Take the command up now, or when there is room. Its tag is free (checked before)."""
        self.tasks[task.tag] = task
        if task.is_immediate:
            self._immediate += 1
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
        if waiting is not None:
            waiting.append(task)
        elif self.connection.is_congested or not self._has_room(lun, size):
            self._deferred[lun] = deque((task,))
        else:
            self._free -= size
            self._access.submit(task)

    def _has_room(self, lun: int, size: int) -> bool:
        """May a unit take up its next command, of `size` bytes?"""
        taken = UNCONTESTED - self._free
        if not taken:
            return True
        of_unit = sum(_size(each) for each in self.tasks.values() if each.lun == lun)
        waiting = self._deferred.get(lun)
        of_unit -= size if waiting is None else sum(map(_size, waiting))
        if of_unit:
            return of_unit + size <= ROOM - taken
        return size <= ROOM - taken or taken + size <= 2 * ROOM

    def answer_unsubmitted(self, task: PortTask, failure: Sense) -> None:
        """End a command with CHECK CONDITION that no unit ever saw."""
        self.tasks[task.tag] = task
        if task.is_immediate:
            self._immediate += 1
        self._free -= task.expected_in + task.expected_out
        task.complete(Status.CHECK_CONDITION, (), failure.fixed())

    def immediate_began(self) -> None:
        """A request outside the command window is in progress."""
        self._immediate += 1

    def immediate_ended(self) -> None:
        self._immediate -= 1

    @property
    def has_room_for_immediate(self) -> bool:
        return self._immediate < MAXIMUM_IMMEDIATE

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

    def _take_up_of(self, lun: int) -> None:
        """Take up what waits for one unit, in order."""
        while not self.connection.is_congested:
            waiting = self._deferred.get(lun)
            if waiting is None:
                return
            task = waiting[0]
            size = _size(task)
            if not self._has_room(lun, size):
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
        if not waiting:
            del self._deferred[task.lun]
        return True

    def retire(self, task: PortTask) -> bool:
        """A task has its answer; whether the answer can be sent."""
        if self.is_lost:
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
            # Later, so that this answer keeps its place before theirs.
            self.connection.call_soon(self.take_up)
        return True

    def _release(self, task: PortTask) -> None:
        if task.is_immediate:
            self._immediate -= 1
        else:
            self.window.max_cmd_sn = self.window.max_cmd_sn + 1 & MASK
        if self._on_idle is not None:
            self._tell_if_idle()

    def drain(self, idle: Callable[[], None]) -> None:
        """Take up no more commands; call `idle` when those in progress have ended."""
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

    def take_transfer_tag(self) -> int:
        return self._transfer_tags.take(())

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
        self._deferred.clear()
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
