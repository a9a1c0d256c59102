"""The intent log of a volume: what makes a write of several steps all or nothing (SBC-4, 4.29).

A WRITE ATOMIC that no device carries out by itself is made of ordinary writes, and a crash of this
process, a loss of power or the failure of one device may come between them. Therefore:

1. what the blocks hold now is written to this log, on stable storage;
2. the new blocks are written, on stable storage;
3. the entry in the log is struck out, on stable storage.

An entry that is found when the log is opened, or that is left because a device failed in step 2,
says that the write is not to have happened: whoever owns the log puts the old blocks back (`undo`
in `target/atomic_write.py`), and then strikes the entry out.

The log is a file with a few slots of one size. A slot is written with one synchronous write and
carries a CRC, so an entry that was not written whole does not count; then nothing was written in
its place either. The slot also holds a CRC of each 512 bytes of the old and of the new blocks:
where the volume holds neither, somebody else has written there since, whose data is left alone.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path

from daiko.backend.worker import Workers
from daiko.device.block import Buffer, Done
from daiko.device.error import Aborted, DeviceError, MediumFailure, SpaceExhausted

MOST_BYTES = 1 << 20
"""The longest write that an entry can undo."""

SLOTS = 4
"""Entries at a time; who comes then waits."""

_MAGIC = b"DAIKOUND"
_HEAD = struct.Struct(">8sIIQII")
"""Magic, version, block size, LBA, bytes, CRC-32 of all that follows and of these fields."""
_VERSION = 1
_PIECE = 512
_CRCS = 4 * (MOST_BYTES // _PIECE)
_SLOT = 4096 + 2 * _CRCS + MOST_BYTES


class Intent:
    """One entry: a write that may have been begun."""

    __slots__ = ("_new", "_old", "data", "lba", "slot")

    def __init__(self, slot: int, lba: int, data: bytes, old: bytes, new: bytes) -> None:
        self.slot = slot
        self.lba = lba
        self.data = data
        """What the blocks held before."""
        self._old = old
        self._new = new

    def is_ours(self, found: Buffer) -> bool:
        """Is each piece of the blocks as it was before the write, or as the write made it?"""
        crcs = _crcs(found)
        return all(
            crcs[at : at + 4] in (self._old[at : at + 4], self._new[at : at + 4])
            for at in range(0, len(crcs), 4)
        )


Begun = Callable[[DeviceError | None, Intent | None], None]


class IntentLog:
    """The log of one volume. The file is made when the first entry is."""

    def __init__(self, path: Path, block_size: int) -> None:
        self.path = path
        self.block_size = block_size
        self._descriptor = -1
        self._free = list(range(SLOTS))
        self._waiting: deque[tuple[int, bytes, bytes, Begun]] = deque()
        self._workers = Workers(1, name=f"intents-{path.name}")
        self._is_open = True

    def read(self) -> tuple[Intent, ...]:
        """The entries that are in the file: writes that a crash came into. Raises OSError."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return ()
        self._descriptor = descriptor
        entries = (_parse(slot, os.pread(descriptor, _SLOT, slot * _SLOT)) for slot in range(SLOTS))
        found = tuple(entry for entry in entries if entry is not None)
        for entry in found:
            self._free.remove(entry.slot)
        return found

    def begin(self, lba: int, old: Buffer, new: Buffer, done: Begun) -> None:
        """Note what the blocks hold and what they are to hold; `done` with the entry when that is
        on stable storage."""
        if not self._is_open:
            done(Aborted(f"{self.path} is closed"), None)
        elif self._free:
            self._write(self._free.pop(), lba, bytes(old), bytes(new), done)
        else:
            self._waiting.append((lba, bytes(old), bytes(new), done))

    def end(self, intent: Intent, done: Done) -> None:
        """Strike an entry out."""

        def work() -> Buffer | DeviceError:
            try:
                self._put(bytes(_HEAD.size), intent.slot)
            except OSError as error:
                return _failure(error, self.path)
            return b""

        def finished(result: Buffer | DeviceError) -> None:
            if isinstance(result, DeviceError):
                done(result)  # the slot is lost: its entry is still there
                return
            if self._waiting:
                self._write(intent.slot, *self._waiting.popleft())
            else:
                self._free.append(intent.slot)
            done(None)

        self._workers.run(work, finished)

    def close(self) -> None:
        """Let go of the file; entries that are in it stay."""
        if not self._is_open:
            return
        self._is_open = False
        while self._waiting:
            self._waiting.popleft()[3](Aborted(f"{self.path} is closed"), None)
        self._workers.stop(self._close_file)

    def _close_file(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, slot: int, lba: int, old: bytes, new: bytes, done: Begun) -> None:
        intent = Intent(slot, lba, old, _crcs(old), _crcs(new))

        def work() -> Buffer | DeviceError:
            try:
                self._put(_pack(intent, self.block_size), slot)
            except OSError as error:
                return _failure(error, self.path)
            return b""

        def finished(result: Buffer | DeviceError) -> None:
            if isinstance(result, DeviceError):
                self._free.append(slot)
                done(result, None)
            else:
                done(None, intent)

        self._workers.run(work, finished)

    def _put(self, data: bytes, slot: int) -> None:
        if self._descriptor < 0:
            self._descriptor = _create(self.path)
        written = os.pwritev(self._descriptor, [data], slot * _SLOT, os.RWF_DSYNC)
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _create(path: Path) -> int:
    """Make the file, with all of its room. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, SLOTS * _SLOT)
        os.fsync(descriptor)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _crcs(data: Buffer) -> bytes:
    view = memoryview(data)
    return b"".join(
        zlib.crc32(view[at : at + _PIECE]).to_bytes(4, "big") for at in range(0, len(view), _PIECE)
    )


def _pack(intent: Intent, block_size: int) -> bytes:
    body = intent._old + intent._new + intent.data
    fields = (_MAGIC, _VERSION, block_size, intent.lba, len(intent.data))
    crc = zlib.crc32(body, zlib.crc32(_HEAD.pack(*fields, 0)))
    return _HEAD.pack(*fields, crc) + body


def _parse(slot: int, image: bytes) -> Intent | None:
    """The entry in a slot; None where there is none, or none that was written whole."""
    if len(image) < _HEAD.size:
        return None
    magic, version, block_size, lba, length, crc = _HEAD.unpack_from(image)
    crcs = 4 * (length // _PIECE)
    end = _HEAD.size + 2 * crcs + length
    if magic != _MAGIC or version != _VERSION or not 0 < length <= MOST_BYTES or end > len(image):
        return None
    body = image[_HEAD.size : end]
    head = _HEAD.pack(magic, version, block_size, lba, length, 0)
    if zlib.crc32(body, zlib.crc32(head)) != crc:
        return None
    return Intent(slot, lba, body[2 * crcs :], body[:crcs], body[crcs : 2 * crcs])


def _failure(error: OSError, path: Path) -> DeviceError:
    words = f"intent log {path}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceExhausted(words)
    return MediumFailure(words, writing=True)
