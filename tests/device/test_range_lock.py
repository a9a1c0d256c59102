"""Shared and exclusive entries, against a model that looks at every pair."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daiko.device.range_lock import RangeLock


def test_writes_do_not_exclude_one_another() -> None:
    lock = RangeLock()
    assert lock.try_shared(0, 10) >= 0
    assert lock.try_shared(5, 10) >= 0


def test_exclusive_waits_for_all_that_overlap_and_no_other() -> None:
    lock = RangeLock()
    first, second = lock.try_shared(0, 10), lock.try_shared(8, 4)
    lock.try_shared(100, 1)
    begun: list[int] = []
    lock.wait_exclusive(9, 2, begun.append)
    assert not begun
    lock.leave(first)
    assert not begun
    lock.leave(second)
    assert len(begun) == 1


def test_write_behind_a_waiting_exclusive_waits_too() -> None:
    lock = RangeLock()
    writing = lock.try_shared(0, 10)
    order: list[str] = []
    tickets: list[int] = []

    def begin(name: str, ticket: int) -> None:
        order.append(name)
        tickets.append(ticket)

    lock.wait_exclusive(5, 1, lambda ticket: begin("exclusive", ticket))
    assert lock.try_shared(5, 1) == -1
    lock.wait_shared(5, 1, lambda ticket: begin("shared", ticket))
    assert lock.try_shared(20, 1) >= 0
    lock.leave(writing)
    assert order == ["exclusive"]
    lock.leave(tickets[0])
    assert order == ["exclusive", "shared"]


Step = tuple[int, int, int, int]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(0, 20), st.integers(1, 8), st.integers(0, 1 << 16)
        ),
        max_size=60,
    )
)
def test_no_two_entries_ever_conflict_and_all_begin(steps: list[Step]) -> None:
    lock = RangeLock()
    active: dict[int, tuple[int, int, bool]] = {}
    asked = begun = 0

    def begin(ticket: int, start: int, end: int, exclusive: bool) -> None:
        nonlocal begun
        begun += 1
        for its, its_end, is_exclusive in active.values():
            overlap = start < its_end and its < end
            assert not (overlap and (exclusive or is_exclusive))
        active[ticket] = (start, end, exclusive)

    def leave(choice: int) -> None:
        ticket = list(active)[choice % len(active)]
        del active[ticket]
        lock.leave(ticket)

    for kind, start, blocks, choice in steps:
        end = start + blocks
        if kind == 0 and active:
            leave(choice)
        elif kind == 1:
            asked += 1
            lock.wait_exclusive(
                start, blocks, lambda ticket, s=start, e=end: begin(ticket, s, e, True)
            )
        else:
            asked += 1
            ticket = lock.try_shared(start, blocks)
            if ticket >= 0:
                begin(ticket, start, end, False)
            else:
                lock.wait_shared(
                    start, blocks, lambda ticket, s=start, e=end: begin(ticket, s, e, False)
                )
    while active:
        leave(0)
    assert begun == asked


def test_however_many_wait_those_that_leave_at_once_do_not_nest() -> None:
    lock = RangeLock()
    held: list[int] = []
    lock.wait_exclusive(0, 8, held.append)
    begun: list[int] = []

    def begin_and_leave(ticket: int) -> None:
        begun.append(ticket)
        lock.leave(ticket)

    for _ in range(2000):
        lock.wait_shared(0, 8, begin_and_leave)
    lock.leave(held.pop())
    assert len(begun) == 2000
    assert begun == sorted(begun)
    assert lock.try_shared(0, 8) >= 0
