"""Numbering: windows over the wrap of 32 bits, duplicates, gaps; tags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.iscsi.bhs import RESERVED_TAG
from daiko.iscsi.error import LocalProtocolError
from daiko.iscsi.event import Arrival
from daiko.iscsi.session import MASK, CommandNumbers, CommandWindow, TaskTags, serial_difference

U32 = st.integers(0, MASK)


@given(U32, st.integers(-(2**31) + 1, 2**31 - 1))
def test_difference_of_serial_numbers_survives_the_wrap(base: int, distance: int) -> None:
    assert serial_difference(base + distance & MASK, base) == distance


@given(U32, st.integers(1, 300))
def test_window_takes_the_next_holds_early_ones_and_ignores_the_rest(first: int, size: int) -> None:
    window = CommandWindow(first, size)
    assert window.arrive(first - 1 & MASK) is Arrival.IGNORED
    assert window.arrive(first + size & MASK) is Arrival.IGNORED
    for ahead in range(1, size):
        assert window.arrive(first + ahead & MASK) is Arrival.EARLY
    for number in range(size):
        assert window.arrive(first + number & MASK) is Arrival.NEXT
        assert window.arrive(first + number & MASK) is Arrival.IGNORED
    assert window.arrive(first + size & MASK) is Arrival.IGNORED
    window.answered()
    assert window.arrive(first + size & MASK) is Arrival.NEXT


def test_window_without_a_place_is_a_defect() -> None:
    with pytest.raises(LocalProtocolError):
        CommandWindow(0, 0)


@given(U32, st.integers(0, 200))
def test_initiator_stays_within_the_window(first: int, size: int) -> None:
    numbers = CommandNumbers(first, 0, first, first + size - 1 & MASK)
    taken = []
    while numbers.is_open:
        taken.append(numbers.take())
    assert taken == [first + step & MASK for step in range(size)]
    with pytest.raises(LocalProtocolError):
        numbers.take()


@pytest.mark.parametrize(
    ("exp", "maximum", "result"),
    [
        pytest.param(12, 50, (12, 50), id="forward"),
        pytest.param(9, 30, (10, 40), id="older-is-ignored"),
        pytest.param(12, 10, (10, 40), id="impossible-pair-is-ignored"),
        pytest.param(12, 11, (12, 40), id="closed-window-does-not-shrink"),
    ],
)
def test_initiator_takes_the_targets_numbers(
    exp: int, maximum: int, result: tuple[int, int]
) -> None:
    numbers = CommandNumbers(10, 0, 10, 40)
    numbers.update(exp, maximum)
    assert (numbers.exp_cmd_sn, numbers.max_cmd_sn) == result


def test_status_number_must_be_the_next() -> None:
    numbers = CommandNumbers(1, MASK, 1, 1)
    assert numbers.acknowledge(MASK)
    assert numbers.exp_stat_sn == 0
    assert not numbers.acknowledge(1)
    assert not numbers.acknowledge(MASK)
    assert numbers.acknowledge(0)


def test_tags_are_unique_and_never_the_reserved_one() -> None:
    tags = TaskTags()
    assert tags.take(()) == 0
    assert tags.take({1, 2}) == 3
    tags._last = RESERVED_TAG - 1
    assert tags.take({0}) == 1
