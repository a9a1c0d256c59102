"""Jobs whose executors or devices fail: tried again, taken over by another, or failed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from copy_rig import QUICK, Reply, Rig, executors, run_job
from daiko.command_control.function_table import Known
from daiko.command_control.plan import Function
from daiko.copy_manager.backup import backup_request, copy_request
from daiko.copy_manager.copy_manager import CopyManager
from daiko.copy_manager.settings import Retries
from daiko.device.error import Busy, MediumFailure, Unreachable
from daiko.device.layer.fault import Operation
from daiko.mapping.extent import DeviceId
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.opcode import Status
from daiko.scsi.sense import (
    copy_aborted,
    copy_target_not_reachable,
    invalid_opcode,
)
from daiko.state.record import FunctionRecord, JobState, ReachRecord
from daiko.state.sqlite import SqliteStore
from daiko.target.event import Event


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
    record = await run_job(manager, backup_request(rig, "alpha", "vault", blocks=512))
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
    record = await run_job(manager, backup_request(rig, "beta", "vault"))
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
    record = await run_job(manager, backup_request(rig, "alpha", "vault"))
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
    record = await run_job(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.DONE
    assert rig.content("vault/0", 0, 512) == data[: 512 * 512]
    learned = store.get(ReachRecord, "sd1:vault/0:found")
    assert learned is not None
    assert (learned.cell.can, learned.cell.known) == (False, Known.LEARNED)


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
    record = await run_job(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert executors(record) == [("second controller sd1", 512)]
    assert rig.content("vault/0", 0, 512) == data[: 512 * 512]


async def test_busy_without_end_falls_back(rig: Rig, manager: CopyManager) -> None:
    data = rig.fill("sd1/0")
    rig.controllers["sd1"].script = lambda _: Reply(Status.BUSY)
    record = await run_job(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert executors(record) == [("second controller sd1", 0), ("this controller", 512)]
    assert rig.content("vault/0", 0, 512) == data[: 512 * 512]


async def test_a_reservation_at_the_back_end_fails_the_job_with_it(
    rig: Rig, manager: CopyManager
) -> None:
    rig.controllers["sd1"].script = lambda _: Reply(Status.RESERVATION_CONFLICT)
    record = await run_job(manager, backup_request(rig, "alpha", "vault", blocks=512))
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
    record = await run_job(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.DONE
    assert executors(record) == [("second controller sd1", 512)]
    assert rig.content("vault/0", 0, 512) == data[: 512 * 512]
    copied = [copy.segments[0].source_lba for copy in sd1.received]  # type: ignore[union-attr]
    assert copied.count(128) == 2


async def test_an_executor_that_is_lost_again_and_again_is_left_out(
    rig: Rig, manager: CopyManager
) -> None:
    data = rig.fill("sd1/0")
    rig.controllers["sd1"].script = lambda _: Unreachable("the connection was lost")
    record = await run_job(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.DONE
    assert executors(record) == [("second controller sd1", 0), ("this controller", 512)]
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
    record = await run_job(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.DONE
    assert sd1.alias_commands == 2
    assert rig.content("vault/0", 0, 512) == data[: 512 * 512]


async def test_a_medium_failure_fails_the_job_and_says_where(
    rig: Rig, manager: CopyManager
) -> None:
    rig.disks[DeviceId("sd2", 0)].fail(
        Operation.READ, error=lambda: MediumFailure("bad block", writing=False), lba=300, blocks=1
    )
    record = await run_job(manager, backup_request(rig, "alpha", "vault"))
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
    record = await run_job(manager, copy_request(rig, "old/0", "old/1"))
    assert record.state is JobState.DONE
    assert rig.content("old/1") == data


async def test_a_flush_that_fails_fails_the_job_and_confirms_nothing(
    rig: Rig, manager: CopyManager
) -> None:
    rig.attach("old", 64, luns=2, limits=None)
    rig.disks[DeviceId("old", 1)].fail(
        Operation.FLUSH, error=lambda: MediumFailure("no", writing=True)
    )
    record = await run_job(manager, copy_request(rig, "old/0", "old/1"))
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
    record = await run_job(manager, copy_request(rig, "old/0", "old/1"))
    assert record.state is JobState.DONE
    assert restarted
    assert rig.content("old/1") == data


async def test_a_controller_that_stays_down_fails_the_job_in_the_end(
    rig: Rig, store: SqliteStore
) -> None:
    manager = CopyManager(store, rig, settings=replace(QUICK, retries=Retries((0.0,))))
    await manager.start()
    rig.controllers["sd1"].is_down = True
    rig.disks[DeviceId("sd1", 0)].fail(error=lambda: Unreachable("no path"))
    record = await run_job(manager, backup_request(rig, "alpha", "vault", blocks=64))
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
    record = await run_job(manager, backup_request(rig, "alpha", "vault", blocks=512))
    assert record.state is JobState.FAILED
    assert "not attached any more" in record.error
