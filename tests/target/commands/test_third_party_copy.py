"""EXTENDED COPY and its company as a host sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from copy_rig import Reply
from copy_target import (
    ALICE,
    CopyTarget,
    backup,
    cscd,
    naa_of,
    parameters,
    sense_of,
)
from daiko.command_control.plan import Mode
from daiko.copy_manager.backup import restore_request
from daiko.device.error import Busy, MediumFailure, Unreachable
from daiko.device.layer.fault import Operation
from daiko.mapping.extent import DeviceId
from daiko.scsi.alias import Alias, pack_change_aliases, parse_report_aliases
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.copy_results import CopyState, CopyStatus, FailureDetails, OperatingParameters
from daiko.scsi.cscd import AliasCscd, IdentificationCscd, Ipv4Cscd
from daiko.scsi.opcode import Status
from daiko.scsi.segment import BlockToBlock, VerifyCscd
from daiko.scsi.sense import (
    ForwardedSense,
    copy_target_not_reachable,
    lba_out_of_range,
    medium_error,
)
from daiko.scsi.third_party_page import ThirdPartyCopyPage
from daiko.scsi.vpd import Designator
from daiko.state.record import (
    ExtentRecord,
    HostRecord,
    JobRecord,
    JobState,
    Record,
    VolumeRecord,
)
from daiko.state.sqlite import SqliteStore
from daiko.state.store import Store
from daiko.target.commands.alias_list import MAXIMUM_ALIASES
from daiko.target.mode_settings import CONTROL
from target.fake import FakeTask, Host

FAR = "192.0.2.7:3260"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(tmp_path / "store")
    yield store
    await store.close()


@pytest.fixture
async def target(store: SqliteStore) -> AsyncIterator[CopyTarget]:
    target = await CopyTarget.start(store, remote_copy=(FAR,))
    yield target
    await target.stop()


def _receive(target: CopyTarget, action: int, list_id: int = 0, length: int = 4096) -> FakeTask:
    cdb = bytes((0x84, action, list_id)) + bytes(7) + length.to_bytes(4, "big") + bytes(2)
    return target.alice.start(cdb)


def _change_aliases(target: CopyTarget, *aliases: Alias) -> FakeTask:
    data = pack_change_aliases(aliases)
    cdb = bytes((0xA4, 0x0B, 0, 0, 0, 0)) + len(data).to_bytes(4, "big") + bytes(2)
    return target.alice.start(cdb, data)


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


# --- list identifiers -----------------------------------------------------------------------------


async def test_status_of_a_running_and_of_an_ended_copy(target: CopyTarget) -> None:
    sd1 = target.rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    list_ = parameters(
        [cscd("alpha"), cscd("vault")], [BlockToBlock(0, 1, 16, 0, 0)], list_id=9, usage=0
    )
    task = target.begin(list_)
    await sd1.arrived.wait()
    running = CopyStatus.parse(_receive(target, 0x00, 9).data_in)
    assert running == CopyStatus(CopyState.IN_PROGRESS, 0, 0)
    sd1.gate.set()
    await target.ended(task)
    done = CopyStatus.parse(_receive(target, 0x00, 9).data_in)
    assert done == CopyStatus(CopyState.COMPLETED, 1, 16 * 512)
    assert _receive(target, 0x00, 9).condition == (0x5, 0x24, 0x00), "fetched: it is gone"


async def test_an_identifier_in_use_is_refused_until_its_copy_has_ended(
    target: CopyTarget,
) -> None:
    sd1 = target.rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    list_ = parameters(
        [cscd("alpha"), cscd("vault")], [BlockToBlock(0, 1, 16, 0, 0)], list_id=9, usage=0b10
    )
    first = target.begin(list_)
    await sd1.arrived.wait()
    assert (await target.send(list_)).condition == (0x5, 0x00, 0x16)
    sd1.gate.set()
    assert (await target.ended(first)).status == Status.GOOD
    assert (await target.send(list_)).status == Status.GOOD


async def test_identifiers_of_two_hosts_are_two(target: CopyTarget) -> None:
    sd1 = target.rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    first = target.begin(
        parameters(
            [cscd("alpha"), cscd("vault")], [BlockToBlock(0, 1, 16, 0, 0)], list_id=9, usage=0
        )
    )
    await sd1.arrived.wait()
    other = parameters([cscd("secret")], [BlockToBlock(0, 0, 4, 0, 8)], list_id=9, usage=0)
    assert (await target.send(other, host=target.bob)).status == Status.GOOD
    sd1.gate.set()
    assert (await target.ended(first)).status == Status.GOOD


async def test_many_hosts_with_one_identifier_share_the_back_ends_few_sessions(
    target: CopyTarget,
) -> None:
    """100 hosts use identifier 1 at once; towards the back end each copy has one of its own."""
    target.rig.limit("sd1", no_list_id=False, concurrent=8)
    target.manager.settings = replace(target.manager.settings, running_host_jobs=100)
    sd1 = target.rig.controllers["sd1"]
    in_use: list[int] = []
    execute = sd1.execute

    async def watched(
        lun: int, cdb: bytes, data: bytes = b"", *rest: object, **named: object
    ) -> Reply:
        if cdb[0] != 0x83:
            return await execute(lun, cdb, data, *rest, **named)  # type: ignore[arg-type]
        list_id = data[0]
        assert list_id not in in_use
        assert list_id
        in_use.append(list_id)
        try:
            return await execute(lun, cdb, data, *rest, **named)  # type: ignore[arg-type]
        finally:
            in_use.remove(list_id)

    sd1.execute = watched  # type: ignore[method-assign]
    list_ = parameters(
        [cscd("alpha"), cscd("vault")], [BlockToBlock(0, 1, 4, 0, 0)], list_id=1, usage=0
    )
    hosts = [Host(target.access, ALICE, isid=100 + number) for number in range(100)]
    tasks = [target.begin(list_, host=host) for host in hosts]
    assert [(await target.ended(task)).status for task in tasks] == [Status.GOOD] * 100
    assert len(sd1.received) == 100


async def test_the_details_of_a_failed_copy_are_kept_until_they_are_fetched(
    target: CopyTarget,
) -> None:
    target.rig.disks[DeviceId("sd2", 0)].fail(error=lambda: MediumFailure("bad", writing=False))
    list_ = parameters(
        [cscd("alpha"), cscd("vault")], [BlockToBlock(0, 1, 8, 600, 0)], list_id=5, usage=0
    )
    task = await target.send(list_)
    status = CopyStatus.parse(_receive(target, 0x00, 5).data_in)
    assert status == CopyStatus(CopyState.COMPLETED_WITH_ERRORS, 0, 0)
    cut = _receive(target, 0x04, 5, length=20)
    assert len(cut.data_in) == 20
    details = FailureDetails.parse(_receive(target, 0x04, 5).data_in)
    assert details is not None
    assert details.status == Status.CHECK_CONDITION
    assert details.sense == task.sense_bytes
    assert _receive(target, 0x04, 5).condition == (0x5, 0x24, 0x00)


async def test_a_refused_list_leaves_no_result(target: CopyTarget) -> None:
    list_ = parameters(
        [cscd("alpha", block_length=520)], [BlockToBlock(0, 0, 8, 0, 100)], list_id=5, usage=0
    )
    assert (await target.send(list_)).condition == (0x5, 0x26, 0x00)
    assert _receive(target, 0x00, 5).condition == (0x5, 0x24, 0x00)


async def test_the_loss_of_the_nexus_drops_results_and_aliases(target: CopyTarget) -> None:
    list_ = parameters([cscd("alpha")], [BlockToBlock(0, 0, 8, 0, 100)], list_id=5, usage=0)
    await target.send(list_)
    assert _change_aliases(target, Alias(1, "iqn.2026-01.test:far")).status == Status.GOOD
    target.access.nexus_lost(target.alice.nexus)
    target.access.nexus_started(target.alice.nexus)
    for itl in target.alice.nexus.units.values():
        itl.attentions.clear()
    assert _receive(target, 0x00, 5).condition == (0x5, 0x24, 0x00)
    assert target.commands.aliases.aliases(target.alice.nexus) == ()


# --- what we say of ourselves ---------------------------------------------------------------------


async def test_operating_parameters_and_page_8fh_agree(target: CopyTarget) -> None:
    said = OperatingParameters.parse(_receive(target, 0x03).data_in)
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
    assert len(_receive(target, 0x03, length=8).data_in) == 8


# --- aliases and other machines -------------------------------------------------------------------


async def test_aliases_are_set_reported_and_deleted(target: CopyTarget) -> None:
    aliases = (Alias(7, "iqn.2026-01.test:far", "192.0.2.7"), Alias(8, "iqn.x:other"))
    assert _change_aliases(target, *aliases).status == Status.GOOD
    assert _change_aliases(target, Alias(8, "")).status == Status.GOOD
    report = target.alice.run("a3 0b 00 00 00 00 00 00 10 00 00 00")
    assert parse_report_aliases(report.data_in) == aliases[:1]
    assert target.commands.aliases.aliases(target.bob.nexus) == ()


async def test_more_aliases_than_there_is_room_for_change_nothing(target: CopyTarget) -> None:
    assert _change_aliases(target, Alias(1, "iqn.x:one")).status == Status.GOOD
    many = [Alias(number, "iqn.x:many") for number in range(2, MAXIMUM_ALIASES + 2)]
    assert _change_aliases(target, *many).condition == (0x5, 0x55, 0x03)
    assert target.commands.aliases.aliases(target.alice.nexus) == (Alias(1, "iqn.x:one"),)
    assert _change_aliases(target, *many[1:]).status == Status.GOOD


async def test_an_alias_in_use_cannot_be_changed(target: CopyTarget) -> None:
    _change_aliases(target, Alias(7, "iqn.2026-01.test:far", "192.0.2.7"))
    gate = asyncio.Event()
    sd1 = target.rig.controllers["sd1"]
    sd1.gate = gate
    cscds = [cscd("alpha"), cscd("vault"), AliasCscd(0, 7)]
    segments = [BlockToBlock(0, 1, 16, 0, 0), BlockToBlock(0, 2, 16, 0, 0)]
    task = target.begin(parameters(cscds, segments))
    await sd1.arrived.wait()
    assert _change_aliases(target, Alias(7, "")).condition == (0x5, 0x00, 0x16)
    gate.set()
    assert (await target.ended(task)).status == Status.GOOD
    assert _change_aliases(target, Alias(7, "")).status == Status.GOOD


@pytest.mark.parametrize(
    "named",
    [
        pytest.param(AliasCscd(0, 7), id="alias"),
        pytest.param(Ipv4Cscd(0, bytes((192, 0, 2, 7))), id="ipv4"),
    ],
)
async def test_a_unit_on_another_machine_is_copied_to_by_this_controller(
    target: CopyTarget, named: AliasCscd | Ipv4Cscd
) -> None:
    expected = target.rig.content("sd1/0", 0, 16)
    _change_aliases(target, Alias(7, "iqn.2026-01.test:far", "192.0.2.7"))
    task = await target.send(parameters([cscd("alpha"), named], [BlockToBlock(0, 1, 16, 0, 3)]))
    assert task.status == Status.GOOD
    assert target.rig.content("far/0", 3, 16) == expected
    assert len(target.connections.opened) == 1
    await target.send(parameters([cscd("alpha"), named], [BlockToBlock(0, 1, 16, 0, 3)]))
    assert len(target.connections.opened) == 1, "the session is used again"


async def test_sessions_to_other_machines_end_with_the_controller(target: CopyTarget) -> None:
    await target.send(
        parameters(
            [cscd("alpha"), Ipv4Cscd(0, bytes((192, 0, 2, 7)))], [BlockToBlock(0, 1, 16, 0, 3)]
        )
    )
    (session,) = target.connections.opened
    assert session.is_open
    await target.stop()
    assert not session.is_open


async def test_an_alias_of_this_target_means_the_hosts_own_unit(target: CopyTarget) -> None:
    expected = target.rig.content("sd1/0", 0, 16)
    _change_aliases(target, Alias(7, "iqn.2026-11.test:target", "192.0.2.9"))
    task = await target.send(
        parameters([cscd("alpha"), AliasCscd(1 << 48, 7)], [BlockToBlock(0, 1, 16, 0, 3)])
    )
    assert task.status == Status.GOOD
    assert target.rig.content("vault/0", 3, 16) == expected
    assert target.connections.opened == []


async def test_this_target_at_another_address_of_its_own_means_the_hosts_own_unit(
    target: CopyTarget,
) -> None:
    """Else a host could reach, through a session of ours to ourselves, what others are given."""
    target.connections.targets = {FAR: ("iqn.2026-11.test:target",)}
    expected = target.rig.content("sd1/0", 0, 16)
    address = bytes((192, 0, 2, 7))
    for lun, condition in ((1, None), (9, (0xA, 0x0D, 0x02))):
        task = await target.send(
            parameters(
                [cscd("alpha"), Ipv4Cscd(lun << 48, address)], [BlockToBlock(0, 1, 16, 0, 3)]
            )
        )
        assert task.condition == condition
    assert target.rig.content("vault/0", 3, 16) == expected
    assert target.connections.opened == []


# --- rights ---------------------------------------------------------------------------------------


async def test_a_unit_of_another_host_answers_exactly_as_one_that_does_not_exist(
    target: CopyTarget,
) -> None:
    """The attack of CVE-2020-28374: naming by its NAA a unit that is not mapped to the host."""
    before = target.contents()
    answers = []
    for name in ("secret", "absent"):
        for source, destination in ((1, 0), (0, 1), (1, 1)):
            for data in (
                Designator.naa(naa_of(name)),
                Designator(2, 0, 1, f"DAIKO   {name}".encode()),
            ):
                list_ = parameters(
                    [cscd("alpha"), IdentificationCscd(data)],
                    [BlockToBlock(source, destination, 8, 0, 500)],
                )
                task = await target.send(list_)
                answers.append((source, task.status, task.sense_bytes))
    exists, absent = answers[: len(answers) // 2], answers[len(answers) // 2 :]
    assert exists == absent
    assert {status for _, status, _ in answers} == {Status.CHECK_CONDITION}
    assert target.contents() == before
    assert target.manager.jobs() == ()
    assert target.rig.controllers["sd1"].received == []


async def test_the_owner_of_that_unit_may_name_it(target: CopyTarget) -> None:
    task = await target.send(
        parameters([cscd("secret")], [BlockToBlock(0, 0, 8, 0, 100)]), host=target.bob
    )
    assert task.status == Status.GOOD


async def test_a_real_unit_of_a_back_end_cannot_be_named_by_its_own_designator(
    target: CopyTarget,
) -> None:
    """The back end's LU exists and belongs to us, but no host was given it."""
    (naa,) = [naa for naa, device in target.rig.by_naa.items() if device == DeviceId("sd1", 0)]
    list_ = parameters(
        [cscd("alpha"), IdentificationCscd(Designator.naa(naa))], [BlockToBlock(1, 0, 8, 0, 0)]
    )
    assert (await target.send(list_)).condition == (0xA, 0x0D, 0x02)


