"""A volume as hosts see it, while what lies below it becomes another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.control.attachment import AbsentDevice
from daiko.control.publication import PublishedVolume
from daiko.device.block import Atomic, Capabilities, Level
from daiko.device.error import Unreachable
from daiko.device.layer.change_tracking import ChangeTracking
from daiko.device.layer.delay import Delay
from daiko.device.layer.layer import Layer
from daiko.device.layer.read_only import ReadOnly
from daiko.device.sanitize import Sanitization, SanitizeWatcher
from daiko.scsi.opcode import Status
from daiko.scsi.sbc import CompareAndWrite
from daiko.scsi.sense import SenseKey
from daiko.state.record import DeviceFacts, ExtentRecord, VolumeRecord
from target.fake import host_of

NAA = "62da1000000000000000000000000001"


class Simple(Layer):
    """A disk that reads and writes, and no more."""

    def __init__(self, blocks: int) -> None:
        super().__init__(MemoryDevice(blocks))
        self.capabilities = Capabilities(Level.NONE, Level.NONE, Level.NONE, Level.NONE)

    def is_native(self, operation: Atomic, lba: int, blocks: int) -> bool:
        return False


@pytest.mark.parametrize(
    ("extents", "lba", "blocks"),
    [
        pytest.param([("a/0", 0, 64)], 8, 1, id="whole device"),
        pytest.param([("a/0", 8, 16), ("b/0", 0, 16)], 3, 1, id="inside an extent"),
        pytest.param([("a/0", 8, 16), ("b/0", 0, 16)], 15, 2, id="across extents"),
    ],
)
def test_of_two_equal_compare_and_writes_one_wins_though_the_devices_are_taken_anew_between(
    extents: list[tuple[str, int, int]], lba: int, blocks: int
) -> None:
    devices = {name: Delay(Simple(64)) for name in ("a/0", "b/0")}
    record = VolumeRecord(
        name="v",
        block_size=512,
        extents=tuple(ExtentRecord(device=d, lba=at, blocks=n) for d, at, n in extents),
        naa=NAA,
    )
    volume = PublishedVolume(record, lambda device: devices[str(device)], None, is_real=False)
    host = host_of(volume.unit)
    cdb = CompareAndWrite.pack(lba=lba, transfer_length=blocks)
    empty = bytes(512 * blocks)
    one = host.start(cdb, empty + b"1" * 512 * blocks)
    volume.rebuild()
    other = host.start(cdb, empty + b"2" * 512 * blocks)
    while not other.answers:
        assert sum(device.release() for device in devices.values())
    assert one.status == Status.GOOD
    assert other.condition == (SenseKey.MISCOMPARE, 0x1D, 0x00)


class Able(Simple):
    """A disk that sanitizes itself."""

    asked = 0

    def sanitize(
        self, wanted: Sanitization, watcher: SanitizeWatcher, *, resume: bool = False
    ) -> Callable[[], None]:
        self.asked += 1
        return lambda: None


class Watcher:
    """Is told how it ended."""

    def __init__(self) -> None:
        self.outcome: list[object] = []

    def taken_over(self) -> None:
        raise AssertionError("nothing was begun")

    def progressed(self, parts: int) -> None:
        raise AssertionError("nothing was begun")

    def ended(self, error: object) -> None:
        self.outcome.append(error)


def volume_over(
    devices: dict[str, Able] | dict[str, AbsentDevice], extents: list[tuple[str, int, int]]
) -> PublishedVolume:
    record = VolumeRecord(
        name="v",
        block_size=512,
        extents=tuple(ExtentRecord(device=d, lba=at, blocks=n) for d, at, n in extents),
        naa=NAA,
    )
    return PublishedVolume(record, lambda device: devices[str(device)], None, is_real=False)


@pytest.mark.parametrize(
    ("extents", "is_asked"),
    [
        pytest.param([("a/0", 0, 64)], True, id="one whole device"),
        pytest.param([("a/0", 0, 63)], False, id="all but its end"),
        pytest.param([("a/0", 1, 63)], False, id="all but its begin"),
        pytest.param([("a/0", 0, 64), ("b/0", 0, 64)], False, id="two whole devices"),
        pytest.param([("a/0", 32, 32), ("a/0", 0, 32)], False, id="one in another order"),
    ],
)
def test_device_is_asked_to_sanitize_itself_only_where_it_is_all_the_volume(
    extents: list[tuple[str, int, int]], is_asked: bool
) -> None:
    devices = {name: Able(64) for name in ("a/0", "b/0")}
    volume = volume_over(devices, extents)
    wanted = Sanitization(None, is_restricted=True, blocks=64)
    for tracked in (False, True):
        if tracked:
            tracking = volume.put_over(ChangeTracking)
        asked = volume.unit.bare_device.sanitize(wanted, Watcher())
        assert (asked is not None) is is_asked
    assert tracking.changed_blocks == volume.unit.blocks
    assert sum(device.asked for device in devices.values()) == 2 * is_asked


def test_layer_that_does_not_know_better_does_not_pass_it_on() -> None:
    device = Able(64)
    for layer in (Delay(device), ReadOnly(device)):
        assert layer.sanitize(Sanitization(None, is_restricted=True, blocks=64), Watcher()) is None
    assert device.asked == 0


async def test_device_that_is_away_does_not_say_that_it_cannot() -> None:
    absent = AbsentDevice(DeviceFacts(lun=0, block_size=512, blocks=64), "away")
    volume = volume_over({"a/0": absent}, [("a/0", 0, 64)])
    watcher = Watcher()
    wanted = Sanitization(None, is_restricted=True, blocks=64)
    assert volume.unit.bare_device.sanitize(wanted, watcher) is not None
    stop = volume.unit.bare_device.sanitize(wanted, watcher)
    assert stop is not None
    stop()
    assert not watcher.outcome
    await asyncio.sleep(0)
    (outcome,) = watcher.outcome
    assert isinstance(outcome, Unreachable)
    left: list[object] = []
    volume.unit.bare_device.exit_failure_mode(left.append)
    assert isinstance(left[0], Unreachable)
