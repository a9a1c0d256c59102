"""Other first controllers, which follow where this one leads (`surroundings.OtherSites`).

A request goes out in a PAIR OUT, and a PAIR IN brings its answer; one request at a time to a site.
All of them can be repeated, so whoever does not know whether one arrived sends it again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Callable
from typing import Final

import structlog

from daiko.backend.site_link import SiteLink
from daiko.device.error import DeviceError
from daiko.mapping.region_bitmap import RegionBitmap
from daiko.pair.settings import PairSettings
from daiko.pair.site_volume import FAILURES, SiteVolume
from daiko.pair.surroundings import PairVolume, SiteRefused
from daiko.pair.telling import Telling
from daiko.scsi.layout import MalformedData
from daiko.scsi.pair_envelopes import (
    Answer,
    Ask,
    Head,
    Join,
    Leave,
    Lend,
    Marks,
    Mixture,
    Request,
    Return,
    State,
    StateCode,
    Verdict,
    envelope_of,
    message_of,
)
from daiko.scsi.site_values import shortened
from daiko.state.pair_record import PairRecord, PairState

log = structlog.get_logger(__name__)

TELL_SECONDS: Final = 10.0
"""For the other site to take a state. Hosts wait meanwhile; what it did not take it is told
later."""

LENDS: Final = (1, 1)
"""Version of the protocol from which on volumes are lent."""
EXCHANGES: Final = (1, 2)
"""Version from which on roles are exchanged."""
FOLLOWS_ASYNC: Final = (1, 2)
"""Version from which on who follows knows what an asynchronous pair is."""

CODES: Final = {
    PairState.COPYING: StateCode.COPYING,
    PairState.PAIRED: StateCode.PAIRED,
    PairState.SPLIT: StateCode.SPLIT,
    PairState.SPLIT_BY_ERROR: StateCode.SPLIT_BY_ERROR,
    PairState.REVERSE_COPYING: StateCode.REVERSE_COPYING,
    PairState.SWAPPED: StateCode.SWAPPED,
}
"""The states of the store as they are sent."""
STATES: Final = {code: state for state, code in CODES.items()}


class Peers:
    """All other sites. Volumes and answers are kept by pair."""

    def __init__(
        self,
        link: Callable[[str], SiteLink],
        volume: Callable[[str], PairVolume],
        settings: PairSettings,
    ) -> None:
        """`link(site)` raises KeyError, `volume(name)` (of ours) LookupError."""
        self._link = link
        self._volume = volume
        self._settings = settings
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._volumes: dict[str, SiteVolume] = {}
        """Pair (UUID) -> the volume at the other site."""
        self._said: dict[str, Answer | str] = {}
        """Pair (UUID) -> what its other site answered last, or why it did not."""
        self.telling = Telling()
        """Of asynchronous pairs: their hosts do not wait for that."""

    # --- OtherSites

    def volume(self, record: PairRecord) -> PairVolume:
        """`OtherSites.volume`."""
        found = self._volumes.get(record.uuid)
        if found is None:
            own = self._volume(record.primary)
            found = self._volumes[record.uuid] = SiteVolume(
                record, own.blocks, own.block_size, lambda: self._link(record.site)
            )
        return found

    async def tell(self, record: PairRecord) -> None:
        """`OtherSites.tell`."""
        if record.is_async:
            self.telling.begin(record.uuid, self._tell(record))
        else:
            await self._tell(record)

    async def _tell(self, record: PairRecord) -> None:
        try:
            async with asyncio.timeout(TELL_SECONDS):
                answer = await self.state(record)
        except TimeoutError:
            self._said[record.uuid] = f"it did not answer within {TELL_SECONDS:g} s"
            log.warning("state of a pair not told in time", pair=record.name, site=record.site)
        except SiteRefused as refused:
            log.warning("state of a pair not told", pair=record.name, error=str(refused))
        else:
            if answer.verdict is not Verdict.ACCEPTED:
                log.warning("state of a pair not taken", pair=record.name, reason=said(answer))

    async def enter(self, record: PairRecord) -> RegionBitmap:
        """`OtherSites.enter`."""
        # Of an asynchronous pair the one who asks tries for as long as it takes.
        tries = iter(() if record.is_async else self._settings.retry_seconds)
        while True:
            try:
                return await self._enter(record)
            except SiteRefused:
                pause = next(tries, None)
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    def forget(self, record: PairRecord) -> None:
        """The pair is led from here no more."""
        self._said.pop(record.uuid, None)
        self._volumes.pop(record.uuid, None)

    async def leave(self, record: PairRecord) -> None:
        """`OtherSites.leave`."""
        self.forget(record)
        if record.is_async:
            self.telling.begin(record.uuid, self._tell_of_end(record))
        else:
            await self._tell_of_end(record)

    async def _tell_of_end(self, record: PairRecord) -> None:
        try:
            async with asyncio.timeout(TELL_SECONDS):
                await self.exchange(record.site, Leave(head(record)))
        except (SiteRefused, TimeoutError) as refused:
            log.warning("end of a pair not told", pair=record.name, error=str(refused))

    def marked_bytes(self, record: PairRecord) -> int:
        """`OtherSites.marked_bytes`."""
        answer = self._said.get(record.uuid)
        return answer.marked if isinstance(answer, Answer) else 0

    def has_taken_over(self, record: PairRecord) -> bool:
        """`OtherSites.has_taken_over`."""
        answer = self._said.get(record.uuid)
        return isinstance(answer, Answer) and answer.taken_over

    def notes(self, record: PairRecord) -> tuple[str, ...]:
        """`OtherSites.notes`."""
        answer = self._said.get(record.uuid, "it was not asked yet")
        if isinstance(answer, str):
            return (f"what site {record.site} has marked is not known: {answer}",)
        if answer.taken_over:
            return (
                f"conflict: site {record.site} has taken over, and its hosts use "
                f"{record.secondary}; `resync` keeps what is here, `resync --reverse` what is "
                "there",
            )
        if answer.verdict is Verdict.UNKNOWN:
            return (f"site {record.site} has no such pair any more; `daiko pair rm` ends it here",)
        if not is_known(record, answer):
            return (f"site {record.site} does not know of this state yet",)
        return ()

    # --- asking

    async def join(self, record: PairRecord) -> Answer:
        """Ask the other site to follow. Raises SiteRefused where it does not answer."""
        own = self._volume(record.primary)
        return await self.exchange(
            record.site,
            Join(
                head(record), record.name, record.group, record.primary,
                record.secondary.partition(":")[2], bytes.fromhex(own.naa),
                bytes.fromhex(record.peer_naa), own.blocks, own.block_size, record.granularity,
                record.power_safe, record.is_async,
            ),
        )  # fmt: skip

    async def state(self, record: PairRecord) -> Answer:
        """Tell the other site the state of a pair. Raises SiteRefused where it does not answer."""
        mixture = {
            "": Mixture.NONE,
            record.primary: Mixture.PRIMARY,
            record.secondary: Mixture.SECONDARY,
        }[record.mixture]
        message = State(
            head(record), CODES[record.state], mixture, record.settles, shortened(record.reason)
        )
        return await self._noted(record, message)

    async def ask(self, record: PairRecord) -> Answer:
        """Ask the other site how the pair is there. Raises SiteRefused where it does not
        answer."""
        return await self._noted(record, Ask(head(record)))

    async def lend(self, record: PairRecord, loan: int) -> str:
        """Ask for the devices of the other site's volume, for our second controllers to write to.
        "" where they are lent, else why not. Raises SiteRefused where it does not answer: whether
        they are lent is not known then."""
        if too_old := _too_old(self.link(record.site), LENDS, "volumes are lent"):
            return too_old
        answer = await self._noted(record, Lend(head(record), loan))
        if answer.verdict is Verdict.ACCEPTED:
            return ""
        return f"site {record.site} does not lend {record.secondary}: {said(answer)}"

    async def give_back(self, record: PairRecord, loan: int) -> None:
        """Tell the other site that nothing of a loan is under way any more. Raises SiteRefused
        where it does not answer, or does not take it."""
        answer = await self._noted(record, Return(head(record), loan))
        if answer.verdict not in (Verdict.ACCEPTED, Verdict.UNKNOWN):
            raise SiteRefused(f"site {record.site} does not take a loan back: {said(answer)}")

    def why_not_async(self, record: PairRecord) -> str:
        """Why the other site cannot follow this pair, where it is asynchronous; "" = it can. Raises
        SiteRefused."""
        if not record.is_async:
            return ""
        return _too_old(self.link(record.site), FOLLOWS_ASYNC, "asynchronous pairs are followed")

    def knows_loans(self, record: PairRecord) -> bool:
        """Whether the protocol that the other site speaks has loans. Raises SiteRefused."""
        return _spoken(self.link(record.site)) >= LENDS

    def knows_exchange(self, record: PairRecord) -> bool:
        """Whether it has an exchange of roles. Raises SiteRefused."""
        return _spoken(self.link(record.site)) >= EXCHANGES

    def loan(self, record: PairRecord) -> int:
        """The loan that the other site, when it was asked last, called not returned; 0 = none."""
        answer = self._said.get(record.uuid)
        return answer.loan if isinstance(answer, Answer) else 0

    def link(self, site: str) -> SiteLink:
        """The link to a site. Raises SiteRefused where there is none."""
        try:
            return self._link(site)
        except KeyError:
            raise SiteRefused(f"there is no site {site}") from None

    async def find(self, record: PairRecord, *, at_once: bool = False) -> None:
        """Find the volume at the other site as it is now; `at_once`: a link that is down is tried
        first. Raises SiteRefused."""
        if at_once:
            await self.link(record.site).probe()
        volume = self._volumes.get(record.uuid)
        if volume is not None:
            try:
                await volume.find()
            except FAILURES as error:
                raise SiteRefused(f"{record.secondary}: {error}") from error

    async def exchange(self, site: str, message: Request) -> Answer:
        """The answer to a request. Raises SiteRefused where there is none."""
        async with self._locks[site]:
            try:
                link = self._link(site)
                await link.send_pair(0, envelope_of(message))
                envelopes = await link.pair_answers(0)
                for envelope in envelopes:
                    found = message_of(envelope)
                    if isinstance(found, Answer) and found.head.request == message.head.request:
                        return found
            except KeyError:
                raise SiteRefused(f"there is no site {site}") from None
            except DeviceError as error:
                raise SiteRefused(f"site {site} takes no pairs: {error}") from error
            except MalformedData as error:
                raise SiteRefused(f"site {site} answers what cannot be: {error}") from error
            except FAILURES as error:
                raise SiteRefused(str(error)) from error
        raise SiteRefused(f"site {site} does not answer what it was asked")

    async def _noted(self, record: PairRecord, message: Request) -> Answer:
        try:
            answer = await self.exchange(record.site, message)
        except SiteRefused as refused:
            self._said[record.uuid] = str(refused)
            raise
        self._said[record.uuid] = answer
        return answer

    async def _enter(self, record: PairRecord) -> RegionBitmap:
        """One try of `enter`."""
        answer = await self.state(record)
        if answer.verdict is not Verdict.ACCEPTED:
            raise SiteRefused(f"site {record.site}: {said(answer)}")
        await self.find(record)
        return await self._marks(record)

    async def _marks(self, record: PairRecord) -> RegionBitmap:
        """The marks of the other site, page by page. They stand still in a state in which one side
        is copied to the other. Raises SiteRefused."""
        volume = self._volume(record.primary)
        shift = (record.granularity // volume.block_size).bit_length() - 1
        marks = RegionBitmap(volume.blocks, shift)
        first = 0
        while True:
            answer = await self.exchange(record.site, Marks(head(record), first))
            if answer.verdict is not Verdict.ACCEPTED:
                raise SiteRefused(f"site {record.site}: {said(answer)}")
            try:
                if answer.bits:
                    marks.load(answer.first >> 3, answer.bits)
            except ValueError as error:
                raise SiteRefused(f"site {record.site} marks what is not there: {error}") from error
            if not answer.next:
                return marks
            if answer.next <= first or answer.next >= marks.regions:
                raise SiteRefused(f"site {record.site} comes to no end with its marks")
            first = answer.next


def _spoken(link: SiteLink) -> tuple[int, int]:
    """Version of the protocol that the other site speaks."""
    return link.version or (0, 0)


def _too_old(link: SiteLink, least: tuple[int, int], what: str) -> str:
    """Why something (`what`: "volumes are lent") that the protocol has from a version on cannot be
    had with the other site; "" = it can."""
    spoken = _spoken(link)
    if spoken >= least:
        return ""
    has, needs = (f"{major}.{minor}" for major, minor in (spoken, least))
    return f"site {link.name} speaks version {has} of the protocol, and {what} from {needs} on"


def is_known(record: PairRecord, answer: Answer) -> bool:
    """Whether a site that follows knows of the state that our record has. A copying asynchronous
    pair may be in one of two."""
    if record.is_async and answer.head.sequence != record.sequence:
        return False
    return STATES.get(answer.state) is record.state


def head(record: PairRecord) -> Head:
    """The head of a request that concerns this pair."""
    return Head(bytes.fromhex(record.uuid), secrets.randbits(64), record.sequence)


def said(answer: Answer) -> str:
    """Why a request was not accepted, in words."""
    match answer.verdict:
        case Verdict.UNKNOWN:
            return "it has no such pair any more"
        case Verdict.STALE:
            return f"it knows a later state of the pair: {answer.state.name.lower()}"
        case Verdict.CONFLICT:
            return "it has taken over, and its hosts use their volume"
    return answer.reason or "it refuses without a reason"
