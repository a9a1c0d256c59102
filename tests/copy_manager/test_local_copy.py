"""The pump: bounded, in turns, tried again, stopped."""

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
from daiko.copy_manager.budget import TransferBudget
from daiko.copy_manager.error import CopyFailed, Side
from daiko.copy_manager.halt import Halt, HaltReason
from daiko.copy_manager.local_copy import LocalCopy
from daiko.copy_manager.pace import FULL, Pace
from daiko.copy_manager.pacer import Pacer
from daiko.copy_manager.settings import CopySettings, Retries
from daiko.copy_manager.step_work import StepWork
from daiko.device.awaitable import read, write
from daiko.device.block import BlockDevice, ReadDone
from daiko.device.error import Busy, MediumFailure, ReservationConflict, Unreachable
from daiko.device.layer.fault import Fault, Operation
from daiko.device.layer.layer import Layer
from daiko.mapping.extent import DeviceId, Piece
from manual_clock import ManualClock


class Held(Layer):
    """Keeps reads until they are let go; knows how many wait."""

    def __init__(self, below: BlockDevice) -> None:
        super().__init__(below)
        self.waiting: list[Callable[[], None]] = []
        self.most = 0
        self.blocks_asked: list[int] = []

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        self.blocks_asked.append(blocks)
        self.waiting.append(lambda: self.below.read(lba, blocks, done))
        self.most = max(self.most, len(self.waiting))

    def release(self) -> None:
        waiting, self.waiting = self.waiting, []
        for go in waiting:
            go()


