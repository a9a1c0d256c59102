"""Reading what another site's first controller says: all pages of it, and whether it can be so.

A peer is believed no further than it may speak: of its own volumes and of the devices under them.
What it says is used for those volumes only, under names that none of ours can have
(`command_control/site_terms.py`). What cannot be is refused as a whole: `PeerRefused` says what is
wrong, in words for the administrator.

**Pages.** Each must follow on the one before, be of the same generation, total and protocol
version, and bring something. Another generation begins the reading anew, as often as `READINGS`
says. Every total has a bound that is known before anything of it is kept.

**A mapping** must cover exactly the volume it is for, from block 0 on, in blocks of its size; no
two extents may lie on the same blocks; no LU may be named twice. A device that is also one of ours
(by iSCSI name and LUN, or by an NAA designator) must be as we know it, and large enough.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, Protocol, TypeVar

from daiko.command_control.function_table import FunctionCell, FunctionTable, ReachCell
from daiko.command_control.naming import DeviceAddress, naa_of
from daiko.command_control.plan import Function
from daiko.command_control.site_terms import FUNCTIONS, foreign, function_cell, reach_cell
from daiko.device.block import Buffer
from daiko.initiator.portal import Portal
from daiko.mapping.extent import DeviceId
from daiko.mapping.mapping_table import MappingTable
from daiko.scsi.site_parameters import Page
from daiko.scsi.site_values import (
    MappedDevice,
    MappedExtent,
    OfferedVolume,
    PeerCell,
    PeerReach,
    PeerValue,
    values_of,
)

READINGS: Final = 3
"""How often an answer is read from the beginning because it changed meanwhile."""
MOST_VOLUMES: Final = 0x3FFF
MOST_CELLS: Final = 0x4000
MOST_DEVICES: Final = 4096
"""Of one volume."""
MOST_EXTENTS: Final = 1 << 20
"""Of one volume."""
LONGEST_ISCSI_NAME: Final = 223
"""Bytes (RFC 7143, 4.2.7.1)."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")


class PeerRefused(Exception):
    """What the peer said cannot be; the message says why."""


class OwnDevice(NamedTuple):
    """A device of ours that a peer speaks of, too."""

    device: DeviceId
    block_size: int
    blocks: int
    address: DeviceAddress


class OwnDevices(Protocol):
    """What this controller knows of its own devices."""

    def at(self, iqn: str, lun: int) -> OwnDevice | None:
        """The device at this target and LUN."""

    def with_naa(self, designator: bytes) -> OwnDevice | None:
        """The device that shows this designator (with its header)."""


@dataclass(frozen=True, slots=True)
class SiteMapping:
    """Where an offered volume of another site lies. In blocks."""

    volume: OfferedVolume
    table: MappingTable
    """Its devices are called `SITE:BACKEND/LUN`."""
    directory: Mapping[DeviceId, DeviceAddress]
    """What a second command needs to name each."""
    portal_group_tags: Mapping[DeviceId, int]
    """Through which the peer reaches each; 0 = it does not say."""
    generation: int


class Whole(Protocol):
    """What an answer is read into."""

    most: int
    """Descriptors that it may have."""

    def take(self, values: Sequence[PeerValue]) -> None:
        """The next ones. Raises PeerRefused."""


W = TypeVar("W", bound=Whole)
Ask = Callable[[int], Awaitable[Buffer]]
"""Starting index -> the page from there on."""


def read_page(data: Buffer, action: int, version: tuple[int, int] | None) -> Page:
    """One page that answers a service action, in the version that the peer greeted us in. Raises
    PeerRefused, OtherVersion, MalformedData."""
    page = Page.parse(data)
    if version is not None and page.version != version:
        spoken = " and ".join(f"{major}.{minor}" for major, minor in (version, page.version))
        raise PeerRefused(f"it speaks the versions {spoken} by turns")
    if page.service_action != action:
        raise PeerRefused(f"it answers service action {page.service_action}, not {action}")
    return page


