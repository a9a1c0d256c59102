"""Pairs that another site leads: what its first controller says is done here, to our volume.

The other side of `Peers`. The volume is the secondary of the pair; our record of it has what the
leader said last, under the leader's sequence. A state is in our store before anything is done by
it, and before the leader is answered; so the leader knows of everything that it was told was
accepted that it outlives a crash here.

What is ours alone is the differential bitmap of our volume: what our hosts write while they may.
The leader fetches it before it copies, and it is cleared when the leader says that both sides are
the same. A leader cannot say that of a pair that it did not copy just before (`BEFORE`).

**Lending.** Second controllers of the leader's site may write to the devices of our volume
themselves, past the door, for as long as the volume is lent. We cannot stop them; so a loan is in
our store before it is granted, and until it is returned the pair stays copying here: no state that
would let hosts use the volume, or call both sides the same, is followed, and nobody takes over.

**Taking over.** When the leader's site is lost an administrator here may say that hosts use our
volume: the pair is swapped, by this side alone. From then on the leader's states are not followed,
and its writes not let in, until an administrator there has said whose data counts (`settles`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

import structlog

from daiko.backend.worker import Workers
from daiko.pair.earlier_state import good_after, in_words, term_after, why_not_taken_over
from daiko.pair.error import NoSuchPair
from daiko.pair.live_pair import PairStatus
from daiko.pair.peer_door import PeerDoor
from daiko.pair.peers import CODES, STATES
from daiko.pair.side import Side, landed, no_loss
from daiko.pair.state import COPIES, USES
from daiko.pair.surroundings import PairVolume
from daiko.pair.write_path import Flight
from daiko.scsi.pair_envelopes import (
    MOST_MARKS,
    Answer,
    Head,
    Lend,
    Marks,
    Mixture,
    Return,
    State,
    StateCode,
    Verdict,
)
from daiko.state.pair_record import PairRecord, PairState
from daiko.state.store import Store

log = structlog.get_logger(__name__)

_S: Final = PairState
_ANY: Final = frozenset(PairState)

BEFORE: Final[dict[PairState, frozenset[PairState]]] = {
    _S.COPYING: _ANY,
    _S.PAIRED: frozenset({_S.COPYING, _S.REVERSE_COPYING, _S.PAIRED}),
    _S.SPLIT: _ANY,
    _S.SPLIT_BY_ERROR: _ANY,
    _S.REVERSE_COPYING: _ANY,
    _S.SWAPPED: _ANY,
}
"""State that the leader says -> the states here in which that can be. It may have been in others in
between that we did not hear of."""

LETS_IN: Final = frozenset({_S.COPYING, _S.PAIRED})
"""States in which the leader writes to our volume."""

TAKES_OVER: Final = frozenset({_S.PAIRED, _S.SPLIT, _S.SPLIT_BY_ERROR})
"""States in which an administrator may let hosts use our volume, if it is no mixture; and while it
is an earlier state that the leader's journal still comes to."""

GOOD_SECONDS: Final = 60.0
"""Between two times that the store learns as of when an earlier state is good."""


class FollowedVolume(PairVolume, Protocol):
    """A volume of ours that is the secondary of another site's pair."""

    def door(self, site: str) -> PeerDoor:
        """By which this site writes to it."""
        ...


class CannotTakeOver(Exception):
    """Hosts cannot be sent to our volume; the message says why."""


