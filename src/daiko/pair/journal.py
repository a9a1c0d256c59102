"""The journal of a consistency group: the writes that its primaries have done and its secondaries
not yet, in one order.

An entry gets its sequence number when the primary has done the write, before the host hears of it.
So the order is that of the acknowledgements: what was acknowledged before another write was asked
for has the lower number. Each entry also says what the last number was when it was asked for
(`after`): entries of which none is after another in that sense were under way together, and may
come to the secondary in any order.

**It ends** when it is full, or its disk fails, or the primary fails a write: from that instant on
it takes no entry more, of any pair, so that what is in it stays a prefix of what was acknowledged.
What comes later is marked in the differential bitmap, as all before it is. `begin_anew` lets it
take entries again.

**What it is worth** when it is read again: after `close`, and that is all there was, everything.
After the end of the process alone every entry is there, but writes may have been under way: the
sides may differ in what is marked. After a power cut what was synced is there; the secondary was
sent nothing that was not (`applier.py`), so what is read is a later state than the secondary's, or
the same.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

import structlog

from daiko.backend.worker import Workers
from daiko.device.block import Buffer
from daiko.device.error import DeviceError
from daiko.pair.differential_bitmap import this_boot
from daiko.pair.journal_file import (
    ALIGNMENT,
    MOST_BLOCKS,
    Checkpoint,
    Condition,
    Entry,
    JournalFile,
    Kind,
    room_for,
)
from daiko.pair.raw_file import OsFile, RawFile

log = structlog.get_logger(__name__)

T = TypeVar("T")

FULL: Final = "the journal is full"


class Journal:
    """The journal of one group. Made by `open`."""

    def __init__(
        self,
        file: JournalFile,
        start: Checkpoint,
        entries: Iterable[Entry],
        *,
        is_exact: bool,
        workers: Workers,
        clock: Callable[[], float],
    ) -> None:
        self.is_exact = is_exact
        """Everything that was acknowledged before it was opened is in it, or at the secondary."""
        self.ended = "" if start.condition is not Condition.ENDED else "it had ended"
        """Why it takes no more entries; "" = it does."""
        self.when_ended: Callable[[str], None] = lambda why: None
        """Called once, with the reason, when it takes no more entries."""
        self.when_entered: Callable[[], None] = lambda: None
        """Called when there is an entry to apply."""
        self._file = file
        self._checkpoint = start
        self._waiting = deque(entries)
        self._workers = workers
        self._clock = clock
        self._used = sum(entry.room for entry in self._waiting)
        self._unfreed = 0
        """Of these: of entries that are applied, where a power cut may yet undo that. Their room is
        free when the checkpoint is on stable storage, or the one before it would lead nowhere."""
        self.behind_bytes = sum(entry.written_bytes for entry in self._waiting)
        """That the secondaries do not have."""
        self._slowed: deque[Callable[[], None]] | None = None
        """What hosts hear later, while they are slowed down, the oldest first."""
        self._credit = 0
        """Entries that were applied since a host heard of a write."""
        self.last = self._waiting[-1].sequence if self._waiting else start.applied
        """Sequence of the newest entry."""
        newest = self._waiting[-1] if self._waiting else None
        self._end = start.offset if newest is None else newest.offset + room_for(newest.length)
        self._is_closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        identity: bytes,
        capacity: int,
        workers: Workers,
        power_safe: bool = True,
        boot_id: bytes | None = None,
        first_epoch: int | None = None,
        clock: Callable[[], float] = time.time,
        open_file: Callable[[Path], RawFile] = OsFile.open,
    ) -> Journal:
        """The journal in this file, made where there is none of ours. `identity` is 16 bytes,
        `capacity` the bytes of its ring. Without `power_safe` a power cut loses all of it.
        `boot_id` is this machine's, and the epoch of a new file by chance, unless a test says
        otherwise. Raises OSError."""
        boot_id = boot_id or this_boot()
        capacity -= capacity % ALIGNMENT
        file = JournalFile(open_file(path), identity, capacity)
        entries: list[Entry] = []
        is_exact = False
        try:
            found = file.load()
            if found is None:
                # By chance: the ring may have entries of a journal whose checkpoints were lost.
                if first_epoch is None:
                    first_epoch = secrets.randbelow(1 << 31)
                start = Checkpoint(first_epoch, Condition.OPEN, power_safe, boot_id, 0, 0, 0, 0.0)
                file.lay_out(start)
            else:
                is_same_boot = found.boot_id == boot_id
                if is_same_boot or found.power_safe or found.condition is Condition.CLOSED:
                    entries = list(file.entries(found))
                is_exact = found.condition is Condition.CLOSED
                start = found._replace(
                    condition=Condition.OPEN if is_exact else Condition.ENDED,
                    power_safe=power_safe,
                    boot_id=boot_id,
                )
                if found.condition is Condition.OPEN:
                    # What a power cut took was acknowledged after what is left.
                    newest = entries[-1].time if entries else 0.0
                    start = start._replace(ended_at=clock() if is_same_boot else newest)
                file.write_checkpoint(start)
                file.sync()
        except BaseException:
            file.close()
            raise
        return cls(file, start, entries, is_exact=is_exact, workers=workers, clock=clock)

    # --- what it says -------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Bytes of the ring."""
        return self._file.capacity

    @property
    def used(self) -> int:
        """Bytes of the ring that are taken."""
        return self._used

    @property
    def applied(self) -> int:
        """Sequence of the last entry that the secondaries have on stable storage."""
        return self._checkpoint.applied

    @property
    def is_drained(self) -> bool:
        """Nothing is left to apply."""
        return not self._waiting

    @property
    def is_whole(self) -> bool:
        """Every pair that has joined was part of what the secondaries are as of now."""
        return self.applied >= self._checkpoint.whole_from

    @property
    def good_as_of(self) -> float:
        """The secondaries have everything that was acknowledged before this time, in seconds since
        the epoch."""
        if self._waiting:
            return self._waiting[0].time
        return self._checkpoint.ended_at if self.ended else self._clock()

    @property
    def waiting(self) -> Iterable[Entry]:
        """The entries that are to be applied, oldest first."""
        return self._waiting

    # --- the write path -----------------------------------------------------------------------

    def enter(
        self, stream: bytes, kind: Kind, lba: int, blocks: int, data: Buffer, after: int
    ) -> bool:
        """Put in what the primary has done. False: the journal has ended, and the pair has to do
        without."""
        if self.ended or self._is_closed:
            return False
        size = room_for(len(data))
        offset, room = self._end, size
        if not self._used:
            offset = offset if offset + size <= self.capacity else 0
        elif offset + size > self.capacity:
            offset, room = 0, size + self.capacity - self._end
        if self._used + room > self.capacity or blocks > MOST_BLOCKS:
            self.end(FULL)
            return False
        entry = Entry(
            *(self.last + 1, after, self._clock(), stream, kind, lba, blocks, len(data), offset),
            room,
        )
        try:
            self._file.write_entry(entry, self._checkpoint.epoch, bytes(data))
        except OSError as error:
            self.end(f"the journal cannot be written: {error}")
            return False
        self.last = entry.sequence
        self._end = offset + size
        self._used += room
        self.behind_bytes += entry.written_bytes
        self._waiting.append(entry)
        self.when_entered()
        return True

    def end(self, why: str) -> None:
        """Take no more entries; what is in it is still to be applied."""
        if self.ended or self._is_closed:
            return
        self.ended = why
        self.full_speed()
        self._note(condition=Condition.ENDED, ended_at=self._clock())
        self.when_ended(why)

    # --- how fast hosts go --------------------------------------------------------------------

    def slow_down(self) -> None:
        """Let hosts hear of a write only for each two entries that have been applied, so that what
        is in it becomes less however fast they write; until `full_speed`."""
        if not self.ended and self._slowed is None:
            self._slowed, self._credit = deque(), 0

    def full_speed(self) -> None:
        """Let hosts hear of each write as soon as it is in the journal."""
        slowed, self._slowed = self._slowed, None
        for hear in slowed or ():
            hear()

    def entered(self, hear: Callable[[], None]) -> None:
        """`hear` tells a host of a write that is in the journal, now or later."""
        if self._slowed is None:
            hear()
        else:
            self._slowed.append(hear)

    def _let_hear(self, applied: int) -> None:
        if self._slowed is None:
            return
        self._credit += applied
        while self._slowed and (self._credit >= 2 or not self._waiting):
            self._credit = max(0, self._credit - 2)
            self._slowed.popleft()()
        self._credit = min(self._credit, 2)

    # --- applying -----------------------------------------------------------------------------

    def batch(self, most: int, limit: int | None) -> list[Entry]:
        """The oldest entries of which none was asked for after another was acknowledged: `most` at
        most, up to sequence `limit`. They may be applied in any order."""
        found: list[Entry] = []
        for entry in self._waiting:
            if len(found) == most or (limit is not None and entry.sequence > limit):
                break
            if found and entry.after >= found[0].sequence:
                break
            found.append(entry)
        return found

    async def fetch(self, entries: list[Entry]) -> list[bytes]:
        """The data of entries, all of which are on stable storage when this returns, with the
        checkpoint before them. Raises OSError."""
        epoch, power_safe = self._checkpoint.epoch, self._checkpoint.power_safe

        def work() -> list[bytes]:
            if power_safe:
                self._file.sync()
            found = []
            for entry in entries:
                data = self._file.data_of(entry, epoch)
                if data is None:
                    raise OSError(errno.EIO, f"entry {entry.sequence} of the journal is damaged")
                found.append(data)
            return found

        unfreed = self._unfreed
        data = await self._in_thread(work)
        if self._unfreed:  # else it was given up meanwhile
            self._used -= unfreed
            self._unfreed -= unfreed
        return data

    @property
    def has_unfreed(self) -> bool:
        """There is room that `fetch` would free, of entries or of none."""
        return bool(self._unfreed)

    def has_applied(self, entries: list[Entry]) -> None:
        """The secondaries have these, the oldest ones, on stable storage."""
        for entry in entries:
            assert self._waiting[0] is entry
            self._waiting.popleft()
            self._unfreed += entry.room
            self.behind_bytes -= entry.written_bytes
        newest = entries[-1]
        offset = newest.offset + room_for(newest.length)
        self._note(applied=newest.sequence, offset=offset)
        self._let_hear(len(entries))

    def give_up(self) -> None:
        """What is in it will not be applied: it cannot be read, or nobody wants it."""
        self.full_speed()
        self._clear()
        self._note(applied=self.last, offset=self._end)

    def begin_anew(self) -> None:
        """It is drained: take entries again. Raises OSError."""
        assert self.is_drained
        self.ended = ""
        self._used = self._unfreed = self._end = 0
        self._checkpoint = self._checkpoint._replace(
            epoch=self._checkpoint.epoch + 1,
            condition=Condition.OPEN,
            applied=self.last,
            offset=0,
            ended_at=0.0,
        )
        self._file.write_checkpoint(self._checkpoint)

    def empty(self) -> None:
        """What is in it is nobody's, nor is how it ended: take entries as a new one does. Raises
        OSError."""
        if self.ended or self._waiting:
            self._clear()
            self.begin_anew()

    def join(self) -> None:
        """A pair joins, whose sides are the same now: the group is whole once everything that is in
        the journal has been applied."""
        self._note(whole_from=self.last)

    # --- the end ------------------------------------------------------------------------------

    async def close(self) -> None:
        """The controller stops, and no write is under way: all that was acknowledged is in it, if
        it has not ended. Raises OSError."""
        if self._is_closed:
            return
        self._is_closed = True
        checkpoint = self._checkpoint

        def work() -> None:
            try:
                self._file.sync()
                if checkpoint.condition is Condition.OPEN:
                    self._file.write_checkpoint(checkpoint._replace(condition=Condition.CLOSED))
                    self._file.sync()
            finally:
                self._file.close()

        await self._in_thread(work)

    def forget(self) -> None:
        """The group is no more: away with the file. Raises OSError."""
        self._is_closed = True
        try:
            self._file.remove()
        finally:
            self._file.close()

    # --- inside -------------------------------------------------------------------------------

    def _clear(self) -> None:
        self._waiting.clear()
        self._used = self._unfreed = self.behind_bytes = 0

    def _note(self, **changes: object) -> None:
        self._checkpoint = self._checkpoint._replace(**changes)  # type: ignore[arg-type]
        try:
            self._file.write_checkpoint(self._checkpoint)
        except OSError as error:
            # What has been applied cannot be noted: it would be applied again after a crash.
            log.error("journal not written", error=str(error))
            self._clear()
            self.full_speed()
            if not self.ended:
                self.ended = f"the journal cannot be written: {error}"
                self._checkpoint = self._checkpoint._replace(
                    condition=Condition.ENDED, ended_at=self._clock()
                )
                self.when_ended(self.ended)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        results: list[T] = []
        failures: list[OSError] = []

        def run() -> Buffer | DeviceError:
            try:
                results.append(work())
            except OSError as error:
                failures.append(error)
            return b""

        def finished(_: Buffer | DeviceError) -> None:
            if not future.done():
                future.set_result(None)

        self._workers.run(run, finished)
        await future
        if failures:
            raise failures[0]
        return results[0]
