"""How many transfers of one step are in flight: as few as keep the way full.

On a long way many must be under way at once. On a short one each beyond the first few only waits,
and its data has left the processor's cache when its turn comes. Which it is shows in how long a
transfer takes: on a way that is not full as long as one alone, behind others longer.
"""

from __future__ import annotations

from math import inf

_GROW_BELOW = 1.5
_SHRINK_ABOVE = 3.0
"""Times the shortest transfer so far. Between them the window stays as it is."""


class Window:
    """Between `least` and `most` transfers, by how long they take."""

    __slots__ = ("_is_opening", "_judged_in", "_least", "_most", "_shortest", "size")

    def __init__(self, least: int, most: int) -> None:
        self._least = min(least, most)
        self._most = most
        self._shortest = inf
        self._is_opening = True
        """It has never been full: it doubles."""
        self.size = self._judged_in = self._least

    def took(self, seconds: float) -> None:
        """A transfer came through. Judged once for as many as are in flight, so that the effect of
        the last change shows before the next one."""
        self._shortest = min(self._shortest, seconds)
        self._judged_in -= 1
        if self._judged_in > 0:
            return
        if seconds < _GROW_BELOW * self._shortest:
            self.size = min(self.size * 2 if self._is_opening else self.size + 1, self._most)
        else:
            self._is_opening = False
            if seconds > _SHRINK_ABOVE * self._shortest:
                self.size = max(self.size - 1, self._least)
        self._judged_in = self.size
