"""What hosts bear: halved while they are slow, more when they are not, never nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.copy_manager.governor import FLOOR, LOOK_SECONDS, OPENING, Governor
from daiko.copy_manager.pace import FULL, Pace
from daiko.copy_manager.pacer import Pacer
from daiko.device.layer.delay import Delay
from daiko.device.layer.timing import CommandTimes, Timing
from manual_clock import ManualClock

MIB = 1 << 20
LATENCY = Pace(latency=5000)


class Volume:
    """What a host works on: its commands take as long as the test lets them."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.delay = Delay(MemoryDevice(64), None)
        self.path = self.delay
        self.layers: list[Timing] = []

    def measure(self, times: CommandTimes) -> Callable[[], None]:
        layer = Timing(self.delay, times)
        self.layers.append(layer)
        return lambda: self.layers.remove(layer)

    def begin(self, operation: str = "read") -> None:
        """A host sends a command."""
        (layer,) = self.layers
        if operation == "read":
            layer.read(0, 1, lambda error, data: None)
        elif operation == "write":
            layer.write(0, bytes(512), lambda error: None)
        else:
            layer.unmap(0, 1, lambda error: None)

    def command(self, seconds: float, operation: str = "read") -> None:
        """A command of a host, from beginning to end."""
        self.begin(operation)
        self.clock.advance(seconds)
        self.delay.release()


class Site:
    """Two volumes, one copy that always wants more, and its governor."""

    def __init__(self, pace: Pace = LATENCY, piece: int = 256 << 10) -> None:
        self.piece = piece
        self.clock = ManualClock()
        self.volumes = {name: Volume(self.clock) for name in ("alpha", "beta")}
        self.pacer = Pacer(pace, self.clock)
        self.governor = Governor(
            self.pacer,
            self._measure,
            ["alpha", "beta", "far away"],
            clock=self.clock,
            times=lambda: CommandTimes(self.clock.time),
        )
        self.copied = 0
        self.want_more()

    def _measure(self, place: str, times: CommandTimes) -> Callable[[], None]:
        return self.volumes[place].measure(times)  # KeyError is a LookupError

    def want_more(self) -> None:
        """Ask until the pace says wait, and again when it lets go."""

        def granted() -> None:
            self.copied += self.piece
            self.clock.call_later(0.0, self.want_more)

        if self.pacer.rate is None:
            return
        while self.pacer.take(self.piece, granted):
            self.copied += self.piece

    def begin(self) -> None:
        self.governor.look()
        self.want_more()

    def look(self) -> float:
        """A quarter of a second later; what hosts bear then."""
        self.clock.advance(LOOK_SECONDS)
        self.governor.look()
        assert self.pacer.rate is not None
        return self.pacer.rate

    @property
    def alpha(self) -> Volume:
        return self.volumes["alpha"]


def test_rate_doubles_until_hosts_are_slowed_for_the_first_time() -> None:
    site = Site()
    site.begin()
    assert site.pacer.rate == OPENING
    rates = []
    for _ in range(3):
        site.alpha.command(0.004)
        rates.append(site.look())
    assert rates == [2 * OPENING, 4 * OPENING, 8 * OPENING]
    site.alpha.command(0.006)
    site.alpha.command(0.2)
    assert site.look() == 4 * OPENING
    assert site.look() == 4 * OPENING * 17 / 16


def test_rate_is_halved_while_hosts_are_slow_and_never_below_the_floor() -> None:
    site = Site()
    site.begin()
    rates = []
    for _ in range(8):
        site.alpha.command(0.006)
        rates.append(site.look())
    assert rates == [8 * MIB, 4 * MIB, 2 * MIB, MIB, MIB, MIB, MIB, MIB]
    assert FLOOR == MIB
    before = site.copied
    site.clock.advance(10)
    assert site.copied - before >= 10 * MIB - site.piece, "nobody starves"


def test_rate_comes_back_when_hosts_are_quick_or_gone() -> None:
    site = Site(piece=32 * MIB)
    site.begin()
    for _ in range(8):
        site.alpha.command(0.006)
        site.look()
    site.alpha.command(0.001)
    assert site.look() == 1.25 * MIB
    assert site.look() == 1.5 * MIB
    for _ in range(150):
        rate = site.look()
    assert rate > 1 << 30


def test_one_slow_moment_is_answered_once() -> None:
    site = Site()
    site.begin()
    site.alpha.command(0.1)
    rates = [site.look() for _ in range(4)]
    assert rates[0] == OPENING / 2
    assert rates == sorted(rates), "it is no longer counted after it was answered"


