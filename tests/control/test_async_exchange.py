"""The exchange of roles of an asynchronous consistency group between two sites: two systems over
real sockets, tokyo leads at first."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from control.async_groups import S, again, drain, equal, group, known, make, reached
from control.site_pairs import QUICK, lose_offers, on_disk, put
from daiko.control import pairs
from daiko.control.error import Conflict, Unavailable
from daiko.device.error import WriteProtected
from daiko.pair.state import Verb
from daiko.state.pair_record import PairRecord
from site_rig import Site

pytestmark = pytest.mark.usefixtures("leaders_are_asked_soon")

JOURNAL = 2 << 20


async def swap(site: Site) -> None:
    await pairs.do(site.system, "g", Verb.SWAP, confirmed=True)


def leads(site: Site) -> bool:
    led = {not each.is_followed for each in site.system.store.list(PairRecord)}
    assert len(led) == 1, "one site leads a group"
    return led.pop()


def follows(site: Site) -> bool:
    return not leads(site)


def journals(site: Site) -> list[Path]:
    return [path for path in site.folder.rglob("journals/*") if path.is_file()]


async def test_swap_brings_up_the_journal_and_the_other_site_makes_one(
    tokyo: Site, osaka: Site
) -> None:
    await make(tokyo, osaka, journal=JOURNAL)
    assert (len(journals(tokyo)), len(journals(osaka))) == (1, 0)
    await group(tokyo).pause()
    await put(tokyo, "alpha", 10, b"1" * 512)
    await put(tokyo, "gamma", 20, b"2" * 512)
    assert not equal(tokyo, osaka)
    group(tokyo).resume()
    await swap(tokyo)
    assert equal(tokyo, osaka)
    assert follows(tokyo)
    assert leads(osaka)
    assert (len(journals(tokyo)), len(journals(osaka))) == (0, 1)
    for volume in ("alpha", "gamma"):
        with pytest.raises(WriteProtected):
            await put(tokyo, volume, 0, bytes(512))
    (status, _) = await reached(osaka, S.PAIRED)
    assert status.journal is not None
    assert status.journal.size == JOURNAL
    assert status.record.primary == "beta"

    await group(osaka).pause()
    await put(osaka, "beta", 30, b"3" * 512)
    assert not equal(tokyo, osaka), "it comes later"
    await known(tokyo)
    note = pairs.show(tokyo.system, "p").notes[1]
    assert note.startswith("alpha is an earlier state of osaka:beta, good as of 20")
    group(osaka).resume()
    await drain(osaka)
    assert equal(tokyo, osaka)
    await swap(osaka)
    await put(tokyo, "gamma", 40, b"4" * 512)
    await drain(tokyo)
    assert equal(tokyo, osaka)


async def test_swap_while_hosts_write_loses_nothing_that_was_acknowledged(
    tokyo: Site, osaka: Site
) -> None:
    await make(tokyo, osaka, journal=64 << 20)
    acknowledged: dict[str, dict[int, bytes]] = {"alpha": {}, "gamma": {}}
    have_begun = asyncio.Barrier(3)

    async def writes(volume: str) -> None:
        with suppress(WriteProtected):
            for number in count():
                at, data = number % 1000, b"%08d" % number * 64
                await put(tokyo, volume, at, data)
                acknowledged[volume][at] = data
                await asyncio.sleep(0)  # a write to a file may end at once
                if number == 100:
                    await have_begun.wait()

    hosts = [asyncio.ensure_future(writes(volume)) for volume in acknowledged]
    await have_begun.wait()
    await swap(tokyo)
    await asyncio.gather(*hosts)
    assert leads(osaka)
    assert equal(tokyo, osaka)
    for volume, written in acknowledged.items():
        found = on_disk(tokyo, volume)
        assert all(found[at * 512 : (at + 1) * 512] == data for at, data in written.items())


async def test_journal_that_cannot_be_brought_up_leaves_the_lead_where_it_is(
    tokyo: Site, osaka: Site
) -> None:
    await make(tokyo, osaka)
    await group(tokyo).pause()
    await put(tokyo, "alpha", 10, b"1" * 512)
    group(tokyo)._settings = replace(QUICK, drain_seconds=0.0)
    with pytest.raises(Conflict) as refused:
        await swap(tokyo)
    assert refused.value.next_step is not None
    assert "did not come to the secondary within 0 s" in refused.value.next_step
    assert leads(tokyo)
    await reached(tokyo, S.PAIRED)
    await drain(tokyo)
    assert equal(tokyo, osaka)


async def test_resync_of_a_swapped_group_copies_what_differs_and_is_paired_at_the_other_site(
    tokyo: Site, osaka: Site
) -> None:
    await make(tokyo, osaka)
    for verb in (Verb.SPLIT, Verb.SWAP):
        await pairs.do(tokyo.system, "g", verb, confirmed=True)
    await put(osaka, "beta", 700, b"5" * 512)
    wanted = on_disk(osaka, "beta")
    await pairs.do(tokyo.system, "g", Verb.RESYNC, confirmed=True)
    await reached(osaka, S.PAIRED)
    assert leads(osaka)
    assert equal(tokyo, osaka)
    assert on_disk(osaka, "beta") == wanted
    await put(osaka, "delta", 1, b"6" * 512)
    await drain(osaka)
    assert equal(tokyo, osaka)


@pytest.mark.parametrize("arrive", [False, True])
async def test_offer_of_a_group_outlives_restarts_and_is_made_again(
    tokyo: Site, osaka: Site, monkeypatch: pytest.MonkeyPatch, arrive: bool
) -> None:
    await make(tokyo, osaka)
    await put(tokyo, "alpha", 10, b"1" * 512)
    with monkeypatch.context() as losing:
        lose_offers(tokyo, losing, arrive=arrive)
        with pytest.raises(Unavailable, match="did not say that it takes it"):
            await swap(tokyo)
    assert leads(osaka) is arrive
    assert follows(tokyo)
    if arrive:
        await put(osaka, "beta", 30, b"3" * 512)
        await osaka.stop()
        await again(osaka, tokyo)
    await tokyo.stop()
    await again(tokyo, osaka)
    await osaka.until(lambda: leads(osaka))
    await tokyo.until(lambda: not any(e.offered_lead for e in tokyo.system.store.list(PairRecord)))
    await reached(osaka, S.PAIRED)
    await drain(osaka)
    assert equal(tokyo, osaka)


async def test_refused_offer_leaves_the_group_paired_with_a_new_journal(
    tokyo: Site, osaka: Site
) -> None:
    """The other site has no place for the journal."""
    await make(tokyo, osaka)
    assert osaka.system.pairs._folder is not None
    in_the_way = osaka.system.pairs._folder / "journals"
    in_the_way.write_bytes(b"")
    with pytest.raises(Conflict) as refused:
        await swap(tokyo)
    assert refused.value.next_step is not None
    assert "site osaka does not take the lead: [Errno" in refused.value.next_step
    assert leads(tokyo)
    assert follows(osaka)
    await reached(tokyo, S.PAIRED)
    await put(tokyo, "gamma", 10, b"1" * 512)
    await drain(tokyo)
    assert equal(tokyo, osaka)
    in_the_way.unlink()
    await swap(tokyo)
    assert leads(osaka)


async def test_lead_that_is_taken_back_is_split_and_a_resync_brings_it_together(
    tokyo: Site, osaka: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(tokyo, osaka)
    with monkeypatch.context() as losing:
        lose_offers(tokyo, losing, arrive=True)
        with pytest.raises(Unavailable):
            await swap(tokyo)
    await group(osaka).pause()
    await put(osaka, "beta", 30, b"3" * 512)
    await osaka.stop()
    await swap(tokyo)
    found = await reached(tokyo, S.SPLIT_BY_ERROR)
    assert "was taken back from site osaka" in found[0].record.reason
    await put(tokyo, "alpha", 700, b"7" * 512)
    wanted = on_disk(tokyo, "alpha")
    await again(osaka, tokyo)
    await osaka.until(lambda: follows(osaka))
    assert {each.taken_over for each in osaka.system.store.list(PairRecord)} == {True}
    for site, other in ((osaka, "tokyo"), (tokyo, "osaka")):
        await site.system.site_pairs.compare(other)
    effects = await pairs.effects(tokyo.system, "g", Verb.RESYNC)
    assert [effect.overwritten for effect in effects] == [2 * 65536, 0]
    await pairs.do(tokyo.system, "g", Verb.RESYNC, confirmed=True)
    await reached(tokyo, S.PAIRED)
    assert equal(tokyo, osaka)
    assert on_disk(tokyo, "alpha") == wanted
    assert journals(osaka) == []
