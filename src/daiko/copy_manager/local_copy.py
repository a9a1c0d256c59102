"""Copying by this controller: a bounded pump that reads and writes.

What is missing of some steps from one device to one other is cut into transfers. A transfer waits
for the pace of its job, takes its buffer from the budget that all jobs share, reads from the
source, writes what it read to the destination, and gives the buffer back. (In this order: who waits
for the pace holds no memory.) So many of them are in flight that the way stays full
(`window.py`); how much memory they hold is the budget's affair and does not depend on the size of
the volume.

Like everything that moves data here the pump works with completions: a transfer is one small
object whose bound methods are the callbacks, and no task or future is made for it. A device may
complete inline; therefore a completion never begins the next transfer itself but leaves that to
the next turn of the event loop. That also keeps a fast local device from starving the hosts.

A transfer that fails for a while (BUSY, connection lost) waits and tries again, with its data in
hand if it was the write that failed. One that fails for good ends the pump: nothing new is begun,
what is in flight comes to its end, the first error is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from math import lcm
from time import monotonic

from daiko.command_control.plan import Step
from daiko.copy_manager.budget import TransferBudget
from daiko.copy_manager.error import CopyFailed, Side
from daiko.copy_manager.failure import Verdict, classify_error
from daiko.copy_manager.halt import Halt
from daiko.copy_manager.pacer import Pacer
from daiko.copy_manager.settings import CopySettings, Retries
from daiko.copy_manager.step_work import Run, StepWork, cut, share_out
from daiko.copy_manager.window import Window
from daiko.device.block import BlockDevice, Buffer
from daiko.device.error import DeviceError


class LocalCopy:
    """Steps of one source and one destination device that may run side by side, carried out by
    this controller: begun in their order."""

    def __init__(
        self,
        works: Sequence[StepWork],
        source: BlockDevice,
        destination: BlockDevice,
        *,
        budget: TransferBudget,
        pacer: Pacer,
        settings: CopySettings,
        retries: Retries,
        halt: Halt,
        generation: Callable[[StepWork], int],
        moved: Callable[[], None],
    ) -> None:
        """`generation` says over which connection the destination is reached now; `moved` is
        called after each transfer."""
        self.works = works
        self.source = source
        self.destination = destination
        self.retries = retries
        self.halt = halt
        self.generation = generation
        self._budget = budget
        self._pacer = pacer
        self._moved = moved
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._blocks = self._transfer_blocks(settings.transfer_bytes)
        self._bytes = self._blocks * source.block_size
        self._window = Window(settings.least_transfers_in_flight, settings.transfers_in_flight)
        self._ranges = self._cut()
        self._next: Run | None = None
        """Of the transfer that waits for its pace, then for its memory."""
        self._in_flight = 0
        self._resting: dict[_Transfer, asyncio.TimerHandle] = {}
        self._exhausted = False
        self._scheduled = False
        self._is_cancelled = False
        self._failure: CopyFailed | None = None

    async def run(self) -> None:
        """Copy what is missing of the steps; return early when a halt was asked for, with nothing
        in flight. Raises CopyFailed."""
        self.halt.listen(self._halted)
        started = self._loop.time()
        before = [work.copied_blocks for work in self.works]
        try:
            self._schedule()
            await self._finished
        except asyncio.CancelledError:
            # Nobody waits any more: what is in flight ends by itself, and nothing follows it.
            self._is_cancelled = True
            self._halted()
            raise
        finally:
            self.halt.unlisten(self._halted)
            share_out(self.works, self._loop.time() - started, before)
        if self._failure is not None:
            raise self._failure

    # --- giving out transfers -------------------------------------------------------------------

    def _transfer_blocks(self, transfer_bytes: int) -> int:
        """Source blocks of one transfer: what both devices take at once, in whole blocks of
        both."""
        size = transfer_bytes
        for device in (self.source, self.destination):
            if device.capabilities.maximum_blocks:
                size = min(size, device.capabilities.maximum_blocks * device.block_size)
        unit = lcm(self.source.block_size, self.destination.block_size)
        return max(size // unit, 1) * unit // self.source.block_size

    def _cut(self) -> Iterator[Run]:
        """The missing ranges in transfers."""
        for work in self.works:
            for first, blocks in cut(work.missing(), lambda: self._blocks):
                yield work, first, blocks

    @property
    def is_stopped(self) -> bool:
        """Nothing is to be begun, nor tried again."""
        return self.halt.requested or self._is_cancelled

    @property
    def _is_ending(self) -> bool:
        return self._exhausted or self._failure is not None or self.is_stopped

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Begin one transfer if there is room for it; come again if there is room for more."""
        self._scheduled = False
        if self._is_ending:
            self._end_if_idle()
        elif self._in_flight < self._window.size and self._next is None:
            self._next = next(self._ranges, None)
            if self._next is None:
                self._exhausted = True
                self._end_if_idle()
            elif self._pacer.take(_size(self._next), self._in_pace):
                self._ask_for_memory()

    def _in_pace(self) -> None:
        # Called from the pacer's timer, or by whoever changes the pace: go on in a turn of our own.
        self._loop.call_soon(self._ask_for_memory)

    def _ask_for_memory(self) -> None:
        if self._is_ending:
            self._drop_next()
        elif self._budget.take(self._bytes, self._granted, self._held):
            self._begin()

    def _held(self) -> int:
        """Bytes of the transfers in flight."""
        return self._in_flight * self._bytes

    def _granted(self) -> None:
        # Called from within another pump's completion: begin in a turn of our own.
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        run = self._next
        assert run is not None
        if self._is_ending:
            self._budget.give(self._bytes)
            self._drop_next()
            return
        self._next = None
        self._in_flight += 1
        self._schedule()
        _Transfer(self, run).read()

    def _drop_next(self) -> None:
        """The next transfer was in pace, and will not be begun."""
        assert self._next is not None
        self._pacer.give(_size(self._next))
        self._next = None
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._next is not None:
            if self._pacer.withdraw(self._in_pace):
                self._next = None
            elif self._budget.withdraw(self._granted):
                self._drop_next()
        if self._in_flight == 0 and self._next is None and not self._finished.done():
            self._finished.set_result(None)

    def _halted(self) -> None:
        """Nobody waits for another try any more."""
        while self._resting:
            _, timer = self._resting.popitem()
            timer.cancel()
            self.transfer_dropped()
        self._schedule()

    # --- what transfers report ------------------------------------------------------------------

    def transfer_done(self, run: Run, generation: int, begun: float) -> None:
        """A transfer's blocks are at the destination. `begun`: when it was, 0 = it had to rest."""
        if begun:
            self._window.took(monotonic() - begun)
        work, first, blocks = run
        work.bytes_through += blocks * work.block_size
        work.note_written(first, blocks, generation)
        self._moved()
        self._release()

    def transfer_failed(self, work: StepWork, side: Side, error: DeviceError) -> None:
        """A transfer gave up. Of several the one of the first segment counts: those before it were
        begun, and come to their end."""
        step = work.step
        if self._failure is None or step.segment < self._failure.segment:
            self._failure = CopyFailed(
                f"{_name(step, side)}: {error}", segment=step.segment, side=side, error=error
            )
        self._release()

    def rest(self, transfer: _Transfer, delay: float, again: Callable[[], None]) -> None:
        """A transfer tries again after a while."""

        def wake() -> None:
            del self._resting[transfer]
            again()

        self._resting[transfer] = self._loop.call_later(delay, wake)

    def transfer_dropped(self) -> None:
        """A transfer ended because of a halt."""
        self._release()

    def _release(self) -> None:
        self._in_flight -= 1
        self._budget.give(self._bytes)
        self._schedule()


