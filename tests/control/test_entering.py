"""Writes of copies to devices under volumes, against commands that have blocks for themselves."""

from __future__ import annotations

import asyncio

import pytest

from daiko.backend.file import FileDevice
from daiko.backend.memory import MemoryDevice
from daiko.control.entering import Entering, Overlap, entered, overlaps_of
from daiko.control.publication import Publication, PublishedVolume
from daiko.device.block import Atomic, BlockDevice, Capabilities, Level
from daiko.device.error import DeviceError
from daiko.device.layer.delay import Delay
from daiko.device.layer.layer import Layer
from daiko.mapping.extent import DeviceId, Piece
from daiko.scsi import sbc
from daiko.scsi.opcode import Status
from daiko.state.record import ExtentRecord, VolumeRecord
from target.fake import host_of

SIZE = 512
A, B = DeviceId("a", 0), DeviceId("b", 0)


class Simple(Layer):
    """A disk that reads and writes, and no more (`tgt`)."""

    def __init__(self, blocks: int) -> None:
        super().__init__(MemoryDevice(blocks))
        self.capabilities = Capabilities(Level.NONE, Level.NONE, Level.NONE, Level.NONE)

    def is_native(self, operation: Atomic, lba: int, blocks: int) -> bool:
        return False


class Volumes(Publication):
    """Volumes without a store."""

    def __init__(self, devices: dict[DeviceId, BlockDevice]) -> None:
        self.devices = devices
        self.published: dict[str, PublishedVolume] = {}

    def add(self, name: str, *extents: tuple[str, int, int]) -> PublishedVolume:
        record = VolumeRecord(
            name=name,
            block_size=SIZE,
            extents=tuple(ExtentRecord(device=d, lba=at, blocks=n) for d, at, n in extents),
            naa=f"62da10000000000000000000000000{len(self.published):02x}",
        )
        volume = PublishedVolume(record, self.devices.__getitem__, None, is_real=False)
        self.published[name] = volume
        return volume

    def volume(self, name: str) -> PublishedVolume:
        return self.published[name]

    def volumes_on(self, backend: str) -> tuple[PublishedVolume, ...]:
        return tuple(
            volume
            for volume in self.published.values()
            if any(device.backend == backend for device in volume.table.devices)
        )


@pytest.fixture
def volumes() -> Volumes:
    return Volumes({A: Delay(Simple(64)), B: Delay(Simple(64))})


def settle(volumes: Volumes) -> None:
    while any(device.release() for device in volumes.devices.values()):  # type: ignore[attr-defined]
        pass


def destination(volumes: Volumes, piece: Piece) -> BlockDevice:
    overlaps = overlaps_of([piece], volumes)
    return Entering(volumes.devices[piece.device], overlaps, volumes)


def test_overlaps_are_the_blocks_of_volumes_in_the_piece(volumes: Volumes) -> None:
    volumes.add("v", ("a/0", 8, 16), ("b/0", 0, 16), ("a/0", 40, 8))
    volumes.add("w", ("a/0", 24, 4))
    assert sorted(overlaps_of([Piece(A, 10, 33)], volumes)) == [
        Overlap("v", 2, 10, 14),
        Overlap("v", 32, 40, 3),
        Overlap("w", 0, 24, 4),
    ]
    assert overlaps_of([Piece(A, 0, 8)], volumes) == []


@pytest.mark.parametrize("comes_first", ["copy", "command"])
def test_copy_and_compare_and_write_are_one_after_the_other(
    volumes: Volumes, comes_first: str
) -> None:
    """Without the entry the command would read old blocks, the copy write its own, and the command
    write over them what it had compared with what was there before."""
    volume = volumes.add("v", ("a/0", 8, 16), ("b/0", 0, 16))
    host = host_of(volume.unit)
    copy = destination(volumes, Piece(A, 0, 64))
    outcomes: list[DeviceError | None] = []
    old, new, copied = bytes(2 * SIZE), b"n" * 2 * SIZE, b"c" * SIZE
    cdb = sbc.CompareAndWrite.pack(lba=15, transfer_length=2)

    def write() -> None:
        copy.write(23, copied, outcomes.append)

    if comes_first == "copy":
        write()
    task = host.start(cdb, old + new)
    if comes_first == "command":
        write()
    settle(volumes)
    assert outcomes == [None]
    read = host.start(sbc.Read10.pack(lba=15, transfer_length=2))
    settle(volumes)
    if comes_first == "copy":
        assert task.condition == (0xE, 0x1D, 0x00)
        assert read.data_in == copied + bytes(SIZE)
    else:
        assert task.status == Status.GOOD
        assert read.data_in == copied + new[SIZE:]


async def test_another_controller_s_copy_waits_for_a_command_and_keeps_the_next_back(
    volumes: Volumes,
) -> None:
    volume = volumes.add("v", ("a/0", 8, 16), ("b/0", 0, 16))
    host = host_of(volume.unit)
    cdb = sbc.CompareAndWrite.pack(lba=15, transfer_length=2)
    first = host.start(cdb, bytes(2 * SIZE) + b"1" * 2 * SIZE)
    go_on = asyncio.Event()
    has_begun = asyncio.Event()

    async def copy() -> None:
        async with entered(overlaps_of([Piece(B, 0, 8), Piece(A, 0, 64)], volumes), volumes):
            has_begun.set()
            await go_on.wait()

    copying = asyncio.ensure_future(copy())
    await asyncio.sleep(0)
    assert not has_begun.is_set()
    settle(volumes)
    assert first.status == Status.GOOD
    await has_begun.wait()
    second = host.start(cdb, b"1" * 2 * SIZE + b"2" * 2 * SIZE)
    settle(volumes)
    assert second.answers == 0
    go_on.set()
    await copying
    settle(volumes)
    assert second.status == Status.GOOD


async def test_copy_of_the_kernel_is_not_begun_while_a_command_has_the_blocks(tmp_path) -> None:  # type: ignore[no-untyped-def]
    device = FileDevice.open(tmp_path / "disk", create_bytes=64 * SIZE)
    volumes = Volumes({A: device})
    volume = volumes.add("v", ("a/0", 0, 64))
    copy = destination(volumes, Piece(A, 0, 64))
    outcomes: list[DeviceError | None] = []
    held: list[object] = []
    volume.unit.alone.run_alone(None, 0, 8, lambda _, done: held.append(done), outcomes.append)
    assert not copy.copy_from(0, device, 32, 8, outcomes.append)
    held[0](None)  # type: ignore[operator]
    assert outcomes == [None]
    assert copy.copy_from(0, device, 32, 8, outcomes.append) == device.copy_from(
        16, device, 40, 8, outcomes.append
    )
    device.close()


def test_volume_that_has_gone_is_passed_over(volumes: Volumes) -> None:
    volumes.add("v", ("a/0", 8, 16))
    copy = destination(volumes, Piece(A, 0, 64))
    volumes.published.clear()
    outcomes: list[DeviceError | None] = []
    copy.write(10, bytes(SIZE), outcomes.append)
    settle(volumes)
    assert outcomes == [None]