class FollowedPair:
    """One such pair."""

    def __init__(self, record: PairRecord, side: Side, door: PeerDoor) -> None:
        self.record = record
        self.side = side
        self.lock = asyncio.Lock()
        """Held by whoever changes the state."""
        self.is_orphan = False
        """The leader, when it was asked last, knew of no such pair."""
        self._door = door

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def status(self) -> PairStatus:
        volume, record = self.side.volume, self.record
        marked = self.side.marked_bytes
        notes = [f"site {record.site} leads this pair"]
        if self.is_orphan:
            notes.append(
                f"site {record.site} has no such pair any more; `daiko pair rm {record.name}` ends "
                "it here"
            )
        if record.offered_lead:
            notes[0] = (
                f"nobody leads this pair: site {record.site} was offered the lead, and did not say "
                "that it takes it; it is asked again. If it is lost, "
                f"`daiko pair swap {record.name}` takes the lead back"
            )
        if record.is_earlier_state:
            notes.append(in_words(record))
        if record.taken_over:
            notes.append(
                f"this site has taken over: what counts is said at site {record.site}, by `resync` "
                "(what is there) or `resync --reverse` (what is here)"
            )
        if record.loan:
            notes.append(writes_past(record))
        if self.side.note:
            notes.append(f"bitmap of {volume.name}: {self.side.note}")
        return PairStatus(
            record,
            size=volume.blocks * volume.block_size,
            left=0,
            differs=0 if record.state is _S.PAIRED else marked,
            written_to_secondary=marked,
            job=None,
            limited_by=None,
            notes=tuple(notes),
        )

    def act(self) -> None:
        """Let our hosts, and the leader, use the volume as the record says."""
        record = self.record
        self.side.use(USES[record.state].secondary)
        if record.state in LETS_IN and not record.taken_over:
            self._door.open_for_writes()

    def shut(self) -> tuple[Flight, ...]:
        """Hold our hosts back and let no write of the leader in. Returns those of its writes that
        are under way."""
        self.side.hold()
        return self._door.close_for_writes()

    async def stand_still(self) -> None:
        """`shut`; returns when no write is under way."""
        await stand_still([self])

    def clear(self) -> None:
        """Both sides are the same."""
        regions = self.side.bitmap.regions.regions
        self.side.bitmap.clear(0, regions - 1)

    def answer(self, head: Head, verdict: Verdict, reason: str = "") -> Answer:
        """An answer that says how the pair is here."""
        record = self.record
        mixture = {"": Mixture.NONE, record.secondary: Mixture.SECONDARY}.get(
            record.mixture, Mixture.PRIMARY
        )
        return Answer(
            Head(head.pair, head.request, record.sequence), verdict, CODES[record.state], mixture,
            record.taken_over, self.side.marked_bytes, reason, loan=record.loan,
        )  # fmt: skip

    def marks(self, request: Marks) -> Answer:
        """Our marks from a region on, as many as an answer holds."""
        regions = self.side.bitmap.regions
        if self.record.state not in COPIES:
            reason = f"it is {self.record.state}, and copies nothing"
            return self.answer(request.head, Verdict.REFUSED, reason)
        if request.first >= regions.regions:
            return self.answer(request.head, Verdict.REFUSED, "there is no such region")
        first = _first_marked(self.side, request.first)
        answer = self.answer(request.head, Verdict.ACCEPTED)
        if first is None:
            return answer
        bits = regions.bytes_at(first >> 3, MOST_MARKS)
        end = first + 8 * len(bits)
        further = _first_marked(self.side, end) if end < regions.regions else None
        return Answer(
            answer.head, answer.verdict, answer.state, answer.mixture, answer.taken_over,
            answer.marked, "", first, further or 0, bits, answer.loan,
        )  # fmt: skip


async def stand_still(pairs: Collection[FollowedPair]) -> None:
    """Shut all of them, and wait until no write is under way. None is waited for before all are
    shut: a batch of a journal that came to one of a group would else be missing at another."""
    writes = [flight for pair in pairs for flight in pair.shut()]
    for pair in pairs:
        await pair.side.drained()
    await landed(writes)


@asynccontextmanager
async def locked(pairs: Iterable[FollowedPair]) -> AsyncGenerator[None, None]:
    """Hold all of them. They are locked by name, so that nobody waits for another for ever."""
    async with AsyncExitStack() as locks:
        for pair in sorted(pairs, key=lambda pair: pair.name):
            await locks.enter_async_context(pair.lock)
        yield


def _first_marked(side: Side, region: int) -> int | None:
    """The byte of the bitmap with the first mark from this region on, as its first region."""
    run = next(side.bitmap.regions.runs(region), None)
    return None if run is None else run[0] & ~7


def writes_past(record: PairRecord) -> str:
    """What a loan means, for the administrator."""
    return (
        f"{record.secondary} is lent: second controllers of site {record.site} may be writing to "
        "its devices, until the first controller there says that they have ended"
    )


