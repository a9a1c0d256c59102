"""The file of a journal: what stands where in it, and how far what is read can be believed.

| bytes | what |
|---|---|
| 0 … | the header: whose journal this is, and how large its ring; written once |
| 4096 …, 8192 … | two checkpoint pages: from where on the ring counts, by the newer one |
| 12288 … | the ring: entries one after another, each a header of 64 bytes and its data |

An entry begins at a multiple of 64 bytes and does not wrap: what does not fit before the end of the
ring stands at its beginning. So an entry is looked for where the one before it ended, and where it
is not there, at the beginning.

What is read is a prefix of what was written: entry after entry, each with the next sequence number,
the epoch of the checkpoint and a CRC over all of it; the first that is torn or another's is the
end. The epoch is raised each time that the ring is begun anew, so entries behind a torn one, whose
numbers are given out again, do not come back.

A checkpoint goes to the page that is not known to be on stable storage, however often it is written
before the next sync; so a power cut leaves one that is whole.

All numbers are big-endian.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from daiko.pair.raw_file import RawFile

PAGE: Final = 4096
ALIGNMENT: Final = 64
"""Bytes: entries begin at its multiples."""
RING: Final = 3 * PAGE
"""Bytes of the file before the ring."""
LEAST_CAPACITY: Final = 1 << 20
MOST_CAPACITY: Final = 1 << 40
"""Bytes of the ring."""

VERSION: Final = 1
_HEADER: Final = struct.Struct(">8sIQ16sI")
"""Magic, version, bytes of the ring, identity, CRC-32 of these fields."""
_HEADER_MAGIC: Final = b"DAIKOJNL"
_CHECKPOINT: Final = struct.Struct(">8sQIBB2x16sQQQdI")
"""Magic, serial number, epoch, condition, power-safe, boot id, last sequence applied, offset of the
entry after it, sequence from which on the group is whole, time of closing, CRC-32 of these."""
_CHECKPOINT_MAGIC: Final = b"DAIKOCHK"
_ENTRY: Final = struct.Struct(">4sB3xIQQd8sQIII")
"""Magic, kind, epoch, sequence, last sequence before it was asked for, time, stream, first block,
blocks, bytes of data, CRC-32 of these fields and of the data."""
_ENTRY_MAGIC: Final = b"DJEN"
MOST_BLOCKS: Final = 0xFFFFFFFF
"""That one entry can be for."""


class Kind(IntEnum):
    """What an entry does."""

    DATA = 1
    SAME = 2
    """Its data is one block, for all of the blocks."""


class Condition(IntEnum):
    """What a checkpoint says of the journal."""

    OPEN = 1
    CLOSED = 2
    """All that was acknowledged is in it."""
    ENDED = 3
    """What was acknowledged later is not in it, but marked in the differential bitmap."""


class Checkpoint(NamedTuple):
    """From where on the ring counts."""

    epoch: int
    condition: Condition
    power_safe: bool
    boot_id: bytes
    applied: int
    """Sequence of the last entry that the secondary has on stable storage."""
    offset: int
    """In the ring, of the entry after that."""
    whole_from: int
    """As of this sequence every pair of the group had joined."""
    ended_at: float
    """When it ended, in seconds since the epoch; 0 = it did not."""


class Entry(NamedTuple):
    """A write that the primary has done, without its data."""

    sequence: int
    after: int
    """The last sequence when it was asked for: all entries up to that were acknowledged before."""
    time: float
    """When the primary had done it, in seconds since the epoch."""
    stream: bytes
    """Of which pair, since it joined last: 8 bytes."""
    kind: Kind
    lba: int
    blocks: int
    length: int
    """Bytes of its data."""
    offset: int
    """In the ring."""
    room: int
    """Bytes of the ring that it takes, with what was left free before it."""

    @property
    def written_bytes(self) -> int:
        """Bytes of the volume that it writes."""
        return self.length * self.blocks if self.kind is Kind.SAME else self.length


def room_for(length: int) -> int:
    """Bytes in the ring of an entry with so many bytes of data."""
    return -(-(_ENTRY.size + length) // ALIGNMENT) * ALIGNMENT


class JournalFile:
    """The file, byte for byte. Raises OSError wherever the file does."""

    def __init__(self, raw: RawFile, identity: bytes, capacity: int) -> None:
        """`identity` is 16 bytes; `capacity` the bytes of the ring, a multiple of 64."""
        self._raw = raw
        self.capacity = capacity
        fields = (_HEADER_MAGIC, VERSION, capacity, identity)
        self._stamp = zlib.crc32(_HEADER.pack(*fields, 0))
        self._header = _HEADER.pack(*fields, self._stamp)
        self._serial = 0
        self._stable = 1
        """The checkpoint page that is not written to: on stable storage it is whole."""
        self._stable_serial = 0

    def load(self) -> Checkpoint | None:
        """The newest checkpoint; None where this is no journal of ours, or none is whole."""
        if self._raw.is_new or self._raw.read(0, _HEADER.size) != self._header:
            return None
        found = {
            number: page
            for number in (1, 2)
            if (page := self._parse_checkpoint(self._raw.read(number * PAGE, PAGE))) is not None
        }
        if not found:
            return None
        self._stable = max(found, key=lambda number: found[number][0])
        self._serial, newest = found[self._stable]
        self._stable_serial = self._serial
        self._raw.sync()  # only the page cache may have it, if the process has ended
        return newest

    def lay_out(self, checkpoint: Checkpoint) -> None:
        """Write an empty journal, on stable storage when this returns. The header comes last: a
        file that has one is whole."""
        self._raw.allocate(RING + self.capacity)
        self._raw.write(0, bytes(RING))
        self._raw.sync()
        self.write_checkpoint(checkpoint)
        self.sync()
        self._raw.write(0, self._header.ljust(PAGE, b"\0"))
        self._raw.sync()

    def entries(self, checkpoint: Checkpoint) -> Iterator[Entry]:
        """The entries after a checkpoint, in order, as far as they can be believed."""
        offset, sequence = checkpoint.offset, checkpoint.applied
        while True:
            entry = None
            for at, skipped in ((offset, 0), (0, self.capacity - offset)):
                entry = self._entry_at(at, checkpoint.epoch, sequence + 1, skipped)
                if entry is not None:
                    break
            if entry is None:
                return
            yield entry
            sequence = entry.sequence
            offset = entry.offset + room_for(entry.length)

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """As far as the page cache: it counts from the next `sync` on, and perhaps before."""
        self._serial += 1
        fields = (_CHECKPOINT_MAGIC, self._serial, *checkpoint)
        crc = zlib.crc32(_CHECKPOINT.pack(*fields, 0), self._stamp)
        page = _CHECKPOINT.pack(*fields, crc).ljust(PAGE, b"\0")
        self._raw.write((3 - self._stable) * PAGE, page)

    def write_entry(self, entry: Entry, epoch: int, data: bytes) -> None:
        """As far as the page cache."""
        packed = self._pack(entry, epoch, data).ljust(room_for(len(data)), b"\0")
        self._raw.write(RING + entry.offset, packed)

    def data_of(self, entry: Entry, epoch: int) -> bytes | None:
        """The data of an entry; None where it is not there as it was written."""
        found = self._raw.read(RING + entry.offset, _ENTRY.size + entry.length)
        data = found[_ENTRY.size :]
        return data if found == self._pack(entry, epoch, data) else None

    def sync(self) -> None:
        """Bring everything written to stable storage. May be called in a thread."""
        serial = self._serial
        self._raw.sync()
        if self._serial == serial > self._stable_serial:
            self._stable = 3 - self._stable
            self._stable_serial = serial

    def close(self) -> None:
        """Let go of the file."""
        self._raw.close()

    def remove(self) -> None:
        """Take the file's name away."""
        self._raw.remove()

    # --- bytes

    def _pack(self, entry: Entry, epoch: int, data: bytes) -> bytes:
        fields = (
            *(_ENTRY_MAGIC, entry.kind, epoch, entry.sequence, entry.after, entry.time),
            *(entry.stream, entry.lba, entry.blocks, entry.length),
        )
        crc = zlib.crc32(data, zlib.crc32(_ENTRY.pack(*fields, 0), self._stamp))
        return _ENTRY.pack(*fields, crc) + data

    def _entry_at(self, offset: int, epoch: int, sequence: int, skipped: int) -> Entry | None:
        if offset + _ENTRY.size > self.capacity:
            return None
        head = self._raw.read(RING + offset, _ENTRY.size)
        if len(head) < _ENTRY.size or head[:4] != _ENTRY_MAGIC:
            return None
        (_, kind, at_epoch, number, after, time, stream, lba, blocks, length, _) = _ENTRY.unpack(
            head
        )
        room = room_for(length)
        if (at_epoch, number) != (epoch, sequence) or kind not in tuple(Kind):
            return None
        if offset + room > self.capacity:
            return None
        entry = Entry(
            *(number, after, time, stream, Kind(kind), lba, blocks, length, offset),
            room + skipped,
        )
        return entry if self.data_of(entry, epoch) is not None else None

    def _parse_checkpoint(self, data: bytes) -> tuple[int, Checkpoint] | None:
        if len(data) < _CHECKPOINT.size:
            return None
        magic, serial, *fields, crc = _CHECKPOINT.unpack_from(data)
        if magic != _CHECKPOINT_MAGIC:
            return None
        if crc != zlib.crc32(_CHECKPOINT.pack(magic, serial, *fields, 0), self._stamp):
            return None
        epoch, condition, power_safe, boot_id, applied, offset, whole_from, ended_at = fields
        if condition not in tuple(Condition) or offset > self.capacity:
            return None
        return serial, Checkpoint(
            *(epoch, Condition(condition), bool(power_safe), boot_id, applied, offset),
            *(whole_from, ended_at),
        )