async def read_whole(
    ask: Ask, action: int, begin: Callable[[], W], version: tuple[int, int] | None
) -> tuple[W, int]:
    """All pages of an answer, in what `begin` makes, and their generation. Raises as `read_page`,
    and whatever `ask` raises."""
    for _ in range(READINGS):
        whole = begin()
        page = read_page(await ask(0), action, version)
        generation, total = page.generation, page.total
        if total > whole.most:
            raise PeerRefused(f"it announces {total} descriptors, where {whole.most} are allowed")
        at = 0
        while True:
            if (page.first, page.total) != (at, total):
                raise PeerRefused(
                    f"it sends descriptor {page.first} of {page.total}, not {at} of {total}"
                )
            whole.take(values_of(page.descriptors))
            at += len(page.descriptors)
            if at == total:
                return whole, generation
            if not page.descriptors:
                raise PeerRefused(f"it sends nothing after descriptor {at} of {total}")
            page = read_page(await ask(at), action, version)
            if page.generation != generation:
                break
    raise PeerRefused(f"it changed what it says on each of {READINGS} readings")


def _wrong_kind(value: PeerValue, wanted: str) -> PeerRefused:
    return PeerRefused(f"it sends a {type(value).__name__} where {wanted} belong")


class VolumeList:
    """VOLUMES: what the peer offers us, by LUN."""

    most = MOST_VOLUMES

    def __init__(self) -> None:
        self.volumes: dict[int, OfferedVolume] = {}
        self._seen: set[str | bytes] = set()

    def take(self, values: Sequence[PeerValue]) -> None:
        for value in values:
            if not isinstance(value, OfferedVolume):
                raise _wrong_kind(value, "volumes")
            if not _NAME.fullmatch(value.name):
                raise PeerRefused(f"it calls a volume {value.name!r}")
            if value.lun in self.volumes or self._seen & {value.name, value.naa}:
                raise PeerRefused(f"it offers {value.name} (LUN {value.lun}) twice")
            self.volumes[value.lun] = value
            self._seen |= {value.name, value.naa}


class CellList:
    """FUNCTION TABLE and ASK FUNCTION: cells of the peer's controllers."""

    most = MOST_CELLS

    def __init__(self, site: str) -> None:
        self._site = site
        self._functions: list[tuple[str, Function, FunctionCell]] = []
        self._reach: list[tuple[str, str, ReachCell]] = []

    def take(self, values: Sequence[PeerValue]) -> None:
        for value in values:
            match value:
                case PeerCell():
                    self._take_function(value)
                case PeerReach():
                    self._take_reach(value)
                case _:
                    raise _wrong_kind(value, "cells")

    def table(self) -> FunctionTable:
        """The table, of controllers called `SITE:BACKEND`."""
        return FunctionTable.of(self._functions, self._reach)

    def _take_function(self, value: PeerCell) -> None:
        cell = function_cell(value)
        function = FUNCTIONS.get(value.function)
        _check_name(value.controller)
        if cell is not None and function is not None:
            self._functions.append((foreign(self._site, value.controller), function, cell))

    def _take_reach(self, value: PeerReach) -> None:
        cell = reach_cell(value)
        _check_name(value.controller)
        _check_name(_device_id(value.device).backend if "/" in value.device else value.device)
        if cell is not None:
            controller, device = (
                foreign(self._site, name) for name in (value.controller, value.device)
            )
            self._reach.append((controller, device, cell))


