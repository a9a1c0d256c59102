"""Copying by the devices of this controller among themselves, where they can.

Two own disks copy inside the kernel, at a fraction of what reading and writing costs. What is
missing of the steps is cut into short copies, so that a halt and a COMPARE AND WRITE wait for no
more than one of them, and progress shows. Each waits for the pace of its job; below full pace they
are shorter still, so that a slow job asks for little often instead of much at a time.

Whatever the devices will not do, or fail at, stays missing and is paid for by nobody: the pump
(`local_copy.py`) comes next, and reads and writes it. That is also how it comes to light on which
side an error is, and it is tried again there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from daiko.copy_manager.halt import Halt
from daiko.copy_manager.pacer import BURST_SECONDS, Pacer
from daiko.copy_manager.settings import CopySettings
from daiko.copy_manager.step_work import Run, StepWork, cut, share_out
from daiko.device.awaitable import copy_from
from daiko.device.block import BlockDevice
from daiko.device.error import DeviceError, Unsupported


class DeviceCopy:
    """What two devices can do among themselves of steps from one to the other."""

    def __init__(
        self,
        works: Sequence[StepWork],
        source: BlockDevice,
        destination: BlockDevice,
        *,
        pacer: Pacer,
        settings: CopySettings,
        halt: Halt,
        generation: Callable[[StepWork], int],
    ) -> None:
        """`generation` says over which connection the destination is reached now."""
        self.works = works
        self.source = source
        self.destination = destination
        self._pacer = pacer
        self._settings = settings
        self._halt = halt
        self._generation = generation
        self._has_copied = False
        self._gave_up = False
        """They cannot at all: it would be the same with the rest."""

    async def run(self) -> None:
        """Copy what they can; return early, with nothing in flight, when a halt was asked for.
        Never fails: see above."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        before = [work.copied_blocks for work in self.works]
        ranges = self._cut()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._settings.device_copies_in_flight):
                group.create_task(self._copy(ranges))
        share_out(self.works, loop.time() - started, before)

    def _cut(self) -> Iterator[Run]:
        for work in self.works:
            unit = max(work.destination_block_size // work.block_size, 1)
            """Source blocks in which both devices count."""
            size = partial(self._blocks, unit, work.block_size)
            for first, blocks in cut(work.missing(), size):
                yield work, first, blocks

    def _blocks(self, unit: int, block_size: int) -> int:
        """Source blocks of one copy at the pace as it is now, a multiple of `unit`."""
        size = self._pacer.portion(
            self._settings.device_copy_bytes,
            least=self._settings.transfer_bytes,
            seconds=BURST_SECONDS,
        )
        return max(size // (unit * block_size), 1) * unit

    async def _copy(self, ranges: Iterator[Run]) -> None:
        while not (self._gave_up or self._halt.requested):
            part = next(ranges, None)
            if part is None:
                return
            work, _, blocks = part
            size = blocks * work.block_size
            if not await self._pacer.wait(size, self._halt):
                return
            if self._gave_up or not await self._copy_one(*part):
                self._pacer.give(size)

    async def _copy_one(self, work: StepWork, first: int, blocks: int) -> bool:
        """Whether they have copied it."""
        step = work.part(first, blocks)
        generation = self._generation(work)
        try:
            is_copied = await copy_from(
                self.destination, step.destination.lba, self.source, step.source.lba, blocks
            )
        except Unsupported:
            self._gave_up = True
            return False
        except DeviceError:
            return False  # the pump will meet the error again, or get past it
        if not is_copied:
            # If only just now, because a host's command has the blocks: the pump will wait.
            self._gave_up = not self._has_copied
            return False
        self._has_copied = True
        size = blocks * work.block_size
        work.bytes_through += size
        work.bytes_in_kernel += size
        work.note_written(first, blocks, generation)
        return True
