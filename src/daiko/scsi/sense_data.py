"""Sense data: the value and its two formats.

Two formats exist (SPC-4, 4.5). Fixed (response code 70h) has room for 32-bit information only, and
for COPY ABORTED its command-specific bytes hold two offsets and the segment number. Descriptor
(72h) has a descriptor for each piece. Readers meet both, and copy managers that put the segment
number into other bytes than the standard says; `parse_sense` takes all of that.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from daiko.scsi.layout import Buffer, MalformedData
from daiko.scsi.sense_code import NAMES


class SenseKey(IntEnum):
    """SPC-4, table of 4.5.6."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    BLANK_CHECK = 0x8
    VENDOR_SPECIFIC = 0x9
    COPY_ABORTED = 0xA
    ABORTED_COMMAND = 0xB
    RESERVED = 0xC
    VOLUME_OVERFLOW = 0xD
    MISCOMPARE = 0xE
    COMPLETED = 0xF


_WITH_POINTER = frozenset({SenseKey.ILLEGAL_REQUEST, SenseKey.COPY_ABORTED})
_WITH_PROGRESS = frozenset({SenseKey.NO_SENSE, SenseKey.NOT_READY})

MAXIMUM_LENGTH = 252
"""Bytes of sense data (SPC-4, 4.5.1)."""


@dataclass(frozen=True, slots=True)
class FieldPointer:
    """Which field was wrong (SPC-4, 4.5.2.4.2 and, for segments, 4.5.2.4.4)."""

    byte: int
    """From the start of the CDB, of the parameter list, or of the segment descriptor."""
    bit: int | None = None
    """The left-most bit of the field in error, where that says more than the byte."""
    in_cdb: bool = False
    """C/D; False: in the parameter list. Means nothing with COPY ABORTED."""
    segment_relative: bool = False
    """SD: `byte` counts from the start of the segment descriptor. COPY ABORTED only."""


@dataclass(frozen=True, slots=True)
class ForwardedSense:
    """What the copy source or the copy destination answered to the copy manager."""

    status: int
    sense: bytes
    truncated: bool = False
    """FSDT; the fixed format cannot say it."""


