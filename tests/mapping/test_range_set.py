"""The range set against a set of numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from daiko.mapping.range_set import RangeSet

SIZE = 48
ranges = st.integers(0, SIZE).flatmap(
    lambda first: st.tuples(st.just(first), st.integers(0, SIZE - first))
)


def runs(numbers: set[int]) -> list[tuple[int, int]]:
    """The runs of a set of numbers: (first, how many)."""
    found = []
    for _, group in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        found.append((members[0], len(members)))
    return found


class RangeSetAgainstNumbers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ranges = RangeSet()
        self.numbers: set[int] = set()

    @rule(what=ranges)
    def add(self, what: tuple[int, int]) -> None:
        self.ranges.add(*what)
        self.numbers |= set(range(what[0], sum(what)))

    @rule(what=ranges)
    def remove(self, what: tuple[int, int]) -> None:
        self.ranges.remove(*what)
        self.numbers -= set(range(what[0], sum(what)))

    @rule(what=st.lists(ranges, max_size=4))
    def update(self, what: list[tuple[int, int]]) -> None:
        self.ranges.update(RangeSet(what))
        self.numbers |= {
            number for first, length in what for number in range(first, first + length)
        }

    @rule(what=st.lists(ranges, max_size=4))
    def merge(self, what: list[tuple[int, int]]) -> None:
        self.ranges.merge([(first, first + length) for first, length in what])
        self.numbers |= {
            number for first, length in what for number in range(first, first + length)
        }

    @rule(what=ranges)
    def ask(self, what: tuple[int, int]) -> None:
        asked = set(range(what[0], sum(what)))
        assert self.ranges.covers(*what) == (asked <= self.numbers)
        assert self.ranges.overlaps(*what) == bool(asked & self.numbers)
        assert list(self.ranges.within(*what)) == runs(asked & self.numbers)
        assert list(self.ranges.gaps(*what)) == runs(asked - self.numbers)

    @invariant()
    def the_runs_are_the_fewest(self) -> None:
        assert list(self.ranges) == runs(self.numbers)
        assert len(self.ranges) == len(runs(self.numbers))
        assert self.ranges.blocks == len(self.numbers)
        assert self.ranges.end == max(self.numbers, default=-1) + 1
        assert [number in self.ranges for number in range(SIZE)] == [
            number in self.numbers for number in range(SIZE)
        ]


TestRangeSetAgainstNumbers = RangeSetAgainstNumbers.TestCase
TestRangeSetAgainstNumbers.settings = settings(max_examples=60, stateful_step_count=30)


@given(st.lists(ranges))
def test_range_set_comes_back_from_json(what: list[tuple[int, int]]) -> None:
    kept = RangeSet(what)
    assert RangeSet(json.loads(json.dumps(kept.ranges()))) == kept


@given(st.lists(ranges), st.randoms(use_true_random=False))
def test_equal_sets_are_equal_however_they_were_made(
    what: list[tuple[int, int]], chance: object
) -> None:
    shuffled = what.copy()
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert RangeSet(what) == RangeSet(shuffled)


def test_copy_is_a_set_of_its_own() -> None:
    kept = RangeSet([(0, 4)])
    twin = kept.copy()
    twin.remove(1, 1)
    assert list(kept) == [(0, 4)]
    assert list(twin) == [(0, 1), (2, 2)]


@pytest.mark.parametrize("what", [(-1, 2), (3, -1)])
@pytest.mark.parametrize(
    "method",
    [
        RangeSet.add,
        RangeSet.remove,
        RangeSet.covers,
        RangeSet.overlaps,
        lambda ranges, first, blocks: list(ranges.within(first, blocks)),
        lambda ranges, first, blocks: list(ranges.gaps(first, blocks)),
    ],
    ids=["add", "remove", "covers", "overlaps", "within", "gaps"],
)
def test_negative_range_is_refused(
    method: Callable[[RangeSet, int, int], object], what: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match="is not a range"):
        method(RangeSet([(0, 9)]), *what)
