"""Memory for data on its way through the controller.

A request of 256 KiB needs that much memory for a fraction of a millisecond. Two costs come with
it, and each is larger than that of the request itself: the kernel gives and takes pages
(a page fault for every 4 KiB), and every byte is set to zero although data overwrites it at once.
`keep_freed_memory` avoids the first, `unfilled` the second.
"""

from __future__ import annotations

import ctypes
from typing import Final

_KEPT: Final = 64 << 20
"""Bytes of freed memory at the end of the heap that the process keeps."""
_FROM_HEAP: Final = 32 << 20
"""Bytes of the largest request that is served from the heap: the most that glibc allows."""
_STEP: Final = 4 << 20
"""Bytes by which the heap grows."""
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
"""mallopt(3)."""

_make = ctypes.pythonapi.PyByteArray_FromStringAndSize
_make.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)
_make.restype = ctypes.py_object


def unfilled(length: int) -> bytearray:
    """`length` bytes of whatever the memory held before: for a receiver that fills all of it, and
    never passes on a byte that it did not fill."""
    made: bytearray = _make(None, length)
    return made


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, up to `_KEPT` bytes, for the next request. False
    where the C library has no such setting (it is glibc's)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {_M_TRIM_THRESHOLD: _KEPT, _M_TOP_PAD: _STEP, _M_MMAP_THRESHOLD: _FROM_HEAP}
    taken = [mallopt(name, value) for name, value in wanted.items()]
    return taken == [1, 1, 1]
