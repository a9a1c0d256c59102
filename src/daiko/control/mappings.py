"""The mapping table as an administrator sees it: which block lies where, in both directions."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from daiko.control import names
from daiko.control.error import Invalid
from daiko.mapping.extent import DeviceId
from daiko.state.record import VolumeRecord

if TYPE_CHECKING:
    from daiko.control.system import System


@dataclass(frozen=True, slots=True)
class MappingRow:
    """One extent of one volume."""

    volume: str
    lba: int
    """First block in the volume."""
    blocks: int
    block_size: int
    device: str
    device_lba: int


def ls(system: System, *, device: str = "") -> Iterator[MappingRow]:
    """All extents of all volumes; with `device` (BACKEND or BACKEND/LUN) those that lie there, by
    their place in it. The rows are made as they are asked for, of what is there now. Raises
    NotFound, Invalid."""
    volumes = system.store.list(VolumeRecord)
    if not device:
        return (row for volume in volumes for row in extents(volume))
    backend = names.backend_of(system, device.rpartition("/")[0] if "/" in device else device)
    wanted = names.device(device) if "/" in device else None
    there = {
        each
        for volume in volumes
        for each in volume.extents.devices
        if each.backend == backend.name and wanted in (None, each)
    }
    return (row for each in sorted(there) for row in _on(volumes, each))


def show(system: System, volume: str) -> Iterator[MappingRow]:
    """The extents of one volume in order. Raises NotFound."""
    return extents(names.volume_of(system, volume))


def _on(volumes: Iterable[VolumeRecord], device: DeviceId) -> Iterator[MappingRow]:
    """The extents on a device by their place in it: of each volume they are in order already."""

    def places(volume: VolumeRecord) -> list[tuple[int, int, VolumeRecord]]:
        table = volume.extents.table
        found = [(table.locate(lba)[1], lba, volume) for lba, _ in table.ranges_on(device)]
        return sorted(found, key=itemgetter(0))

    on_it = [volume for volume in volumes if device in volume.extents.devices]
    text = str(device)
    for device_lba, lba, volume in heapq.merge(*map(places, on_it), key=itemgetter(0)):
        blocks = volume.extents.table.locate(lba)[2]
        yield MappingRow(volume.name, lba, blocks, volume.block_size, text, device_lba)


def locate(system: System, volume: str, lba: int) -> MappingRow:
    """Where one block of a volume lies: the row is that block alone. Raises NotFound, Invalid."""
    record = names.volume_of(system, volume)
    if 0 <= lba < record.blocks:
        device, device_lba, _ = record.extents.table.locate(lba)
        return MappingRow(volume, lba, 1, record.block_size, str(device), device_lba)
    raise Invalid(
        f"{volume!r} has no block {lba}", f"its blocks are 0 to {record.blocks - 1}", field="lba"
    )


def extents(volume: VolumeRecord) -> Iterator[MappingRow]:
    """The extents of a volume, each with its first block in the volume."""
    names = {device: str(device) for device in volume.extents.devices}
    for lba, blocks, device, device_lba in volume.extents.table:
        yield MappingRow(volume.name, lba, blocks, volume.block_size, names[device], device_lba)
