"""EXTENDED COPY as a host sees it: what is copied, how failures are told, what is promised."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from copy_rig import Reply
from copy_target import (
    CopyTarget,
    backup,
    cscd,
    parameters,
    receive,
    sense_of,
)
from daiko.command_control.plan import Mode
from daiko.copy_manager.backup import restore_request
from daiko.device.error import Busy, MediumFailure, Unreachable
from daiko.device.layer.fault import Operation
from daiko.mapping.extent import DeviceId
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.copy_results import OperatingParameters
from daiko.scsi.cscd import Ipv4Cscd
from daiko.scsi.opcode import Status
from daiko.scsi.segment import BlockToBlock, VerifyCscd
from daiko.scsi.sense import (
    ForwardedSense,
    copy_target_not_reachable,
    lba_out_of_range,
    medium_error,
)
from daiko.scsi.third_party_page import ThirdPartyCopyPage
from daiko.state.record import (
    JobRecord,
    JobState,
    Record,
)
from daiko.state.sqlite import SqliteStore
from daiko.state.store import Store
from daiko.target.mode_settings import CONTROL

# --- copies ---------------------------------------------------------------------------------------


async def test_a_host_copy_is_delegated_and_leaves_the_same_report_as_a_backup(
    target: CopyTarget,
) -> None:
    source = target.rig.content("sd1/0", 8, 100)
    task = await target.send(backup(100, 8, 40))
    assert task.status == Status.GOOD
    assert target.rig.content("vault/0", 40, 100) == source
    (record,) = target.manager.jobs()
    assert (record.type, record.state) == ("backup", JobState.DONE)
    assert record.asked_by == "host alice (iqn.2026-11.test:alice)"
    (step,) = record.steps
    assert (step.executor, step.bytes_through_first_controller) == ("second controller sd1", 0)


@pytest.mark.parametrize(
    ("segments", "type"),
    [
        ([(0, 1, 0, 0)], "backup"),
        ([(0, 1, 0, 0), (0, 1, 32, 16)], "backup"),
        ([(0, 1, 0, 0), (0, 1, 32, 15)], "copy"),
        ([(0, 0, 0, 32)], "copy"),
        ([(0, 1, 0, 0), (1, 0, 64, 64)], "copy"),
        ([(0, 2, 0, 0)], "copy"),
    ],
    ids=["whole", "parts", "overwritten", "within-one-unit", "both-directions", "other-machine"],
)
async def test_what_a_host_asks_for_is_a_backup_where_it_can_be_brought_back(
    target: CopyTarget, segments: list[tuple[int, int, int, int]], type: str
) -> None:
    there = Ipv4Cscd(0, bytes((192, 0, 2, 7)), 3260)
    asked = [BlockToBlock(from_, to, 16, lba, at) for from_, to, lba, at in segments]
    task = await target.send(parameters([cscd("alpha"), cscd("vault"), there], asked))
    assert task.status == Status.GOOD
    assert [record.type for record in target.manager.jobs()] == [type]


async def test_a_backup_that_a_host_asked_for_is_brought_back(target: CopyTarget) -> None:
    before = target.rig.content("sd1/0", 100, 50)
    await target.send(backup(50, 100, 7))
    (record,) = target.manager.jobs()
    await target.send(
        parameters([cscd("vault"), cscd("alpha")], [BlockToBlock(0, 1, 50, 500, 100)])
    )
    assert target.rig.content("sd1/0", 100, 50) != before
    job = await target.manager.begin(restore_request(target.rig, record))
    await job.ended.wait()
    assert target.rig.content("sd1/0", 100, 50) == before


async def test_the_second_command_differs_only_in_identifiers_addresses_and_list_id(
    target: CopyTarget,
) -> None:
    host = backup(100, 8, 40)
    await target.send(host)
    (sent,) = target.rig.controllers["sd1"].received
    second = sent.pack()
    designator = slice(16 + 8, 16 + 28)
    assert len(second) == len(host)
    assert second[: designator.start] == host[: designator.start]
    assert second[designator] != host[designator]
    # Between the designators, and behind the second CSCD: as the host sent it. The vault lies on
    # another machine than sd1, so it is named by alias; the block length is the host's.
    assert second[designator.stop : 48] == host[designator.stop : 48]
    assert (host[48], second[48]) == (0xE4, 0xE6)
    assert second[48 + 28 :] == host[48 + 28 :]


async def test_a_copy_that_crosses_an_extent_is_one_command_for_the_host(
    target: CopyTarget,
) -> None:
    expected = target.rig.content("sd1/0", 500, 12) + target.rig.content("sd2/0", 0, 38)
    task = await target.send(backup(50, 500, 7))
    assert task.status == Status.GOOD
    assert target.rig.content("vault/0", 7, 50) == expected
    (record,) = target.manager.jobs()
    assert [step.executor for step in record.steps] == [
        "second controller sd1",
        "this controller",
    ]
    assert [step.segment for step in record.steps] == [0, 0]


async def test_a_refusal_of_the_second_controller_is_no_matter_to_the_host(
    target: CopyTarget,
) -> None:
    expected = target.rig.content("sd1/0", 0, 16)
    refusal = Reply(Status.CHECK_CONDITION, sense=copy_target_not_reachable(0).fixed())
    target.rig.controllers["sd1"].script = lambda _: refusal
    task = await target.send(backup())
    assert task.status == Status.GOOD
    assert target.rig.content("vault/0", 0, 16) == expected


async def test_segments_are_carried_out_in_their_order_where_that_matters(
    target: CopyTarget,
) -> None:
    first = target.rig.content("sd1/0", 0, 10)
    hops = [BlockToBlock(0, 0, 10, 10 * hop, 10 * (hop + 1)) for hop in range(5)]
    task = await target.send(parameters([cscd("alpha")], hops))
    assert task.status == Status.GOOD
    assert target.rig.content("sd1/0", 50, 10) == first


async def test_the_receiving_unit_is_named_by_ffff(target: CopyTarget) -> None:
    source = target.rig.content("sd1/0", 0, 4)
    task = await target.send(parameters([cscd("vault")], [BlockToBlock(0xFFFF, 0, 4, 0, 0)]))
    assert task.status == Status.GOOD
    assert target.rig.content("vault/0", 0, 4) == source


async def test_the_destination_count_counts_destination_blocks(target: CopyTarget) -> None:
    source = target.rig.content("sd1/0", 16, 16)
    segment = BlockToBlock(0, 1, 2, 16, 3, dc=True)
    task = await target.send(parameters([cscd("alpha"), cscd("big")], [segment]))
    assert task.status == Status.GOOD
    assert target.rig.content("new/0", 3, 2) == source


@pytest.mark.parametrize(
    "segments",
    [
        pytest.param([], id="no-segment"),
        pytest.param([BlockToBlock(0, 1, 0, 5, 5)], id="no-block"),
        pytest.param([BlockToBlock(0, 1, 0, 912, 1024)], id="no-block-at-the-end"),
        pytest.param([VerifyCscd(1)], id="verify"),
        pytest.param([VerifyCscd(1, test_unit_ready=True)], id="verify-ready"),
    ],
)
async def test_a_copy_of_nothing_is_good_and_makes_no_job(
    target: CopyTarget, segments: list[BlockToBlock | VerifyCscd]
) -> None:
    before = target.contents()
    task = await target.send(parameters([cscd("alpha"), cscd("vault")], segments))
    assert task.status == Status.GOOD
    assert target.manager.jobs() == ()
    assert target.contents() == before


async def test_verify_of_a_unit_that_does_not_answer_says_so(target: CopyTarget) -> None:
    target.rig.disks[DeviceId("vault", 0)].fail(error=lambda: Unreachable("no path"))
    list_ = parameters([cscd("vault")], [VerifyCscd(0, test_unit_ready=True)])
    task = await target.send(list_)
    assert task.condition == (0xA, 0x0D, 0x01)
    assert sense_of(task).source is not None


async def test_a_copy_without_parameter_list_is_good(target: CopyTarget) -> None:
    assert (await target.send(b"")).status == Status.GOOD


# --- failures -------------------------------------------------------------------------------------


async def test_a_failing_source_is_reported_with_segment_pointer_residual_and_its_sense(
    target: CopyTarget,
) -> None:
    target.rig.disks[DeviceId("sd2", 0)].fail(
        Operation.READ, error=lambda: MediumFailure("bad", writing=False, lba=20), lba=20, blocks=1
    )
    segments = [
        BlockToBlock(0, 1, 4, 0, 0),
        BlockToBlock(0, 1, 30, 512 - 10 + 10, 100),
        BlockToBlock(0, 1, 4, 0, 200),
    ]
    task = await target.send(parameters([cscd("alpha"), cscd("vault")], segments))
    sense = sense_of(task)
    assert (task.condition, sense.segment) == ((0xA, 0x0D, 0x01), 1)
    assert sense.field is not None
    assert (sense.field.byte, sense.field.segment_relative) == (16, False)
    assert sense.source == ForwardedSense(
        Status.CHECK_CONDITION, medium_error(writing=False, lba=20).fixed()
    )
    assert sense.destination is None
    # Transfers of 8 blocks, the third of which fails; none is begun after it.
    assert sense.information == 30 - 16


async def test_a_failing_destination_is_reported_as_the_destination(target: CopyTarget) -> None:
    target.rig.controllers["sd1"].script = lambda _: Reply(
        Status.CHECK_CONDITION, sense=copy_target_not_reachable(0).fixed()
    )
    target.rig.disks[DeviceId("vault", 0)].fail(
        Operation.WRITE, error=lambda: MediumFailure("bad", writing=True)
    )
    task = await target.send(backup())
    sense = sense_of(task)
    assert task.condition == (0xA, 0x0D, 0x01)
    assert sense.field is not None
    assert sense.field.byte == 48
    assert sense.destination is not None
    assert sense.information is None, "nothing was written: no residual"


async def test_a_device_that_stays_unreachable_is_reported_as_not_reachable(
    target: CopyTarget,
) -> None:
    target.rig.disks[DeviceId("sd2", 0)].fail(error=lambda: Unreachable("no path"))
    task = await target.send(backup(8, 600, 0))
    assert task.condition == (0xA, 0x0D, 0x02)
    assert sense_of(task).field is not None


async def test_a_reservation_at_the_back_end_is_the_failure_of_that_side(
    target: CopyTarget,
) -> None:
    """SPC-4, 5.17.7.4: RESERVATION CONFLICT as the status of the copy would say that the unit that
    received it is reserved."""
    target.rig.controllers["sd1"].script = lambda _: Reply(Status.RESERVATION_CONFLICT)
    task = await target.send(backup())
    assert task.condition == (0xA, 0x0D, 0x01)
    assert sense_of(task).destination == ForwardedSense(Status.RESERVATION_CONFLICT, b"")


async def test_a_busy_device_is_tried_again(target: CopyTarget) -> None:
    target.rig.disks[DeviceId("sd2", 0)].fail(error=lambda: Busy("not now"), times=2)
    assert (await target.send(backup(8, 600, 0))).status == Status.GOOD


async def test_sense_comes_in_the_format_that_the_unit_is_set_to(target: CopyTarget) -> None:
    unit = target.units["alpha"]
    unit.set_mode(unit.mode.with_fields(CONTROL, d_sense=1))
    task = await target.send(backup(8, 2000, 0))
    assert task.condition == (0xA, 0x0D, 0x02)
    assert task.sense_bytes[0] == 0x72
    assert sense_of(task).source == ForwardedSense(
        Status.CHECK_CONDITION, lba_out_of_range(912).fixed()
    )


async def test_more_copies_than_there_is_room_for_are_told_so(
    target: CopyTarget, store: SqliteStore
) -> None:
    sd1 = target.rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    target.manager.settings = replace(target.manager.settings, running_host_jobs=1)
    first = target.begin(backup())
    await sd1.arrived.wait()
    assert (await target.send(backup())).status == Status.TASK_SET_FULL
    sd1.gate.set()
    assert (await target.ended(first)).status == Status.GOOD


async def test_copies_that_come_together_do_not_all_find_the_same_room(target: CopyTarget) -> None:
    sd1 = target.rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    target.manager.settings = replace(target.manager.settings, running_host_jobs=2)
    tasks = [target.begin(backup(destination_lba=16 * number)) for number in range(5)]
    await sd1.arrived.wait()
    sd1.gate.set()
    statuses = [(await target.ended(task)).status for task in tasks]
    assert statuses == [Status.GOOD] * 2 + [Status.TASK_SET_FULL] * 3


async def test_an_aborted_copy_stops_and_ends(target: CopyTarget) -> None:
    sd1 = target.rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    segments = [BlockToBlock(0, 1, 10, 10 * n, 10 * n) for n in range(64)]
    target.rig.limit("sd1", max_segments=1, concurrent=1)
    task = target.begin(parameters([cscd("alpha"), cscd("vault")], segments[:40]))
    await sd1.arrived.wait()
    responses = target.alice.manage(1, tag=task.tag)
    sd1.gate.set()
    async with asyncio.timeout(20):
        while not responses:  # noqa: ASYNC110  # a callback appends
            await asyncio.sleep(0)
    assert responses == [0]
    (record,) = target.manager.jobs()
    assert record.state is JobState.CANCELLED
    assert len(sd1.received) < 40


async def test_what_is_in_flight_at_the_loss_of_the_nexus_is_finished(
    target: CopyTarget,
) -> None:
    expected = target.rig.content("sd1/0", 0, 16)
    sd1 = target.rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    target.begin(backup())
    await sd1.arrived.wait()
    target.access.nexus_lost(target.alice.nexus)
    sd1.gate.set()
    (record,) = target.manager.jobs()
    async with asyncio.timeout(20):
        assert (await target.manager.wait(record.id)).state is JobState.DONE
    assert target.rig.content("vault/0", 0, 16) == expected


async def test_nothing_more_of_a_copy_is_begun_after_the_loss_of_its_nexus(
    target: CopyTarget,
) -> None:
    """The host comes back and copies again; a late rest of the old copy would write over that."""
    sd1 = target.rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    target.rig.limit("sd1", max_segments=1, max_segment_blocks=4)
    target.begin(backup(64))
    await sd1.arrived.wait()
    target.access.nexus_lost(target.alice.nexus)
    sd1.gate.set()
    (record,) = target.manager.jobs()
    async with asyncio.timeout(20):
        ended = await target.manager.wait(record.id)
    assert ended.state is JobState.CANCELLED
    sent = len(sd1.received)
    assert ended.confirmed_blocks == 4 * sent < 64


# --- what we say of ourselves ---------------------------------------------------------------------


async def test_operating_parameters_and_page_8fh_agree(target: CopyTarget) -> None:
    said = OperatingParameters.parse(receive(target, 0x03).data_in)
    page = ThirdPartyCopyPage.parse(target.alice.run("12 01 8f 04 00 00").data_in)
    assert page.parameter_data is not None
    assert (page.parameter_data.max_cscds, page.parameter_data.max_segments) == (
        said.max_cscds,
        said.max_segments,
    )
    assert page.descriptor_types == tuple(sorted(said.descriptor_types))
    assert page.supports(0x83, 0x00)
    assert page.supports(0x84, 0x00)
    assert said.no_list_id
    assert len(receive(target, 0x03, length=8).data_in) == 8


async def test_local_mode_carries_out_everything_itself(store: SqliteStore) -> None:
    target = await CopyTarget.start(store, mode=Mode.LOCAL)
    expected = target.rig.content("sd1/0", 0, 16)
    assert (await target.send(backup())).status == Status.GOOD
    assert target.rig.content("vault/0", 0, 16) == expected
    assert target.rig.controllers["sd1"].received == []
    await target.stop()


async def test_a_host_copy_that_the_controllers_stop_cuts_off_is_answered_and_interrupted(
    store: SqliteStore,
) -> None:
    target = await CopyTarget.start(store)
    sd1 = target.rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    target.rig.limit("sd1", max_segments=1, concurrent=1)
    segments = [BlockToBlock(0, 1, 10, 10 * n, 10 * n) for n in range(20)]
    task = target.begin(parameters([cscd("alpha"), cscd("vault")], segments))
    await sd1.arrived.wait()
    stopping = asyncio.ensure_future(target.stop())
    await asyncio.sleep(0)
    sd1.gate.set()
    await stopping
    await target.ended(task)
    assert task.condition == (0xA, 0x2F, 0x02)
    (record,) = store.list(JobRecord)
    assert record.state is JobState.INTERRUPTED


async def test_a_copy_of_a_host_costs_no_look_at_all_jobs_that_there_ever_were(
    target: CopyTarget, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_through: list[type[Record]] = []

    def list_(kind: type[Record]) -> tuple[Record, ...]:
        looked_through.append(kind)
        return Store.list(store, kind)

    monkeypatch.setattr(store, "list", list_)
    for _ in range(3):
        assert (await target.send(backup())).status == Status.GOOD
    await target.stop()
    assert JobRecord not in looked_through


async def test_old_host_jobs_are_forgotten(store: SqliteStore) -> None:
    target = await CopyTarget.start(store)
    target.manager.settings = replace(target.manager.settings, host_jobs_kept=5)
    for _ in range(12):
        assert (await target.send(backup())).status == Status.GOOD
    await target.stop()
    kept = [record.id for record in store.list(JobRecord)]
    assert kept[-1] == 12
    assert 5 <= len(kept) <= 6


async def test_a_second_command_of_several_segments_confirms_those_before_the_failed_one(
    target: CopyTarget,
) -> None:
    expected = target.rig.content("sd1/0", 0, 30)
    sd1 = target.rig.controllers["sd1"]

    def fail_at_the_third(_: ExtendedCopy) -> Reply:
        return Reply(Status.CHECK_CONDITION, sense=copy_target_not_reachable(2).fixed())

    sd1.script = fail_at_the_third
    # The first two it claims to have done; the fake did not, so they stay as they were.
    vault = target.rig.content("vault/0", 0, 20)
    segments = [BlockToBlock(0, 1, 10, 10 * n, 10 * n) for n in range(3)]
    task = await target.send(parameters([cscd("alpha"), cscd("vault")], segments))
    assert task.status == Status.GOOD
    assert target.rig.content("vault/0", 0, 20) == vault
    assert target.rig.content("vault/0", 20, 10) == expected[20 * 512 :]
    (record,) = target.manager.jobs()
    assert [(step.executor, step.blocks) for step in record.steps] == [
        ("second controller sd1", 10),
        ("second controller sd1", 10),
        ("second controller sd1", 0),
        ("this controller", 10),
    ]
