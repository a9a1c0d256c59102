"""Pairs that change their state as one: a consistency group, or a pair alone.

Every change of state goes the same way: what works for the pairs stops, hosts' changes are held,
what is in flight comes back, the new states go into the store together, and then each pair acts by
its own. So a split of several pairs is of one instant: a host that has seen a write acknowledged
finds it on the secondary, whichever volume it went to, and no later one.

When the secondary of one paired member is lost, all paired members split with it: otherwise the
secondaries that are left would go on to receive writes that depend on one that is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import structlog

from daiko.pair.error import VerbRefused
from daiko.pair.live_pair import LivePair
from daiko.pair.settings import PairSettings
from daiko.pair.state import EVENTS, Answer, Cell, PairEvent, Verb, asked, carried_out, moved
from daiko.state.record import PairRecord, PairState
from daiko.state.store import StoreError

log = structlog.get_logger(__name__)

Keep = Callable[[Iterable[PairRecord], Iterable[str]], Awaitable[None]]
"""Puts records into the store and takes those of these names out, in one transaction. Raises
StoreError."""


def _going(records: Mapping[str, PairRecord], verb: Verb) -> dict[str, Cell]:
    """What the verb does to those pairs that it does anything to. Raises VerbRefused."""
    cells = {name: asked(record, verb) for name, record in records.items()}
    refusals = [
        (name, str(records[name].state), cell.text)
        for name, cell in cells.items()
        if cell.answer is Answer.REFUSED
    ]
    if refusals:
        raise VerbRefused(refusals)
    return {name: cell for name, cell in cells.items() if cell.answer is Answer.GOES}


class Group:
    """One or more pairs, by name. Changed by `Pairs` alone."""

    def __init__(self, keep: Keep, clock: Callable[[], float], settings: PairSettings) -> None:
        self.pairs: dict[str, LivePair] = {}
        self._keep = keep
        self._clock = clock
        self._settings = settings
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Wait until the state of a pair has changed."""
        await self._changed.wait()

    async def verb(self, names: Sequence[str], verb: Verb) -> list[LivePair]:
        """Do what is asked to these pairs, to all as one; returns those to which anything was
        done: none where there was nothing to do. Raises VerbRefused, StoreError; then nothing was
        changed."""
        async with self._lock:
            going = _going({name: self.pairs[name].record for name in names}, verb)
            concerned = [self.pairs[name] for name in going]
            await self._stand_still(concerned)
            now = self._clock()
            # A paired one may have turned out not to be the same (a disk has lost its cache).
            found = {pair.name: pair.record_as_found(now) for pair in concerned}
            try:
                cells = _going(found, verb)
            except VerbRefused:
                await self._insist(found.values())
                await self._act(concerned, found)
                self._tell()
                raise
            records = {
                name: carried_out(found[name], cell, now)
                for name, cell in cells.items()
                if cell.state is not None
            }
            gone = [name for name in cells if name not in records]
            try:
                await self._keep(records.values(), gone)
            except StoreError:
                await self._act(concerned, {})
                raise
            await self._act([self.pairs[name] for name in records], records)
            for name in gone:
                await self.pairs.pop(name).forget()
            self._tell()
            return concerned

    async def set_pace(self, names: Sequence[str], pace: str) -> None:
        """Let these pairs copy at another pace. Raises StoreError."""
        async with self._lock:
            records = {
                name: self.pairs[name].record.model_copy(update={"pace": pace}) for name in names
            }
            await self._keep(records.values(), ())
            for name, record in records.items():
                await self.pairs[name].use_pace(record)

    async def happened(self, pair: LivePair, event: PairEvent, why: str) -> None:
        """Something happened to a pair: the states that follow are in the store when this
        returns, however often that has to be tried."""
        async with self._lock:
            if event not in EVENTS[pair.record.state] or pair.name not in self.pairs:
                pair.answer_losses()
                return
            concerned = [pair]
            if event is PairEvent.FAIL and pair.record.state is PairState.PAIRED:
                concerned += [
                    other
                    for other in self.pairs.values()
                    if other is not pair and other.record.state is PairState.PAIRED
                ]
            await self._stand_still(concerned)
            if event is PairEvent.EQUAL and not pair.is_equal:
                await self._act([pair], {})  # a write came in between that was lost
                return
            now = self._clock()
            records = {
                each.name: moved(
                    each.record,
                    EVENTS[each.record.state][event],
                    now,
                    reason=why if each is pair else f"with pair {pair.name}: {why}",
                )
                for each in concerned
            }
            await self._insist(records.values())
            log.info("pair", pair=pair.name, state=str(pair.record.state), became=event, why=why)
            await self._act(concerned, records)
            self._tell()

    async def _stand_still(self, pairs: Sequence[LivePair]) -> None:
        for pair in pairs:
            await pair.rest()
        for pair in pairs:
            pair.hold()
        for pair in pairs:
            await pair.drained()
        for pair in pairs:
            if pair.record.state is PairState.PAIRED and not pair.has_losses:
                await pair.settle()

    async def _act(self, pairs: Sequence[LivePair], records: Mapping[str, PairRecord]) -> None:
        for pair in pairs:
            await pair.act(records.get(pair.name, pair.record))

    async def _insist(self, records: Iterable[PairRecord]) -> None:
        """Until the store has them, hosts wait: what they would be told may not be true after a
        crash."""
        records = list(records)
        while True:
            try:
                await self._keep(records, ())
            except StoreError as error:
                log.error("states of pairs not kept, tried again", error=str(error))
                await asyncio.sleep(self._settings.store_seconds)
            else:
                return

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
