"""Copying between two files or block devices inside the kernel, so that no byte of the data passes
through this program.

The kernel has two ways, tried in this order:

- copy_file_range(2), between files of one file system. One that can share extents (XFS, btrfs)
  makes both files refer to the same room and moves nothing. So it is left out where one of the
  files was preallocated: its owner was promised that no later write fails for want of space, and
  a write to a shared extent needs new room.
- sendfile(2): across file systems, and from or to a block device. Always moves the data.

Holes of a sparse source are not read. They become holes in a destination that can have them: the
range is unmapped there, since it may hold old data.

Everything here may block, and is called in threads.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

Zero = Callable[[int, int], None]
"""Makes (offset, length) of the destination read as zeros without writing them. Raises OSError."""

_NOT_THIS_WAY = frozenset(
    (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ETXTBSY, errno.EPERM)
)
"""How the kernel says that a way is not for these two; other errors are of the data."""


class KernelCannot(Exception):
    """Neither way is for these two."""


@dataclass(frozen=True, slots=True)
class KernelCopy:
    """A range of one open file to be copied to another."""

    source: int
    """Descriptor; likewise `destination`."""
    source_offset: int
    """Bytes; likewise the others."""
    destination: int
    offset: int
    length: int
    may_share: bool
    """Whether the two may share room afterwards."""

    def run(self, zero: Zero | None, data: DataRun) -> None:
        """Copy. `zero` is None where the destination cannot have holes, `data` what is known of
        the source's. Raises KernelCannot, and OSError for what goes wrong on either side; then
        some of it may have been copied."""
        position = 0
        while position < self.length:
            if zero is None:
                end = self.length
            else:
                at = self.source_offset
                begin, end = data.next(self.source, at + position, at + self.length)
                if begin > at + position:
                    zero(self.offset + position, begin - at - position)
                position, end = begin - at, end - at
            if end > position:
                self._copy(position, end)
                position = end

    def _copy(self, position: int, end: int) -> None:
        if self.may_share:
            try:
                position = self._copy_file_range(position, end)
            except OSError as error:
                if error.errno not in _NOT_THIS_WAY:
                    raise
        if position < end:
            self._send_file(position, end)

    def _copy_file_range(self, position: int, end: int) -> int:
        while position < end:
            count = os.copy_file_range(
                self.source,
                self.destination,
                end - position,
                self.source_offset + position,
                self.offset + position,
            )
            if not count:
                break  # of a file system that does not say why: sendfile will
            position += count
        return position

    def _send_file(self, position: int, end: int) -> None:
        # It writes at the descriptor's own position: threads must not share one.
        mine = os.open(f"/proc/self/fd/{self.destination}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.lseek(mine, self.offset + position, os.SEEK_SET)
            while position < end:
                try:
                    count = os.sendfile(
                        mine, self.source, self.source_offset + position, end - position
                    )
                except OSError as error:
                    if error.errno in _NOT_THIS_WAY:
                        raise KernelCannot from error
                    raise
                if not count:
                    raise OSError(errno.EIO, "the source ends early")
                position += count
        finally:
            os.close(mine)


class DataRun:
    """Where a source's data lies (lseek(2), SEEK_DATA and SEEK_HOLE), with the last run kept.

    The kernel looks for the end of a run page by page, so it is asked once for each. A run that
    is kept may get a hole meanwhile; zeros are then copied as data, which is as right. That a
    range is a hole is never kept."""

    __slots__ = ("_run",)

    def __init__(self) -> None:
        self._run = (0, 0)

    def next(self, descriptor: int, position: int, end: int) -> tuple[int, int]:
        """The first run of data from `position` on, cut off at `end`; (end, end) where there is
        none. Raises OSError."""
        begin, until = self._run
        if not begin <= position < until:
            begin, until = _find(descriptor, position)
            if begin < until:
                self._run = (begin, until)
        return min(max(begin, position), end), min(until, end)


def _find(descriptor: int, position: int) -> tuple[int, int]:
    try:
        begin = os.lseek(descriptor, position, os.SEEK_DATA)
        return begin, os.lseek(descriptor, begin, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole up to the end
            return 1 << 62, 1 << 62
        if error.errno == errno.EINVAL:  # a block device: nothing is known of its holes
            return 0, 1 << 62
        raise
