"""Whole jobs over devices in memory: planned, carried out, dropped, resumed, cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from copy_rig import LIO, QUICK, Reply, Rig
from daiko.command_control.function_table import Known
from daiko.command_control.plan import Function, Mode
from daiko.copy_manager.backup import backup_request, copy_request, restore_request
from daiko.copy_manager.checkpoint import Checkpoint
from daiko.copy_manager.copy_manager import CopyManager
from daiko.copy_manager.error import CopyRefused, JobNotRunning, NoSuchJob
from daiko.copy_manager.request import CopyRange, CopyRequest
from daiko.copy_manager.settings import Retries
from daiko.device.block import BlockDevice, Done
from daiko.device.error import Busy, MediumFailure, Unreachable
from daiko.device.layer.delay import Delay
from daiko.device.layer.fault import Operation
from daiko.device.layer.layer import Layer
from daiko.mapping.extent import DeviceId
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.opcode import Status
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.sense import (
    copy_aborted,
    copy_target_not_reachable,
    invalid_opcode,
)
from daiko.state.record import FunctionRecord, JobRecord, JobState, ReachRecord, StepRecord
from daiko.state.sqlite import SqliteStore
from daiko.state.store import Change, StoreError
from daiko.target.event import Event


async def _run(manager: CopyManager, request: CopyRequest) -> JobRecord:
    async with asyncio.timeout(20):
        return await manager.wait((await manager.submit(request)).id)


def _executors(record: JobRecord) -> list[tuple[str, int]]:
    return [(step.executor, step.blocks) for step in record.steps]


async def test_backup_of_a_mixed_volume_is_split_between_the_owner_and_this_controller(
    rig: Rig, manager: CopyManager
) -> None:
    one, two = rig.fill("sd1/0", 1), rig.fill("sd2/0", 2)
    record = await _run(manager, backup_request(rig, "alpha", "vault"))
    assert record.state is JobState.DONE
    expected = one[: 512 * 512] + two[100 * 512 : 612 * 512]
    assert rig.content("vault/0", 0, 1024) == expected
    assert _executors(record) == [("second controller sd1", 512), ("this controller", 512)]
    delegated, local = record.steps
    assert (delegated.bytes_through_first_controller, delegated.bytes_moved) == (0, 512 * 512)
    assert local.bytes_through_first_controller == local.bytes_moved == 512 * 512
    assert any(name == "second controller sd2" for name, _ in local.rejected)
    assert record.confirmed_blocks == record.blocks == 1024
    assert record.one_instant
    assert rig.controllers["sd2"].received == []


async def test_backup_of_a_range_copies_that_range_only(rig: Rig, manager: CopyManager) -> None:
    one, two = rig.fill("sd1/0", 1), rig.fill("sd2/0", 2)
    before = rig.fill("vault/0", 3)
    record = await _run(manager, backup_request(rig, "alpha", "vault", first=500, blocks=20, at=7))
    assert record.blocks == 20
    after = rig.content("vault/0")
    assert after[7 * 512 : 27 * 512] == one[500 * 512 : 512 * 512] + two[100 * 512 : 108 * 512]
    assert after[: 7 * 512] == before[: 7 * 512]
    assert after[27 * 512 :] == before[27 * 512 :]


async def test_restore_brings_the_same_blocks_back(rig: Rig, manager: CopyManager) -> None:
    one = rig.fill("sd1/0", 1)
    rig.fill("sd2/0", 2)
    backup = await _run(manager, backup_request(rig, "alpha", "vault", first=3, blocks=700, at=9))
    rig.fill("sd1/0", 8)
    changed = rig.fill("sd2/0", 9)
    restored = await _run(manager, restore_request(rig, backup))
    assert (restored.type, restored.state) == ("restore", JobState.DONE)
    assert rig.content("sd1/0", 3, 509) == one[3 * 512 : 512 * 512]
    assert rig.content("sd2/0", 291) == changed[291 * 512 :]


async def test_restore_of_an_unfinished_backup_is_refused(rig: Rig) -> None:
    record = JobRecord(
        id=1,
        type="backup",
        asked_by="administrator",
        source="alpha",
        destination="vault",
        request={"function": "direct-backup", "mode": None, "ranges": [[0, 1024, 0]]},
        state=JobState.FAILED,
    )
    with pytest.raises(CopyRefused, match="is failed"):
        restore_request(rig, record)


@pytest.mark.parametrize("mode", [Mode.DIRECT, Mode.LOCAL])
async def test_a_mode_that_delegates_nothing_moves_everything_here(
    rig: Rig, manager: CopyManager, mode: Mode
) -> None:
    rig.fill("sd1/0")
    record = await _run(manager, backup_request(rig, "alpha", "vault", mode=mode))
    assert {step.executor for step in record.steps} == {"this controller"}
    assert rig.controllers["sd1"].received == []
    assert sum(step.bytes_through_first_controller for step in record.steps) == 1024 * 512


async def test_an_old_copy_manager_gets_one_segment_a_command_of_its_size(
    rig: Rig, manager: CopyManager
) -> None:
    rig.attach("lio", 1024, luns=2, limits=replace(LIO, max_segment_blocks=100))
    data = rig.fill("lio/0")
    record = await _run(manager, copy_request(rig, "lio/0", "lio/1"))
    assert record.state is JobState.DONE
    assert rig.content("lio/1") == data
    received = rig.controllers["lio"].received
    assert all(len(copy.segments) == 1 and len(copy.cscds) == 2 for copy in received)
    assert all(copy.list_id == 0 and copy.list_id_usage == 0b11 for copy in received)
    sizes = [segment.blocks for copy in received for segment in copy.segments]  # type: ignore[union-attr]
    assert sum(sizes) == 1024
    assert max(sizes) <= 100
    assert rig.controllers["lio"].most_in_flight == QUICK.commands_in_flight


def _cannot_reach_after(count: int) -> object:
    sense = copy_target_not_reachable(0).fixed()
    seen = 0

    def script(_: ExtendedCopy) -> Reply | None:
        nonlocal seen
        seen += 1
        return Reply(Status.CHECK_CONDITION, sense=sense) if seen > count else None

    return script


async def test_a_bare_0d_02_half_way_goes_on_here_from_the_last_confirmed_block(
    rig: Rig, manager: CopyManager
) -> None:
    data = rig.fill("sd1/0")
    rig.limit("sd1", max_segments=1, max_segment_blocks=64, concurrent=1)
    rig.controllers["sd1"].script = _cannot_reach_after(3)  # type: ignore[assignment]
    record = await _run(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.DONE
    assert rig.content("vault/0", 0, 512) == data[: 512 * 512]
    dropped, taken_over = record.steps
    assert (dropped.executor, dropped.blocks) == ("second controller sd1", 3 * 64)
    assert "COPY TARGET DEVICE NOT REACHABLE" in dropped.error
    assert (taken_over.executor, taken_over.source_lba) == ("this controller", 3 * 64)
    assert ("second controller sd1", f"it failed: {dropped.error}") in taken_over.rejected
    assert dropped.bytes_through_first_controller == 0
    assert taken_over.bytes_through_first_controller == (512 - 192) * 512
    assert record.confirmed_blocks == record.blocks == 512


async def test_a_refused_pair_of_devices_is_not_asked_for_again(
    rig: Rig, manager: CopyManager
) -> None:
    rig.volume("beta", *[("sd1/0", 2 * part, 1) for part in range(200)])
    rig.controllers["sd1"].script = _cannot_reach_after(0)  # type: ignore[assignment]
    rig.limit("sd1", max_segments=1, concurrent=1)
    record = await _run(manager, backup_request(rig, "beta", "vault"))
    assert record.state is JobState.DONE
    # What was on its way when the first refusal came, and no batch after that.
    assert len(rig.controllers["sd1"].received) <= 2 * QUICK.batches_in_flight
    assert record.confirmed_blocks == 200


async def test_a_controller_without_the_command_is_learned_to_be_incapable(
    rig: Rig, manager: CopyManager, store: SqliteStore
) -> None:
    rig.fill("sd1/0")
    refusal = Reply(Status.CHECK_CONDITION, sense=invalid_opcode().fixed())
    rig.controllers["sd1"].script = lambda _: refusal
    record = await _run(manager, backup_request(rig, "alpha", "vault"))
    assert record.state is JobState.DONE
    learned = store.get(FunctionRecord, f"sd1:{Function.DIRECT_BACKUP}:found")
    assert learned is not None
    assert (learned.cell.can, learned.cell.known) == (False, Known.LEARNED)


async def test_a_device_that_a_controller_says_it_does_not_reach_is_learned_to_be_so(
    rig: Rig, manager: CopyManager, store: SqliteStore
) -> None:
    data = rig.fill("sd1/0")
    sense = copy_aborted(0x08, 0x04, segment=0).fixed()
    rig.controllers["sd1"].script = lambda _: Reply(Status.CHECK_CONDITION, sense=sense)
    record = await _run(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.DONE
    assert rig.content("vault/0", 0, 512) == data[: 512 * 512]
    learned = store.get(ReachRecord, "sd1:vault/0:found")
    assert learned is not None
    assert (learned.cell.can, learned.cell.known) == (False, Known.LEARNED)


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
    record = await _run(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.FAILED
    assert "defect" in record.error
    kept = store.get(JobRecord, record.key)
    assert kept is not None
    assert kept.state is JobState.FAILED
    rig.controllers["sd1"].script = lambda _: None
    again = await _run(manager, backup_request(rig, "alpha", "vault", blocks=512))
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
        record = await _run(manager, backup_request(rig, "alpha", "vault", blocks=512))
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


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(Status.BUSY), id="busy"),
        pytest.param(Reply(Status.TASK_SET_FULL), id="task-set-full"),
        pytest.param(
            Reply(Status.CHECK_CONDITION, sense=Event.POWER_ON_OR_RESET.sense.fixed()),
            id="unit-attention",
        ),
    ],
)
async def test_not_now_is_tried_again_with_the_same_executor(
    rig: Rig, manager: CopyManager, reply: Reply
) -> None:
    data = rig.fill("sd1/0")
    replies = iter([reply, reply])
    rig.controllers["sd1"].script = lambda _: next(replies, None)
    record = await _run(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert _executors(record) == [("second controller sd1", 512)]
    assert rig.content("vault/0", 0, 512) == data[: 512 * 512]


async def test_busy_without_end_falls_back(rig: Rig, manager: CopyManager) -> None:
    data = rig.fill("sd1/0")
    rig.controllers["sd1"].script = lambda _: Reply(Status.BUSY)
    record = await _run(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert _executors(record) == [("second controller sd1", 0), ("this controller", 512)]
    assert rig.content("vault/0", 0, 512) == data[: 512 * 512]


async def test_a_reservation_at_the_back_end_fails_the_job_with_it(
    rig: Rig, manager: CopyManager
) -> None:
    rig.controllers["sd1"].script = lambda _: Reply(Status.RESERVATION_CONFLICT)
    record = await _run(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.FAILED
    assert "RESERVATION CONFLICT" in record.error


async def test_a_lost_connection_leaves_the_range_to_be_copied_again_by_the_same_executor(
    rig: Rig, manager: CopyManager
) -> None:
    data = rig.fill("sd1/0")
    rig.limit("sd1", max_segments=1, max_segment_blocks=128, concurrent=1)
    sd1 = rig.controllers["sd1"]
    seen = 0

    def script(_: ExtendedCopy) -> Exception | None:
        nonlocal seen
        seen += 1
        if seen != 2:
            return None
        sd1.lose_nexus()
        return Unreachable("the connection was lost")

    sd1.script = script
    record = await _run(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.DONE
    assert _executors(record) == [("second controller sd1", 512)]
    assert rig.content("vault/0", 0, 512) == data[: 512 * 512]
    copied = [copy.segments[0].source_lba for copy in sd1.received]  # type: ignore[union-attr]
    assert copied.count(128) == 2


async def test_an_executor_that_is_lost_again_and_again_is_left_out(
    rig: Rig, manager: CopyManager
) -> None:
    data = rig.fill("sd1/0")
    rig.controllers["sd1"].script = lambda _: Unreachable("the connection was lost")
    record = await _run(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.DONE
    assert _executors(record) == [("second controller sd1", 0), ("this controller", 512)]
    assert len(rig.controllers["sd1"].received) == QUICK.lost_tries + 1
    assert rig.content("vault/0", 0, 512) == data[: 512 * 512]


async def test_a_back_end_on_another_machine_is_named_by_an_alias_set_anew_for_each_nexus(
    rig: Rig, manager: CopyManager
) -> None:
    data = rig.fill("sd1/0")
    rig.limit("sd1", max_segments=1, max_segment_blocks=128, concurrent=1)
    sd1 = rig.controllers["sd1"]
    lost = False

    def script(_: ExtendedCopy) -> Exception | None:
        nonlocal lost
        if lost:
            return None
        lost = True
        sd1.lose_nexus()
        return Unreachable("the connection was lost")

    sd1.script = script
    record = await _run(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.DONE
    assert sd1.alias_commands == 2
    assert rig.content("vault/0", 0, 512) == data[: 512 * 512]


async def test_a_medium_failure_fails_the_job_and_says_where(
    rig: Rig, manager: CopyManager
) -> None:
    rig.disks[DeviceId("sd2", 0)].fail(
        Operation.READ, error=lambda: MediumFailure("bad block", writing=False), lba=300, blocks=1
    )
    record = await _run(manager, backup_request(rig, "alpha", "vault"))
    assert record.state is JobState.FAILED
    assert record.error == "reading from sd2/0: bad block"
    assert record.finished > 0


@pytest.mark.parametrize("operation", [Operation.READ, Operation.WRITE, Operation.FLUSH])
async def test_a_device_that_is_busy_for_a_while_does_not_fail_the_job(
    rig: Rig, manager: CopyManager, operation: Operation
) -> None:
    rig.attach("old", 1024, luns=2, limits=None)
    data = rig.fill("old/0")
    disk = rig.disks[DeviceId("old", 0 if operation is Operation.READ else 1)]
    disk.fail(operation, error=lambda: Busy("not now"), times=2)
    record = await _run(manager, copy_request(rig, "old/0", "old/1"))
    assert record.state is JobState.DONE
    assert rig.content("old/1") == data


async def test_a_flush_that_fails_fails_the_job_and_confirms_nothing(
    rig: Rig, manager: CopyManager
) -> None:
    rig.attach("old", 64, luns=2, limits=None)
    rig.disks[DeviceId("old", 1)].fail(
        Operation.FLUSH, error=lambda: MediumFailure("no", writing=True)
    )
    record = await _run(manager, copy_request(rig, "old/0", "old/1"))
    assert record.state is JobState.FAILED
    assert record.confirmed_blocks == 0
    assert "stable storage" in record.error


async def test_a_destination_that_restarted_before_the_flush_is_written_again(
    rig: Rig, manager: CopyManager
) -> None:
    """What it had in a volatile cache is gone, and a flush afterwards proves nothing."""
    rig.attach("old", 64, luns=2, limits=None)
    data = rig.fill("old/0")
    restarted = False

    def restart_on_first_flush() -> None:
        nonlocal restarted
        if not restarted:
            restarted = True
            rig.controllers["old"].lose_nexus()
            disk.below.write(0, bytes(64 * 512), lambda error: None)

    disk = rig.disks[DeviceId("old", 1)]
    flush = disk.flush

    def flush_or_restart(done: object) -> None:
        restart_on_first_flush()
        flush(done)  # type: ignore[arg-type]

    disk.flush = flush_or_restart  # type: ignore[method-assign,assignment]
    record = await _run(manager, copy_request(rig, "old/0", "old/1"))
    assert record.state is JobState.DONE
    assert restarted
    assert rig.content("old/1") == data


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


async def test_host_writes_during_the_job_are_counted_within_its_range(
    rig: Rig, manager: CopyManager
) -> None:
    sd1 = rig.controllers["sd1"]

    def script(_: ExtendedCopy) -> None:
        (tracking,) = rig.tracked["alpha"]
        tracking.write(10, bytes(4 * 512), lambda error: None)
        tracking.write(600, bytes(512), lambda error: None)

    sd1.script = script
    record = await _run(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.changed_blocks == 4
    assert not record.one_instant
    assert rig.tracked == {"alpha": []}


async def test_copies_into_the_source_during_the_job_are_changes_too(
    rig: Rig, manager: CopyManager
) -> None:
    """They do not pass through the volume's write path: neither this controller's nor those that
    were handed over."""
    sd1 = rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    async with asyncio.timeout(20):
        under_way = await manager.submit(copy_request(rig, "vault", "alpha", blocks=4, at=30))
        await sd1.arrived.wait()
        backup = await manager.submit(backup_request(rig, "alpha", "vault", blocks=520, at=600))
        while not rig.tracked.get("alpha"):  # noqa: ASYNC110  # the rig has no event
            await asyncio.sleep(0)
        later = await _run(manager, copy_request(rig, "sd2", "alpha", blocks=8, at=508))
        outside = await _run(manager, copy_request(rig, "sd2", "alpha", blocks=8, at=700))
        sd1.gate.set()
        for job in (under_way, later, outside):
            assert (await manager.wait(job.id)).state is JobState.DONE
        record = await manager.wait(backup.id)
    assert record.state is JobState.DONE
    assert record.changed_blocks == 4 + 8
    assert not record.one_instant
    assert (await _run(manager, backup_request(rig, "alpha", "vault", blocks=8))).one_instant


async def test_a_source_that_is_no_volume_is_not_reported_as_of_one_instant(
    rig: Rig, manager: CopyManager
) -> None:
    record = await _run(manager, copy_request(rig, "sd2/0", "vault/0"))
    assert record.state is JobState.DONE
    assert not record.one_instant


async def test_later_segments_see_what_earlier_ones_wrote(rig: Rig, manager: CopyManager) -> None:
    data = rig.fill("sd1/0")
    request = CopyRequest(
        "copy",
        Function.VOLUME_COPY,
        "sd1/0",
        "sd1/0",
        tuple(CopyRange(100 * hop, 100, 100 * (hop + 1)) for hop in range(6)),
    )
    record = await _run(manager, request)
    assert record.state is JobState.DONE
    assert rig.content("sd1/0", 600, 100) == data[: 100 * 512]


async def test_blocks_of_unequal_sizes_are_converted_here(rig: Rig, manager: CopyManager) -> None:
    rig.attach("new", 64, block_size=4096)
    data = rig.fill("sd1/0")
    record = await _run(manager, copy_request(rig, "sd1/0", "new/0", first=8, blocks=480, at=2))
    assert record.state is JobState.DONE
    assert rig.content("new/0", 2, 60) == data[8 * 512 : 488 * 512]
    assert record.steps[0].destination_block_size == 4096


async def test_progress_is_watched_from_version_to_version(rig: Rig, manager: CopyManager) -> None:
    rig.limit("sd1", max_segments=1, max_segment_blocks=32, concurrent=1)
    job = (await manager.submit(backup_request(rig, "alpha", "vault", blocks=512))).id
    version, seen = -1, []
    async with asyncio.timeout(20):
        while True:
            progress = await manager.changed(job, version)
            assert progress.version > version
            version = progress.version
            seen.append(progress.copied_blocks)
            if progress.state is JobState.DONE:
                break
    assert seen == sorted(seen)
    assert seen[-1] == 512
    assert (await manager.changed(job, version)).state is JobState.DONE


class _HoldsFlushes(Layer):
    """A device whose flushes wait."""

    def __init__(self, below: BlockDevice) -> None:
        super().__init__(below)
        self.waiting: list[Done] = []
        self.reached = asyncio.Event()

    def flush(self, done: Done) -> None:
        self.waiting.append(done)
        self.reached.set()


async def test_progress_goes_on_while_a_checkpoint_waits_for_the_destination(
    rig: Rig, manager: CopyManager
) -> None:
    source, vault = rig.disks[DeviceId("sd2", 0)], rig.disks[DeviceId("vault", 0)]
    reads = source.below = Delay(source.below, None)
    flushes = vault.below = _HoldsFlushes(vault.below)
    job = (await manager.submit(copy_request(rig, "sd2", "vault"))).id

    async def copied(blocks: int) -> None:
        progress = manager.progress(job)
        while progress.copied_blocks < blocks:
            reads.release(1)
            progress = await manager.changed(job, progress.version)

    async with asyncio.timeout(20):
        await copied(8)
        await flushes.reached.wait()
        await copied(64)
    assert manager.progress(job).confirmed_blocks == 0
    source.below, vault.below = reads.below, flushes.below
    reads.seconds = 0
    reads.release()
    for done in flushes.waiting:
        done(None)
    async with asyncio.timeout(20):
        assert (await manager.wait(job)).state is JobState.DONE


async def test_a_plan_is_made_without_sending_anything(rig: Rig, manager: CopyManager) -> None:
    plan = manager.plan(backup_request(rig, "alpha", "vault"))
    assert [str(step.executor) for step in plan.steps] == [
        "second controller sd1",
        "this controller",
    ]
    assert rig.controllers["sd1"].received == []
    assert manager.jobs() == ()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        pytest.param(lambda rig: backup_request(rig, "none", "vault"), "source", id="no-volume"),
        pytest.param(lambda rig: backup_request(rig, "alpha", "no"), "destination", id="no-target"),
        pytest.param(
            lambda rig: backup_request(rig, "alpha", "vault", first=1000, blocks=25),
            "blocks",
            id="beyond-the-end",
        ),
        pytest.param(
            lambda rig: backup_request(rig, "alpha", "vault", blocks=0), "blocks", id="nothing"
        ),
        pytest.param(
            lambda rig: backup_request(rig, "alpha", "vault", at=1025),
            "destination",
            id="destination-too-small",
        ),
    ],
)
def test_a_request_that_cannot_be_is_refused_at_once(rig: Rig, make: object, field: str) -> None:
    with pytest.raises(CopyRefused) as refused:
        make(rig)  # type: ignore[operator]
    assert refused.value.field == field


async def test_a_copy_onto_itself_is_refused(rig: Rig, manager: CopyManager) -> None:
    with pytest.raises(CopyRefused, match="overlap") as refused:
        await manager.submit(copy_request(rig, "alpha", "alpha", blocks=100, at=50))
    assert "another destination" in refused.value.next_step
    assert manager.jobs() == ()


async def test_an_unknown_job_is_said_to_be_unknown(manager: CopyManager) -> None:
    with pytest.raises(NoSuchJob):
        manager.job(99)
    with pytest.raises(NoSuchJob):
        await manager.wait(99)


async def test_a_controller_that_stays_down_fails_the_job_in_the_end(
    rig: Rig, store: SqliteStore
) -> None:
    manager = CopyManager(store, rig, settings=replace(QUICK, retries=Retries((0.0,))))
    await manager.start()
    rig.controllers["sd1"].is_down = True
    rig.disks[DeviceId("sd1", 0)].fail(error=lambda: Unreachable("no path"))
    record = await _run(manager, backup_request(rig, "alpha", "vault", blocks=64))
    assert record.state is JobState.FAILED
    assert "no path" in record.error
    await manager.stop()


async def test_a_device_that_was_detached_meanwhile_fails_the_job_with_a_sentence(
    rig: Rig, manager: CopyManager
) -> None:
    rig.limit("sd1", max_segments=1, max_segment_blocks=32, concurrent=1)

    def detach(_: ExtendedCopy) -> Reply:
        rig.addresses = {
            device: address
            for device, address in rig.addresses.items()
            if device.backend != "vault"
        }
        return Reply(Status.CHECK_CONDITION, sense=copy_target_not_reachable(0).fixed())

    rig.controllers["sd1"].script = detach
    record = await _run(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.FAILED
    assert "not attached any more" in record.error


async def test_two_jobs_share_a_back_end_in_turns(rig: Rig, manager: CopyManager) -> None:
    rig.attach("lio", 2048, luns=3, limits=replace(LIO, max_segment_blocks=64))
    lio = rig.controllers["lio"]
    lio.gate = asyncio.Event()
    first = (await manager.submit(copy_request(rig, "lio/0", "lio/1"))).id
    second = (await manager.submit(copy_request(rig, "lio/0", "lio/2"))).id
    async with asyncio.timeout(20):
        for job in (first, second):
            version = -1
            while manager.job(job).state is not JobState.RUNNING:
                version = (await manager.changed(job, version)).version
        for _ in range(20):
            await asyncio.sleep(0)
        lio.gate.set()
        await manager.wait(first)
        await manager.wait(second)
    order = [_destination(copy) for copy in lio.received]
    assert order.count(1) == order.count(2) == 32
    assert max(order.index(1), order.index(2)) <= 2 * QUICK.commands_in_flight


def _destination(copy: ExtendedCopy) -> int:
    segment = copy.segments[0]
    assert isinstance(segment, BlockToBlock)
    cscd = copy.cscd(segment.destination)
    assert cscd is not None
    return cscd.designator.data[15]  # type: ignore[union-attr]
