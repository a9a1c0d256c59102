"""The differential bitmap: which regions of a volume may differ from its partner [0115-0117].

A bit is set *before* a write is sent and cleared only with proof that both sides have the same. The
bitmap lies in a file, so that a restart does not have to copy the whole volume again:

- **The process ends, the machine does not**: exact. Every bit is written to the file as it is set
  or cleared, and the page cache outlives the process. The kernel's boot id tells this case.
- **The machine stops** (power, panic): no bit that was set is lost, and no more than `hot_bytes`
  are marked beyond what was. How, is what the rest of this is about.
- **The file is damaged, or another's**: what it cannot vouch for is marked.

**The activity log.** It would cost a wait for the disk to bring each bit to stable storage before
the write that it stands for. Instead whole *areas* of the volume (16 MiB) are written down as *hot*
on stable storage, a bounded number of them; in a hot area a bit is set, written to the page cache,
and the write may be sent at once. After a power cut the hot areas are marked whole.

**Commits.** For a bit that is newly set elsewhere the write waits for a *commit*, in a thread: a
log page is written that has the areas where such bits were set, and one fdatasync brings it *and
all bits written so far* to stable storage. So who waits needs no more than one commit that begins
after its bits were written, whether there was room for its area in the log or not. Those that come
meanwhile share the next one.

**Why no bit is lost.** A bit *counts* when its write may have been sent. Claim: each bit that
counts is set on stable storage, or its area stands in every log page that may count after a power
cut. Then what is marked after one covers every bit that counts.

- A bit counts by `mark` where its area is hot: the claim holds by the log. Or by the end of a
  commit that began after it was written: it holds by the bit. Or because it was set already and is
  not among the *unsafe* ones (set where nothing was hot, and no commit has ended since): then one
  of the two was true before.
- An area leaves the log only if a commit has *ended* that began after its bits were last set. Then
  they are on stable storage, and the log page without it may overtake or be overtaken by anything.
  It is not hot from the moment when that log page is begun.
- While a log page is being written, the one before it or the new one may count after a power cut.
  Areas that leave are no longer, areas that enter not yet hot: what is hot stands in both.
- A bit that is *cleared* may be cleared on the disk at any time from then on, early or never. When
  it is set again it is as newly set as any other, whatever the disk has: its area is hot or it
  waits for a commit. So the order of these two on the disk is of no consequence.
- Pages of bits reach the disk whenever the kernel likes, and torn. Each bit in them is as it was
  written at one time or another since the last commit, so it can only be wrong where it was changed
  since: set, for which see above, or cleared, which errs to the safe side.

**Why the bound holds.** What is marked after a power cut beyond what was: clear bits in hot areas,
and bits that were cleared but not yet on the disk. Three quarters of `hot_bytes` are for the areas.
When an eighth has been cleared since the last commit began, one begins by itself, and another
eighth is there for what is cleared until it ends. Who clears more than that at once, and needs the
bound, waits for `sync`.

**When the file fails** nothing counts any more: `mark` says no, `when_marked` gives the error, for
good. After an fdatasync that failed the kernel may have dropped what it could not write, and the
next one succeeds all the same. A log page says FAILED, so that whoever opens the file on the same
boot does not take it for exact.

Pages of bits are written whole, so that the kernel never has to read one first. All methods are
called on the event loop, but `open`, which reads the file and waits for the disk, may be called in
a thread. `mark` and `clear` write to the page cache, as writes of files do; `forget` unlinks.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from daiko.backend.worker import Workers
from daiko.device.block import Buffer
from daiko.device.error import DeviceError
from daiko.mapping.range_set import RangeSet
from daiko.mapping.region_bitmap import RegionBitmap
from daiko.pair.activity_log import ActivityLog
from daiko.pair.bitmap_file import AREA, BitmapFile, Condition, Found, Geometry, State
from daiko.pair.raw_file import OsFile, RawFile

DEFAULT_GRANULARITY: Final = 64 << 10
LEAST_GRANULARITY: Final = 4 << 10
MOST_GRANULARITY: Final = 1 << 20
"""Bytes a region."""

DEFAULT_HOT_BYTES: Final = 1 << 30
LEAST_HOT_BYTES: Final = 2 * AREA
MOST_HOT_BYTES: Final = 16 << 30
"""What a power cut may mark beyond what was marked."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

Marked = Callable[[OSError | None], None]
"""Called when a write may be sent, or with why it may not."""


def this_boot() -> bytes:
    """16 bytes that the kernel chose when the machine started. Raises OSError."""
    return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))


class _Waiter(NamedTuple):
    commit: int
    """The first commit that brings its bits to stable storage."""
    first: int
    last: int
    """Regions."""
    done: Marked


