"""Bounded back-off."""

from __future__ import annotations

from daiko.copy_manager.settings import CopySettings, Retries


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_delays_are_given_in_turn_and_then_it_is_given_up() -> None:
    tries = Retries((1.0, 2.0)).begin(_Clock())
    assert [tries.failed(), tries.failed(), tries.failed()] == [1.0, 2.0, None]


def test_a_success_begins_anew() -> None:
    tries = Retries((1.0, 2.0)).begin(_Clock())
    tries.failed()
    tries.succeeded()
    assert [tries.failed(), tries.failed(), tries.failed()] == [1.0, 2.0, None]


def test_slow_tries_are_given_up_by_time() -> None:
    clock = _Clock()
    tries = Retries((1.0,) * 50, within=60).begin(clock)
    assert tries.failed() == 1.0
    clock.now += 60
    assert tries.failed() == 1.0
    clock.now += 1
    assert tries.failed() is None


def test_a_host_hears_of_a_failure_before_an_administrator_does() -> None:
    settings = CopySettings()
    assert settings.host_retries.within < 30 < settings.retries.within
    assert sum(settings.host_retries.delays) < sum(settings.retries.delays)


def test_half_of_the_memory_that_copies_may_use_is_for_buffers() -> None:
    assert 2 * CopySettings().buffer_bytes <= 64 << 20
