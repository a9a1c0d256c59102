"""Regions that both sides of a pair were sent the same to, which nobody has proved to be on stable
storage there yet. They keep their marks until then (`write_path.py`).

A region that is in the journal is proved when its last entry has been applied, and not before.
"""

from __future__ import annotations


class Unproved:
    """Of the side that hosts use. Blocks are its own; a region is as large as 2 ** `shift`."""

    __slots__ = ("_shift", "_to_apply", "regions")

    def __init__(self, shift: int) -> None:
        self._shift: int = shift
        self.regions: set[int] = set()
        """Written to by way of both sides or the journal, or copied, since `take` was called
        last."""
        self._to_apply: dict[int, int] = {}
        """Region → entries of the journal that the other side does not have yet."""

    def begin(self, regions: set[int]) -> None:
        """These are unproved, and the journal has nothing."""
        self.regions = regions
        self._to_apply = {}

    def touched(self, lba: int, blocks: int) -> None:
        """Something is sent to these blocks that may leave them as they are: their marks go when
        that is proved."""
        self.regions.update(self._at(lba, blocks))

    def entered(self, lba: int, blocks: int) -> None:
        """The journal has a change of these blocks for the other side."""
        for region in self._at(lba, blocks):
            self.regions.add(region)
            self._to_apply[region] = self._to_apply.get(region, 0) + 1

    def applied(self, lba: int, blocks: int) -> None:
        """The other side has one that was entered, on stable storage."""
        for region in self._at(lba, blocks):
            left = self._to_apply.pop(region, 0) - 1
            if left > 0:
                self._to_apply[region] = left

    def take(self) -> set[int]:
        """The regions that may be proved once what is in flight has landed and both sides are
        flushed."""
        taken, self.regions = self.regions, set()
        return taken

    def give_back(self, taken: set[int]) -> None:
        """They have still to be proved."""
        self.regions |= taken

    def proved(self, taken: set[int]) -> list[int]:
        """Both sides are flushed: which of these regions are proved by that. Those that were
        written to again are not, and those that are in the journal have still to be proved."""
        found = []
        for region in taken - self.regions:
            if region in self._to_apply:
                self.regions.add(region)
            else:
                found.append(region)
        return found

    def _at(self, lba: int, blocks: int) -> range:
        return range(lba >> self._shift, ((lba + blocks - 1) >> self._shift) + 1)