@dataclass(frozen=True, slots=True)
class Sense:
    """Sense data without its format. Equal values describe the same condition."""

    key: int
    asc: int
    ascq: int
    information: int | None = None
    """An LBA, an offset or a residual; None = not valid."""
    command_specific: int | None = None
    """COMMAND-SPECIFIC INFORMATION, except with COPY ABORTED, where `segment` takes its place."""
    segment: int | None = None
    """Segment in work when the copy was aborted, from 0. COPY ABORTED only. Read from the fixed
    format it is always a number, as that format cannot leave it out."""
    field: FieldPointer | None = None
    source: ForwardedSense | None = None
    destination: ForwardedSense | None = None
    deferred: bool = False
    progress: int | None = None
    """PROGRESS INDICATION, in parts of 65,536. NO SENSE and NOT READY only (SPC-4, 4.5.2.4.4)."""

    @property
    def name(self) -> str:
        """The standard's name of the additional sense code, in capitals."""
        known = NAMES.get((self.asc, self.ascq))
        return known or f"ASC {self.asc:02X}h ASCQ {self.ascq:02X}h"

    def __str__(self) -> str:
        try:
            key = SenseKey(self.key).name.replace("_", " ")
        except ValueError:
            key = f"KEY {self.key:X}h"
        text = f"{key}, {self.name} ({self.asc:02X}/{self.ascq:02X})"
        if self.segment is not None:
            text += f", segment {self.segment}"
        if self.field is not None:
            where = "CDB" if self.field.in_cdb else "parameter list"
            text += f", byte {self.field.byte} of the {where}"
        return text

    def fixed(self) -> bytes:
        """Fixed format (SPC-4, 4.5.3), without the length field that iSCSI puts in front.
        Information or command-specific information above 32 bits is left out, as the standard
        asks; of a forwarded sense what does not fit 252 bytes is cut off."""
        information = self.information
        valid = information is not None and 0 <= information < 1 << 32
        specific = b"\0\0\0\0"
        extra = b""
        if self.key == SenseKey.COPY_ABORTED:
            source_at, destination_at, extra = self._forwarded_areas()
            specific = struct.pack(">BBH", source_at, destination_at, (self.segment or 0) & 0xFFFF)
        elif self.command_specific is not None and self.command_specific < 1 << 32:
            specific = self.command_specific.to_bytes(4, "big")
        pointer = self._key_specific()
        head = struct.pack(
            ">BBBIB",
            (0x80 if valid else 0) | (0x71 if self.deferred else 0x70),
            0,
            self.key,
            information if valid and information is not None else 0,
            10 + len(extra),
        )
        return head + specific + bytes((self.asc, self.ascq, 0)) + pointer + extra

    def descriptor(self) -> bytes:
        """Descriptor format (SPC-4, 4.5.2)."""
        parts = []
        if self.information is not None:
            parts.append(struct.pack(">BBBxQ", 0x00, 0x0A, 0x80, self.information))
        if self.key == SenseKey.COPY_ABORTED:
            if self.segment is not None:
                parts.append(struct.pack(">BB4xH4x", 0x01, 0x0A, self.segment & 0xFFFF))
        elif self.command_specific is not None:
            parts.append(struct.pack(">BBxxQ", 0x01, 0x0A, self.command_specific))
        if (key_specific := self._key_specific())[0]:
            parts.append(struct.pack(">BBxx3sx", 0x02, 0x06, key_specific))
        if self.key == SenseKey.COPY_ABORTED:
            for side, forwarded in ((1, self.source), (2, self.destination)):
                if forwarded is not None:
                    parts.append(_forwarded_descriptor(side, forwarded))
        code = 0x73 if self.deferred else 0x72
        # The additional length is one byte: descriptors that no longer fit are left out whole.
        while sum(map(len, parts)) > 255:
            parts.pop()
        length = sum(map(len, parts))
        return bytes((code, self.key, self.asc, self.ascq, 0, 0, 0, length)) + b"".join(parts)

    def pack(self, *, descriptor_format: bool = False, limit: int = 0) -> bytes:
        """The format that the D_SENSE bit of the control mode page asks for. What is longer than
        `limit` bytes (0 = no limit) is cut off, and SDAT_OVFL says so; the length in it stays."""
        data = self.descriptor() if descriptor_format else self.fixed()
        if not limit or len(data) <= limit:
            return data
        cut = bytearray(data[:limit])
        byte, flag = (4, 0x80) if descriptor_format else (2, 0x10)
        if byte < limit:
            cut[byte] |= flag
        return bytes(cut)

    def _forwarded_areas(self) -> tuple[int, int, bytes]:
        at, area, offsets = 18, b"", [0, 0]
        for index, forwarded in enumerate((self.source, self.destination)):
            room = 252 - at - 1
            if forwarded is None or room < 0:
                continue
            offsets[index] = at
            piece = bytes((forwarded.status,)) + forwarded.sense[:room]
            area += piece
            at += len(piece)
        return offsets[0], offsets[1], area

    def _key_specific(self) -> bytes:
        if self.progress is not None and self.key in _WITH_PROGRESS:
            return b"\x80" + min(self.progress, 0xFFFF).to_bytes(2, "big")
        return self._pointer()

    def _pointer(self) -> bytes:
        if self.field is None or self.key not in _WITH_POINTER:
            return b"\0\0\0"
        first = 0x80
        if self.key == SenseKey.COPY_ABORTED:
            first |= 0x20 if self.field.segment_relative else 0
        else:
            first |= 0x40 if self.field.in_cdb else 0
        if self.field.bit is not None:
            first |= 0x08 | (self.field.bit & 7)
        return bytes((first,)) + (self.field.byte & 0xFFFF).to_bytes(2, "big")


def _forwarded_descriptor(side: int, forwarded: ForwardedSense) -> bytes:
    room = 200
    sense = forwarded.sense[:room]
    cut = forwarded.truncated or len(forwarded.sense) > room
    head = (0x0C, 2 + len(sense), (0x80 if cut else 0) | side, forwarded.status)
    return bytes(head) + sense


