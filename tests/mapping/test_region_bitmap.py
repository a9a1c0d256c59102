"""The region bitmap against a set of numbers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from daiko.mapping.region_bitmap import RegionBitmap

MOST = 60
spans = st.tuples(st.integers(0, MOST - 1), st.integers(0, MOST)).map(
    lambda drawn: (drawn[0], min(drawn[0] + drawn[1] - 1, MOST - 1))
)
"""first..last among the regions that there may be; every sixtieth or so is empty."""


def runs(numbers: set[int]) -> list[tuple[int, int]]:
    """The runs of a set of numbers: (first, how many)."""
    found = []
    for _, group in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        found.append((members[0], len(members)))
    return found


class RegionBitmapAgainstNumbers(RuleBasedStateMachine):
    """The model: the blocks of the volume, and the numbers of the regions whose bits are set."""

    @initialize(blocks=st.integers(0, MOST * 4), shift=st.integers(0, 4))
    def make(self, blocks: int, shift: int) -> None:
        self.shift = shift
        self.blocks = blocks
        self.bitmap = RegionBitmap(blocks, shift)
        self.marked: set[int] = set()

    @property
    def regions(self) -> int:
        return len({block >> self.shift for block in range(self.blocks)})

    def cut(self, span: tuple[int, int]) -> tuple[int, int]:
        """The span as a range of this bitmap's regions, perhaps empty."""
        first, last = span
        first = min(first, self.regions)
        return first, max(min(last, self.regions - 1), first - 1)

    @rule(span=spans)
    def mark(self, span: tuple[int, int]) -> None:
        first, last = self.cut(span)
        meant = set(range(first, last + 1))
        assert self.bitmap.mark(first, last) == (not meant <= self.marked)
        self.marked |= meant

    @rule(span=spans)
    def clear(self, span: tuple[int, int]) -> None:
        first, last = self.cut(span)
        meant = set(range(first, last + 1))
        assert self.bitmap.clear(first, last) == bool(meant & self.marked)
        self.marked -= meant

    @rule(region=st.integers(0, MOST - 1))
    def mark_one(self, region: int) -> None:
        if region < self.regions:
            assert self.bitmap.mark(region, region) == (region not in self.marked)
            self.marked.add(region)

    @rule()
    def mark_all(self) -> None:
        self.bitmap.mark_all()
        self.marked = set(range(self.regions))

    @rule()
    def clear_all(self) -> None:
        self.bitmap.clear_all()
        self.marked = set()

    @rule(others=st.lists(spans, max_size=3), adding=st.booleans())
    def combine(self, others: list[tuple[int, int]], adding: bool) -> None:
        other = RegionBitmap(self.blocks, self.shift)
        theirs: set[int] = set()
        for first, last in map(self.cut, others):
            other.mark(first, last)
            theirs |= set(range(first, last + 1))
        if adding:
            self.bitmap.update(other)
            self.marked |= theirs
        else:
            self.bitmap.remove(other)
            self.marked -= theirs
        assert list(other.runs()) == runs(theirs)

    @rule(more=st.integers(0, 40))
    def grow(self, more: int) -> None:
        if self.blocks + more <= MOST << self.shift:
            self.blocks += more
            self.bitmap.grow(self.blocks)

    @rule(span=spans)
    def ask_regions(self, span: tuple[int, int]) -> None:
        first, last = self.cut(span)
        asked = set(range(first, last + 1))
        assert self.bitmap.any_in(first, last) == bool(asked & self.marked)
        assert self.bitmap.all_in(first, last) == (asked <= self.marked)
        later = {region for region in self.marked if region >= first}
        assert list(self.bitmap.runs(first)) == runs(later)

    @rule(lba=st.integers(0, MOST * 16), blocks=st.integers(0, MOST * 16))
    def ask_blocks(self, lba: int, blocks: int) -> None:
        lba = min(lba, self.blocks)
        blocks = min(blocks, self.blocks - lba)
        inside = [b for b in range(lba, lba + blocks) if b >> self.shift in self.marked]
        assert self.bitmap.blocks_in(lba, blocks) == len(inside)

    @rule(offset=st.integers(0, 8), length=st.integers(0, 8), ones=st.booleans())
    def carry_bytes(self, offset: int, length: int, ones: bool) -> None:
        """What was read as bytes comes back the same; bits of no region are not taken."""
        offset = min(offset, self.bitmap.size)
        data = self.bitmap.bytes_at(offset, length)
        assert len(data) == min(length, self.bitmap.size - offset)
        twin = RegionBitmap(self.blocks, self.shift)
        twin.load(offset, b"\xff" * len(data) if ones else data)
        within = set(range(offset * 8, min((offset + len(data)) * 8, self.regions)))
        assert list(twin.runs()) == runs(within if ones else within & self.marked)
        assert twin.set_regions == len(within if ones else within & self.marked)
        self.bitmap.load(offset, data)

    @invariant()
    def it_says_what_the_model_says(self) -> None:
        assert self.bitmap.blocks == self.blocks
        assert self.bitmap.regions == self.regions
        assert self.bitmap.set_regions == len(self.marked)
        assert list(self.bitmap.runs()) == runs(self.marked)
        blocks = {block for block in range(self.blocks) if block >> self.shift in self.marked}
        assert list(self.bitmap.ranges()) == runs(blocks)
        assert self.bitmap.changed_blocks == len(blocks)

    @invariant()
    def its_bytes_are_little_endian_and_nothing_more(self) -> None:
        number = sum(1 << region for region in self.marked)
        assert self.bitmap.size == (self.regions + 7) // 8
        assert self.bitmap.bytes_at(0, 1 << 20) == number.to_bytes(self.bitmap.size, "little")


