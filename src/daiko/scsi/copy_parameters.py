"""The parameter list of EXTENDED COPY (LID1): parse with all its checks, pack (SPC-4, 6.4.3).

Layout: a header of 16 bytes, then CSCD descriptors, segment descriptors and inline data without
gaps. Everything that can be refused from the bytes alone is refused by `parse_extended_copy`, in
the order that copy managers and hosts' conformance tests agree on: lengths first, then counts,
then the list identifier, then each descriptor. What depends on the logical units or on other
commands (an identifier in use, a CSCD not in the list, a range beyond the end) is left to the copy
manager.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from daiko.scsi.copy_results import OperatingParameters
from daiko.scsi.cscd import CSCD_UNIT, Cscd, descriptor_size, parse_cscd
from daiko.scsi.cscd import KNOWN_TYPES as KNOWN_CSCD_TYPES
from daiko.scsi.layout import Buffer, Layout, bit, bits, number
from daiko.scsi.segment import KNOWN_TYPES as KNOWN_SEGMENT_TYPES
from daiko.scsi.segment import Segment, parse_segment
from daiko.scsi.sense import (
    CheckCondition,
    inline_data_length_exceeded,
    invalid_field_in_parameter_list,
    parameter_list_length_error,
    too_many_cscds,
    too_many_segments,
    unsupported_cscd_type,
    unsupported_segment_type,
)

HEADER_LENGTH = 16

ExtendedCopyHeader = Layout(
    "ExtendedCopyHeader",
    HEADER_LENGTH,
    number("list_id", 0, 1),
    bit("striped", 1, 5),
    bits("list_id_usage", 1, 4, 3),
    bits("priority", 1, 2, 0),
    number("cscd_length", 2, 2),
    number("segment_length", 8, 4),
    number("inline_length", 12, 4),
)


class ListIdUsage(IntEnum):
    """What becomes of the list identifier and of held results (SPC-4, 6.4.3.2)."""

    HOLD = 0b00
    """Valid; results are kept until they are asked for."""
    RESERVED = 0b01
    DISCARD = 0b10
    """Valid; results may be dropped early."""
    DISABLE = 0b11
    """No identifier (the field is 0); status cannot be asked for."""


@dataclass(frozen=True, slots=True)
class ExtendedCopy:
    """One EXTENDED COPY (LID1) parameter list."""

    list_id: int
    list_id_usage: int
    cscds: tuple[Cscd, ...]
    segments: tuple[Segment, ...]
    striped: bool = False
    """STR: the source is read sequentially from striped disks (a hint)."""
    priority: int = 0
    """0 = highest."""
    inline: bytes = b""
    image: bytes = field(default=b"", compare=False, repr=False, kw_only=True)
    """The header that this was parsed from; its reserved bits are kept."""

    def pack(self) -> bytes:
        """The whole list. Raises ValueError when a field or the CSCD list is too large."""
        cscds = b"".join([cscd.pack() for cscd in self.cscds])
        segments = b"".join([segment.pack() for segment in self.segments])
        header = ExtendedCopyHeader.repack(
            self.image or bytes(HEADER_LENGTH),
            list_id=self.list_id,
            striped=self.striped,
            list_id_usage=self.list_id_usage,
            priority=self.priority,
            cscd_length=len(cscds),
            segment_length=len(segments),
            inline_length=len(self.inline),
        )
        return header + cscds + segments + self.inline

    @property
    def cscd_ids(self) -> tuple[int, ...]:
        """CSCD descriptor id of each CSCD: its place in units of 32 bytes."""
        ids, at = [], 0
        for cscd in self.cscds:
            ids.append(at)
            at += cscd.size // CSCD_UNIT
        return tuple(ids)

    def cscd(self, cscd_id: int) -> Cscd | None:
        """The CSCD with this id; None when the list has none (also for the special ids)."""
        at = 0
        for cscd in self.cscds:
            if at == cscd_id:
                return cscd
            at += cscd.size // CSCD_UNIT
        return None

    @staticmethod
    def cscd_offset(cscd_id: int) -> int:
        """First byte of a CSCD descriptor in the list, for field pointers."""
        return HEADER_LENGTH + CSCD_UNIT * cscd_id

    def segment_offset(self, number_: int) -> int:
        """First byte of the segment descriptor with this number (from 0) in the list."""
        at = HEADER_LENGTH + sum(cscd.size for cscd in self.cscds)
        return at + sum(segment.size for segment in self.segments[:number_])


ANY_LIMITS = OperatingParameters(
    max_cscds=0x0800,
    max_segments=0xFFFF,
    max_list_bytes=0xFFFFFFFF,
    max_inline_bytes=0xFFFFFFFF,
    no_list_id=True,
    descriptor_types=(*KNOWN_SEGMENT_TYPES, *KNOWN_CSCD_TYPES),
)
"""As much as the format can say: for reading lists that are not to be executed."""


def parse_extended_copy(data: Buffer, limits: OperatingParameters = ANY_LIMITS) -> ExtendedCopy:
    """Read and check a parameter list. `limits` are what OPERATING PARAMETERS says of us.

    Raises CheckCondition, ILLEGAL REQUEST, with a field pointer where there is a field: nothing
    has been copied then. Bytes after the last part are ignored. A parameter list length of 0 is
    not an error, but no list either: the caller answers GOOD without coming here.
    """
    if len(data) < HEADER_LENGTH:
        raise CheckCondition(parameter_list_length_error())
    header = ExtendedCopyHeader.unpack(data)
    cscds_end = HEADER_LENGTH + header.cscd_length
    segments_end = cscds_end + header.segment_length
    end = segments_end + header.inline_length
    if end > len(data) or header.cscd_length % CSCD_UNIT:
        raise CheckCondition(parameter_list_length_error())
    if header.cscd_length + header.segment_length > limits.max_list_bytes:
        raise CheckCondition(parameter_list_length_error())
    cscd_offsets = _cscd_offsets(data, cscds_end)
    if len(cscd_offsets) > limits.max_cscds:
        raise CheckCondition(too_many_cscds())
    segment_offsets = _segment_offsets(data, cscds_end, segments_end, limits)
    if len(segment_offsets) > limits.max_segments:
        raise CheckCondition(too_many_segments())
    if header.inline_length > limits.max_inline_bytes:
        raise CheckCondition(inline_data_length_exceeded())
    _check_list_id(header.list_id, header.list_id_usage, limits)
    cscd_part = memoryview(data)[:cscds_end]
    segment_part = memoryview(data)[:segments_end]
    return ExtendedCopy(
        header.list_id,
        header.list_id_usage,
        tuple([_cscd(cscd_part, at, limits) for at in cscd_offsets]),
        tuple([_segment(segment_part, at, limits) for at in segment_offsets]),
        bool(header.striped),
        header.priority,
        bytes(data[segments_end:end]),
        image=bytes(data[:HEADER_LENGTH]),
    )


def _cscd_offsets(data: Buffer, end: int) -> list[int]:
    offsets, at = [], HEADER_LENGTH
    while at < end:
        offsets.append(at)
        at += descriptor_size(data[at])
    return offsets


def _segment_offsets(data: Buffer, start: int, end: int, limits: OperatingParameters) -> list[int]:
    """Where each segment descriptor begins; goes no further than one above the limit."""
    offsets: list[int] = []
    at = start
    while at < end and len(offsets) <= limits.max_segments:
        offsets.append(at)
        if at + 4 > end:
            # The length of this one is not in the list: only its type can be judged.
            break
        at += 4 + int.from_bytes(data[at + 2 : at + 4], "big")
    return offsets


def _check_list_id(list_id: int, usage: int, limits: OperatingParameters) -> None:
    if usage == ListIdUsage.RESERVED:
        raise CheckCondition(invalid_field_in_parameter_list(1, 4))
    if usage == ListIdUsage.DISABLE:
        if not limits.no_list_id:
            raise CheckCondition(invalid_field_in_parameter_list(1, 4))
        if list_id:
            raise CheckCondition(invalid_field_in_parameter_list(0))


def _cscd(data: Buffer, offset: int, limits: OperatingParameters) -> Cscd:
    if data[offset] not in limits.descriptor_types:
        raise CheckCondition(unsupported_cscd_type(offset))
    return parse_cscd(data, offset)


def _segment(data: Buffer, offset: int, limits: OperatingParameters) -> Segment:
    if data[offset] not in limits.descriptor_types:
        raise CheckCondition(unsupported_segment_type(offset))
    return parse_segment(data, offset)
