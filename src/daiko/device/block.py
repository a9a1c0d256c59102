"""The one interface to stored blocks.

A file, an LU of a second controller, a virtual LU and every layer that wraps one of these is a
`BlockDevice`. A request comes with a completion callback, which the device calls exactly once:
inline, before the method returns, when it can (a page-cache hit), or later from the event loop.
No task, future or exception is made on the way of a READ or a WRITE; `device/awaitable.py` gives
the same operations as coroutines to everything that is not the data path.

Rules for both sides:

- All methods are called, and all callbacks run, on the event loop's thread.
- The caller has checked that the range lies inside the device and that the data's length is a
  multiple of the block size; a device checks again only where it costs nothing, and reports
  `OutOfRange`.
- `blocks` may be 0: the device completes at once without error.
- Data given to `write` may be used by the device only until it calls `done`; the caller keeps it
  unchanged until then. Data given to a `ReadDone` belongs to the receiver, who must not change it.
- Order: requests in flight together have no order among them. A caller that needs one waits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

from mypy_extensions import mypyc_attr

from daiko.device.error import DeviceError, OutOfRange, Unsupported
from daiko.device.sanitize import Sanitization, SanitizeWatcher

Buffer = bytes | bytearray | memoryview
"""Bytes-like data, C-contiguous, of format 'B'."""

Done = Callable[[DeviceError | None], None]
"""Completion of a request without data: the error, or None when it is done."""

ReadDone = Callable[[DeviceError | None, Buffer], None]
"""Completion of a read: the error and b'', or None and exactly the data asked for."""

Run = tuple[int, bool]
"""Blocks, and whether they are mapped (hold data of their own) or deallocated."""

StatusDone = Callable[[DeviceError | None, Sequence[Run]], None]
"""Completion of `lba_status`: the error and (), or None and the runs in order, from the first
block asked for on, none of them empty, together at least one block and at most all asked for."""


PrefetchDone = Callable[[DeviceError | None, bool], None]
"""Completion of `prefetch`: the error, and whether all of the range has room in the cache."""


class Room(NamedTuple):
    """What a device that takes room as it is written has of it, in its blocks."""

    available: int
    """Left; others may take it as well."""
    used: int | None
    """Taken by this device; None = it cannot be told."""


class Level(IntEnum):
    """How far a device offers an optional operation."""

    NONE = 0
    EMULATED = 1
    """Correct, but done with simpler operations (`device/emulate.py`)."""
    NATIVE = 2


class Atomic(Enum):
    """Operations between whose steps nothing else may come (SBC-4, 4.29 and 5.3)."""

    COMPARE_AND_WRITE = "compare and write"
    OR_WRITE = "or write"
    WRITE = "atomic write"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a device offers beyond read, write and flush; asked for once, when it is opened."""

    unmap: Level
    write_same: Level
    compare_and_write: Level
    fua: Level
    """EMULATED: the write is followed by a flush before it completes."""
    rotational: bool = False
    read_only: bool = False
    optimal_blocks: int = 0
    """Granularity (blocks) at which requests are best aligned; 0 = not known."""
    maximum_blocks: int = 0
    """Largest request (blocks) the device takes at once; 0 = no limit. A caller splits."""
    unmap_granularity: int = 1
    """Blocks."""
    unmapped_reads_zero: bool = False
    physical_exponent: int = 0
    """Log2 of blocks in one physical block: a write of less makes the device read first. Block 0
    begins one."""
    keeps_room: bool = False
    """Blocks that are unmapped keep their room, and so are never deallocated."""
    tells_room: bool = False
    """The device takes room as it is written, may find none, and can tell (`room`)."""
    atomic_blocks: int = 0
    """Longest `write_atomic` (blocks); 0 = none."""

    @property
    def can_erase(self) -> bool:
        """All blocks can be unmapped, and are deallocated and read as zeros then."""
        return bool(self.unmap) and self.unmapped_reads_zero and not self.keeps_room


