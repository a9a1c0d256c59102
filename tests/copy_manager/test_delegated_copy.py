"""Second commands in pace: small enough, one at a time, cut anew when the pace changes."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace

import pytest

from copy_rig import GENEROUS, QUICK, FakeController, Reply, Rig
from daiko.command_control.function_table import CopyLimits
from daiko.command_control.generation import GRANULE
from daiko.command_control.plan import Executor, ExecutorKind, Step
from daiko.copy_manager.delegated_copy import DelegatedCopy, Dropped
from daiko.copy_manager.halt import Halt, HaltReason
from daiko.copy_manager.lane import Lane
from daiko.copy_manager.pace import FULL, Pace
from daiko.copy_manager.pacer import Pacer
from daiko.copy_manager.step_work import StepWork
from daiko.mapping.extent import DeviceId, Piece
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.opcode import Status
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.sense import invalid_opcode
from manual_clock import ManualClock

MIB = 1 << 20
SIZE = 16 * MIB
SD1 = Executor(ExecutorKind.SECOND_CONTROLLER, "sd1")


class Site:
    """A second controller with 16 MiB to copy, the pace, and the time."""

    def __init__(self, pace: Pace = FULL, limits: CopyLimits = GENEROUS) -> None:
        self.rig = Rig()
        self.rig.attach("sd1", SIZE // 512, reaches=("vault",))
        self.rig.attach("vault", SIZE // 512, limits=None)
        self.data = self.rig.fill("sd1/0")
        self.clock = ManualClock()
        self.pacer = Pacer(pace, self.clock)
        self.halt = Halt()
        blocks = SIZE // 512
        step = Step(
            Piece(DeviceId("sd1", 0), 0, blocks), Piece(DeviceId("vault", 0), 0, blocks), SD1, ""
        )
        self.work = StepWork(step, 512, 512)
        self.running = asyncio.ensure_future(self._copy(limits).run())

    def _copy(self, limits: CopyLimits) -> DelegatedCopy:
        return DelegatedCopy(
            [self.work],
            Lane(self.sd1, limits, QUICK),
            limits,
            directory=self.rig.directory(),
            writing=lambda pieces: nullcontext(),
            template=None,
            pacer=self.pacer,
            retries=QUICK.retries,
            halt=self.halt,
            generation=lambda _: 1,
            moved=lambda: None,
        )

    @property
    def sd1(self) -> FakeController:
        return self.rig.controllers["sd1"]

    @property
    def asked(self) -> list[int]:
        """Bytes of each command that arrived."""
        return [_size(copy) for copy in self.sd1.received]


def _size(copy: ExtendedCopy) -> int:
    blocks = [each.blocks for each in copy.segments if isinstance(each, BlockToBlock)]
    assert len(blocks) == len(copy.segments)
    return sum(blocks) * 512


async def _settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("rate", "size"),
    [
        pytest.param(MIB // 4, GRANULE, id="no-less-than-a-granule"),
        pytest.param(3 * MIB, 3 * MIB, id="a-second"),
        pytest.param(1 << 40, SIZE, id="no-more-than-there-is"),
    ],
)
async def test_commands_are_a_second_of_the_rate_and_asked_for_in_pace(
    rate: int, size: int
) -> None:
    site = Site(Pace(rate))
    began = site.clock.now
    await _settle()
    while not site.running.done():
        assert sum(site.asked) <= rate * (site.clock.now - began + 0.001) + max(size, rate // 10)
        site.clock.next()
        await _settle()
    await site.running
    assert max(site.asked) == size
    assert site.sd1.most_in_flight == 1
    assert site.rig.content("vault/0") == site.data
    assert site.clock.now - began >= (SIZE - 2 * size) / rate


async def test_full_pace_fills_the_lane_and_asks_for_much_at_a_time() -> None:
    site = Site()
    await site.running
    assert site.asked == [SIZE]
    assert not site.clock.pending


async def test_pace_that_rises_is_followed_with_larger_commands() -> None:
    site = Site(Pace(MIB))
    await _settle()
    assert site.asked == [MIB]
    site.pacer.use(Pace(4 * MIB))
    await _settle()
    while not site.running.done():
        site.clock.next()
        await _settle()
    assert site.asked == [MIB, MIB, 4 * MIB, 4 * MIB, 4 * MIB, 2 * MIB], "one was waiting already"
    assert site.rig.content("vault/0") == site.data


async def test_full_pace_ends_the_waiting() -> None:
    site = Site(Pace(1))
    await _settle()
    assert site.asked == [MIB]
    site.pacer.use(FULL)
    async with asyncio.timeout(10):
        await site.running
    assert site.asked == [MIB, MIB, 14 * MIB]
    assert site.rig.content("vault/0") == site.data


async def test_command_that_waited_while_the_pace_fell_is_cut_anew() -> None:
    site = Site(Pace(8 * MIB))
    await _settle()
    assert site.asked == [8 * MIB]
    site.pacer.use(Pace(MIB))
    site.clock.advance(1)
    await _settle()
    assert site.asked == [8 * MIB, MIB], "not the other eight at once"
    site.pacer.use(FULL)
    await site.running
    assert site.rig.content("vault/0") == site.data


async def test_pace_set_while_several_commands_are_in_flight_lets_them_end() -> None:
    site = Site(limits=replace(GENEROUS, max_segments=1, max_segment_bytes=MIB))
    site.sd1.gate = asyncio.Event()
    await _settle()
    assert site.sd1.in_flight == GENEROUS.concurrent == 4
    site.pacer.use(Pace(MIB))
    site.sd1.gate.set()
    await _settle()
    assert site.asked == [MIB] * 5
    assert site.work.copied_blocks * 512 == 5 * MIB
    site.sd1.most_in_flight = 0
    while not site.running.done():
        site.clock.next()
        await _settle()
    assert site.sd1.most_in_flight == 1
    assert site.rig.content("vault/0") == site.data


async def test_halt_does_not_wait_for_the_pace() -> None:
    site = Site(Pace(1))
    await _settle()
    site.halt.request(HaltReason.CANCEL)
    async with asyncio.timeout(10):
        await site.running
    assert site.work.copied_blocks * 512 == MIB
    assert not site.clock.pending


async def test_executor_that_gives_up_is_asked_for_no_more() -> None:
    site = Site(Pace(MIB))
    refusal = Reply(Status.CHECK_CONDITION, sense=invalid_opcode().fixed())
    site.sd1.script = lambda _: refusal if len(site.sd1.received) == 3 else None
    await _settle()
    while not site.running.done():
        site.clock.next()
        await _settle()
    with pytest.raises(Dropped):
        await site.running
    assert site.asked == [MIB] * 3
    assert site.work.copied_blocks * 512 == 2 * MIB
    assert not site.clock.pending
