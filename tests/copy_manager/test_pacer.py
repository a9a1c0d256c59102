"""The pacer: no more than the rate and one burst, everything in the end, in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.copy_manager.halt import Halt, HaltReason
from daiko.copy_manager.pace import FULL, Pace
from daiko.copy_manager.pacer import BURST_SECONDS, Limit, Pacer
from manual_clock import ManualClock

KIB, MIB = 1 << 10, 1 << 20


class Copier:
    """Asks a pacer for bytes, and counts what it was granted."""

    def __init__(self, pacer: Pacer) -> None:
        self.pacer = pacer
        self.granted: list[int] = []
        self.asked = 0

    def ask(self, size: int) -> Callable[[], None]:
        def granted() -> None:
            self.granted.append(size)

        self.asked += 1
        if self.pacer.take(size, granted):
            granted()
        return granted

    @property
    def bytes(self) -> int:
        return sum(self.granted)


SIZES = st.integers(1, 4 * MIB)
REQUESTS = st.lists(st.tuples(SIZES, st.floats(0, 3)), min_size=1, max_size=60)
RATES = st.integers(1, 1 << 30)


@given(RATES, REQUESTS)
def test_never_more_than_the_rate_and_one_burst_and_everything_in_the_end(
    rate: int, requests: list[tuple[int, float]]
) -> None:
    clock = ManualClock()
    pacer = Pacer(Pace(rate), clock)
    copier = Copier(pacer)
    burst = max(rate * BURST_SECONDS, *(size for size, _ in requests))
    began = clock.now

    def check() -> None:
        allowed = rate * (clock.now - began + 0.001) + burst
        assert copier.bytes <= allowed * (1 + 1e-9)

    for size, pause in requests:
        copier.ask(size)
        check()
        clock.advance(pause)
        check()
    while clock.pending:
        clock.next()
        check()
    assert copier.granted == [size for size, _ in requests], "everything, and nobody overtakes"


@given(
    st.lists(
        st.tuples(
            SIZES,
            st.floats(0, 2),
            st.one_of(st.none(), RATES.map(Pace), st.just(FULL)),
        ),
        min_size=1,
        max_size=40,
    ),
    RATES,
)
def test_however_the_pace_changes_everything_is_granted_and_each_rate_is_kept(
    requests: list[tuple[int, float, Pace | None]], rate: int
) -> None:
    clock = ManualClock()
    pacer = Pacer(Pace(rate), clock)
    copier = Copier(pacer)
    largest = max(size for size, _, _ in requests)
    since, before = clock.now, 0
    for size, pause, pace in requests:
        copier.ask(size)
        clock.advance(pause)
        if pace is None:
            continue
        if pacer.rate is not None:
            allowed = pacer.rate * (clock.now - since + 0.001)
            allowed += max(pacer.rate * BURST_SECONDS, largest)
            assert copier.bytes - before <= allowed * (1 + 1e-9)
        pacer.use(pace)
        since, before = clock.now, copier.bytes
    pacer.use(FULL)
    assert copier.granted == [size for size, _, _ in requests]
    assert not clock.pending


def test_rate_is_reached_and_not_only_kept() -> None:
    clock = ManualClock()
    pacer = Pacer(Pace(10 * MIB), clock)
    copier = Copier(pacer)
    for _ in range(400):
        copier.ask(256 * KIB)
    clock.advance(8.0)
    assert 80 * MIB <= copier.bytes <= 81 * MIB


def test_full_pace_grants_at_once_and_sets_no_timer() -> None:
    clock = ManualClock()
    copier = Copier(Pacer(FULL, clock))
    for _ in range(100):
        copier.ask(1 << 40)
    assert len(copier.granted) == 100
    assert not clock.pending


def test_request_larger_than_the_burst_is_granted_and_those_behind_it_wait_the_longer() -> None:
    clock = ManualClock()
    copier = Copier(Pacer(Pace(MIB), clock))
    copier.ask(4 * MIB)
    copier.ask(1)
    assert copier.granted == [4 * MIB]
    clock.advance(3.8)
    assert copier.granted == [4 * MIB]
    clock.advance(0.2)
    assert copier.granted == [4 * MIB, 1]


def test_who_was_idle_has_saved_up_no_more_than_a_burst() -> None:
    clock = ManualClock()
    copier = Copier(Pacer(Pace(MIB), clock))
    clock.advance(3600)
    for _ in range(1000):
        copier.ask(KIB)
    assert copier.bytes <= MIB * (BURST_SECONDS + 0.002)


def test_faster_pace_wakes_those_that_wait() -> None:
    clock = ManualClock()
    pacer = Pacer(Pace(1), clock)
    copier = Copier(pacer)
    for _ in range(5):
        copier.ask(MIB)
    assert len(copier.granted) == 1
    pacer.use(Pace(MIB))
    assert len(copier.granted) == 1, "a mebibyte is owed, which takes a second now"
    clock.advance(1)
    assert len(copier.granted) == 2
    pacer.use(FULL)
    assert len(copier.granted) == 5


def test_slower_pace_does_not_hold_up_for_hours_what_was_paid_for_before() -> None:
    clock = ManualClock()
    pacer = Pacer(Pace(1 << 30), clock)
    copier = Copier(pacer)
    copier.ask(256 * MIB)
    pacer.use(Pace(KIB))
    copier.ask(1)
    clock.advance(0.25)
    assert copier.granted == [256 * MIB, 1]


def test_who_withdraws_is_not_served_and_holds_up_nobody() -> None:
    clock = ManualClock()
    pacer = Pacer(Pace(MIB), clock)
    copier = Copier(pacer)
    copier.ask(MIB)
    first = copier.ask(64 * MIB)
    copier.ask(KIB)
    assert pacer.withdraw(first)
    assert not pacer.withdraw(first)
    clock.advance(1)
    assert copier.granted == [MIB, KIB]
    assert not clock.pending


def test_what_is_given_back_is_granted_to_the_next() -> None:
    clock = ManualClock()
    pacer = Pacer(Pace(MIB), clock)
    copier = Copier(pacer)
    copier.ask(64 * MIB)
    copier.ask(2 * MIB)
    assert copier.granted == [64 * MIB]
    pacer.give(64 * MIB)
    assert copier.granted == [64 * MIB, 2 * MIB]


def test_lower_of_the_rate_and_of_what_hosts_bear_holds() -> None:
    clock = ManualClock()
    pacer = Pacer(Pace(8 * MIB, 5000), clock)
    assert pacer.rate == 8 * MIB
    pacer.bear(2 * MIB)
    assert pacer.rate == 2 * MIB
    pacer.bear(64 * MIB)
    assert pacer.rate == 8 * MIB
    pacer.use(Pace(latency=5000))
    assert pacer.rate == 64 * MIB
    pacer.use(Pace(9 * MIB))
    assert pacer.rate == 9 * MIB, "hosts are not looked at any more"
    pacer.use(Pace(latency=5000))
    assert pacer.rate is None, "nor is remembered what they bore"


def test_what_limits_a_copy_is_said_while_it_waits_and_a_moment_longer() -> None:
    clock = ManualClock()
    pacer = Pacer(Pace(MIB, 5000), clock)
    copier = Copier(pacer)
    assert pacer.limited_by is None
    copier.ask(64 * KIB)
    assert pacer.limited_by is None, "it had not to wait"
    copier.ask(MIB)
    assert pacer.limited_by is Limit.RATE
    pacer.bear(MIB // 2)
    assert pacer.limited_by is Limit.HOSTS
    clock.advance(1)
    assert copier.granted == [64 * KIB, MIB]
    assert pacer.limited_by is None


@pytest.mark.parametrize(
    ("pace", "portion"),
    [
        (FULL, 8 * MIB),
        (Pace(1), 256 * KIB),
        (Pace(10 * MIB), MIB),
        (Pace(1 << 40), 8 * MIB),
    ],
    ids=str,
)
def test_portion_is_so_much_of_the_rate_within_its_bounds(pace: Pace, portion: int) -> None:
    pacer = Pacer(pace, ManualClock())
    assert pacer.portion(8 * MIB, least=256 * KIB, seconds=0.1) == portion


# --- as a coroutine


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_coroutine_waits_for_its_turn() -> None:
    clock = ManualClock()
    pacer = Pacer(Pace(MIB), clock)
    assert await pacer.wait(MIB)
    second = asyncio.ensure_future(pacer.wait(MIB, Halt()))
    await _settle()
    assert not second.done()
    clock.advance(1)
    assert await second


async def test_halt_ends_the_waiting_at_once_and_takes_nothing() -> None:
    clock = ManualClock()
    pacer, halt = Pacer(Pace(1), clock), Halt()
    assert await pacer.wait(MIB, halt)
    waiting = asyncio.ensure_future(pacer.wait(64 * MIB, halt))
    await _settle()
    halt.request(HaltReason.CANCEL)
    assert not await waiting
    assert not await pacer.wait(1, halt)
    assert not clock.pending
    behind = Copier(pacer)
    behind.ask(1)
    clock.advance(MIB)
    assert behind.granted == [1], "it was paid for the first mebibyte alone"


@pytest.mark.parametrize("granted", [False, True], ids=["waiting", "just-granted"])
async def test_cancelled_coroutine_takes_nothing(granted: bool) -> None:
    clock = ManualClock()
    pacer = Pacer(Pace(MIB), clock)
    assert await pacer.wait(MIB)
    waiting = asyncio.ensure_future(pacer.wait(64 * MIB))
    await _settle()
    if granted:
        clock.advance(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    clock.advance(1)
    behind = Copier(pacer)
    behind.ask(MIB)
    assert behind.granted == [MIB]


async def test_clock_is_the_event_loops_unless_given() -> None:
    pacer = Pacer(Pace(1 << 40))
    assert await pacer.wait(1 << 37)
    assert await pacer.wait(1), "a moment later"