def _size(run: Run) -> int:
    """Bytes of a transfer."""
    work, _, blocks = run
    return blocks * work.block_size


def _name(step: Step, side: Side) -> str:
    if side is Side.SOURCE:
        return f"reading from {step.source.device}"
    return f"writing to {step.destination.device}"


class _Transfer:
    """One buffer on its way: read, then write; each tried again while that makes sense."""

    __slots__ = ("_begun", "_copy", "_data", "_generation", "_run", "_tries")

    def __init__(self, copy: LocalCopy, run: Run) -> None:
        self._copy = copy
        self._run = run
        self._data: Buffer = b""
        self._generation = 0
        self._tries = copy.retries.begin(monotonic)
        self._begun = monotonic()  # (the loop's own clock counts whole milliseconds)

    def read(self) -> None:
        work, first, blocks = self._run
        self._copy.source.read(work.step.source.lba + first, blocks, self._read_done)

    def _read_done(self, error: DeviceError | None, data: Buffer) -> None:
        if error is not None:
            self._again(Side.SOURCE, error, self.read)
            return
        self._data = data
        self._tries.succeeded()
        self._write()

    def _write(self) -> None:
        copy = self._copy
        work, first, _ = self._run
        self._generation = copy.generation(work)
        skipped = first * work.block_size // work.destination_block_size
        copy.destination.write(work.step.destination.lba + skipped, self._data, self._write_done)

    def _write_done(self, error: DeviceError | None) -> None:
        if error is not None:
            self._again(Side.DESTINATION, error, self._write)
            return
        self._data = b""
        self._copy.transfer_done(self._run, self._generation, self._begun)

    def _again(self, side: Side, error: DeviceError, step: Callable[[], None]) -> None:
        delay = self._tries.failed()
        self._begun = 0.0
        verdict = classify_error(error).verdict
        if verdict in (Verdict.FALL_BACK, Verdict.HOSTS_BUSINESS) or delay is None:
            self._data = b""
            self._copy.transfer_failed(self._run[0], side, error)
        elif self._copy.is_stopped:
            self._data = b""
            self._copy.transfer_dropped()
        else:
            self._copy.rest(self, delay, step)
