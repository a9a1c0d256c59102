"""Pairs in a running controller, on files: what an administrator asks for, what is on the disks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from daiko.control import copies, pairs, volumes
from daiko.control.error import Conflict, Invalid, NotFound
from daiko.control.pairs import Done
from daiko.control.system import System
from daiko.device.awaitable import read, unmap, write, write_same
from daiko.device.error import WriteProtected
from daiko.mapping.extent import DeviceId
from daiko.pair.live_pair import PairStatus
from daiko.pair.settings import PairSettings
from daiko.pair.state import Verb
from daiko.state.pair_record import Fence, PairRecord, PairState
from daiko.state.record import TERMINAL, JobRecord
from daiko.state.sqlite import SqliteStore

from .conftest import disk

BLOCKS = 4096
SIZE = BLOCKS * 512
REGION = 64 << 10


async def _start(store: SqliteStore, folder: Path) -> System:
    system = await System.start(store, kept_in=folder)
    _use(system, PairSettings(settle_seconds=0.01))
    return system


def _use(system: System, settings: PairSettings) -> None:
    system.pairs._workshop = replace(system.pairs._workshop, settings=settings)


@pytest.fixture
async def system(store: SqliteStore, tmp_path: Path) -> AsyncIterator[System]:
    """Volumes alpha, beta, gamma, delta: each a whole disk of random bytes."""
    system = await _start(store, tmp_path)
    for name in ("alpha", "beta", "gamma", "delta"):
        await system.attach_backend(disk(tmp_path, f"{name}-disk", BLOCKS))
        (tmp_path / f"{name}-disk.img").write_bytes(random.Random(name).randbytes(SIZE))
        await volumes.create_whole(system, name, [DeviceId(f"{name}-disk", 0)])
    yield system
    await system.stop()


def _bytes(tmp_path: Path, volume: str) -> bytes:
    return (tmp_path / f"{volume}-disk.img").read_bytes()


async def _pair(
    system: System, name: str = "p", primary: str = "alpha", secondary: str = "beta", **more: object
) -> PairStatus:
    await pairs.create(system, name, primary, secondary, confirmed=True, **more)  # type: ignore[arg-type]
    return await _reached(system, name, PairState.PAIRED)


async def _reached(system: System, name: str, state: PairState) -> PairStatus:
    (status,) = await pairs.wait(system, name, [state], 20)
    assert status.record.state is state, status
    return status


async def _write(system: System, volume: str, lba: int, data: bytes) -> None:
    await write(system.unit(volume).device, lba, data)


async def test_a_pair_becomes_equal_and_stays_so_while_hosts_write(
    system: System, tmp_path: Path
) -> None:
    status = await _pair(system)
    assert status.differs == 0
    assert _bytes(tmp_path, "alpha") == _bytes(tmp_path, "beta")
    for number in range(50):
        await _write(system, "alpha", number * 37, random.Random(number).randbytes(512 * 5))
    assert _bytes(tmp_path, "alpha") == _bytes(tmp_path, "beta")


async def test_hosts_may_only_read_the_secondary_until_it_is_split(system: System) -> None:
    await _pair(system)
    assert system.unit("beta").is_write_protected
    with pytest.raises(WriteProtected):
        await _write(system, "beta", 0, bytes(512))
    await pairs.do(system, "p", Verb.SPLIT)
    assert not system.unit("beta").is_write_protected
    await _write(system, "beta", 0, bytes(512))


async def test_a_resync_copies_what_either_side_has_written(system: System, tmp_path: Path) -> None:
    await _pair(system)
    await pairs.do(system, "p", Verb.SPLIT)
    before = _bytes(tmp_path, "beta")
    await _write(system, "alpha", 10, b"a" * 512)
    await _write(system, "beta", 2000, b"b" * 1024)
    assert _bytes(tmp_path, "beta")[: 2000 * 512] == before[: 2000 * 512]
    (effect,) = await pairs.effects(system, "p", Verb.RESYNC)
    assert (effect.volume, effect.overwritten, effect.discarded) == ("beta", 2 * REGION, REGION)
    with pytest.raises(Conflict, match="131,072 bytes of beta would be overwritten, 65,536 of"):
        await pairs.do(system, "p", Verb.RESYNC)
    assert pairs.show(system, "p").record.state is PairState.SPLIT
    await pairs.do(system, "p", Verb.RESYNC, confirmed=True)
    await _reached(system, "p", PairState.PAIRED)
    assert _bytes(tmp_path, "alpha") == _bytes(tmp_path, "beta")
    assert _bytes(tmp_path, "alpha")[5120:5632] == b"a" * 512


async def test_a_reverse_resync_brings_the_primary_to_the_secondary(
    system: System, tmp_path: Path
) -> None:
    await _pair(system)
    await pairs.do(system, "p", Verb.SPLIT)
    await _write(system, "alpha", 10, b"a" * 512)
    await _write(system, "beta", 2000, b"b" * 1024)
    wanted = _bytes(tmp_path, "beta")
    await pairs.do(system, "p", Verb.RESYNC_REVERSE, confirmed=True)
    status = await _reached(system, "p", PairState.PAIRED)
    assert _bytes(tmp_path, "alpha") == _bytes(tmp_path, "beta") == wanted
    assert (status.record.primary, status.record.secondary) == ("alpha", "beta")
    await _write(system, "alpha", 0, b"x" * 512)
    assert _bytes(tmp_path, "alpha") == _bytes(tmp_path, "beta")


async def test_a_swap_of_a_paired_pair_exchanges_the_roles_at_once(
    system: System, tmp_path: Path
) -> None:
    await _pair(system)
    done = await pairs.do(system, "p", Verb.SWAP)
    assert done.pairs[0].record.primary == "beta"
    with pytest.raises(WriteProtected):
        await _write(system, "alpha", 0, bytes(512))
    await _write(system, "beta", 100, b"n" * 4096)
    assert _bytes(tmp_path, "alpha") == _bytes(tmp_path, "beta")


async def test_a_swap_after_a_split_sends_hosts_to_the_secondary_and_resync_makes_it_lasting(
    system: System, tmp_path: Path
) -> None:
    await _pair(system)
    await pairs.do(system, "p", Verb.SPLIT)
    await _write(system, "alpha", 0, b"lost" * 128)
    await pairs.do(system, "p", Verb.SWAP)
    assert system.unit("alpha").is_write_protected
    await _write(system, "beta", 1000, b"kept" * 128)
    wanted = _bytes(tmp_path, "beta")
    await pairs.do(system, "p", Verb.RESYNC, confirmed=True)
    status = await _reached(system, "p", PairState.PAIRED)
    assert (status.record.primary, status.record.secondary) == ("beta", "alpha")
    assert _bytes(tmp_path, "alpha") == _bytes(tmp_path, "beta") == wanted


async def test_what_is_so_already_is_nothing_to_do_and_what_cannot_be_is_refused(
    system: System,
) -> None:
    await _pair(system)
    assert (await pairs.do(system, "p", Verb.RESYNC)).changed == ()
    await pairs.do(system, "p", Verb.SPLIT)
    assert (await pairs.do(system, "p", Verb.SPLIT)).changed == ()
    await pairs.do(system, "p", Verb.SWAP)
    with pytest.raises(Conflict, match="p is swapped: resync --reverse is refused"):
        await pairs.do(system, "p", Verb.RESYNC_REVERSE, confirmed=True)
    with pytest.raises(NotFound, match="no pair and no group q"):
        await pairs.do(system, "q", Verb.SPLIT)


async def test_a_pair_that_is_removed_leaves_both_volumes_as_they_are(
    system: System, tmp_path: Path
) -> None:
    await _pair(system)
    done = await pairs.do(system, "p", Verb.REMOVE)
    assert done == Done(("p",), ())
    assert pairs.ls(system) == []
    assert list((tmp_path / "bitmaps").iterdir()) == []
    await _write(system, "beta", 0, b"b" * 512)
    await _write(system, "alpha", 0, b"a" * 512)
    assert _bytes(tmp_path, "alpha")[512:] == _bytes(tmp_path, "beta")[512:]
    assert (await _pair(system)).record.state is PairState.PAIRED


async def test_a_round_that_is_stopped_while_its_job_is_begun_leaves_none(
    system: System, store: SqliteStore
) -> None:
    _use(system, PairSettings(catch_up_bytes=0))
    for turns in range(16):
        await pairs.create(system, "p", "alpha", "beta", confirmed=True)
        for _ in range(turns):
            await asyncio.sleep(0)
        await pairs.do(system, "p", Verb.REMOVE)
        assert {job.state for job in store.list(JobRecord)} <= TERMINAL


async def test_all_kinds_of_changes_reach_both_sides(system: System, tmp_path: Path) -> None:
    await _pair(system)
    device = system.unit("alpha").device
    await write_same(device, 0, 200, b"s" * 512)
    await unmap(device, 8, 64)
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    device.compare_and_write(100, b"s" * 512, b"c" * 512, lambda error: future.set_result(None))
    await future
    again: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    device.or_write(101, b"\x80" * 1024, lambda error: again.set_result(None))
    await again
    assert bytes(await read(device, 100, 3)) == b"c" * 512 + bytes([0x73 | 0x80]) * 1024
    assert _bytes(tmp_path, "alpha") == _bytes(tmp_path, "beta")


async def test_an_initial_copy_goes_on_where_it_stood_when_the_controller_stops(
    store: SqliteStore, system: System, tmp_path: Path
) -> None:
    await _pair(system)
    await pairs.do(system, "p", Verb.SPLIT)
    await _write(system, "alpha", 10, b"a" * 512)
    await system.stop()
    again = await _start(store, tmp_path)
    try:
        assert pairs.show(again, "p").differs == REGION
        await pairs.do(again, "p", Verb.RESYNC, confirmed=True)
        await _reached(again, "p", PairState.PAIRED)
        assert _bytes(tmp_path, "alpha") == _bytes(tmp_path, "beta")
    finally:
        await again.stop()


async def test_a_bitmap_that_is_gone_makes_everything_differ(
    store: SqliteStore, system: System, tmp_path: Path
) -> None:
    await _pair(system)
    await system.stop()
    (tmp_path / "bitmaps" / "p.alpha").unlink()
    with (tmp_path / "beta-disk.img").open("r+b") as file:
        file.write(b"not what it was")
    again = await _start(store, tmp_path)
    try:
        status = await _reached(again, "p", PairState.PAIRED)
        assert any("had gone" in note for note in status.notes)
        assert _bytes(tmp_path, "alpha") == _bytes(tmp_path, "beta")
    finally:
        await again.stop()


async def test_rounds_are_jobs_and_say_who_moved_what(
    store: SqliteStore, tmp_path: Path, system: System
) -> None:
    _use(system, PairSettings(settle_seconds=0.01, catch_up_bytes=REGION))
    await _pair(system)
    (job,) = store.list(JobRecord)
    assert (job.type, job.asked_by, job.source, job.destination) == (
        "pair",
        "pair p",
        "alpha",
        "beta",
    )
    assert job.confirmed_blocks == BLOCKS
    assert _bytes(tmp_path, "alpha") == _bytes(tmp_path, "beta")


async def test_a_group_is_asked_as_one(system: System, tmp_path: Path) -> None:
    await pairs.create(system, "p", "alpha", "beta", group="g", confirmed=True)
    await pairs.create(system, "q", "gamma", "delta", group="g", confirmed=True)
    found = await pairs.wait(system, "g", [PairState.PAIRED], 20)
    assert [status.record.state for status in found] == [PairState.PAIRED] * 2
    stop = asyncio.Event()
    written: list[int] = []

    async def host() -> None:
        """Each write to gamma depends on one to alpha before it."""
        for number in range(1, 1 << 30):
            data = number.to_bytes(8, "big") * 64
            await _write(system, "alpha", 0, data)
            await _write(system, "gamma", 0, data)
            written.append(number)
            if stop.is_set():
                return
            await asyncio.sleep(0)

    task = asyncio.create_task(host())
    while len(written) < 20:  # noqa: ASYNC110  # the host has no event
        await asyncio.sleep(0)
    await pairs.do(system, "g", Verb.SPLIT)
    stop.set()
    await task
    first = int.from_bytes(_bytes(tmp_path, "beta")[:8], "big")
    second = int.from_bytes(_bytes(tmp_path, "delta")[:8], "big")
    assert second in (first, first - 1)
    assert first >= 20


@pytest.mark.parametrize(
    ("wanted", "error", "said"),
    [
        ({"primary": "alpha", "secondary": "alpha"}, Invalid, "no pair with itself"),
        ({"primary": "alpha", "secondary": "nobody"}, NotFound, "nobody"),
        ({"granularity": 5000}, Invalid, "5000 bytes"),
        ({"granularity": 2 << 20}, Invalid, "2097152 bytes"),
        ({"name": "Not A Name"}, Invalid, "cannot be a name"),
        ({"confirmed": False}, Conflict, "all 2,097,152 bytes of beta would be overwritten"),
        ({"group": "p"}, Conflict, "different names"),
    ],
)
async def test_what_cannot_be_a_pair_is_refused(
    system: System, wanted: dict[str, object], error: type[Exception], said: str
) -> None:
    given = {"name": "p", "primary": "alpha", "secondary": "beta", "confirmed": True} | wanted
    with pytest.raises(error, match=said):
        await pairs.create(system, **given)  # type: ignore[arg-type]
    assert pairs.ls(system) == []


async def test_a_volume_in_a_pair_stays_what_it_is(system: System, tmp_path: Path) -> None:
    await _pair(system)
    with pytest.raises(Conflict, match="alpha is in pair p"):
        await volumes.remove(system, "alpha")
    with pytest.raises(Conflict, match="beta is in pair p"):
        await pairs.create(system, "q", "gamma", "beta", confirmed=True)
    with pytest.raises(Conflict, match="beta is copied to by pair p, which is paired"):
        copies.request(system, "gamma", "beta")
    await copies.run(system, copies.request(system, "gamma", "alpha"))
    (job,) = [job for job in copies.ls(system) if job.record.type == "copy"]
    await system.copy_manager.wait(job.record.id)
    assert _bytes(tmp_path, "beta") == _bytes(tmp_path, "alpha") == _bytes(tmp_path, "gamma")


async def test_the_fence_is_kept(system: System) -> None:
    await _pair(system, fence=Fence.DATA)
    record = system.store.get(PairRecord, "p")
    assert record is not None
    assert record.fence is Fence.DATA


@pytest.mark.parametrize("catch_up", [0, SIZE])
async def test_a_pace_holds_back_both_ways_of_copying_and_can_be_taken_back(
    system: System, tmp_path: Path, catch_up: int
) -> None:
    _use(system, PairSettings(settle_seconds=0.01, catch_up_bytes=catch_up))
    await pairs.create(system, "p", "alpha", "beta", confirmed=True, pace="1KiB/s")
    (status,) = await pairs.wait(system, "p", [PairState.PAIRED], 0)
    assert status.record.state is PairState.COPYING  # it would take half an hour
    with pytest.raises(Invalid, match="quick"):
        await pairs.set_pace(system, "p", "quick")
    (status,) = await pairs.set_pace(system, "p", "full")
    assert status.record.pace == "full"
    await _reached(system, "p", PairState.PAIRED)
    assert _bytes(tmp_path, "alpha") == _bytes(tmp_path, "beta")


async def test_writes_that_a_pair_held_when_it_ended_are_carried_out(
    system: System, tmp_path: Path
) -> None:
    await _pair(system)
    removing = asyncio.create_task(pairs.do(system, "p", Verb.REMOVE))
    writing = []
    while not removing.done():
        lba = len(writing)
        if lba < 100:
            writing.append(asyncio.create_task(_write(system, "alpha", lba, b"h" * 512)))
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await asyncio.gather(*writing)
    assert _bytes(tmp_path, "alpha")[: 512 * len(writing)] == b"h" * (512 * len(writing))
