"""Volumes of other sites as places that jobs write to.

A job that copies to such a volume is planned as any other, over a mapping table whose devices are
the real LUs of the other site, called `SITE:BACKEND/LUN`. A second controller of ours writes to
them itself. What this controller copies goes to the other site's first controller, over the link:
there `SitePlaces` finds for each block of a device which block of the volume it is. So nothing but
second commands goes past that first controller, and a flush of a device is a flush of the volume,
which that one brings to every device under it.

A place is there for as long as a round of a pair lasts (`control/lent_volumes.py`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from daiko.command_control.decision import Place
from daiko.command_control.function_table import FunctionTable
from daiko.command_control.naming import DeviceAddress
from daiko.copy_manager.devices import Answer, CommandPort, Devices, Tracking
from daiko.device.block import BlockDevice, Buffer, Capabilities, Done, Level, ReadDone
from daiko.device.error import DeviceError, OutOfRange, Unreachable
from daiko.device.layer.timing import CommandTimes
from daiko.mapping.extent import DeviceId, Piece
from daiko.mapping.mapping_table import joined

_CAPABILITIES = Capabilities(
    unmap=Level.NONE, write_same=Level.NONE, compare_and_write=Level.NONE, fua=Level.NONE
)


@dataclass(frozen=True, slots=True)
class SitePlace:
    """A volume of another site, for a while."""

    place: Place
    directory: Mapping[DeviceId, DeviceAddress]
    """How second commands name its devices, and which of them may be named at all."""
    volume: BlockDevice
    """The whole volume, over the link."""
    generation: Callable[[], int]
    """Grows whenever what was written there before may be lost unless it was flushed."""


class SitePlaces:
    """The devices of the system, and the places that are there now."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._places: dict[str, SitePlace] = {}
        self._by_backend: dict[str, SitePlace] = {}
        """Back end of another site -> one of the places that lie there."""
        self._lus: dict[DeviceId, SiteLu] = {}

    def show(self, place: SitePlace) -> None:
        """The place is there from now on, by its name, until it is hidden."""
        self._places[place.place.name] = place
        self._follow()

    def hide(self, name: str) -> None:
        """No job works with it any more."""
        self._places.pop(name, None)
        self._follow()

    def _follow(self) -> None:
        self._lus.clear()
        self._by_backend = {
            device.backend: place for place in self._places.values() for device in place.directory
        }

    # --- Devices

    def block_device(self, device: DeviceId) -> BlockDevice:
        if device.backend not in self._by_backend:
            return self._devices.block_device(device)
        if device not in self._lus:
            places = [place for place in self._places.values() if device in place.directory]
            if not places:
                raise LookupError(f"{device} is under no volume that is copied to now")
            self._lus[device] = SiteLu(device, places)
        return self._lus[device]

    def destination(self, piece: Piece) -> BlockDevice:
        if piece.device.backend in self._by_backend:
            return self.block_device(piece.device)
        return self._devices.destination(piece)

    def writing(self, pieces: Sequence[Piece]) -> AbstractAsyncContextManager[None]:
        """Hosts of the other site have no such blocks for themselves: it keeps them off."""
        own = [piece for piece in pieces if piece.device.backend not in self._by_backend]
        return self._devices.writing(own)

    def second_controller(self, name: str) -> CommandPort:
        place = self._by_backend.get(name)
        if place is None:
            return self._devices.second_controller(name)
        return _OtherSites(name, place.generation)

    def function_table(self) -> FunctionTable:
        return self._devices.function_table()

    def directory(self) -> Mapping[DeviceId, DeviceAddress]:
        own = self._devices.directory()
        if not self._places:
            return own
        found = dict(own)
        for place in self._places.values():
            for device, address in place.directory.items():
                found[device] = _agreed(found.get(device, address), address)
        return found

    def place(self, name: str) -> Place:
        found = self._places.get(name)
        return self._devices.place(name) if found is None else found.place

    def track(self, volume: str) -> Tracking:
        if volume in self._places:
            raise LookupError(f"what hosts write to {volume} is known at its site only")
        return self._devices.track(volume)

    def untrack(self, volume: str, tracking: Tracking) -> None:
        self._devices.untrack(volume, tracking)

    def time_commands(self, place: str, times: CommandTimes) -> Callable[[], None]:
        if place in self._places:
            raise LookupError(f"the hosts of {place} are at its site")
        return self._devices.time_commands(place, times)


def _agreed(one: DeviceAddress, other: DeviceAddress) -> DeviceAddress:
    """A device under two volumes is one device: what was told of it has to be the same."""
    if one.withheld or other.withheld:
        return one if one.withheld else other
    if one == other:
        return one
    return replace(one, withheld=f"{one.device}: its site says now this of it, now that")


class SiteLu(BlockDevice):
    """A device of another site, as far as the volumes that are places now lie on it."""

    def __init__(self, device: DeviceId, places: Iterable[SitePlace]) -> None:
        self._device = device
        self._runs: list[tuple[int, int, int, BlockDevice]] = []
        """First block in the device, one past the last, block of the volume, the volume."""
        self._volumes: list[BlockDevice] = []
        for each in places:
            self._volumes.append(each.volume)
            self._runs += [
                (extent.device_lba, extent.device_lba + extent.blocks, extent.lba, each.volume)
                for extent in joined(each.place.table)
                if extent.device == device
            ]
        self._runs.sort(key=lambda run: run[0])
        self._firsts = [run[0] for run in self._runs]
        self.block_size = self._volumes[0].block_size
        self.blocks = max(run[1] for run in self._runs)
        self.capabilities = _CAPABILITIES

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        found = self._find(lba, blocks)
        if isinstance(found, DeviceError):
            done(found, b"")
        else:
            volume, at = found
            volume.read(at, blocks, done)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        found = self._find(lba, len(data) // self.block_size)
        if isinstance(found, DeviceError):
            done(found)
        else:
            volume, at = found
            volume.write(at, data, done, fua)

    def flush(self, done: Done) -> None:
        """Flush every volume: which of them has blocks to flush is not known here."""
        _Flushes(len(self._volumes), done).begin(self._volumes)

    def _find(self, lba: int, blocks: int) -> tuple[BlockDevice, int] | DeviceError:
        """The volume that the blocks belong to, and where they lie in it. A step lies in one run
        on both sides, so no request crosses."""
        place = bisect_right(self._firsts, lba) - 1
        if place >= 0:
            first, end, volume_lba, volume = self._runs[place]
            if lba + blocks <= end:
                return volume, volume_lba + lba - first
        return OutOfRange(f"{blocks} blocks of {self._device} from block {lba} on are in no volume")


class _Flushes:
    """Several flushes; the first error counts."""

    def __init__(self, left: int, done: Done) -> None:
        self._left = left
        self._done = done
        self._error: DeviceError | None = None

    def begin(self, volumes: Iterable[BlockDevice]) -> None:
        for volume in volumes:
            volume.flush(self._ended)

    def _ended(self, error: DeviceError | None) -> None:
        self._error = self._error or error
        self._left -= 1
        if not self._left:
            self._done(self._error)


class _OtherSites:
    """A second controller of another site: only its generation counts here, which is that of the
    way by which its devices are flushed (`devices.CommandPort`)."""

    def __init__(self, name: str, generation: Callable[[], int]) -> None:
        self._name = name
        self._generation = generation

    @property
    def generation(self) -> int:
        return self._generation()

    async def execute(
        self,
        lun: int,
        cdb: bytes,
        data_out: Buffer = b"",
        read_length: int = 0,
        timeout: float | None = None,
    ) -> Answer:
        raise Unreachable(f"{self._name} takes its commands from its own site")
