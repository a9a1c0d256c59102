"""Room, thresholds, and who is told when one is crossed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.backend.file import FileDevice
from daiko.backend.memory import MemoryDevice
from daiko.device.block import Capabilities, Level, Room
from daiko.device.error import SpaceExhausted
from daiko.device.layer.fault import Fault, Operation
from daiko.device.layer.layer import Layer
from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.mapping_table import MappingTable
from daiko.scsi import sbc, spc, vpd
from daiko.scsi.mode_page import BlockProvisioningPage, pack_mode_parameters
from daiko.scsi.opcode import Status
from daiko.target.logical_unit import LogicalUnit
from daiko.virtual_lu.virtual_lu import VirtualLu
from target.fake import Host, host_of, unit_of

MIB = 2048
"""Blocks of a threshold set."""
SOFT_THRESHOLD = (0x6, 0x38, 0x07)
TEST_UNIT_READY = "00 00 00 00 00 00"


class Thin(Layer):
    """A device that says how much room it has."""

    def __init__(self, available: int, used: int | None = 0) -> None:
        super().__init__(MemoryDevice(4096))
        self.left = Room(available * MIB, None if used is None else used * MIB)
        self.capabilities = Capabilities(
            Level.NATIVE, Level.NATIVE, Level.NATIVE, Level.NATIVE, tells_room=True
        )

    def room(self) -> Room | None:
        return self.left


def select(host: Host, **fields: int) -> None:
    """Set the thresholds of mode page 1Ch/02h."""
    page = BlockProvisioningPage.pack(
        available_resource=1, used_resource=2, used_arming=1, **fields
    )
    data = pack_mode_parameters([page], ten=True)
    data = bytes(2) + data[2:]  # MODE DATA LENGTH is reserved in MODE SELECT
    task = host.run(spc.ModeSelect10.pack(pf=1, parameter_list_length=len(data)), data)
    assert task.status == Status.GOOD, task.sense


def look(unit: LogicalUnit) -> None:
    assert unit.thresholds is not None
    unit.thresholds.look()


async def test_hosts_are_told_once_when_what_is_left_falls_to_the_threshold() -> None:
    device = Thin(100)
    unit = unit_of(device)
    host = host_of(unit)
    select(host, available_enabled=1, available_count=10)
    assert host.run(TEST_UNIT_READY).status == Status.GOOD
    for available, condition in [
        (11, None),
        (10, SOFT_THRESHOLD),
        (9, None),  # it is known
        (50, None),
        (3, SOFT_THRESHOLD),
    ]:
        device.left = Room(available * MIB, 0)
        look(unit)
        assert host.run(TEST_UNIT_READY).condition == condition, available
    assert unit.thresholds is not None
    unit.thresholds.stop()


async def test_hosts_are_told_when_what_is_used_grows_to_the_threshold() -> None:
    device = Thin(100)
    unit = unit_of(device)
    host = host_of(unit)
    select(host, used_enabled=1, used_count=5)
    device.left = Room(100 * MIB, 4 * MIB)
    look(unit)
    assert host.run(TEST_UNIT_READY).status == Status.GOOD
    device.left = Room(100 * MIB, 4 * MIB + 1)  # the fifth set is begun
    look(unit)
    assert host.run(TEST_UNIT_READY).condition == SOFT_THRESHOLD
    assert unit.thresholds is not None
    unit.thresholds.stop()


async def test_threshold_that_is_reached_when_it_is_set_is_told_at_once() -> None:
    host = host_of(unit_of(Thin(5)))
    select(host, available_enabled=1, available_count=10)
    assert host.run(TEST_UNIT_READY).condition == SOFT_THRESHOLD


async def test_threshold_that_is_taken_back_tells_nobody() -> None:
    device = Thin(100)
    unit = unit_of(device)
    host = host_of(unit)
    select(host, available_enabled=1, available_count=10)
    select(host, available_enabled=0, available_count=10)
    device.left = Room(0, 0)
    look(unit)
    assert host.run(TEST_UNIT_READY).status == Status.GOOD


def test_page_b2h_and_the_log_page_count_in_the_same_sets() -> None:
    host = host_of(unit_of(Thin(100, 7)))
    page = vpd.LogicalBlockProvisioning.parse(host.run(bytes.fromhex("1201b2ff0000")).data_in)
    assert 1 << page.threshold_exponent == MIB
    log = host.run(spc.LogSense.pack(pc=1, page_code=0x0C, allocation_length=255)).data_in
    assert log[:4].hex() == "8c000018"
    available, used = log[4:16], log[16:28]
    assert (available[:2].hex(), available[3:].hex()) == ("0001", "080000006402000000")
    assert (used[:2].hex(), used[3:].hex()) == ("0002", "080000000701000000")


@pytest.mark.parametrize("device", [MemoryDevice(64)], ids=["not thin"])
def test_unit_that_cannot_tell_has_no_thresholds(device: MemoryDevice) -> None:
    host = host_of(unit_of(device))
    page = vpd.LogicalBlockProvisioning.parse(host.run(bytes.fromhex("1201b2ff0000")).data_in)
    assert page.threshold_exponent == 0
    task = host.run(spc.ModeSense10.pack(page_code=0x1C, subpage_code=2, allocation_length=255))
    assert task.condition == (0x5, 0x24, 0x00)
    task = host.run(spc.LogSense.pack(pc=1, page_code=0x0C, allocation_length=255))
    assert task.condition == (0x5, 0x24, 0x00)


def test_volume_has_what_its_fullest_device_has_left() -> None:
    a, b, c = DeviceId("a", 0), DeviceId("b", 0), DeviceId("c", 0)
    extents = [Extent(0, 8, a, 0), Extent(8, 8, b, 0), Extent(16, 8, c, 0)]
    lu = VirtualLu(MappingTable(extents), {a: Thin(9, 3), b: Thin(4, 3), c: MemoryDevice(64)}, 512)
    assert lu.room() == Room(4 * MIB, None)
    assert lu.capabilities.tells_room


async def test_file_tells_the_room_of_its_file_system(tmp_path: Path) -> None:
    thin = FileDevice.open(tmp_path / "thin", create_bytes=64 << 20)
    before = thin.room()
    assert before is not None
    assert before.used == 0
    assert before.available > 0
    done: list[object] = []
    thin.write(0, b"x" * (1 << 20), done.append)
    after = thin.room()
    assert after is not None
    assert after.used is not None
    assert after.used >= MIB
    thin.close()
    thick = FileDevice.open(tmp_path / "thick", create_bytes=1 << 20, preallocate=True)
    assert thick.room() is None
    thick.close()


def test_write_that_finds_no_room_says_so() -> None:
    fault = Fault(MemoryDevice(64))
    fault.fail(Operation.WRITE, error=lambda: SpaceExhausted("full"))
    task = host_of(unit_of(fault)).run(sbc.Write10.pack(transfer_length=1), bytes(512))
    assert task.condition == (0x7, 0x27, 0x07)


@given(st.booleans(), st.integers(0, 0xFFFFFFFF), st.booleans(), st.integers(0, 0xFFFFFFFF))
def test_mode_page_is_read_as_it_was_written(a: bool, b: int, c: bool, d: int) -> None:
    data = BlockProvisioningPage.pack(
        available_enabled=a, available_count=b, used_enabled=c, used_count=d
    )
    fields = BlockProvisioningPage.unpack(data)
    assert data[:4].hex() == "5c02001c"
    assert (fields.available_enabled, fields.available_count) == (a, b)
    assert (fields.used_enabled, fields.used_count) == (c, d)
