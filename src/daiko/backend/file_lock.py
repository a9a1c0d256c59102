"""One process, one device: the lock on a file or block device that is served (flock(2))."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FileInUse(Exception):
    """Somebody else has the file open as a device; the message says who."""


def lock_file(descriptor: int, path: str, *, exclusively: bool) -> None:
    """Raises FileInUse, OSError."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusively else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(descriptor)
        by = f"by process {holder}" if holder else "by another process"
        if holder == os.getpid():
            by = "by another back end of this controller"
        raise FileInUse(f"{path} is in use {by}") from None


def _holder(descriptor: int) -> int:
    """The process that holds a flock on the file (proc_locks(5)); 0 where it is not to be seen,
    as in another container."""
    facts = os.fstat(descriptor)
    place = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        fields = line.split()
        if fields[1:2] == ["FLOCK"] and place in fields:
            return int(fields[4])
    return 0
