"""Asynchronous pairs over two sites: two systems that reach one another over real sockets, tokyo
leading a consistency group of two."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control.async_groups import TWO, S, again, drain, equal, group, known, make, reached
from control.site_pairs import QUICK, disk, on_disk, put
from daiko.backend.site_session import LinkState
from daiko.control import pairs
from daiko.control.error import Conflict
from daiko.pair.state import Verb
from daiko.state.pair_record import Update
from site_rig import Site, reaches

pytestmark = pytest.mark.usefixtures("leaders_are_asked_soon")


async def test_writes_come_to_the_other_site_later(tokyo: Site, osaka: Site) -> None:
    await make(tokyo, osaka)
    assert equal(tokyo, osaka)
    await group(tokyo).pause()
    before = on_disk(osaka, "beta")
    for number in range(20):
        await put(tokyo, "alpha", number * 37, b"%04d" % number * 640)
        await put(tokyo, "gamma", number * 37, b"%04d" % number * 640)
    assert on_disk(osaka, "beta") == before
    status = pairs.show(tokyo.system, "p")
    assert status.journal is not None
    assert status.journal.behind_bytes == 40 * 2560
    there = pairs.show(osaka.system, "p")
    assert there.record.update is Update.ASYNC
    assert there.record.group == "g"
    assert there.journal is None
    assert any("earlier state of tokyo:alpha, good as of 20" in note for note in there.notes)
    group(tokyo).resume()
    await drain(tokyo)
    assert equal(tokyo, osaka)


async def test_lost_site_splits_nothing_and_gets_the_journal_when_it_is_back(
    tokyo: Site, osaka: Site
) -> None:
    await make(tokyo, osaka)
    await osaka.stop()
    for number in range(10):
        await put(tokyo, "alpha", number, b"%04d" % number * 128)
        await put(tokyo, "gamma", number, b"%04d" % number * 128)
    assert [status.record.state for status in pairs.ls(tokyo.system)] == [S.PAIRED] * 2
    await again(osaka, tokyo)
    await drain(tokyo)
    assert equal(tokyo, osaka)
    assert [status.record.state for status in pairs.ls(osaka.system)] == [S.PAIRED] * 2


async def test_full_journal_leaves_an_earlier_state_and_comes_back(
    tokyo: Site, osaka: Site
) -> None:
    await make(tokyo, osaka)
    await osaka.stop()
    for number in range(40):
        await put(tokyo, "alpha", number * 64, bytes([number]) * 64 * 512)
    found = await reached(tokyo, S.COPYING)
    assert found[0].record.reason == "the journal is full"
    assert found[0].record.mixture == ""
    await again(osaka, tokyo)
    await reached(tokyo, S.PAIRED)
    await known(osaka)
    assert equal(tokyo, osaka)


async def test_split_and_removal_by_the_name_of_the_group(tokyo: Site, osaka: Site) -> None:
    await make(tokyo, osaka)
    await put(tokyo, "alpha", 10, b"1" * 512)
    await pairs.do(tokyo.system, "g", Verb.SPLIT)
    assert equal(tokyo, osaka)
    found = await reached(osaka, S.SPLIT)
    assert [status.record.term for status in found] == [0, 0]
    await put(osaka, "beta", 20, b"2" * 512)
    await pairs.do(tokyo.system, "g", Verb.RESYNC, confirmed=True)
    await reached(tokyo, S.PAIRED)
    assert equal(tokyo, osaka)
    await group(tokyo).pause()
    await put(tokyo, "alpha", 10, b"3" * 512)
    wanted = on_disk(osaka, "beta")
    group(tokyo)._settings = replace(QUICK, drain_seconds=0.0)
    with pytest.raises(Conflict, match="p is paired: split is refused"):
        await pairs.do(tokyo.system, "g", Verb.SPLIT)
    await group(tokyo).pause()
    await put(tokyo, "alpha", 10, b"4" * 512)
    wanted = on_disk(osaka, "beta")
    await pairs.do(tokyo.system, "g", Verb.SPLIT, at_once=True)
    await reached(osaka, S.SPLIT)
    assert on_disk(osaka, "beta") == wanted != on_disk(tokyo, "alpha")
    await pairs.do(tokyo.system, "g", Verb.REMOVE)
    assert pairs.ls(osaka.system) == []


async def test_site_that_follows_ends_the_group(tokyo: Site, osaka: Site) -> None:
    await make(tokyo, osaka)
    done = await pairs.do(osaka.system, "g", Verb.REMOVE)
    assert done.changed == ("p", "q")
    found = await reached(tokyo, S.SPLIT_BY_ERROR)
    assert {status.record.reason for status in found} == {"site osaka has ended the pair"}
    await put(tokyo, "alpha", 10, b"1" * 512)


async def test_either_controller_is_restarted(tokyo: Site, osaka: Site) -> None:
    await make(tokyo, osaka)
    await group(tokyo).pause()
    await put(tokyo, "alpha", 10, b"1" * 512)
    await tokyo.stop()
    await again(tokyo, osaka)
    await reached(tokyo, S.PAIRED)
    await drain(tokyo)
    assert equal(tokyo, osaka)
    await osaka.stop()
    await again(osaka, tokyo)
    await put(tokyo, "gamma", 10, b"2" * 512)
    await drain(tokyo)
    assert equal(tokyo, osaka)


@pytest.mark.parametrize("verb", [Verb.RESYNC, Verb.RESYNC_REVERSE])
async def test_group_is_taken_over_as_one_and_what_the_journal_had_is_copied(
    tokyo: Site, osaka: Site, verb: Verb
) -> None:
    await make(tokyo, osaka)
    await group(tokyo).pause()
    await put(tokyo, "alpha", 10, b"1" * 512)
    await put(tokyo, "gamma", 700, b"2" * 512)
    with pytest.raises(Conflict, match="site tokyo leads g, and can be reached"):
        await pairs.do(osaka.system, "g", Verb.SWAP, confirmed=True)
    await tokyo.stop()
    await reaches(osaka.link(tokyo), LinkState.DOWN)
    said = "beta is an earlier state of tokyo:alpha, good as of .* delta is an earlier state"
    with pytest.raises(Conflict, match=said):
        await pairs.do(osaka.system, "g", Verb.SWAP)
    with pytest.raises(Conflict, match="taken over as one: name g"):
        await pairs.do(osaka.system, "p", Verb.SWAP, confirmed=True)
    done = await pairs.do(osaka.system, "g", Verb.SWAP, confirmed=True)
    assert done.changed == ("p", "q")
    await put(osaka, "beta", 2000, b"3" * 512)
    await put(osaka, "delta", 2000, b"4" * 512)
    wanted = on_disk(osaka, "beta")
    await again(tokyo, osaka)
    found = await reached(tokyo, S.SPLIT_BY_ERROR)
    assert found[0].record.reason == "site osaka has taken over"
    assert on_disk(osaka, "beta") == wanted
    if verb is Verb.RESYNC:
        wanted = on_disk(tokyo, "alpha")
    effects = await pairs.effects(tokyo.system, "g", verb)
    assert [effect.overwritten for effect in effects] == [2 * 65536] * 2
    await pairs.do(tokyo.system, "g", verb, confirmed=True)
    await reached(tokyo, S.PAIRED)
    assert equal(tokyo, osaka)
    assert on_disk(tokyo, "alpha") == wanted


async def test_older_peer_is_refused_as_the_one_that_follows(
    tokyo: Site, osaka: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daiko.pair.peers.FOLLOWS_ASYNC", (1, 9))
    with pytest.raises(Conflict, match=r"speaks version 1\.2 .* followed from 1\.9 on"):
        await pairs.create(
            tokyo.system, "p", "alpha", "osaka:beta", update=Update.ASYNC, confirmed=True
        )
    assert pairs.ls(osaka.system) == []


async def test_group_belongs_to_one_site_and_its_pairs_are_alike(tokyo: Site, osaka: Site) -> None:
    await pairs.create(
        tokyo.system, *TWO[0][:2], "osaka:beta", group="g", update=Update.ASYNC, confirmed=True
    )
    for name in ("own", "other"):
        await disk(osaka, name)
    with pytest.raises(Conflict, match="site tokyo leads the pairs of group g"):
        await pairs.create(osaka.system, "r", "own", "other", group="g", confirmed=True)
    with pytest.raises(Conflict, match="updated `async`"):
        await pairs.create(tokyo.system, *TWO[1][:2], "osaka:delta", group="g", confirmed=True)
    await pairs.create(osaka.system, "r", "own", "other", group="h", confirmed=True)
    with pytest.raises(Conflict, match="site osaka refuses: this site leads the pairs of group h"):
        await pairs.create(tokyo.system, *TWO[1][:2], "osaka:delta", group="h", confirmed=True)