@mypyc_attr(allow_interpreted_subclasses=True)
class BlockDevice(ABC):
    """An array of `blocks` blocks of `block_size` bytes."""

    block_size: int
    """Bytes a block: 512 or 4096."""
    blocks: int
    """Capacity in blocks."""
    capabilities: Capabilities

    @abstractmethod
    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        """Read `blocks` blocks from `lba`."""

    @abstractmethod
    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        """Write `data` from `lba` on. Done means: a later read, and a reader by any other path,
        sees it. With `fua` it is on stable storage before `done`."""

    @abstractmethod
    def flush(self, done: Done) -> None:
        """Bring all completed writes to stable storage."""

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        """Give up the contents of the range; what a read returns next is zeros where
        `capabilities.unmapped_reads_zero`, else zeros or the old data."""
        done(Unsupported("this device cannot unmap"))

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        """Write `pattern` (one block) to each block of the range."""
        done(Unsupported("this device has no WRITE SAME"))

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        """Write `data` if the range holds `compare`, atomically against every other write
        through this device; else `Miscompare`."""
        done(Unsupported("this device has no COMPARE AND WRITE"))

    def copy_from(
        self, lba: int, source: BlockDevice, source_lba: int, blocks: int, done: Done
    ) -> bool:
        """Copy `blocks` blocks of `source`, from its `source_lba` on, to `lba` here, without the
        data passing through this program. The bytes must be whole blocks here. Ranges of one
        device must not overlap.

        False: that cannot be done, and `done` is not called; the caller reads and writes. True:
        `done` will be called, never before this returns. After an error some of it may have been
        written, and it is not known which side failed: a caller that must know, and one that gets
        `Unsupported`, reads and writes. A copy that meets other requests has no order with them,
        but a COMPARE AND WRITE here is atomic against it.

        A layer has this only if it does with a copy what it does with a write; by default it has
        not, so that no copy goes past a layer that notes, delays, diverts or refuses writes."""
        return False

    def held_by(self, lba: int, blocks: int) -> tuple[BlockDevice, int] | None:
        """The device that holds the range, and the range's place there, where whoever reads it
        there reads what a read here would give; None where that is not so, or not known. For
        `copy_from`, which asks its source. A layer has this only if it leaves reads alone."""
        return None

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        """Replace the range by the OR of its contents and `data`, atomically against every other
        write through this device."""
        done(Unsupported("this device has no ORWRITE"))

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        """Write all of `data` or nothing: a reader sees all old or all new blocks, and so it is
        after an error, after a crash of this process, and after a loss of power."""
        done(Unsupported("this device has no atomic write"))

    def is_native(self, operation: Atomic, lba: int, blocks: int) -> bool:
        """Does the device itself carry out this operation on this range? Where it does not, who
        calls may make it of reads and writes while nothing else changes the range."""
        return False

    def sanitize(
        self, wanted: Sanitization, watcher: SanitizeWatcher, *, resume: bool = False
    ) -> Callable[[], None] | None:
        """Have the whole medium sanitized by the device's own means, and follow it. `resume`: it
        was `taken_over` before; where that is still at work, or has failed, it is not begun anew.

        None: the device has no such means for this, and the watcher is not called; the caller
        writes. Else what stops the watching, not the work; the watcher is called no more then.
        Nobody else may have blocks in this device: it does not ask.

        A device that is only part of a medium has it not, and a layer only if it does with this
        what it does with a write to all blocks."""
        return None

    def exit_failure_mode(self, done: Done) -> None:
        """Be usable again after a `sanitize` that failed, where it was not restricted."""
        done(None)

    def prefetch(self, lba: int, blocks: int, done: PrefetchDone) -> None:
        """Bring the range into the device's cache. A device without one has nothing to do."""
        if lba < 0 or lba + blocks > self.blocks:
            done(OutOfRange(f"blocks {lba}..{lba + blocks - 1} of {self.blocks}"), False)
        else:
            done(None, False)

    def room(self) -> Room | None:
        """How much room there is, at once and without I/O; None where it cannot be told."""
        return None

    def lba_status(self, lba: int, blocks: int, done: StatusDone) -> None:
        """Say which blocks of the range are mapped (SBC-4, 4.7: provisioning status). A device
        that cannot tell calls everything mapped, which is always safe to believe."""
        done(None, [(blocks, True)] if blocks else ())

    def close(self) -> None:
        """Let go of what the device holds. Requests in flight complete with `Aborted`."""
