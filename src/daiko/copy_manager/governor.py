"""Keeping hosts from feeling a copy: what the latency in a pace asks for.

While the pace of a copy has a latency, each READ and WRITE of hosts to a volume that the copy reads
or writes is timed, and four times a second the rate that hosts bear is set anew:

    a volume's commands took longer than wanted    halved, but never below 1 MiB/s
    they did not, and it held the copy back        a sixteenth more, at least 256 KiB/s
    they did not, and it did not                   left as it is

Until hosts are slowed for the first time it doubles, from 16 MiB/s on. What counts is the volume
that is slowest, over the last second; after the rate was halved, only what was measured since, so
that one bad moment is answered once. A volume's time is the mean of its commands that completed,
or how long those in flight have been under way already, whichever is more: where a device is so
busy that nothing completes any more, that must not look like rest.

So the rate hovers about the most that hosts bear: it comes back from a half in some three seconds,
goes over until the mean of a second shows it, and falls back. It never ends at nothing: a copy goes
on at 1 MiB/s where hosts are slow whatever it does. It never grows while it is not what holds the
copy back, so it has no far way to fall.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import Final

from daiko.copy_manager.pacer import Clock, Limit, Pacer
from daiko.device.layer.timing import CommandTimes

MIB: Final = 1 << 20
FLOOR: Final = 1 * MIB
"""Bytes a second that hosts have to bear."""
OPENING: Final = 16 * MIB
"""Bytes a second to begin with."""
LOOK_SECONDS: Final = 0.25
_LOOKS: Final = 4
"""That the mean of commands goes back: a second."""
_GROWTH: Final = 1 / 16
_LEAST_GROWTH: Final = FLOOR / 4

Measure = Callable[[str, CommandTimes], Callable[[], None]]
"""Times the commands of hosts to a place until what it returns is called
(`Devices.time_commands`)."""


class Governor:
    """Sets what hosts bear, for one copy."""

    def __init__(
        self,
        pacer: Pacer,
        measure: Measure,
        places: Iterable[str],
        *,
        clock: Clock | None = None,
        times: Callable[[], CommandTimes] = CommandTimes,
    ) -> None:
        """`places` are read or written. `clock`: the running event loop unless given; commands are
        too short for it, so `times` has a clock of its own."""
        self._pacer = pacer
        self._measure = measure
        self._places = tuple(places)
        self._clock: Clock = clock or asyncio.get_running_loop()
        self._times = times
        self._meters: list[_Meter] = []
        self._ends: list[Callable[[], None]] = []
        self._is_at_work = False
        self._is_opening = True
        """Hosts were not slowed yet."""
        self._bearable: float = OPENING
        self._looked_at = 0.0

    def look(self) -> None:
        """To be called at least four times a second, and once before the copy begins. Hosts are
        measured only while the pace has a latency."""
        wanted = self._pacer.pace.latency
        if wanted is None:
            self.end()
            return
        now = self._clock.time()
        if not self._is_at_work:
            self._begin()
        elif now - self._looked_at < 0.9 * LOOK_SECONDS:  # timers are not exact
            return
        else:
            self._judge(wanted / 1e6)
        self._looked_at = now
        self._pacer.bear(self._bearable)

    async def run(self) -> None:
        """Look as often as has to be, until this is cancelled."""
        try:
            while True:
                self.look()
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self.end()

    def end(self) -> None:
        """Measure no more; hosts have to bear everything."""
        if not self._is_at_work:
            return
        self._is_at_work = False
        for end in self._ends:
            end()
        self._ends.clear()
        self._meters.clear()
        self._pacer.bear(None)

    def _begin(self) -> None:
        self._is_at_work = self._is_opening = True
        self._bearable = OPENING
        for place in self._places:
            times = self._times()
            try:
                self._ends.append(self._measure(place, times))
            except LookupError:
                continue  # on another machine: its hosts cannot be seen from here
            self._meters.append(_Meter(times))

    def _judge(self, wanted: float) -> None:
        slowest = max([meter.look() for meter in self._meters], default=0.0)
        if slowest > wanted:
            self._is_opening = False
            rate = min(self._bearable, self._pacer.pace.rate or inf)
            self._bearable = max(rate / 2, FLOOR)
            for meter in self._meters:
                meter.restart()
        elif self._is_holding_back:
            growth = self._bearable * (1 if self._is_opening else _GROWTH)
            self._bearable += max(growth, _LEAST_GROWTH)

    @property
    def _is_holding_back(self) -> bool:
        """What hosts bear held the copy back since the last look."""
        pacer = self._pacer
        return pacer.limited_by is Limit.HOSTS and pacer.held_back_at > self._looked_at


class _Meter:
    """How long the commands of hosts to one place took lately."""

    def __init__(self, times: CommandTimes) -> None:
        self._times = times
        self._looks = deque([(times.commands, times.seconds)], _LOOKS + 1)

    def look(self) -> float:
        """Seconds a command; 0 = there was none."""
        times = self._times
        self._looks.append((times.commands, times.seconds))
        commands, seconds = self._looks[0]
        completed = times.commands - commands
        mean = (times.seconds - seconds) / completed if completed else 0.0
        return max(mean, times.age)

    def restart(self) -> None:
        """Forget what was until now."""
        last = self._looks[-1]
        self._looks.clear()
        self._looks.append(last)