def test_mean_of_the_last_second_counts() -> None:
    site = Site()
    site.begin()
    for _ in range(3):
        site.alpha.command(0.002)
        assert site.look() > OPENING
    before = site.pacer.rate
    site.alpha.command(0.013)
    assert site.look() > (before or 0), "4.75 ms on average"
    site.alpha.command(0.013)
    assert site.look() < 32 * OPENING, "5 of them, 6.4 ms on average"


def test_slowest_volume_counts_and_its_calm_neighbours_do_not_hide_it() -> None:
    site = Site()
    site.begin()
    for _ in range(100):
        site.volumes["beta"].command(0.0001, "write")
    site.alpha.command(0.006)
    assert site.look() == OPENING / 2


def test_command_that_does_not_come_back_counts_while_it_is_under_way() -> None:
    site = Site()
    site.begin()
    site.alpha.begin("write")
    assert site.look() == OPENING / 2
    assert site.look() == OPENING / 4
    site.alpha.delay.release()
    assert site.look() == OPENING / 8, "now as one that has completed"
    assert site.look() > OPENING / 8


def test_other_commands_than_reads_and_writes_do_not_count() -> None:
    site = Site()
    site.begin()
    site.alpha.command(0.2, "unmap")
    assert site.look() == 2 * OPENING


def test_copy_that_is_held_back_by_something_else_is_given_no_more() -> None:
    site = Site()
    site.governor.look()  # and nobody asks
    assert [site.look() for _ in range(3)] == [OPENING] * 3


def test_rate_of_the_pace_holds_beside_the_latency_and_is_what_is_halved() -> None:
    site = Site(Pace(4 * MIB, 5000))
    site.begin()
    assert site.look() == 4 * MIB
    assert site.look() == 4 * MIB
    site.alpha.command(0.006)
    assert site.look() == 2 * MIB


def test_rate_below_the_floor_stays_as_it_is() -> None:
    site = Site(Pace(1000, 5000))
    site.begin()
    for _ in range(5):
        site.alpha.command(0.006)
        assert site.look() == 1000


def test_looks_in_between_change_nothing() -> None:
    site = Site()
    site.begin()
    site.alpha.command(0.006)
    for _ in range(10):
        site.governor.look()
        assert site.pacer.rate == OPENING


def test_hosts_are_measured_only_while_the_pace_has_a_latency() -> None:
    site = Site(Pace(MIB))
    layers = [volume.layers for volume in site.volumes.values()]
    site.governor.look()
    assert layers == [[], []]
    site.pacer.use(LATENCY)
    site.governor.look()
    assert [len(each) for each in layers] == [1, 1]
    assert site.pacer.rate == OPENING
    site.pacer.use(FULL)
    site.clock.advance(LOOK_SECONDS)
    site.governor.look()
    assert layers == [[], []]
    assert site.pacer.rate is None


def test_latency_that_was_taken_back_and_asked_for_again_between_two_looks_holds() -> None:
    site = Site()
    site.begin()
    site.pacer.use(FULL)
    site.pacer.use(LATENCY)
    site.alpha.command(0.006)
    assert site.look() == OPENING / 2


@pytest.mark.parametrize("pace", [LATENCY, FULL], ids=str)
def test_at_the_end_nothing_is_left_in_the_way_of_hosts(pace: Pace) -> None:
    site = Site(pace)
    site.governor.look()
    site.governor.end()
    site.governor.end()
    assert [volume.layers for volume in site.volumes.values()] == [[], []]
    assert site.pacer.rate is None


@pytest.mark.parametrize("bearable", [3 * MIB, 40 * MIB, 700 * MIB])
def test_rate_hovers_about_what_hosts_bear(bearable: int) -> None:
    """A device whose hosts wait 8 ms while more than so much is copied, and 2 ms while less is."""
    site = Site(piece=bearable // 64)
    site.begin()
    rates, slow = [], 0
    for number in range(300):
        before = site.copied
        site.clock.advance(LOOK_SECONDS)
        is_slow = (site.copied - before) / LOOK_SECONDS > bearable
        site.alpha.command(0.008 if is_slow else 0.002)
        site.governor.look()
        assert site.pacer.rate is not None
        if number >= 40:
            rates.append(site.pacer.rate)
            slow += is_slow
    assert min(rates) >= bearable * 0.45
    assert max(rates) <= bearable * 1.3 + MIB
    assert sum(rates) / len(rates) >= bearable * 0.6
    assert slow <= len(rates) * 0.4
