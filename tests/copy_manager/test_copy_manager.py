"""Whole jobs over devices in memory: planned, carried out, watched. Those that fail are in
`test_failed_copies.py`, what ends or delays them otherwise in `test_jobs_in_hand.py`."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from copy_rig import LIO, QUICK, Rig, executors, run_job
from daiko.command_control.plan import Function, Mode
from daiko.copy_manager.backup import backup_request, copy_request, restore_request
from daiko.copy_manager.copy_manager import CopyManager
from daiko.copy_manager.error import CopyRefused, NoSuchJob
from daiko.copy_manager.request import CopyRange, CopyRequest
from daiko.device.block import BlockDevice, Done
from daiko.device.layer.delay import Delay
from daiko.device.layer.layer import Layer
from daiko.mapping.extent import DeviceId
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.segment import BlockToBlock
from daiko.state.record import JobRecord, JobState


async def test_backup_of_a_mixed_volume_is_split_between_the_owner_and_this_controller(
    rig: Rig, manager: CopyManager
) -> None:
    one, two = rig.fill("sd1/0", 1), rig.fill("sd2/0", 2)
    record = await run_job(manager, backup_request(rig, "alpha", "vault"))
    assert record.state is JobState.DONE
    expected = one[: 512 * 512] + two[100 * 512 : 612 * 512]
    assert rig.content("vault/0", 0, 1024) == expected
    assert executors(record) == [("second controller sd1", 512), ("this controller", 512)]
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
    record = await run_job(
        manager, backup_request(rig, "alpha", "vault", first=500, blocks=20, at=7)
    )
    assert record.blocks == 20
    after = rig.content("vault/0")
    assert after[7 * 512 : 27 * 512] == one[500 * 512 : 512 * 512] + two[100 * 512 : 108 * 512]
    assert after[: 7 * 512] == before[: 7 * 512]
    assert after[27 * 512 :] == before[27 * 512 :]


async def test_restore_brings_the_same_blocks_back(rig: Rig, manager: CopyManager) -> None:
    one = rig.fill("sd1/0", 1)
    rig.fill("sd2/0", 2)
    backup = await run_job(
        manager, backup_request(rig, "alpha", "vault", first=3, blocks=700, at=9)
    )
    rig.fill("sd1/0", 8)
    changed = rig.fill("sd2/0", 9)
    restored = await run_job(manager, restore_request(rig, backup))
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
    record = await run_job(manager, backup_request(rig, "alpha", "vault", mode=mode))
    assert {step.executor for step in record.steps} == {"this controller"}
    assert rig.controllers["sd1"].received == []
    assert sum(step.bytes_through_first_controller for step in record.steps) == 1024 * 512


async def test_an_old_copy_manager_gets_one_segment_a_command_of_its_size(
    rig: Rig, manager: CopyManager
) -> None:
    rig.attach("lio", 1024, luns=2, limits=replace(LIO, max_segment_blocks=100))
    data = rig.fill("lio/0")
    record = await run_job(manager, copy_request(rig, "lio/0", "lio/1"))
    assert record.state is JobState.DONE
    assert rig.content("lio/1") == data
    received = rig.controllers["lio"].received
    assert all(len(copy.segments) == 1 and len(copy.cscds) == 2 for copy in received)
    assert all(copy.list_id == 0 and copy.list_id_usage == 0b11 for copy in received)
    sizes = [segment.blocks for copy in received for segment in copy.segments]  # type: ignore[union-attr]
    assert sum(sizes) == 1024
    assert max(sizes) <= 100
    assert rig.controllers["lio"].most_in_flight == QUICK.commands_in_flight


async def test_host_writes_during_the_job_are_counted_within_its_range(
    rig: Rig, manager: CopyManager
) -> None:
    sd1 = rig.controllers["sd1"]

    def script(_: ExtendedCopy) -> None:
        (tracking,) = rig.tracked["alpha"]
        tracking.write(10, bytes(4 * 512), lambda error: None)
        tracking.write(600, bytes(512), lambda error: None)

    sd1.script = script
    record = await run_job(manager, backup_request(rig, "alpha", "vault", blocks=512))
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
        later = await run_job(manager, copy_request(rig, "sd2", "alpha", blocks=8, at=508))
        outside = await run_job(manager, copy_request(rig, "sd2", "alpha", blocks=8, at=700))
        sd1.gate.set()
        for job in (under_way, later, outside):
            assert (await manager.wait(job.id)).state is JobState.DONE
        record = await manager.wait(backup.id)
    assert record.state is JobState.DONE
    assert record.changed_blocks == 4 + 8
    assert not record.one_instant
    assert (await run_job(manager, backup_request(rig, "alpha", "vault", blocks=8))).one_instant


async def test_a_source_that_is_no_volume_is_not_reported_as_of_one_instant(
    rig: Rig, manager: CopyManager
) -> None:
    record = await run_job(manager, copy_request(rig, "sd2/0", "vault/0"))
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
    record = await run_job(manager, request)
    assert record.state is JobState.DONE
    assert rig.content("sd1/0", 600, 100) == data[: 100 * 512]


async def test_blocks_of_unequal_sizes_are_converted_here(rig: Rig, manager: CopyManager) -> None:
    rig.attach("new", 64, block_size=4096)
    data = rig.fill("sd1/0")
    record = await run_job(manager, copy_request(rig, "sd1/0", "new/0", first=8, blocks=480, at=2))
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
