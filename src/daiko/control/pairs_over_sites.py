"""What an administrator asks for of pairs over two sites, beside what he asks for of any pair
(`control/pairs.py`): that the other site consents, and what is possible at which of the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from daiko.backend.site_session import LinkState, SiteUnavailable
from daiko.control import names
from daiko.control.error import Conflict, Invalid, NotFound, Unavailable
from daiko.control.pair_checks import not_confirmed
from daiko.pair.earlier_state import in_words
from daiko.pair.error import NoSuchPair, VerbRefused
from daiko.pair.followed import CannotTakeOver, FollowedPair, writes_past
from daiko.pair.peers import head, said
from daiko.pair.state import VERBS, Verb
from daiko.pair.surroundings import SiteRefused
from daiko.scsi.pair_envelopes import Leave, Verdict
from daiko.state.pair_record import PairRecord, PairState

if TYPE_CHECKING:
    from daiko.control.system import System

log = structlog.get_logger(__name__)


async def prepare(system: System, record: PairRecord, site: str, volume: str) -> PairRecord:
    """A pair with the volume of another site, which has consented and follows from now on. Raises
    NotFound, Conflict, Unavailable."""
    names.site_of(system, site)
    own = names.volume_of(system, record.primary)
    try:
        offered = {each.name: each for each in (await system.sites.link(site).volumes()).values()}
    except SiteUnavailable as error:
        raise Unavailable(str(error), f"see `daiko site show {site}`") from error
    found = offered.get(volume)
    if found is None:
        raise NotFound(
            f"site {site} offers us no volume {volume}",
            "its administrator offers one by `daiko site offer`",
            field="secondary",
        )
    if (found.blocks, found.block_size) != (own.blocks, own.block_size):
        raise Invalid(
            f"{own.name} has {own.blocks} blocks of {own.block_size} bytes, {record.secondary} "
            f"{found.blocks} of {found.block_size}",
            "both volumes of a pair have the same size and block size",
            field="secondary",
        )
    record = record.model_copy(update={"site": site, "peer_naa": found.naa.hex(), "sequence": 1})
    if why_not := system.peers.why_not_async(record):
        raise Conflict(why_not, "make it synchronous, or update the program there", field="update")
    return record


async def join(system: System, record: PairRecord) -> None:
    """Let the other site follow. Raises Conflict where it does not consent, Unavailable."""
    try:
        answer = await system.peers.join(record)
    except SiteRefused as refused:
        raise Unavailable(str(refused), f"see `daiko site show {record.site}`") from refused
    if answer.verdict is not Verdict.ACCEPTED:
        raise Conflict(f"site {record.site} refuses: {said(answer)}", field="secondary")


async def check_verb(
    system: System, records: Sequence[PairRecord], verb: Verb, *, confirmed: bool
) -> None:
    """Ask the other sites, and hold a verb for pairs that we lead against what is possible over two
    sites. Raises Unavailable; Conflict, also where only what is `confirmed` goes without the other
    site."""
    over_sites = [record for record in records if record.is_led_over_sites]
    if not over_sites or verb in (Verb.SPLIT, Verb.REMOVE):
        return
    silent = await system.site_pairs.ask(over_sites)
    for record in over_sites:
        if record.name not in silent:
            if VERBS[record.state][verb].exchanges_roles:
                _check_exchange(system, record)
            continue
        if (record.state, verb) == (PairState.SWAPPED, Verb.SWAP):
            # Its site may be lost: hosts have to get their own volume back.
            if not confirmed:
                raise not_confirmed(
                    f"what hosts have written to {record.secondary} is not known "
                    f"({silent[record.name]}), and hosts of both sites may go on apart"
                )
        else:
            raise Unavailable(
                f"what site {record.site} has marked is not known: {silent[record.name]}",
                f"see `daiko site show {record.site}`",
            )


def _check_exchange(system: System, record: PairRecord) -> None:
    """Raises Conflict where the other site cannot lead this pair."""
    if not system.peers.knows_exchange(record):
        raise Conflict(
            f"the software of site {record.site} is older, and exchanges no roles",
            "bring it up to date",
        )


async def exchange_roles(system: System, name: str, verb: Verb) -> list[str]:
    """Do a verb that exchanges the roles to pairs that we lead; returns their names. Raises
    NoSuchPair, VerbRefused; Unavailable where it is not known whether the other site leads now, or
    the differential bitmaps cannot be written."""
    try:
        return await system.exchange.hand_over(name, verb)
    except SiteRefused as refused:
        raise Unavailable(
            f"the other site was offered the lead of {name}, and did not say that it takes it: "
            f"{refused}",
            "nobody leads until it does; it is asked again by itself. If it is lost, "
            f"`daiko pair swap {name}` takes the lead back",
        ) from refused
    except OSError as error:
        raise Unavailable(
            f"the differential bitmaps cannot be written: {error}",
            "look at the disk that holds the store; nothing was changed",
        ) from error


def exchanges(records: Sequence[PairRecord], verb: Verb) -> bool:
    """Whether a verb lets the other site lead these pairs."""
    return any(
        record.is_led_over_sites and VERBS[record.state][verb].exchanges_roles for record in records
    )


async def do_followed(system: System, name: str, verb: Verb, *, confirmed: bool) -> None:
    """Ask a verb of a pair, or of a consistency group, that another site leads. Raises Conflict."""
    records = [pair.record for pair in followed(system, name)]
    if verb is Verb.REMOVE:
        lent = [writes_past(record) for record in records if record.loan]
        if lent and not confirmed:
            raise not_confirmed("; ".join(lent))
        for record in records:
            await _end_following(system, record)
        return
    record = records[0]
    if verb is not Verb.SWAP:
        raise Conflict(
            f"site {record.site} leads {name}: {verb} is refused here",
            f"ask it of the system at site {record.site}",
        )
    link = system.sites.link(record.site)
    await link.probe()
    if link.status.state is LinkState.UP:
        raise Conflict(
            f"site {record.site} leads {name}, and can be reached: swap is refused here",
            f"ask it of the system at site {record.site}",
        )
    if not confirmed:
        missing = "; ".join(map(_what_is_missing, records))
        raise not_confirmed(
            f"site {record.site} cannot be asked ({link.status.state}): {missing}, and hosts of "
            "both sites may go on apart"
        )
    try:
        if record.offered_lead:
            why = f"the lead was taken back from site {record.site}, which could not be asked"
            await system.exchange.take_back(record.name, why)
        else:
            await system.followed.take_over(name)
    except (CannotTakeOver, VerbRefused) as error:
        raise Conflict(f"{name}: swap is refused: {error}") from error


def _what_is_missing(record: PairRecord) -> str:
    """When hosts go over to the secondary, whose leader is lost."""
    if record.is_earlier_state:
        return f"{in_words(record)}, and what was written later is not here"
    return (
        f"what its hosts have written since {record.secondary} was like {record.primary} is not "
        "here"
    )


async def _end_following(system: System, record: PairRecord) -> None:
    """Forget a pair that another site leads. The offer is taken back with it: else that site, where
    it has not heard of this yet, would go on to write to the volume."""
    await system.sites.withdraw(record.site, record.secondary)
    await system.followed.forget(record.name)
    try:
        await system.peers.exchange(record.site, Leave(head(record)))
    except SiteRefused as refused:
        log.warning("end of a pair not told", pair=record.name, error=str(refused))


def followed(system: System, name: str) -> list[FollowedPair]:
    """The pairs that another site leads and this name stands for; none where it stands for
    others."""
    try:
        return system.followed.named(name)
    except NoSuchPair:
        return []
