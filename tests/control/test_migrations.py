"""Migrations in a running controller, on files: what an administrator asks for, where the data
lies, and that hosts notice nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from daiko.control import migrations, volumes
from daiko.control.error import Conflict
from daiko.control.migrations import Migration
from daiko.control.system import System
from daiko.device.awaitable import read, unmap, write
from daiko.mapping.extent import DeviceId
from daiko.pair.settings import PairSettings
from daiko.state.index import BlocksInUse
from daiko.state.record import (
    ExtentRecord,
    JobRecord,
    MigrationState,
    VolumeRecord,
)
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
