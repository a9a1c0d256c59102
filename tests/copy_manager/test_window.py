"""How many transfers are in flight, on ways that are simulated: so long, and so many at a time."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.copy_manager.window import Window


def steady(window: Window, *, way: float, each: float, transfers: int = 5000) -> float:
    """Run transfers over a way that takes `way` seconds, through a device that takes `each`, one
    after the other. The mean size of the window in the second half."""
    now, free_at = 0.0, 0.0
    in_flight: deque[tuple[float, float]] = deque()
    sizes = []
    for number in range(transfers):
        while len(in_flight) < window.size:
            free_at = max(now + way / 2, free_at) + each
            in_flight.append((now, free_at + way / 2))
        begun, now = in_flight.popleft()
        window.took(now - begun)
        if number >= transfers // 2:
            sizes.append(window.size)
    return sum(sizes) / len(sizes)


def test_short_way_keeps_few_in_flight() -> None:
    assert steady(Window(4, 64), way=0.0001, each=0.001) <= 5


@pytest.mark.parametrize("needed", [8, 20, 40])
def test_long_way_gets_as_many_as_fill_it(needed: int) -> None:
    way, each = 0.1, 0.1 / needed
    assert needed <= steady(Window(4, 64), way=way, each=each) <= 64


def test_very_long_way_gets_the_most() -> None:
    assert steady(Window(4, 64), way=1.0, each=0.001) == 64


def test_window_opens_in_a_few_round_trips() -> None:
    window = Window(4, 64)
    for _ in range(4 + 8 + 16 + 32):
        window.took(0.1)
    assert window.size == 64


def test_way_that_others_crowd_gets_fewer_again() -> None:
    window = Window(4, 64)
    for _ in range(200):
        window.took(0.1)
    assert window.size == 64
    for _ in range(10_000):
        window.took(0.9)
    assert window.size == 4


@given(
    st.integers(1, 8),
    st.integers(1, 70),
    st.lists(st.floats(0, 100), max_size=300),
)
def test_size_stays_within_its_bounds(least: int, most: int, times: list[float]) -> None:
    window = Window(least, most)
    for seconds in times:
        assert min(least, most) <= window.size <= most
        window.took(seconds)
