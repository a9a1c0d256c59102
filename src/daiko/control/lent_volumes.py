"""The other site's volume as a place that second controllers of ours may write to, for the rounds
of a pair [0103-0108].

**A loan.** The other site is asked first: from when it has agreed until it is told that the round
has ended, it keeps its hosts off, lets nobody take over, and does not change where the volume lies.
Each round asks anew, for the mapping as it is then. That a round has ended is told when no second
command of it is under way: each was answered, or its session has ended, and a new one with the same
controller is there.

**What is believed.** A mapping is data from another party, and whoever is told of a device writes
to it. So a device of the other site is named to a second controller only if

- no volume of ours lies on it; and
- we have seen that the other site's volume does: what is written to a block of the volume, which is
  to be copied to anyway, is read from the device, over a session of our own. Where we do not reach
  the device, an administrator may answer for it (`daiko function set-reach`).

Whatever keeps a device, or the whole mapping, from being used is a reason in the plan, and this
controller copies there itself, over the link.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final, NamedTuple

import structlog

from daiko.backend.site_link import SiteLink
from daiko.backend.site_reading import OwnDevices, SiteMapping
from daiko.command_control.decision import Place
from daiko.command_control.function_table import FunctionTable, Known
from daiko.command_control.naming import DeviceAddress, naa_of
from daiko.command_control.plan import Function
from daiko.control.attachment import BackendUnavailable
from daiko.control.inventory import Inventory
from daiko.copy_manager.devices import Devices
from daiko.copy_manager.other_machines import OtherMachines, TargetAmbiguous
from daiko.copy_manager.site_places import SitePlace, SitePlaces
from daiko.device.awaitable import read, write
from daiko.device.error import DeviceError
from daiko.mapping.extent import DeviceId
from daiko.mapping.mapping_table import MappingTable
from daiko.pair.peers import TELL_SECONDS, Peers
from daiko.pair.site_volume import FAILURES
from daiko.pair.surroundings import PairVolume, RoundFailed, SiteRefused
from daiko.state.index import BlocksInUse
from daiko.state.pair_record import PairRecord
from daiko.state.store import Store

log = structlog.get_logger(__name__)

PROVE_SECONDS: Final = 10.0
"""To see that one device is what the other site says."""
MOST_PROVED: Final = 64
"""Devices of a volume that are looked at; what lies on others this controller copies."""
_TEST_UNIT_READY = bytes(6)


class Owner(NamedTuple):
    """A second controller that our volume lies on."""

    backend: str
    lun: int


class LentVolumes:
    """Makes such places (`pair.site_copies.Lender`)."""

    def __init__(
        self,
        store: Store,
        inventory: Inventory,
        peers: Peers,
        places: SitePlaces,
        others: OtherMachines,
        devices: Devices,
        own: Callable[[], OwnDevices],
    ) -> None:
        """`devices`: with those on other machines that are held. `own` says what we know of our
        devices."""
        self._store = store
        self._inventory = inventory
        self._peers = peers
        self._places = places
        self._others = others
        self._devices = devices
        self._own = own
        self._busy: set[str] = set()
        """Pairs (UUID) that have a round now."""

    @asynccontextmanager
    async def place(self, pair: str, ranges: Sequence[tuple[int, int]]) -> AsyncIterator[None]:
        """The secondary of this pair, which we lead, is a place of the copy manager until this is
        left, for copies of these runs of blocks (first, blocks). Raises RoundFailed, also at the
        end where it is not known that nothing is under way any more, or the other site does not
        take that."""
        record = self._store.get(PairRecord, pair)
        if record is None:
            raise RoundFailed(f"there is no pair {pair} any more")
        self._busy.add(record.uuid)
        loan = secrets.randbits(32) or 1
        has_ended = False
        try:
            why_not = await self._peers.lend(record, loan)
            found = await self._found(record, why_not, ranges)
            self._places.show(found)
            yield
            has_ended = True
        except (*FAILURES, SiteRefused) as error:
            raise RoundFailed(str(error)) from error
        finally:
            self._places.hide(record.secondary)
            self._busy.discard(record.uuid)
            failure = await self._ended(record, loan)
            if failure is not None and not has_ended:
                log.warning("loan not returned", pair=pair, error=str(failure))
        if failure is not None:
            raise failure

    async def give_back_what_is_left(self, record: PairRecord) -> None:
        """Return the loan of a pair that the other site still knows of, where no round goes on: a
        round could not, or this controller ended in it."""
        loan = self._peers.loan(record)
        if loan and record.uuid not in self._busy:
            failure = await self._ended(record, loan)
            if failure is not None:
                log.warning("loan not returned", pair=record.name, error=str(failure))

    # --- the end of a loan

    async def _ended(self, record: PairRecord, loan: int) -> RoundFailed | None:
        """See that nothing is under way, and say so to the other site. Why that failed."""
        try:
            async with asyncio.timeout(TELL_SECONDS):
                for owner in self._owners(record.primary):
                    await self._rests(owner, record)
                if self._peers.knows_loans(record):
                    await self._peers.give_back(record, loan)
        except TimeoutError:
            return RoundFailed(f"the loan of {record.secondary} was not returned in time")
        except (SiteRefused, RoundFailed) as error:
            return RoundFailed(str(error))
        return None

    async def _rests(self, owner: Owner, record: PairRecord) -> None:
        """A command that got no answer ended with its session. So there is none under way once the
        controller answers us, whatever it says. Raises RoundFailed."""
        try:
            port = self._devices.second_controller(owner.backend)
            await port.execute(owner.lun, _TEST_UNIT_READY)
        except (DeviceError, KeyError) as error:
            raise RoundFailed(
                f"{owner.backend} does not say whether it still writes to {record.secondary}: "
                f"{error}"
            ) from error

    # --- the place

    async def _found(
        self, record: PairRecord, why_not: str, ranges: Sequence[tuple[int, int]]
    ) -> SitePlace:
        """The place, delegable or not. Raises what FAILURES are."""
        volume = self._peers.volume(record)
        if why_not:
            return self._led(record, volume, why_not)
        link = self._peers.link(record.site)
        lun = next(
            (n for n, v in (await link.volumes()).items() if v.naa.hex() == record.peer_naa), None
        )
        if lun is None:
            raise SiteRefused(f"{record.secondary} is not offered to us any more")
        mapping = await link.mapping_to_copy_to(lun)
        if isinstance(mapping, str):
            return self._led(record, volume, f"site {record.site}: {mapping}")
        theirs = await link.function_table()
        directory = {
            device: _not_looked_at(record.site, address, theirs)
            for device, address in mapping.directory.items()
        }
        for device, lba in _first_blocks(mapping, ranges):
            address = await self._judged(record, volume, mapping, directory[device], lba)
            directory[device] = address
            if not address.withheld:
                await self._ask_reach(record, address)
        table = mapping.table
        place = Place(record.secondary, volume.block_size, volume.blocks, table)
        return SitePlace(place, directory, volume.device, self._generation(link))

    def _led(self, record: PairRecord, volume: PairVolume, reason: str) -> SitePlace:
        """The volume as one disk that only its own site writes to."""
        device = DeviceId(record.secondary, 0)
        address = DeviceAddress(device, volume.block_size, (), "", (), 0, False, "", reason)
        table = MappingTable.identity(device, volume.blocks)
        place = Place(record.secondary, volume.block_size, volume.blocks, table, reason)
        link = self._peers.link(record.site)
        return SitePlace(place, {device: address}, volume.device, self._generation(link))

    def _generation(self, link: SiteLink) -> Callable[[], int]:
        return lambda: link.generation

    async def _judged(
        self,
        record: PairRecord,
        volume: PairVolume,
        mapping: SiteMapping,
        address: DeviceAddress,
        lba: int,
    ) -> DeviceAddress:
        """The address, withheld for a reason or not. `lba` is the first block of the volume that is
        copied to on this device. Raises DeviceError where the link fails."""
        device = address.device
        if not address.iqn:
            reason = f"{device} is a disk of that site's first controller, which nobody reaches"
            return replace(address, withheld=reason)
        reason = self._why_ours(address)
        if not reason and not self._is_vouched_for(record, device):
            try:
                async with asyncio.timeout(PROVE_SECONDS):
                    reason = await self._why_not_proved(volume, mapping, address, lba)
            except TimeoutError:
                reason = f"{device} does not answer us, so that nobody knows what it is"
        return replace(address, withheld=reason)

    def _why_ours(self, address: DeviceAddress) -> str:
        """Whether another site calls a device its own on which volumes of ours lie."""
        own, naa = self._own(), naa_of(address)
        used = self._store.index(BlocksInUse).by_device
        same = None if naa is None else own.with_naa(naa)
        for ours in (own.at(address.iqn, address.lun), same):
            if ours is not None and used.get(ours.device):
                return f"{address.device} is our {ours.device}, on which volumes of ours lie"
        return ""

    def _is_vouched_for(self, record: PairRecord, device: DeviceId) -> bool:
        """An administrator has said that a controller of ours reaches it: so he knows it."""
        table = self._inventory.function_table()
        cells = (table.reaches(owner.backend, device) for owner in self._owners(record.primary))
        return any(cell and cell.can and cell.known is Known.DECLARED for cell in cells)

    async def _why_not_proved(
        self, volume: PairVolume, mapping: SiteMapping, address: DeviceAddress, lba: int
    ) -> str:
        """See that the device holds this block of the volume. Raises DeviceError of the link."""
        try:
            lu = await self._others.hold(address.iqn, address.portals[0], address.lun)
        except (DeviceError, TargetAmbiguous) as error:
            return (
                f"{address.device} cannot be reached from here to see what it is ({error}); "
                "`daiko function set-reach` answers for it"
            )
        try:
            device = DeviceId.parse(lu.name)
            shown, told = self._devices.directory()[device], naa_of(address)
            if told is None or told not in shown.designators:
                return f"{address.device} shows another identity than its site says, or none"
            end = mapping.table.ends[mapping.table.devices.index(address.device)]
            if lu.block_size != address.block_size or lu.blocks < end:
                return f"{address.device} has another size than its site says"
            written = secrets.token_bytes(lu.block_size)
            await write(volume.device, lba, written)
            try:
                is_there = await read(
                    self._devices.block_device(device), mapping.table.locate(lba)[1], 1
                )
            except DeviceError as error:
                return f"{address.device} cannot be read from here: {error}"
            if bytes(is_there) != written:
                return f"{address.device} does not hold what its site says: it was looked at"
            return ""
        finally:
            await self._others.release([lu.name])

    async def _ask_reach(self, record: PairRecord, address: DeviceAddress) -> None:
        """Let the controllers of ours that can copy say whether they reach the device."""
        table = self._inventory.function_table()
        for backend in {owner.backend for owner in self._owners(record.primary)}:
            cell = table.function(backend, Function.VOLUME_COPY)
            known = table.reaches(backend, address.device)
            if cell is None or not cell.can or known is not None:
                continue
            try:
                await self._inventory.reach.ask_elsewhere(backend, address)
            except BackendUnavailable as error:
                log.warning("reach not known", backend=backend, device=str(address.device),
                            error=str(error))  # fmt: skip

    def _owners(self, volume: str) -> Iterable[Owner]:
        """The second controllers that a volume of ours lies on."""
        directory = self._devices.directory()
        found: dict[str, Owner] = {}
        for device in self._devices.place(volume).table.devices:
            if device in directory and not directory[device].internal:
                found.setdefault(device.backend, Owner(*device))
        return found.values()


def _not_looked_at(site: str, address: DeviceAddress, theirs: FunctionTable) -> DeviceAddress:
    """A device as it stands before it was looked at. What its controller can do is said by its own
    site [0105], which alone gives it commands."""
    cell = theirs.function(address.device.backend, Function.VOLUME_COPY)
    commander = f"site {site}"
    if cell is not None and cell.can:
        commander += f", where it can do volume copy ({cell.known}),"
    return replace(
        address,
        commander=commander if address.iqn else "",
        withheld=f"{address.device} was not looked at: a round looks at {MOST_PROVED} devices",
    )


def _first_blocks(
    mapping: SiteMapping, ranges: Sequence[tuple[int, int]]
) -> list[tuple[DeviceId, int]]:
    """The devices that these ranges of the volume lie on, each with its first block there that is
    in one of them; no more than are looked at."""
    found: dict[DeviceId, int] = {}
    for first, blocks in ranges:
        lba = first
        for piece in mapping.table.lookup(first, blocks):
            if piece.device not in found:
                if len(found) == MOST_PROVED:
                    return list(found.items())
                found[piece.device] = lba
            lba += piece.blocks
    return list(found.items())