class MappingPages:
    """VOLUME MAPPING: devices, then extents, as they come."""

    most = MOST_DEVICES + MOST_EXTENTS

    def __init__(self, site: str) -> None:
        self._site = site
        self.devices: list[MappedDevice] = []
        self._ids: list[DeviceId] = []
        self._blocks = array("Q")
        self._lbas = array("Q")
        self._index = array("I")
        self._end = 0

    def take(self, values: Sequence[PeerValue]) -> None:
        for value in values:
            if isinstance(value, MappedExtent):
                self._take_extent(value)
            elif isinstance(value, MappedDevice):
                self._take_device(value)
            else:
                raise _wrong_kind(value, "devices and extents")

    def _take_device(self, device: MappedDevice) -> None:
        if len(self._index) or device.number != len(self.devices):
            raise PeerRefused(f"it numbers {device.name} {device.number}, out of order")
        if len(self.devices) == MOST_DEVICES:
            raise PeerRefused(f"a volume of more than {MOST_DEVICES} devices")
        name = _device_id(device.name)
        if name.lun != device.lun:
            raise PeerRefused(f"it calls LUN {device.lun} {device.name}")
        _check_name(name.backend)
        try:
            for portal in device.portals:
                Portal.parse(portal)
        except ValueError as error:
            raise PeerRefused(f"{device.name}: {error}") from None
        if len(device.iqn.encode()) > LONGEST_ISCSI_NAME or " " in device.iqn:
            raise PeerRefused(f"{device.name} has the iSCSI name {device.iqn!r}")
        self.devices.append(device)
        self._ids.append(DeviceId(foreign(self._site, name.backend), name.lun))

    def _take_extent(self, extent: MappedExtent) -> None:
        if extent.lba != self._end:
            gap = "leaves a gap before" if extent.lba > self._end else "has two extents for"
            raise PeerRefused(f"its mapping {gap} block {max(extent.lba, self._end)} of the volume")
        if extent.device >= len(self.devices):
            raise PeerRefused(f"its mapping names device {extent.device}, which it did not send")
        if len(self._index) == MOST_EXTENTS:
            raise PeerRefused(f"a volume of more than {MOST_EXTENTS} extents")
        self._blocks.append(extent.blocks)
        self._lbas.append(extent.device_lba)
        self._index.append(extent.device)
        self._end += extent.blocks

    def mapping(self, volume: OfferedVolume, own: OwnDevices, generation: int) -> SiteMapping:
        """The mapping of this volume, if it can be. Raises PeerRefused."""
        if self._end != volume.blocks:
            raise PeerRefused(
                f"its mapping of {volume.name} has {self._end} blocks, the volume {volume.blocks}"
            )
        try:
            table = MappingTable.of_columns(self._ids, self._blocks, self._lbas, self._index)
        except ValueError as error:
            raise PeerRefused(f"its mapping of {volume.name}: {error}") from None
        addresses = [
            _address(name, device) for name, device in zip(self._ids, self.devices, strict=True)
        ]
        self._check_devices(volume, addresses)
        _check_overlaps(table)
        for device, address, end in zip(self.devices, addresses, table.ends, strict=True):
            _check_known(device, address, end, own)
        directory = dict(zip(self._ids, addresses, strict=True))
        tags = {
            name: device.portal_group_tag
            for name, device in zip(self._ids, self.devices, strict=True)
        }
        return SiteMapping(volume, table, directory, tags, generation)

    def _check_devices(self, volume: OfferedVolume, addresses: Sequence[DeviceAddress]) -> None:
        seen: dict[object, str] = {}
        for device, address in zip(self.devices, addresses, strict=True):
            if device.block_size != volume.block_size:
                raise PeerRefused(
                    f"{volume.name} has blocks of {volume.block_size} bytes, "
                    f"{device.name} under it {device.block_size}"
                )
            names: list[object] = [address.device]
            if device.iqn:
                names.append((device.iqn.lower(), device.lun))
            naa = naa_of(address)
            for each in names if naa is None else [*names, naa]:
                if each in seen:
                    raise PeerRefused(f"{seen[each]} and {device.name} are one LU")
                seen[each] = device.name


def _address(name: DeviceId, device: MappedDevice) -> DeviceAddress:
    return DeviceAddress(
        device=name,
        block_size=device.block_size,
        designators=device.designators,
        iqn=device.iqn.lower(),
        portals=device.portals,
        lun=device.lun,
        third_party_copy=device.third_party_copy,
    )


def _check_overlaps(table: MappingTable) -> None:
    for device in table.devices:
        for (_, end), (first, _) in pairwise(table.taken_on(device)):
            if first < end:
                raise PeerRefused(f"two extents lie on block {first} of {device}")


def _check_known(device: MappedDevice, address: DeviceAddress, end: int, own: OwnDevices) -> None:
    """Hold a device that is one of ours as well against what we know of it."""
    naa = naa_of(address)
    known = [own.at(address.iqn, device.lun) if device.iqn else None]
    if naa is not None:
        known.append(own.with_naa(naa))
    for ours in known:
        if ours is None:
            continue
        our_naa = naa_of(ours.address)
        if None not in (naa, our_naa) and naa not in ours.address.designators:
            raise PeerRefused(f"{device.name} is our {ours.device}, and shows another identity")
        if ours.block_size != device.block_size:
            raise PeerRefused(
                f"{device.name} is our {ours.device}, whose blocks have {ours.block_size} bytes, "
                f"not {device.block_size}"
            )
        if end > ours.blocks:
            raise PeerRefused(
                f"its mapping reaches block {end} of {device.name}, which is our {ours.device} "
                f"and has {ours.blocks}"
            )


def _device_id(text: str) -> DeviceId:
    try:
        return DeviceId.parse(text)
    except ValueError:
        raise PeerRefused(f"it calls a device {text!r}") from None


def _check_name(text: str) -> None:
    if not _NAME.fullmatch(text):
        raise PeerRefused(f"it calls a controller {text!r}")
