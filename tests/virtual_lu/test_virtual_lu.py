"""A virtual LU behaves as any device does, wherever its blocks lie."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.device.block import Atomic, BlockDevice, Buffer, Capabilities, Done, Level, ReadDone
from daiko.device.emulate import Emulate
from daiko.device.error import (
    DeviceError,
    MediumFailure,
    OutOfRange,
    Unreachable,
    Unsupported,
)
from daiko.device.layer.delay import Delay
from daiko.device.layer.fault import Fault, Operation
from daiko.device.layer.layer import Layer
from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.mapping_table import MappingTable
from daiko.virtual_lu.virtual_lu import VirtualLu, common_capabilities
from device.suite import BlockDeviceSuite, pattern

A, B, C = DeviceId("sd1", 0), DeviceId("sd2", 0), DeviceId("own", 0)
SIZE = 512


def table(*runs: tuple[DeviceId, int, int]) -> MappingTable:
    extents, at = [], 0
    for device, lba, blocks in runs:
        extents.append(Extent(at, blocks, device, lba))
        at += blocks
    return MappingTable(extents)


SCATTERED = [(A, 700, 3), (B, 0, 40), (C, 100, 1), (A, 10, 9), (B, 200, 600), (C, 0, 90)]
LAYOUTS = {
    "one whole device": [(A, 0, 1000)],
    "the middle of a device": [(A, 17, 900)],
    "scattered over three devices": SCATTERED,
    "an extent a block": [(device, lba, 1) for lba in range(150) for device in (B, A)],
}


class _OverMemory(BlockDeviceSuite):
    block_size = 512

    @pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
    async def device(self, request: pytest.FixtureRequest) -> AsyncIterator[BlockDevice]:
        devices = {name: MemoryDevice(1000, self.block_size) for name in (A, B, C)}
        yield VirtualLu(table(*request.param), devices, self.block_size)
        for each in devices.values():
            each.close()


class TestOverMemoryOf512(_OverMemory):
    pass


class TestOverMemoryOf4096(_OverMemory):
    block_size = 4096


class Plain(Layer):
    """Memory that only reads, writes and flushes."""

    def __init__(self, below: BlockDevice) -> None:
        super().__init__(below)
        self.capabilities = Capabilities(Level.NONE, Level.NONE, Level.NONE, Level.NONE)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        done(Unsupported("no UNMAP"))

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        done(Unsupported("no WRITE SAME"))

    def is_native(self, operation: Atomic, lba: int, blocks: int) -> bool:
        return False

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        done(Unsupported("no COMPARE AND WRITE"))

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        done(Unsupported("no ORWRITE"))

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        done(Unsupported("no atomic write"))


class TestWithOneDeviceThatCanDoLittle(BlockDeviceSuite):
    """What one of the devices lacks, the volume lacks, whichever extent is asked."""

    @pytest.fixture
    async def device(self, memories: dict[DeviceId, MemoryDevice]) -> BlockDevice:
        return VirtualLu(table(*SCATTERED), {**memories, B: Plain(memories[B])}, SIZE)


class TestWithEmulationOnTop(BlockDeviceSuite):
    @pytest.fixture
    async def device(self, memories: dict[DeviceId, MemoryDevice]) -> BlockDevice:
        return Emulate(VirtualLu(table(*SCATTERED), {**memories, B: Plain(memories[B])}, SIZE))


@pytest.fixture
def memories() -> Iterator[dict[DeviceId, MemoryDevice]]:
    with ExitStack() as stack:
        devices = {name: MemoryDevice(1000) for name in (A, B, C)}
        for each in devices.values():
            stack.callback(each.close)
        yield devices


# Completions of memory come inline: each call below has its outcome when it returns, unless a
# Delay holds it back.


class Outcome:
    """The completion of one request: it must be called once."""

    def __init__(self) -> None:
        self.calls: list[tuple[DeviceError | None, bytes]] = []

    def done(self, error: DeviceError | None, data: Buffer = b"") -> None:
        self.calls.append((error, bytes(data)))

    @property
    def pending(self) -> bool:
        return not self.calls

    @property
    def error(self) -> DeviceError | None:
        (call,) = self.calls
        return call[0]

    @property
    def data(self) -> bytes:
        (call,) = self.calls
        assert call[0] is None
        return call[1]


def read(device: BlockDevice, lba: int, blocks: int) -> Outcome:
    outcome = Outcome()
    device.read(lba, blocks, outcome.done)
    return outcome


def write(device: BlockDevice, lba: int, data: Buffer) -> Outcome:
    outcome = Outcome()
    device.write(lba, data, outcome.done)
    return outcome


def compare_and_write(device: BlockDevice, lba: int, compare: Buffer, data: Buffer) -> Outcome:
    outcome = Outcome()
    device.compare_and_write(lba, compare, data, outcome.done)
    return outcome


class Recorder(Layer):
    """Notes each request that reaches a device."""

    def __init__(self, below: BlockDevice) -> None:
        super().__init__(below)
        self.seen: list[tuple[str, int, int]] = []
        self.completions: list[object] = []

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        self.seen.append(("read", lba, blocks))
        self.completions.append(done)
        super().read(lba, blocks, done)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        self.seen.append(("fua" if fua else "write", lba, len(data) // SIZE))
        self.completions.append(done)
        super().write(lba, data, done, fua)

    def flush(self, done: Done) -> None:
        self.seen.append(("flush", 0, 0))
        super().flush(done)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        self.seen.append(("unmap", lba, blocks))
        super().unmap(lba, blocks, done)


@pytest.fixture
def recorders(memories: dict[DeviceId, MemoryDevice]) -> dict[DeviceId, Recorder]:
    return {name: Recorder(device) for name, device in memories.items()}


def test_blocks_lie_where_the_table_says(memories: dict[DeviceId, MemoryDevice]) -> None:
    lu = VirtualLu(table(*SCATTERED), memories, SIZE)
    data = pattern(lu.blocks, SIZE, 1)
    assert write(lu, 0, data).error is None
    at = 0
    for device, lba, blocks in SCATTERED:
        assert read(memories[device], lba, blocks).data == data[at : at + blocks * SIZE]
        at += blocks * SIZE


def test_request_that_crosses_extents_reaches_each_device_once_with_its_part(
    recorders: dict[DeviceId, Recorder],
) -> None:
    lu = VirtualLu(table(*SCATTERED), recorders, SIZE)
    assert write(lu, 2, bytes(46 * SIZE)).error is None
    assert read(lu, 42, 3).error is None
    assert recorders[A].seen == [("write", 702, 1), ("write", 10, 4), ("read", 10, 1)]
    assert recorders[B].seen == [("write", 0, 40), ("read", 39, 1)]
    assert recorders[C].seen == [("write", 100, 1), ("read", 100, 1)]


def test_fua_reaches_every_part(recorders: dict[DeviceId, Recorder]) -> None:
    lu = VirtualLu(table(*SCATTERED), recorders, SIZE)
    lu.write(2, bytes(2 * SIZE), Outcome().done, fua=True)
    lu.write(0, bytes(SIZE), Outcome().done, fua=True)
    assert recorders[A].seen == [("fua", 702, 1), ("fua", 700, 1)]
    assert recorders[B].seen == [("fua", 0, 1)]


def test_flush_reaches_every_device_once(recorders: dict[DeviceId, Recorder]) -> None:
    outcome = Outcome()
    VirtualLu(table(*SCATTERED), recorders, SIZE).flush(outcome.done)
    assert outcome.error is None
    assert [each.seen for each in recorders.values()] == [[("flush", 0, 0)]] * 3


def test_unmap_leaves_the_blocks_mapped_of_a_device_that_cannot(
    memories: dict[DeviceId, MemoryDevice],
) -> None:
    lu = VirtualLu(table(*SCATTERED), {**memories, B: Plain(memories[B])}, SIZE)
    assert lu.capabilities.unmap is Level.NATIVE
    assert not lu.capabilities.unmapped_reads_zero
    write(lu, 0, b"x" * SIZE * 60)
    outcome = Outcome()
    lu.unmap(1, 50, outcome.done)
    assert outcome.error is None
    found = read(lu, 0, 60).data
    filled = [bool(found[at * SIZE]) for at in range(60)]
    # blocks 3 to 42 lie on the device that cannot
    assert filled == [True, *[False] * 2, *[True] * 40, *[False] * 8, *[True] * 9]


def test_volume_of_devices_that_cannot_unmap_does_not_offer_it(
    memories: dict[DeviceId, MemoryDevice],
) -> None:
    plain = {name: Plain(device) for name, device in memories.items()}
    lu = VirtualLu(table(*SCATTERED), plain, SIZE)
    assert lu.capabilities.unmap is Level.NONE
    outcome = Outcome()
    lu.unmap(1, 50, outcome.done)
    assert isinstance(outcome.error, Unsupported)


@pytest.mark.parametrize(
    ("extents", "exponent"),
    [
        pytest.param([(A, 8, 16), (B, 0, 8)], 3, id="aligned"),
        pytest.param([(A, 8, 16), (B, 4, 8)], 0, id="second not aligned"),
        pytest.param([(A, 1, 16)], 0, id="shifted"),
    ],
)
def test_physical_blocks_are_stated_where_the_extents_keep_them_whole(
    memories: dict[DeviceId, MemoryDevice],
    extents: list[tuple[DeviceId, int, int]],
    exponent: int,
) -> None:
    large = Offering(memories[A], replace(memories[A].capabilities, physical_exponent=3))
    lu = VirtualLu(table(*extents), {**memories, A: large}, SIZE)
    assert lu.capabilities.physical_exponent == exponent


def test_unmap_is_cut_as_a_write_is(recorders: dict[DeviceId, Recorder]) -> None:
    outcome = Outcome()
    VirtualLu(table(*SCATTERED), recorders, SIZE).unmap(1, 5, outcome.done)
    assert outcome.error is None
    assert recorders[A].seen == [("unmap", 701, 2)]
    assert recorders[B].seen == [("unmap", 0, 3)]


def test_request_in_one_extent_at_the_same_address_passes_straight_through(
    recorders: dict[DeviceId, Recorder],
) -> None:
    lu = VirtualLu(table((A, 0, 1000)), recorders, SIZE)
    outcome = Outcome()
    read_done, write_done = outcome.done, Outcome().done
    lu.read(5, 2, read_done)
    lu.write(7, bytes(SIZE), write_done)
    assert recorders[A].completions == [read_done, write_done]


def test_data_that_lies_in_one_extent_is_not_copied(
    recorders: dict[DeviceId, Recorder],
) -> None:
    class Keeper(Layer):
        given: Buffer = b""

        def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
            self.given = data
            done(None)

    keeper = Keeper(recorders[A])
    data = bytes(4 * SIZE)
    write(VirtualLu(table((A, 100, 50)), {A: keeper}, SIZE), 3, data)
    assert keeper.given is data


@pytest.mark.parametrize(
    ("lba", "blocks", "fits"),
    [
        (0, 0, True),
        (743, 0, True),
        (742, 1, True),
        (743, 1, False),
        (744, 0, False),
        (742, 2, False),
        (0, 744, False),
        (1 << 60, 1, False),
        (-1, 1, False),
    ],
)
def test_edges_of_the_volume(
    recorders: dict[DeviceId, Recorder], lba: int, blocks: int, fits: bool
) -> None:
    lu = VirtualLu(table(*SCATTERED), recorders, SIZE)
    assert lu.blocks == 743
    data = bytes(blocks * SIZE)
    outcomes = [read(lu, lba, blocks), write(lu, lba, data), compare_and_write(lu, lba, data, data)]
    for change in (
        lambda done: lu.unmap(lba, blocks, done),
        lambda done: lu.write_same(lba, blocks, bytes(SIZE), done),
        lambda done: lu.lba_status(lba, blocks, lambda error, _: done(error)),
    ):
        outcomes.append(Outcome())
        change(outcomes[-1].done)
    if fits:
        assert [outcome.error for outcome in outcomes] == [None] * 6
    else:
        assert [type(outcome.error) for outcome in outcomes] == [OutOfRange] * 6
        assert not any(each.seen for each in recorders.values())


def test_lba_status_stops_at_the_end_of_the_extent(
    memories: dict[DeviceId, MemoryDevice],
) -> None:
    lu = VirtualLu(table(*SCATTERED), memories, SIZE)
    found: list[int] = []
    lu.lba_status(1, 100, lambda error, runs: found.extend(blocks for blocks, _ in runs))
    assert 1 <= sum(found) <= 2


# --- errors --------------------------------------------------------------------------------------


def medium(lba: int, *, writing: bool) -> Callable[[], DeviceError]:
    return lambda: MediumFailure("bad block", writing=writing, lba=lba)


@pytest.mark.parametrize(
    ("lba", "blocks"),
    [pytest.param(45, 2, id="in one extent"), pytest.param(40, 10, id="across extents")],
)
@pytest.mark.parametrize("operation", [Operation.READ, Operation.WRITE])
def test_failed_block_is_named_by_its_address_in_the_volume(
    memories: dict[DeviceId, MemoryDevice], lba: int, blocks: int, operation: Operation
) -> None:
    writing = operation is Operation.WRITE
    fault = Fault(memories[A])
    fault.fail(operation, lba=12, blocks=1, error=medium(12, writing=writing))
    lu = VirtualLu(table(*SCATTERED), {**memories, A: fault}, SIZE)
    outcome = write(lu, lba, bytes(blocks * SIZE)) if writing else read(lu, lba, blocks)
    assert isinstance(outcome.error, MediumFailure)
    assert outcome.error.lba == 46  # A's block 12 is the third of the extent at 44
    assert outcome.error.writing is writing


def test_failed_block_of_an_extent_at_the_same_address_keeps_it(
    memories: dict[DeviceId, MemoryDevice],
) -> None:
    fault = Fault(memories[A])
    fault.fail(error=medium(12, writing=False))
    error = read(VirtualLu(table((A, 0, 100)), {A: fault}, SIZE), 10, 5).error
    assert isinstance(error, MediumFailure)
    assert error.lba == 12


@pytest.mark.parametrize("late_one", [A, B], ids=["higher comes last", "lower comes last"])
def test_of_several_errors_the_one_at_the_lowest_address_is_reported(
    memories: dict[DeviceId, MemoryDevice], late_one: DeviceId
) -> None:
    lower, higher = Fault(memories[B]), Fault(memories[A])
    lower.fail(error=lambda: Unreachable("sd2 is away"))
    higher.fail(error=medium(10, writing=False))
    devices: dict[DeviceId, BlockDevice] = {A: higher, B: lower, C: memories[C]}
    late = devices[late_one] = Delay(devices[late_one])
    outcome = read(VirtualLu(table(*SCATTERED), devices, SIZE), 40, 10)
    assert outcome.pending
    late.release()
    assert isinstance(outcome.error, Unreachable)


def test_error_of_one_device_does_not_hide_that_the_others_are_still_at_work(
    memories: dict[DeviceId, MemoryDevice],
) -> None:
    failing, late = Fault(memories[A]), Delay(memories[B])
    failing.fail(error=lambda: Unreachable("sd1 is away"))
    lu = VirtualLu(table(*SCATTERED), {A: failing, B: late, C: memories[C]}, SIZE)
    outcome = write(lu, 0, bytes(10 * SIZE))
    assert outcome.pending
    late.release()
    assert isinstance(outcome.error, Unreachable)


# --- compare and write across extents ------------------------------------------------------------

OLD, NEW, OTHER = pattern(2, SIZE, 1), pattern(2, SIZE, 2), pattern(2, SIZE, 3)
EDGE = 2  # blocks 2 and 3 lie on A and on B


@pytest.mark.parametrize("operation", Atomic)
def test_atomic_operation_is_the_devices_own_inside_an_extent_only(
    memories: dict[DeviceId, MemoryDevice], operation: Atomic
) -> None:
    lu = VirtualLu(table(*SCATTERED), {**memories, B: Plain(memories[B])}, SIZE)
    assert lu.is_native(operation, 0, 3)
    assert not lu.is_native(operation, EDGE, 2)  # across extents
    assert not lu.is_native(operation, 3, 1)  # on a device that has it not
    refused = compare_and_write(lu, EDGE, OLD, NEW)
    assert isinstance(refused.error, Unsupported)


# --- making one ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "block_size", "complaint"),
    [
        pytest.param([], SIZE, "at least one extent", id="no extent"),
        pytest.param(
            [(DeviceId("sd9", 0), 0, 1)], SIZE, "lies on sd9/0, which is not there", id="no device"
        ),
        pytest.param([(A, 0, 1)], 4096, "has blocks of 512 bytes, the volume of 4096", id="size"),
        pytest.param(
            [(A, 999, 2)], SIZE, "ends at block 1001 of sd1/0, which has 1000", id="beyond"
        ),
    ],
)
def test_volume_that_cannot_be_is_refused(
    memories: dict[DeviceId, MemoryDevice],
    runs: list[tuple[DeviceId, int, int]],
    block_size: int,
    complaint: str,
) -> None:
    with pytest.raises(ValueError, match=complaint):
        VirtualLu(table(*runs), memories, block_size)


def test_close_leaves_the_devices_open(memories: dict[DeviceId, MemoryDevice]) -> None:
    VirtualLu(table((A, 0, 10)), memories, SIZE).close()
    assert read(memories[A], 0, 1).error is None


def test_ranges_on_a_device(memories: dict[DeviceId, MemoryDevice]) -> None:
    assert VirtualLu(table(*SCATTERED), memories, SIZE).ranges_on(A) == [(0, 3), (44, 9)]


class Offering(Layer):
    def __init__(self, below: BlockDevice, capabilities: Capabilities) -> None:
        super().__init__(below)
        self.capabilities = capabilities


def test_capabilities_are_what_all_devices_offer(
    memories: dict[DeviceId, MemoryDevice],
) -> None:
    one = Capabilities(
        unmap=Level.NATIVE,
        write_same=Level.EMULATED,
        compare_and_write=Level.NATIVE,
        fua=Level.NATIVE,
        optimal_blocks=8,
        maximum_blocks=0,
        unmap_granularity=8,
        unmapped_reads_zero=True,
    )
    other = Capabilities(
        unmap=Level.EMULATED,
        write_same=Level.NATIVE,
        compare_and_write=Level.NONE,
        fua=Level.NATIVE,
        rotational=True,
        read_only=True,
        optimal_blocks=128,
        maximum_blocks=256,
        unmap_granularity=12,
    )
    offering = [Offering(memories[A], one), Offering(memories[B], other)]
    assert common_capabilities(offering) == Capabilities(
        unmap=Level.NATIVE,
        write_same=Level.EMULATED,
        compare_and_write=Level.NONE,
        fua=Level.NATIVE,
        rotational=True,
        read_only=True,
        optimal_blocks=128,
        maximum_blocks=256,
        unmap_granularity=24,
        unmapped_reads_zero=False,
    )
    with pytest.raises(ValueError, match="no device"):
        common_capabilities([])
