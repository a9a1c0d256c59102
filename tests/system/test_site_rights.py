"""The rights of a peer end where the protocol says: it is no host, and a host is no peer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from daiko.backend.second_controller import Outcome, SecondController
from daiko.control import hosts
from daiko.device.error import Unreachable
from daiko.scsi import sbc, site, spc
from daiko.scsi.alias import Alias, pack_change_aliases
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.cscd import AliasCscd, IdentificationCscd
from daiko.scsi.inquiry import StandardInquiry
from daiko.scsi.opcode import DeviceType
from daiko.scsi.report import lun_number, parse_report_luns
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.sense import SenseKey, parse_sense
from daiko.scsi.vpd import Designator
from site_rig import Site, linked

HOST = "iqn.2026-11.com.example:host"
NO_UNIT = (SenseKey.ILLEGAL_REQUEST, 0x25, 0x00)
NO_COMMAND = (SenseKey.ILLEGAL_REQUEST, 0x20, 0x00)
NOT_REACHABLE = (SenseKey.COPY_ABORTED, 0x0D, 0x02)
NOT_AUTHORIZED = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x15)
WRONG_TYPE = (SenseKey.COPY_ABORTED, 0x0D, 0x03)


class Two(NamedTuple):
    """osaka offers alpha to tokyo; a host sees secret as LUN 1, and everybody else nothing."""

    osaka: Site
    peer: SecondController
    """A session of tokyo's first controller that says whatever a test wants."""
    host: SecondController


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    tokyo, osaka = Site(tmp_path, "tokyo"), Site(tmp_path, "osaka")
    await linked(tokyo, osaka)
    for name in ("alpha", "secret"):
        await osaka.volume(name)
    await osaka.system.sites.offer("tokyo", "alpha")
    await hosts.add(osaka.system, "h1", [HOST], luns={1: "secret"})
    sessions = []
    for initiator in (tokyo.initiator, HOST):
        session = SecondController("raw", osaka.iqn, [osaka.portal], initiator)
        await session.open()
        sessions.append(session)
    yield Two(osaka, *sessions)
    for session in sessions:
        await session.close()
    await tokyo.stop()
    await osaka.stop()


def condition(outcome: Outcome) -> tuple[int, int, int]:
    said = parse_sense(outcome.sense)
    return (said.key, said.asc, said.ascq)


async def luns(session: SecondController) -> set[int | None]:
    data = await session.ask(0, spc.ReportLuns.pack(allocation_length=4096), 4096)
    return {lun_number(field) for field in parse_report_luns(data)}


async def test_each_sees_its_own_units_and_no_others(two: Two) -> None:
    assert await luns(two.peer) == {0, 1}
    assert await luns(two.host) == {1}
    at_1 = [
        session.units[1].designators[0].data == two.osaka.system.unit(name).identity.naa
        for session, name in ((two.peer, "alpha"), (two.host, "secret"))
    ]
    assert at_1 == [True, True]


@pytest.mark.parametrize("lun", [2, 7, 16383])
async def test_peer_reaches_no_unit_outside_its_luns(two: Two, lun: int) -> None:
    for cdb, room in (
        (sbc.Read10.pack(lba=0, transfer_length=1), 512),
        (spc.TestUnitReady.pack(), 0),
        (site.Greet.pack(allocation_length=64), 64),
    ):
        assert condition(await two.peer.execute(lun, cdb, read_length=room)) == NO_UNIT
    written = await two.peer.execute(lun, sbc.Write10.pack(transfer_length=1), bytes(512))
    assert condition(written) == NO_UNIT


async def test_host_does_not_reach_the_management_unit(two: Two) -> None:
    inquiry = await two.host.ask(0, spc.Inquiry.pack(allocation_length=96), 96)
    assert StandardInquiry.parse(inquiry).device_type == DeviceType.UNKNOWN
    greet = site.Greet.pack(allocation_length=64)
    assert condition(await two.host.execute(0, greet, read_length=64)) == NO_UNIT
    assert condition(await two.host.execute(1, greet, read_length=64)) == NO_COMMAND


async def test_peer_has_no_disk_at_the_management_unit(two: Two) -> None:
    for cdb in (sbc.Read10.pack(transfer_length=1), sbc.ReadCapacity10.pack()):
        assert condition(await two.peer.execute(0, cdb, read_length=512)) == NO_COMMAND


async def test_site_commands_are_no_commands_of_an_offered_volume(two: Two) -> None:
    greet = site.Greet.pack(allocation_length=64)
    assert condition(await two.peer.execute(1, greet, read_length=64)) == NO_COMMAND


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        pytest.param("secret", NOT_REACHABLE, id="a volume that it is not offered"),
        pytest.param("management unit", WRONG_TYPE, id="the management unit"),
    ],
)
async def test_peer_copies_only_what_it_is_offered(
    two: Two, named: str, expected: tuple[int, int, int]
) -> None:
    secret = two.osaka.system.unit("secret").identity.naa
    data = await two.peer.ask(
        0, spc.Inquiry.pack(evpd=1, page_code=0x80, allocation_length=255), 255
    )
    naa = secret if named == "secret" else bytes.fromhex(bytes(data)[4:].decode())
    alpha = two.osaka.system.unit("alpha").identity.naa
    wanted = ExtendedCopy(
        1,
        0,
        tuple(IdentificationCscd(Designator.naa(each), block_length=512) for each in (naa, alpha)),
        (BlockToBlock(0, 1, 8, 0, 0),),
    ).pack()
    cdb = spc.ExtendedCopyLid1.pack(parameter_list_length=len(wanted))
    assert condition(await two.peer.execute(1, cdb, wanted)) == expected


async def test_stranger_is_not_let_in(two: Two) -> None:
    stranger = SecondController(
        "raw", two.osaka.iqn, [two.osaka.portal], "iqn.2026-11.com.example:stranger"
    )
    with pytest.raises(Unreachable, match="authorization failure"):
        await stranger.open()


async def test_peer_is_no_any_host(two: Two) -> None:
    """What is allowed to every initiator that no host names is not allowed to a peer."""
    system = two.osaka.system
    await hosts.add(system, "any", ["*"], luns={5: "secret"}, remote_copy=["*"])
    assert await luns(two.peer) == {0, 1}
    logins = {each.record.name: each.logins for each in hosts.ls(system)}
    assert logins["any"] == ()
    alias = Alias(7, "iqn.2026-11.com.example:far", "127.0.0.1", 1)
    data = pack_change_aliases([alias])
    cdb = spc.ChangeAliases.pack(parameter_list_length=len(data))
    assert (await two.peer.execute(1, cdb, data)).status == 0
    alpha = IdentificationCscd(Designator.naa(system.unit("alpha").identity.naa))
    wanted = ExtendedCopy(1, 0, (AliasCscd(0, 7), alpha), (BlockToBlock(0, 1, 8, 0, 0),)).pack()
    cdb = spc.ExtendedCopyLid1.pack(parameter_list_length=len(wanted))
    assert condition(await two.peer.execute(1, cdb, wanted)) == NOT_AUTHORIZED
