"""Migrations in a running controller, on files: what an administrator asks for, where the data
lies, and that hosts notice nothing."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from daiko.command_control.plan import Function
from daiko.control import copies, migrations, pairs, volumes
from daiko.control.error import Conflict, Invalid, NotFound
from daiko.control.migrations import Migration
from daiko.control.publication import PublishedVolume
from daiko.control.system import System
from daiko.copy_manager.pace import FULL, Pace
from daiko.copy_manager.request import COPY, CopyRange, CopyRequest
from daiko.copy_manager.settings import Retries
from daiko.device.awaitable import read, unmap, write
from daiko.device.block import BlockDevice, Buffer, Done, ReadDone
from daiko.device.error import Unreachable
from daiko.device.layer.layer import Layer
from daiko.mapping.extent import DeviceId
from daiko.pair.live_migration import SwitchRefused
from daiko.pair.settings import PairSettings
from daiko.state.index import BlocksInUse
from daiko.state.migration_record import MigrationRecord, MigrationState
from daiko.state.record import TERMINAL, ExtentRecord, JobRecord, JobState, VolumeRecord
from daiko.state.sqlite import SqliteStore

from .conftest import disk

BLOCKS = 4096
"""Of each disk; the volume alpha is all of `one`."""
SIZE = BLOCKS * 512
A, B, C = DeviceId("one", 0), DeviceId("two", 0), DeviceId("three", 0)
QUICK = PairSettings(settle_seconds=0.01, retry_seconds=(0.01,), store_seconds=0.01)
IN_ROUNDS = replace(QUICK, catch_up_bytes=0)


def _use(system: System, settings: PairSettings) -> None:
    system.migrations._workshop = replace(system.migrations._workshop, settings=settings)
    system.copy_manager.settings = replace(system.copy_manager.settings, retries=Retries((0.01,)))


@pytest.fixture
async def system(store: SqliteStore, tmp_path: Path) -> AsyncIterator[System]:
    """alpha is all of `one`, random bytes; `two` and `three` have room for two of it."""
    system = await System.start(store, kept_in=tmp_path)
    _use(system, QUICK)
    for name, blocks in (("one", BLOCKS), ("two", 2 * BLOCKS), ("three", 2 * BLOCKS)):
        await system.attach_backend(disk(tmp_path, name, blocks))
    (tmp_path / "one.img").write_bytes(random.Random(1).randbytes(SIZE))
    await volumes.create_whole(system, "alpha", [A])
    yield system
    await system.stop()


def _lies_on(system: System, volume: str = "alpha") -> list[str]:
    record = system.store.get(VolumeRecord, volume)
    assert record is not None
    return [str(device) for device in record.extents.devices]


def _used(system: System, device: DeviceId) -> int:
    found = system.store.index(BlocksInUse).by_device.get(device)
    return 0 if found is None else found.blocks


async def _contents(system: System, volume: str = "alpha") -> bytes:
    return bytes(await read(system.unit(volume).device, 0, BLOCKS))


async def _reached(system: System, state: MigrationState, volume: str = "alpha") -> Migration:
    found = await migrations.wait(system, volume, 20)
    assert found.status.record.state is state, found
    return found


async def _until(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not there():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.005)


class Host:
    """Writes to alpha all the time, and knows what was acknowledged."""

    def __init__(self, system: System, contents: bytes) -> None:
        self._device = system.unit("alpha")
        self.wanted = bytearray(contents)
        self.writes = 0
        self._chance = random.Random(2)
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            lba = self._chance.randrange(BLOCKS - 8)
            data = self._chance.randbytes(512 * self._chance.randint(1, 8))
            await write(self._device.device, lba, data)
            self.wanted[lba * 512 : lba * 512 + len(data)] = data
            self.writes += 1
            await asyncio.sleep(0)

    async def progress(self, writes: int) -> None:
        wanted = self.writes + writes
        async with asyncio.timeout(20):
            while self.writes < wanted:  # as often as it writes
                assert not self._task.done(), self._task.result()
                await asyncio.sleep(0)

    async def stop(self) -> bytes:
        await self.progress(5)
        self._task.cancel()
        await asyncio.wait({self._task})
        return bytes(self.wanted)


@pytest.mark.parametrize("settings", [QUICK, IN_ROUNDS], ids=["mirrored", "in rounds"])
async def test_a_volume_moves_while_a_host_writes(
    system: System, tmp_path: Path, settings: PairSettings
) -> None:
    _use(system, settings)
    before = system.store.get(VolumeRecord, "alpha")
    unit = system.unit("alpha")
    host = Host(system, await _contents(system))
    await host.progress(20)
    asked = await migrations.start(system, "alpha", "two/0")
    assert asked.changed
    assert _used(system, B) == BLOCKS
    await host.progress(20)
    found = await _reached(system, MigrationState.DONE)
    wanted = await host.stop()
    after = system.store.get(VolumeRecord, "alpha")
    assert before is not None
    assert after is not None
    assert system.unit("alpha") is unit
    assert (after.naa, after.blocks, _lies_on(system)) == (before.naa, before.blocks, ["two/0"])
    assert (_used(system, A), _used(system, B)) == (0, BLOCKS)
    lba = after.extents[0].lba
    assert await _contents(system) == wanted
    assert (tmp_path / "two.img").read_bytes()[lba * 512 : lba * 512 + SIZE] == wanted
    assert (found.status.size, found.status.left) == (SIZE, 0)
    jobs = system.store.list(JobRecord)
    assert [job.asked_by for job in jobs[:1]] == (
        ["migration of alpha"] if settings is IN_ROUNDS else []
    )
    assert sum(carrier.bytes for carrier in found.carriers) >= (
        SIZE if settings is IN_ROUNDS else 0
    )


async def test_only_what_lies_on_one_device_moves_and_the_old_place_is_free(
    system: System,
) -> None:
    await volumes.create_by_hand(
        system,
        "beta",
        [
            ExtentRecord(device="two/0", lba=100, blocks=1000),
            ExtentRecord(device="three/0", lba=10, blocks=37),
            ExtentRecord(device="two/0", lba=3000, blocks=500),
        ],
    )
    data = random.Random(3).randbytes(1537 * 512)
    await write(system.unit("beta").device, 0, data)
    await migrations.start(system, "beta", "three/0", source="two/0")
    await write(system.unit("beta").device, 990, b"x" * 512 * 60)
    await unmap(system.unit("beta").device, 0, 8)
    await _reached(system, MigrationState.DONE, "beta")
    assert _lies_on(system, "beta") == ["three/0"]
    assert _used(system, B) == 0
    found = bytes(await read(system.unit("beta").device, 0, 1537))
    assert found[4096 : 990 * 512] == data[4096 : 990 * 512]
    assert found[990 * 512 : 1050 * 512] == b"x" * 512 * 60
    assert found[1050 * 512 :] == data[1050 * 512 :]
    assert not any(found[:4096])
    again = await migrations.start(system, "beta", "three/0")
    assert not again.changed


async def test_cancel_gives_the_new_place_back(system: System) -> None:
    host = Host(system, await _contents(system))
    await migrations.start(system, "alpha", "two/0", pace="1MiB/s")
    await host.progress(20)
    asked = await migrations.cancel(system, "alpha")
    assert asked.changed
    assert migrations.show(system, "alpha").status.record.state is MigrationState.CANCELLED
    wanted = await host.stop()
    assert (_lies_on(system), _used(system, B)) == (["one/0"], 0)
    assert await _contents(system) == wanted
    assert not (await migrations.cancel(system, "alpha")).changed
    with pytest.raises(Conflict, match="resume is refused"):
        await migrations.resume(system, "alpha")
    assert system.place("alpha").written_here == ""


# --- what is refused ----------------------------------------------------------------------------


async def test_what_cannot_be_moved_is_refused_before_anything_begins(
    system: System, tmp_path: Path
) -> None:
    await system.attach_backend(disk(tmp_path, "large-blocks", BLOCKS, 4096))
    await system.attach_backend(disk(tmp_path, "small", BLOCKS - 8))
    for to, source, error, says in (
        ("large-blocks/0", "", Invalid, "has blocks of 4096 bytes, alpha of 512"),
        ("small/0", "", Conflict, "2,097,152 bytes of alpha would move"),
        ("two/0", "three/0", Invalid, "does not lie on three/0"),
        ("one/0", "one/0", Invalid, "from a device to itself"),
        ("nowhere/0", "", NotFound, "nowhere"),
    ):
        with pytest.raises(error, match=says):
            await migrations.start(system, "alpha", to, source=source)
    with pytest.raises(NotFound, match="no volume is called"):
        await migrations.start(system, "no", "two/0")
    with pytest.raises(NotFound, match="is not being migrated"):
        await migrations.cancel(system, "alpha")
    assert not (await migrations.start(system, "alpha", "one/0")).changed
    assert not system.store.list(MigrationRecord)
    assert system.place("alpha").written_here == ""


async def test_a_read_only_device_is_refused(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = _wrapped(system, monkeypatch)
    devices["two"].capabilities = replace(devices["two"].capabilities, read_only=True)
    with pytest.raises(Conflict, match="two/0 is read only"):
        await migrations.start(system, "alpha", "two/0")


async def test_a_volume_that_moves_is_left_alone_and_so_is_the_device(system: System) -> None:
    await volumes.create_by_hand(
        system, "beta", [ExtentRecord(device="three/0", lba=0, blocks=BLOCKS)]
    )
    await migrations.start(system, "alpha", "two/0", pace="1MiB/s")
    going = "alpha is being migrated to two/0"
    with pytest.raises(Conflict, match=going):
        await migrations.start(system, "alpha", "three/0")
    with pytest.raises(Conflict, match=going):
        await volumes.remove(system, "alpha")
    with pytest.raises(Conflict, match=going):
        await volumes.grow(system, "alpha", by=512, candidates=[B])
    with pytest.raises(Conflict, match=going):
        await pairs.create(system, "p", "alpha", "beta", confirmed=True)
    with pytest.raises(Conflict, match=going):
        await system.detach_backend("two")
    with pytest.raises(Conflict, match="lies on one"):
        await system.detach_backend("one")
    with pytest.raises(Conflict, match="two/0"):
        await volumes.create_by_hand(
            system, "gamma", [ExtentRecord(device="two/0", lba=0, blocks=2 * BLOCKS)]
        )
    with pytest.raises(Conflict, match="volume 'alpha' lies on those blocks of two/0"):
        copies.request(system, "beta", "two/0")
    into = copies.request(system, "beta", "alpha")
    (step,) = system.copy_manager.plan(into).steps
    assert "a migration has to know" in str(step)
    assert not (await migrations.resume(system, "alpha")).changed
    await migrations.set_pace(system, "alpha", "full")
    await _reached(system, MigrationState.DONE)
    await volumes.remove(system, "alpha")
    assert not system.store.list(MigrationRecord)
    await system.detach_backend("two")


async def test_a_volume_in_a_pair_is_not_moved(system: System) -> None:
    await volumes.create_by_hand(
        system, "beta", [ExtentRecord(device="three/0", lba=0, blocks=BLOCKS)]
    )
    await pairs.create(system, "p", "alpha", "beta", confirmed=True)
    with pytest.raises(Conflict, match="alpha is in pair p"):
        await migrations.start(system, "alpha", "two/0")


async def test_the_plan_says_how_much_moves_and_by_whom(system: System) -> None:
    found = await migrations.explain(system, "alpha", "two/0")
    assert found.plan.blocks == BLOCKS
    assert {str(step.executor) for step in found.plan.steps} == {"this controller"}
    assert not system.store.list(MigrationRecord)
    with pytest.raises(Conflict, match="nothing of alpha would move"):
        await migrations.explain(system, "alpha", "one/0")


# --- when something goes wrong ------------------------------------------------------------------


class Wrapped(Layer):
    """A disk that can fail, and keep reads under way."""

    is_dead = False
    keeps_reads = False

    def __init__(self, below: BlockDevice) -> None:
        super().__init__(below)
        self.kept: list[tuple[int, int, ReadDone]] = []

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        if self.is_dead:
            done(Unreachable("it is dead"), b"")
        elif self.keeps_reads:
            self.kept.append((lba, blocks, done))
        else:
            self.below.read(lba, blocks, done)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        if self.is_dead:
            done(Unreachable("it is dead"))
        else:
            self.below.write(lba, data, done, fua)

    def flush(self, done: Done) -> None:
        if self.is_dead:
            done(Unreachable("it is dead"))
        else:
            self.below.flush(done)

    def let_go(self) -> None:
        self.keeps_reads = False
        for lba, blocks, done in self.kept:
            self.below.read(lba, blocks, done)
        self.kept.clear()


def _wrapped(system: System, monkeypatch: pytest.MonkeyPatch) -> dict[str, Wrapped]:
    """The disks from now on, by name."""
    real = system.devices.block_device
    found = {name: Wrapped(real(DeviceId(name, 0))) for name in ("one", "two", "three")}
    monkeypatch.setattr(
        system.devices, "block_device", lambda device: found.get(device.backend) or real(device)
    )
    for name in found:
        system._publication.backend_changed(name)
    return found


@pytest.mark.parametrize("settings", [QUICK, IN_ROUNDS], ids=["mirrored", "in rounds"])
async def test_a_new_place_that_dies_hurts_no_host_and_a_resume_copies_the_rest(
    system: System, monkeypatch: pytest.MonkeyPatch, settings: PairSettings
) -> None:
    _use(system, settings)
    devices = _wrapped(system, monkeypatch)
    host = Host(system, await _contents(system))
    await migrations.start(system, "alpha", "two/0", pace="4MiB/s")
    await host.progress(30)
    devices["two"].is_dead = True
    found = await _reached(system, MigrationState.FAILED)
    assert "it is dead" in found.status.record.reason
    assert _used(system, B) == BLOCKS
    await host.progress(20)
    with pytest.raises(Conflict, match="which is failed"):
        await migrations.start(system, "alpha", "three/0")
    devices["two"].is_dead = False
    await migrations.set_pace(system, "alpha", "full")
    assert (await migrations.resume(system, "alpha")).changed
    await _reached(system, MigrationState.DONE)
    wanted = await host.stop()
    assert _lies_on(system) == ["two/0"]
    assert await _contents(system) == wanted


async def test_a_new_place_lost_while_all_is_mirrored_costs_no_write(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = _wrapped(system, monkeypatch)
    busy = asyncio.Event()

    async def refuse(record: MigrationRecord) -> None:
        busy.set()
        raise SwitchRefused("a job")

    await migrations.start(system, "alpha", "two/0")
    monkeypatch.setattr(system.migrations.living("alpha"), "_switch", refuse)
    await busy.wait()
    assert migrations.show(system, "alpha").status.waits_for == "a job"
    devices["two"].is_dead = True
    await write(system.unit("alpha").device, 5, b"n" * 512)
    found = await _reached(system, MigrationState.FAILED)
    assert found.status.record.reason == "two/0: it is dead"
    assert (await _contents(system))[2560:3072] == b"n" * 512
    await migrations.cancel(system, "alpha")
    assert (_lies_on(system), _used(system, B)) == (["one/0"], 0)


async def test_an_old_place_that_fails_while_all_is_mirrored_fails_the_host_as_ever(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = _wrapped(system, monkeypatch)
    busy = asyncio.Event()
    real = system.migrations._switch

    async def refuse(record: MigrationRecord) -> None:
        busy.set()
        raise SwitchRefused("a job")

    await migrations.start(system, "alpha", "two/0")
    monkeypatch.setattr(system.migrations.living("alpha"), "_switch", refuse)
    await busy.wait()
    devices["one"].is_dead = True
    with pytest.raises(Unreachable):
        await write(system.unit("alpha").device, 5, b"n" * 512)
    assert migrations.show(system, "alpha").status.record.state is MigrationState.MOVING
    devices["one"].is_dead = False
    await write(system.unit("alpha").device, 6, b"m" * 512)
    system.migrations.living("alpha")._switch = real
    await _reached(system, MigrationState.DONE)
    assert (await _contents(system))[3072:3584] == b"m" * 512


async def test_reads_under_way_end_before_the_old_place_is_anybody_elses(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = _wrapped(system, monkeypatch)
    wanted = await _contents(system)
    busy = asyncio.Event()
    real = system.migrations._switch

    async def refuse(record: MigrationRecord) -> None:
        busy.set()
        raise SwitchRefused("a job")

    await migrations.start(system, "alpha", "two/0")
    migration = system.migrations.living("alpha")
    monkeypatch.setattr(migration, "_switch", refuse)
    await busy.wait()
    devices["one"].keeps_reads = True
    reading = asyncio.create_task(_contents(system))
    await _until(lambda: bool(devices["one"].kept))
    migration._switch = real
    shut = asyncio.Event()
    gate = migration._volume._gate  # type: ignore[attr-defined]
    monkeypatch.setattr(gate, "shut", _noting(gate.shut, shut))
    await shut.wait()
    later = asyncio.create_task(_contents(system))
    await asyncio.sleep(0)
    assert _used(system, A) == BLOCKS
    devices["one"].let_go()
    await _reached(system, MigrationState.DONE)
    assert await reading == wanted
    assert await later == wanted
    assert _used(system, A) == 0


def _noting(
    call: Callable[[Callable[[], None]], None], noted: asyncio.Event
) -> Callable[[Callable[[], None]], None]:
    def noting(drained: Callable[[], None]) -> None:
        noted.set()
        call(drained)

    return noting


# --- jobs and restarts --------------------------------------------------------------------------


async def test_a_job_on_the_volume_is_waited_for(system: System, tmp_path: Path) -> None:
    await migrations.start(system, "alpha", "two/0", pace="1MiB/s")
    request = CopyRequest(
        COPY,
        Function.VOLUME_COPY,
        "alpha",
        "three/0",
        (CopyRange(0, BLOCKS, 0),),
        pace=Pace.parse("1MiB/s"),
    )
    job = await system.copy_manager.submit(request)
    await migrations.set_pace(system, "alpha", "full")
    await _until(lambda: bool(migrations.show(system, "alpha").status.waits_for))
    found = migrations.show(system, "alpha").status
    assert found.waits_for == f"job {job.id} (copy), which works on the volume"
    await system.copy_manager.set_pace(job.id, FULL)
    assert (await system.copy_manager.wait(job.id)).state is JobState.DONE
    await _reached(system, MigrationState.DONE)
    wanted = await _contents(system)
    assert (tmp_path / "three.img").read_bytes()[:SIZE] == wanted


async def test_a_job_that_was_planned_before_the_switch_is_planned_again(system: System) -> None:
    request = CopyRequest(
        COPY, Function.VOLUME_COPY, "alpha", "three/0", (CopyRange(0, BLOCKS, 0),)
    )
    wanted = await _contents(system)
    await migrations.start(system, "alpha", "two/0")
    living = system.migrations.living("alpha")
    switched = asyncio.Event()
    real = system.migrations._switch
    submitting: list[asyncio.Task[JobRecord]] = []

    async def switch(record: MigrationRecord) -> None:
        turn = asyncio.create_task(real(record))
        await asyncio.sleep(0)
        submitting.append(asyncio.create_task(system.copy_manager.submit(request)))
        await turn
        switched.set()

    living._switch = switch
    await _reached(system, MigrationState.DONE)
    assert switched.is_set()
    (job,) = [await task for task in submitting]
    assert {step.source for step in job.steps} == {"two/0"}
    assert (await system.copy_manager.wait(job.id)).state is JobState.DONE
    assert await _contents(system) == wanted


async def test_a_stop_keeps_the_migration_and_a_start_copies_the_rest(
    store: SqliteStore, system: System, tmp_path: Path
) -> None:
    _use(system, IN_ROUNDS)
    system.copy_manager.settings = replace(system.copy_manager.settings, confirm_seconds=0.05)
    wanted = await _contents(system)
    await migrations.start(system, "alpha", "two/0", pace="64KiB/s")
    await _until(lambda: migrations.show(system, "alpha").status.left < SIZE)
    left = migrations.show(system, "alpha").status.left
    await system.stop()
    assert not [job for job in store.list(JobRecord) if job.state not in TERMINAL]
    again = await System.start(store, kept_in=tmp_path)
    try:
        status = migrations.show(again, "alpha").status
        assert status.record.state is MigrationState.MOVING
        assert 0 < status.left <= left
        assert _used(again, B) == BLOCKS
        await migrations.set_pace(again, "alpha", "full")
        await _reached(again, MigrationState.DONE)
        assert await _contents(again) == wanted
    finally:
        await again.stop()


async def test_killed_between_the_store_and_the_switch_it_lies_in_its_new_place(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed process leaves at that moment is copied aside."""
    real = PublishedVolume.move
    left = tmp_path / "left"

    def move(self: PublishedVolume, record: VolumeRecord) -> None:
        shutil.copytree(tmp_path / "store", left / "store")
        shutil.copytree(tmp_path / "bitmaps", left / "bitmaps")
        real(self, record)

    monkeypatch.setattr(PublishedVolume, "move", move)
    wanted = await _contents(system)
    product = system.unit("alpha").identity.product
    await migrations.start(system, "alpha", "two/0")
    await _reached(system, MigrationState.DONE)
    await system.stop()
    store = SqliteStore.open(left / "store")
    again = await System.start(store, kept_in=left)
    try:
        assert _lies_on(again) == ["two/0"]
        assert migrations.show(again, "alpha").status.record.state is MigrationState.DONE
        assert (_used(again, A), _used(again, B)) == (0, BLOCKS)
        assert await _contents(again) == wanted
        assert again.unit("alpha").identity.product == product == "LU"
    finally:
        await again.stop()
        await store.close()
