"""Pairs over two sites: two systems that reach one another over real sockets, tokyo leading."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from control.site_pairs import (
    QUICK,
    REGION,
    SIZE,
    disk,
    do,
    on_disk,
    paired,
    put,
    quick,
    reached,
)
from daiko.backend.site_session import LinkState
from daiko.control import pairs, sites, volumes
from daiko.control.error import Conflict, Invalid, NotFound, Unavailable
from daiko.device.awaitable import read, write
from daiko.device.error import DeviceError, Unreachable, WriteProtected
from daiko.pair.followed import CannotTakeOver
from daiko.pair.state import Verb
from daiko.state.pair_record import Fence, PairState
from network_path import NetworkPath
from site_rig import Site, reaches

# --- made, copied, mirrored


async def test_pair_becomes_equal_and_stays_so_while_hosts_write(tokyo: Site, osaka: Site) -> None:
    status = await paired(tokyo)
    assert (status.record.secondary, status.differs, status.notes) == ("osaka:beta", 0, ())
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta")
    for number in range(40):
        data = random.Random(number).randbytes(512 * 5)
        await put(tokyo, "alpha", number * 37, data)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta")
    offered = (await tokyo.link(osaka).volumes()).values()
    assert {each.name: each.state for each in offered} == {"beta": "secondary, paired", "delta": ""}
    there = await reached(osaka, PairState.PAIRED)
    assert (there.record.primary, there.record.secondary) == ("tokyo:alpha", "beta")
    assert there.record.is_followed
    assert [each.record.name for each in pairs.ls(osaka.system)] == ["p"]


async def test_initial_copy_in_rounds_while_hosts_write(tokyo: Site, osaka: Site) -> None:
    quick(tokyo, replace(QUICK, catch_up_bytes=REGION))
    await pairs.create(tokyo.system, "p", "alpha", "osaka:beta", confirmed=True)
    for number in range(40):
        await put(tokyo, "alpha", number * 97, random.Random(number).randbytes(512))
    await reached(tokyo, PairState.PAIRED)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta")


async def test_secondary_is_protected_from_hosts_and_open_to_its_peer(
    tokyo: Site, osaka: Site
) -> None:
    await paired(tokyo)
    assert osaka.system.unit("beta").is_write_protected
    with pytest.raises(WriteProtected):
        await put(osaka, "beta", 0, bytes(512))
    await put(tokyo, "alpha", 0, b"m" * 512)
    assert bytes(await read(osaka.system.unit("beta").device, 0, 1)) == b"m" * 512


# --- split and brought together


async def test_split_is_of_one_instant_and_the_peer_writes_no_more(
    tokyo: Site, osaka: Site
) -> None:
    await paired(tokyo)
    await do(tokyo, Verb.SPLIT)
    then = on_disk(osaka, "beta")
    assert pairs.show(osaka.system, "p").record.state is PairState.SPLIT
    await put(tokyo, "alpha", 10, b"a" * 512)
    await put(osaka, "beta", 2000, b"b" * 1024)
    assert on_disk(osaka, "beta")[: 2000 * 512] == then[: 2000 * 512]
    device = await tokyo.link(osaka).device(1)
    with pytest.raises(DeviceError):
        await write(device, 0, b"x" * 512)
    assert on_disk(osaka, "beta")[:512] == then[:512]
    assert bytes(await read(device, 2000, 1)) == b"b" * 512


async def test_resync_copies_what_either_side_has_written_and_no_more(
    tokyo: Site, osaka: Site
) -> None:
    await paired(tokyo)
    await do(tokyo, Verb.SPLIT)
    await put(tokyo, "alpha", 10, b"a" * 512)
    await put(osaka, "beta", 2000, b"b" * 1024)
    (effect,) = await pairs.effects(tokyo.system, "p", Verb.RESYNC)
    assert (effect.volume, effect.overwritten, effect.discarded) == (
        "osaka:beta",
        2 * REGION,
        REGION,
    )
    with pytest.raises(Conflict, match="131,072 bytes of osaka:beta would be overwritten"):
        await do(tokyo, Verb.RESYNC, confirmed=False)
    written: list[int] = []
    door = osaka.system._publication.volume("beta").door("tokyo")
    passed_on = door.below.write
    door.below.write = (  # type: ignore[method-assign]
        lambda lba, data, done, fua=False: (
            written.append(len(data)),  # type: ignore[func-returns-value]
            passed_on(lba, data, done, fua),
        )[1]
    )
    await do(tokyo, Verb.RESYNC)
    await reached(tokyo, PairState.PAIRED)
    assert sum(written) == 2 * REGION
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta")
    assert on_disk(tokyo, "alpha")[5120:5632] == b"a" * 512
    await reached(osaka, PairState.PAIRED)
    assert pairs.show(osaka.system, "p").written_to_secondary == 0


async def test_reverse_resync_brings_the_primary_to_the_secondary(tokyo: Site, osaka: Site) -> None:
    await paired(tokyo)
    await do(tokyo, Verb.SPLIT)
    await put(tokyo, "alpha", 10, b"a" * 512)
    await put(osaka, "beta", 2000, b"b" * 1024)
    wanted = on_disk(osaka, "beta")
    (effect,) = await pairs.effects(tokyo.system, "p", Verb.RESYNC_REVERSE)
    assert (effect.volume, effect.overwritten, effect.discarded) == ("alpha", 2 * REGION, REGION)
    await do(tokyo, Verb.RESYNC_REVERSE)
    await reached(tokyo, PairState.PAIRED)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta") == wanted
    await put(tokyo, "alpha", 0, b"x" * 512)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta")


async def test_swap_after_a_split_sends_hosts_to_the_other_site_and_back(
    tokyo: Site, osaka: Site
) -> None:
    await paired(tokyo)
    await do(tokyo, Verb.SPLIT)
    await do(tokyo, Verb.SWAP)
    assert tokyo.system.unit("alpha").is_write_protected
    assert pairs.show(osaka.system, "p").record.state is PairState.SWAPPED
    await put(osaka, "beta", 7, b"s" * 512)
    await do(tokyo, Verb.SWAP)
    await do(tokyo, Verb.RESYNC_REVERSE)
    await reached(tokyo, PairState.PAIRED)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta")
    assert on_disk(tokyo, "alpha")[7 * 512 : 8 * 512] == b"s" * 512


async def test_hosts_get_their_volume_back_when_the_site_they_were_sent_to_is_lost(
    tokyo: Site, osaka: Site
) -> None:
    await paired(tokyo)
    await do(tokyo, Verb.SPLIT)
    await do(tokyo, Verb.SWAP)
    await put(osaka, "beta", 9, b"lost" * 128)
    await osaka.stop()
    await reaches(tokyo.link(osaka), LinkState.DOWN)
    with pytest.raises(Conflict, match="what hosts have written to osaka:beta is not known"):
        await do(tokyo, Verb.SWAP, confirmed=False)
    await do(tokyo, Verb.SWAP)
    await put(tokyo, "alpha", 9, b"here" * 128)
    with pytest.raises(Unavailable):
        await do(tokyo, Verb.SWAP)
    await osaka.start()
    await reached(osaka, PairState.SPLIT)
    (effect,) = await pairs.effects(tokyo.system, "p", Verb.RESYNC)
    assert effect.discarded == REGION


async def test_group_is_split_as_one_and_lies_in_one_site(tokyo: Site, osaka: Site) -> None:
    await paired(tokyo, "p", group="g")
    await pairs.create(tokyo.system, "q", "gamma", "osaka:delta", group="g", confirmed=True)
    await reached(tokyo, PairState.PAIRED, "q")
    await do(tokyo, Verb.SPLIT, "g")
    for name in ("p", "q"):
        assert pairs.show(osaka.system, name).record.state is PairState.SPLIT
    await disk(tokyo, "one")
    await disk(tokyo, "two")
    with pytest.raises(Conflict, match="secondaries of group g are at site osaka"):
        await pairs.create(tokyo.system, "r", "one", "two", group="g", confirmed=True)


async def test_verbs_at_the_site_that_follows_are_refused(tokyo: Site, osaka: Site) -> None:
    await paired(tokyo)
    for verb in (Verb.SPLIT, Verb.RESYNC, Verb.RESYNC_REVERSE, Verb.SWAP):
        with pytest.raises(Conflict, match="site tokyo leads p"):
            await do(osaka, verb)


# --- ended, and what is refused while it is there


async def test_pair_that_is_removed_by_its_leader_is_gone_at_both(tokyo: Site, osaka: Site) -> None:
    await paired(tokyo)
    await do(tokyo, Verb.REMOVE)
    assert (pairs.ls(tokyo.system), pairs.ls(osaka.system)) == ([], [])
    await put(osaka, "beta", 0, b"o" * 512)
    for site in (tokyo, osaka):
        assert list((site.folder / "bitmaps").iterdir()) == []
    await paired(tokyo)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta")


async def test_pair_that_is_removed_by_who_follows_is_split_by_error_at_its_leader(
    tokyo: Site, osaka: Site
) -> None:
    await paired(tokyo)
    await do(osaka, Verb.REMOVE)
    status = await reached(tokyo, PairState.SPLIT_BY_ERROR)
    assert status.record.reason == "site osaka has ended the pair"
    before = on_disk(osaka, "beta")
    await put(tokyo, "alpha", 0, b"t" * 512)
    assert on_disk(osaka, "beta") == before
    # With the pair the consent is gone.
    assert "beta" not in sites.show(osaka.system, "tokyo").record.offered.values()
    await do(tokyo, Verb.RESYNC)
    status = await reached(tokyo, PairState.SPLIT_BY_ERROR)
    assert "no such pair any more" in status.record.reason
    await do(tokyo, Verb.REMOVE)
    with pytest.raises(NotFound, match="offers us no volume beta"):
        await paired(tokyo)


async def test_what_a_pair_needs_is_not_taken_away(tokyo: Site, osaka: Site) -> None:
    await paired(tokyo)
    with pytest.raises(Conflict, match="pair p, which site tokyo leads, needs beta"):
        await sites.withdraw(osaka.system, "tokyo", "beta")
    for site, other, volume in ((osaka, "tokyo", "beta"), (tokyo, "osaka", "alpha")):
        with pytest.raises(Conflict, match=f"pair p is with site {other}"):
            await sites.remove(site.system, other)
        with pytest.raises(Conflict, match=f"{volume} is in pair p"):
            await volumes.remove(site.system, volume)
    await sites.withdraw(osaka.system, "tokyo", "delta")
    with pytest.raises(NotFound, match="is not offered delta"):
        await sites.withdraw(osaka.system, "tokyo", "delta")


# --- what does not become a pair


async def test_pair_needs_consent_and_the_same_geometry(tokyo: Site, osaka: Site) -> None:
    async def create(secondary: str, name: str = "p", **more: object) -> None:
        await pairs.create(
            tokyo.system,
            name,
            "alpha",
            secondary,
            confirmed=True,
            **more,  # type: ignore[arg-type]
        )

    await disk(osaka, "small", 1024)
    await disk(osaka, "secret")
    with pytest.raises(NotFound, match="offers us no volume secret"):
        await create("osaka:secret")
    with pytest.raises(NotFound, match="'nara'"):
        await create("nara:beta")
    await sites.offer(osaka.system, "tokyo", "small")
    with pytest.raises(Invalid, match="alpha has 4096 blocks of 512 bytes, osaka:small 1024"):
        await create("osaka:small")
    await pairs.create(osaka.system, "own", "secret", "delta", confirmed=True)
    await reached(osaka, PairState.PAIRED, "own")
    with pytest.raises(Conflict, match="site osaka refuses: delta is in pair own"):
        await create("osaka:delta")
    with pytest.raises(Conflict, match="site osaka refuses: there is a pair or group own"):
        await create("osaka:beta", "own")
    with pytest.raises(Conflict, match="all 2,097,152 bytes of osaka:beta"):
        await pairs.create(tokyo.system, "p", "alpha", "osaka:beta")
    assert pairs.ls(tokyo.system) == []
    assert [each.record.name for each in pairs.ls(osaka.system)] == ["own"]
    await osaka.stop()
    await reaches(tokyo.link(osaka), LinkState.DOWN)
    with pytest.raises(Unavailable, match="site osaka is down"):
        await create("osaka:beta")


# --- one side, or the link, is lost


async def lose(tokyo: Site, osaka: Site, number: int) -> None:
    """Write until the pair is split by error."""
    await put(tokyo, "alpha", number, b"%04d" % number * 128)
    await reached(tokyo, PairState.SPLIT_BY_ERROR)


async def test_secondary_that_is_lost_splits_the_pair_and_resync_brings_it_back(
    tokyo: Site, osaka: Site
) -> None:
    await paired(tokyo)
    await osaka.stop()
    await lose(tokyo, osaka, 3)
    with pytest.raises(Unavailable, match="what site osaka has marked is not known"):
        await do(tokyo, Verb.RESYNC)
    await osaka.start()
    await reaches(tokyo.link(osaka), LinkState.UP)
    await do(tokyo, Verb.RESYNC)
    await reached(tokyo, PairState.PAIRED)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta")


async def test_fence_data_refuses_writes_while_the_other_site_is_lost(
    tokyo: Site, osaka: Site
) -> None:
    await paired(tokyo, fence=Fence.DATA)
    await osaka.stop()
    with pytest.raises(Unreachable, match="fence is `data`"):
        await put(tokyo, "alpha", 0, b"f" * 512)
    await reached(tokyo, PairState.SPLIT_BY_ERROR)
    with pytest.raises(WriteProtected):
        await put(tokyo, "alpha", 1, b"f" * 512)


async def test_leader_that_restarts_goes_on_by_itself(tokyo: Site, osaka: Site) -> None:
    await paired(tokyo)
    await tokyo.stop()
    await tokyo.start()
    quick(tokyo)
    await put(tokyo, "alpha", 5, b"again" * 512)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta")
    assert (await reached(tokyo, PairState.PAIRED)).differs == 0


async def test_pair_of_a_leader_that_restarts_does_not_differ_because_its_link_is_new(
    tokyo: Site, osaka: Site
) -> None:
    """What hosts write first waits for the link, and goes over the connection that is flushed."""
    await paired(tokyo)
    await tokyo.stop()
    await tokyo.start()
    await put(tokyo, "alpha", 5, b"first" * 512)
    await do(tokyo, Verb.SWAP)
    await reached(osaka, PairState.PAIRED)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta")


async def test_side_that_follows_restarts_split_with_its_marks(tokyo: Site, osaka: Site) -> None:
    await paired(tokyo)
    await do(tokyo, Verb.SPLIT)
    await put(osaka, "beta", 100, b"kept" * 128)
    await osaka.stop()
    await osaka.start()
    assert pairs.show(osaka.system, "p").written_to_secondary == REGION
    await reaches(tokyo.link(osaka), LinkState.UP)
    await do(tokyo, Verb.RESYNC_REVERSE)
    await reached(tokyo, PairState.PAIRED)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta")
    assert on_disk(tokyo, "alpha")[100 * 512 : 101 * 512] == b"kept" * 128


async def test_split_that_the_other_site_did_not_hear_of_is_told_when_it_is_back(
    tokyo: Site, osaka: Site
) -> None:
    await paired(tokyo)
    await osaka.stop()
    await reaches(tokyo.link(osaka), LinkState.DOWN)
    await do(tokyo, Verb.SPLIT)
    await put(tokyo, "alpha", 0, b"alone" * 512)
    await osaka.start()
    assert pairs.show(osaka.system, "p").record.state is PairState.PAIRED
    assert (await reached(osaka, PairState.SPLIT)).record.sequence > 1
    await pairs.effects(tokyo.system, "p", Verb.RESYNC)
    assert pairs.show(tokyo.system, "p").notes == ()


async def test_link_that_is_cut_while_it_copies_does_not_hurt(tokyo: Site, osaka: Site) -> None:
    port = int(osaka.portal.rpartition(":")[2])
    async with NetworkPath(port) as path:
        await sites.change(tokyo.system, "osaka", portals=(path.portal,))
        await reaches(tokyo.link(osaka), LinkState.UP, path.portal)
        quick(tokyo, replace(QUICK, catch_up_bytes=REGION))
        path.cut_after(path.passed + SIZE // 2)
        await pairs.create(tokyo.system, "p", "alpha", "osaka:beta", confirmed=True)
        status = await reached(tokyo, PairState.SPLIT_BY_ERROR)
        assert status.record.mixture == "osaka:beta"
        with pytest.raises(CannotTakeOver, match="beta is lent: second controllers of site tokyo"):
            await osaka.system.followed.take_over("p")
        await path.open()
        await reaches(tokyo.link(osaka), LinkState.UP)
        await do(tokyo, Verb.RESYNC)
        await reached(tokyo, PairState.PAIRED)
        assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta")


# --- the site that follows takes over


@pytest.mark.parametrize("verb", [Verb.RESYNC, Verb.RESYNC_REVERSE])
async def test_site_that_took_over_keeps_its_data_until_an_administrator_says_otherwise(
    tokyo: Site, osaka: Site, verb: Verb
) -> None:
    await paired(tokyo)
    await tokyo.stop()
    await reaches(osaka.link(tokyo), LinkState.DOWN)
    with pytest.raises(Conflict, match="site tokyo cannot be asked"):
        await do(osaka, Verb.SWAP, confirmed=False)
    await do(osaka, Verb.SWAP)
    await put(osaka, "beta", 50, b"over" * 128)
    taken = on_disk(osaka, "beta")
    await tokyo.start()
    quick(tokyo)
    status = await reached(tokyo, PairState.SPLIT_BY_ERROR)
    assert status.record.reason == "site osaka has taken over"
    await put(tokyo, "alpha", 900, b"here" * 128)
    own = on_disk(tokyo, "alpha")
    assert on_disk(osaka, "beta") == taken
    assert any("conflict" in note for note in pairs.show(tokyo.system, "p").notes)
    assert any("taken over" in note for note in pairs.show(osaka.system, "p").notes)
    await do(tokyo, Verb.SPLIT)
    assert pairs.show(osaka.system, "p").record.taken_over
    with pytest.raises(Conflict, match="65,536 of them in regions that hosts wrote to there"):
        await do(tokyo, verb, confirmed=False)
    await do(tokyo, verb)
    status = await reached(tokyo, PairState.PAIRED)
    assert on_disk(tokyo, "alpha") == on_disk(osaka, "beta")
    assert on_disk(tokyo, "alpha") == (own if verb is Verb.RESYNC else taken)
    assert not pairs.show(osaka.system, "p").record.taken_over


async def test_taking_over_outlives_a_restart(tokyo: Site, osaka: Site) -> None:
    await paired(tokyo)
    await tokyo.stop()
    await reaches(osaka.link(tokyo), LinkState.DOWN)
    await do(osaka, Verb.SWAP)
    with pytest.raises(Conflict, match="taken over already"):
        await do(osaka, Verb.SWAP)
    await put(osaka, "beta", 50, b"over" * 128)
    await osaka.stop()
    await osaka.start()
    status = pairs.show(osaka.system, "p")
    assert (status.record.taken_over, status.written_to_secondary) == (True, REGION)
    await put(osaka, "beta", 51, b"more" * 128)
