"""A real LU of this controller (port INTERNAL): a file, or a block device.

**Reads** try `RWF_NOWAIT` first: what lies in the page cache is read inline, without a thread and
without a task. Only when the kernel says that it would block does the read go to a thread.

**Writes** go to the page cache. Few file systems take `RWF_NOWAIT` for buffered writes, and a hop
to a thread and back costs ten times the write itself. So a write is done inline as long as that
is quick, and `_Pace` watches: after one that took long (the kernel throttles the writer, or must
read a page before it can fill part of it) writes go to threads for a while. The same holds for
reads on a file system without `RWF_NOWAIT` (tmpfs).

**Stable storage**: `flush` is fdatasync, in a thread. FUA is a write with `RWF_DSYNC`, in a thread.

**Unmap** punches a hole in a sparse file and discards on a block device that can; on a
preallocated file it zeroes the range and keeps the room (`FALLOC_FL_ZERO_RANGE`), so that a
later write can never fail for want of space. **COMPARE AND WRITE** is a read, a comparison and a
write while a `RangeLock` keeps other writes off the blocks.

**Copies** from another device of this kind, or within one, are made by the kernel
(`backend/kernel_copy.py`), in threads of their own: however much is copied, those for reads, writes
and flushes stay free.

**One process, one device.** Two controllers that serve one file would each cache what the other
changes, and no COMPARE AND WRITE would hold. So the file is locked (flock(2), which goes with the
descriptor and so with the process): exclusively, or shared where it is opened read-only.

Errors: ENOSPC and EDQUOT -> SpaceExhausted, EROFS -> WriteProtected, all others -> MediumFailure.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from functools import partial
from typing import Final

from daiko.backend.file_calls import (
    KEEP_SIZE,
    PUNCH_HOLE,
    create,
    fallocate,
    pwrite,
    queue_fact,
    runs_of,
    unmap_mode_of,
)
from daiko.backend.file_lock import lock_file
from daiko.backend.kernel_copy import DataRun, KernelCannot, KernelCopy
from daiko.backend.open_file import OpenFile, failure
from daiko.device.block import (
    Atomic,
    BlockDevice,
    Buffer,
    Capabilities,
    Done,
    Level,
    PrefetchDone,
    ReadDone,
    Room,
    StatusDone,
)
from daiko.device.emulate import first_difference, ored
from daiko.device.error import (
    Aborted,
    DeviceError,
    MediumFailure,
    Miscompare,
    Unsupported,
)
from daiko.device.memory import unfilled

_BLKGETSIZE64: Final = 0x80081272
_BLKROGET: Final = 0x125E
_BLKPBSZGET: Final = 0x127B


def _exponent(physical: int, block_size: int) -> int:
    """Log2 of the blocks in a physical block of `physical` bytes; 0 where that is not a power of
    two, or less than a block. A file system's blocks are at most 64 KiB for this."""
    if physical <= block_size or physical & (physical - 1) or physical > 1 << 16:
        return 0
    return (physical // block_size).bit_length() - 1


_MOST_PREFETCHED: Final = 256 << 20
"""Bytes that one request may bring into the page cache."""

_INLINE_BYTES: Final = 1 << 20
"""A longer request always goes to a thread, so that the loop does not stand still for its copy."""

_ZEROED: Final = 32 * 1024
"""Up to here it costs less to set memory to zero than to ask for memory that is not."""


_SLOW: Final = 0.002
"""Seconds that an inline operation may take."""
_PAUSE: Final = 1.0
"""Seconds during which threads are used after a slow one."""


class _Pace:
    """Whether the next operation may be done inline: not for a while after a slow one."""

    __slots__ = ("blocked_until",)

    def __init__(self) -> None:
        self.blocked_until = 0.0
        """By time.monotonic()."""

    def was_slow(self) -> None:
        self.blocked_until = time.monotonic() + _PAUSE


class FileDevice(OpenFile):
    """The blocks of a file or a block device. Made by `FileDevice.open`."""

    def __init__(
        self,
        descriptor: int,
        path: str,
        blocks: int,
        block_size: int,
        capabilities: Capabilities,
        unmap_mode: int,
        *,
        shows_holes: bool,
        keeps_room: bool,
    ) -> None:
        super().__init__(descriptor, path, blocks, block_size, capabilities)
        self._unmap_mode = unmap_mode
        self._zero_bytes = partial(fallocate, descriptor, unmap_mode)
        self._shows_holes = shows_holes
        self._keeps_room = keeps_room
        self._read_flags = os.RWF_NOWAIT
        self._pace = _Pace()
        self._data_run = DataRun()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        block_size: int = 512,
        *,
        create_bytes: int | None = None,
        preallocate: bool = False,
        read_only: bool = False,
    ) -> FileDevice:
        """Open a file or block device; bytes after the last whole block are left alone.

        `create_bytes` makes the file, with that size, if there is none. `preallocate` takes the
        room of a file now, and keeps it when blocks are unmapped. Raises OSError, FileInUse, and
        ValueError for what cannot be a device (a directory, a size below one block, block sizes
        other than 512 and 4096).
        """
        path = os.fspath(path)
        if block_size not in (512, 4096):
            raise ValueError(f"{path}: blocks have 512 or 4096 bytes, not {block_size}")
        flags = os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR)
        if create_bytes is not None and not os.path.exists(path):
            create(path, create_bytes)
        descriptor = os.open(path, flags)
        try:
            lock_file(descriptor, path, exclusively=not read_only)
            return cls._examine(descriptor, path, block_size, preallocate, read_only)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def _examine(
        cls, descriptor: int, path: str, block_size: int, preallocate: bool, read_only: bool
    ) -> FileDevice:
        facts = os.fstat(descriptor)
        rotational = False
        if stat.S_ISBLK(facts.st_mode):
            buffer = fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8))
            (size,) = struct.unpack("Q", buffer)
            (is_protected,) = struct.unpack("i", fcntl.ioctl(descriptor, _BLKROGET, bytes(4)))
            read_only = read_only or bool(is_protected)
            rotational = queue_fact(facts.st_rdev, "rotational") != 0
            (physical,) = struct.unpack("I", fcntl.ioctl(descriptor, _BLKPBSZGET, bytes(4)))
            can_discard = queue_fact(facts.st_rdev, "discard_max_bytes") > 0
            unmap_mode = PUNCH_HOLE | KEEP_SIZE if can_discard and not read_only else 0
        elif stat.S_ISREG(facts.st_mode):
            size = facts.st_size
            physical = facts.st_blksize
            if preallocate and not read_only:
                os.posix_fallocate(descriptor, 0, size)
            unmap_mode = 0 if read_only else unmap_mode_of(descriptor, size, preallocate)
        else:
            raise ValueError(f"{path}: neither a file nor a block device")
        blocks = size // block_size
        if blocks < 1:
            raise ValueError(f"{path}: {size} bytes are not one block of {block_size}")
        capabilities = Capabilities(
            unmap=Level.NATIVE if unmap_mode else Level.NONE,
            write_same=Level.NATIVE,
            compare_and_write=Level.NATIVE,
            fua=Level.NATIVE,
            rotational=rotational,
            read_only=read_only,
            optimal_blocks=max(1, 4096 // block_size),
            unmap_granularity=max(1, 4096 // block_size),
            unmapped_reads_zero=bool(unmap_mode),
            keeps_room=preallocate and stat.S_ISREG(facts.st_mode),
            tells_room=stat.S_ISREG(facts.st_mode) and not preallocate and not read_only,
            physical_exponent=_exponent(physical, block_size),
        )
        # (the kernel refuses SEEK_HOLE on a block device, also on one that can discard)
        shows_holes = stat.S_ISREG(facts.st_mode) and unmap_mode == PUNCH_HOLE | KEEP_SIZE
        return cls(
            descriptor,
            path,
            blocks,
            block_size,
            capabilities,
            unmap_mode,
            shows_holes=shows_holes,
            keeps_room=preallocate,
        )

    # Reading

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        if not self._is_open or lba < 0 or blocks <= 0 or lba + blocks > self.blocks:
            done(self._refusal(lba, blocks), b"")
            return
        length = blocks * self.block_size
        buffer = bytearray(length) if length < _ZEROED else unfilled(length)
        filled = self._read_inline(buffer, lba * self.block_size) if length <= _INLINE_BYTES else 0
        if filled == length:
            done(None, buffer)
        else:
            self._read_in_thread(lba, buffer, filled, done)

    def _read_in_thread(self, lba: int, buffer: bytearray, filled: int, done: ReadDone) -> None:
        length = len(buffer)
        offset = lba * self.block_size

        def work() -> Buffer | DeviceError:
            position = filled
            view = memoryview(buffer)
            try:
                while position < length:
                    count = os.preadv(self._descriptor, [view[position:]], offset + position)
                    if not count:
                        return MediumFailure(f"{self.path} has shrunk", writing=False, lba=lba)
                    position += count
            except OSError as error:
                return failure(error, self.path, lba, writing=False)
            return buffer

        def finished(result: Buffer | DeviceError) -> None:
            if isinstance(result, DeviceError):
                done(result, b"")
            elif not self._is_open:
                done(Aborted(f"{self.path} is closed"), b"")
            else:
                done(None, result)

        self._workers.run(work, finished)

    def _read_inline(self, buffer: bytearray, offset: int) -> int:
        """Bytes read without blocking; 0 as well for an error, which the thread will see again."""
        if self._read_flags:
            try:
                return os.preadv(self._descriptor, (buffer,), offset, self._read_flags)
            except BlockingIOError:
                return 0
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    return 0
                self._read_flags = 0  # this file system does not know it
        begun = time.monotonic()
        if begun < self._pace.blocked_until:
            return 0
        try:
            count = os.preadv(self._descriptor, (buffer,), offset)
        except OSError:
            return 0
        if time.monotonic() - begun > _SLOW:
            self._pace.was_slow()
        return count

    # Writing

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        length = len(data)
        blocks = length // self.block_size
        is_writable = self._is_open and not self.capabilities.read_only
        if not is_writable or lba < 0 or not length or lba + blocks > self.blocks:
            done(self._refusal(lba, blocks, changing=True))
            return
        if not fua and length <= _INLINE_BYTES and not self._lock.has_exclusive:
            # Done before anything else can ask for these blocks, so it need not enter.
            begun = time.monotonic()
            if begun >= self._pace.blocked_until:
                self._write_inline(lba, data, begun, done)
                return
        self._write_when_free(lba, data, done, fua)

    def _write_when_free(self, lba: int, data: Buffer, done: Done, fua: bool) -> None:
        self._lock.wait_shared(
            lba,
            len(data) // self.block_size,
            lambda ticket: self._write_in_thread(ticket, lba, data, done, fua),
        )

    def _write_inline(self, lba: int, data: Buffer, begun: float, done: Done) -> None:
        outcome: DeviceError | None = None
        try:
            pwrite(self._descriptor, data, lba * self.block_size, 0)
        except OSError as error:
            outcome = failure(error, self.path, lba, writing=True)
        if time.monotonic() - begun > _SLOW:
            self._pace.was_slow()
        done(outcome)

    def _write_in_thread(self, ticket: int, lba: int, data: Buffer, done: Done, fua: bool) -> None:
        offset = lba * self.block_size
        flags = os.RWF_DSYNC if fua else 0

        def write() -> None:
            pwrite(self._descriptor, data, offset, flags)

        self._change(ticket, lba, write, done)

    def flush(self, done: Done) -> None:
        if not self._is_open:
            done(Aborted(f"{self.path} is closed"))
        elif self.capabilities.read_only:
            done(None)
        else:

            def sync() -> None:
                os.fdatasync(self._descriptor)

            self._change(None, 0, sync, done)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        if not self._unmap_mode:
            super().unmap(lba, blocks, done)
            return
        self._zero(lba, blocks, done)

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        if self._unmap_mode and not any(pattern):
            self._zero(lba, blocks, done)
            return
        refusal = self._refusal(lba, blocks, changing=True)
        if refusal is not None or not blocks:
            done(refusal)
            return
        block_size = self.block_size

        def work() -> None:
            chunk = memoryview(bytes(pattern) * min(blocks, _INLINE_BYTES // block_size))
            position, end = lba * block_size, (lba + blocks) * block_size
            while position < end:
                part = chunk[: end - position]
                pwrite(self._descriptor, part, position, 0)
                position += len(part)

        self._lock.wait_shared(lba, blocks, lambda ticket: self._change(ticket, lba, work, done))

    def _zero(self, lba: int, blocks: int, done: Done) -> None:
        refusal = self._refusal(lba, blocks, changing=True)
        if refusal is not None or not blocks:
            done(refusal)
            return
        offset, length = lba * self.block_size, blocks * self.block_size

        def work() -> None:
            self._zero_bytes(offset, length)

        self._lock.wait_shared(lba, blocks, lambda ticket: self._change(ticket, lba, work, done))

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        blocks = len(compare) // self.block_size
        refusal = self._refusal(lba, blocks, changing=True)
        if refusal is not None or not blocks:
            done(refusal)
            return

        offset = lba * self.block_size

        def work() -> DeviceError | None:
            found = os.pread(self._descriptor, len(compare), offset)
            if (difference := first_difference(found, compare)) >= 0:
                return Miscompare(f"{self.path}: other data at {lba}", offset=difference)
            pwrite(self._descriptor, data, offset, 0)
            return None

        self._lock.wait_exclusive(lba, blocks, lambda ticket: self._change(ticket, lba, work, done))

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        blocks = len(data) // self.block_size
        refusal = self._refusal(lba, blocks, changing=True)
        if refusal is not None or not blocks:
            done(refusal)
            return
        offset = lba * self.block_size

        def work() -> DeviceError | None:
            found = os.pread(self._descriptor, len(data), offset)
            if len(found) < len(data):
                return MediumFailure(f"{self.path} has shrunk", writing=False, lba=lba)
            pwrite(self._descriptor, ored(found, data), offset, 0)
            return None

        self._lock.wait_exclusive(lba, blocks, lambda ticket: self._change(ticket, lba, work, done))

    def is_native(self, operation: Atomic, lba: int, blocks: int) -> bool:
        return operation is not Atomic.WRITE

    def prefetch(self, lba: int, blocks: int, done: PrefetchDone) -> None:
        """Tells the kernel to read ahead (posix_fadvise(2), POSIX_FADV_WILLNEED). Of more than
        `_MOST_PREFETCHED` bytes only the first are asked for."""
        refusal = self._refusal(lba, blocks)
        if refusal is not None:
            done(refusal, False)
            return
        length = blocks * self.block_size
        advised = min(length, _MOST_PREFETCHED)
        offset = lba * self.block_size

        def work() -> None:
            if advised:
                os.posix_fadvise(self._descriptor, offset, advised, os.POSIX_FADV_WILLNEED)

        self._change(
            None, lba, work, lambda error: done(error, error is None and advised == length)
        )

    def room(self) -> Room | None:
        """By the file system: what it has left, and what the file takes of it."""
        if not self.capabilities.tells_room or not self._is_open:
            return None
        system = os.fstatvfs(self._descriptor)
        taken = os.fstat(self._descriptor).st_blocks * 512
        left = system.f_bavail * system.f_frsize
        return Room(left // self.block_size, taken // self.block_size)

    def lba_status(self, lba: int, blocks: int, done: StatusDone) -> None:
        """By the holes of the file (lseek(2), SEEK_HOLE). A block that is partly in a hole is
        mapped. Everything is mapped on a block device, and where unmapping keeps the room."""
        refusal = self._refusal(lba, blocks)
        if refusal is not None or not blocks:
            done(refusal, ())
        elif not self._shows_holes:
            done(None, [(blocks, True)])
        else:
            try:
                runs = runs_of(self._descriptor, lba, blocks, self.block_size)
            except OSError as error:
                done(failure(error, self.path, lba, writing=False), ())
            else:
                done(None, runs)

    # Copies

    def held_by(self, lba: int, blocks: int) -> tuple[BlockDevice, int] | None:
        return self, lba

    def copy_from(
        self, lba: int, source: BlockDevice, source_lba: int, blocks: int, done: Done
    ) -> bool:
        """By the kernel, from another device of this kind or from another place on this one."""
        held = source.held_by(source_lba, blocks)
        if held is None or not blocks:
            return False
        device, at = held
        if not isinstance(device, FileDevice):
            return False
        length = blocks * device.block_size
        count = length // self.block_size
        if device._refusal(at, blocks) or self._refusal(lba, count, changing=True):
            return False  # a read or a write will say why
        if device is self and abs(at - lba) < count:
            return False

        def begin(ticket: int) -> None:
            if not device._is_open:
                self._lock.leave(ticket)
                done(Aborted(f"{device.path} is closed"))
                return
            # It may be closed, and its descriptor be another file's, while a thread reads it.
            reading = os.dup(device._descriptor)
            copy = KernelCopy(
                reading,
                at * device.block_size,
                self._descriptor,
                lba * self.block_size,
                length,
                may_share=not self._keeps_room and not device._keeps_room,
            )

            def work() -> Buffer | DeviceError:
                try:
                    copy.run(self._zero_bytes if self._unmap_mode else None, device._data_run)
                except KernelCannot:
                    return Unsupported(f"the kernel does not copy {device.path} to {self.path}")
                except OSError as error:
                    return failure(error, self.path, lba, writing=True)
                finally:
                    os.close(reading)
                return b""

            self._in_thread(self._copiers, ticket, work, done)

        self._lock.wait_shared(lba, count, begin)
        return True
