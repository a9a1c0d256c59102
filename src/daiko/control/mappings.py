"""The mapping table as an administrator sees it: which block lies where, in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daiko.control import names
from daiko.control.error import Invalid
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


def ls(system: System, *, device: str = "") -> list[MappingRow]:
    """All extents of all volumes; with `device` (BACKEND or BACKEND/LUN) those that lie there, by
    their place in it. Raises NotFound, Invalid."""
    rows = [row for volume in system.store.list(VolumeRecord) for row in extents(volume)]
    if not device:
        return rows
    backend = names.backend_of(system, device.rpartition("/")[0] if "/" in device else device)
    if "/" in device:
        wanted = str(names.device(device))
        there = [row for row in rows if row.device == wanted]
    else:
        there = [row for row in rows if row.device.rpartition("/")[0] == backend.name]
    return sorted(there, key=lambda row: (row.device, row.device_lba))


def show(system: System, volume: str) -> list[MappingRow]:
    """The extents of one volume in order. Raises NotFound."""
    return list(extents(names.volume_of(system, volume)))


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
