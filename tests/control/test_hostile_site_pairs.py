"""Pairs over two sites, and a peer that says what it should not: late, of another's pair, or past
the door of the volume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from control.site_pairs import (
    BLOCKS,
    REGION,
    disk,
    do,
    on_disk,
    paired,
    put,
)
from daiko.backend.site_session import LinkState
from daiko.control import copies, pairs, sites
from daiko.control.error import Conflict
from daiko.device.awaitable import read
from daiko.pair.state import Verb
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.cscd import IdentificationCscd
from daiko.scsi.pair_envelopes import (
    Answer,
    Ask,
    Head,
    Join,
    Leave,
    Marks,
    Mixture,
    Request,
    State,
    StateCode,
    Verdict,
)
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.sense import parse_sense
from daiko.scsi.spc import ExtendedCopyLid1
from daiko.scsi.vpd import Designator
from daiko.state.pair_record import PairState
from site_rig import Site, reaches


async def said_to(tokyo: Site, osaka: Site, message: Request) -> Answer:
    return await tokyo.system.peers.exchange("osaka", message)


async def test_late_and_repeated_states_change_nothing(tokyo: Site, osaka: Site) -> None:
    record = (await paired(tokyo)).record
    uuid = bytes.fromhex(record.uuid)

    async def state(sequence: int, code: StateCode) -> Verdict:
        message = State(Head(uuid, 7, sequence), code, Mixture.NONE, False, "")
        return (await said_to(tokyo, osaka, message)).verdict

    assert await state(record.sequence - 1, StateCode.SPLIT) is Verdict.STALE
    assert await state(record.sequence, StateCode.SPLIT) is Verdict.REFUSED
    assert await state(record.sequence, StateCode.PAIRED) is Verdict.ACCEPTED
    assert pairs.show(osaka.system, "p").record.state is PairState.PAIRED
    assert await state(record.sequence + 9, StateCode.SPLIT) is Verdict.ACCEPTED
    await put(osaka, "beta", 0, b"mark" * 128)
    assert await state(record.sequence + 10, StateCode.PAIRED) is Verdict.REFUSED
    assert pairs.show(osaka.system, "p").written_to_secondary == REGION


async def test_nobody_speaks_of_a_pair_that_is_not_his(tokyo: Site, osaka: Site) -> None:
    record = (await paired(tokyo)).record
    other = Head(bytes(15) + b"x", 1, 99)
    mine = Head(bytes.fromhex(record.uuid), 1, 99)
    for message in (
        Ask(other),
        Leave(other),
        Marks(other, 0),
        State(other, StateCode.SPLIT, Mixture.NONE, False, ""),
    ):
        assert (await said_to(tokyo, osaka, message)).verdict is Verdict.UNKNOWN
    # osaka follows: it may ask, and leave, and nothing else.
    for message in (Marks(mine, 0), State(mine, StateCode.SPLIT, Mixture.NONE, False, "")):
        answer = await osaka.system.peers.exchange("tokyo", message)
        assert (answer.verdict, answer.reason) == (Verdict.REFUSED, "this site leads the pair")
    assert (await osaka.system.peers.exchange("tokyo", Ask(mine))).state is StateCode.PAIRED
    answer = await said_to(tokyo, osaka, Marks(mine, 0))
    assert (answer.verdict, answer.reason) == (Verdict.REFUSED, "it is paired, and copies nothing")


async def test_join_is_held_against_what_there_is(tokyo: Site, osaka: Site) -> None:
    naa = {
        name: bytes.fromhex(site.system.unit(name).identity.serial)
        for site, name in ((tokyo, "alpha"), (osaka, "beta"))
    }
    good = Join(
        Head(bytes(range(16)), 1, 1), "p", "", "alpha", "beta", naa["alpha"], naa["beta"],
        BLOCKS, 512, REGION, True,
    )  # fmt: skip
    await disk(osaka, "secret")
    for wrong, words in (
        (replace(good, secondary="secret"), "secret is not offered"),
        (replace(good, secondary="nothing"), "nothing is not offered"),
        (replace(good, secondary_naa=naa["alpha"]), "another volume"),
        (replace(good, blocks=BLOCKS * 2), "8192 blocks"),
        (replace(good, name="../../x"), "cannot be a name"),
        (replace(good, primary="a/b"), "cannot be a name"),
        (replace(good, group="p"), "different names"),
    ):
        answer = await said_to(tokyo, osaka, wrong)
        assert answer.verdict is Verdict.REFUSED
        assert words in answer.reason
    assert pairs.ls(osaka.system) == []
    for _ in range(2):  # Whoever got no status sends it again.
        assert (await said_to(tokyo, osaka, good)).verdict is Verdict.ACCEPTED
    (status,) = pairs.ls(osaka.system)
    assert status.record.state is PairState.COPYING
    answer = await said_to(tokyo, osaka, replace(good, head=Head(bytes(16), 2, 1)))
    assert (answer.verdict, answer.reason) == (
        Verdict.REFUSED,
        "there is a pair or group p already",
    )


async def test_site_that_follows_says_who_leads_and_lets_no_job_write_there(
    tokyo: Site, osaka: Site
) -> None:
    await paired(tokyo)
    with pytest.raises(Conflict, match="site tokyo leads p, and says how fast"):
        await pairs.set_pace(osaka.system, "p", "1MiB/s")
    assert sites.show(osaka.system, "tokyo").pairs == ("p",)
    assert sites.show(tokyo.system, "osaka").pairs == ("p",)
    with pytest.raises(Conflict, match="beta is copied to by pair p, which is paired"):
        copies.request(osaka.system, "delta", "beta")


async def test_another_site_sees_no_volume_of_a_pair_and_cannot_speak_of_it(
    tokyo: Site, osaka: Site, tmp_path: Path
) -> None:
    record = (await paired(tokyo)).record
    nara = Site(tmp_path, "nara")
    try:
        await nara.start()
        await nara.add(osaka)
        await osaka.add(nara)
        await nara.link(osaka).probe()
        assert await nara.link(osaka).volumes() == {}
        mine = Head(bytes.fromhex(record.uuid), 1, record.sequence + 1)
        for message in (
            Ask(mine),
            Leave(mine),
            State(mine, StateCode.SPLIT, Mixture.NONE, True, ""),
        ):
            answer = await nara.system.peers.exchange("osaka", message)
            assert answer.verdict is Verdict.UNKNOWN
        assert pairs.show(osaka.system, "p").record.state is PairState.PAIRED
    finally:
        await nara.stop()


async def test_who_follows_is_told_that_the_leader_knows_the_pair_no_more(
    tokyo: Site, osaka: Site
) -> None:
    await paired(tokyo)
    await osaka.stop()
    await reaches(tokyo.link(osaka), LinkState.DOWN)
    await do(tokyo, Verb.REMOVE)
    await osaka.start()
    await reaches(osaka.link(tokyo), LinkState.UP)
    await osaka.system.site_pairs.compare("tokyo")
    assert any("has no such pair any more" in n for n in pairs.show(osaka.system, "p").notes)
    await do(osaka, Verb.REMOVE)
    await put(osaka, "beta", 0, b"free" * 128)


async def test_peer_cannot_copy_past_the_door(tokyo: Site, osaka: Site) -> None:
    await paired(tokyo)
    await do(tokyo, Verb.SPLIT)
    before = on_disk(osaka, "beta")
    link = tokyo.link(osaka)
    luns = {each.name: each for each in (await link.volumes()).values()}
    for lun in (luns["delta"].lun, luns["beta"].lun):
        await read(await link.device(lun), 0, 1)
    request = ExtendedCopy(
        list_id=1,
        list_id_usage=0,
        cscds=tuple(
            IdentificationCscd(Designator.naa(luns[name].naa)) for name in ("delta", "beta")
        ),
        segments=(BlockToBlock(0, 1, 16, 0, 0),),
    )
    data = request.pack()
    controller = link._session._controller
    answers = [
        await controller.execute(
            luns[name].lun, ExtendedCopyLid1.pack(parameter_list_length=len(data)), data
        )
        for name in ("delta", "beta")
    ]
    by_delta, by_beta = (parse_sense(each.sense) for each in answers)
    assert (by_delta.asc, by_delta.ascq) == (0x0D, 0x02)  # copy target device not reachable
    assert (by_beta.asc, by_beta.ascq) == (0x20, 0x00)  # the unit has no such command
    assert on_disk(osaka, "beta") == before
