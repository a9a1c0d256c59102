"""Aliases, and copies to units on other machines."""

from __future__ import annotations

import asyncio

import pytest

from copy_target import (
    FAR,
    CopyTarget,
    change_aliases,
    cscd,
    parameters,
)
from daiko.scsi.alias import Alias, parse_report_aliases
from daiko.scsi.cscd import AliasCscd, Ipv4Cscd
from daiko.scsi.opcode import Status
from daiko.scsi.segment import BlockToBlock
from daiko.target.commands.alias_list import MAXIMUM_ALIASES


async def test_aliases_are_set_reported_and_deleted(target: CopyTarget) -> None:
    aliases = (Alias(7, "iqn.2026-01.test:far", "192.0.2.7"), Alias(8, "iqn.x:other"))
    assert change_aliases(target, *aliases).status == Status.GOOD
    assert change_aliases(target, Alias(8, "")).status == Status.GOOD
    report = target.alice.run("a3 0b 00 00 00 00 00 00 10 00 00 00")
    assert parse_report_aliases(report.data_in) == aliases[:1]
    assert target.commands.aliases.aliases(target.bob.nexus) == ()


async def test_more_aliases_than_there_is_room_for_change_nothing(target: CopyTarget) -> None:
    assert change_aliases(target, Alias(1, "iqn.x:one")).status == Status.GOOD
    many = [Alias(number, "iqn.x:many") for number in range(2, MAXIMUM_ALIASES + 2)]
    assert change_aliases(target, *many).condition == (0x5, 0x55, 0x03)
    assert target.commands.aliases.aliases(target.alice.nexus) == (Alias(1, "iqn.x:one"),)
    assert change_aliases(target, *many[1:]).status == Status.GOOD


async def test_an_alias_in_use_cannot_be_changed(target: CopyTarget) -> None:
    change_aliases(target, Alias(7, "iqn.2026-01.test:far", "192.0.2.7"))
    gate = asyncio.Event()
    sd1 = target.rig.controllers["sd1"]
    sd1.gate = gate
    cscds = [cscd("alpha"), cscd("vault"), AliasCscd(0, 7)]
    segments = [BlockToBlock(0, 1, 16, 0, 0), BlockToBlock(0, 2, 16, 0, 0)]
    task = target.begin(parameters(cscds, segments))
    await sd1.arrived.wait()
    assert change_aliases(target, Alias(7, "")).condition == (0x5, 0x00, 0x16)
    gate.set()
    assert (await target.ended(task)).status == Status.GOOD
    assert change_aliases(target, Alias(7, "")).status == Status.GOOD


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
    change_aliases(target, Alias(7, "iqn.2026-01.test:far", "192.0.2.7"))
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
    change_aliases(target, Alias(7, "iqn.2026-11.test:target", "192.0.2.9"))
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
