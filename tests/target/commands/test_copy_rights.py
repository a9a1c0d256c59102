"""What a host may name in a copy: its own units, and nothing else."""

from __future__ import annotations

import pytest

from copy_target import (
    ALICE,
    CopyTarget,
    change_aliases,
    cscd,
    naa_of,
    parameters,
)
from daiko.mapping.extent import DeviceId
from daiko.scsi.alias import Alias
from daiko.scsi.cscd import AliasCscd, IdentificationCscd, Ipv4Cscd
from daiko.scsi.opcode import Status
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.vpd import Designator
from daiko.state.record import (
    ExtentRecord,
    HostRecord,
    VolumeRecord,
)
from daiko.state.sqlite import SqliteStore
from target.fake import Host


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
    change_aliases(target, Alias(7, "IQN.2026-11.Test:TARGET", "192.0.2.250"))
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
    change_aliases(target, Alias(7, iqn, portal))
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
