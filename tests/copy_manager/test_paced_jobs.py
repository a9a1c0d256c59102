"""Whole jobs at a pace: changed while they wait and run, ended while they wait for it, kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from copy_rig import QUICK, Rig
from daiko.copy_manager.backup import backup_request, copy_request, restore_request
from daiko.copy_manager.copy_manager import CopyManager
from daiko.copy_manager.error import JobNotRunning, NoSuchJob
from daiko.copy_manager.governor import FLOOR
from daiko.copy_manager.pace import FULL, Pace
from daiko.copy_manager.pacer import Limit
from daiko.copy_manager.progress import Progress
from daiko.copy_manager.request import pace_of
from daiko.state.record import JobRecord, JobState
from daiko.state.sqlite import SqliteStore
from daiko.state.store import StoreError

CRAWL = Pace(1)
"""At a byte a second the first request is granted, and nothing more before the test ends."""


async def _until(manager: CopyManager, job: int, claim: Callable[[Progress], bool]) -> Progress:
    progress = manager.progress(job)
    async with asyncio.timeout(20):
        while not claim(progress):
            progress = await manager.changed(job, progress.version)
    return progress


def _held_back(progress: Progress) -> bool:
    return progress.copied_blocks > 0 and progress.limited_by is Limit.RATE


async def _crawling(rig: Rig, manager: CopyManager) -> int:
    """A backup that has begun and waits for its pace."""
    job = (await manager.submit(backup_request(rig, "alpha", "vault", pace=CRAWL))).id
    progress = await _until(manager, job, _held_back)
    assert (progress.pace, progress.paced_rate) == (CRAWL, 1)
    assert progress.copied_blocks < progress.blocks
    return job


async def test_pace_is_part_of_the_request_whatever_kind_of_copy_it_is(
    rig: Rig, manager: CopyManager
) -> None:
    pace = Pace(1 << 30)
    async with asyncio.timeout(20):
        backup = await manager.wait(
            (await manager.submit(backup_request(rig, "alpha", "vault", pace=pace))).id
        )
        for request in (
            copy_request(rig, "alpha", "vault", pace=pace),
            restore_request(rig, backup, pace=pace),
        ):
            job = await manager.wait((await manager.submit(request)).id)
            assert (job.state, pace_of(job)) == (JobState.DONE, pace)
            ended = manager.progress(job.id)
            assert (ended.pace, ended.limited_by, ended.paced_rate) == (pace, None, None)


async def test_full_pace_lets_a_crawling_job_end(rig: Rig, manager: CopyManager) -> None:
    one, two = rig.fill("sd1/0", 1), rig.fill("sd2/0", 2)
    job = await _crawling(rig, manager)
    changed = await manager.set_pace(job, FULL)
    assert pace_of(changed) == FULL
    async with asyncio.timeout(20):
        assert (await manager.wait(job)).state is JobState.DONE
    assert rig.content("vault/0", 0, 1024) == one[: 512 * 512] + two[100 * 512 : 612 * 512]


async def test_running_job_is_slowed_down(rig: Rig, manager: CopyManager) -> None:
    rig.limit("sd1", max_segments=1, max_segment_blocks=32, concurrent=1)
    sd1 = rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    job = (await manager.submit(copy_request(rig, "alpha", "vault", blocks=512))).id
    async with asyncio.timeout(20):
        await sd1.arrived.wait()
    await manager.set_pace(job, CRAWL)
    sd1.gate.set()
    progress = await _until(manager, job, _held_back)
    assert progress.pace == CRAWL
    assert progress.copied_blocks < 512
    await manager.cancel(job)


async def test_waiting_job_takes_another_pace_with_it(rig: Rig, store: SqliteStore) -> None:
    manager = CopyManager(store, rig, settings=replace(QUICK, running_jobs=1))
    await manager.start()
    crawling = await _crawling(rig, manager)
    waiting = (await manager.submit(copy_request(rig, "sd2", "vault", at=1024))).id
    record = await manager.set_pace(waiting, CRAWL)
    assert (record.state, pace_of(record)) == (JobState.QUEUED, CRAWL)
    kept = store.get(JobRecord, record.key)
    assert kept is not None
    assert pace_of(kept) == CRAWL
    await manager.set_pace(crawling, FULL)
    await _until(manager, waiting, _held_back)
    await manager.cancel(waiting)
    await manager.stop()


async def test_cancel_does_not_wait_for_the_pace(rig: Rig, manager: CopyManager) -> None:
    job = await _crawling(rig, manager)
    async with asyncio.timeout(20):
        assert (await manager.cancel(job)).state is JobState.CANCELLED


async def test_stop_does_not_wait_for_the_pace_and_the_next_start_goes_on_at_it(
    rig: Rig, store: SqliteStore
) -> None:
    one, two = rig.fill("sd1/0", 1), rig.fill("sd2/0", 2)
    manager = CopyManager(store, rig, settings=QUICK)
    await manager.start()
    job = (await manager.submit(backup_request(rig, "alpha", "vault", pace=Pace(2)))).id
    await _until(manager, job, _held_back)
    await manager.set_pace(job, CRAWL)
    async with asyncio.timeout(20):
        await manager.stop()
    kept = store.get(JobRecord, f"{job:012d}")
    assert kept is not None
    assert (kept.state, pace_of(kept)) == (JobState.RUNNING, CRAWL)
    assert kept.confirmed_blocks > 0
    again = CopyManager(store, rig, settings=QUICK)
    await again.start()
    progress = await _until(again, job, lambda now: now.limited_by is Limit.RATE)
    assert progress.pace == CRAWL
    await again.set_pace(job, FULL)
    async with asyncio.timeout(20):
        assert (await again.wait(job)).state is JobState.DONE
    assert rig.content("vault/0", 0, 1024) == one[: 512 * 512] + two[100 * 512 : 612 * 512]
    await again.stop()


async def test_pace_is_kept_before_it_holds(
    rig: Rig, store: SqliteStore, manager: CopyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an administrator was told outlives a kill of this controller at that moment."""
    job = await _crawling(rig, manager)
    kept: list[object] = []
    put = store.put

    async def noting(record: JobRecord) -> None:
        kept.append((manager.progress(job).pace, pace_of(record)))
        await put(record)

    monkeypatch.setattr(store, "put", noting)
    await manager.set_pace(job, FULL)
    assert (CRAWL, FULL) in kept


