"""Confirming what was copied, at a bounded rate.

A checkpoint takes what is written so far, flushes the destinations, and only then moves it to
`confirmed` and puts the record into the store; when it is there, it is shown. What is written
while the flush is under way is for the next one. The order is the point: the record never claims
what a power cut could take, and nobody is shown what a restart would not find.

The flush proves only what was sent over the connection that it went over itself. When the nexus to
the destination's controller changed in between, that controller may have restarted without what
it had in its cache; then everything not yet confirmed is missing again. This goes for delegated
steps as well: the second controller wrote, but whether the destination keeps it is asked of the
destination.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from daiko.copy_manager.devices import Devices
from daiko.copy_manager.error import CopyFailed, Side
from daiko.copy_manager.failure import Verdict, classify_error
from daiko.copy_manager.running_job import RunningJob
from daiko.copy_manager.settings import Retries
from daiko.copy_manager.step_work import StepWork
from daiko.device.awaitable import flush
from daiko.device.error import DeviceError
from daiko.mapping.extent import DeviceId
from daiko.mapping.range_set import RangeSet


def connection_generation(devices: Devices, device: DeviceId) -> int:
    """Which connection reaches a device now; 0 always for a disk of this controller."""
    try:
        return devices.second_controller(device.backend).generation
    except KeyError:
        return 0


class Checkpoint:
    """Makes the record of one job true."""

    def __init__(
        self,
        job: RunningJob,
        devices: Devices,
        keep: Callable[[RunningJob], Awaitable[None]],
        retries: Retries,
    ) -> None:
        """`keep` puts the job's draft into the store, and shows it."""
        self._job = job
        self._devices = devices
        self._keep = keep
        self._retries = retries
        self._lock = asyncio.Lock()

    async def attempt(self) -> None:
        """Confirm what a flush now can prove; a destination that cannot be asked just now is left
        for later. Raises CopyFailed when the destination fails for good."""
        async with self._lock:
            for device, works in self._destinations().items():
                try:
                    await self._confirm(device, works)
                except DeviceError as error:
                    self._judge(error, device, works)
            await self._keep(self._job)

    async def settle(self) -> None:
        """Confirm everything written, trying again while the destination cannot be asked, unless
        the job is to end. What cannot be proved is missing afterwards: nothing is left as written.
        The record goes into the store with the next checkpoint or the job's end. Raises
        CopyFailed."""
        async with self._lock:
            for device, works in self._destinations().items():
                await self._settle(device, works)

    async def _settle(self, device: DeviceId, works: list[StepWork]) -> None:
        tries = self._retries.begin(asyncio.get_running_loop().time)
        while any(work.written for work in works):
            try:
                await self._confirm(device, works)
            except DeviceError as error:
                self._judge(error, device, works)
                if self._job.halt.requested:
                    for work in works:
                        work.give_up_written()
                    return
                delay = tries.failed()
                if delay is None:
                    raise _flush_failed(error, device, works) from error
                await self._job.halt.pause(delay)

    def _destinations(self) -> dict[DeviceId, list[StepWork]]:
        found: dict[DeviceId, list[StepWork]] = {}
        for work in self._job.works:
            if work.written:
                found.setdefault(work.step.destination.device, []).append(work)
        return found

    async def _confirm(self, device: DeviceId, works: list[StepWork]) -> None:
        before = [(work, work.written.copy(), work.generation) for work in works]
        await flush(self._devices.block_device(device))
        now = connection_generation(self._devices, device)
        for work, written, generation in before:
            if generation != now:
                work.give_up_written()
                continue
            work.confirmed.update(written)
            rest = RangeSet(work.written)
            for first, blocks in written:
                rest.remove(first, blocks)
            work.written = rest

    def _judge(self, error: DeviceError, device: DeviceId, works: list[StepWork]) -> None:
        if classify_error(error).verdict is not Verdict.FALL_BACK:
            return
        # After a flush that failed nobody knows which writes it lost; and a second flush may
        # succeed without them.
        for work in works:
            work.give_up_written()
        raise _flush_failed(error, device, works) from error


def _flush_failed(error: DeviceError, device: DeviceId, works: list[StepWork]) -> CopyFailed:
    return CopyFailed(
        f"bringing {device} to stable storage: {error}",
        segment=works[0].step.segment,
        side=Side.DESTINATION,
        error=error,
    )
