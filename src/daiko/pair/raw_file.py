"""The few calls of the operating system that the file of a differential bitmap is made of.

They are an interface so that tests can put a disk in their place that forgets, at a power cut, what
it was not asked to keep. Nothing is mapped into memory: a disk that fails is to be an OSError, and
not a signal.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol


class RawFile(Protocol):
    """A file that is read and written at offsets. Everything here raises OSError, and may block;
    `write` only as far as the page cache."""

    is_new: bool
    """It was made when it was opened."""

    def size(self) -> int:
        """Bytes."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes, or as many as there are before the end."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`: later reads see it, those of other processes too, and it outlives
        this process, but not the machine."""
        ...

    def allocate(self, length: int) -> None:
        """Make the file as long as that, with all of its room taken."""
        ...

    def sync(self) -> None:
        """Bring everything written to stable storage."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...

    def remove(self) -> None:
        """Take the file's name away; the file goes when it is closed."""
        ...


class OsFile:
    """A real file. Only one at a time has it open."""

    def __init__(self, descriptor: int, path: Path, *, is_new: bool) -> None:
        self._descriptor = descriptor
        self._path = path
        self.is_new = is_new

    @classmethod
    def open(cls, path: Path) -> OsFile:
        """Open the file, or make it, and its folder, so that their names are on stable storage.
        Raises OSError; EBUSY where somebody else has it open."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            is_new = True
        except FileExistsError:
            descriptor = os.open(path, flags)
            is_new = False
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(errno.EBUSY, "already open as a bitmap", str(path)) from None
            _sync_folder(path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, path, is_new=is_new)

    def size(self) -> int:
        try:
            return os.fstat(self._descriptor).st_size
        except OSError as error:
            raise self._named(error) from None

    def read(self, offset: int, length: int) -> bytes:
        found = b""
        try:
            while len(found) < length:
                piece = os.pread(self._descriptor, length - len(found), offset + len(found))
                if not piece:
                    break
                found += piece
        except OSError as error:
            raise self._named(error) from None
        return found

    def write(self, offset: int, data: bytes) -> None:
        try:
            written = os.pwrite(self._descriptor, data, offset)
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], offset + written)
        except OSError as error:
            raise self._named(error) from None

    def allocate(self, length: int) -> None:
        try:
            os.truncate(self._descriptor, length)
            os.posix_fallocate(self._descriptor, 0, length)
        except OSError as error:
            raise self._named(error) from None

    def sync(self) -> None:
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise self._named(error) from None

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def _named(self, error: OSError) -> OSError:
        """The error, saying which file."""
        error.filename = str(self._path)
        return error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
