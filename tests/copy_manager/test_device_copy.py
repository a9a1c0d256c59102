"""Copies that two devices make among themselves, and what is left for the pump."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copy_rig import QUICK
from daiko.backend.memory import MemoryDevice
from daiko.command_control.plan import THIS_CONTROLLER, Step
from daiko.copy_manager.device_copy import DeviceCopy
from daiko.copy_manager.halt import Halt, HaltReason
from daiko.copy_manager.pace import FULL, Pace
from daiko.copy_manager.pacer import Pacer
from daiko.copy_manager.settings import CopySettings
from daiko.copy_manager.step_work import StepWork
from daiko.device.awaitable import read, write
from daiko.device.block import BlockDevice, Done
from daiko.device.error import DeviceError, MediumFailure, Unsupported
from daiko.device.layer.layer import Layer
from daiko.mapping.extent import DeviceId, Piece
from manual_clock import ManualClock

SETTINGS = replace(QUICK, device_copy_bytes=8 * 512, device_copies_in_flight=2)
Verdict = Callable[[int], DeviceError | None]


class Copying(Layer):
    """A device that copies by itself, as `outcome` says for each block where a copy begins."""

    def __init__(self, below: BlockDevice, outcome: Verdict = lambda _: None) -> None:
        super().__init__(below)
        self.outcome = outcome
        self.waiting: list[Callable[[], None]] = []
        self.asked: list[tuple[int, int]] = []
        self.engaged: set[int] = set()
        self.holds = False

    def copy_from(
        self, lba: int, source: BlockDevice, source_lba: int, blocks: int, done: Done
    ) -> bool:
        self.asked.append((lba, blocks))
        if lba in self.engaged:
            return False

        def copied() -> None:
            error = self.outcome(source_lba)
            if error is not None:
                done(error)
            else:
                source.read(source_lba, blocks, lambda _, data: self.below.write(lba, data, done))

        self.waiting.append(copied)
        if not self.holds:
            asyncio.get_running_loop().call_soon(self.release)
        return True

    def release(self) -> None:
        waiting, self.waiting = self.waiting, []
        for go in waiting:
            go()


def _work(blocks: int, *, source_size: int = 512, size: int = 512) -> StepWork:
    step = Step(
        Piece(DeviceId("a", 0), 0, blocks),
        Piece(DeviceId("b", 0), 0, blocks * source_size // size),
        THIS_CONTROLLER,
        "",
    )
    return StepWork(step, source_size, size)


def _copy(
    work: StepWork,
    source: BlockDevice,
    destination: BlockDevice,
    *,
    pacer: Pacer | None = None,
    halt: Halt | None = None,
    settings: CopySettings = SETTINGS,
) -> DeviceCopy:
    return DeviceCopy(
        [work],
        source,
        destination,
        pacer=pacer or Pacer(),
        settings=settings,
        halt=halt or Halt(),
        generation=lambda _: 1,
    )


async def _filled(blocks: int, block_size: int = 512) -> tuple[MemoryDevice, bytes]:
    device = MemoryDevice(blocks, block_size)
    data = b"".join(n.to_bytes(8, "big") * (block_size // 8) for n in range(blocks))
    await write(device, 0, data)
    return device, data


@given(st.integers(1, 100), st.lists(st.tuples(st.integers(0, 99), st.integers(1, 30))))
async def test_exactly_what_is_missing_is_copied_and_counted(
    blocks: int, done: list[tuple[int, int]]
) -> None:
    source, data = await _filled(100)
    destination = Copying(MemoryDevice(100))
    work = _work(blocks)
    for first, count in done:
        first = min(first, blocks - 1)
        work.confirmed.add(first, min(count, blocks - first))
    missing = sum(count for _, count in work.missing())
    expected = bytearray(data[: blocks * 512])
    for first, count in work.confirmed:
        expected[first * 512 : (first + count) * 512] = bytes(count * 512)
    await _copy(work, source, destination).run()
    assert work.is_copied
    assert await read(destination, 0, blocks) == expected
    assert work.bytes_through == work.bytes_in_kernel == work.bytes_moved == missing * 512
    assert all(count <= 8 for _, count in destination.asked)


@pytest.mark.parametrize(("source_size", "size"), [(512, 4096), (4096, 512)])
async def test_each_copy_is_of_whole_blocks_of_both(source_size: int, size: int) -> None:
    source, data = await _filled(100 * 4096 // source_size, source_size)
    destination = Copying(MemoryDevice(100 * 4096 // size, size))
    work = _work(100 * 4096 // source_size, source_size=source_size, size=size)
    settings = replace(SETTINGS, device_copy_bytes=3 * 4096 + 512)
    await _copy(work, source, destination, settings=settings).run()
    assert work.is_copied
    assert await read(destination, 0, destination.blocks) == data


async def test_devices_that_cannot_are_asked_once_a_lane() -> None:
    source, _ = await _filled(100)
    work = _work(100)
    await _copy(work, source, MemoryDevice(100)).run()
    assert work.copied_blocks == work.bytes_through == 0
    destination = Copying(MemoryDevice(100), lambda _: Unsupported("not these two"))
    await _copy(work, source, destination).run()
    assert work.copied_blocks == work.bytes_through == 0
    assert len(destination.asked) <= SETTINGS.device_copies_in_flight


async def test_what_fails_is_left_for_the_pump_and_the_rest_is_copied() -> None:
    source, _ = await _filled(100)
    destination = Copying(
        MemoryDevice(100),
        lambda lba: MediumFailure("bad", writing=False, lba=lba) if lba in (16, 40) else None,
    )
    work = _work(100)
    await _copy(work, source, destination).run()
    assert list(work.missing()) == [(16, 8), (40, 8)]
    assert work.bytes_in_kernel == 84 * 512


async def test_range_that_is_engaged_is_left_for_the_pump_and_the_rest_is_copied() -> None:
    source, _ = await _filled(100)
    destination = Copying(MemoryDevice(100))
    destination.engaged = {16, 48}
    work = _work(100)
    await _copy(work, source, destination).run()
    assert list(work.missing()) == [(16, 8), (48, 8)]


async def test_halt_begins_nothing_more_and_what_is_in_flight_counts() -> None:
    source, _ = await _filled(100)
    destination, halt, work = Copying(MemoryDevice(100)), Halt(), _work(100)
    destination.holds = True
    running = asyncio.ensure_future(_copy(work, source, destination, halt=halt).run())
    while len(destination.waiting) < 2:  # noqa: ASYNC110  # the device has no event
        await asyncio.sleep(0)
    halt.request(HaltReason.CANCEL)
    assert not running.done()
    destination.release()
    await running
    assert len(destination.asked) == 2
    assert list(work.missing()) == [(16, 84)]


# --- the pace


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


LARGE = replace(SETTINGS, transfer_bytes=2 * 512, device_copy_bytes=64 * 512)


@pytest.mark.parametrize(
    ("rate", "blocks"),
    [
        pytest.param(10, 2, id="no-less-than-a-transfer"),
        pytest.param(100 * 512, 10, id="a-tenth-of-a-second"),
        pytest.param(10_000 * 512, 64, id="no-more-than-at-full-pace"),
    ],
)
async def test_pace_is_kept_in_copies_that_are_short_enough(rate: int, blocks: int) -> None:
    source, data = await _filled(256)
    destination, work, clock = Copying(MemoryDevice(256)), _work(256), ManualClock()
    running = asyncio.ensure_future(
        _copy(work, source, destination, pacer=Pacer(Pace(rate), clock), settings=LARGE).run()
    )
    began = clock.now
    await _settle()
    burst = max(rate // 10, blocks * 512)
    while not running.done():
        assert work.bytes_in_kernel <= rate * (clock.now - began + 0.001) + burst
        clock.next()
        await _settle()
    assert max(count for _, count in destination.asked) == blocks
    assert await read(destination, 0, 256) == data
    assert clock.now - began >= (256 * 512 - 2 * burst) / rate


async def test_faster_pace_holds_for_what_waits_already() -> None:
    source, data = await _filled(256)
    destination, work, clock = Copying(MemoryDevice(256)), _work(256), ManualClock()
    pacer = Pacer(Pace(1), clock)
    running = asyncio.ensure_future(
        _copy(work, source, destination, pacer=pacer, settings=LARGE).run()
    )
    await _settle()
    assert work.copied_blocks == 2
    pacer.use(FULL)
    async with asyncio.timeout(10):
        await running
    assert await read(destination, 0, 256) == data
    assert [count for _, count in destination.asked[-4:]] == [58, 64, 64, 64]


async def test_halt_does_not_wait_for_the_pace() -> None:
    source, _ = await _filled(256)
    destination, work, clock = Copying(MemoryDevice(256)), _work(256), ManualClock()
    halt = Halt()
    running = asyncio.ensure_future(
        _copy(work, source, destination, pacer=Pacer(Pace(1), clock), halt=halt).run()
    )
    await _settle()
    halt.request(HaltReason.CANCEL)
    async with asyncio.timeout(10):
        await running
    assert work.copied_blocks == 8
    assert not clock.pending


async def test_devices_that_cannot_are_found_out_without_waiting_and_take_nothing() -> None:
    source, _ = await _filled(100)
    for destination in (MemoryDevice(100), Copying(MemoryDevice(100), lambda _: Unsupported("no"))):
        clock = ManualClock()
        pacer = Pacer(Pace(1), clock)
        async with asyncio.timeout(10):
            await _copy(_work(100), source, destination, pacer=pacer).run()
        assert not clock.pending
        assert pacer.take(1 << 40, lambda: None)
