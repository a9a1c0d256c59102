"""Jobs in hand: in the store before they are shown, queued, stopped, resumed, cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from copy_rig import QUICK, Rig, run_job
from daiko.copy_manager.backup import backup_request
from daiko.copy_manager.checkpoint import Checkpoint
from daiko.copy_manager.copy_manager import CopyManager
from daiko.copy_manager.error import CopyRefused, JobNotRunning
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.state.record import JobRecord, JobState, StepRecord
from daiko.state.sqlite import SqliteStore
from daiko.state.store import Change, StoreError


async def test_a_store_that_fails_ends_the_job_and_leaves_it_to_the_next_start(
    rig: Rig, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CopyManager(store, rig, settings=QUICK)
    await manager.start()
    job = (await manager.submit(backup_request(rig, "alpha", "vault", blocks=512))).id

    async def fail(_: object) -> None:
        raise StoreError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(store, "put", fail)
        async with asyncio.timeout(20):
            await manager.wait(job)
    kept = store.get(JobRecord, f"{job:012d}")
    assert kept is not None
    assert kept.state is JobState.QUEUED
    # Whoever follows the job hears that it ended, though the store does not know.
    assert manager.job(job).state is JobState.FAILED
    assert "disk full" in manager.job(job).error
    await manager.stop()
    again = CopyManager(store, rig, settings=QUICK)
    await again.start()
    async with asyncio.timeout(20):
        assert (await again.wait(job)).state is JobState.DONE
    await again.stop()


class HeldStore(SqliteStore):
    """A store whose commits wait while `opened` is clear."""

    opened: asyncio.Event
    waiting: asyncio.Queue[JobRecord]
    """Jobs that are on their way into the store."""

    @classmethod
    def made(cls, folder: Path) -> HeldStore:
        store = cls.open(folder)
        assert isinstance(store, HeldStore)
        store.opened, store.waiting = asyncio.Event(), asyncio.Queue()
        store.opened.set()
        return store

    async def _commit(self, changes: Sequence[Change], numbers: Mapping[str, int]) -> None:
        for change in changes:
            if isinstance(change.after, JobRecord) and not self.opened.is_set():
                self.waiting.put_nowait(change.after)
        await self.opened.wait()
        await super()._commit(changes, numbers)


@pytest.mark.parametrize("confirm_seconds", [0.0, 3600.0], ids=["checkpoint", "end"])
async def test_confirmed_and_ended_are_shown_only_once_the_store_has_them(
    rig: Rig, tmp_path: Path, confirm_seconds: float
) -> None:
    store = HeldStore.made(tmp_path / "held")
    manager = CopyManager(store, rig, settings=replace(QUICK, confirm_seconds=confirm_seconds))
    await manager.start()
    job = (await manager.submit(backup_request(rig, "alpha", "vault"))).id
    store.opened.clear()
    async with asyncio.timeout(20):
        while not (on_its_way := await store.waiting.get()).confirmed_blocks:
            store.opened.set()  # this one may pass
            store.opened.clear()
    assert manager.progress(job).confirmed_blocks == manager.job(job).confirmed_blocks == 0
    assert manager.progress(job).copied_blocks >= on_its_way.confirmed_blocks
    assert manager.job(job).state is manager.progress(job).state is JobState.RUNNING
    store.opened.set()
    async with asyncio.timeout(20):
        assert (await manager.wait(job)).state is JobState.DONE
    assert manager.progress(job).confirmed_blocks == 1024
    await manager.stop()
    await store.close()


async def test_nothing_of_a_hosts_copy_is_confirmed_before_its_end_is_in_the_store(
    rig: Rig, manager: CopyManager
) -> None:
    gate = rig.controllers["sd1"].gate = asyncio.Event()
    request = replace(backup_request(rig, "alpha", "vault"), asked_by="host web1 (iqn.x)")
    job = await manager.begin(request)
    async with asyncio.timeout(20):
        while not any(work.confirmed for work in job.works):
            await job.changed(job.version)
        shown = manager.job(job.id)
        assert shown.confirmed_blocks == manager.progress(job.id).confirmed_blocks == 0
        gate.set()
        await job.ended.wait()
    assert manager.job(job.id).confirmed_blocks == 1024


async def test_a_defect_ends_the_job_as_failed_and_nothing_else(
    rig: Rig, manager: CopyManager, store: SqliteStore
) -> None:
    data = rig.fill("sd1/0")
    rig.controllers["sd1"].script = lambda _: ZeroDivisionError("a defect")
    record = await run_job(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.FAILED
    assert "defect" in record.error
    kept = store.get(JobRecord, record.key)
    assert kept is not None
    assert kept.state is JobState.FAILED
    rig.controllers["sd1"].script = lambda _: None
    again = await run_job(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert again.state is JobState.DONE
    assert rig.content("vault/0", 0, 512) == data[: 512 * 512]


async def test_a_defect_in_a_checkpoint_ends_the_job_and_says_so(
    rig: Rig, manager: CopyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = rig.controllers["sd1"].gate = asyncio.Event()
    attempt = Checkpoint.attempt

    async def defective(checkpoint: Checkpoint) -> None:
        if not gate.is_set():
            gate.set()
            raise ZeroDivisionError("a defect")
        await attempt(checkpoint)

    monkeypatch.setattr(Checkpoint, "attempt", defective)
    rig.limit("sd1", max_segments=1, max_segment_blocks=8, concurrent=1)
    with capture_logs() as logged:
        record = await run_job(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.FAILED
    assert "checkpoints" in record.error
    assert record.confirmed_blocks < 512
    assert [line["event"] for line in logged if line.get("exc_info")] == [
        "checkpoints ended by a defect"
    ]


async def test_nothing_is_begun_any_more_when_the_controller_stops(
    rig: Rig, store: SqliteStore
) -> None:
    manager = CopyManager(store, rig, settings=QUICK)
    await manager.start()
    await manager.stop()
    with pytest.raises(CopyRefused, match="stopping"):
        await manager.submit(backup_request(rig, "alpha", "vault"))
    assert store.list(JobRecord) == ()


async def test_a_restarted_controller_resumes_from_the_last_confirmed_block(
    rig: Rig, store: SqliteStore
) -> None:
    data = rig.fill("sd1/0")
    step = StepRecord(
        source="sd1/0",
        source_lba=0,
        destination="vault/0",
        destination_lba=0,
        blocks=512,
        block_size=512,
        destination_block_size=512,
        executor="second controller sd1",
        delegated=True,
        reason="as planned",
        confirmed=((0, 200), (300, 10)),
    )
    request = backup_request(rig, "alpha", "vault", blocks=512)
    await store.put(
        JobRecord(
            id=7,
            type="backup",
            asked_by="administrator",
            source="alpha",
            destination="vault",
            request=request.as_json(),
            state=JobState.RUNNING,
            steps=(step,),
            blocks=512,
            started=1.0,
        )
    )
    manager = CopyManager(store, rig, settings=QUICK)
    await manager.start()
    async with asyncio.timeout(20):
        record = await manager.wait(7)
    assert record.state is JobState.DONE
    copied = sorted(
        (segment.source_lba, segment.blocks)  # type: ignore[union-attr]
        for copy in rig.controllers["sd1"].received
        for segment in copy.segments
    )
    assert copied == [(200, 100), (310, 202)]
    assert rig.content("vault/0", 310, 202) == data[310 * 512 : 512 * 512]
    assert not record.one_instant, "writes of the time before the restart may have been missed"
    await manager.stop()


async def test_a_host_job_found_unfinished_is_interrupted_and_not_resumed(
    rig: Rig, store: SqliteStore
) -> None:
    await store.put(
        JobRecord(
            id=3,
            type="copy",
            asked_by="host web1 (iqn.2026-01.test:web1)",
            source="alpha",
            destination="vault",
            request={"function": "direct-backup", "mode": None, "ranges": [[0, 8, 0]]},
            state=JobState.RUNNING,
            blocks=8,
        )
    )
    manager = CopyManager(store, rig, settings=QUICK)
    await manager.start()
    record = manager.job(3)
    assert record.state is JobState.INTERRUPTED
    assert "restarted" in record.error
    assert rig.controllers["sd1"].received == []
    await manager.stop()


async def test_stop_confirms_what_is_done_and_leaves_the_job_to_the_next_start(
    rig: Rig, store: SqliteStore
) -> None:
    data = rig.fill("sd1/0")
    rig.limit("sd1", max_segments=1, max_segment_blocks=32, concurrent=1)
    sd1 = rig.controllers["sd1"]
    manager = CopyManager(store, rig, settings=QUICK)
    await manager.start()
    enough = asyncio.Event()

    def script(_: ExtendedCopy) -> None:
        if len(sd1.received) == 4:
            enough.set()

    sd1.script = script
    job = (await manager.submit(backup_request(rig, "alpha", "vault", blocks=512))).id
    async with asyncio.timeout(20):
        await enough.wait()
        await manager.stop()
    kept = store.get(JobRecord, f"{job:012d}")
    assert kept is not None
    assert kept.state is JobState.RUNNING
    assert 0 < kept.confirmed_blocks < 512
    first_life = len(sd1.received)
    again = CopyManager(store, rig, settings=QUICK)
    await again.start()
    async with asyncio.timeout(20):
        record = await again.wait(job)
    assert record.state is JobState.DONE
    assert rig.content("vault/0", 0, 512) == data[: 512 * 512]
    assert len(sd1.received) == first_life + (512 - kept.confirmed_blocks) // 32
    await again.stop()


async def test_cancel_ends_the_job_and_copies_nothing_more(rig: Rig, manager: CopyManager) -> None:
    rig.limit("sd1", max_segments=1, max_segment_blocks=32, concurrent=1)
    sd1 = rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    job = (await manager.submit(backup_request(rig, "alpha", "vault", blocks=512))).id
    async with asyncio.timeout(20):
        await sd1.arrived.wait()
        cancelled = asyncio.create_task(manager.cancel(job))
        await asyncio.sleep(0)
        sent = len(sd1.received)
        sd1.gate.set()
        record = await cancelled
    assert record.state is JobState.CANCELLED
    assert len(sd1.received) <= sent + QUICK.commands_in_flight
    assert record.confirmed_blocks <= 32 * len(sd1.received)
    with pytest.raises(JobNotRunning):
        await manager.cancel(job)


async def test_a_cancel_right_after_the_request_is_not_lost(rig: Rig, manager: CopyManager) -> None:
    job = (await manager.submit(backup_request(rig, "alpha", "vault"))).id
    record = await manager.cancel(job)
    assert record.state is JobState.CANCELLED
    assert rig.controllers["sd1"].received == []


async def test_a_queued_job_can_be_cancelled_before_it_begins(rig: Rig, store: SqliteStore) -> None:
    manager = CopyManager(store, rig, settings=replace(QUICK, running_jobs=1))
    await manager.start()
    sd1 = rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    first = (await manager.submit(backup_request(rig, "alpha", "vault", blocks=8))).id
    second = (await manager.submit(backup_request(rig, "alpha", "vault", blocks=8))).id
    async with asyncio.timeout(20):
        await sd1.arrived.wait()
        assert (await manager.cancel(second)).state is JobState.CANCELLED
        sd1.gate.set()
        assert (await manager.wait(first)).state is JobState.DONE
    assert len(sd1.received) == 1
    await manager.stop()


async def test_the_queue_of_jobs_is_bounded_and_a_cancelled_one_gives_its_place_back(
    rig: Rig, store: SqliteStore
) -> None:
    manager = CopyManager(store, rig, settings=replace(QUICK, running_jobs=1, unfinished_jobs=2))
    await manager.start()
    sd1 = rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    request = backup_request(rig, "alpha", "vault", blocks=8)
    async with asyncio.timeout(20):
        first, second = [(await manager.submit(request)).id for _ in range(2)]
        with pytest.raises(CopyRefused, match="2 jobs run or wait already") as refusal:
            await manager.submit(request)
        assert "daiko job cancel" in refusal.value.next_step
        assert [record.id for record in manager.jobs()] == [first, second]
        await manager.cancel(second)
        third = (await manager.submit(request)).id
        sd1.gate.set()
        for job in (first, third):
            assert (await manager.wait(job)).state is JobState.DONE
    await manager.stop()
