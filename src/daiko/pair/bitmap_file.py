"""The file of a differential bitmap: what stands where in it, and what it is worth when it is read.

It is made of pages of 4096 bytes:

| page | what |
|---|---|
| 0 | the header: whose bitmap this is, and of what volume; written once |
| 1, 2 | the log pages, written by turns: which areas are hot, and in what state the file is |
| 3 … | the bits, 4080 bytes of the bitmap a page, each page behind a tag |

A log page carries a sequence number and a CRC, and the one with the higher number counts. One that
was torn leaves the other, older one. It also says on which boot of the machine the file is in use
and whether it was closed; so the header is never written again and cannot be torn later.

A page of bits has no CRC: it would have to be written whole to be right, while bits may come from
an older and a newer version of their page without harm (`differential_bitmap.py` says why). The tag
names the page and the bitmap, so that zeros, or bytes that belong elsewhere, are not taken for
bits.

All numbers are big-endian; the bits are as `RegionBitmap` has them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from daiko.mapping.region_bitmap import RegionBitmap
from daiko.pair.raw_file import RawFile

PAGE: Final = 4096
"""Bytes a page."""

AREA: Final = 16 << 20
"""Bytes of the volume that are one area of the activity log."""

_VERSION: Final = 1
_HEADER: Final = struct.Struct(">8sIIQI16sI")
"""Magic, version, block size, blocks, granularity, identity, CRC-32 of these fields."""
_HEADER_MAGIC: Final = b"DAIKODBM"

_LOG: Final = struct.Struct(">8sQ16sBBHI")
"""Magic, sequence, boot id, state, power-safe, number of areas, CRC-32 of these fields and of the
areas, each four bytes, that follow."""
_LOG_MAGIC: Final = b"DAIKOLOG"
_LOG_PAGES: Final = 2
MOST_AREAS: Final = (PAGE - _LOG.size) // 4
"""That a log page has room for."""

_TAG: Final = struct.Struct(">4sIQ")
"""Magic, CRC-32 of the header's fields, number of the page among those of bits."""
_TAG_MAGIC: Final = b"DBMP"
_PAYLOAD: Final = PAGE - _TAG.size
_FIRST: Final = 1 + _LOG_PAGES
_AT_ONCE: Final = 256
"""Pages read or written in one call."""


class Condition(Enum):
    """What was found when a bitmap was opened."""

    NEW = "new"
    """There was no file; every bit is clear."""
    EXACT = "exact"
    """Every bit is as it was: the file was closed, or the process ended and the machine did not."""
    AFTER_POWER_CUT = "after a power cut"
    """The areas that were hot are marked whole; every other bit is as it was."""
    PARTLY_LOST = "partly lost"
    """What lies in pages that were lost is marked; the rest as after a power cut, or exact."""
    LOST = "lost"
    """Everything is marked."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found when a bitmap was opened, and what was done about it."""

    condition: Condition
    marked_bytes: int = 0
    """Bytes of the volume marked to be safe, that the file had not marked."""
    reason: str = ""
    """Why it is not exact; empty where it is, and of a new one."""

    def __str__(self) -> str:
        if not self.reason:
            return self.condition.value
        return f"{self.condition.value}: {self.reason}; {self.marked_bytes} bytes marked"


