"""Parameter data of the block commands: READ CAPACITY, UNMAP, GET LBA STATUS, READ DEFECT DATA
(SBC-4, clause 5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from daiko.scsi.layout import Buffer, Layout, MalformedData, bit, bits, number, span
from daiko.scsi.sense import (
    CheckCondition,
    invalid_field_in_parameter_list,
    parameter_list_length_error,
)

# --- READ CAPACITY -------------------------------------------------------------------------------

_CAPACITY_10 = Layout("Capacity10Data", 8, number("last_lba", 0, 4), number("block_size", 4, 4))

_CAPACITY_16 = Layout(
    "Capacity16Data",
    32,
    number("last_lba", 0, 8),
    number("block_size", 8, 4),
    bits("p_type", 12, 3, 1),
    bit("prot_en", 12, 0),
    bits("p_i_exponent", 13, 7, 4),
    bits("physical_exponent", 13, 3, 0),
    bit("lbpme", 14, 7),
    bit("lbprz", 14, 6),
    span("lowest_aligned_lba", 14, 5, 14),
)

_MAX_LAST_LBA_10 = 0xFFFFFFFF


def pack_capacity_10(blocks: int, block_size: int) -> bytes:
    """READ CAPACITY(10) data; a unit that is too large for it says FFFFFFFFh."""
    last = min(blocks - 1, _MAX_LAST_LBA_10)
    return _CAPACITY_10.pack(last_lba=last, block_size=block_size)


def parse_capacity_10(data: Buffer) -> tuple[int, int] | None:
    """(blocks, block size in bytes); None when READ CAPACITY(16) has to be asked. Raises
    MalformedData when the answer is cut short."""
    fields = _CAPACITY_10.unpack(data)
    if fields.last_lba == _MAX_LAST_LBA_10:
        return None
    return fields.last_lba + 1, fields.block_size


@dataclass(frozen=True, slots=True)
class Capacity:
    """READ CAPACITY(16) data."""

    blocks: int
    block_size: int
    """Bytes."""
    physical_exponent: int = 0
    """Log2 of logical blocks per physical block."""
    lbpme: bool = False
    """Thin: UNMAP and the like do something."""
    lbprz: bool = False
    """Unmapped blocks read as zeros."""
    lowest_aligned_lba: int = 0
    protection: bool = False

    def pack(self) -> bytes:
        """32 bytes."""
        return _CAPACITY_16.pack(
            last_lba=self.blocks - 1,
            block_size=self.block_size,
            prot_en=self.protection,
            physical_exponent=self.physical_exponent,
            lbpme=self.lbpme,
            lbprz=self.lbprz,
            lowest_aligned_lba=self.lowest_aligned_lba,
        )

    @classmethod
    def parse(cls, data: Buffer) -> Capacity:
        """Read an answer of at least 12 bytes; raises MalformedData for a shorter one."""
        if len(data) < 12:
            raise MalformedData(f"READ CAPACITY(16) data of {len(data)} bytes")
        fields = _CAPACITY_16.unpack(bytes(data[:32]).ljust(32, b"\0"))
        return cls(
            fields.last_lba + 1,
            fields.block_size,
            fields.physical_exponent,
            bool(fields.lbpme),
            bool(fields.lbprz),
            fields.lowest_aligned_lba,
            bool(fields.prot_en),
        )


# --- UNMAP (SBC-4, 5.35) -------------------------------------------------------------------------


class LbaRange(NamedTuple):
    """Blocks from `lba` on."""

    lba: int
    blocks: int


_UNMAP_HEADER = Layout(
    "UnmapHeader", 8, number("data_length", 0, 2), number("descriptors_length", 2, 2)
)
_UNMAP_RANGE = Layout("UnmapRange", 16, number("lba", 0, 8), number("blocks", 8, 4))


def pack_unmap(ranges: Iterable[LbaRange]) -> bytes:
    """Parameter list of UNMAP; at most 4095 ranges."""
    body = b"".join([_UNMAP_RANGE.pack(lba=lba, blocks=blocks) for lba, blocks in ranges])
    return _UNMAP_HEADER.pack(data_length=6 + len(body), descriptors_length=len(body)) + body


def parse_unmap(data: Buffer, max_ranges: int) -> tuple[LbaRange, ...]:
    """The ranges of an UNMAP parameter list, in their order; a cut last one is ignored, as the
    standard asks. Raises CheckCondition: 1A/00 when the header is cut short or the list is shorter
    than it says, 26/00 when there are more than `max_ranges`."""
    if len(data) < _UNMAP_HEADER.length:
        raise CheckCondition(parameter_list_length_error())
    header = _UNMAP_HEADER.unpack(data)
    count, _ = divmod(header.descriptors_length, _UNMAP_RANGE.length)
    if 8 + header.descriptors_length > len(data):
        raise CheckCondition(parameter_list_length_error())
    if count > max_ranges:
        raise CheckCondition(invalid_field_in_parameter_list(2))
    at = range(8, 8 + 16 * count, 16)
    return tuple([LbaRange(*_UNMAP_RANGE.unpack(data, offset)) for offset in at])


# --- GET LBA STATUS (SBC-4, 5.5) -----------------------------------------------------------------


class ProvisioningStatus(IntEnum):
    MAPPED = 0
    DEALLOCATED = 1
    ANCHORED = 2


class LbaStatus(NamedTuple):
    """One LBA status descriptor."""

    lba: int
    blocks: int
    status: int


_LBA_STATUS = Layout(
    "LbaStatusDescriptor",
    16,
    number("lba", 0, 8),
    number("blocks", 8, 4),
    bits("status", 12, 3, 0),
)


def pack_lba_status(descriptors: Iterable[LbaStatus]) -> bytes:
    """Parameter data of GET LBA STATUS."""
    body = b"".join(
        [
            _LBA_STATUS.pack(lba=lba, blocks=blocks, status=status)
            for lba, blocks, status in descriptors
        ]
    )
    return (4 + len(body)).to_bytes(4, "big") + bytes(4) + body


def parse_lba_status(data: Buffer) -> tuple[LbaStatus, ...]:
    """The whole descriptors that an answer holds, cut by the allocation length or not; raises
    MalformedData when its header is cut short."""
    if len(data) < 8:
        raise MalformedData(f"LBA status data of {len(data)} bytes")
    end = min(len(data), 4 + int.from_bytes(data[:4], "big"))
    return tuple([LbaStatus(*_LBA_STATUS.unpack(data, at)) for at in range(8, end - 15, 16)])


# --- READ DEFECT DATA (SBC-4, 5.18 and 5.19) -----------------------------------------------------


class DefectFormat(IntEnum):
    """DEFECT LIST FORMAT: how the places of defects are written."""

    SHORT_BLOCK = 0
    EXTENDED_BYTES_FROM_INDEX = 1
    EXTENDED_PHYSICAL_SECTOR = 2
    LONG_BLOCK = 3
    BYTES_FROM_INDEX = 4
    PHYSICAL_SECTOR = 5
    VENDOR_SPECIFIC = 6


_DEFECTS_10 = Layout(
    "DefectList10",
    4,
    bit("plistv", 1, 4),
    bit("glistv", 1, 3),
    bits("format", 1, 2, 0),
    number("length", 2, 2),
)
_DEFECTS_12 = Layout(
    "DefectList12",
    8,
    bit("plistv", 1, 4),
    bit("glistv", 1, 3),
    bits("format", 1, 2, 0),
    number("generation", 2, 2),
    number("length", 4, 4),
)


def pack_no_defects(*, primary: bool, grown: bool, format: int, long: bool) -> bytes:
    """The answer of READ DEFECT DATA, (12) when `long`, of a medium without defects. `primary` and
    `grown` say which lists were asked for."""
    layout = _DEFECTS_12 if long else _DEFECTS_10
    return layout.pack(plistv=primary, glistv=grown, format=format)
