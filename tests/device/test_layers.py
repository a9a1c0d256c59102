"""Every layer over memory behaves as a device; and what each layer adds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.backend.memory import MemoryDevice
from daiko.device import awaitable
from daiko.device.block import Atomic, BlockDevice, Buffer, Capabilities, Done, Level, ReadDone
from daiko.device.emulate import Emulate, first_difference
from daiko.device.error import (
    DeviceError,
    MediumFailure,
    Unreachable,
    Unsupported,
    WriteProtected,
)
from daiko.device.layer.change_tracking import ChangeTracking
from daiko.device.layer.delay import Delay
from daiko.device.layer.fault import Fault, Operation
from daiko.device.layer.layer import Layer
from daiko.device.layer.read_gate import ReadGate
from daiko.device.layer.read_only import ReadOnly
from daiko.device.layer.stats import Stats
from daiko.device.layer.timing import CommandTimes, Timing
from device.suite import BlockDeviceSuite, pattern
from manual_clock import ManualClock


class Plain(Layer):
    """Memory that offers reading, writing and flushing only."""

    def __init__(self, below: BlockDevice, maximum_blocks: int = 0) -> None:
        super().__init__(below)
        none = Level.NONE
        self.capabilities = Capabilities(none, none, none, none, maximum_blocks=maximum_blocks)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        assert not fua
        limit = self.capabilities.maximum_blocks
        assert not limit or len(data) <= limit * self.block_size
        self.below.write(lba, data, done)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        BlockDevice.unmap(self, lba, blocks, done)

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        BlockDevice.write_same(self, lba, blocks, pattern, done)

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        BlockDevice.compare_and_write(self, lba, compare, data, done)

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        BlockDevice.or_write(self, lba, data, done)

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        BlockDevice.write_atomic(self, lba, data, done)

    def is_native(self, operation: Atomic, lba: int, blocks: int) -> bool:
        return False


LAYERS = {
    "layer": lambda: Layer(MemoryDevice(12000)),
    "plain": lambda: Plain(MemoryDevice(12000)),
    "stats": lambda: Stats(MemoryDevice(12000)),
    "fault without rules": lambda: Fault(MemoryDevice(12000)),
    "delay": lambda: Delay(MemoryDevice(12000), 0.0),
    "change tracking": lambda: ChangeTracking(MemoryDevice(12000)),
    "change tracking, coarse": lambda: ChangeTracking(MemoryDevice(12000), maximum_bitmap_bytes=16),
    "timing": lambda: Timing(MemoryDevice(12000), CommandTimes()),
    "read gate": lambda: ReadGate(MemoryDevice(12000)),
    "emulate over memory": lambda: Emulate(MemoryDevice(12000)),
    "emulate over plain": lambda: Emulate(Plain(MemoryDevice(12000))),
    "emulate over plain and slow": lambda: Emulate(Delay(Plain(MemoryDevice(12000)), 0.0)),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
class TestLayers(BlockDeviceSuite):
    @pytest.fixture
    async def device(self, make: object) -> AsyncIterator[BlockDevice]:
        device = make()  # type: ignore[operator]
        yield device
        device.close()


class TestEmulate:
    async def test_emulated_operations_say_so(self) -> None:
        device = Emulate(Plain(MemoryDevice(1024)))
        has = device.capabilities
        assert {has.unmap, has.write_same, has.fua} == {Level.EMULATED}
        assert has.compare_and_write is Level.NONE
        assert has.unmapped_reads_zero

    async def test_native_operations_stay_native(self) -> None:
        assert Emulate(MemoryDevice(1024)).capabilities == MemoryDevice(1024).capabilities

    async def test_fua_is_followed_by_a_flush(self) -> None:
        stats = Stats(Plain(MemoryDevice(1024)))
        device = Emulate(stats)
        await awaitable.write(device, 0, bytes(512), fua=True)
        assert (stats.counters.writes, stats.counters.flushes) == (1, 1)
        await awaitable.write(device, 0, bytes(512))
        assert (stats.counters.writes, stats.counters.flushes) == (2, 1)

    async def test_write_same_keeps_to_the_largest_request(self) -> None:
        stats = Stats(Plain(MemoryDevice(5000), maximum_blocks=7))
        await awaitable.write_same(Emulate(stats), 1, 4000, pattern(1, 512, 1))
        assert stats.counters.writes == -(-4000 // 7)

    async def test_write_same_stops_at_the_first_error(self) -> None:
        fault = Fault(Plain(MemoryDevice(5000), maximum_blocks=10))
        fault.fail(Operation.WRITE, error=lambda: MediumFailure("bad", writing=True), lba=25)
        stats = Stats(fault)
        with pytest.raises(MediumFailure):
            await awaitable.write_same(Emulate(stats), 0, 4000, bytes(512))
        assert stats.counters.writes == 3

    @given(st.binary(min_size=1, max_size=64), st.integers(0, 63), st.integers(1, 255))
    def test_first_difference_finds_the_byte(self, data: bytes, offset: int, flip: int) -> None:
        offset %= len(data)
        other = bytearray(data)
        other[offset] ^= flip
        assert first_difference(data, other) == offset
        assert first_difference(data, data) == -1


class TestStats:
    async def test_counts_operations_payload_and_errors(self) -> None:
        fault = Fault(MemoryDevice(1024))
        stats = Stats(fault)
        await awaitable.write(stats, 0, bytes(1024))
        await awaitable.read(stats, 0, 3)
        await awaitable.flush(stats)
        await awaitable.unmap(stats, 0, 8)
        await awaitable.write_same(stats, 0, 8, bytes(512))
        await awaitable.compare_and_write(stats, 0, bytes(512), bytes(512))
        fault.fail(error=lambda: Unreachable("gone"))
        with pytest.raises(Unreachable):
            await awaitable.read(stats, 0, 1)
        with pytest.raises(Unreachable):
            await awaitable.write(stats, 0, bytes(512))
        counters = stats.counters
        assert (counters.reads, counters.writes, counters.flushes) == (2, 3, 1)
        assert (counters.unmaps, counters.write_sames, counters.errors) == (1, 1, 2)
        assert (counters.bytes_read, counters.bytes_written) == (1536, 1536)
        assert counters.in_flight == 0

    async def test_in_flight_counts_what_has_not_completed(self) -> None:
        delay = Delay(MemoryDevice(1024))
        stats = Stats(delay)
        outcomes: list[DeviceError | None] = []
        stats.write(0, bytes(512), outcomes.append)
        stats.read(0, 1, lambda error, data: outcomes.append(error))
        assert (stats.counters.in_flight, stats.counters.bytes_written) == (2, 0)
        delay.release()
        assert (stats.counters.in_flight, stats.counters.bytes_written) == (0, 512)
        assert outcomes == [None, None]


class TestFault:
    async def test_only_the_range_fails(self) -> None:
        fault = Fault(MemoryDevice(1024))
        fault.fail(Operation.READ, error=lambda: Unreachable("gone"), lba=10, blocks=5)
        await awaitable.read(fault, 0, 10)
        await awaitable.read(fault, 15, 10)
        await awaitable.write(fault, 10, bytes(512))
        for lba, blocks in ((10, 1), (14, 1), (0, 11), (14, 9)):
            with pytest.raises(Unreachable):
                await awaitable.read(fault, lba, blocks)

    async def test_after_and_times_count_fitting_requests(self) -> None:
        fault = Fault(MemoryDevice(1024))
        fault.fail(Operation.WRITE, error=lambda: Unreachable("gone"), after=2, times=1)
        outcomes: list[DeviceError | None] = []
        for _ in range(5):
            fault.read(0, 1, lambda error, data: None)
            fault.write(0, bytes(512), outcomes.append)
        assert [isinstance(outcome, Unreachable) for outcome in outcomes] == [
            False, False, True, False, False,
        ]  # fmt: skip

    async def test_each_operation_can_fail_and_heal(self) -> None:
        fault = Fault(MemoryDevice(1024))
        fault.fail(error=lambda: MediumFailure("bad", writing=True))
        block = bytes(512)

        def everything() -> list[object]:
            return [
                awaitable.read(fault, 0, 1),
                awaitable.write(fault, 0, block),
                awaitable.flush(fault),
                awaitable.unmap(fault, 0, 1),
                awaitable.write_same(fault, 0, 1, block),
                awaitable.compare_and_write(fault, 0, block, block),
            ]

        for operation in everything():
            with pytest.raises(MediumFailure):
                await operation  # type: ignore[misc]
        fault.heal()
        for operation in everything():
            await operation  # type: ignore[misc]


class TestReadOnly:
    async def test_changes_are_refused_and_reads_pass(self) -> None:
        memory = MemoryDevice(1024)
        data = pattern(1, 512, 1)
        await awaitable.write(memory, 0, data)
        device = ReadOnly(memory)
        assert device.capabilities.read_only
        for change in (
            awaitable.write(device, 0, bytes(512)),
            awaitable.unmap(device, 0, 1),
            awaitable.write_same(device, 0, 1, bytes(512)),
            awaitable.compare_and_write(device, 0, data, bytes(512)),
        ):
            with pytest.raises(WriteProtected):
                await change
        await awaitable.flush(device)
        assert bytes(await awaitable.read(device, 0, 1)) == data


class TestChangeTracking:
    async def test_every_kind_of_change_is_marked(self) -> None:
        device = ChangeTracking(MemoryDevice(1024))
        assert not device.has_changed
        await awaitable.write(device, 1, bytes(1024))
        await awaitable.write_same(device, 10, 3, bytes(512))
        await awaitable.unmap(device, 20, 4)
        await awaitable.compare_and_write(device, 30, bytes(512), bytes(512))
        await awaitable.read(device, 100, 5)
        await awaitable.flush(device)
        assert list(device.ranges()) == [(1, 2), (10, 3), (20, 4), (30, 1)]
        assert device.changed_blocks == 10
        device.clear()
        assert (device.has_changed, list(device.ranges())) == (False, [])

    async def test_failed_write_is_marked_too(self) -> None:
        fault = Fault(MemoryDevice(1024))
        fault.fail(error=lambda: MediumFailure("bad", writing=True))
        device = ChangeTracking(fault)
        with pytest.raises(MediumFailure):
            await awaitable.write(device, 7, bytes(512))
        assert list(device.ranges()) == [(7, 1)]

    async def test_close_leaves_the_device_open(self) -> None:
        memory = MemoryDevice(1024)
        ChangeTracking(memory).close()
        await awaitable.read(memory, 0, 1)

    @given(st.lists(st.tuples(st.integers(0, 999), st.integers(1, 300)), max_size=12))
    def test_ranges_equal_a_set_of_blocks(self, writes: list[tuple[int, int]]) -> None:
        device = ChangeTracking(MemoryDevice(1000))
        written: set[int] = set()
        for lba, blocks in writes:
            blocks = min(blocks, 1000 - lba)
            device.write(lba, bytes(blocks * 512), lambda error: None)
            written.update(range(lba, lba + blocks))
        found = [block for lba, blocks in device.ranges() for block in range(lba, lba + blocks)]
        assert found == sorted(written)
        assert device.changed_blocks == len(written)
        device.below.close()

    @given(st.lists(st.tuples(st.integers(0, 998), st.integers(1, 300)), max_size=12))
    def test_coarse_regions_cover_what_was_written(self, writes: list[tuple[int, int]]) -> None:
        device = ChangeTracking(MemoryDevice(999), maximum_bitmap_bytes=16)
        assert device.granularity == 8
        regions: set[int] = set()
        for lba, blocks in writes:
            blocks = min(blocks, 999 - lba)
            device.write(lba, bytes(blocks * 512), lambda error: None)
            regions.update(block // 8 for block in range(lba, lba + blocks))
        expected = [b for r in sorted(regions) for b in range(r * 8, min(r * 8 + 8, 999))]
        found = [block for lba, blocks in device.ranges() for block in range(lba, lba + blocks)]
        assert found == expected
        assert device.changed_blocks == len(expected)
        for first, blocks in ((0, 999), (0, 1), (3, 5), (7, 2), (100, 333), (990, 9), (5, 0)):
            inside = [block for block in expected if first <= block < first + blocks]
            assert device.changed_in(first, blocks) == len(inside)
        device.below.close()


class TestReadGate:
    async def test_shut_it_keeps_reads_back_and_says_when_none_is_under_way(self) -> None:
        delay = Delay(MemoryDevice(1024), None)
        gate = ReadGate(delay)
        ended: list[str] = []
        gate.read(0, 1, lambda error, data: ended.append("early"))
        gate.lba_status(0, 1, lambda error, runs: ended.append("status"))
        gate.shut(lambda: ended.append("drained"))
        gate.read(0, 1, lambda error, data: ended.append("late"))
        gate.prefetch(0, 1, lambda error, fits: ended.append("prefetch"))
        gate.lba_status(0, 1, lambda error, runs: ended.append("late status"))
        gate.write(0, bytes(512), lambda error: ended.append("write"))
        assert "drained" not in ended
        delay.release()
        assert "drained" in ended
        assert not {"late", "prefetch", "late status"} & set(ended)
        gate.open()
        delay.release()
        assert {"early", "status", "write", "late", "prefetch", "late status"} <= set(ended)
        gate.shut(lambda: ended.append("drained again"))
        assert ended[-1] == "drained again"


class TestTiming:
    async def test_reads_and_writes_are_timed_from_begin_to_end_and_nothing_else_is(self) -> None:
        clock = ManualClock()
        times = CommandTimes(clock.time)
        delay = Delay(MemoryDevice(1024), None)
        device = Timing(delay, times)
        device.read(0, 1, lambda error, data: None)
        clock.advance(1)
        device.write(0, bytes(512), lambda error: None)
        device.unmap(0, 1, lambda error: None)
        device.flush(lambda error: None)
        assert (times.in_flight, times.age) == (2, 0.5)
        clock.advance(2)
        assert times.age == 2.5
        delay.release(1)
        assert (times.commands, times.seconds, times.in_flight, times.age) == (1, 3.0, 1, 2.0)
        clock.advance(1)
        delay.release()
        assert (times.commands, times.seconds, times.in_flight, times.age) == (2, 6.0, 0, 0.0)

    async def test_command_that_fails_is_timed_too(self) -> None:
        fault = Fault(MemoryDevice(1024))
        fault.fail(error=lambda: MediumFailure("bad", writing=True))
        times = CommandTimes()
        device = Timing(fault, times)
        with pytest.raises(MediumFailure):
            await awaitable.write(device, 7, bytes(512))
        with pytest.raises(MediumFailure):
            await awaitable.read(device, 7, 1)
        assert (times.commands, times.in_flight) == (2, 0)

    async def test_several_volumes_are_counted_together(self) -> None:
        times = CommandTimes()
        for device in [Timing(MemoryDevice(64), times) for _ in range(2)]:
            await awaitable.write(device, 0, bytes(512))
        assert times.commands == 2

    @given(st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=40))
    def test_age_is_the_mean_of_what_is_in_flight(self, steps: list[tuple[bool, float]]) -> None:
        clock = ManualClock(12345.678)
        times = CommandTimes(clock.time)
        begun: list[float] = []
        for begins, pause in steps:
            if begins:
                begun.append(times.begin())
            elif begun:
                times.end(begun.pop(0))
            clock.advance(pause)
            ages = [clock.now - moment for moment in begun]
            assert times.in_flight == len(ages)
            assert times.age == pytest.approx(sum(ages) / len(ages) if ages else 0.0, abs=1e-6)


class Nothing(BlockDevice):
    """A device that offers no more than the interface asks for."""

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        done(None, bytes(blocks * 512))

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        done(None)

    def flush(self, done: Done) -> None:
        done(None)


async def test_optional_operations_are_unsupported_unless_offered() -> None:
    device = Nothing()
    for operation in (
        awaitable.unmap(device, 0, 1),
        awaitable.write_same(device, 0, 1, bytes(512)),
        awaitable.compare_and_write(device, 0, bytes(512), bytes(512)),
    ):
        with pytest.raises(Unsupported):
            await operation
