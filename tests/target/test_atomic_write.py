"""WRITE ATOMIC: all or nothing, against others, errors, and a crash at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from daiko.backend.intent_log import IntentLog
from daiko.backend.memory import MemoryDevice
from daiko.device.block import BlockDevice, Buffer, Done, ReadDone
from daiko.device.error import MediumFailure, Unreachable
from daiko.device.layer.fault import Fault, Operation
from daiko.device.layer.layer import Layer
from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.mapping_table import MappingTable
from daiko.scsi import sbc, vpd
from daiko.scsi.opcode import Status
from daiko.target import atomic_write
from daiko.target.logical_unit import LogicalUnit
from daiko.virtual_lu.virtual_lu import VirtualLu
from target.fake import BareDevice, FakeTask, Host, SlowDevice, host_of, unit_of

SIZE = 512
A, B = DeviceId("sd1", 0), DeviceId("sd2", 0)
EDGE = 15
NEW = b"n" * 2 * SIZE
OLD = b"o" * 2 * SIZE


def unit_over(device: BlockDevice, log: Path) -> LogicalUnit:
    unit = unit_of(device, open_intents=partial(IntentLog, log, SIZE))
    writes = atomic_write.of(unit)
    assert writes is not None
    writes.take_up()
    return unit


def volume_over(devices: dict[DeviceId, BlockDevice]) -> VirtualLu:
    extents = [Extent(0, 16, A, 20), Extent(16, 30, B, 0)]
    return VirtualLu(MappingTable(extents), devices, SIZE)


async def until(is_so: Callable[[], bool]) -> None:
    """Turn the loop until something is so, that nothing tells of."""
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def finished(task: FakeTask) -> FakeTask:
    await until(lambda: bool(task.answers))
    return task


def atomic(host: Host, lba: int, data: bytes, **fields: int) -> FakeTask:
    cdb = sbc.WriteAtomic16.pack(lba=lba, transfer_length=len(data) // SIZE, **fields)
    return host.start(cdb, data)


def contents(devices: dict[DeviceId, BlockDevice]) -> bytes:
    """The two blocks at the edge, past the unit."""
    found: list[bytes] = []
    volume_over(devices).read(EDGE, 2, lambda _, data: found.append(bytes(data)))
    return found[0]


def fill(devices: dict[DeviceId, BlockDevice]) -> None:
    volume_over(devices).write(EDGE, OLD, lambda error: None)


async def test_atomic_write_across_extents_writes_all(tmp_path: Path) -> None:
    devices: dict[DeviceId, BlockDevice] = {A: MemoryDevice(64), B: MemoryDevice(64)}
    host = host_of(unit_over(volume_over(devices), tmp_path / "log"))
    task = await finished(atomic(host, EDGE, NEW))
    assert task.status == Status.GOOD
    assert contents(devices) == NEW
    assert IntentLog(tmp_path / "log", SIZE).read() == ()


@pytest.mark.parametrize("broken", [A, B], ids=["first part", "second part"])
async def test_part_that_fails_undoes_the_other(tmp_path: Path, broken: DeviceId) -> None:
    faults = {name: Fault(MemoryDevice(64)) for name in (A, B)}
    devices: dict[DeviceId, BlockDevice] = dict(faults)
    fill(devices)
    faults[broken].fail(Operation.WRITE, error=lambda: MediumFailure("bad", writing=True), times=1)
    host = host_of(unit_over(volume_over(devices), tmp_path / "log"))
    task = await finished(atomic(host, EDGE, NEW))
    assert task.condition == (0x3, 0x0C, 0x00)
    assert contents(devices) == OLD
    assert IntentLog(tmp_path / "log", SIZE).read() == ()
    assert (await finished(atomic(host, EDGE, NEW))).status == Status.GOOD


async def test_part_that_cannot_be_undone_bars_the_blocks_until_it_can(tmp_path: Path) -> None:
    faults = {name: Fault(MemoryDevice(64)) for name in (A, B)}
    devices: dict[DeviceId, BlockDevice] = dict(faults)
    fill(devices)
    unit = unit_over(volume_over(devices), tmp_path / "log")
    host = host_of(unit)
    # The first part is written; then both devices are away.
    faults[B].fail(error=lambda: Unreachable("away"))
    faults[A].fail(Operation.WRITE, error=lambda: Unreachable("away"), after=1)
    faults[B].heal()
    faults[B].fail(Operation.WRITE, error=lambda: Unreachable("away"))
    task = await finished(atomic(host, EDGE, NEW))
    assert task.condition == (0x2, 0x08, 0x00)
    assert contents(devices) == NEW[:SIZE] + OLD[SIZE:]  # half of it, which nobody may see:
    read = host.start(sbc.Read10.pack(lba=EDGE, transfer_length=1))
    assert read.condition == (0x2, 0x08, 0x00)
    write = host.start(sbc.Write10.pack(lba=EDGE + 1, transfer_length=1), NEW[:SIZE])
    assert write.condition == (0x2, 0x08, 0x00)
    assert host.run(sbc.Read10.pack(lba=0, transfer_length=1)).status == Status.GOOD
    for fault in faults.values():
        fault.heal()
    unit.replace_device(volume_over(devices))  # they are back
    await until(lambda: unit.device is unit.bare_device)
    assert contents(devices) == OLD
    assert host.run(sbc.Read10.pack(lba=EDGE, transfer_length=2)).data_in == OLD


STEPS = ["before the entry", "entry", "first part", "both parts", "struck out"]


@pytest.mark.parametrize("step", range(len(STEPS)), ids=STEPS)
async def test_crash_at_any_step_leaves_all_or_nothing(tmp_path: Path, step: int) -> None:
    """The devices and the log as they are after each step of the way, taken up anew."""
    devices: dict[DeviceId, BlockDevice] = {A: MemoryDevice(64), B: MemoryDevice(64)}
    fill(devices)
    log = IntentLog(tmp_path / "log", SIZE)
    done = asyncio.Event()
    entries: list[object] = []

    def begun(error: object, intent: object) -> None:
        entries.append(intent)
        done.set()

    if step >= 1:
        log.begin(EDGE, OLD, NEW, begun)
        await done.wait()
    if step >= 2:
        devices[A].write(35, NEW[:SIZE], lambda error: None)
    if step >= 3:
        devices[B].write(0, NEW[SIZE:], lambda error: None)
    if step >= 4:
        done.clear()
        log.end(entries[0], lambda error: done.set())  # type: ignore[arg-type]
        await done.wait()
    log.close()

    unit = unit_over(volume_over(devices), tmp_path / "log")
    host = host_of(unit)
    if unit.device is not unit.bare_device:
        early = host.start(sbc.Read10.pack(lba=EDGE, transfer_length=2))
        assert early.condition == (0x2, 0x08, 0x00)
        await until(lambda: unit.device is unit.bare_device)
    found = host.run(sbc.Read10.pack(lba=EDGE, transfer_length=2)).data_in
    assert found == (NEW if step == 4 else OLD)
    assert IntentLog(tmp_path / "log", SIZE).read() == ()


async def test_blocks_that_somebody_else_wrote_since_the_crash_are_left_alone(
    tmp_path: Path,
) -> None:
    devices: dict[DeviceId, BlockDevice] = {A: MemoryDevice(64), B: MemoryDevice(64)}
    fill(devices)
    log = IntentLog(tmp_path / "log", SIZE)
    done = asyncio.Event()
    log.begin(EDGE, OLD, NEW, lambda error, intent: done.set())
    await done.wait()
    log.close()
    other = b"z" * SIZE
    devices[B].write(0, other, lambda error: None)
    unit = unit_over(volume_over(devices), tmp_path / "log")
    await until(lambda: unit.device is unit.bare_device)
    assert contents(devices) == OLD[:SIZE] + other


class InParts(Layer):
    """A device that writes one block at a time, and says after which it stands still."""

    def __init__(self, below: BlockDevice) -> None:
        super().__init__(below)
        self.steps: list[Callable[[], None]] = []

    def is_native(self, operation: object, lba: int, blocks: int) -> bool:
        return False

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        view = memoryview(data)
        left = len(data) // SIZE

        def one(at: int) -> None:
            nonlocal left
            self.below.write(lba + at, view[at * SIZE : (at + 1) * SIZE], lambda error: None)
            left -= 1
            if not left:
                done(None)

        for at in range(left):
            self.steps.append(partial(one, at))

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        self.below.read(lba, blocks, done)


async def test_reader_sees_all_old_or_all_new(tmp_path: Path) -> None:
    device = InParts(MemoryDevice(64))
    device.below.write(EDGE, OLD, lambda error: None)
    host = host_of(unit_over(device, tmp_path / "log"))
    task = atomic(host, EDGE, NEW)
    reads = []
    await until(lambda: bool(device.steps))
    for step in device.steps:
        reads.append(host.start(sbc.Read10.pack(lba=EDGE, transfer_length=2)))
        step()
    await finished(task)
    reads.append(host.start(sbc.Read10.pack(lba=EDGE, transfer_length=2)))
    for each in reads:
        await finished(each)
    assert {each.data_in for each in reads} <= {OLD, NEW}
    assert reads[-1].data_in == NEW
    assert reads[0].data_in == NEW  # it had to wait


async def test_read_under_way_is_waited_for(tmp_path: Path) -> None:
    device = SlowDevice(has_atomics=False)
    host = host_of(unit_over(device, tmp_path / "log"))
    read = host.start(sbc.Read10.pack(lba=5, transfer_length=2))
    atomic(host, 5, NEW)
    assert device.waiting == ["read"]
    device.step()
    assert read.status == Status.GOOD
    assert device.waiting == ["read"]  # now that of the old blocks


def test_atomic_write_that_the_device_has_is_left_to_it() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    task = atomic(host, 5, NEW, fua=1)
    assert device.waiting == ["write atomic"]
    device.step()
    assert device.waiting == ["flush"]
    device.step()
    assert task.status == Status.GOOD


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        pytest.param({"transfer_length": 1}, 511, id="less data"),
        pytest.param({"transfer_length": 1}, 1024, id="more data"),
    ],
)
def test_other_amount_of_data_is_refused(fields: dict[str, int], size: int) -> None:
    task = host_of(unit_of()).run(sbc.WriteAtomic16.pack(**fields), bytes(size))
    assert task.condition == (0x5, 0x0E, 0x03)


def test_boundary_and_more_than_the_limit_are_refused_with_a_pointer(tmp_path: Path) -> None:
    unit = unit_over(BareDevice(8192), tmp_path / "log")
    host = host_of(unit)
    limits = vpd.BlockLimits.parse(host.run(bytes.fromhex("1201b0ffff00")).data_in)
    assert (limits.max_atomic, limits.atomic_alignment, limits.max_atomic_boundary) == (2048, 0, 0)
    task = host.run(sbc.WriteAtomic16.pack(transfer_length=2049), bytes(2049 * SIZE))
    assert task.condition == (0x5, 0x24, 0x00)
    assert task.sense is not None
    assert task.sense.field is not None
    assert task.sense.field.byte == 12
    task = host.run(sbc.WriteAtomic16.pack(atomic_boundary=8, transfer_length=8), bytes(8 * SIZE))
    assert task.condition == (0x5, 0x24, 0x00)


def test_unit_without_a_log_over_a_device_that_cannot_has_no_atomic_write() -> None:
    host = host_of(unit_of(BareDevice()))
    task = host.run(sbc.WriteAtomic16.pack(transfer_length=1), bytes(SIZE))
    assert task.condition == (0x5, 0x20, 0x00)
    assert vpd.BlockLimits.parse(host.run(bytes.fromhex("1201b0ffff00")).data_in).max_atomic == 0
