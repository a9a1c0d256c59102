"""Pairs over two sites: what a peer says of them comes in here, and what is known on both sides is
compared when a link has come up (docs/protocol.md, "Pairs").

`pair/peers.py` speaks to the sites that follow us, `pair/followed.py` does what those say that we
follow. Here is what needs the whole system: what this system consents to, and the answer to a peer.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from daiko.control import earlier_states, names, pair_checks
from daiko.control.error import Conflict, Invalid, NotFound
from daiko.pair.error import NoSuchPair, VerbRefused
from daiko.pair.exchange import is_answer_to, leads_later, taken
from daiko.pair.followed import FollowedPair, no_pair, writes_past
from daiko.pair.live_pair import LivePair
from daiko.pair.peers import CODES, head, is_known
from daiko.pair.state import EVENTS, PairEvent
from daiko.pair.surroundings import SiteRefused
from daiko.scsi import sense
from daiko.scsi.layout import MalformedData
from daiko.scsi.pair_envelopes import (
    Answer,
    Ask,
    Exchange,
    Head,
    Join,
    Leave,
    Lend,
    Marks,
    Message,
    Return,
    State,
    Verdict,
    envelope_of,
    message_of,
)
from daiko.scsi.sense import CheckCondition
from daiko.scsi.site_parameters import DESCRIPTOR_LENGTH, HEADER_LENGTH
from daiko.scsi.site_values import Envelope, shortened
from daiko.state.pair_record import PairRecord, Update
from daiko.state.record import SiteRecord, VolumeRecord
from daiko.state.store import StoreError

if TYPE_CHECKING:
    from daiko.control.system import System

log = structlog.get_logger(__name__)

AGAIN_SECONDS: Final = 30.0
"""Between two looks at pairs of which the sites do not know the same."""

_CONTENTS: Final = HEADER_LENGTH + DESCRIPTOR_LENGTH
"""Byte of a parameter list where an envelope begins, for field pointers."""


class SitePairs:
    """What peers say of pairs (`target.commands.site.PairHandler`), and what is said to them."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._answers: dict[str, Answer] = {}
        """Site -> the answer to its last request."""
        self._background: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Compare with every site whose link comes up from now on."""
        self._system.sites.on_up = lambda site: self._spawn(self.compare(site))
        self._spawn(self._compare_again())
        self._spawn(earlier_states.ask_leaders(self._system))

    async def stop(self) -> None:
        """Compare no more."""
        self._system.sites.on_up = lambda site: None
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def state_of(self, volume: str) -> str:
        """Role and state of a volume of ours in a pair; "" where it is in none."""
        for record in self._system.store.list(PairRecord):
            if volume in (record.primary, record.secondary):
                role = "primary" if volume == record.primary else "secondary"
                return f"{role}, {record.state}"
        return ""

    # --- PairHandler

    async def receive(self, site: str, lun: int, envelope: Envelope) -> None:
        """`PairHandler.receive`."""
        try:
            message = message_of(envelope)
        except MalformedData as error:
            log.warning("envelope refused", site=site, error=str(error))
            raise CheckCondition(sense.invalid_field_in_parameter_list(_CONTENTS)) from None
        self._answers[site] = await self._answer_to(site, message)

    async def answer(self, site: str, lun: int) -> Sequence[Envelope]:
        """`PairHandler.answer`."""
        answer = self._answers.get(site)
        return [] if answer is None else [envelope_of(answer)]

    async def _answer_to(self, site: str, message: Message) -> Answer:
        answer = await self._answer_as_found(site, message)
        if answer.verdict is Verdict.UNKNOWN and not isinstance(message, Join | Answer):
            led = self._led(site, message.head.pair)
            if led is not None:  # since then: an offer of the lead was just being taken
                return await self._answer_of_leader(led, message)
        return answer

    async def _answer_as_found(self, site: str, message: Message) -> Answer:
        if isinstance(message, Join):
            return await self._join(site, message)
        if isinstance(message, Answer):
            return no_pair(message.head)
        led = self._led(site, message.head.pair)
        followed = self._system.followed.known_as(site, message.head.pair)
        if led is not None:
            return await self._answer_of_leader(led, message)
        if followed is None:
            return no_pair(message.head)
        if isinstance(message, Exchange):
            return await self._take_lead(site, followed, message)
        pairs = self._system.followed
        match message:
            case State() | Lend() | Return():
                try:
                    if isinstance(message, State):
                        return await pairs.follow(followed, message)
                    if isinstance(message, Lend):
                        return await pairs.lend(followed, message)
                    return await pairs.take_back(followed, message)
                except StoreError as error:
                    return followed.answer(message.head, Verdict.REFUSED, shortened(str(error)))
            case Marks():
                return followed.marks(message)
            case Leave():
                if followed.record.loan:
                    # The volume would be an ordinary one again, and be written to past us.
                    reason = shortened(writes_past(followed.record))
                    return followed.answer(message.head, Verdict.REFUSED, reason)
                await self._system.followed.forget(followed.name)
                log.info("pair ended by its leader", pair=followed.name, site=site)
                return Answer(message.head, Verdict.ACCEPTED)
            case Ask():
                return followed.answer(message.head, Verdict.ACCEPTED)

    async def _take_lead(self, site: str, pair: FollowedPair, offer: Exchange) -> Answer:
        try:
            answer = await self._system.exchange.accept(site, offer)
        except (SiteRefused, StoreError, OSError) as error:
            return pair.answer(offer.head, Verdict.REFUSED, shortened(str(error)))
        if answer.leads:
            self._spawn(self.compare(site))
        return answer

    async def _answer_of_leader(
        self, pair: LivePair, message: State | Marks | Leave | Ask | Lend | Return | Exchange
    ) -> Answer:
        """What the site that follows asks or says of a pair that we lead."""
        record = pair.record
        verdict, reason = Verdict.ACCEPTED, ""
        if isinstance(message, Leave):
            self._spawn(self._fail(pair, f"site {record.site} has ended the pair"))
        elif isinstance(message, Exchange) and is_answer_to(message, record):
            return taken(message.head, record)
        elif not isinstance(message, Ask):
            verdict, reason = Verdict.REFUSED, "this site leads the pair"
        at = Head(message.head.pair, message.head.request, record.sequence)
        good = int(self._system.pairs.good_as_of(pair) or 0)
        state = CODES[record.state]
        return Answer(at, verdict, state, reason=reason, leads=True, good_as_of=good)

    def _led(self, site: str, uuid: bytes) -> LivePair | None:
        wanted = (uuid.hex(), site)
        return next(
            (
                pair
                for pair in self._system.pairs.all()
                if (pair.record.uuid, pair.record.site) == wanted
            ),
            None,
        )

    # --- what this system consents to

    async def _join(self, site: str, join: Join) -> Answer:
        """Another site asks us to follow."""
        if (known := self._system.followed.known_as(site, join.head.pair)) is not None:
            return known.answer(join.head, Verdict.ACCEPTED)
        try:
            async with self._system.changing:
                record = self._consent(site, join)
                pair = await self._system.followed.create(record)
        except (Conflict, Invalid, NotFound) as refusal:
            return Answer(join.head, Verdict.REFUSED, reason=shortened(refusal.message))
        except (OSError, LookupError, StoreError) as error:
            return Answer(join.head, Verdict.REFUSED, reason=shortened(str(error)))
        log.info("pair joined", pair=record.name, site=site, volume=record.secondary)
        return pair.answer(join.head, Verdict.ACCEPTED)

    def _consent(self, site: str, join: Join) -> PairRecord:
        """Our record of the pair. Raises Conflict, Invalid, NotFound where it cannot be."""
        system = self._system
        offering = system.store.get(SiteRecord, site)
        offered = () if offering is None else offering.offered.values()
        volume = system.store.get(VolumeRecord, join.secondary)
        # Whether there is a volume that is not offered is not for the peer to know.
        if volume is None or join.secondary not in offered:
            raise NotFound(f"{join.secondary} is not offered: `daiko site offer` there does that")
        if volume.naa != join.secondary_naa.hex():
            raise Conflict(f"{join.secondary} is another volume than the one that was seen")
        if (volume.blocks, volume.block_size) != (join.blocks, join.block_size):
            raise Conflict(
                f"{join.primary} has {join.blocks} blocks of {join.block_size} bytes, "
                f"{join.secondary} {volume.blocks} of {volume.block_size}"
            )
        names.name(join.name)
        names.name(join.primary, "primary")
        if join.group:
            names.name(join.group, "group")
        pair_checks.check_names(system.store, join.name, join.group)
        pair_checks.check_free(system.store, [volume])
        now = time.time()
        record = PairRecord(
            name=join.name,
            primary=f"{site}:{join.primary}",
            secondary=join.secondary,
            group=join.group,
            granularity=join.granularity,
            power_safe=join.power_safe,
            mixture=join.secondary,
            created=now,
            changed=now,
            site=site,
            uuid=join.head.pair.hex(),
            peer_naa=join.primary_naa.hex(),
            sequence=join.head.sequence,
            is_followed=True,
            update=Update.ASYNC if join.is_async else Update.SYNC,
        )
        pair_checks.check_group(system.store, record)
        return record

    # --- both sides compared

    async def ask(self, records: Sequence[PairRecord]) -> dict[str, str]:
        """Ask the sites that follow how these pairs are there. Returns pair -> why its site does
        not answer, of those that do not."""
        silent: dict[str, str] = {}
        for record in records:
            if record.is_led_over_sites:
                try:
                    await self._system.peers.ask(record)
                except SiteRefused as refused:
                    silent[record.name] = str(refused)
        return silent

    async def _compare_again(self) -> None:
        """What was not taken though the link was up (the other side was busy, say) is told later,
        too."""
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            led = [pair.record for pair in self._system.pairs.all() if pair.record.site]
            followed = [pair.record for pair in self._system.followed.all()]
            sites = {each.site for each in led if self._system.peers.notes(each)}
            for site in sites | {each.site for each in followed if each.offered_lead}:
                await self.compare(site)

    async def compare(self, site: str) -> None:
        """See that this site and another one, to which the link has come up, say, know the same of
        their pairs."""
        led_there: defaultdict[str, list[LivePair]] = defaultdict(list)
        for pair in self._system.pairs.all():
            if pair.record.site == site:
                try:
                    if await self._compare_pair(pair):
                        led_there[pair.record.group or pair.name].append(pair)
                except SiteRefused as refused:
                    log.warning("pair not compared", pair=pair.name, error=str(refused))
        for pairs in led_there.values():
            await self._concede(pairs)
        try:
            await self._system.exchange.offer_again(site)
        except (SiteRefused, StoreError, OSError) as error:
            log.warning("lead not offered", site=site, error=str(error))
        for followed in self._system.followed.all():
            if followed.record.site == site and not followed.record.offered_lead:
                try:
                    answer = await self._system.peers.exchange(site, Ask(head(followed.record)))
                except SiteRefused as refused:
                    log.warning("pair not compared", pair=followed.name, error=str(refused))
                else:
                    followed.is_orphan = answer.verdict is Verdict.UNKNOWN

    async def _compare_pair(self, pair: LivePair) -> bool:
        """A pair that we lead. Returns whether the other side leads it, under a later lead. Raises
        SiteRefused where that cannot be asked."""
        peers, site = self._system.peers, pair.record.site
        answer = await peers.ask(pair.record)
        # As it is in the store: the other side may have been told of a state just now.
        record = self._system.store.get(PairRecord, pair.name)
        if record is None or record.is_followed:
            return False
        if answer.leads and leads_later(answer.head.sequence, record.sequence):
            return True
        if answer.verdict is Verdict.UNKNOWN:
            await self._fail(pair, f"site {site} has no such pair any more")
        elif answer.taken_over and not record.settles:
            await self._system.pairs.taken_over(record, f"site {site} has taken over")
        elif answer.head.sequence > record.sequence:
            await self._fail(
                pair, f"site {site} knows a later state of this pair: our store is an older one"
            )
        else:
            if answer.loan:
                await self._system.lent.give_back_what_is_left(record)
            if not is_known(record, answer):
                await peers.tell(record)
            await peers.find(record)
            pair.hurry()
        return False

    async def _concede(self, pairs: Sequence[LivePair]) -> None:
        try:
            await self._system.exchange.concede(pairs)
        except (NoSuchPair, VerbRefused, StoreError, OSError) as error:
            log.error("lead not conceded", pair=pairs[0].name, error=str(error))

    async def _fail(self, pair: LivePair, why: str) -> None:
        if PairEvent.FAIL in EVENTS[pair.record.state]:
            await self._system.pairs.fail(pair.name, why)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
