"""Keeps writes and a COMPARE AND WRITE on the same blocks apart (SBC-4, 4.22 atomicity).

A device that cannot compare and write in one go reads, compares and writes. Between its read and
its write no other write may touch the range, or a change would be lost. Ordinary writes do not
exclude one another: they enter as *shared*, a COMPARE AND WRITE enters as *exclusive*, and two
entries conflict when their ranges overlap and at least one is exclusive.

The common case, no exclusive entry anywhere, costs a dict insertion. Waiting entries begin in the
order in which they came, so a stream of writes cannot starve a COMPARE AND WRITE.
"""

from __future__ import annotations

from collections.abc import Callable

Begin = Callable[[int], None]
"""Called with the ticket, once the range is free; `leave(ticket)` gives it back."""


class _Entry:
    __slots__ = ("begin", "end", "exclusive", "start", "ticket")

    def __init__(self, start: int, end: int, exclusive: bool, begin: Begin, ticket: int) -> None:
        self.start = start
        self.end = end
        self.exclusive = exclusive
        self.begin = begin
        self.ticket = ticket

    def excludes(self, other: _Entry) -> bool:
        return (
            (self.exclusive or other.exclusive)
            and self.start < other.end
            and other.start < self.end
        )


class RangeLock:
    """Shared and exclusive entries to ranges of blocks."""

    __slots__ = ("_exclusive", "_freed", "_is_admitting", "_next", "_shared", "_waiting")

    def __init__(self) -> None:
        self._shared: dict[int, tuple[int, int]] = {}
        self._exclusive: dict[int, tuple[int, int]] = {}
        self._waiting: list[_Entry] = []
        self._freed: list[tuple[int, int]] = []
        """Given back, and not yet looked at for who waited for it."""
        self._is_admitting = False
        self._next = 0

    @property
    def has_exclusive(self) -> bool:
        """Whether an exclusive entry is there, or anything waits. Who enters and leaves again
        before anything else can happen need not do so where there is none."""
        return bool(self._exclusive or self._waiting)

    def try_shared(self, lba: int, blocks: int) -> int:
        """Enter at once and return the ticket (>= 0), or -1 if `wait_shared` is needed."""
        if (self._exclusive or self._waiting) and not self._is_free(
            _Entry(lba, lba + blocks, False, _no_begin, -1), len(self._waiting)
        ):
            return -1
        self._next = ticket = self._next + 1
        self._shared[ticket] = (lba, lba + blocks)
        return ticket

    def wait_shared(self, lba: int, blocks: int, begin: Begin) -> None:
        """Call `begin` as soon as no exclusive entry overlaps; inline if that is now."""
        self._enter(lba, blocks, False, begin)

    def wait_exclusive(self, lba: int, blocks: int, begin: Begin) -> None:
        """Call `begin` as soon as no other entry overlaps; inline if that is now."""
        self._enter(lba, blocks, True, begin)

    def leave(self, ticket: int) -> None:
        """Give the range back and let in whoever waited for it."""
        freed = self._shared.pop(ticket, None) or self._exclusive.pop(ticket)
        if self._waiting:
            self._admit(freed)

    def _enter(self, lba: int, blocks: int, exclusive: bool, begin: Begin) -> None:
        self._next = ticket = self._next + 1
        entry = _Entry(lba, lba + blocks, exclusive, begin, ticket)
        if self._is_free(entry, len(self._waiting)):
            self._begin(entry)
        else:
            self._waiting.append(entry)

    def _begin(self, entry: _Entry) -> None:
        active = self._exclusive if entry.exclusive else self._shared
        active[entry.ticket] = (entry.start, entry.end)
        entry.begin(entry.ticket)

    def _admit(self, freed: tuple[int, int]) -> None:
        """Let in whom only the range that was freed kept out. Not recursive: `begin` may complete
        inline and leave again, which then only notes what else was freed for the loop here."""
        self._freed.append(freed)
        if self._is_admitting:
            return
        self._is_admitting = True
        try:
            while self._freed:
                self._admit_to(*self._freed.pop(0))
        finally:
            self._is_admitting = False

    def _admit_to(self, start: int, end: int) -> None:
        position = 0
        while position < len(self._waiting):
            entry = self._waiting[position]
            if entry.start < end and start < entry.end and self._is_free(entry, position):
                del self._waiting[position]
                self._begin(entry)
            else:
                position += 1

    def _is_free(self, entry: _Entry, before: int) -> bool:
        """No active entry and none of the first `before` waiting ones excludes `entry`."""
        start, end = entry.start, entry.end
        if any(other.excludes(entry) for other in self._waiting[:before]):
            return False
        if any(start < its_end and its < end for its, its_end in self._exclusive.values()):
            return False
        return not entry.exclusive or not any(
            start < its_end and its < end for its, its_end in self._shared.values()
        )


def _no_begin(ticket: int) -> None:
    """The `begin` of an entry that is only asked about."""
