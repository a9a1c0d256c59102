"""Rate and time left."""

from __future__ import annotations

import pytest

from daiko.copy_manager.progress import Progress, RateMeter
from daiko.state.record import JobState


def test_rate_is_of_the_window_and_not_of_the_whole_past() -> None:
    meter = RateMeter(window_seconds=10)
    for second in range(100):
        meter.sample(float(second), 10 * second)
    for second in range(100, 120):
        meter.sample(float(second), 1000 + 500 * (second - 100))
    assert meter.rate == pytest.approx(500)
    assert meter.eta(1000) == pytest.approx(2)


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param([], id="none"),
        pytest.param([(1.0, 5)], id="one"),
        pytest.param([(1.0, 5), (1.0, 9)], id="no-time-between"),
    ],
)
def test_without_two_moments_there_is_no_rate(samples: list[tuple[float, int]]) -> None:
    meter = RateMeter()
    for now, total in samples:
        meter.sample(now, total)
    assert meter.rate == 0.0
    assert meter.eta(10) is None
    assert meter.eta(0) == 0.0


def test_a_stalled_copy_has_no_time_left_to_tell() -> None:
    meter = RateMeter()
    meter.sample(0.0, 100)
    meter.sample(5.0, 100)
    assert meter.eta(10) is None


@pytest.mark.parametrize(("copied", "blocks", "percent"), [(0, 0, 100), (1, 4, 25), (4, 4, 100)])
def test_percent_counts_what_is_copied(copied: int, blocks: int, percent: float) -> None:
    progress = Progress(1, JobState.RUNNING, 0, copied, blocks, 512, 0.0, None, 0)
    assert progress.percent == percent