class FollowedPairs:
    """All pairs that other sites lead."""

    def __init__(
        self,
        store: Store,
        volume: Callable[[str], FollowedVolume],
        folder: Path | None,
        clock: Callable[[], float],
        workers: Workers,
    ) -> None:
        """`volume(name)` raises LookupError. `folder` holds the bitmaps; None: they end with the
        process. Whoever gives `workers` stops them."""
        self._store = store
        self._volume = volume
        self._folder = folder
        self._clock = clock
        self._workers = workers
        self._pairs: dict[str, FollowedPair] = {}
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Take up the pairs of the store, before any host or peer can write. Raises OSError."""
        for record in self._store.list(PairRecord):
            if record.is_followed:
                self._open(record, is_new=False).act()

    async def stop(self) -> None:
        """Bring them to rest; hosts and peers are gone."""
        for pair in self.all():
            await pair.stand_still()
            await pair.side.close()

    def all(self) -> list[FollowedPair]:
        """All, by name."""
        return sorted(self._pairs.values(), key=lambda pair: pair.name)

    def pair(self, name: str) -> FollowedPair:
        """Raises NoSuchPair."""
        if name not in self._pairs:
            raise NoSuchPair(name)
        return self._pairs[name]

    def named(self, name: str) -> list[FollowedPair]:
        """The pair of this name, or those of the group. Raises NoSuchPair."""
        of_group = [pair for pair in self.all() if name and pair.record.group == name]
        return of_group or [self.pair(name)]

    def known_as(self, site: str, uuid: bytes) -> FollowedPair | None:
        """The pair with this UUID that this site leads."""
        wanted = uuid.hex()
        return next(
            (
                pair
                for pair in self._pairs.values()
                if (pair.record.uuid, pair.record.site) == (wanted, site)
            ),
            None,
        )

    def follows(self, pair: FollowedPair) -> bool:
        """Whether it is followed still; asked by whoever has waited for its lock: it may have ended
        meanwhile, or be led here."""
        return self._pairs.get(pair.name) is pair

    async def changed(self) -> None:
        """Wait until the state of one has changed."""
        await self._changed.wait()

    async def create(self, record: PairRecord) -> FollowedPair:
        """Follow a pair from now on; it is in the store when this returns. Raises LookupError (no
        such volume), OSError (the bitmap cannot be made), StoreError."""
        pair = self._open(record, is_new=True)
        try:
            await pair.stand_still()
            await self._store.put(record)
        except BaseException:
            await self._let_go(pair)
            raise
        pair.act()
        self._tell()
        return pair

    async def follow(self, pair: FollowedPair, said: State) -> Answer:
        """Do what the leader says; what is old, or cannot be, is not done, and the answer says
        so. Raises StoreError; then nothing was done."""
        offered = self._offered_with(pair)
        async with locked({pair, *offered}):
            if not self.follows(pair):
                return no_pair(said.head)
            before, state = pair.record, STATES[said.state]
            refusal = _refusal(pair, said, state)
            if refusal is not None:
                return refusal
            if said.head.sequence == before.sequence and not before.taken_over:
                return pair.answer(said.head, Verdict.ACCEPTED)
            mixture = {Mixture.NONE: "", Mixture.PRIMARY: before.primary}.get(
                said.mixture, before.secondary
            )
            term = term_after(before, state, mixture, said.head.sequence)
            record = before.model_copy(
                update={
                    "state": state,
                    "term": term,
                    "good_as_of": good_after(before, term),
                    "mixture": mixture,
                    "reason": said.reason,
                    "sequence": said.head.sequence,
                    "offered_lead": False,
                    "taken_over": False,
                    "changed": self._clock(),
                }
            )
            # Who says a state of one of them has taken the lead of all.
            taken = {
                other: other.record.model_copy(update={"offered_lead": False})
                for other in offered
                if self.follows(other) and other.record.offered_lead
            }
            await self._become(taken | {pair: record})
            pair.is_orphan = False
            if state is _S.PAIRED:
                pair.clear()
            log.info("followed pair", pair=pair.name, state=state.value, site=record.site)
            return pair.answer(said.head, Verdict.ACCEPTED)

    async def lend(self, pair: FollowedPair, asked: Lend) -> Answer:
        """Let second controllers of the leader's site write to the devices of our volume until
        they are said to have ended. Raises StoreError; then nothing was lent."""
        async with pair.lock:
            record, head = pair.record, asked.head
            if not self.follows(pair):
                return no_pair(head)
            if head.sequence != record.sequence:
                return pair.answer(head, Verdict.STALE)
            if record.taken_over:
                return pair.answer(head, Verdict.CONFLICT)
            if record.state is not _S.COPYING:
                return pair.answer(head, Verdict.REFUSED, f"it is {record.state} here, not copied")
            await self._note_loan(pair, asked.loan)
            return pair.answer(head, Verdict.ACCEPTED)

    async def take_back(self, pair: FollowedPair, said: Return) -> Answer:
        """They have ended, whatever the state is now. A loan that is not the one that there is
        changes nothing: it came late. Raises StoreError."""
        async with pair.lock:
            if not self.follows(pair):
                return no_pair(said.head)
            if pair.record.loan == said.loan:
                await self._note_loan(pair, 0)
            return pair.answer(said.head, Verdict.ACCEPTED)

    async def _note_loan(self, pair: FollowedPair, loan: int) -> None:
        record = pair.record.model_copy(update={"loan": loan})
        await self._store.put(record)
        pair.record = record
        log.info("volume lent" if loan else "loan returned", pair=pair.name, site=record.site)
        self._tell()

    async def note_good(self, pair: FollowedPair, sequence: int, moment: float) -> None:
        """The leader says, of the state of this sequence, as of when our volume is good (seconds
        since the epoch; 0 = it is not known). Raises StoreError."""
        async with pair.lock:
            before = pair.record
            if not before.is_earlier_state or before.sequence != sequence or not moment:
                return
            record = before.model_copy(update={"good_as_of": max(moment, before.good_as_of)})
            kept = self._store.get(PairRecord, pair.name)
            if kept is None or not self.follows(pair):
                return
            if not kept.good_as_of or moment >= kept.good_as_of + GOOD_SECONDS:
                await self._store.put(record)
            pair.record = record

    async def take_over(self, name: str) -> None:
        """Let hosts use our volume, or those of a consistency group as one, without the leader.
        Raises NoSuchPair, CannotTakeOver, StoreError; then nothing was done."""
        found = self.named(name)
        async with locked(found):
            if not all(map(self.follows, found)):
                raise CannotTakeOver("the other site led it until now, and no more: look again")
            self._check_taking_over(name, [pair.record for pair in found])
            records = {}
            for pair in found:
                record = pair.record
                earlier = f"; {in_words(record)}" if record.is_earlier_state else ""
                update = {
                    "state": _S.SWAPPED,
                    "taken_over": True,
                    "reason": f"taken over from site {record.site}{earlier}",
                    "changed": self._clock(),
                    "term": 0,
                }
                records[pair] = record.model_copy(update=update)
            await self._become(records)

    def _check_taking_over(self, name: str, records: list[PairRecord]) -> None:
        """Raises CannotTakeOver."""
        for record in records:
            of = f"{record.name}: " if record.name != name else ""
            if record.taken_over:
                raise CannotTakeOver(f"{of}this site has taken over already")
            if record.offered_lead:
                raise CannotTakeOver(f"{of}this site led it, and takes the lead back instead")
            if record.loan:
                raise CannotTakeOver(writes_past(record))
            if record.state not in TAKES_OVER and not record.is_draining:
                raise CannotTakeOver(f"{of}it is {record.state}")
            if record.mixture == record.secondary:
                raise CannotTakeOver(
                    f"{record.secondary} is a mixture: copying to it has not ended"
                )
        others = [
            pair.record
            for pair in self.all()
            if pair.record.group == records[0].group and pair.record not in records
        ]
        reason = why_not_taken_over(name, records, others)
        if reason:
            raise CannotTakeOver(reason)

    async def forget(self, name: str) -> None:
        """The pair is no more here; the volume keeps what is on it. Raises NoSuchPair,
        StoreError."""
        pair = self.pair(name)
        async with pair.lock:
            if not self.follows(pair):
                raise NoSuchPair(name)
            await pair.stand_still()
            try:
                await self._store.delete(PairRecord, name)
            except BaseException:
                pair.act()
                raise
            await self._let_go(pair)
            self._tell()

    # --- pairs whose lead changes between the two sites

    def adopt(self, record: PairRecord, side: Side) -> None:
        """Follow a pair that was led here, by this record, which is in the store. `side`: our
        volume, at rest."""
        door = self._volume(record.secondary).door(record.site)
        pair = self._pairs[record.name] = FollowedPair(record, side, door)
        pair.act()
        self._tell()

    def release(self, pair: FollowedPair) -> None:
        """A pair that stands still is led here from now on; its side goes with it."""
        del self._pairs[pair.name]
        self._tell()

    async def lead_is_taken(self, names: Sequence[str]) -> None:
        """The site that was offered the lead of these leads them. Raises StoreError."""
        pairs = [self._pairs[name] for name in names if name in self._pairs]
        async with locked(pairs):
            records = {
                pair: pair.record.model_copy(update={"offered_lead": False})
                for pair in filter(self.follows, pairs)
            }
            async with self._store.transaction() as change:
                for record in records.values():
                    change.put(record)
            for pair, record in records.items():
                pair.record = record
        self._tell()

    def _offered_with(self, pair: FollowedPair) -> list[FollowedPair]:
        """The pairs of which the lead was offered together with that of this one."""
        record = pair.record
        if not record.offered_lead or not record.group:
            return []
        return [other for other in self.named(record.group) if other.record.offered_lead]

    # --- inside

    async def _become(self, records: Mapping[FollowedPair, PairRecord]) -> None:
        """Let each of these pairs act by another record, once all are in the store. Raises
        StoreError; then by the same."""
        try:
            await stand_still(records)
            async with self._store.transaction() as change:
                for record in records.values():
                    change.put(record)
            for pair, record in records.items():
                pair.record = record
        finally:
            for pair in records:
                pair.act()
        self._tell()

    def _open(self, record: PairRecord, *, is_new: bool) -> FollowedPair:
        volume = self._volume(record.secondary)
        side = Side.open(
            record,
            volume,
            self._folder,
            is_new=is_new,
            workers=self._workers,
            lost=no_loss,
        )
        side.install()
        pair = self._pairs[record.name] = FollowedPair(record, side, volume.door(record.site))
        return pair

    async def _let_go(self, pair: FollowedPair) -> None:
        del self._pairs[pair.name]
        pair.side.hold()
        await pair.side.drained()
        pair.side.forget()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _refusal(pair: FollowedPair, said: State, state: PairState) -> Answer | None:
    """Why a state is not followed; None where it is."""
    record, sequence = pair.record, said.head.sequence
    if sequence < record.sequence:
        return pair.answer(said.head, Verdict.STALE)
    if record.taken_over and not (said.settles and state in COPIES):
        return pair.answer(said.head, Verdict.CONFLICT)
    if record.loan and state is not _S.COPYING:
        return pair.answer(said.head, Verdict.REFUSED, writes_past(record))
    if sequence == record.sequence and not record.taken_over:
        if state is not record.state:
            return pair.answer(
                said.head, Verdict.REFUSED, f"under this sequence it is {record.state}"
            )
    elif record.state not in BEFORE[_S.PAIRED if _is_earlier(record, said) else state]:
        return pair.answer(said.head, Verdict.REFUSED, f"it is {record.state} here, not copied")
    return None


def _is_earlier(record: PairRecord, said: State) -> bool:
    """Whether the leader says of an asynchronous pair that it copies nothing over our volume yet:
    that can be only where both were the same."""
    return record.is_async and said.state is StateCode.COPYING and said.mixture is Mixture.NONE


def no_pair(head: Head) -> Answer:
    """The answer to who speaks of a pair that there is not."""
    return Answer(head, Verdict.UNKNOWN, StateCode.NONE)
