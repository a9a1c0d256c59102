"""Who has blocks of a logical unit for himself (SBC-4, 4.29: atomic writes; 5.3; 5.22).

COMPARE AND WRITE and ORWRITE read, look and write; between the read and the write nobody else may
change the blocks. During WRITE ATOMIC nobody may even read them. A device that can do these things
keeps others off by itself. Where it cannot (it lacks the command, or the blocks lie in several
extents), the unit does it: the one place that all commands of all hosts come through, and that the
copy manager asks before it writes to blocks of a volume (`enter`).

These commands are rare, READ and WRITE are not. So nothing is noted on the data path: no lock is
entered, no counter kept. Instead, when the first command wants blocks for itself,

- a *guard* takes the device's place (`unit.device`): from then on every request passes a
  `RangeLock`, as shared entry, and waits there behind whoever has its blocks alone;
- the tasks of the unit are looked through, and each that is at the device already is *adopted*:
  it gets shared entries for its blocks, which are given back when the task ends.

When the last such command has ended the guard goes. A command of several requests one after the
other must not be adopted and then stand in line behind the one that waits for it. It therefore
takes its device once (`device_for`): the bare one, if it begins before a guard; the guard, if
there is one, and then it is not adopted by a later one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from daiko.command_control import analysis
from daiko.command_control.command_table import (
    Addresses,
    Change,
    CommandRow,
    CommandSet,
    Data,
    range_decoder,
)
from daiko.device.block import Atomic, BlockDevice, Buffer, Done, PrefetchDone, ReadDone
from daiko.device.error import DeviceError
from daiko.device.layer.layer import Layer
from daiko.device.range_lock import RangeLock

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.task import Task

Operation = Callable[[BlockDevice, Done], None]
"""What is to be done alone, with the device to do it on and what to call at the end."""


class Exclusion:
    """The exclusive use of blocks of one unit."""

    __slots__ = ("_adopted", "_alone", "_guard", "_guarded", "_reads", "_unit", "_writes")

    def __init__(self, unit: LogicalUnit) -> None:
        self._unit = unit
        self._writes = RangeLock()
        self._reads = RangeLock()
        self._alone = 0
        """Operations that have blocks for themselves, or wait for that."""
        self._guard = _Guard(unit.bare_device, self._reads, self._writes)
        self._adopted: dict[Task, list[tuple[RangeLock, int]]] = {}
        self._guarded: set[Task] = set()
        """Tasks of several requests that began with the guard."""

    @property
    def is_watching(self) -> bool:
        """`ended` wants to be told of tasks."""
        return bool(self._adopted or self._guarded)

    def run_alone(
        self,
        task: Task | None,
        lba: int,
        blocks: int,
        operation: Operation,
        done: Done,
        *,
        against_reads: bool = False,
    ) -> None:
        """Call `operation(device, finished)` as soon as nobody else writes to the blocks (nor,
        `against_reads`, reads them), and let nobody else until it calls `finished`; then `done`.
        `task` is the command that this is for: it does not wait for itself."""
        self._alone += 1
        if self._alone == 1:
            self._put_guard(task)

        def begin(write_ticket: int) -> None:
            if against_reads:
                self._reads.wait_exclusive(
                    lba, blocks, lambda read_ticket: carry_out(write_ticket, read_ticket)
                )
            else:
                carry_out(write_ticket, -1)

        def carry_out(write_ticket: int, read_ticket: int) -> None:
            def finished(error: DeviceError | None) -> None:
                if read_ticket >= 0:
                    self._reads.leave(read_ticket)
                self._writes.leave(write_ticket)
                self._alone -= 1
                if not self._alone:
                    self._take_guard_away()
                done(error)

            operation(self._unit.bare_device, finished)

        self._writes.wait_exclusive(lba, blocks, begin)

    def device_for(self, task: Task) -> BlockDevice:
        """The device for all requests of a command that makes several."""
        device = self._unit.device
        if device is self._guard:
            self._guarded.add(task)
            self._unit.task_set.watch()
        return device

    def replace(self, device: BlockDevice) -> BlockDevice:
        """The unit's bare device is another one from now on; returns what stands for it."""
        self._guard.below = device
        self._guard.capabilities = device.capabilities
        self._guard.blocks = device.blocks
        return self._guard if self._alone else device

    def refuse_range(self, lba: int, blocks: int, error: DeviceError) -> None:
        """Whoever has these blocks alone will have them for long: let the requests of others fail
        with `error` instead of waiting, those that wait already included."""
        self._guard.refuse(lba, blocks, error)

    def admit_range(self, lba: int, blocks: int) -> None:
        """Take one `refuse_range` back."""
        self._guard.admit(lba, blocks)

    def enter(self, lba: int, blocks: int, begin: Callable[[Callable[[], None]], None]) -> None:
        """For a write that does not come as a command of this unit (the copy manager's): call
        `begin(leave)` as soon as nobody has the blocks alone; `leave` is called at its end."""
        lock = self._writes
        lock.wait_shared(lba, blocks, lambda ticket: begin(lambda: lock.leave(ticket)))

    def ended(self, task: Task) -> None:
        """A task has ended."""
        self._guarded.discard(task)
        for lock, ticket in self._adopted.pop(task, ()):
            lock.leave(ticket)

    def _put_guard(self, asking: Task | None) -> None:
        unit = self._unit
        for task in unit.task_set.at_device():
            if task is not asking and task not in self._guarded:
                entries = self._entries_of(task)
                if entries:
                    self._adopted[task] = entries
        unit.device = self._guard
        unit.task_set.watch()

    def _take_guard_away(self) -> None:
        self._unit.device = self._unit.bare_device
        while self._adopted:
            _, entries = self._adopted.popitem()
            for lock, ticket in entries:
                lock.leave(ticket)

    def _entries_of(self, task: Task) -> list[tuple[RangeLock, int]]:
        row = analysis.analyse(task.cdb)
        if row is None:
            return []
        lba, blocks = self._range_of(row, task.cdb)
        if not blocks:
            return []
        lock = self._writes if row.change is Change.WRITES else self._reads
        return [(lock, lock.try_shared(lba, blocks))]

    def _range_of(self, row: CommandRow, cdb: bytes) -> tuple[int, int]:
        """The blocks that a command may read or change; (0, 0) for none."""
        if row.command_set is not CommandSet.SBC or row.data is Data.NONE:
            return 0, 0
        if row.addresses is Addresses.LIST:
            return 0, self._unit.blocks
        decode = range_decoder(row)
        if decode is None:
            return 0, 0
        _, lba, blocks = decode(cdb)
        if row.addresses is Addresses.RANGE_OR_REST:
            blocks = blocks or self._unit.blocks - lba
        return lba, blocks


