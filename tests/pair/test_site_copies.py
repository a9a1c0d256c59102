"""Rounds of pairs over two sites."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daiko.mapping.range_set import RangeSet
from daiko.pair.site_copies import _portions

ranges = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 700)), max_size=12)


@given(ranges, st.integers(1, 400))
def test_portions_are_the_ranges_and_none_is_too_large(
    given_: list[tuple[int, int]], most: int
) -> None:
    disjoint = [(first, count) for first, count in _set_of(given_)]
    portions = _portions(disjoint, most)
    assert all(0 < sum(blocks for _, blocks in portion) <= most for portion in portions)
    assert list(_set_of([each for portion in portions for each in portion])) == disjoint
    assert sum(blocks for p in portions for _, blocks in p) == sum(b for _, b in disjoint)


def _set_of(ranges: list[tuple[int, int]]) -> RangeSet:
    found = RangeSet()
    for first, blocks in ranges:
        found.add(first, blocks)
    return found
