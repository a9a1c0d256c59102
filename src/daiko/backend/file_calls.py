"""Calls of the kernel on files and block devices that `backend/file.py` is made of. All of them may
block, and raise OSError."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from daiko.device.block import Buffer, Run

KEEP_SIZE: Final = 0x01
PUNCH_HOLE: Final = 0x02
ZERO_RANGE: Final = 0x10
"""Modes of fallocate(2)."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), which `os` has only without modes. Raises OSError."""
    if _libc.fallocate(descriptor, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def pwrite(descriptor: int, data: Buffer, offset: int, flags: int) -> None:
    """Write all of `data`. Raises OSError."""
    written = os.pwritev(descriptor, (data,), offset, flags)
    while written < len(data):
        rest = memoryview(data)[written:]
        written += os.pwritev(descriptor, (rest,), offset + written, flags)


_MOST_RUNS: Final = 64
"""Looked for in one request, which then speaks of fewer blocks than were asked about."""


def runs_of(descriptor: int, lba: int, blocks: int, block_size: int) -> list[Run]:
    """Runs of mapped and deallocated blocks. Raises OSError."""
    runs: list[Run] = []
    position, end = lba, lba + blocks
    while position < end and len(runs) < _MOST_RUNS:
        try:
            data = os.lseek(descriptor, position * block_size, os.SEEK_DATA) // block_size
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = end  # nothing but a hole up to the end
        if data > position:
            runs.append((min(data, end) - position, False))
            position = min(data, end)
            continue
        hole = -(-os.lseek(descriptor, position * block_size, os.SEEK_HOLE) // block_size)
        hole = min(max(hole, position + 1), end)
        if runs and runs[-1][1]:
            runs[-1] = (runs[-1][0] + hole - position, True)
        else:
            runs.append((hole - position, True))
        position = hole
    return runs


def create(path: str, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.truncate(descriptor, size)
    finally:
        os.close(descriptor)


def unmap_mode_of(descriptor: int, size: int, preallocate: bool) -> int:
    """The mode of fallocate that unmaps blocks of this file, or 0. Tried beyond the file's end,
    where it changes nothing."""
    mode = (ZERO_RANGE if preallocate else PUNCH_HOLE) | KEEP_SIZE
    end = (size + 4095) // 4096 * 4096
    try:
        fallocate(descriptor, mode, end, 4096)
        if preallocate:  # give back what the trial took behind the end
            fallocate(descriptor, PUNCH_HOLE | KEEP_SIZE, end, 4096)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return 0
        raise
    return mode


def queue_fact(device: int, name: str) -> int:
    """A number from the block device's queue in sysfs; a partition has that of its disk."""
    folder = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for path in (folder / "queue" / name, folder.resolve().parent / "queue" / name):
        if path.exists():
            return int(path.read_text())
    return 0