class DifferentialBitmap:
    """The bitmap of one side of one pair. Made by `open`."""

    def __init__(
        self,
        regions: RegionBitmap,
        geometry: Geometry,
        file: BitmapFile | None,
        found: Found,
        *,
        hot_bytes: int,
        power_safe: bool,
        workers: Workers | None,
    ) -> None:
        self.regions = regions
        """The bits; for reading."""
        self.found = found
        """What was found when it was opened."""
        self.failed: OSError | None = None
        """Why nothing may be sent any more; None as long as the file does what it should."""
        self._geometry = geometry
        self._shift = geometry.shift
        self._area_shift = geometry.area_shift
        self._file = file
        self._power_safe = power_safe
        self._log = ActivityLog(hot_bytes * 3 // 4 // AREA)
        self._most_cleared = hot_bytes // 8 // geometry.granularity
        self._cleared = 0
        """Regions cleared since the last commit began."""
        self._unsafe = RangeSet()
        self._committing = RangeSet()
        """Areas with bits that count by nothing yet, set since the last commit began; and those
        that the commit under way will have made count when it ends."""
        self._is_calm = True
        """Nothing is unsafe, failed or closed: a bit that is set counts."""
        self._waiters: list[_Waiter] = []
        self._syncs: list[tuple[int, Marked]] = []
        """(first commit that does it, whom to tell); with waiters only while a commit is made."""
        self._is_making_commit = False
        self._is_closed = False
        self._workers = workers or Workers(1, name="bitmap")
        self._owns_workers = workers is None

    @classmethod
    def open(
        cls,
        path: Path | None,
        *,
        blocks: int,
        block_size: int,
        granularity: int = DEFAULT_GRANULARITY,
        identity: bytes,
        hot_bytes: int = DEFAULT_HOT_BYTES,
        power_safe: bool = True,
        boot_id: bytes | None = None,
        workers: Workers | None = None,
        open_file: Callable[[Path], RawFile] = OsFile.open,
    ) -> DifferentialBitmap:
        """The bitmap in this file, which is made where there is none (every bit is clear then);
        without a path, one that lives as long as the process.

        `blocks` of `block_size` bytes is the volume; `granularity` is bytes a region, a power of
        two from 4 KiB to 1 MiB; `identity` is 16 bytes that the file must carry. `hot_bytes` bounds
        what a power cut may mark beyond what was marked; without `power_safe` `mark` never waits,
        and a power cut marks everything. `boot_id` is this machine's unless a test says otherwise.
        `workers` are threads to share with other bitmaps.

        Reads all of the file and waits for the disk. A damaged file is no error: `found` says what
        was marked for it. Raises OSError for what the operating system refuses (EBUSY: somebody has
        it open), ValueError for a volume or a setting that cannot be."""
        geometry = Geometry(identity, blocks, block_size, granularity)
        _check(geometry, hot_bytes, boot_id)
        regions = RegionBitmap(blocks, geometry.shift)
        file = None
        found = Found(Condition.NEW)
        if path is not None:
            boot_id = boot_id or this_boot()
            file = BitmapFile(
                open_file(path), geometry, regions, boot_id=boot_id, power_safe=power_safe
            )
            try:
                found = file.load()
            except BaseException:
                file.close()
                raise
        return cls(
            regions,
            geometry,
            file,
            found,
            hot_bytes=hot_bytes,
            power_safe=power_safe,
            workers=workers,
        )

    # --- the write path

    def mark(self, lba: int, blocks: int) -> bool:
        """Mark the regions of these blocks. True: a write to them may be sent now. False: not yet;
        `when_marked` says when. Raises ValueError where the volume has no such regions."""
        if not blocks:
            return True
        first = lba >> self._shift
        last = lba + blocks - 1 >> self._shift
        if self.regions.mark(first, last):
            return self._put(first, last)
        return self._is_calm or self._counts(first, last)

    def when_marked(self, lba: int, blocks: int, done: Marked) -> None:
        """Mark the regions of these blocks and call `done` on the event loop, inline where there is
        nothing to wait for: with None when a write to them may be sent, else with the error. Raises
        ValueError as `mark` does."""
        if self.mark(lba, blocks):
            done(None)
        elif (error := self._refusal) is not None:
            done(error)
        else:
            first, last = lba >> self._shift, lba + blocks - 1 >> self._shift
            self._waiters.append(_Waiter(self._log.begun + 1, first, last, done))
            self._commit()

    def _put(self, first: int, last: int) -> bool:
        """Write bits that have just been set in memory. Do they count?"""
        if self._file is None or self.failed is not None or self._is_closed:
            return self._file is None and not self._is_closed
        try:
            self._file.write_regions(first, last)
        except OSError as error:
            self._fail(error)
            return False
        if not self._power_safe:
            return True
        shift = self._area_shift
        first, last = first >> shift, last >> shift
        if self._log.touch(first, last):
            return True
        self._unsafe.add(first, last - first + 1)
        for area in self._log.among(first, last):
            self._unsafe.remove(area, 1)
        self._is_calm = False
        return False

    def _counts(self, first: int, last: int) -> bool:
        """Do the bits of these regions, which are all set, count?"""
        if self._refusal is not None:
            return False
        shift = self._area_shift
        area = first >> shift
        areas = (last >> shift) - area + 1
        return not (self._unsafe.overlaps(area, areas) or self._committing.overlaps(area, areas))

    # --- clearing, asking

    def clear(self, first_region: int, last_region: int) -> None:
        """Both sides have the same in these regions: clear their bits. Not while a write to any of
        them is under way or waits to be marked; the caller sees to that. Raises ValueError where
        the volume has no such regions."""
        before = self.regions.set_regions
        if not self.regions.clear(first_region, last_region):
            return
        if self._file is None or self._refusal is not None:
            return
        try:
            self._file.write_regions(first_region, last_region)
        except OSError as error:
            self._fail(error)
            return
        self._cleared += before - self.regions.set_regions
        self._keep_bound()

    def mark_all(self) -> None:
        """Everything may differ. On stable storage after the next `sync`. Writes all of the file, 2
        MiB for a TiB in regions of 64 KiB, to the page cache."""
        self.mark(0, self.regions.blocks)

    async def mark_regions(self, regions: RegionBitmap) -> None:
        """Mark what is marked in `regions`, which are those of a volume of the same size. On stable
        storage when this returns. Raises OSError."""
        for first, count in regions.copy().runs():
            if self.regions.mark(first, first + count - 1):
                self._put(first, first + count - 1)
        await self.sync()

    def is_marked(self, lba: int, blocks: int) -> bool:
        """May any of these blocks differ? Raises ValueError where the volume has no such
        regions."""
        if not blocks:
            return False
        return self.regions.any_in(lba >> self._shift, lba + blocks - 1 >> self._shift)

    @property
    def marked_bytes(self) -> int:
        """Bytes that may differ."""
        return self.regions.changed_blocks * self._geometry.block_size

    @property
    def hot_areas(self) -> int:
        """How many areas of 16 MiB the activity log has."""
        return len(self._log)

    # --- stable storage, and the end

    async def sync(self) -> None:
        """Bring all bits as they are now to stable storage. Raises OSError."""
        if self._refusal is not None:
            raise _again(self._refusal)
        if self._file is not None:
            error = await self._committed()
            if error is not None:
                raise _again(error)

    async def close(self) -> None:
        """Bring everything to stable storage and let go of the file, which says that it was closed.
        Who waits is told first. The bits stay in memory, for reading. Raises OSError where that, or
        anything before, failed; the file is let go of all the same."""
        while self._is_making_commit:
            await self._committed()
        if self._is_closed:
            return
        self._is_closed = True
        self._is_calm = False
        file = self._file
        if file is None:
            return

        def write() -> None:
            # The page that says CLOSED must not reach the disk before the bits.
            file.sync()
            file.write_log(State.CLOSED, ())
            file.sync()

        let_go = asyncio.get_running_loop().create_future()

        def written(error: OSError | None) -> None:
            if error is not None:
                self._fail(error)
            self._let_go()
            if not let_go.done():
                let_go.set_result(None)

        if self.failed is None:
            self._in_thread(write, written)
            await let_go
        else:
            self._let_go()
        if self.failed is not None:
            raise _again(self.failed)

    def abandon(self) -> None:
        """Let go of the file unused, as it was found; one that was made by opening it is taken
        away: found again, it would say that nothing differs. Raises OSError where it cannot be."""
        if self.found.condition is Condition.NEW:
            self.forget()
        elif not self._is_closed:
            self._is_closed = True
            self._is_calm = False
            self._let_go()

    def forget(self) -> None:
        """Let go of the file and take it away: there is no pair any more. Who waits gets an error.
        Raises OSError where it cannot be taken away."""
        if self._is_closed:
            return
        self._is_closed = True
        self._is_calm = False
        if self._file is None:
            return
        try:
            self._file.remove()
        finally:
            if not self._is_making_commit:
                self._let_go()
                self._tell()

    async def _committed(self) -> OSError | None:
        """Until a commit that begins from now on has ended, or will never; how it went."""
        ended: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()

        def done(error: OSError | None) -> None:
            if not ended.done():
                ended.set_result(error)

        self._syncs.append((self._log.begun + 1, done))
        self._commit()
        return await ended

    # --- commits

    def _keep_bound(self) -> None:
        """Have what was cleared on stable storage before it is too much."""
        if self._power_safe and self._cleared >= self._most_cleared and self._refusal is None:
            self._commit()

    def _commit(self) -> None:
        """Begin a commit, where none is under way; the end of that one begins the next."""
        file = self._file
        if self._is_making_commit or file is None:
            return
        self._is_making_commit = True
        self._cleared = 0
        areas = self._log.begin(self._wanted_areas()) if self._power_safe else self._log.begin(())
        self._committing, self._unsafe = self._unsafe, RangeSet()

        def write() -> None:
            if areas is not None:
                file.write_log(State.OPEN, areas)
            file.sync()

        self._in_thread(write, self._end_commit)

    def _wanted_areas(self) -> list[int]:
        """The areas that who waits would have hot: at the ends of each range. Those between, and
        any other that is marked whole, have no bit left to set."""
        shift, last = self._area_shift, self.regions.regions - 1
        areas = {end >> shift for each in self._waiters for end in (each.first, each.last)}
        return [
            area
            for area in areas
            if not self.regions.all_in(area << shift, min((area + 1 << shift) - 1, last))
        ]

    def _end_commit(self, error: OSError | None) -> None:
        self._is_making_commit = False
        error = error or self.failed
        if error is not None:
            self._fail(error)
        else:
            for area in self._log.end():
                self._unsafe.remove(area, 1)
            self._committing = RangeSet()
            self._is_calm = not self._unsafe and not self._is_closed
        if self._is_closed:
            self._let_go()
        self._tell()
        if self._waiters or self._syncs:
            self._commit()
        else:
            self._keep_bound()

    def _tell(self) -> None:
        """Tell all who wait that what they wait for is done, or why it will not be."""
        waiters, self._waiters = self._waiters, []
        syncs, self._syncs = self._syncs, []
        refusal, last = self._refusal, self._log.done
        told = [done for commit, done in syncs if refusal or commit <= last]
        self._syncs = [each for each in syncs if not (refusal or each[0] <= last)]
        for waiter in waiters:
            first, regions = waiter.first, waiter.last - waiter.first
            # Whose bits are on stable storage need not care whether the area has become hot.
            is_stable = waiter.commit <= last and self.regions.all_in(first, waiter.last)
            if (
                refusal
                or is_stable
                or self.mark(first << self._shift, 1 + (regions << self._shift))
            ):
                told.append(waiter.done)
            else:
                self._waiters.append(waiter)
        for done in told:
            done(refusal)

    def _in_thread(self, write: Callable[[], None], done: Marked) -> None:
        failure: list[OSError] = []

        def work() -> Buffer | DeviceError:
            try:
                write()
            except OSError as error:
                failure.append(error)
            return b""

        def finished(_: Buffer | DeviceError) -> None:
            done(failure[0] if failure else None)

        self._workers.run(work, finished)

    # --- failure

    @property
    def _refusal(self) -> OSError | None:
        """Why nothing may be sent; None where there is no reason."""
        if self.failed is None and self._is_closed:
            return OSError(errno.EBADF, "the bitmap is closed")
        return self.failed

    def _fail(self, error: OSError) -> None:
        self.failed = self.failed or error
        self._is_calm = False
        if self._file is not None and not self._is_making_commit:
            # For whoever opens the file on the same boot; the page cache is enough for that.
            with suppress(OSError):  # what failed first is what is told
                self._file.write_log(State.FAILED, self._log.areas)

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._owns_workers:
            self._workers.stop(lambda: None)


def _check(geometry: Geometry, hot_bytes: int, boot_id: bytes | None) -> None:
    granularity, block_size = geometry.granularity, geometry.block_size
    if geometry.blocks < 1:
        raise ValueError(f"a volume of {geometry.blocks} blocks has no differential bitmap")
    if block_size not in (512, 4096):
        raise ValueError(f"blocks of {block_size} bytes: 512 or 4096 it must be")
    if granularity.bit_count() != 1 or not LEAST_GRANULARITY <= granularity <= MOST_GRANULARITY:
        raise ValueError(
            f"regions of {granularity} bytes: a power of two from {LEAST_GRANULARITY} to "
            f"{MOST_GRANULARITY} it must be"
        )
    if len(geometry.identity) != 16:
        raise ValueError(f"an identity of {len(geometry.identity)} bytes: 16 it must have")
    if not LEAST_HOT_BYTES <= hot_bytes <= MOST_HOT_BYTES:
        raise ValueError(
            f"{hot_bytes} bytes that a power cut may mark: from {LEAST_HOT_BYTES} to "
            f"{MOST_HOT_BYTES} it must be"
        )
    if boot_id is not None and len(boot_id) != 16:
        raise ValueError(f"a boot id of {len(boot_id)} bytes: 16 it must have")


def _again(error: OSError) -> OSError:
    """The same error for another who is to see it: each raises one of its own."""
    return OSError(error.errno, error.strerror, error.filename)
