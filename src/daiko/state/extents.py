"""The extents of a stored volume: one compact value for the record, the store and the data path.

A million extents as a million objects take more than a gigabyte. So a VolumeRecord holds its
extents as one `Extents`, which wraps the `MappingTable` that the volume is served from: they exist
once in memory, 22 bytes each. Who looks at single extents gets each as an `ExtentRecord` made on
the spot.

In the store they stand in a table of their own, packed: the devices as a JSON list, and one BLOB of
three columns, little-endian, one after the other: blocks (8 bytes an extent), first block in the
device (8), position of the device in the list (4). Where an extent begins in the volume follows
from those before it.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, overload

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema

from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.mapping_table import MappingTable

BYTES_AN_EXTENT: Final = 20
"""In the BLOB."""


class ExtentRecord(BaseModel):
    """An extent of a volume. Where it begins in the volume follows from the extents before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    device: str
    """BACKEND/LUN."""
    lba: int
    """First block in the device."""
    blocks: int


class Packed(NamedTuple):
    """Extents as the store keeps them."""

    devices: str
    columns: bytes


class Extents(Sequence[ExtentRecord]):
    """The extents of a volume in order. A value; `table` is its mapping table."""

    __slots__ = ("table",)

    def __init__(self, table: MappingTable | None = None) -> None:
        self.table = table if table is not None else MappingTable(())

    @classmethod
    def of(cls, extents: Iterable[ExtentRecord]) -> Extents:
        """Raises ValueError, in a sentence for the administrator, for what is no BACKEND/LUN and
        for an extent without blocks or with a negative address."""
        return extents if isinstance(extents, cls) else cls(MappingTable(_laid_out(extents)))

    @property
    def devices(self) -> tuple[DeviceId, ...]:
        """Every device with blocks of the volume, in the order of its first extent."""
        return self.table.devices

    @property
    def backends(self) -> tuple[str, ...]:
        """Every back end with blocks of the volume, in the order of its first extent."""
        return tuple(dict.fromkeys(device.backend for device in self.table.devices))

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[ExtentRecord]:
        return map(_record, self.table)

    @overload
    def __getitem__(self, position: int) -> ExtentRecord: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[ExtentRecord, ...]: ...
    def __getitem__(self, position: int | slice) -> ExtentRecord | tuple[ExtentRecord, ...]:
        if isinstance(position, slice):
            return tuple(self[each] for each in range(*position.indices(len(self))))
        return _record(self.table[position])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Extents):
            return self.table == other.table
        if isinstance(other, Sequence):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # large: to be found by its volume's name

    def __repr__(self) -> str:
        return f"<Extents: {len(self)}, {self.table.blocks} blocks>"

    def packed(self) -> Packed:
        """As the store keeps them."""
        devices, blocks, lbas, index = self.table.columns()
        columns = b"".join(_little_endian(column) for column in (blocks, lbas, index))
        return Packed(json.dumps([str(device) for device in devices]), columns)

    @classmethod
    def unpacked(cls, packed: Packed) -> Extents:
        """The inverse of `packed`. Raises ValueError for what that did not write."""
        count, rest = divmod(len(packed.columns), BYTES_AN_EXTENT)
        if rest:
            raise ValueError("the columns of the extents are cut off")
        columns = memoryview(packed.columns)
        blocks, lbas, index = array("Q"), array("Q"), array("I")
        blocks.frombytes(columns[: 8 * count])
        lbas.frombytes(columns[8 * count : 16 * count])
        index.frombytes(columns[16 * count :])
        if sys.byteorder == "big":
            for column in (blocks, lbas, index):
                column.byteswap()
        return cls(MappingTable.of_columns(_devices(packed.devices), blocks, lbas, index))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """In Python an `Extents`, or what one can be made of; in JSON a list of ExtentRecord."""
        listed = handler.generate_schema(tuple[ExtentRecord, ...])
        from_list = core_schema.no_info_after_validator_function(cls.of, listed)
        return core_schema.json_or_python_schema(
            json_schema=from_list,
            python_schema=core_schema.union_schema(
                [core_schema.is_instance_schema(cls), from_list], mode="left_to_right"
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(
                tuple, return_schema=listed
            ),
        )


_LISTED: Final = TypeAdapter(tuple[ExtentRecord, ...])


def packed_from_json(extents: str) -> Packed:
    """A JSON list of extents, as the first schema of the store had it, packed."""
    return Extents.of(_LISTED.validate_json(extents)).packed()


def _laid_out(extents: Iterable[ExtentRecord]) -> Iterator[Extent]:
    lba = 0
    known: dict[str, DeviceId] = {}
    for extent in extents:
        device = known.get(extent.device)
        if device is None:
            device = known[extent.device] = DeviceId.parse(extent.device)
        yield Extent(lba, extent.blocks, device, extent.lba)
        lba += extent.blocks


def _record(extent: Extent) -> ExtentRecord:
    return ExtentRecord.model_construct(
        device=str(extent.device), lba=extent.device_lba, blocks=extent.blocks
    )


_known_devices: dict[str, tuple[DeviceId, ...]] = {}
"""Lists of devices as they were read: thousands of volumes lie on the same few."""


def _devices(listed: str) -> tuple[DeviceId, ...]:
    devices = _known_devices.get(listed)
    if devices is None:
        devices = tuple(DeviceId.parse(text) for text in json.loads(listed))
        if len(_known_devices) < 1024:
            _known_devices[listed] = devices
    return devices


def _little_endian(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()
