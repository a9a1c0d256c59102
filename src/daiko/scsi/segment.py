"""Segment descriptors of EXTENDED COPY: what is to be copied where (SPC-4, 6.4.6).

As with CSCD descriptors, a parsed value keeps the bytes it came from, and `pack` writes its fields
over them. CSCDs are named by CSCD descriptor id (see `cscd.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from daiko.scsi.cscd import NULL_BLOCK_DEVICE, NULL_STREAM_DEVICE, RECEIVING_LOGICAL_UNIT
from daiko.scsi.layout import Buffer, Layout, bit, constant, number
from daiko.scsi.sense import (
    CheckCondition,
    invalid_field_in_parameter_list,
    parameter_list_length_error,
    unsupported_segment_type,
)

MAX_BLOCK_TO_BLOCK = 65535
"""Blocks that one segment 02h can say."""

BlockToBlockDescriptor = Layout(
    "BlockToBlockDescriptor",
    28,
    constant("type_code", 0, 0x02),
    bit("dc", 1, 1),
    bit("cat", 1, 0),
    constant("descriptor_length", 2, 0x18, width=16),
    number("source", 4, 2),
    number("destination", 6, 2),
    number("blocks", 10, 2),
    number("source_lba", 12, 8),
    number("destination_lba", 20, 8),
)

VerifyCscdDescriptor = Layout(
    "VerifyCscdDescriptor",
    12,
    constant("type_code", 0, 0x07),
    constant("descriptor_length", 2, 0x08, width=16),
    number("cscd", 4, 2),
    bit("test_unit_ready", 8, 0),
)


@dataclass(frozen=True, slots=True)
class BlockToBlock:
    """02h: blocks of one disk to another."""

    TYPE: ClassVar[int] = 0x02

    source: int
    """CSCD descriptor id."""
    destination: int
    """CSCD descriptor id."""
    blocks: int
    """In source blocks, with `dc` in destination blocks; at most 65,535."""
    source_lba: int
    destination_lba: int
    dc: bool = False
    """Destination count: `blocks` counts blocks of the destination."""
    cat: bool = False
    """Bytes that fill no whole destination block go in front of the next segment's."""
    image: bytes = field(default=b"", compare=False, repr=False, kw_only=True)

    @property
    def size(self) -> int:
        """Bytes of the descriptor."""
        return BlockToBlockDescriptor.length

    def pack(self) -> bytes:
        """28 bytes. Raises ValueError when a number does not fit."""
        return BlockToBlockDescriptor.repack(
            self.image or BlockToBlockDescriptor.pack(),
            dc=self.dc,
            cat=self.cat,
            source=self.source,
            destination=self.destination,
            blocks=self.blocks,
            source_lba=self.source_lba,
            destination_lba=self.destination_lba,
        )


@dataclass(frozen=True, slots=True)
class VerifyCscd:
    """07h: can the copy manager reach this CSCD? Nothing is copied."""

    TYPE: ClassVar[int] = 0x07

    cscd: int
    """CSCD descriptor id."""
    test_unit_ready: bool = False
    """TUR: a TEST UNIT READY must succeed too."""
    image: bytes = field(default=b"", compare=False, repr=False, kw_only=True)

    @property
    def size(self) -> int:
        """Bytes of the descriptor."""
        return VerifyCscdDescriptor.length

    def pack(self) -> bytes:
        """12 bytes."""
        return VerifyCscdDescriptor.repack(
            self.image or VerifyCscdDescriptor.pack(),
            cscd=self.cscd,
            test_unit_ready=self.test_unit_ready,
        )


Segment = BlockToBlock | VerifyCscd

KNOWN_TYPES = (0x02, 0x07)


def parse_segment(data: Buffer, offset: int) -> Segment:
    """The segment descriptor at `offset` of a parameter list.

    Raises CheckCondition with a pointer into the parameter list: 26/09 for a type that is not one
    of KNOWN_TYPES, 26/00 for a field, 1A/00 when the list ends inside the descriptor. Whether a
    CSCD descriptor id below 800h is in the list is not checked here: that is COPY ABORTED at the
    segment, found by whoever executes it.
    """
    type_code = data[offset]
    if type_code not in KNOWN_TYPES:
        raise CheckCondition(unsupported_segment_type(offset))
    layout = BlockToBlockDescriptor if type_code == 0x02 else VerifyCscdDescriptor
    if len(data) - offset < 4:
        raise CheckCondition(parameter_list_length_error())
    if int.from_bytes(data[offset + 2 : offset + 4], "big") != layout.length - 4:
        raise CheckCondition(invalid_field_in_parameter_list(offset + 2))
    if len(data) - offset < layout.length:
        raise CheckCondition(parameter_list_length_error())
    fields = layout.unpack(data, offset)
    image = bytes(data[offset : offset + layout.length])
    if type_code == 0x07:
        _check_id(fields.cscd, offset + 4)
        return VerifyCscd(fields.cscd, bool(fields.test_unit_ready), image=image)
    _check_id(fields.source, offset + 4)
    _check_id(fields.destination, offset + 6)
    return BlockToBlock(
        fields.source,
        fields.destination,
        fields.blocks,
        fields.source_lba,
        fields.destination_lba,
        bool(fields.dc),
        bool(fields.cat),
        image=image,
    )


_SPECIAL_IDS = frozenset({NULL_BLOCK_DEVICE, NULL_STREAM_DEVICE, RECEIVING_LOGICAL_UNIT})


def _check_id(cscd_id: int, byte: int) -> None:
    if cscd_id > 0x07FF and cscd_id not in _SPECIAL_IDS:
        raise CheckCondition(invalid_field_in_parameter_list(byte))