@dataclass(frozen=True, slots=True)
class Geometry:
    """Whose bitmap it is, and of what volume."""

    identity: bytes
    """16 bytes."""
    blocks: int
    block_size: int
    """Bytes."""
    granularity: int
    """Bytes a region."""

    @property
    def shift(self) -> int:
        """A region has `1 << shift` blocks."""
        return (self.granularity // self.block_size).bit_length() - 1

    @property
    def area_shift(self) -> int:
        """An area has `1 << area_shift` regions."""
        return (AREA // self.granularity).bit_length() - 1


class State(IntEnum):
    """Of the file, as a log page says."""

    OPEN = 1
    CLOSED = 2
    """Everything is on stable storage."""
    FAILED = 3
    """A write to the file, or its way to stable storage, failed: what is read may be old."""


@dataclass(frozen=True, slots=True)
class _LogPage:
    sequence: int
    boot_id: bytes
    state: State
    power_safe: bool
    areas: tuple[int, ...]


class BitmapFile:
    """The file of one bitmap. Its methods raise OSError, as `RawFile` does."""

    def __init__(
        self,
        raw: RawFile,
        geometry: Geometry,
        bitmap: RegionBitmap,
        *,
        boot_id: bytes,
        power_safe: bool,
    ) -> None:
        self._raw = raw
        self._geometry = geometry
        self._bitmap = bitmap
        self._boot_id = boot_id
        self._power_safe = power_safe
        self._sequence = 0
        self._header = _pack_header(geometry)
        self._stamp = _stamp_of(geometry)
        self._pages = -(-bitmap.size // _PAYLOAD)
        self._length = (_FIRST + self._pages) * PAGE

    # --- opening

    def load(self) -> Found:
        """Read the file into the bitmap, which is clear, mark there what it cannot vouch for, and
        leave the file whole and in use: from now on its log is in force."""
        if self._raw.is_new:
            self._lay_out()
            return Found(Condition.NEW)
        log = self._newest_log()
        wrong = self._header_fault()
        if wrong is None and log is None:
            wrong = "neither page of the activity log is whole"
        if wrong is not None or log is None:
            self._bitmap.mark_all()
            self._lay_out()
            return Found(Condition.LOST, self._marked_bytes, wrong or "")
        self._sequence = log.sequence
        lost, marked = self._read_pages()
        found = self._judge(log, len(lost), marked)
        try:
            self._take_up(lost, is_exact=found.condition is Condition.EXACT)
        except OSError:
            # The kernel tells of what it could not write only once; the next one to open the file
            # on this boot would take it for exact.
            self._power_safe = self._power_safe and log.power_safe
            with suppress(OSError):  # what failed first is what is told
                self.write_log(State.FAILED, log.areas)
            raise
        return found

    def _header_fault(self) -> str | None:
        """What is wrong with the header, in words; None where it is ours."""
        found = self._raw.read(0, _HEADER.size)
        if found == self._header:
            return None
        if len(found) < _HEADER.size:
            return "the file is cut short"
        magic, version, block_size, blocks, granularity, identity, _ = _HEADER.unpack(found)
        if magic != _HEADER_MAGIC:
            return "there is no header of a bitmap"
        if version != _VERSION:
            return f"it is of version {version}, not {_VERSION}"
        other = Geometry(identity, blocks, block_size, granularity)
        if found != _pack_header(other):
            return "the header is damaged"
        if identity != self._geometry.identity:
            return f"it belongs to {identity.hex()}, not to {self._geometry.identity.hex()}"
        return f"it is for {_said(other)}, not {_said(self._geometry)}"

    def _newest_log(self) -> _LogPage | None:
        pages = (self._parse_log(self._raw.read(n * PAGE, PAGE)) for n in range(1, _FIRST))
        return max(
            (page for page in pages if page is not None),
            key=lambda page: page.sequence,
            default=None,
        )

    def _read_pages(self) -> tuple[list[int], int]:
        """Read the pages of bits. Of those that are not there, everything is marked: which pages
        those are, and how many bytes of the volume."""
        lost = []
        marked = 0
        for first in range(0, self._pages, _AT_ONCE):
            data = self._raw.read((_FIRST + first) * PAGE, _AT_ONCE * PAGE)
            for page in range(first, min(first + _AT_ONCE, self._pages)):
                at, offset = (page - first) * PAGE, page * _PAYLOAD
                bits = data[at + _TAG.size : at + PAGE]
                length = min(_PAYLOAD, self._bitmap.size - offset)
                if data[at : at + _TAG.size] == self._tag(page) and len(bits) == _PAYLOAD:
                    self._bitmap.load(offset, bits[:length])
                    continue
                lost.append(page)
                before = self._marked_bytes
                self._bitmap.load(offset, b"\xff" * length)
                marked += self._marked_bytes - before
        return lost, marked

    def _judge(self, log: _LogPage, lost: int, marked: int) -> Found:
        """Say what the bits that were read are worth, and mark what they cannot vouch for."""
        condition = Condition.PARTLY_LOST if lost else Condition.EXACT
        reasons = [f"{lost} of {self._pages} pages of bits are lost"] if lost else []
        is_same_boot = log.boot_id == self._boot_id
        if log.state == State.CLOSED or (log.state == State.OPEN and is_same_boot):
            return Found(condition, marked, "; ".join(reasons))
        failed = log.state == State.FAILED
        reasons.append(
            "it could not be written" if failed else "the machine stopped while it was in use"
        )
        before = self._marked_bytes
        if not log.power_safe:
            reasons.append("it had no activity log")
            condition = Condition.LOST
            self._bitmap.mark_all()
        else:
            if not lost:
                condition = Condition.AFTER_POWER_CUT
            for area in log.areas:
                self._mark_area(area)
        return Found(condition, marked + self._marked_bytes - before, "; ".join(reasons))

    def _mark_area(self, area: int) -> None:
        shift, regions = self._geometry.area_shift, self._bitmap.regions
        first = area << shift
        if first < regions:
            self._bitmap.mark(first, min(first + (1 << shift), regions) - 1)

    def _take_up(self, lost: Sequence[int], *, is_exact: bool) -> None:
        """Make the file say what the bitmap does, and then that it is in use, with no area hot.

        In this order: until the new log page is there, the one before it says what may be wrong
        with the bits; and the bits of areas that were hot when a process ended, which only the
        page cache has, need that log until they are on stable storage. A page that was lost gets
        its tag when its bits are there, or it might be torn between the two."""
        if self._raw.size() != self._length:
            self._raw.allocate(self._length)
        for page in lost:
            bits = self._page(page)[_TAG.size :]
            self._raw.write((_FIRST + page) * PAGE, bytes(_TAG.size) + bits)
        if lost:
            self._raw.sync()
        if not is_exact:
            self._write_pages(0, self._pages)
        self._raw.sync()
        self.write_log(State.OPEN, ())
        self._raw.sync()

    def _lay_out(self) -> None:
        """Write a file where there is none, or none of ours. It counts once it has a header and a
        log page, one of which it had not; so these come when the bits are on stable storage."""
        self._raw.allocate(self._length)
        self._write_pages(0, self._pages)
        self._raw.write(PAGE, bytes(_LOG_PAGES * PAGE))
        self._raw.sync()
        self._raw.write(0, self._header.ljust(PAGE, b"\0"))
        self.write_log(State.OPEN, ())
        self._raw.sync()

    # --- in use

    def write_regions(self, first: int, last: int) -> None:
        """Write the pages with the bits of regions first..last, as the bitmap has them."""
        page, end = (first >> 3) // _PAYLOAD, (last >> 3) // _PAYLOAD
        if page == end:
            self._raw.write((_FIRST + page) * PAGE, self._page(page))
        else:
            self._write_pages(page, end + 1)

    def write_log(self, state: State, areas: Sequence[int]) -> None:
        """Write a log page; it counts from the next `sync` on, and perhaps before."""
        self._sequence += 1
        fields = (
            *(_LOG_MAGIC, self._sequence, self._boot_id),
            *(state, self._power_safe, len(areas)),
        )
        body = struct.pack(f">{len(areas)}I", *areas)
        crc = zlib.crc32(_LOG.pack(*fields, 0) + body, self._stamp)
        page = (_LOG.pack(*fields, crc) + body).ljust(PAGE, b"\0")
        self._raw.write((1 + self._sequence % _LOG_PAGES) * PAGE, page)

    def sync(self) -> None:
        """Bring everything written to stable storage."""
        self._raw.sync()

    def close(self) -> None:
        """Let go of the file as it is."""
        self._raw.close()

    def remove(self) -> None:
        """Take the file's name away."""
        self._raw.remove()

    # --- bytes

    @property
    def _marked_bytes(self) -> int:
        return self._bitmap.changed_blocks * self._geometry.block_size

    def _tag(self, page: int) -> bytes:
        return _TAG.pack(_TAG_MAGIC, self._stamp, page)

    def _page(self, page: int) -> bytes:
        bits = self._bitmap.bytes_at(page * _PAYLOAD, _PAYLOAD)
        return (self._tag(page) + bits).ljust(PAGE, b"\0")

    def _write_pages(self, first: int, end: int) -> None:
        for start in range(first, end, _AT_ONCE):
            pages = range(start, min(start + _AT_ONCE, end))
            self._raw.write((_FIRST + start) * PAGE, b"".join(map(self._page, pages)))

    def _parse_log(self, data: bytes) -> _LogPage | None:
        """What a log page says; None where it is torn, or none of this bitmap."""
        if len(data) < PAGE:
            return None
        magic, sequence, boot_id, state, power_safe, count, crc = _LOG.unpack_from(data)
        if magic != _LOG_MAGIC or count > MOST_AREAS or state not in tuple(State):
            return None
        body = data[_LOG.size : _LOG.size + 4 * count]
        head = _LOG.pack(magic, sequence, boot_id, state, power_safe, count, 0)
        if zlib.crc32(head + body, self._stamp) != crc:
            return None
        areas = struct.unpack(f">{count}I", body)
        return _LogPage(sequence, boot_id, State(state), bool(power_safe), areas)


def _fields(geometry: Geometry) -> tuple[bytes, int, int, int, int, bytes]:
    return (
        *(_HEADER_MAGIC, _VERSION, geometry.block_size, geometry.blocks),
        *(geometry.granularity, geometry.identity),
    )


def _stamp_of(geometry: Geometry) -> int:
    """A number that tells the pages of one bitmap from those of others."""
    return zlib.crc32(_HEADER.pack(*_fields(geometry), 0))


def _pack_header(geometry: Geometry) -> bytes:
    return _HEADER.pack(*_fields(geometry), _stamp_of(geometry))


def _said(geometry: Geometry) -> str:
    return (
        f"{geometry.blocks} blocks of {geometry.block_size} bytes in regions of "
        f"{geometry.granularity}"
    )