class _Waiting:
    """A request that stands in line."""

    __slots__ = ("blocks", "fail", "has_failed", "lba")

    def __init__(self, lba: int, blocks: int, fail: Done) -> None:
        self.lba = lba
        self.blocks = blocks
        self.fail = fail
        self.has_failed = False


class _Guard(Layer):
    """The device, with every request behind the locks."""

    def __init__(self, below: BlockDevice, reads: RangeLock, writes: RangeLock) -> None:
        super().__init__(below)
        self._reads = reads
        self._writes = writes
        self._refused: list[tuple[int, int, DeviceError]] = []
        self._in_line: set[_Waiting] = set()

    def refuse(self, lba: int, blocks: int, error: DeviceError) -> None:
        self._refused.append((lba, blocks, error))
        for waiting in tuple(self._in_line):
            if _overlap(lba, blocks, waiting.lba, waiting.blocks):
                self._in_line.discard(waiting)
                waiting.has_failed = True
                waiting.fail(error)

    def admit(self, lba: int, blocks: int) -> None:
        self._refused = [each for each in self._refused if each[:2] != (lba, blocks)]

    def _enter(
        self, lock: RangeLock, lba: int, blocks: int, begin: Callable[[int], None], fail: Done
    ) -> None:
        for refused_lba, refused_blocks, error in self._refused:
            if _overlap(refused_lba, refused_blocks, lba, blocks):
                fail(error)
                return
        ticket = lock.try_shared(lba, blocks)
        if ticket >= 0:
            begin(ticket)
            return
        waiting = _Waiting(lba, blocks, fail)
        self._in_line.add(waiting)

        def admitted(ticket: int) -> None:
            self._in_line.discard(waiting)
            if waiting.has_failed:
                lock.leave(ticket)
            else:
                begin(ticket)

        lock.wait_shared(lba, blocks, admitted)

    def _change(self, lba: int, blocks: int, done: Done, send: Callable[[Done], None]) -> None:
        lock = self._writes

        def begin(ticket: int) -> None:
            def finished(error: DeviceError | None) -> None:
                lock.leave(ticket)
                done(error)

            send(finished)

        if blocks:
            self._enter(lock, lba, blocks, begin, done)
        else:
            done(None)

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        lock = self._reads

        def begin(ticket: int) -> None:
            def finished(error: DeviceError | None, data: Buffer) -> None:
                lock.leave(ticket)
                done(error, data)

            self.below.read(lba, blocks, finished)

        self._enter(lock, lba, blocks, begin, lambda error: done(error, b""))

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        self._change(
            lba,
            len(data) // self.block_size,
            done,
            lambda finished: self.below.write(lba, data, finished, fua),
        )

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        self._change(lba, blocks, done, lambda then: self.below.unmap(lba, blocks, then))

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        self._change(
            lba, blocks, done, lambda then: self.below.write_same(lba, blocks, pattern, then)
        )

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        self._change(
            lba,
            len(data) // self.block_size,
            done,
            lambda then: self.below.compare_and_write(lba, compare, data, then),
        )

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        blocks = len(data) // self.block_size
        self._change(lba, blocks, done, lambda then: self.below.or_write(lba, data, then))

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        blocks = len(data) // self.block_size
        self._change(lba, blocks, done, lambda then: self.below.write_atomic(lba, data, then))

    def is_native(self, operation: Atomic, lba: int, blocks: int) -> bool:
        return self.below.is_native(operation, lba, blocks)

    def prefetch(self, lba: int, blocks: int, done: PrefetchDone) -> None:
        self.below.prefetch(lba, blocks, done)

    def close(self) -> None:
        """The device below belongs to the unit."""


def _overlap(lba: int, blocks: int, other_lba: int, other_blocks: int) -> bool:
    return lba < other_lba + other_blocks and other_lba < lba + blocks
