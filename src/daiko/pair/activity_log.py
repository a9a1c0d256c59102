"""Which areas of a volume are hot: written down as such, so that bits may be set in them at once.

The log as it is in memory; `bitmap_file.py` writes it down, and `differential_bitmap.py` says what
for. Commits, each of which ends with everything on stable storage, are counted, and of each hot
area it is known how many had begun when a bit of it was last set: once a later one has ended, the
area's bits are on stable storage, and it may leave. An area whose bits are not stays; who would
have taken its place does without, since the same commit brings *its* bits to stable storage.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice


class ActivityLog:
    """The hot areas of one bitmap, `limit` at most. Areas are numbers; ranges first..last."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.begun = 0
        """Commits that have begun."""
        self.done = 0
        """The last commit that succeeded: what was written before it began is on stable storage."""
        self._hot: dict[int, int] = {}
        """Area → commits begun when a bit of it was last set; least recently set first."""
        self._entering: list[int] = []

    @property
    def areas(self) -> tuple[int, ...]:
        """The hot areas: those that every log page says that may count now."""
        return tuple(self._hot)

    def __len__(self) -> int:
        return len(self._hot)

    def touch(self, first: int, last: int) -> bool:
        """Bits of areas first..last have been set and written. Are all of these areas hot?"""
        hot = self._hot
        if first == last:
            if hot.pop(first, None) is None:
                return False
            hot[first] = self.begun
            return True
        touched = self.among(first, last)
        for area in touched:
            del hot[area]
            hot[area] = self.begun
        return len(touched) == last - first + 1

    def among(self, first: int, last: int) -> list[int]:
        """The hot areas among first..last."""
        if last - first < len(self._hot):
            return [area for area in range(first, last + 1) if area in self._hot]
        return [area for area in self._hot if first <= area <= last]

    def begin(self, wanted: Iterable[int]) -> tuple[int, ...] | None:
        """A commit begins, before which these areas were asked for. The areas that are to be
        written down, or None where those that are stay. Areas that leave are not hot from now on,
        those that enter are from the commit's end on."""
        self.begun += 1
        entering = [area for area in dict.fromkeys(wanted) if area not in self._hot]
        lacking = len(self._hot) + len(entering) - self.limit
        may_leave = (area for area, commit in self._hot.items() if commit < self.done)
        for area in list(islice(may_leave, max(0, lacking))):
            del self._hot[area]
        self._entering = entering[: self.limit - len(self._hot)]
        return (*self._hot, *self._entering) if self._entering else None

    def end(self) -> list[int]:
        """The commit that began last has succeeded. The areas that have become hot by it."""
        self.done = self.begun
        entered, self._entering = self._entering, []
        # A bit may have been set since the commit began.
        self._hot.update(dict.fromkeys(entered, self.begun))
        return entered
