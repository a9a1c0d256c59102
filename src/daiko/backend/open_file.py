"""What all operations on an open file or block device share: whether they may begin, the threads
that carry out what may block, and the end of it all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from daiko.backend.worker import Work, Workers
from daiko.device.block import BlockDevice, Buffer, Capabilities, Done
from daiko.device.error import (
    Aborted,
    DeviceError,
    MediumFailure,
    OutOfRange,
    SpaceExhausted,
    WriteProtected,
)
from daiko.device.range_lock import RangeLock

_COPY_THREADS: Final = 1
"""Of one destination. A file system writes to one file at a time: a second thread brings no time,
and spends CPU time in waiting for the first."""


def failure(error: OSError, path: str, lba: int, *, writing: bool) -> DeviceError:
    words = f"{path}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceExhausted(words)
    if error.errno == errno.EROFS:
        return WriteProtected(words)
    return MediumFailure(words, writing=writing, lba=lba)


class OpenFile(BlockDevice):
    """A file or block device that is open: its descriptor, its threads, its lock."""

    def __init__(
        self,
        descriptor: int,
        path: str,
        blocks: int,
        block_size: int,
        capabilities: Capabilities,
    ) -> None:
        self.path = path
        self.blocks = blocks
        self.block_size = block_size
        self.capabilities = capabilities
        self._descriptor = descriptor
        self._lock = RangeLock()
        self._workers = Workers(name=f"file-{Path(path).name}")
        self._copiers = Workers(_COPY_THREADS, name=f"copy-{Path(path).name}")
        self._is_open = True

    def _refusal(self, lba: int, blocks: int, changing: bool = False) -> DeviceError | None:
        if not self._is_open:
            return Aborted(f"{self.path} is closed")
        if lba < 0 or blocks < 0 or lba + blocks > self.blocks:
            return OutOfRange(f"{self.path}: blocks {lba}..{lba + blocks - 1} of {self.blocks}")
        if changing and self.capabilities.read_only:
            return WriteProtected(f"{self.path} is read-only")
        return None

    def _change(
        self, ticket: int | None, lba: int, change: Callable[[], DeviceError | None], done: Done
    ) -> None:
        """Do `change` in a thread, then give the ticket back and complete."""

        def work() -> Buffer | DeviceError:
            try:
                return change() or b""
            except OSError as error:
                return failure(error, self.path, lba, writing=True)

        self._in_thread(self._workers, ticket, work, done)

    def _in_thread(self, workers: Workers, ticket: int | None, work: Work, done: Done) -> None:
        """Do `work` in a thread, then give the ticket back and complete."""

        def finished(result: Buffer | DeviceError) -> None:
            if ticket is not None:
                self._lock.leave(ticket)
            if isinstance(result, DeviceError):
                done(result)
            else:
                done(None if self._is_open else Aborted(f"{self.path} is closed"))

        workers.run(work, finished)

    def length(self) -> int:
        """Whole blocks that the file or block device has now. Raises OSError."""
        return os.lseek(self._descriptor, 0, os.SEEK_END) // self.block_size

    def refresh(self) -> None:
        """Take the size as it is now; the file or block device may have grown. Raises OSError."""
        self.blocks = self.length()

    def close(self) -> None:
        """Requests in threads complete with `Aborted` once their thread is done with the file."""
        if not self._is_open:
            return
        self._is_open = False
        descriptor = self._descriptor
        self._workers.stop(lambda: self._copiers.stop(lambda: os.close(descriptor)))
