"""The exchange of roles between two sites: two systems over real sockets, tokyo leads at first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from control.site_pairs import REGION, do, lose_offers, on_disk, paired, put, quick, reached
from daiko.backend.site_session import LinkState
from daiko.control import pairs, sites
from daiko.control.error import Conflict, Unavailable
from daiko.device.error import WriteProtected
from daiko.pair.error import VerbRefused
from daiko.pair.exchange import leads_later, next_lead
from daiko.pair.state import Verb
from daiko.scsi.pair_envelopes import (
    Exchange,
    Exchanged,
    Head,
    StateCode,
    Verdict,
)
from daiko.state.pair_record import Fence, PairRecord, PairState
from daiko.state.sqlite import SqliteStore
from daiko.state.store import StoreError
from site_rig import Site, reaches


def led_at(site: Site, name: str = "p") -> bool:
    return not pairs.show(site.system, name).record.is_followed


def kept(site: Site) -> PairRecord:
    """The record of p in the store."""
    record = site.system.store.get(PairRecord, "p")
    assert record is not None
    return record


def same(tokyo: Site, osaka: Site) -> bool:
    return on_disk(tokyo, "alpha") == on_disk(osaka, "beta")


# --- without faults


async def test_swap_of_a_paired_pair_lets_the_other_site_lead(tokyo: Site, osaka: Site) -> None:
    await paired(tokyo, fence=Fence.DATA, pace="7MiB/s")
    await put(tokyo, "alpha", 3, b"t" * 512)
    done = await pairs.do(tokyo.system, "p", Verb.SWAP)
    assert done.changed == ("p",)
    (status,) = done.pairs
    assert (status.record.primary, status.record.secondary) == ("osaka:beta", "alpha")
    assert status.record.is_followed
    assert not status.record.offered_lead
    there = pairs.show(osaka.system, "p").record
    assert (there.primary, there.secondary) == ("beta", "tokyo:alpha")
    assert (there.state, there.fence, there.pace) == (PairState.PAIRED, Fence.DATA, "7MiB/s")
    with pytest.raises(WriteProtected):
        await put(tokyo, "alpha", 0, bytes(512))
    await put(osaka, "beta", 5, b"o" * 1024)
    assert on_disk(tokyo, "alpha")[5 * 512 : 7 * 512] == b"o" * 1024
    assert same(tokyo, osaka)
    assert "alpha" in sites.show(tokyo.system, "osaka").record.offered.values()
    with pytest.raises(Conflict, match="site osaka leads p"):
        await do(tokyo, Verb.SPLIT)


async def test_roles_go_back_and_forth_and_verbs_go_at_whoever_leads(
    tokyo: Site, osaka: Site
) -> None:
    await paired(tokyo)
    for turn, (leader, other, volume) in enumerate(
        ((tokyo, osaka, "beta"), (osaka, tokyo, "alpha"), (tokyo, osaka, "beta"))
    ):
        await do(leader, Verb.SWAP)
        assert led_at(other)
        assert not led_at(leader)
        await put(other, volume, 10 * turn, bytes([turn]) * 512)
        assert same(tokyo, osaka)
    await do(osaka, Verb.SPLIT)
    await put(osaka, "beta", 100, b"b" * 512)
    await put(tokyo, "alpha", 2000, b"a" * 512)
    (effect,) = await pairs.effects(osaka.system, "p", Verb.RESYNC)
    assert (effect.volume, effect.overwritten, effect.discarded) == (
        "tokyo:alpha",
        2 * REGION,
        REGION,
    )
    await do(osaka, Verb.RESYNC)
    await reached(osaka, PairState.PAIRED)
    assert same(tokyo, osaka)
    await do(osaka, Verb.REMOVE)
    assert (pairs.ls(tokyo.system), pairs.ls(osaka.system)) == ([], [])
    for site in (tokyo, osaka):
        assert list((site.folder / "bitmaps").iterdir()) == []


async def test_resync_of_a_swapped_pair_keeps_what_hosts_wrote_there(
    tokyo: Site, osaka: Site
) -> None:
    await paired(tokyo)
    await do(tokyo, Verb.SPLIT)
    await put(tokyo, "alpha", 1000, b"a" * 512)
    await do(tokyo, Verb.SWAP)
    await put(osaka, "beta", 7, b"s" * 512)
    wanted = on_disk(osaka, "beta")
    (effect,) = await pairs.effects(tokyo.system, "p", Verb.RESYNC)
    assert (effect.volume, effect.overwritten, effect.discarded) == ("alpha", 2 * REGION, REGION)
    with pytest.raises(Conflict, match="131,072 bytes of alpha would be overwritten"):
        await do(tokyo, Verb.RESYNC, confirmed=False)
    await do(tokyo, Verb.RESYNC)
    await reached(osaka, PairState.PAIRED)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta") == wanted
    await reached(tokyo, PairState.PAIRED)
    await put(osaka, "beta", 0, b"x" * 512)
    assert same(tokyo, osaka)


async def test_group_exchanges_its_roles_as_one(tokyo: Site, osaka: Site) -> None:
    await paired(tokyo, "p", group="g")
    await pairs.create(tokyo.system, "q", "gamma", "osaka:delta", group="g", confirmed=True)
    await reached(tokyo, PairState.PAIRED, "q")
    await do(tokyo, Verb.SWAP, "g")
    assert led_at(osaka, "p")
    assert led_at(osaka, "q")
    await do(osaka, Verb.SPLIT, "g")
    assert {status.record.state for status in pairs.ls(osaka.system)} == {PairState.SPLIT}
    await do(osaka, Verb.RESYNC, "p")
    await reached(osaka, PairState.PAIRED)
    for name in ("p", "g"):
        with pytest.raises(Conflict, match="swap is refused"):
            await do(osaka, Verb.SWAP, name)
    assert led_at(osaka, "p")
    assert (await pairs.wait(osaka.system, "p", [PairState.PAIRED], 30))[0].differs == 0


async def test_older_software_at_the_other_site_is_asked_for_no_exchange(
    tokyo: Site, osaka: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await paired(tokyo)
    monkeypatch.setattr(type(tokyo.link(osaka)), "version", (1, 1))
    with pytest.raises(Conflict, match="is older, and exchanges no roles"):
        await do(tokyo, Verb.SWAP)
    assert led_at(tokyo)


# --- restarts


async def test_who_leads_and_who_follows_is_known_after_restarts(tokyo: Site, osaka: Site) -> None:
    await paired(tokyo)
    await do(tokyo, Verb.SWAP)
    for site in (tokyo, osaka):
        await site.stop()
    for site in (tokyo, osaka):
        await site.start()
        quick(site)
    await tokyo.link(osaka).probe()
    await osaka.link(tokyo).probe()
    await reaches(osaka.link(tokyo), LinkState.UP)
    await reached(osaka, PairState.PAIRED)
    await put(osaka, "beta", 8, b"r" * 512)
    assert same(tokyo, osaka)
    assert led_at(osaka)
    assert not led_at(tokyo)


# --- the offer, or its answer, is lost


async def offered(tokyo: Site, monkeypatch: pytest.MonkeyPatch, *, arrive: bool) -> None:
    """tokyo has offered the lead, and knows of no answer."""
    await paired(tokyo)
    with monkeypatch.context() as losing:
        lose_offers(tokyo, losing, arrive=arrive)
        with pytest.raises(Unavailable, match="did not say that it takes it: the link went down"):
            await do(tokyo, Verb.SWAP)
    status = pairs.show(tokyo.system, "p")
    assert status.record.offered_lead
    assert "nobody leads this pair" in status.notes[0]
    assert not led_at(tokyo)


@pytest.mark.parametrize("arrive", [False, True])
async def test_offer_is_made_again_when_the_link_is_there(
    tokyo: Site, osaka: Site, monkeypatch: pytest.MonkeyPatch, arrive: bool
) -> None:
    await offered(tokyo, monkeypatch, arrive=arrive)
    assert led_at(osaka) is arrive
    with pytest.raises(WriteProtected):
        await put(tokyo, "alpha", 0, bytes(512))
    await tokyo.system.site_pairs.compare("osaka")
    assert led_at(osaka)
    assert not pairs.show(tokyo.system, "p").record.offered_lead
    await put(osaka, "beta", 5, b"o" * 512)
    assert same(tokyo, osaka)


async def test_offer_outlives_a_restart_of_who_made_it(
    tokyo: Site, osaka: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await offered(tokyo, monkeypatch, arrive=False)
    await tokyo.stop()
    await tokyo.start()
    quick(tokyo)
    await osaka.until(lambda: not kept(osaka).is_followed)
    await tokyo.until(lambda: not kept(tokyo).offered_lead)
    await reached(osaka, PairState.PAIRED)


async def test_offer_that_is_refused_is_taken_back(
    tokyo: Site, osaka: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here by a store that cannot be written."""
    await paired(tokyo)
    with monkeypatch.context() as failing:
        failing.setattr(osaka.system.store, "transaction", no_transaction)
        with pytest.raises(Conflict) as refused:
            await do(tokyo, Verb.SWAP)
    assert refused.value.next_step == "site osaka does not take the lead: the disk is full"
    assert led_at(tokyo)
    assert not led_at(osaka)
    await reached(tokyo, PairState.PAIRED)
    await put(tokyo, "alpha", 5, b"t" * 512)
    assert same(tokyo, osaka)
    await do(tokyo, Verb.SWAP)
    assert led_at(osaka)