async def test_this_target_is_this_target_however_its_name_is_spelled(store: SqliteStore) -> None:
    """Else our own session to ourselves would see what its initiator name is given."""
    target = await CopyTarget.start(store, remote_copy=("*",))
    _change_aliases(target, Alias(7, "IQN.2026-11.Test:TARGET", "192.0.2.250"))
    task = await target.send(
        parameters([cscd("alpha"), AliasCscd(9 << 48, 7)], [BlockToBlock(1, 0, 1, 0, 3)])
    )
    assert task.condition == (0xA, 0x0D, 0x02)
    assert target.connections.opened == []
    await target.stop()


@pytest.mark.parametrize(
    ("iqn", "portal"),
    [
        pytest.param("iqn.2026-01.test:sd2", "", id="by name"),
        pytest.param("iqn.2026-01.test:sd2", "192.0.2.1", id="at its portal"),
        pytest.param("iqn.2026-01.test:sd2", "192.0.2.77", id="at another address"),
        pytest.param("IQN.2026-01.TEST:sd2", "192.0.2.1", id="spelled otherwise"),
    ],
)
async def test_a_real_unit_that_volumes_lie_on_is_not_to_be_had_by_address(
    store: SqliteStore, iqn: str, portal: str
) -> None:
    """Whoever may name any other machine may still not read or write what is given to others."""
    target = await CopyTarget.start(store, remote_copy=("*",))
    assert target.rig.iqns["sd2"] == iqn.lower()
    extent = ExtentRecord(device="sd2/0", lba=500, blocks=500)
    await store.put(
        VolumeRecord(name="secret", block_size=512, extents=(extent,), naa=naa_of("secret").hex())
    )
    before = target.contents()
    _change_aliases(target, Alias(7, iqn, portal))
    for source, destination in ((1, 0), (0, 1)):
        task = await target.send(
            parameters(
                [cscd("alpha"), AliasCscd(0, 7)], [BlockToBlock(source, destination, 8, 500, 500)]
            )
        )
        assert task.condition == (0x5, 0x26, 0x15)
    assert target.contents() == before
    assert target.connections.opened == []
    await target.stop()


async def test_a_hosts_rights_are_its_own_however_it_spells_its_name(store: SqliteStore) -> None:
    target = await CopyTarget.start(store)
    await store.put(HostRecord(name="rest", initiators=("*",), remote_copy=("*",)))
    task = await target.send(
        parameters(
            [cscd("alpha"), Ipv4Cscd(0, bytes((192, 0, 2, 7)))], [BlockToBlock(0, 1, 16, 0, 3)]
        ),
        host=Host(target.access, ALICE.upper(), isid=9),
    )
    assert task.condition == (0x5, 0x26, 0x15)
    assert target.connections.asked == []
    await target.stop()


async def test_a_host_without_the_right_cannot_name_other_machines(store: SqliteStore) -> None:
    target = await CopyTarget.start(store)
    task = await target.send(
        parameters(
            [cscd("alpha"), Ipv4Cscd(0, bytes((192, 0, 2, 7)))], [BlockToBlock(0, 1, 16, 0, 3)]
        )
    )
    assert task.condition == (0x5, 0x26, 0x15)
    assert target.connections.opened == []
    assert target.connections.asked == [], "not even asked what is there"
    await target.stop()


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