async def test_pace_that_could_not_be_kept_holds_neither_now_nor_after_a_restart(
    rig: Rig, store: SqliteStore, manager: CopyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await _crawling(rig, manager)
    put = store.put
    kept: list[Pace] = []
    checkpoints = asyncio.Event()

    async def failing(record: JobRecord) -> None:
        if pace_of(record) == FULL:
            kept.clear()
            raise StoreError("the disk is full")
        await put(record)
        kept.append(pace_of(record))
        checkpoints.set()

    monkeypatch.setattr(store, "put", failing)
    with pytest.raises(StoreError):
        await manager.set_pace(job, FULL)
    checkpoints.clear()
    async with asyncio.timeout(20):
        await checkpoints.wait()
    assert set(kept) == {CRAWL}
    assert manager.progress(job).pace == CRAWL
    assert manager.job(job).state is JobState.RUNNING
    await manager.cancel(job)


async def test_pace_of_a_job_that_has_ended_or_never_was_cannot_be_changed(
    rig: Rig, manager: CopyManager
) -> None:
    async with asyncio.timeout(20):
        job = await manager.wait((await manager.submit(copy_request(rig, "alpha", "vault"))).id)
    with pytest.raises(JobNotRunning, match=f"job {job.id} is done already"):
        await manager.set_pace(job.id, CRAWL)
    with pytest.raises(NoSuchJob):
        await manager.set_pace(99, CRAWL)


async def test_hosts_copy_is_slowed_down_and_nothing_of_it_is_kept_as_confirmed(
    rig: Rig, store: SqliteStore, manager: CopyManager
) -> None:
    request = replace(
        copy_request(rig, "alpha", "vault", pace=CRAWL), asked_by="host web1 (iqn.x:web1)"
    )
    job = (await manager.begin(request)).id
    await _until(manager, job, _held_back)
    slower = Pace(2)
    assert pace_of(await manager.set_pace(job, slower)) == slower
    assert manager.job(job).confirmed_blocks == 0
    async with asyncio.timeout(20):
        assert (await manager.cancel(job)).state is JobState.CANCELLED


# --- the latency of hosts


class Hosts:
    """Hosts of a volume whose commands take so long, as far as a job measures them."""

    def __init__(self, rig: Rig, volume: str) -> None:
        self._timed = rig.timed.setdefault(volume, [])

    @property
    def measured_by(self) -> int:
        return len(self._timed)

    def wait(self, seconds: float) -> None:
        """A command of theirs took that long."""
        for times in self._timed:
            times.end(times.begin() - seconds)


async def test_hosts_that_wait_longer_than_the_pace_says_hold_a_job_back_and_it_says_so(
    rig: Rig, manager: CopyManager
) -> None:
    """Down to 1 MiB/s, at which the copy of 64 MiB would take a minute."""
    blocks = (64 << 20) // 512
    rig.attach("large", blocks, limits=None)
    rig.attach("room", blocks, limits=None)
    rig.volume("gamma", ("large/0", 0, blocks))
    data = rig.fill("large/0")
    hosts = Hosts(rig, "gamma")
    job = (await manager.submit(copy_request(rig, "gamma", "room", pace=Pace(latency=5000)))).id

    def held_back(progress: Progress) -> bool:
        hosts.wait(0.006)
        return progress.limited_by is Limit.HOSTS and progress.paced_rate == FLOOR

    progress = await _until(manager, job, held_back)
    assert progress.copied_blocks < blocks
    assert hosts.measured_by == 1
    await manager.set_pace(job, FULL)
    async with asyncio.timeout(20):
        assert (await manager.wait(job)).state is JobState.DONE
    assert hosts.measured_by == 0
    assert rig.content("room/0") == data


async def test_both_volumes_of_a_job_are_measured_until_it_ends_however_it_ends(
    rig: Rig, manager: CopyManager
) -> None:
    rig.volume("beta", ("vault/0", 0, 1024))
    sd1 = rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    job = (await manager.submit(copy_request(rig, "alpha", "beta", pace=Pace(latency=5000)))).id
    async with asyncio.timeout(20):
        await sd1.arrived.wait()
    measured = [Hosts(rig, name) for name in ("alpha", "beta")]
    assert [hosts.measured_by for hosts in measured] == [1, 1]
    cancelling = asyncio.ensure_future(manager.cancel(job))
    sd1.gate.set()
    async with asyncio.timeout(20):
        await cancelling
    assert [hosts.measured_by for hosts in measured] == [0, 0]


async def test_job_without_a_latency_in_its_pace_measures_nobody(
    rig: Rig, manager: CopyManager
) -> None:
    job = await _crawling(rig, manager)
    assert Hosts(rig, "alpha").measured_by == 0
    await manager.cancel(job)
