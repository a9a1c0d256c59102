"""The activity log: who is hot, who may leave, and when."""

from __future__ import annotations

import pytest

from daiko.pair.activity_log import ActivityLog


def committed(log: ActivityLog, *wanted: int) -> tuple[int, ...] | None:
    """A commit from its beginning to its end; the areas that were written down for it."""
    written = log.begin(wanted)
    log.end()
    return written


def test_area_is_hot_from_the_end_of_its_commit_on() -> None:
    log = ActivityLog(3)
    assert log.begin([7, 5, 7]) == (7, 5)
    assert (log.areas, log.touch(7, 7)) == ((), False)
    assert log.end() == [7, 5]
    assert (log.areas, log.touch(7, 7)) == ((7, 5), True)
    assert len(log) == 2


def test_log_is_not_written_when_no_area_enters() -> None:
    log = ActivityLog(3)
    assert committed(log) is None
    assert committed(log, 1, 2) == (1, 2)
    assert committed(log, 2, 1) is None
    assert committed(log, 2, 9) == (1, 2, 9)


def test_area_set_least_recently_leaves() -> None:
    log = ActivityLog(3)
    committed(log, 1, 2, 3)
    log.touch(1, 1)
    committed(log)
    assert committed(log, 4) == (3, 1, 4)
    assert not log.touch(2, 2)


def test_area_that_leaves_is_not_hot_from_the_beginning_of_the_commit_on() -> None:
    log = ActivityLog(1)
    committed(log, 1)
    committed(log)
    log.begin([2])
    assert not log.touch(1, 1)
    assert not log.touch(2, 2)
    log.end()
    assert log.touch(2, 2)


def test_area_whose_bits_are_not_on_stable_storage_stays() -> None:
    log = ActivityLog(2)
    committed(log, 1, 2)
    committed(log)
    log.touch(1, 1)
    log.touch(2, 2)
    assert committed(log, 3) is None
    assert committed(log, 3) == (2, 3)


def test_area_whose_bits_were_set_while_a_commit_was_under_way_stays_for_the_next() -> None:
    log = ActivityLog(1)
    committed(log, 1)
    committed(log)
    log.begin([])
    log.touch(1, 1)
    log.end()
    assert committed(log, 2) is None
    assert committed(log, 2) == (2,)


def test_area_that_has_just_entered_stays_for_the_next_commit() -> None:
    """Its bits may have been set while it entered."""
    log = ActivityLog(1)
    committed(log, 1)
    assert committed(log, 2) is None
    assert committed(log, 2) == (2,)


def test_no_more_areas_enter_than_there_is_room_for() -> None:
    log = ActivityLog(3)
    assert committed(log, *range(10)) == (0, 1, 2)
    committed(log)
    assert committed(log, *range(20, 30)) == (20, 21, 22)
    assert log.areas == (20, 21, 22)


@pytest.mark.parametrize(
    ("first", "last", "are_hot", "among"),
    [
        (4, 6, True, [4, 5, 6]),
        (4, 7, False, [4, 5, 6]),
        (3, 5, False, [4, 5]),
        (0, 1 << 40, False, [4, 5, 6, 9]),
        (7, 8, False, []),
    ],
)
def test_range_is_hot_where_all_of_its_areas_are(
    first: int, last: int, are_hot: bool, among: list[int]
) -> None:
    log = ActivityLog(4)
    committed(log, 4, 5, 6, 9)
    assert sorted(log.among(first, last)) == among
    assert log.touch(first, last) == are_hot


def test_bits_set_by_a_range_keep_its_areas_from_leaving() -> None:
    log = ActivityLog(2)
    committed(log, 1, 2)
    committed(log)
    log.touch(0, 5)
    assert committed(log, 9) is None
