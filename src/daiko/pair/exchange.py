"""Exchange of the roles of pairs over two sites: who followed leads from then on.

Leading goes from hand to hand, so that at no moment two lead. Who leads becomes a follower in its
store first, and *offers the lead*; the other one takes it, in its store, and says so. When the
answer is lost, or either is killed in between, nobody leads until the offer was made again: hosts
wait for the link, or an administrator decides. Where the offer is refused, or he says so while the
other site is lost, who offered the lead takes it back.

**Leads are numbered.** The upper half of a sequence counts how often the lead has changed, the
lower half the states since. Whoever takes the lead back skips a number. So of two that both believe
to lead (the one who was lost had taken the lead after all; a store was restored from an old copy)
the one with the lower number concedes when it hears of the other: it follows, as one that has taken
over, and an administrator at the leader says whose data counts.

The bitmap of a controller's own volume stays in use all along, with its marks. What this controller
knew of the other side's is marked in it before.

**The journal of an asynchronous group does not move.** What is in it comes to the secondaries
before the lead of a paired group is offered, the last of it while hosts are held; then it is no
more, and whoever takes the lead makes one of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import structlog

from daiko.copy_manager.pace import NoPace, Pace
from daiko.device.awaitable import read
from daiko.device.error import DeviceError
from daiko.pair.error import VerbRefused
from daiko.pair.followed import (
    FollowedPair,
    FollowedPairs,
    locked,
    no_pair,
    stand_still,
    writes_past,
)
from daiko.pair.group import going
from daiko.pair.journal_file import LEAST_CAPACITY, MOST_CAPACITY
from daiko.pair.live_pair import LivePair
from daiko.pair.pairs import Pairs
from daiko.pair.peers import CODES, STATES, Peers, head, said
from daiko.pair.state import Cell, Use, Verb, carried_out, use_of_primary
from daiko.pair.surroundings import SiteRefused
from daiko.scsi import pair_envelopes as envelopes
from daiko.scsi.pair_envelopes import Answer, Exchanged, Head, Verdict
from daiko.scsi.site_values import shortened
from daiko.state.pair_record import Fence, PairRecord, PairState
from daiko.state.store import Store, StoreError, Transaction

log = structlog.get_logger(__name__)

_S: Final = PairState
_LEAD: Final = 1 << 32
"""A sequence counts leads in units of this."""

LOOK_SECONDS: Final = 10.0
"""For a volume that hosts are to be sent to, to be read."""

HANDS_OVER: Final = {
    _S.PAIRED: frozenset({_S.PAIRED}),
    _S.COPYING: frozenset({_S.SPLIT, _S.SPLIT_BY_ERROR, _S.SWAPPED}),
}
"""State from the exchange on -> the states of who follows in which it takes the lead."""

Consent = Callable[[Transaction, str, str], object]
"""(change, site, volume): offers the volume to the site. Raises KeyError, OverflowError."""


def next_lead(sequence: int) -> int:
    """The first sequence of the lead after this one."""
    return (sequence // _LEAD + 1) * _LEAD


def leads_later(sequence: int, other: int) -> bool:
    """Whether the first sequence is of a later lead than the other."""
    return sequence // _LEAD > other // _LEAD


class Exchange:
    """Hands leads over, takes them, and takes them back."""

    def __init__(
        self,
        store: Store,
        pairs: Pairs,
        followed: FollowedPairs,
        peers: Peers,
        consent: Consent,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._pairs = pairs
        self._followed = followed
        self._peers = peers
        self._consent = consent
        self._clock = clock

    # --- who leads

    async def hand_over(self, name: str, verb: Verb) -> list[str]:
        """Do a verb that exchanges the roles to a pair over two sites, or to all of a group.
        Returns their names; they are followed from now on. Raises NoSuchPair; VerbRefused,
        StoreError, OSError (then nothing was changed); SiteRefused where the other site does not
        say whether it leads: it is asked again."""
        pairs = self._pairs.named(name)
        names = [pair.name for pair in pairs]

        def after(found: Mapping[str, PairRecord]) -> dict[str, PairRecord]:
            cells = going(found, verb)
            _refuse_some(found, cells)
            _refuse_unproved(pairs, found)
            now = self._clock()
            return {each: _handed_over(found[each], cells[each], now) for each in names}

        self._refuse_part(pairs)
        going({pair.name: pair.record for pair in pairs}, verb)
        await _look(pairs)
        await self._peers.telling.ended(pair.record.uuid for pair in pairs)
        await self._pairs.release(names, after, self._give, verb=verb)
        log.info("lead offered", pairs=names, verb=verb)
        await self._offer([self._followed.pair(each).record for each in names])
        return names

    def _refuse_part(self, pairs: Sequence[LivePair]) -> None:
        """Raises VerbRefused where these are not all pairs of their group: one site leads it."""
        group = pairs[0].record.group
        if group and len(self._pairs.named(group)) > len(pairs):
            text = f"one site leads a group: ask it of {group}"
            raise VerbRefused([(pair.name, str(pair.record.state), text) for pair in pairs])

    async def concede(self, pairs: Sequence[LivePair]) -> None:
        """The other site leads these, of one group, under a later lead. Raises NoSuchPair,
        VerbRefused (then it was done meanwhile), StoreError, OSError."""
        now, names = self._clock(), [pair.name for pair in pairs]
        await self._pairs.release(
            names,
            lambda found: {name: _conceded(record, now) for name, record in found.items()},
            self._give,
        )
        log.warning("lead conceded", pairs=names, site=pairs[0].record.site)

    async def _give(self, given: Sequence[tuple[LivePair, PairRecord]]) -> None:
        """Follow these from now on, of which nothing is in flight. Raises StoreError, OSError,
        VerbRefused."""
        for pair, _ in given:
            await pair.primary.take_over(pair.secondary)
        try:
            async with self._store.transaction() as change:
                for _, record in given:
                    self._consent(change, record.site, record.secondary)
                    change.put(record)
        except (KeyError, OverflowError) as error:
            refusals = [(pair.name, str(pair.record.state), str(error)) for pair, _ in given]
            raise VerbRefused(refusals) from error
        for pair, record in given:
            self._peers.forget(record)
            self._followed.adopt(record, pair.release())

    # --- who has offered the lead, and does not know whether it was taken

    def offered(self, site: str) -> list[list[PairRecord]]:
        """The pairs of which this site was offered the lead, and has not said that it leads: those
        that were offered together."""
        found: dict[str, list[PairRecord]] = {}
        for pair in self._followed.all():
            record = pair.record
            if record.offered_lead and record.site == site:
                found.setdefault(record.group or record.name, []).append(record)
        return list(found.values())

    async def offer_again(self, site: str) -> None:
        """Offer the lead again where that was not answered. Raises SiteRefused, StoreError."""
        for records in self.offered(site):
            try:
                await self._offer(records)
            except VerbRefused as refused:
                log.warning("lead not taken", pair=records[0].name, error=str(refused))

    async def take_back(self, name: str, why: str) -> None:
        """Lead again, without the other site: it may come to lead as well, and concede when it is
        there again. Concerns all that were offered with this pair. Raises VerbRefused, StoreError,
        OSError."""
        record = self._followed.pair(name).record
        together = next(all_ for all_ in self.offered(record.site) if record in all_)
        for each in together:
            if each.mixture == each.secondary:
                text = f"site {each.site} may have begun to copy to {each.secondary}"
                raise VerbRefused([(each.name, str(each.state), text)])
        await self._lead([(each, _taken_back(each, self._clock(), why)) for each in together])

    async def _offer(self, records: Sequence[PairRecord]) -> None:
        first = records[0]
        exchanged = tuple(
            Exchanged(
                bytes.fromhex(each.uuid),
                each.sequence,
                each.fence is Fence.DATA,
                each.pace,
                each.journal if each.is_async else 0,
            )
            for each in records
        )
        message = envelopes.Exchange(head(first), CODES[first.state], exchanged)
        answer = await self._peers.exchange(first.site, message)
        if answer.verdict is Verdict.ACCEPTED:
            await self._followed.lead_is_taken([each.name for each in records])
            return
        why = f"site {first.site} does not take the lead: {said(answer)}"
        now = self._clock()
        is_as_before = answer.verdict is Verdict.REFUSED
        await self._lead(
            [(each, _taken_back(each, now, why, is_as_before=is_as_before)) for each in records]
        )
        raise VerbRefused([(each.name, str(each.state), why) for each in records])

    # --- who takes the lead

    async def accept(self, site: str, offer: envelopes.Exchange) -> Answer:
        """Another site offers the lead of pairs that it led. Raises SiteRefused (we do not find its
        volumes), StoreError, OSError; then nothing was changed."""
        found = [self._followed.known_as(site, each.pair) for each in offer.pairs]
        pairs = [pair for pair in found if pair is not None]
        if len(pairs) < len(found):
            return no_pair(offer.head)
        async with locked(pairs):
            if not all(map(self._followed.follows, pairs)):
                return no_pair(offer.head)
            for pair, each in zip(pairs, offer.pairs, strict=True):
                refusal = _refusal(pair, offer, each)
                if refusal is not None:
                    return refusal
            state, now = STATES[offer.state], self._clock()
            wanted = [
                (pair.record, _lead_taken(pair.record, state, each, now))
                for pair, each in zip(pairs, offer.pairs, strict=True)
            ]
            for _, record in wanted:
                # Before anything is written there: what is found first is a reset.
                self._peers.volume(record)
                await self._peers.find(record, at_once=True)
            await self._lead_locked(wanted)
        log.info("lead taken", pairs=[record.name for record, _ in wanted], site=site)
        return taken(offer.head, wanted[0][1])

    async def _lead(self, wanted: Sequence[tuple[PairRecord, PairRecord]]) -> None:
        """Lead again what was offered: (as it was, as it will be). Raises StoreError, OSError; then
        nothing was changed."""
        for _, record in wanted:
            self._peers.volume(record)
            try:
                await self._peers.find(record)
            except SiteRefused as refused:  # it is found when its site is there again
                log.warning("volume not found", pair=record.name, error=str(refused))
        async with locked(self._followed.pair(record.name) for record, _ in wanted):
            if any(self._followed.pair(before.name).record != before for before, _ in wanted):
                raise StoreError("the pair has changed meanwhile")
            await self._lead_locked(wanted)

    async def _lead_locked(self, wanted: Iterable[tuple[PairRecord, PairRecord]]) -> None:
        """Lead pairs that were followed: (as it was, as it will be). Raises StoreError, OSError;
        then nothing was changed."""
        pairs = [(self._followed.pair(before.name), after) for before, after in wanted]
        prepared: list[LivePair] = []
        await stand_still([pair for pair, _ in pairs])
        try:
            for pair, record in pairs:
                prepared.append(self._pairs.prepare(record, pair.side))
            async with self._store.transaction() as change:
                for _, record in pairs:
                    change.put(record)
        except BaseException:
            for live in prepared:
                await self._pairs.abandon(live)
            for pair, _ in pairs:
                pair.act()
            raise
        for pair, _ in pairs:
            self._followed.release(pair)
        for live in prepared:
            await self._pairs.begin(live)


def taken(head: Head, record: PairRecord) -> Answer:
    """The answer to an offer of the lead: this site leads."""
    at = Head(head.pair, head.request, record.sequence)
    return Answer(at, Verdict.ACCEPTED, CODES[record.state], leads=True)


def is_answer_to(offer: envelopes.Exchange, record: PairRecord) -> bool:
    """Whether this record of a pair that is led here is what came of this offer."""
    return not leads_later(offer.head.sequence, record.sequence)


def _refusal(pair: FollowedPair, offer: envelopes.Exchange, each: Exchanged) -> Answer | None:
    """Why the lead of a pair is not taken; None where it is."""
    record = pair.record
    if each.sequence <= record.sequence:
        return pair.answer(offer.head, Verdict.STALE)
    reason = ""
    if record.loan:
        reason = writes_past(record)
    elif record.mixture == record.secondary:
        reason = f"{record.secondary} is a mixture"
    elif not record.taken_over and record.state not in HANDS_OVER[STATES[offer.state]]:
        reason = f"{record.name} is {record.state} here"
    else:
        reason = _why_not_led(record, each)
    return pair.answer(offer.head, Verdict.REFUSED, shortened(reason)) if reason else None


def _why_not_led(record: PairRecord, given: Exchanged) -> str:
    """Why nobody could lead the pair with what is said of it; "" = one can."""
    if record.is_async is not bool(given.journal):
        return f"{record.name} is updated `{record.update}` here"
    if record.is_async and not LEAST_CAPACITY <= given.journal <= MOST_CAPACITY:
        return f"a journal cannot have {given.journal} bytes"
    if record.is_async and given.fenced:
        return "fence `data` is for synchronous pairs"
    try:
        Pace.parse(given.pace)
    except NoPace as error:
        return str(error)
    return ""


async def _look(pairs: Sequence[LivePair]) -> None:
    """Raises VerbRefused where a volume that hosts would use then cannot be read."""
    for pair in pairs:
        why = ""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await read(pair.secondary.volume.device, 0, 1)
        except TimeoutError:
            why = f"it does not answer within {LOOK_SECONDS:g} s"
        except DeviceError as error:
            why = str(error)
        if why:
            text = f"{pair.record.secondary}, which hosts would use, cannot be read: {why}"
            raise VerbRefused([(pair.name, str(pair.record.state), text)])


def _refuse_some(found: Mapping[str, PairRecord], cells: Mapping[str, Cell]) -> None:
    """A group is led by one site, so its pairs exchange their roles together; and a pair may have
    come to another state since it was asked of it. Raises VerbRefused."""
    left = [
        record
        for name, record in found.items()
        if name not in cells or not cells[name].exchanges_roles
    ]
    if left:
        text = "the roles are exchanged of all pairs of a group, in one state: look, and ask again"
        raise VerbRefused([(record.name, str(record.state), text) for record in left])


def _refuse_unproved(pairs: Sequence[LivePair], found: Mapping[str, PairRecord]) -> None:
    """Raises VerbRefused where a pair that is paired has marks still."""
    for pair in pairs:
        record = found[pair.name]
        if record.state is _S.PAIRED and any(side.marked_bytes for side in pair.sides):
            text = "what was written last is not proved to be on both sides: ask again"
            raise VerbRefused([(record.name, str(record.state), text)])


def _turned_round(record: PairRecord) -> dict[str, object]:
    """What another role of this site in the pair changes, whichever it comes to have."""
    return {
        "primary": record.secondary,
        "secondary": record.primary,
        "is_followed": not record.is_followed,
        "offered_lead": False,
        "taken_over": False,
        "settles": False,
        "loan": 0,
        "term": 0,
        "good_as_of": 0.0,
    }


def _term(record: PairRecord, state: PairState, sequence: int) -> int:
    """`PairRecord.term` of a pair that is in this state from this sequence on."""
    return sequence if record.is_async and state is _S.PAIRED else 0


def _handed_over(record: PairRecord, cell: Cell, now: float) -> PairRecord:
    """The record of who led, once the lead is offered."""
    after = carried_out(record, cell, now)
    sequence = next_lead(record.sequence)
    term = _term(record, after.state, sequence)
    update = {
        "is_followed": True,
        "offered_lead": True,
        "sequence": sequence,
        "term": term,
        "good_as_of": now if term else 0.0,  # hosts are held, and both sides are the same
    }
    return after.model_copy(update=update)


def _lead_taken(record: PairRecord, state: PairState, given: Exchanged, now: float) -> PairRecord:
    """The record of who followed, once it leads."""
    reason, sequence = "", given.sequence
    if state is _S.PAIRED and record.taken_over:
        state, sequence = _S.SPLIT_BY_ERROR, sequence + 1
        reason = f"hosts used {record.secondary} before site {record.site} offered the lead"
    update = _turned_round(record) | {
        "state": state,
        "reason": reason,
        "mixture": record.primary if state is _S.COPYING else "",
        "fence": Fence.DATA if given.fenced else Fence.NEVER,
        "pace": str(Pace.parse(given.pace)),
        "journal": given.journal or record.journal,
        "sequence": sequence,
        "term": _term(record, state, sequence),
        "changed": now,
    }
    return record.model_copy(update=update)


def _taken_back(
    record: PairRecord, now: float, why: str, *, is_as_before: bool = False
) -> PairRecord:
    """The record of who had offered the lead, once it leads again. `is_as_before`: the other site
    has said that it follows, and changed nothing."""
    state = _S.SPLIT_BY_ERROR
    if is_as_before:
        state = _S.PAIRED if record.state is _S.PAIRED else _S.SWAPPED
    sequence = next_lead(record.sequence)
    update = _turned_round(record) | {
        "state": state,
        "reason": why if state is _S.SPLIT_BY_ERROR else "",
        "mixture": "",
        "sequence": sequence,
        "term": _term(record, state, sequence),
        "changed": now,
    }
    return record.model_copy(update=update)


def _conceded(record: PairRecord, now: float) -> PairRecord:
    """The record of who led, and hears that the other site does. Its hosts go on to use their
    volume, if they did."""
    is_fenced = record.state is _S.SPLIT_BY_ERROR and record.fence is Fence.DATA
    is_used = use_of_primary(record) is not Use.PROTECTED and not is_fenced
    update = _turned_round(record) | {
        "state": _S.SWAPPED if is_used else _S.SPLIT_BY_ERROR,
        "taken_over": is_used,
        "reason": f"site {record.site} leads the pair",
        "mixture": record.primary if record.mixture == record.primary else "",
        "changed": now,
    }
    return record.model_copy(update=update)