def _work(blocks: int, *, at: int = 0, source_size: int = 512, size: int = 512) -> StepWork:
    step = Step(
        Piece(DeviceId("a", 0), at, blocks),
        Piece(DeviceId("b", 0), 0, blocks * source_size // size),
        THIS_CONTROLLER,
        "",
        segment=5,
    )
    return StepWork(step, source_size, size)


def _copy(
    work: StepWork,
    source: BlockDevice,
    destination: BlockDevice,
    *,
    budget: TransferBudget | None = None,
    pacer: Pacer | None = None,
    settings: CopySettings = QUICK,
    halt: Halt | None = None,
) -> LocalCopy:
    return LocalCopy(
        [work],
        source,
        destination,
        budget=budget or TransferBudget(settings.buffer_bytes),
        pacer=pacer or Pacer(),
        settings=settings,
        retries=settings.retries,
        halt=halt or Halt(),
        generation=lambda _: 1,
        moved=lambda: None,
    )


async def _filled(blocks: int, block_size: int = 512) -> tuple[Fault, bytes]:
    device = MemoryDevice(blocks, block_size)
    data = b"".join(n.to_bytes(8, "big") * (block_size // 8) for n in range(blocks))
    await write(device, 0, data)
    return Fault(device), data


@given(st.integers(1, 100), st.lists(st.tuples(st.integers(0, 99), st.integers(1, 30))))
async def test_exactly_what_is_missing_is_copied(blocks: int, done: list[tuple[int, int]]) -> None:
    source, data = await _filled(100)
    destination = MemoryDevice(100)
    work = _work(blocks)
    for first, count in done:
        work.confirmed.add(min(first, blocks - 1), min(count, blocks - min(first, blocks - 1)))
    before = list(work.confirmed)
    await _copy(work, source, destination).run()
    expected = bytearray(data[: blocks * 512])
    for first, count in before:
        expected[first * 512 : (first + count) * 512] = bytes(count * 512)
    assert await read(destination, 0, blocks) == expected
    assert work.is_copied
    assert work.bytes_through == sum(count for _, count in work.written) * 512


async def test_a_cancelled_pump_begins_nothing_more_and_gives_its_memory_back() -> None:
    source, _ = await _filled(1000)
    held, destination = Held(source), MemoryDevice(1000)
    source.fail(Operation.READ, error=lambda: Busy("not now"), times=1)
    budget = TransferBudget(6 * QUICK.transfer_bytes)
    settings = replace(QUICK, retries=Retries((3600.0,)))
    pump = asyncio.ensure_future(
        _copy(_work(1000), held, destination, budget=budget, settings=settings).run()
    )
    while len(held.waiting) < 3:  # noqa: ASYNC110  # the device has no event
        await asyncio.sleep(0)
    asked = len(held.blocks_asked)
    held.waiting.pop(0)()  # this one rests for an hour
    pump.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pump
    while held.waiting:
        held.release()
        for _ in range(5):
            await asyncio.sleep(0)
    assert len(held.blocks_asked) == asked
    assert budget.used == 0


async def test_no_more_transfers_and_bytes_are_in_flight_than_allowed() -> None:
    source, data = await _filled(1000)
    held, destination = Held(source), MemoryDevice(1000)
    budget = TransferBudget(6 * QUICK.transfer_bytes)
    work = _work(1000)
    running = asyncio.ensure_future(_copy(work, held, destination, budget=budget).run())
    while not running.done():
        for _ in range(20):
            await asyncio.sleep(0)
        held.release()
    await running
    assert held.most == 3, "a step may hold half of the budget, the settings allow four"
    assert budget.peak == 3 * QUICK.transfer_bytes
    assert budget.used == 0
    assert await read(destination, 0, 1000) == data


async def test_two_pumps_share_the_budget_in_turns() -> None:
    source, _ = await _filled(1000)
    devices = [Held(source), Held(source)]
    works = [_work(800), _work(80)]
    budget = TransferBudget(QUICK.transfer_bytes)
    running = [
        asyncio.ensure_future(_copy(work, held, MemoryDevice(1000), budget=budget).run())
        for work, held in zip(works, devices, strict=True)
    ]
    rounds = 0
    while not running[1].done():
        rounds += 1
        for _ in range(10):
            await asyncio.sleep(0)
        for held in devices:
            held.release()
    assert works[0].copied_blocks <= 80 + 2 * 8, "the small one did not wait for the large one"
    while not running[0].done():
        await asyncio.sleep(0)
        devices[0].release()
    assert works[0].is_copied


async def test_transfers_stay_within_what_either_device_takes_at_once() -> None:
    source, data = await _filled(100)
    held = Held(source)
    destination = MemoryDevice(100)
    destination.capabilities = replace(destination.capabilities, maximum_blocks=3)
    running = asyncio.ensure_future(_copy(_work(100), held, destination).run())
    while not running.done():
        await asyncio.sleep(0)
        held.release()
    assert max(held.blocks_asked) == 3
    assert await read(destination, 0, 100) == data


@pytest.mark.parametrize(("source_size", "size"), [(512, 4096), (4096, 512)])
async def test_blocks_of_two_sizes_are_converted(source_size: int, size: int) -> None:
    blocks = 64 * 4096 // source_size
    source, data = await _filled(blocks, source_size)
    destination = MemoryDevice(64 * 4096 // size, size)
    work = _work(blocks, source_size=source_size, size=size)
    await _copy(work, source, destination).run()
    assert await read(destination, 0, destination.blocks) == data


@pytest.mark.parametrize("operation", [Operation.READ, Operation.WRITE])
@pytest.mark.parametrize("error", [Busy("full"), Unreachable("gone")], ids=["busy", "gone"])
async def test_a_passing_trouble_is_waited_out(operation: Operation, error: Exception) -> None:
    source, data = await _filled(100)
    destination = Fault(MemoryDevice(100))
    (source if operation is Operation.READ else destination).fail(
        operation,
        error=lambda: error,
        times=3,  # type: ignore[arg-type,return-value]
    )
    work = _work(100)
    await _copy(work, source, destination).run()
    assert await read(destination, 0, 100) == data


async def test_a_write_that_is_tried_again_does_not_read_again() -> None:
    source, _ = await _filled(8)
    destination = Fault(MemoryDevice(8))
    destination.fail(Operation.WRITE, error=lambda: Busy("full"), times=2)
    source.fail(Operation.READ, error=lambda: MediumFailure("read twice", writing=False), after=1)
    await _copy(_work(8), source, destination).run()


@pytest.mark.parametrize(
    ("operation", "side"),
    [(Operation.READ, Side.SOURCE), (Operation.WRITE, Side.DESTINATION)],
)
@pytest.mark.parametrize(
    "error",
    [
        MediumFailure("bad", writing=False),
        ReservationConflict("held"),
        Busy("full without end"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_lasting_trouble_ends_the_pump_with_the_side_and_the_error(
    operation: Operation, side: Side, error: Exception
) -> None:
    source, _ = await _filled(100)
    destination = Fault(MemoryDevice(100))
    (source if side is Side.SOURCE else destination).fail(
        operation,
        error=lambda: error,
        lba=40,
        blocks=1,  # type: ignore[arg-type,return-value]
    )
    budget = TransferBudget(QUICK.buffer_bytes)
    work = _work(100)
    with pytest.raises(CopyFailed) as failed:
        await _copy(work, source, destination, budget=budget).run()
    assert (failed.value.segment, failed.value.side) == (5, side)
    assert failed.value.error is error
    assert not work.written.overlaps(40, 8)
    assert budget.used == 0


async def test_halt_begins_nothing_new_and_waits_for_what_is_in_flight() -> None:
    source, _ = await _filled(1000)
    held = Held(source)
    halt, budget = Halt(), TransferBudget(QUICK.buffer_bytes)
    work = _work(1000)
    running = asyncio.ensure_future(
        _copy(work, held, MemoryDevice(1000), halt=halt, budget=budget).run()
    )
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(held.waiting) == QUICK.transfers_in_flight
    halt.request(HaltReason.CANCEL)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not running.done()
    held.release()
    await running
    assert work.copied_blocks == QUICK.transfers_in_flight * 8
    assert budget.used == 0


async def test_halt_does_not_wait_for_a_further_try() -> None:
    source, _ = await _filled(100)
    source.fail(error=lambda: Unreachable("gone"))
    halt, budget = Halt(), TransferBudget(QUICK.buffer_bytes)
    patient = replace(QUICK, retries=Retries((3600.0,)))
    running = asyncio.ensure_future(
        _copy(
            _work(100), source, MemoryDevice(100), settings=patient, halt=halt, budget=budget
        ).run()
    )
    for _ in range(20):
        await asyncio.sleep(0)
    halt.request(HaltReason.SHUTDOWN)
    async with asyncio.timeout(10):
        await running
    assert budget.used == 0


async def test_halt_before_the_start_copies_nothing() -> None:
    source, _ = await _filled(100)
    halt = Halt()
    halt.request(HaltReason.CANCEL)
    work = _work(100)
    await _copy(work, source, MemoryDevice(100), halt=halt).run()
    assert work.copied_blocks == 0


async def test_other_work_of_the_event_loop_goes_on_between_transfers() -> None:
    """Devices that complete inline must not make one long turn of the loop."""
    source, _ = await _filled(1000)
    work = _work(1000)
    running = asyncio.ensure_future(_copy(work, source, MemoryDevice(1000)).run())
    turns = 0
    while not running.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 1000 // 8


# --- the pace


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_pace_is_kept_and_all_is_copied() -> None:
    source, data = await _filled(1000)
    destination, work = MemoryDevice(1000), _work(1000)
    clock = ManualClock()
    rate = 16 * QUICK.transfer_bytes
    budget = TransferBudget(QUICK.buffer_bytes)
    running = asyncio.ensure_future(
        _copy(work, source, destination, budget=budget, pacer=Pacer(Pace(rate), clock)).run()
    )
    began = clock.now
    await _settle()
    while not running.done():
        assert work.bytes_through <= rate * (clock.now - began) + 2 * QUICK.transfer_bytes
        assert budget.used == 0, "who waits for the pace holds no memory"
        clock.next()
        await _settle()
    assert await read(destination, 0, 1000) == data
    assert clock.now - began >= (1000 * 512 - 2 * QUICK.transfer_bytes) / rate
    assert not clock.pending, "nobody waits for a transfer that there is not"


async def test_pump_that_waits_goes_on_when_the_pace_is_full_again() -> None:
    source, data = await _filled(1000)
    destination, work = MemoryDevice(1000), _work(1000)
    pacer = Pacer(Pace(1), ManualClock())
    running = asyncio.ensure_future(_copy(work, source, destination, pacer=pacer).run())
    await _settle()
    assert work.copied_blocks == 8
    pacer.use(FULL)
    async with asyncio.timeout(10):
        await running
    assert await read(destination, 0, 1000) == data


@pytest.mark.parametrize("how", ["halt", "cancel"])
async def test_end_does_not_wait_for_the_pace(how: str) -> None:
    source, _ = await _filled(1000)
    clock, halt, work = ManualClock(), Halt(), _work(1000)
    pacer = Pacer(Pace(QUICK.transfer_bytes), clock)
    running = asyncio.ensure_future(
        _copy(work, source, MemoryDevice(1000), pacer=pacer, halt=halt).run()
    )
    await _settle()
    if how == "halt":
        halt.request(HaltReason.CANCEL)
        async with asyncio.timeout(10):
            await running
    else:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await _settle()
    assert work.copied_blocks == 8
    assert not clock.pending
    clock.advance(1)
    assert pacer.take(QUICK.transfer_bytes, lambda: None), "what was not copied was not paid for"


async def test_failure_does_not_wait_for_the_pace() -> None:
    source, _ = await _filled(1000)
    held = Held(source)
    source.fail(Operation.READ, error=lambda: MediumFailure("bad", writing=False))
    clock = ManualClock()
    running = asyncio.ensure_future(
        _copy(_work(1000), held, MemoryDevice(1000), pacer=Pacer(Pace(1), clock)).run()
    )
    await _settle()
    held.release()
    with pytest.raises(CopyFailed):
        async with asyncio.timeout(10):
            await running
    assert not clock.pending


async def test_pace_that_was_waited_for_is_given_back_where_the_memory_comes_too_late() -> None:
    source, _ = await _filled(1000)
    clock, halt, work = ManualClock(), Halt(), _work(1000)
    pacer = Pacer(Pace(QUICK.transfer_bytes), clock)
    budget = TransferBudget(QUICK.buffer_bytes)
    budget.take(QUICK.buffer_bytes, lambda: None)
    running = asyncio.ensure_future(
        _copy(work, source, MemoryDevice(1000), budget=budget, pacer=pacer, halt=halt).run()
    )
    await _settle()
    halt.request(HaltReason.CANCEL)
    async with asyncio.timeout(10):
        await running
    assert budget.used == QUICK.buffer_bytes
    assert pacer.take(QUICK.transfer_bytes, lambda: None)
