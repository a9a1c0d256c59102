"""What RECEIVE COPY RESULTS returns: operating parameters, copy status, failure details.

Each is a value with `pack` (as copy manager) and `parse` (as initiator, reading what another copy
manager said; raises MalformedData). SPC-4, 6.5; LID1 forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from daiko.scsi.layout import Buffer, Layout, MalformedData, bit, bits, number

_OPERATING_PARAMETERS = Layout(
    "OperatingParametersData",
    44,
    number("available", 0, 4),
    bit("no_list_id", 4, 0),
    number("max_cscds", 8, 2),
    number("max_segments", 10, 2),
    number("max_list_bytes", 12, 4),
    number("max_segment_bytes", 16, 4),
    number("max_inline_bytes", 20, 4),
    number("held_data_limit", 24, 4),
    number("max_stream_transfer", 28, 4),
    number("total_concurrent", 34, 2),
    number("concurrent", 36, 1),
    number("data_granularity", 37, 1),
    number("inline_granularity", 38, 1),
    number("held_granularity", 39, 1),
    number("types_length", 43, 1),
)


@dataclass(frozen=True, slots=True)
class OperatingParameters:
    """RECEIVE COPY OPERATING PARAMETERS (84h/03h): what a copy manager can do."""

    max_cscds: int
    max_segments: int
    max_list_bytes: int
    """CSCD and segment descriptors together."""
    max_segment_bytes: int = 0
    """0 = no limit said."""
    max_inline_bytes: int = 0
    held_data_limit: int = 0
    max_stream_transfer: int = 0
    total_concurrent: int = 1
    concurrent: int = 1
    data_granularity: int = 9
    """Log2 of bytes, as the two below."""
    inline_granularity: int = 0
    held_granularity: int = 0
    no_list_id: bool = True
    """SNLID: list identifier usage 11b is allowed."""
    descriptor_types: tuple[int, ...] = (0x02, 0xE4)
    """Codes of the segment (00h-BFh) and CSCD (C0h-FFh) descriptors that are implemented."""

    @property
    def segment_types(self) -> tuple[int, ...]:
        return tuple([code for code in self.descriptor_types if code < 0xC0])

    @property
    def cscd_types(self) -> tuple[int, ...]:
        return tuple([code for code in self.descriptor_types if code >= 0xC0])

    def pack(self) -> bytes:
        """44 bytes and one for each descriptor type."""
        types = bytes(sorted(self.descriptor_types))
        head = _OPERATING_PARAMETERS.pack(
            available=40 + len(types),
            no_list_id=self.no_list_id,
            max_cscds=self.max_cscds,
            max_segments=self.max_segments,
            max_list_bytes=self.max_list_bytes,
            max_segment_bytes=self.max_segment_bytes,
            max_inline_bytes=self.max_inline_bytes,
            held_data_limit=self.held_data_limit,
            max_stream_transfer=self.max_stream_transfer,
            total_concurrent=self.total_concurrent,
            concurrent=self.concurrent,
            data_granularity=self.data_granularity,
            inline_granularity=self.inline_granularity,
            held_granularity=self.held_granularity,
            types_length=len(types),
        )
        return head + types

    @classmethod
    def parse(cls, data: Buffer) -> OperatingParameters:
        """Read an answer. Some copy managers count fewer bytes available than they send, or send
        more types than fit AVAILABLE DATA: the list of types goes by its own length. Raises
        MalformedData when the answer is cut short."""
        fields = _OPERATING_PARAMETERS.unpack(data)
        types = bytes(data[44 : 44 + fields.types_length])
        if len(types) < fields.types_length:
            raise MalformedData(
                f"operating parameters: {fields.types_length} descriptor types announced, "
                f"{len(types)} present"
            )
        return cls(
            max_cscds=fields.max_cscds,
            max_segments=fields.max_segments,
            max_list_bytes=fields.max_list_bytes,
            max_segment_bytes=fields.max_segment_bytes,
            max_inline_bytes=fields.max_inline_bytes,
            held_data_limit=fields.held_data_limit,
            max_stream_transfer=fields.max_stream_transfer,
            total_concurrent=fields.total_concurrent,
            concurrent=fields.concurrent,
            data_granularity=fields.data_granularity,
            inline_granularity=fields.inline_granularity,
            held_granularity=fields.held_granularity,
            no_list_id=bool(fields.no_list_id),
            descriptor_types=tuple(sorted(set(types))),
        )


class CopyState(IntEnum):
    """COPY MANAGER STATUS (SPC-4, table of 6.5.5)."""

    IN_PROGRESS = 0x00
    COMPLETED = 0x01
    COMPLETED_WITH_ERRORS = 0x02


BLOCKS = 0xF1
"""TRANSFER COUNT UNITS: the count is in destination blocks. 0 to 6: bytes times 1024**units."""

_COPY_STATUS = Layout(
    "CopyStatusData",
    12,
    number("available", 0, 4),
    bit("held_discarded", 4, 7),
    bits("state", 4, 6, 0),
    number("segments_processed", 5, 2),
    number("units", 7, 1),
    number("count", 8, 4),
)


@dataclass(frozen=True, slots=True)
class CopyStatus:
    """RECEIVE COPY STATUS (LID1) (84h/00h)."""

    state: int
    segments_processed: int
    count: int
    """How much was transferred, in `units`."""
    units: int = 0
    """TRANSFER COUNT UNITS: 0 to 6 = 1024**units bytes, BLOCKS = destination blocks."""
    held_discarded: bool = False

    @classmethod
    def of_bytes(cls, state: int, segments_processed: int, transferred: int) -> CopyStatus:
        """`transferred` bytes in the smallest unit in which they fit 32 bits, rounded down."""
        units = 0
        while transferred >> (10 * units) > 0xFFFFFFFF:
            units += 1
        processed = min(segments_processed, 0xFFFF)
        return cls(state, processed, transferred >> (10 * units), units)

    @property
    def transferred(self) -> int | None:
        """Bytes; None when the count is in blocks or in a unit unknown to us."""
        return self.count << (10 * self.units) if self.units <= 6 else None

    def pack(self) -> bytes:
        """12 bytes."""
        return _COPY_STATUS.pack(
            available=8,
            held_discarded=self.held_discarded,
            state=self.state,
            segments_processed=self.segments_processed,
            units=self.units,
            count=self.count,
        )

    @classmethod
    def parse(cls, data: Buffer) -> CopyStatus:
        """Read an answer; raises MalformedData when it is shorter than 12 bytes."""
        fields = _COPY_STATUS.unpack(data)
        return cls(
            fields.state,
            fields.segments_processed,
            fields.count,
            fields.units,
            bool(fields.held_discarded),
        )


_FAILURE_DETAILS = Layout(
    "FailureDetailsData",
    60,
    number("available", 0, 4),
    number("status", 56, 1),
    number("sense_length", 58, 2),
)


@dataclass(frozen=True, slots=True)
class FailureDetails:
    """RECEIVE COPY FAILURE DETAILS (LID1) (84h/04h): how a copy ended."""

    status: int
    """SCSI status of the EXTENDED COPY."""
    sense: bytes

    def pack(self) -> bytes:
        """60 bytes and the sense data."""
        head = _FAILURE_DETAILS.pack(
            available=56 + len(self.sense), status=self.status, sense_length=len(self.sense)
        )
        return head + self.sense

    @classmethod
    def parse(cls, data: Buffer) -> FailureDetails | None:
        """Read an answer; None when there is nothing to report (AVAILABLE DATA 0). Raises
        MalformedData when the answer is cut short."""
        if len(data) < 4:
            raise MalformedData(f"failure details of {len(data)} bytes")
        if not int.from_bytes(data[:4], "big"):
            return None
        fields = _FAILURE_DETAILS.unpack(data)
        sense = bytes(data[60 : 60 + fields.sense_length])
        if len(sense) < fields.sense_length:
            raise MalformedData(
                f"failure details: {fields.sense_length} bytes of sense data announced, "
                f"{len(sense)} present"
            )
        return cls(fields.status, sense)


NO_FAILURE_DETAILS = bytes(4)
"""The answer to RECEIVE COPY FAILURE DETAILS when there is nothing to report."""
