"""A set of blocks, kept as the fewest runs: what is confirmed, what changed, what is in use.

Runs are half-open, sorted, and never touch one another (touching ones are joined), so that equal
sets are equal columns. Firsts and ends lie in two arrays, 16 bytes a run; each operation is a
binary search and one slice. A set of n runs costs O(log n) to ask and O(n) bytes moved to change;
many changes at once are merged in one go (`merge`). Block numbers are below 2**64.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class RangeSet:
    """A set of block numbers. Ranges go in and out as (first block, blocks)."""

    __slots__ = ("_ends", "_firsts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts = array("Q")
        self._ends = array("Q")
        for first, blocks in ranges:
            self.add(first, blocks)

    def add(self, first: int, blocks: int) -> None:
        """Put `blocks` blocks from `first` in; those already in stay. Raises ValueError where
        either is negative; so do all methods here."""
        end = _end(first, blocks)
        if blocks == 0:
            return
        low = bisect_left(self._ends, first)  # the first run that touches or overlaps
        high = bisect_right(self._firsts, end)  # one past the last that does
        if low < high:
            first = min(first, self._firsts[low])
            end = max(end, self._ends[high - 1])
        self._firsts[low:high] = array("Q", (first,))
        self._ends[low:high] = array("Q", (end,))

    def remove(self, first: int, blocks: int) -> None:
        """Take `blocks` blocks from `first` out; those not in are no matter."""
        end = _end(first, blocks)
        if blocks == 0:
            return
        low = bisect_right(self._ends, first)  # the first run that overlaps
        high = bisect_left(self._firsts, end)  # one past the last that does
        if low >= high:
            return
        kept = [
            (a, b) for a, b in ((self._firsts[low], first), (end, self._ends[high - 1])) if a < b
        ]
        self._firsts[low:high] = array("Q", (a for a, _ in kept))
        self._ends[low:high] = array("Q", (b for _, b in kept))

    def update(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Put all of the ranges in; another RangeSet is one such."""
        for first, blocks in ranges:
            self.add(first, blocks)

    def merge(self, spans: Iterable[tuple[int, int]]) -> None:
        """Put many ranges in at once, each as (first block, one past the last): O(n log n) for all
        of them together, whatever their order. Raises ValueError for one that ends before it
        begins."""
        firsts, ends = array("Q"), array("Q")
        at = -1
        for first, end in sorted([*zip(self._firsts, self._ends, strict=True), *spans]):
            if end <= first:
                _end(first, end - first)
            elif first > at:
                firsts.append(first)
                ends.append(end)
                at = end
            elif end > at:
                ends[-1] = at = end
        self._firsts, self._ends = firsts, ends

    def covers(self, first: int, blocks: int) -> bool:
        """Is every block of the range in the set? Of an empty range: yes."""
        end = _end(first, blocks)
        position = bisect_right(self._firsts, first) - 1
        return blocks == 0 or (position >= 0 and end <= self._ends[position])

    def overlaps(self, first: int, blocks: int) -> bool:
        """Is any block of the range in the set?"""
        end = _end(first, blocks)
        position = bisect_right(self._ends, first)
        return blocks > 0 and position < len(self._firsts) and self._firsts[position] < end

    def within(self, first: int, blocks: int) -> Iterator[tuple[int, int]]:
        """The runs of the set inside the range, cut at its edges."""
        end = _end(first, blocks)
        if blocks == 0:
            return
        position = bisect_right(self._ends, first)
        while position < len(self._firsts) and self._firsts[position] < end:
            low = max(first, self._firsts[position])
            yield low, min(end, self._ends[position]) - low
            position += 1

    def gaps(self, first: int, blocks: int) -> Iterator[tuple[int, int]]:
        """The runs of the range that are not in the set."""
        end = _end(first, blocks)
        at = first
        for low, length in self.within(first, blocks):
            if low > at:
                yield at, low - at
            at = low + length
        if at < end:
            yield at, end - at

    def copy(self) -> RangeSet:
        """A set of its own with the same blocks."""
        twin = RangeSet()
        twin._firsts = self._firsts[:]
        twin._ends = self._ends[:]
        return twin

    @property
    def end(self) -> int:
        """One past the last block; 0 of an empty set."""
        return self._ends[-1] if self._ends else 0

    @property
    def blocks(self) -> int:
        """How many blocks are in."""
        return sum(self._ends) - sum(self._firsts)

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The runs as a value, for a record or JSON; `RangeSet(ranges)` is the inverse."""
        return tuple(self)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for first, end in zip(self._firsts, self._ends, strict=True):
            yield first, end - first

    def __contains__(self, block: int) -> bool:
        position = bisect_right(self._firsts, block) - 1
        return position >= 0 and block < self._ends[position]

    def __len__(self) -> int:
        """The number of runs."""
        return len(self._firsts)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RangeSet)
            and self._firsts == other._firsts
            and self._ends == other._ends
        )

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"RangeSet({list(self)!r})"


def _end(first: int, blocks: int) -> int:
    if first < 0 or blocks < 0:
        raise ValueError(f"{blocks} blocks from block {first} is not a range")
    return first + blocks
