"""The link to another site's first controller: what can be asked of it, and told to it
(docs/protocol.md).

`site_session.py` keeps the session up and says how the link is; `site_reading.py` judges what may
be believed of an answer. Answers are never kept: whoever asks gets what holds now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from daiko.backend.remote_lu import RemoteLu
from daiko.backend.site_reading import (
    CellList,
    MappingPages,
    OwnDevices,
    PeerRefused,
    SiteMapping,
    VolumeList,
    read_page,
)
from daiko.backend.site_session import (
    ROOM,
    LinkState,
    LinkStatus,
    NoSuchDevice,
    NotOffered,
    SiteSession,
    SiteUnavailable,
    Watcher,
)
from daiko.command_control.function_table import FunctionCell, FunctionTable
from daiko.command_control.plan import Function
from daiko.command_control.site_terms import FUNCTION_CODES, foreign
from daiko.device.error import Busy
from daiko.iscsi.chap import Account
from daiko.mapping.extent import DeviceId
from daiko.scsi import site
from daiko.scsi.layout import MalformedData
from daiko.scsi.opcode import SiteIn, SiteOut
from daiko.scsi.site_parameters import Page, Value
from daiko.scsi.site_values import Envelope, Greeting, OfferedVolume, PeerCell, values_of

ENVELOPE_ROOM: Final = 2 << 20
"""Bytes that a page of envelopes may have."""
MOST_ENVELOPES: Final = 4096
MOST_ENVELOPE_BYTES: Final = 64 << 20
"""Of all envelopes of an answer together."""


class SiteLink:
    """The link to the first controller of a site. `start` before use, `stop` at the end.

    `own_identity` is the UUID of this system in hex, `identity` that of the other one where it is
    known already. `own` says what we know of our devices. Raises ValueError where a portal is
    none."""

    def __init__(
        self,
        name: str,
        iqn: str,
        portals: Sequence[str],
        initiator_name: str,
        *,
        own_identity: str,
        own: Callable[[], OwnDevices],
        identity: str = "",
        account: Account | None = None,
        missing: str = "",
    ) -> None:
        """`account`: as whom to log in by CHAP; `missing`: why nobody can log in yet."""
        self.name = name
        self._own = own
        self._session = SiteSession(
            name, iqn, portals, initiator_name, own_identity=own_identity, identity=identity,
            account=account,
        )  # fmt: skip
        self._session.missing = missing

    @property
    def status(self) -> LinkStatus:
        """How the link is now."""
        return self._session.status

    @property
    def greeting(self) -> Greeting | None:
        """What the other first controller last said of itself; None: it never answered."""
        return self._session.greeting

    @property
    def clock_difference(self) -> float | None:
        """Seconds by which its clock was ahead of ours then; None: it never answered."""
        return self._session.clock_difference

    @property
    def version(self) -> tuple[int, int] | None:
        """Of the protocol, as the other one speaks it (major, minor)."""
        return self._session.version

    @property
    def generation(self) -> int:
        """Grows whenever what was written there before may be lost unless it was flushed."""
        return self._session.generation

    def start(self) -> None:
        """Begin to keep the link up, in the background."""
        self._session.start()

    async def stop(self) -> None:
        """Log out."""
        await self._session.stop()

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Tell `watcher` of every change of the status from now on. Returns what ends that."""
        return self._session.watch(watcher)

    def watch_identity(self, watcher: Callable[[str], None]) -> None:
        """Tell `watcher` the UUID of the other system once, where it was not known."""
        self._session.on_identity = watcher

    def use_account(self, account: Account | None, missing: str = "") -> None:
        """Log in by this from the next login on; at once where the link is not up."""
        self._session.missing = missing
        self._session.use_account(account)

    async def probe(self) -> LinkStatus:
        """Greet now, whatever was before, and say how the link is then."""
        return await self._session.probe()

    async def greet(self) -> Greeting:
        """Who the other first controller is. Raises SiteUnavailable."""
        status = await self._session.probe()
        greeting = self._session.greeting
        if status.state is not LinkState.UP or greeting is None:
            raise SiteUnavailable(f"site {self.name} is {status}")
        return greeting

    async def volumes(self) -> Mapping[int, OfferedVolume]:
        """What we are offered, by LUN. Raises SiteUnavailable."""
        return await self._session.ask(self._volumes)

    async def function_table(self) -> FunctionTable:
        """The function table of the controllers under what we are offered; they are called
        `SITE:BACKEND` [0105]. Raises SiteUnavailable."""

        async def read() -> FunctionTable:
            def page(start: int) -> bytes:
                return site.FunctionTable.pack(starting_index=start, allocation_length=ROOM)

            cells, _ = await self._session.read(
                SiteIn.FUNCTION_TABLE, page, lambda: CellList(self.name)
            )
            return cells.table()

        return await self._session.ask(read)

    async def mapping(self, lun: int) -> SiteMapping:
        """Where the volume at a LUN lies [0107, claim 12]. Raises SiteUnavailable, NotOffered."""
        return await self._session.ask(lambda: self._mapping(lun))

    async def mapping_to_copy_to(self, lun: int) -> SiteMapping | str:
        """As `mapping`; but of one that cannot be it is said why, and the link stays: who wants to
        use it copies without it."""

        async def read() -> SiteMapping | str:
            try:
                return await self._mapping(lun)
            except (PeerRefused, MalformedData) as error:
                return str(error)

        return await self._session.ask(read)

    async def ask_function(
        self, lun: int, device: DeviceId, function: Function
    ) -> FunctionCell | None:
        """Can the controller of this device, `SITE:BACKEND/LUN`, under the volume at a LUN do the
        function [0104, claim 11]? None: the other side does not know either. Raises
        SiteUnavailable, NotOffered, NoSuchDevice."""

        async def ask() -> FunctionCell | None:
            return await self._ask_function(lun, device, function)

        return await self._session.ask(ask)

    async def send_pair(self, lun: int, envelope: Envelope) -> None:
        """Give something that concerns a pair to the other side; `lun` 0 = no volume in particular.
        It is sent once: whether it arrived is not known after SiteUnavailable. Raises
        SiteUnavailable, NotOffered; Refused where the other side does not take it."""

        page = Page.of(SiteOut.PAIR_OUT, [envelope]).pack()
        cdb = site.PairOut.pack(lun=lun, parameter_list_length=len(page))
        await self._session.ask(lambda: self._session.tell(cdb, page), refused=True)

    async def pair_answers(self, lun: int) -> tuple[Envelope, ...]:
        """What the other side has to say of a pair. Raises as `send_pair`."""

        async def read() -> tuple[Envelope, ...]:
            def page(start: int) -> bytes:
                return site.PairIn.pack(
                    lun=lun, starting_index=start, allocation_length=ENVELOPE_ROOM
                )

            found, _ = await self._session.read(SiteIn.PAIR_IN, page, _Envelopes, ENVELOPE_ROOM)
            return tuple(found.envelopes)

        return await self._session.ask(read, refused=True)

    async def device(self, lun: int) -> RemoteLu:
        """The volume at a LUN as a device to be read and written. Raises SiteUnavailable,
        NotOffered."""

        async def find() -> RemoteLu:
            return await self._session.device(await self._volume(lun))

        return await self._session.ask(find)

    async def _volumes(self) -> Mapping[int, OfferedVolume]:
        def page(start: int) -> bytes:
            return site.Volumes.pack(starting_index=start, allocation_length=ROOM)

        found, _ = await self._session.read(SiteIn.VOLUMES, page, VolumeList)
        return found.volumes

    async def _volume(self, lun: int) -> OfferedVolume:
        volume = (await self._volumes()).get(lun)
        if volume is None:
            raise NotOffered(f"site {self.name} offers no volume at LUN {lun}")
        return volume

    async def _mapping(self, lun: int) -> SiteMapping:
        def page(start: int) -> bytes:
            return site.VolumeMapping.pack(lun=lun, starting_index=start, allocation_length=ROOM)

        volume = await self._volume(lun)
        pages, generation = await self._session.read(
            SiteIn.VOLUME_MAPPING, page, lambda: MappingPages(self.name)
        )
        # A million extents take seconds to check: hosts are served meanwhile.
        return await asyncio.to_thread(pages.mapping, volume, self._own(), generation)

    async def _ask_function(
        self, lun: int, device: DeviceId, function: Function
    ) -> FunctionCell | None:
        mapping = await self._mapping(lun)
        if device not in mapping.directory:
            raise NoSuchDevice(f"{mapping.volume.name} does not lie on {device}")
        cdb = site.AskFunction.pack(
            lun=lun,
            device=mapping.table.devices.index(device),
            function=FUNCTION_CODES[function],
            allocation_length=ROOM,
        )
        data = await self._session.exchange(site.MANAGEMENT_LUN, cdb, ROOM)
        page = read_page(data, SiteIn.ASK_FUNCTION, self._session.version)
        if page.generation != mapping.generation:
            raise Busy(f"{mapping.volume.name} was given another mapping meanwhile")
        found = values_of(page.descriptors)
        cell = found[0] if len(found) == 1 else None
        if not isinstance(cell, PeerCell) or cell.function != FUNCTION_CODES[function]:
            raise PeerRefused("it answers ASK FUNCTION with something else")
        if foreign(self.name, cell.controller) != device.backend:
            raise PeerRefused(f"it answers for {cell.controller}, asked about {device}")
        cells = CellList(self.name)
        cells.take([cell])
        return cells.table().function(device.backend, function)


class _Envelopes:
    """PAIR IN: envelopes."""

    most = MOST_ENVELOPES

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self._left = MOST_ENVELOPE_BYTES

    def take(self, values: Sequence[Value]) -> None:
        for value in values:
            if not isinstance(value, Envelope):
                raise PeerRefused("it sends something else where envelopes belong")
            self._left -= len(value.contents)
            if self._left < 0:
                raise PeerRefused(f"it sends envelopes of more than {MOST_ENVELOPE_BYTES} bytes")
            self.envelopes.append(value)
