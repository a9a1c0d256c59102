"""What a host can ask of its copies by their list identifiers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from copy_rig import Reply
from copy_target import (
    ALICE,
    CopyTarget,
    change_aliases,
    cscd,
    parameters,
    receive,
)
from daiko.device.error import MediumFailure
from daiko.mapping.extent import DeviceId
from daiko.scsi.alias import Alias
from daiko.scsi.copy_results import CopyState, CopyStatus, FailureDetails
from daiko.scsi.opcode import Status
from daiko.scsi.segment import BlockToBlock
from target.fake import Host


async def test_status_of_a_running_and_of_an_ended_copy(target: CopyTarget) -> None:
    sd1 = target.rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    list_ = parameters(
        [cscd("alpha"), cscd("vault")], [BlockToBlock(0, 1, 16, 0, 0)], list_id=9, usage=0
    )
    task = target.begin(list_)
    await sd1.arrived.wait()
    running = CopyStatus.parse(receive(target, 0x00, 9).data_in)
    assert running == CopyStatus(CopyState.IN_PROGRESS, 0, 0)
    sd1.gate.set()
    await target.ended(task)
    done = CopyStatus.parse(receive(target, 0x00, 9).data_in)
    assert done == CopyStatus(CopyState.COMPLETED, 1, 16 * 512)
    assert receive(target, 0x00, 9).condition == (0x5, 0x24, 0x00), "fetched: it is gone"


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
    status = CopyStatus.parse(receive(target, 0x00, 5).data_in)
    assert status == CopyStatus(CopyState.COMPLETED_WITH_ERRORS, 0, 0)
    cut = receive(target, 0x04, 5, length=20)
    assert len(cut.data_in) == 20
    details = FailureDetails.parse(receive(target, 0x04, 5).data_in)
    assert details is not None
    assert details.status == Status.CHECK_CONDITION
    assert details.sense == task.sense_bytes
    assert receive(target, 0x04, 5).condition == (0x5, 0x24, 0x00)


async def test_a_refused_list_leaves_no_result(target: CopyTarget) -> None:
    list_ = parameters(
        [cscd("alpha", block_length=520)], [BlockToBlock(0, 0, 8, 0, 100)], list_id=5, usage=0
    )
    assert (await target.send(list_)).condition == (0x5, 0x26, 0x00)
    assert receive(target, 0x00, 5).condition == (0x5, 0x24, 0x00)


async def test_the_loss_of_the_nexus_drops_results_and_aliases(target: CopyTarget) -> None:
    list_ = parameters([cscd("alpha")], [BlockToBlock(0, 0, 8, 0, 100)], list_id=5, usage=0)
    await target.send(list_)
    assert change_aliases(target, Alias(1, "iqn.2026-01.test:far")).status == Status.GOOD
    target.access.nexus_lost(target.alice.nexus)
    target.access.nexus_started(target.alice.nexus)
    for itl in target.alice.nexus.units.values():
        itl.attentions.clear()
    assert receive(target, 0x00, 5).condition == (0x5, 0x24, 0x00)
    assert target.commands.aliases.aliases(target.alice.nexus) == ()