TestRegionBitmapAgainstNumbers = RegionBitmapAgainstNumbers.TestCase
TestRegionBitmapAgainstNumbers.settings = settings(max_examples=100, stateful_step_count=30)


@given(st.sets(st.integers(0, 200_000), max_size=30), st.booleans(), st.integers(0, 200_000))
def test_runs_are_found_over_long_stretches_of_equal_bits(
    odd: set[int], full: bool, start: int
) -> None:
    """Several of the pieces that the search compares whole."""
    bitmap = RegionBitmap(200_001, 0)
    if full:
        bitmap.mark_all()
    for region in odd:
        if full:
            bitmap.clear(region, region)
        else:
            bitmap.mark(region, region)
    marked = (set(range(200_001)) - odd) if full else odd
    assert list(bitmap.runs(start)) == runs({region for region in marked if region >= start})


def test_walk_sees_bits_that_change_ahead_of_it() -> None:
    bitmap = RegionBitmap(100, 0)
    bitmap.mark(3, 4)
    bitmap.mark(50, 59)
    walk = bitmap.runs()
    assert next(walk) == (3, 2)
    bitmap.mark(10, 10)
    bitmap.clear(50, 54)
    bitmap.mark(0, 0)
    assert list(walk) == [(10, 1), (55, 5)]


def test_copy_is_a_bitmap_of_its_own() -> None:
    bitmap = RegionBitmap(100, 2)
    bitmap.mark(3, 7)
    twin = bitmap.copy()
    assert twin == bitmap
    twin.clear(4, 4)
    assert twin != bitmap
    assert (list(bitmap.runs()), bitmap.set_regions) == ([(3, 5)], 5)
    assert (list(twin.runs()), twin.set_regions) == ([(3, 1), (5, 3)], 4)


def test_bitmaps_of_other_regions_are_not_equal() -> None:
    assert RegionBitmap(100, 2) != RegionBitmap(100, 1)
    assert RegionBitmap(100, 2) != RegionBitmap(99, 2)
    assert RegionBitmap(100, 2) != bytes(4)


@pytest.mark.parametrize(
    ("first", "last"),
    [(-1, -1), (-1, 3), (13, 13), (12, 13), (15, 15), (16, 16), (100, 100), (5, 3), (0, -2)],
)
@pytest.mark.parametrize("full", [False, True], ids=["clear", "set"])
@pytest.mark.parametrize(
    "method",
    [RegionBitmap.mark, RegionBitmap.clear, RegionBitmap.any_in, RegionBitmap.all_in],
    ids=["mark", "clear", "any_in", "all_in"],
)
def test_range_that_is_none_of_the_bitmap_is_refused(
    method: Callable[[RegionBitmap, int, int], bool], full: bool, first: int, last: int
) -> None:
    bitmap = RegionBitmap(13, 0)
    if full:
        bitmap.mark_all()
    with pytest.raises(ValueError, match="are not a range of 13"):
        method(bitmap, first, last)
    assert bitmap.set_regions == (13 if full else 0)


@pytest.mark.parametrize("start", [-1, 14])
def test_walk_from_outside_is_refused(start: int) -> None:
    with pytest.raises(ValueError, match="are not a range of 13"):
        list(RegionBitmap(13, 0).runs(start))


@pytest.mark.parametrize(("lba", "blocks"), [(-1, 2), (0, -1), (99, 2), (101, 0)])
def test_blocks_outside_the_volume_are_refused(lba: int, blocks: int) -> None:
    with pytest.raises(ValueError, match="are not part of 100"):
        RegionBitmap(100, 3).blocks_in(lba, blocks)


@pytest.mark.parametrize(("blocks", "shift"), [(-1, 0), (1, -1)])
def test_volume_that_cannot_be_is_refused(blocks: int, shift: int) -> None:
    with pytest.raises(ValueError, match="make no bitmap"):
        RegionBitmap(blocks, shift)


def test_bitmap_does_not_shrink() -> None:
    with pytest.raises(ValueError, match="does not shrink to 99"):
        RegionBitmap(100, 3).grow(99)


@pytest.mark.parametrize("method", [RegionBitmap.update, RegionBitmap.remove])
@pytest.mark.parametrize("other", [RegionBitmap(100, 2), RegionBitmap(101, 3)])
def test_bitmap_of_other_regions_is_refused(
    method: Callable[[RegionBitmap, RegionBitmap], None], other: RegionBitmap
) -> None:
    with pytest.raises(ValueError, match="do not speak of the same regions"):
        method(RegionBitmap(100, 3), other)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (1, 2), (3, 0)])
def test_bytes_outside_the_bitmap_are_refused(offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="of a bitmap of 2"):
        RegionBitmap(13, 0).load(offset, bytes(length))
