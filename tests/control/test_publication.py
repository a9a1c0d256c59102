"""A volume as hosts see it, while what lies below it becomes another."""

from __future__ import annotations

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.control.publication import PublishedVolume
from daiko.device.block import Atomic, Capabilities, Level
from daiko.device.layer.delay import Delay
from daiko.device.layer.layer import Layer
from daiko.scsi.opcode import Status
from daiko.scsi.sbc import CompareAndWrite
from daiko.scsi.sense import SenseKey
from daiko.state.record import ExtentRecord, VolumeRecord
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
