"""The session with another site's first controller: logged in, greeted, and kept so.

Theory of operation. There is one session to the other target (a `SecondController`, which the
devices of pairs go through as well), and one task that keeps it up: it opens the session, looks
whether LUN 0 is a management unit, and greets; then it greets again every so often, and at once
when the session was lost or came back. Whatever fails becomes a state that an administrator can
read, and is tried again at growing intervals:

- *down*: nobody answers, or not in time;
- *refused*: the other target does not let us in, or what it said cannot be. Of what it said nothing
  more is believed until a new session is up, or an administrator asks again (`probe`);
- *incompatible*: it speaks another major version of the protocol.

Nothing here waits for ever: each exchange and each whole reading has a limit of its own, and while
the link is not up every question ends at once with `SiteUnavailable`. That says nothing of the
volumes of the other site; `NotOffered` and `NoSuchDevice` are its answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

import structlog

from daiko.backend.refusal import device_error
from daiko.backend.remote_lu import RemoteLu
from daiko.backend.second_controller import SecondController
from daiko.backend.site_reading import (
    PeerRefused,
    Whole,
    read_page,
    read_whole,
)
from daiko.device.block import Buffer
from daiko.device.error import Busy, DeviceError, Refused
from daiko.iscsi.chap import Account
from daiko.iscsi.error import LoginRefused, LoginStatus
from daiko.scsi import site, spc
from daiko.scsi.inquiry import StandardInquiry
from daiko.scsi.layout import MalformedData
from daiko.scsi.opcode import DeviceType, SiteIn
from daiko.scsi.sense import SenseKey, parse_sense
from daiko.scsi.site_parameters import OtherVersion
from daiko.scsi.site_values import Greeting, OfferedVolume, values_of

log = structlog.get_logger(__name__)

FIRST_RETRY: Final = 1.0
LONGEST_RETRY: Final = 30.0
"""Seconds between two attempts; doubled each time."""
GREET_SECONDS: Final = 30.0
"""Between two greetings of a link that is up."""
OPEN_SECONDS: Final = 60.0
"""For the session and the look at what is there."""
EXCHANGE_SECONDS: Final = 20.0
"""For the answer to one command."""
READING_SECONDS: Final = 120.0
"""For all pages of an answer."""
ROOM: Final = 256 << 10
"""Bytes that a page may have."""

W = TypeVar("W", bound=Whole)
T = TypeVar("T")


class LinkState(StrEnum):
    CONNECTING = "connecting"
    UP = "up"
    REFUSED = "refused"
    DOWN = "down"
    INCOMPATIBLE = "incompatible"


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """How a link is."""

    state: LinkState
    detail: str = ""
    """Why it is not up, or through which portal it is."""
    since: float = 0.0
    """Seconds since the epoch."""

    def __str__(self) -> str:
        return f"{self.state}: {self.detail}" if self.detail else str(self.state)


class SiteUnavailable(Exception):
    """The link is not up, or went down over a question; the message says how it is."""


class NotOffered(Exception):
    """The site does not offer us a volume there."""


class NoSuchDevice(Exception):
    """The volume does not lie on such a device."""


class _Fault(Exception):
    """What keeps the link from being up."""

    def __init__(self, state: LinkState, detail: str) -> None:
        super().__init__(detail)
        self.state = state


def _refused(detail: str) -> _Fault:
    return _Fault(LinkState.REFUSED, detail)


def _down(detail: str) -> _Fault:
    return _Fault(LinkState.DOWN, detail)


Watcher = Callable[[LinkStatus], None]


class SiteSession:
    """The session with the first controller of a site. `start` before use, `stop` at the end.

    `own_identity` is the UUID of this system in hex, `identity` that of the other one, where it is
    known already; `on_identity` is told it when it is not."""

    def __init__(
        self,
        name: str,
        iqn: str,
        portals: Sequence[str],
        initiator_name: str,
        *,
        own_identity: str,
        identity: str = "",
        account: Account | None = None,
    ) -> None:
        self.name = name
        self.identity = identity
        self.on_identity: Callable[[str], None] = lambda identity: None
        self.greeting: Greeting | None = None
        """What the other first controller last said of itself."""
        self.clock_difference: float | None = None
        """Seconds by which its clock was ahead of ours then."""
        self.version: tuple[int, int] | None = None
        """Of the protocol, as it last greeted."""
        self.missing = ""
        """What an administrator has to give before a login can succeed; "" = nothing."""
        self._iqn = iqn
        self._own_identity = own_identity
        self._controller = SecondController(
            f"site {name}", iqn, portals, initiator_name, account=account
        )
        self._controller.on_session = self._session_changed
        self._controller.on_reset = self._was_reset
        self._resets = 0
        self._status = LinkStatus(LinkState.CONNECTING, since=time.time())
        self._fault = ""
        """What was said that cannot be."""
        self._fault_generation = 0
        """Of the session in which it was said."""
        self._is_open = False
        self._trying = asyncio.Lock()
        self._wake = asyncio.Event()
        self._came_up = asyncio.Event()
        """The session is up, and its units were looked at."""
        self._keeper: asyncio.Task[None] | None = None
        self._watchers: list[Watcher] = []

    # --- state

    @property
    def status(self) -> LinkStatus:
        """How the link is now."""
        return self._status

    @property
    def is_up(self) -> bool:
        return self._status.state is LinkState.UP

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Tell `watcher` of every change of the status from now on. Returns what ends that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    @property
    def generation(self) -> int:
        """Grows whenever the session was lost, or a volume there may have lost what was written
        and not flushed."""
        return self._controller.generation + self._resets

    def _was_reset(self, controller: SecondController, lun: int) -> None:
        self._resets += 1

    def start(self) -> None:
        """Begin to keep the link up, in the background."""
        self._keeper = asyncio.ensure_future(self._keep_up())

    async def stop(self) -> None:
        """Log out."""
        self._controller.on_session = None
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._controller.close()

    async def probe(self) -> LinkStatus:
        """Greet now, whatever was before, and say how the link is then."""
        self._fault = ""
        await self._try()
        return self._status

    def use_account(self, account: Account | None) -> None:
        """Log in by this from the next login on, and try at once where the link is not up."""
        self._controller.use_account(account)
        self._wake.set()

    def _session_changed(self, lost: str) -> None:
        if lost:
            self._came_up.clear()
        else:
            self._came_up.set()
        if lost and self.is_up:
            self._set(LinkState.DOWN, lost)
        self._wake.set()

    def _set(self, state: LinkState, detail: str) -> None:
        # The peer's own words may be in it.
        detail = "".join(each if each.isprintable() else " " for each in detail)
        before = self._status
        if (before.state, before.detail) == (state, detail):
            return
        since = before.since if before.state is state else time.time()
        self._status = LinkStatus(state, detail, since)
        level = log.info if state is LinkState.UP else log.warning
        level("site link", site=self.name, state=state.value, detail=detail)
        for watcher in tuple(self._watchers):
            watcher(self._status)

    # --- keeping it up

    async def _keep_up(self) -> None:
        pause = FIRST_RETRY
        while True:
            self._wake.clear()
            await self._try()
            with suppress(TimeoutError):
                async with asyncio.timeout(GREET_SECONDS if self.is_up else pause):
                    await self._wake.wait()
            pause = FIRST_RETRY if self.is_up else min(2 * pause, LONGEST_RETRY)

    async def _try(self) -> None:
        """Bring the link up, or say what keeps it from that."""
        async with self._trying:
            try:
                await self._bring_up()
            except _Fault as fault:
                self._set(fault.state, str(fault))
            except Busy as error:
                self._set(LinkState.DOWN, str(error))
            else:
                nexus = self._controller.nexus
                self._set(LinkState.UP, "" if nexus is None else f"through {nexus.portal}")

    async def _bring_up(self) -> None:
        if self.missing:
            raise _refused(self.missing)
        await self._open()
        if self._fault and self._controller.generation == self._fault_generation:
            raise _refused(self._fault)
        self._fault = ""
        await self._look_at_unit()
        greeting = await self._greet()
        identity = greeting.identity.hex()
        if identity == self._own_identity:
            raise self._refusal("it is this system itself")
        if self.identity and identity != self.identity:
            raise self._refusal(f"it is another system than before: {identity}")
        if greeting.iqn.lower() != self._iqn:
            raise self._refusal(f"it calls itself {greeting.iqn}")
        self.greeting = greeting
        self.clock_difference = greeting.milliseconds / 1000 - time.time()
        if not self.identity:
            self.identity = identity
            self.on_identity(identity)

    async def _open(self) -> None:
        if not self._is_open:
            try:
                async with asyncio.timeout(OPEN_SECONDS):
                    await self._controller.open()
            except TimeoutError:
                raise _down(f"it did not say within {OPEN_SECONDS:g} s what it has") from None
            except DeviceError as error:
                raise self._not_in(str(error)) from None
            self._is_open = True
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._controller.hurry()
                if not self._controller.is_connected and not self._controller.last_error:
                    await self._came_up.wait()
        except TimeoutError:
            raise _down(f"it did not say within {OPEN_SECONDS:g} s what it has") from None
        if not self._controller.is_connected:
            raise self._not_in(self._controller.last_error)

    def _not_in(self, words: str) -> _Fault:
        """There is no session: because nobody answers, or because we are not let in."""
        refusal = self._controller.last_refusal
        if refusal is None:
            return _down(words)
        if isinstance(refusal, LoginRefused):
            if refusal.status >> 8 == _TARGET_ERROR:
                return _down(words)
            if refusal.status in _DOES_NOT_KNOW_US:
                words += (
                    "; the other administrator adds this system as a site, too, with the CHAP user "
                    "and secret by which it logs in"
                )
        return _refused(words)

    async def _look_at_unit(self) -> None:
        """A command of ours must not go to a unit that is something else."""
        cdb = spc.Inquiry.pack(allocation_length=96)
        data = await self.exchange(site.MANAGEMENT_LUN, cdb, 96)
        try:
            said = StandardInquiry.parse(data)
        except MalformedData as error:
            raise self._refusal(str(error)) from None
        is_ours = (said.vendor, said.product) == ("DAIKO", site.MANAGEMENT_PRODUCT)
        if not is_ours or said.device_type != DeviceType.STORAGE_ARRAY_CONTROLLER:
            raise self._refusal(
                f"LUN 0 is {said.vendor} {said.product}, no management unit: to the other system "
                "we are a host; its administrator adds this system as a site"
            )

    async def _greet(self) -> Greeting:
        data = await self.exchange(
            site.MANAGEMENT_LUN, site.Greet.pack(allocation_length=ROOM), ROOM
        )
        try:
            page = read_page(data, SiteIn.GREET, None)
            (greeting,) = values_of(page.descriptors)
            if not isinstance(greeting, Greeting):
                raise PeerRefused("it does not say who it is")
        except OtherVersion as error:
            raise _Fault(LinkState.INCOMPATIBLE, str(error)) from None
        except (PeerRefused, MalformedData) as error:
            raise self._refusal(str(error)) from None
        except ValueError:
            raise self._refusal("it does not say who it is") from None
        self.version = page.version
        return greeting

    async def exchange(self, lun: int, cdb: bytes, room: int) -> Buffer:
        """The data that a command answers with. Raises _Fault; and Refused, Busy, which leave the
        link as it is, for commands that may be refused."""
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                return await self._controller.ask(lun, cdb, room)
        except TimeoutError:
            what = _WORDS.get(cdb[:2], f"command {cdb[0]:02x}h")
            raise _down(f"no answer to {what} within {EXCHANGE_SECONDS:g} s") from None
        except Refused as error:
            if cdb[:2] in _MAY_BE_REFUSED:
                raise
            raise self._refusal(str(error)) from None
        except Busy:
            raise
        except DeviceError as error:
            raise _down(str(error)) from None

    def _refusal(self, reason: str) -> _Fault:
        """Something was said that cannot be: nothing more of this session is believed."""
        self._fault = reason
        self._fault_generation = self._controller.generation
        return _refused(reason)

    # --- questions

    async def ask(self, question: Callable[[], Awaitable[T]], *, refused: bool = False) -> T:
        """The answer to a question; what is wrong with it becomes the state of the link. `refused`:
        who asks can do something with Refused."""
        self._check_up()
        try:
            async with asyncio.timeout(READING_SECONDS):
                return await question()
        except TimeoutError:
            fault = _down(f"an answer that had not come to its end in {READING_SECONDS:g} s")
        except (PeerRefused, MalformedData) as error:
            # Another version among them: it greeted in ours.
            fault = self._refusal(str(error))
        except Busy as error:
            raise SiteUnavailable(f"site {self.name}: {error}") from None
        except Refused as error:
            _raise_answer(error, self.name)
            if refused:
                raise
            fault = self._refusal(str(error))
        except DeviceError as error:
            fault = _down(str(error))
        except _Fault as raised:
            fault = raised
        self._set(fault.state, str(fault))
        self._wake.set()
        self._check_up()
        raise AssertionError("the link is not up")

    def _check_up(self) -> None:
        if not self.is_up:
            raise SiteUnavailable(f"site {self.name} is {self._status}")

    async def tell(self, cdb: bytes, data: bytes) -> None:
        """Send a command with data, once. Raises Refused, and DeviceError where there is no
        answer: then nobody knows whether it arrived."""
        outcome = await self._controller.execute(
            site.MANAGEMENT_LUN, cdb, data, timeout=EXCHANGE_SECONDS
        )
        what = f"site {self.name}: PAIR"
        error = device_error(outcome.status, outcome.sense, what, writing=False)
        if error is not None:
            raise error

    async def device(self, volume: OfferedVolume) -> RemoteLu:
        """An offered volume as a device. Raises DeviceError; PeerRefused where another one is at
        its LUN."""
        if not self._shows(volume):
            # Nobody has looked since it is there, or while one unit took the place of another.
            await self._controller.refresh()
        if not self._shows(volume):
            raise PeerRefused(
                f"LUN {volume.lun} is not the volume {volume.name} that it offers there"
            )
        return self._controller.device(volume.lun)

    def _shows(self, volume: OfferedVolume) -> bool:
        facts = self._controller.units.get(volume.lun)
        return facts is not None and any(each.data == volume.naa for each in facts.identity)

    async def read(
        self,
        action: SiteIn,
        cdb: Callable[[int], bytes],
        begin: Callable[[], W],
        room: int = ROOM,
    ) -> tuple[W, int]:
        """All pages of an answer, and their generation; `cdb`: from starting index to CDB. For
        use in a question."""

        async def page(start: int) -> Buffer:
            return await self.exchange(site.MANAGEMENT_LUN, cdb(start), room)

        return await read_whole(page, action, begin, self.version)


def _raise_answer(error: Refused, name: str) -> None:
    """Raise NotOffered or NoSuchDevice where that is what the sense data say."""
    try:
        said = parse_sense(error.sense)
    except MalformedData:
        return
    field = said.field
    if said.key != SenseKey.ILLEGAL_REQUEST or field is None or not field.in_cdb:
        return
    if field.byte == site.LUN_BYTE:
        raise NotOffered(f"site {name} offers no volume there") from None
    if field.byte == site.DEVICE_BYTE:
        raise NoSuchDevice(f"the volume of site {name} lies on no such device") from None


_TARGET_ERROR: Final = 3
"""Status class of a login: the target cannot now, whoever we are."""
_DOES_NOT_KNOW_US: Final = (
    LoginStatus.AUTHENTICATION_FAILURE,
    LoginStatus.AUTHORIZATION_FAILURE,
    LoginStatus.NOT_FOUND,
)
_MAY_BE_REFUSED: Final = frozenset(
    layout.pack()[:2] for layout in (site.VolumeMapping, site.AskFunction, site.PairIn)
)
_WORDS: Final = {
    spc.Inquiry.pack()[:2]: "INQUIRY",
    **{
        layout.pack()[:2]: action.name.replace("_", " ")
        for layout, action in (
            (site.Greet, SiteIn.GREET),
            (site.Volumes, SiteIn.VOLUMES),
            (site.VolumeMapping, SiteIn.VOLUME_MAPPING),
            (site.AskFunction, SiteIn.ASK_FUNCTION),
            (site.FunctionTable, SiteIn.FUNCTION_TABLE),
            (site.PairIn, SiteIn.PAIR_IN),
        )
    },
}
