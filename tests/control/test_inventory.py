"""Back ends: attached, looked at, lost, found again, and taken for what they are.

The second controllers are other `System`s in the same process, reached over real sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daiko.command_control.function_table import FunctionCell, Known, ReachCell
from daiko.command_control.plan import Function
from daiko.control import attachment, backends, volumes
from daiko.control.error import Conflict, NotFound, Unavailable
from daiko.control.system import System
from daiko.device import awaitable
from daiko.device.error import Unreachable
from daiko.device.layer.timing import CommandTimes
from daiko.mapping.extent import DeviceId
from daiko.state.record import (
    BackendKind,
    BackendRecord,
    ExtentRecord,
    FunctionRecord,
    HostRecord,
    PortalGroupRecord,
    ReachRecord,
    SystemRecord,
)
from daiko.state.sqlite import SqliteStore
from daiko.state.store import Change
from target.fake import Host

from .conftest import disk

SECOND = "iqn.2026-11.com.example:second"


class Second:
    """Another controller, serving files as LUs; it can be stopped, and started again elsewhere
    in time on the same port."""

    def __init__(self, folder: Path, iqn: str = SECOND) -> None:
        self.folder = folder
        self.iqn = iqn
        self.portal = "127.0.0.1:0"
        self.system: System | None = None
        self._store: SqliteStore | None = None

    async def start(self, store: str = "second") -> None:
        self._store = SqliteStore.open(self.folder / store)
        await self._store.put(SystemRecord(iqn=self.iqn, initiator_iqn=f"{self.iqn}.i"))
        await self._store.put(PortalGroupRecord(tag=1, portals=(self.portal,), target_port_group=1))
        self.system = await System.start(self._store)
        await self.system.listen()
        (self.portal,) = self.system.portals

    async def serve(self, lun: int, blocks: int) -> None:
        """One more file as a LUN."""
        assert self.system is not None
        name = f"disk{lun}"
        await self.system.attach_backend(disk(self.folder, name, blocks))
        await volumes.take_image(self.system, f"v{lun}", DeviceId(name, 0))
        host = self.system.store.get(HostRecord, "any")
        luns = {**(host.luns if host else {}), lun: f"v{lun}"}
        await self.system.put_host(HostRecord(name="any", initiators=("*",), luns=luns))

    async def allow_copy(self, *portals: str) -> None:
        """Let its hosts name LUs behind these portals in copies."""
        assert self.system is not None
        host = self.system.store.get(HostRecord, "any")
        assert host is not None
        await self.system.put_host(host.model_copy(update={"remote_copy": portals}))

    async def stop(self) -> None:
        if self.system is not None and self._store is not None:
            await self.system.stop()
            await self._store.close()
            self.system = None

    def record(self, name: str = "sd1") -> BackendRecord:
        return BackendRecord(
            name=name, type=BackendKind.ISCSI, iqn=self.iqn, portals=(self.portal,)
        )


@pytest.fixture
async def second(tmp_path: Path) -> AsyncIterator[Second]:
    second = Second(tmp_path)
    await second.start()
    await second.serve(0, 2048)
    yield second
    await second.stop()


class Watch:
    """Waits for a change of the store instead of sleeping."""

    def __init__(self, system: System) -> None:
        self._changes: asyncio.Queue[Change] = asyncio.Queue()
        system.store.watch(lambda changes: [self._changes.put_nowait(c) for c in changes] and None)

    async def next(self, kind: type) -> Change:
        async with asyncio.timeout(30):
            while True:
                change = await self._changes.get()
                if change.type is kind:
                    return change


def one(device: str) -> list[ExtentRecord]:
    return [ExtentRecord(device=device, lba=0, blocks=2048)]


async def test_attached_controller_shows_its_lus_with_their_identities(
    system: System, second: Second
) -> None:
    record = await system.attach_backend(second.record())
    assert [(facts.lun, facts.blocks, facts.block_size) for facts in record.devices] == [
        (0, 2048, 512)
    ]
    assert second.system is not None
    naa = second.system.unit("v0").identity.naa.hex()
    assert record.devices[0].designators[0] == f"01030010{naa}"
    address = system.directory()[DeviceId("sd1", 0)]
    assert (address.iqn, address.portals, address.lun) == (SECOND, (second.portal,), 0)
    connected, detail = system.backend_status("sd1")
    assert connected
    assert second.portal in detail
    assert len(second.system.sessions()) == 1


async def test_controller_that_does_not_answer_is_not_attached(
    system: System, second: Second
) -> None:
    record = second.record()
    await second.stop()
    with pytest.raises(Unavailable, match=second.portal) as caught:
        await system.attach_backend(record)
    assert SECOND in caught.value.next_step
    assert system.store.get(BackendRecord, "sd1") is None
    with pytest.raises(NotFound):
        system.backend_status("sd1")


async def test_one_controller_or_file_is_attached_once(
    system: System, second: Second, tmp_path: Path
) -> None:
    await system.attach_backend(second.record())
    with pytest.raises(Conflict, match="a back end sd1 already"):
        await system.attach_backend(second.record())
    with pytest.raises(Conflict, match="attached already, as sd1"):
        await system.attach_backend(second.record("sd2"))
    with pytest.raises(Conflict, match="attached already, as a"):
        await system.attach_backend(
            BackendRecord(name="x", type=BackendKind.INTERNAL, path=str(tmp_path / "a.img"))
        )


async def test_volume_over_two_controllers_reads_and_writes(system: System, second: Second) -> None:
    await system.attach_backend(second.record())
    await volumes.create_by_hand(system, "v", [*one("sd1/0"), *one("a/0")])
    device = system.unit("v").device
    await awaitable.write(device, 2047, b"2" * 512 + b"1" * 512)
    assert second.system is not None
    assert await awaitable.read(second.system.unit("v0").device, 2047, 1) == b"2" * 512
    assert await awaitable.read(system.devices.block_device(DeviceId("a", 0)), 0, 1) == b"1" * 512


async def test_back_end_under_a_volume_is_not_detached(system: System, second: Second) -> None:
    await system.attach_backend(second.record())
    await volumes.create_by_hand(system, "v", one("sd1/0"))
    with pytest.raises(Conflict, match="volume v lies on sd1"):
        await system.detach_backend("sd1")
    await volumes.remove(system, "v")
    await system.detach_backend("sd1")
    assert system.store.get(BackendRecord, "sd1") is None
    assert DeviceId("sd1", 0) not in system.directory()
    with pytest.raises(NotFound):
        await system.detach_backend("sd1")


async def test_detached_back_end_takes_its_cells_along(system: System, second: Second) -> None:
    await system.attach_backend(second.record())
    by_hand = FunctionCell(False, Known.DECLARED, 1.0, "no licence")
    reach = ReachCell(True, Known.DECLARED, 1.0, "same cable")
    await system.put_cell(
        FunctionRecord(backend="sd1", function=Function.DIRECT_BACKUP, cell=by_hand)
    )
    await system.put_cell(ReachRecord(backend="a", device="sd1/0", cell=reach))
    await system.put_cell(ReachRecord(backend="a", device="b/0", cell=reach))
    cell = system.function_table().function("sd1", Function.DIRECT_BACKUP)
    assert cell is not None
    assert cell.reason == "no licence"
    await system.detach_backend("sd1")
    assert system.store.list(FunctionRecord) == ()
    assert [record.device for record in system.store.list(ReachRecord)] == ["b/0"]


async def test_rescan_finds_new_lus(system: System, second: Second) -> None:
    await system.attach_backend(second.record())
    await second.serve(4, 4096)
    record = await system.probe_backend("sd1", functions=False)
    assert [(facts.lun, facts.blocks) for facts in record.devices] == [(0, 2048), (4, 4096)]
    await volumes.take_image(system, "new", DeviceId("sd1", 4))
    assert (await awaitable.read(system.unit("new").device, 4095, 1)) == bytes(512)


async def test_growth_of_a_second_controllers_lu_is_noticed_and_taken(
    system: System, second: Second
) -> None:
    """Its unit attention (CAPACITY DATA HAS CHANGED) tells of it; nobody has to ask."""
    await system.attach_backend(second.record())
    await volumes.take_image(system, "alpha", DeviceId("sd1", 0))
    await system.put_host(HostRecord(name="h", initiators=("*",), luns={0: "alpha"}))
    host = Host(system.access)
    assert second.system is not None
    watch = Watch(system)
    await backends.grow(second.system, "disk0", 4096 * 512)
    await volumes.grow(second.system, "v0")
    await system._inventory.attachment("sd1").look_for_growth()
    change = await watch.next(BackendRecord)
    assert isinstance(change.after, BackendRecord)
    assert change.after.devices[0].blocks == 4096
    assert host.run("00" * 6).status == 0
    assert (await volumes.grow(system, "alpha")).blocks == 4096
    assert host.run("00" * 6).condition == (0x6, 0x2A, 0x09)
    assert await awaitable.read(system.unit("alpha").device, 4095, 1) == bytes(512)


async def test_rescan_finds_a_file_that_has_grown(system: System, tmp_path: Path) -> None:
    with (tmp_path / "a.img").open("r+b") as file:
        file.truncate(8192 * 512)
    record = await system.probe_backend("a")
    assert record.devices[0].blocks == 8192
    await volumes.create_by_hand(system, "v", [ExtentRecord(device="a/0", lba=8191, blocks=1)])
    await awaitable.write(system.unit("v").device, 0, b"x" * 512)


async def test_learned_cell_stands_over_a_restart_and_goes_with_a_probe(
    system: System, second: Second
) -> None:
    await system.attach_backend(second.record())
    found = system.store.get(FunctionRecord, "sd1:direct-backup:found")
    assert found is not None
    learned = FunctionRecord(
        backend="sd1",
        function=Function.DIRECT_BACKUP,
        cell=FunctionCell(False, Known.LEARNED, found.cell.at, "refused", None, found.cell.on),
    )
    await system.store.put(learned)
    await system.stop()
    again = await System.start(system.store)
    assert again.store.get(FunctionRecord, learned.key) == learned
    await again.probe_backend("sd1")
    now = again.store.get(FunctionRecord, learned.key)
    assert now is not None
    assert now.cell.known is Known.PROBED
    await again.stop()


@pytest.fixture
async def third(tmp_path: Path) -> AsyncIterator[Second]:
    folder = tmp_path / "third"
    folder.mkdir(mode=0o700)
    third = Second(folder, "iqn.2026-11.com.example:third")
    await third.start()
    await third.serve(0, 1024)
    yield third
    await third.stop()


async def test_controllers_that_copy_are_asked_what_they_reach_when_another_is_attached(
    system: System, second: Second, third: Second
) -> None:
    await second.allow_copy(third.portal)
    await system.attach_backend(second.record("sd1"))
    await system.attach_backend(third.record("sd2"))
    table = system.function_table()
    can = table.reaches("sd1", DeviceId("sd2", 0))
    cannot = table.reaches("sd2", DeviceId("sd1", 0))
    assert can is not None
    assert (can.can, can.known) == (True, Known.PROBED)
    assert cannot is not None
    assert (cannot.can, cannot.known) == (False, Known.PROBED)
    assert "26" in cannot.reason or "AUTHOR" in cannot.reason.upper()


async def test_reach_is_asked_again_when_the_administrator_wants(
    system: System, second: Second, third: Second
) -> None:
    await system.attach_backend(second.record("sd1"))
    await system.attach_backend(third.record("sd2"))
    assert not (await system.probe_reach("sd1", DeviceId("sd2", 0))).can
    await second.allow_copy("*")
    assert (await system.probe_reach("sd1", DeviceId("sd2", 0))).can
    cell = system.function_table().reaches("sd1", DeviceId("sd2", 0))
    assert cell is not None
    assert cell.can
    # A disk of this controller sends no commands to anybody.
    assert not (await system.probe_reach("a", DeviceId("sd2", 0))).can
    with pytest.raises(NotFound, match="no back end x"):
        await system.probe_reach("x", DeviceId("sd2", 0))
    with pytest.raises(NotFound, match="no device sd2/7"):
        await system.probe_reach("sd1", DeviceId("sd2", 7))


async def test_controller_that_went_away_is_unavailable_to_probes(
    system: System, second: Second, third: Second
) -> None:
    await system.attach_backend(second.record("sd1"))
    await system.attach_backend(third.record("sd2"))
    await second.stop()
    with pytest.raises(Unavailable):
        await system.probe_backend("sd1")
    with pytest.raises(Unavailable):
        await system.probe_reach("sd1", DeviceId("sd2", 0))
    # What was known stays known.
    assert system.store.get(BackendRecord, "sd1") is not None
    assert system.function_table().function("sd1", Function.DIRECT_BACKUP) is not None


async def test_controller_that_is_down_at_start_is_not_waited_for_and_comes_back(
    system: System, second: Second, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachment, "FIRST_RETRY", 0.01)
    await system.attach_backend(second.record())
    await volumes.create_by_hand(system, "v", one("sd1/0"))
    await volumes.create_by_hand(system, "w", one("a/0"))
    await awaitable.write(system.unit("v").device, 7, b"7" * 512)
    await system.stop()
    await second.stop()
    again = await System.start(system.store)
    assert again.unit("v").blocks == 2048
    with pytest.raises(Unreachable, match="sd1"):
        await awaitable.read(again.unit("v").device, 7, 1)
    await awaitable.write(again.unit("w").device, 0, bytes(512))
    connected, detail = again.backend_status("sd1")
    assert not connected
    assert detail
    watch = Watch(again)
    await second.start()
    await watch.next(BackendRecord)
    assert await awaitable.read(again.unit("v").device, 7, 1) == b"7" * 512
    assert again.backend_status("sd1")[0]
    await again.stop()


async def test_hosts_hear_once_of_a_back_end_that_was_restarted_under_their_volume(
    system: System, second: Second
) -> None:
    """Its cache may have lost what they wrote, so a flush now proves nothing of before."""
    await system.attach_backend(second.record())
    await volumes.create_by_hand(system, "v", one("sd1/0"))
    await volumes.create_by_hand(system, "w", one("a/0"))
    await system.put_host(HostRecord(name="h", initiators=("*",), luns={0: "v", 1: "w"}))
    host = Host(system.access)
    test_unit_ready = bytes(6)

    def conditions(lun: int) -> list[tuple[int, int, int] | None]:
        return [host.run(test_unit_ready, lun=lun).condition for _ in range(3)]

    for lun in (0, 1):
        conditions(lun)
        assert conditions(lun) == [None, None, None]
    await awaitable.write(system.unit("v").device, 0, b"x" * 512)
    await second.stop()
    await second.start()
    # Waits for the new session, and goes out after the look that finds the reset.
    await awaitable.read(system.unit("v").device, 0, 1)
    assert conditions(0) == [(0x06, 0x29, 0x04), None, None]
    assert conditions(1) == [None, None, None]


async def test_another_lu_in_the_place_of_the_old_one_stays_out_until_it_is_looked_at(
    system: System, second: Second
) -> None:
    await system.attach_backend(second.record())
    await volumes.create_by_hand(system, "v", one("sd1/0"))
    await system.stop()
    await second.stop()
    # The same name, port and LUN, but a store, and so an identity, of its own.
    await second.start("other")
    await second.serve(0, 2048)
    again = await System.start(system.store)
    with pytest.raises(Unreachable, match="another identity"):
        await awaitable.write(again.unit("v").device, 0, b"x" * 512)
    assert "another identity" in again.backend_status("sd1")[1]
    await again.probe_backend("sd1")
    await awaitable.write(again.unit("v").device, 0, b"x" * 512)
    await again.stop()


async def test_tracking_of_a_volume_and_of_the_device_under_it_see_what_hosts_write(
    system: System,
) -> None:
    await volumes.create_by_hand(
        system,
        "v",
        [
            ExtentRecord(device="b/0", lba=0, blocks=10),
            ExtentRecord(device="a/0", lba=100, blocks=10),
        ],
    )
    unit = system.unit("v")
    plain = unit.device
    of_volume = system.devices.track("v")
    await awaitable.write(unit.device, 1, bytes(512))
    of_device = system.devices.track("a/0")
    second_job = system.devices.track("v")
    await awaitable.write(unit.device, 9, bytes(1024))
    assert second_job.changed_in(0, 20) == 2
    assert of_volume.changed_in(0, 20) == 3
    assert of_volume.changed_in(2, 8) == 1
    assert of_device.changed_in(0, 4096) == 1
    assert of_device.changed_in(101, 10) == 0
    system.devices.untrack("v", of_volume)
    system.devices.untrack("a/0", of_device)
    await awaitable.write(unit.device, 3, bytes(512))
    assert second_job.changed_in(3, 1) == 1
    system.devices.untrack("v", second_job)
    assert unit.device is plain


async def test_commands_to_a_volume_and_to_the_volumes_on_a_device_are_timed_while_asked_for(
    system: System,
) -> None:
    await volumes.create_by_hand(
        system,
        "v",
        [
            ExtentRecord(device="b/0", lba=0, blocks=10),
            ExtentRecord(device="a/0", lba=100, blocks=10),
        ],
    )
    await volumes.create_by_hand(system, "w", [ExtentRecord(device="a/0", lba=0, blocks=10)])
    units = {name: system.unit(name) for name in ("v", "w")}
    plain = {name: unit.device for name, unit in units.items()}
    of_volume, of_device, of_other = (CommandTimes() for _ in range(3))
    ends = [
        system.devices.time_commands("v", of_volume),
        system.devices.time_commands("a/0", of_device),
        system.devices.time_commands("b", of_other),
    ]
    tracking = system.devices.track("v")
    for unit in units.values():
        await awaitable.write(unit.device, 0, bytes(512))
        await awaitable.read(unit.device, 9, 1)
    await awaitable.read(system.devices.block_device(DeviceId("a", 0)), 0, 8)
    assert [times.commands for times in (of_volume, of_device, of_other)] == [2, 4, 2]
    for end in ends:
        end()
    await awaitable.write(units["v"].device, 1, bytes(512))
    assert tracking.changed_in(0, 20) == 2
    system.devices.untrack("v", tracking)
    assert {name: unit.device for name, unit in units.items()} == plain
    assert (of_volume.commands, of_volume.in_flight) == (2, 0)
    with pytest.raises(LookupError):
        system.devices.time_commands("nowhere", of_volume)


async def test_jobs_that_follow_one_another_without_a_gap_leave_nothing_in_the_write_path(
    system: System,
) -> None:
    await volumes.create_by_hand(system, "v", one("a/0"))
    unit = system.unit("v")
    plain = unit.device
    running = system.devices.track("v")
    for _ in range(1500):
        following = system.devices.track("v")
        system.devices.untrack("v", running)
        running = following
    await awaitable.write(unit.device, 5, bytes(512))
    assert running.changed_in(0, 4096) == 1
    system.devices.untrack("v", running)
    assert unit.device is plain


async def test_a_volume_that_is_tracked_takes_new_devices_below_its_trackings(
    system: System,
) -> None:
    await volumes.create_by_hand(system, "v", one("a/0"))
    unit = system.unit("v")
    first, second, third = (system.devices.track("v") for _ in range(3))
    system.devices.untrack("v", second)
    await system.probe_backend("a")
    await awaitable.write(unit.device, 5, bytes(512))
    assert (first.changed_in(0, 9), second.changed_in(0, 9), third.changed_in(0, 9)) == (1, 0, 1)
    system.devices.untrack("v", first)
    await awaitable.write(unit.device, 6, bytes(512))
    assert (first.changed_in(0, 9), third.changed_in(0, 9)) == (1, 2)
    system.devices.untrack("v", third)


async def test_place_is_a_volume_a_device_or_a_back_end_with_one_lu(
    system: System, second: Second
) -> None:
    await system.attach_backend(second.record())
    await volumes.create_by_hand(system, "v", one("sd1/0"))
    assert system.place("v").name == "v"
    assert system.place("sd1/0").blocks == 2048
    assert system.place("sd1").name == "sd1/0"
    await second.serve(4, 4096)
    await system.probe_backend("sd1")
    with pytest.raises(NotFound, match=r"several LUs, say which: sd1/0, sd1/4"):
        system.place("sd1")
    with pytest.raises(NotFound, match="no volume and no back end x"):
        system.place("x")
    with pytest.raises(NotFound, match="no device sd1/9"):
        system.place("sd1/9")


async def test_hosts_see_changes_at_once(system: System) -> None:
    await volumes.create_by_hand(system, "v", one("a/0"))
    with pytest.raises(NotFound, match="no volume nothing"):
        await system.put_host(HostRecord(name="h", initiators=("*",), luns={0: "nothing"}))
    await system.put_host(HostRecord(name="h", initiators=("iqn.2026-11.x:h",), luns={0: "v"}))
    assert system.access.authorize("iqn.2026-11.x:h", "")
    assert not system.access.authorize("iqn.2026-11.x:other", "")
    with pytest.raises(Conflict, match="host h has the initiator"):
        await system.put_host(HostRecord(name="g", initiators=("iqn.2026-11.x:h",)))
    await system.remove_host("h")
    assert not system.access.authorize("iqn.2026-11.x:h", "")
    with pytest.raises(NotFound):
        await system.remove_host("h")


async def test_a_lu_that_vanished_under_a_volume_is_kept_out_by_a_rescan_and_comes_back(
    system: System, second: Second
) -> None:
    await second.serve(1, 2048)
    await system.attach_backend(second.record())
    await volumes.create_by_hand(system, "v", one("sd1/1"))
    await volumes.create_by_hand(system, "w", one("sd1/0"))
    assert second.system is not None
    host = second.system.store.get(HostRecord, "any")
    assert host is not None
    await second.system.put_host(host.model_copy(update={"luns": {0: "v0"}}))
    record = await system.probe_backend("sd1")
    assert {facts.lun: facts.blocks for facts in record.devices} == {0: 2048, 1: 2048}
    assert "LU 1: it is gone" in system.backend_status("sd1")[1]
    assert system.place("v").blocks == 2048
    with pytest.raises(Unreachable):
        await awaitable.read(system.unit("v").device, 0, 1)
    await awaitable.read(system.unit("w").device, 0, 1)
    await second.system.put_host(host)
    await system.probe_backend("sd1")
    await awaitable.read(system.unit("v").device, 0, 1)


async def test_a_lu_that_vanished_and_is_not_in_use_is_forgotten_by_a_rescan(
    system: System, second: Second
) -> None:
    await second.serve(1, 2048)
    await system.attach_backend(second.record())
    assert second.system is not None
    host = second.system.store.get(HostRecord, "any")
    assert host is not None
    await second.system.put_host(host.model_copy(update={"luns": {0: "v0"}}))
    record = await system.probe_backend("sd1")
    assert [facts.lun for facts in record.devices] == [0]


async def test_a_file_that_has_shrunk_under_a_volume_is_kept_out_by_a_rescan(
    system: System, tmp_path: Path
) -> None:
    await volumes.create_by_hand(system, "v", one("a/0"))
    with (tmp_path / "a.img").open("r+b") as file:
        file.truncate(1024 * 512)
    record = await system.probe_backend("a")
    assert record.devices[0].blocks == 4096
    assert "shrunk from 4096 to 1024 blocks" in system.backend_status("a")[1]
    with pytest.raises(Unreachable):
        await awaitable.read(system.unit("v").device, 0, 1)
