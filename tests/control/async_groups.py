"""What tests of asynchronous pairs over two sites do at tokyo, which leads a consistency group of
two at first, and at osaka."""

from __future__ import annotations

from control.site_pairs import on_disk, quick
from daiko.backend.site_session import LinkState
from daiko.control import pairs
from daiko.pair.group import Group
from daiko.pair.live_pair import PairStatus
from daiko.state.pair_record import PairRecord, PairState, Update
from site_rig import Site, reaches

TWO = (("p", "alpha", "beta"), ("q", "gamma", "delta"))
S = PairState


async def make(tokyo: Site, osaka: Site, journal: int = 1 << 20) -> None:
    for name, primary, secondary in TWO:
        await pairs.create(
            tokyo.system, name, primary, f"osaka:{secondary}", group="g", update=Update.ASYNC,
            journal=journal, confirmed=True,
        )  # fmt: skip
    await reached(tokyo, S.PAIRED)
    await reached(osaka, S.PAIRED)
    await known(osaka)


async def reached(site: Site, state: PairState) -> list[PairStatus]:
    found = await pairs.wait(site.system, "g", [state], 30)
    assert [status.record.state for status in found] == [state] * 2, found
    return found


async def known(osaka: Site) -> None:
    """Osaka has been told as of when its secondaries are good, since they became what they are."""
    await osaka.until(lambda: all(each.good_as_of for each in osaka.system.store.list(PairRecord)))


def group(tokyo: Site) -> Group:
    return tokyo.system.pairs._groups["group", "g"]


async def drain(tokyo: Site) -> None:
    applier = group(tokyo).applier
    assert applier is not None
    await applier.reached(applier.journal.last)


def equal(tokyo: Site, osaka: Site) -> bool:
    return all(on_disk(tokyo, primary) == on_disk(osaka, there) for _, primary, there in TWO)


async def again(site: Site, other: Site) -> None:
    """It is started again, and linked."""
    await site.start()
    quick(site)
    for here, there in ((site, other), (other, site)):
        await here.link(there).probe()
        await reaches(here.link(there), LinkState.UP)