class CheckCondition(Exception):
    """Ends a command with status CHECK CONDITION and this sense data."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(str(sense))
        self.sense = sense


# --- reading -------------------------------------------------------------------------------------


def parse_sense(data: Buffer) -> Sense:
    """Read sense data of either format, cut short or not, without the iSCSI length field.

    Raises MalformedData when the response code is none of 70h to 73h or the bytes end before the
    additional sense code. Descriptors that do not fit are passed over.
    """
    data = bytes(data)
    if len(data) < 4:
        raise MalformedData(f"sense data of {len(data)} bytes")
    code = data[0] & 0x7F
    if code in (0x70, 0x71):
        return _parse_fixed(data)
    if code in (0x72, 0x73):
        return _parse_descriptors(data)
    raise MalformedData(f"sense data with response code {code:02X}h")


def _parse_fixed(data: bytes) -> Sense:
    if len(data) < 8:
        raise MalformedData(f"fixed format sense data of {len(data)} bytes")
    end = min(len(data), 8 + data[7])
    data = data[:end]
    # A short answer simply has no more to say: zeros mean that in every field.
    head = data[:18].ljust(18, b"\0")
    key = head[2] & 0x0F
    specific = int.from_bytes(head[8:12], "big")
    segment, source, destination = None, None, None
    if key == SenseKey.COPY_ABORTED:
        segment = specific & 0xFFFF
        source, destination = _split_areas(data, head[8], head[9])
    return Sense(
        key,
        head[12],
        head[13],
        information=int.from_bytes(head[3:7], "big") if head[0] & 0x80 else None,
        command_specific=specific if specific and key != SenseKey.COPY_ABORTED else None,
        segment=segment,
        field=_parse_pointer(key, head[15:18]),
        progress=_parse_progress(key, head[15:18]),
        source=source,
        destination=destination,
        deferred=head[0] & 0x7F == 0x71,
    )


def _split_areas(
    data: bytes, source_at: int, destination_at: int
) -> tuple[ForwardedSense | None, ForwardedSense | None]:
    """The two areas of a fixed COPY ABORTED. Each runs to the start of the other or to the end."""
    found: list[ForwardedSense | None] = []
    for at, other in ((source_at, destination_at), (destination_at, source_at)):
        if not 18 <= at < len(data):
            found.append(None)
            continue
        end = other if other > at else len(data)
        found.append(ForwardedSense(data[at], data[at + 1 : end]))
    return found[0], found[1]


def _parse_pointer(key: int, pointer: bytes) -> FieldPointer | None:
    if len(pointer) < 3 or not pointer[0] & 0x80 or key not in _WITH_POINTER:
        return None
    aborted = key == SenseKey.COPY_ABORTED
    return FieldPointer(
        int.from_bytes(pointer[1:3], "big"),
        pointer[0] & 7 if pointer[0] & 0x08 else None,
        in_cdb=not aborted and bool(pointer[0] & 0x40),
        segment_relative=aborted and bool(pointer[0] & 0x20),
    )


def _parse_progress(key: int, specific: bytes) -> int | None:
    if len(specific) < 3 or not specific[0] & 0x80 or key not in _WITH_PROGRESS:
        return None
    return int.from_bytes(specific[1:3], "big")


def _parse_descriptors(data: bytes) -> Sense:
    if len(data) < 8:
        raise MalformedData(f"descriptor format sense data of {len(data)} bytes")
    key = data[1] & 0x0F
    information = specific = segment = pointer = progress = source = destination = None
    end = min(len(data), 8 + data[7])
    at = 8
    while at + 2 <= end:
        kind, body = data[at], data[at + 2 : min(end, at + 2 + data[at + 1])]
        at += 2 + data[at + 1]
        if kind == 0x00 and len(body) >= 10 and body[0] & 0x80:
            information = int.from_bytes(body[2:10], "big")
        elif kind == 0x01 and len(body) >= 10:
            if key == SenseKey.COPY_ABORTED:
                # By the text bytes 6-7 of the descriptor; FreeBSD writes 10-11.
                segment = int.from_bytes(body[4:6], "big") or int.from_bytes(body[8:10], "big")
            else:
                specific = int.from_bytes(body[2:10], "big")
        elif kind == 0x02 and len(body) >= 5:
            pointer = _parse_pointer(key, body[2:5])
            progress = _parse_progress(key, body[2:5])
        elif kind == 0x0C and len(body) >= 2:
            forwarded = ForwardedSense(body[1], body[2:], bool(body[0] & 0x80))
            if body[0] & 0x0F == 1:
                source = forwarded
            elif body[0] & 0x0F == 2:
                destination = forwarded
    return Sense(
        key,
        data[2],
        data[3],
        information=information,
        command_specific=specific,
        segment=segment,
        field=pointer,
        source=source,
        destination=destination,
        deferred=data[0] & 0x7F == 0x73,
        progress=progress,
    )
