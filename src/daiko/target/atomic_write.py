"""WRITE ATOMIC(16): all of the blocks or none (SBC-4, 4.29 and 5.44), decision 9.

While it runs nobody else reads or writes these blocks (`exclusion.py`). Where one device can do it
(all blocks lie in one extent, on an LU whose own WRITE ATOMIC takes them), it is passed on.
Elsewhere it is made of ordinary writes under the protection of an intent log: the old blocks go to
the log, the new ones to their places on stable storage, the entry in the log is struck out. So GOOD
means here that the blocks are on stable storage, with or without FUA.

What fails is undone: the old blocks are written back before the host hears of the error. Where that
fails too (a back end is gone), the host hears of the error at once, and the blocks are *in doubt*:
whoever wants them is told that they cannot be reached, until the old blocks are back. It is tried
again by and by, and when the devices of the volume are taken anew. Entries that a crash left in the
log are in doubt from the start.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from daiko.backend.intent_log import MOST_BYTES, Intent, IntentLog
from daiko.device.block import Atomic, BlockDevice, Buffer, Done
from daiko.device.error import DeviceError, MediumFailure, OutOfRange, Unreachable
from daiko.target.commands.durable import write_through

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.task import Task

log = structlog.get_logger(__name__)

FIRST_RETRY = 1.0
LONGEST_RETRY = 30.0
"""Seconds between two attempts to undo; doubled each time."""


class AtomicWrites:
    """The atomic writes of one unit."""

    __slots__ = ("_doubts", "_log", "_unit")

    def __init__(self, unit: LogicalUnit, intents: IntentLog) -> None:
        self._unit = unit
        self._log = intents
        self._doubts: list[_Doubt] = []

    def take_up(self) -> None:
        """Undo what a crash came into. Before any host reaches the unit. Raises OSError."""
        for intent in self._log.read():
            log.warning("atomic write to be undone", unit=self._unit.identity.name, lba=intent.lba)

            def operation(device: BlockDevice, finished: Done, intent: Intent = intent) -> None:
                self._doubt(intent, finished)

            self._unit.alone.run_alone(
                None, intent.lba, self._blocks(intent), operation, _nobody_waits, against_reads=True
            )

    def devices_changed(self) -> None:
        """The devices of the unit were taken anew: what could not be undone may be now."""
        for doubt in tuple(self._doubts):
            doubt.undo()

    def close(self) -> None:
        """The unit goes; what is in doubt stays in the log."""
        for doubt in self._doubts:
            doubt.give_up()
        self._log.close()

    def write(self, device: BlockDevice, lba: int, data: Buffer, done: Done, leave: Done) -> None:
        """Write under the protection of the log. `done` is for the host, `leave` gives the blocks
        back to others, maybe later."""

        def end(error: DeviceError | None) -> None:
            done(error)
            leave(None)

        def have_read(error: DeviceError | None, old: Buffer) -> None:
            if error is not None:
                end(error)
                return
            kept = bytes(old)

            def begun(error: DeviceError | None, intent: Intent | None) -> None:
                if intent is None:
                    end(error)
                else:
                    write_through(
                        device,
                        lba,
                        data,
                        lambda error: self._written(device, intent, error, done, leave),
                    )

            self._log.begin(lba, kept, data, begun)

        device.read(lba, len(data) // device.block_size, have_read)

    def _written(
        self,
        device: BlockDevice,
        intent: Intent,
        error: DeviceError | None,
        done: Done,
        leave: Done,
    ) -> None:
        if error is None:
            self._log.end(intent, lambda unstruck: self._struck(intent, unstruck, done, leave))
            return

        def restored(again: DeviceError | None) -> None:
            if again is not None:
                done(error)
                self._doubt(intent, leave)
                return

            def struck(_: DeviceError | None) -> None:
                # An entry that stays would only put the same blocks back once more, and not where
                # something else was written since.
                done(error)
                leave(None)

            self._log.end(intent, struck)

        write_through(device, intent.lba, intent.data, restored)

    def _struck(self, intent: Intent, error: DeviceError | None, done: Done, leave: Done) -> None:
        """All blocks are written. If the entry is still there a restart would undo them: so the
        host may not be told GOOD, and they are undone now."""
        if error is None:
            done(None)
            leave(None)
        else:
            done(error)
            self._doubt(intent, leave)

    def _doubt(self, intent: Intent, leave: Done) -> None:
        blocks = self._blocks(intent)
        doubt = _Doubt(self._unit, self._log, intent, leave, self._doubts)
        self._doubts.append(doubt)
        self._unit.alone.refuse_range(
            intent.lba, blocks, Unreachable("an atomic write to these blocks is to be undone first")
        )
        doubt.undo()

    def _blocks(self, intent: Intent) -> int:
        return len(intent.data) // self._unit.block_size


class _Doubt:
    """Blocks whose old contents have to be put back."""

    __slots__ = ("_delay", "_doubts", "_intent", "_is_trying", "_leave", "_log", "_timer", "_unit")

    def __init__(
        self,
        unit: LogicalUnit,
        intents: IntentLog,
        intent: Intent,
        leave: Done,
        doubts: list[_Doubt],
    ) -> None:
        self._unit = unit
        self._log = intents
        self._intent = intent
        self._leave = leave
        self._doubts = doubts
        self._delay = FIRST_RETRY
        self._timer: asyncio.TimerHandle | None = None
        self._is_trying = False

    def undo(self) -> None:
        """Try it now."""
        if self._is_trying:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_trying = True
        intent, unit = self._intent, self._unit
        device = unit.bare_device
        blocks = len(intent.data) // unit.block_size

        def have_read(error: DeviceError | None, found: Buffer) -> None:
            if isinstance(error, OutOfRange) or (error is None and not intent.is_ours(found)):
                log.error(
                    "atomic write not undone: somebody else has written there",
                    unit=unit.identity.name,
                    lba=intent.lba,
                )
                self._log.end(intent, self._ended)
            elif error is None or isinstance(error, MediumFailure):
                write_through(device, intent.lba, intent.data, restored)
            else:
                self._again(error)

        def restored(error: DeviceError | None) -> None:
            if error is None:
                log.info("atomic write undone", unit=unit.identity.name, lba=intent.lba)
                self._log.end(intent, self._ended)
            else:
                self._again(error)

        device.read(intent.lba, blocks, have_read)

    def give_up(self) -> None:
        """Try no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _again(self, error: DeviceError) -> None:
        self._is_trying = False
        log.warning(
            "atomic write cannot be undone yet", unit=self._unit.identity.name, why=str(error)
        )
        self._timer = asyncio.get_running_loop().call_later(self._delay, self.undo)
        self._delay = min(2 * self._delay, LONGEST_RETRY)

    def _ended(self, error: DeviceError | None) -> None:
        if error is not None:
            self._again(error)
            return
        self._doubts.remove(self)
        intent = self._intent
        self._unit.alone.admit_range(intent.lba, len(intent.data) // self._unit.block_size)
        self._leave(None)


def _nobody_waits(error: DeviceError | None) -> None:
    """There is no command that this is for."""


def of(unit: LogicalUnit) -> AtomicWrites | None:
    """The atomic writes of a unit that has an intent log; made when they are first needed."""
    if unit.atomic_writes is None and unit.open_intents is not None:
        unit.atomic_writes = AtomicWrites(unit, unit.open_intents())
    return unit.atomic_writes


def most_blocks(unit: LogicalUnit) -> int:
    """The longest WRITE ATOMIC of a unit, in blocks; 0 = it has none."""
    if unit.open_intents is not None:
        return min(MOST_BYTES // unit.block_size, unit.maximum_transfer)
    return min(unit.bare_device.capabilities.atomic_blocks, unit.maximum_transfer)


def write(unit: LogicalUnit, task: Task, lba: int, data: Buffer, done: Done) -> None:
    """Carry out an atomic write of a host; `done` for the host."""
    blocks = len(data) // unit.block_size

    def operation(device: BlockDevice, leave: Done) -> None:
        def end(error: DeviceError | None) -> None:
            done(error)
            leave(None)

        if device.is_native(Atomic.WRITE, lba, blocks):
            device.write_atomic(lba, data, end)
        elif (writes := of(unit)) is not None:
            writes.write(device, lba, data, done, leave)
        else:
            end(Unreachable("the device that took atomic writes is away"))

    unit.alone.run_alone(task, lba, blocks, operation, _nobody_waits, against_reads=True)