def no_transaction() -> Any:
    raise StoreError("the disk is full")


async def test_store_that_fails_leaves_the_lead_where_it_was(
    tokyo: Site, osaka: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await paired(tokyo)
    with monkeypatch.context() as failing:
        failing.setattr(tokyo.system.store, "transaction", no_transaction)
        with pytest.raises(StoreError, match="the disk is full"):
            await do(tokyo, Verb.SWAP)
    await put(tokyo, "alpha", 5, b"t" * 512)
    assert same(tokyo, osaka)
    assert led_at(tokyo)


# --- a site is lost while nobody leads


@pytest.mark.parametrize("arrive", [False, True])
async def test_lead_is_taken_back_while_the_other_site_is_lost(
    tokyo: Site, osaka: Site, monkeypatch: pytest.MonkeyPatch, arrive: bool
) -> None:
    """Whether or not it had come to lead, it follows when it is back."""
    await offered(tokyo, monkeypatch, arrive=arrive)
    with pytest.raises(Conflict, match="can be reached: swap is refused here"):
        await do(tokyo, Verb.SWAP)
    if arrive:
        await put(osaka, "beta", 1, b"o" * 512)
    await osaka.stop()
    await reaches(tokyo.link(osaka), LinkState.DOWN)
    with pytest.raises(Conflict, match="hosts of both sites may go on apart"):
        await do(tokyo, Verb.SWAP, confirmed=False)
    await do(tokyo, Verb.SWAP)
    status = await reached(tokyo, PairState.SPLIT_BY_ERROR)
    assert "was taken back from site osaka" in status.record.reason
    await put(tokyo, "alpha", 700, b"t" * 512)
    wanted = on_disk(tokyo, "alpha")
    await osaka.start()
    quick(osaka)
    await osaka.until(lambda: kept(osaka).is_followed)
    await reaches(tokyo.link(osaka), LinkState.UP)
    await osaka.system.site_pairs.compare("tokyo")
    await tokyo.system.site_pairs.compare("osaka")
    there = pairs.show(osaka.system, "p").record
    assert there.taken_over is arrive
    if arrive:
        await put(osaka, "beta", 2000, b"x" * 512)
        (note,) = pairs.show(tokyo.system, "p").notes
        assert "conflict: site osaka has taken over" in note
    await do(tokyo, Verb.RESYNC)
    await reached(tokyo, PairState.PAIRED)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta") == wanted


async def test_what_the_other_site_may_have_begun_to_copy_to_is_not_taken_back(
    tokyo: Site, osaka: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await paired(tokyo)
    await do(tokyo, Verb.SPLIT)
    await do(tokyo, Verb.SWAP)
    await put(osaka, "beta", 7, b"s" * 512)
    with monkeypatch.context() as losing:
        lose_offers(tokyo, losing, arrive=False)
        with pytest.raises(Unavailable):
            await do(tokyo, Verb.RESYNC)
    await osaka.stop()
    await reaches(tokyo.link(osaka), LinkState.DOWN)
    with pytest.raises(Conflict, match="site osaka may have begun to copy to alpha"):
        await do(tokyo, Verb.SWAP)
    await osaka.start()
    quick(osaka)
    await reached(osaka, PairState.PAIRED)
    assert led_at(osaka)
    assert same(tokyo, osaka)


async def test_site_that_took_over_before_the_offer_came_leads_what_its_hosts_wrote(
    tokyo: Site, osaka: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await offered(tokyo, monkeypatch, arrive=False)
    await osaka.system.followed.take_over("p")
    await put(osaka, "beta", 5, b"o" * 512)
    wanted = on_disk(osaka, "beta")
    await tokyo.system.site_pairs.compare("osaka")
    status = pairs.show(osaka.system, "p")
    assert not status.record.is_followed
    assert status.record.state is PairState.SPLIT_BY_ERROR
    assert status.differs == REGION
    await do(osaka, Verb.RESYNC)
    await reached(osaka, PairState.PAIRED)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta") == wanted


# --- two that believe to lead


async def test_store_of_before_the_exchange_makes_nobody_lead_twice(
    tokyo: Site, osaka: Site
) -> None:
    """tokyo comes back with its old store: it finds that osaka leads, and follows."""
    await paired(tokyo)
    old = tokyo.system.store.get(PairRecord, "p")
    assert old is not None
    await do(tokyo, Verb.SWAP)
    await osaka.stop()
    await tokyo.stop()
    store = SqliteStore.open(tokyo.folder / "store")
    await store.put(old)
    await store.close()
    await tokyo.start()
    quick(tokyo)
    assert led_at(tokyo)
    await do(tokyo, Verb.SPLIT)
    await put(tokyo, "alpha", 9, b"t" * 512)
    await osaka.start()
    quick(osaka)
    await put(osaka, "beta", 2000, b"o" * 512)
    wanted = on_disk(osaka, "beta")
    await tokyo.until(lambda: kept(tokyo).is_followed)
    await put(tokyo, "alpha", 10, b"u" * 512)
    assert pairs.show(tokyo.system, "p").record.taken_over
    await osaka.system.site_pairs.compare("tokyo")
    await reached(osaka, PairState.SPLIT_BY_ERROR)
    await do(osaka, Verb.RESYNC)
    await reached(osaka, PairState.PAIRED)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta") == wanted


# --- what comes late


async def test_offers_that_come_late_change_nothing(tokyo: Site, osaka: Site) -> None:
    await paired(tokyo)
    record = pairs.show(tokyo.system, "p").record
    uuid = bytes.fromhex(record.uuid)
    late = Exchange(
        Head(uuid, 1, next_lead(record.sequence)),
        StateCode.PAIRED,
        (Exchanged(uuid, next_lead(record.sequence), False, "full"),),
    )
    await do(tokyo, Verb.SWAP)
    await do(osaka, Verb.SWAP)
    answer = await tokyo.system.peers.exchange("osaka", late)
    assert answer.verdict is Verdict.STALE
    assert led_at(tokyo)
    assert not led_at(osaka)


async def test_offer_that_comes_again_while_it_is_taken_is_answered_as_taken(
    tokyo: Site, osaka: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who offers it would hear that there is no such pair, and take the lead back."""
    await offered(tokyo, monkeypatch, arrive=False)
    uuid, sequence = bytes.fromhex(kept(tokyo).uuid), kept(tokyo).sequence
    offer = Exchange(
        Head(uuid, 1, sequence), StateCode.PAIRED, (Exchanged(uuid, sequence, False, "full"),)
    )
    followed = osaka.system.followed.pair("p")
    await followed.lock.acquire()
    answers = [
        asyncio.ensure_future(osaka.system.site_pairs._answer_to("tokyo", offer)) for _ in range(2)
    ]
    await asyncio.sleep(0)
    followed.lock.release()
    for answer in await asyncio.gather(*answers):
        assert (answer.verdict, answer.leads) == (Verdict.ACCEPTED, True)
    assert led_at(osaka)


def test_leads_are_counted_in_the_upper_half_of_a_sequence() -> None:
    assert next_lead(5) == 1 << 32
    assert next_lead((3 << 32) + 7) == 4 << 32
    assert leads_later(1 << 32, 5)
    assert not leads_later((1 << 32) + 9, 1 << 32)


async def test_pair_that_becomes_paired_while_it_is_asked_is_not_exchanged_by_chance(
    tokyo: Site, osaka: Site
) -> None:
    """What was asked for was another thing."""
    await paired(tokyo)
    with pytest.raises(VerbRefused, match="the roles would be exchanged: ask again"):
        await tokyo.system.pairs.verb("p", Verb.SWAP)
    await do(tokyo, Verb.SPLIT)
    with pytest.raises(VerbRefused, match="look, and ask again"):
        await tokyo.system.exchange.hand_over("p", Verb.SWAP)
    assert led_at(tokyo)
    await do(tokyo, Verb.RESYNC)
    await reached(tokyo, PairState.PAIRED)
    assert same(tokyo, osaka)
