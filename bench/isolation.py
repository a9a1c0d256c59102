"""One slow or dead back end: what becomes of the response time of a unit on another?

A first controller with two units for a host, one over a Daiko that works, one over a second
controller that by turns answers at once (*quiet*) and does not (*beside*): it is slow (the `delay`
layer: every answer half a second late) or frozen (SIGSTOP, as good as dead: it takes what its
buffers take, and says nothing). The host reads 4 KiB of the unit that works, eight at a time, over
the session that the writes to the other one go over as well. README.md says how the two turns are
made alike, and the figure out of them.

    python isolation.py --case same|tail|slow|frozen      what the method itself is good for:
        `same` makes no difference between the turns; `tail` delays the slowest reads of every
        other turn by a fifth of what they took
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import structlog

import measure
from daiko.backend.remote_lu import RemoteLu
from daiko.backend.second_controller import SecondController
from daiko.initiator.settings import InitiatorSettings
from processes import Daiko, image

DEPTH = 8
BLOCKS = 1 << 16
WRITES = 32
LATE = 0.5
"""Seconds; 32 writes that are so late are 64 a second."""
TURNS = ((False, 0.3), (True, 0.6), (False, 0.3))
"""Of a set: whether the other back end does not answer, and how many seconds are measured."""
WARM = 100
"""Reads at the begin of each turn that are not measured."""
SECONDS = 20.0
"""For each round that is asked for; as many sets of turns as fit in."""
SLOWER = 0.2
"""What the slowest reads are delayed by where that is asked for, of what they took."""
TOLERANCE = 0.1
MUST = 1 - TOLERANCE
BIN = 0.002
"""Response times are counted in bins of this width, relative."""
FLOOR = round(math.log(1e-6) / BIN)
"""The bin of a microsecond: no response is as quick."""
RESAMPLES = 400
PATIENT = InitiatorSettings(command_timeout=600.0, ping_interval=600.0)

Times = Counter[int]
"""How many responses took so long, by bin."""


def run(rounds: int) -> list[dict]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory(prefix="daiko-bench-", dir="/dev/shm") as name:
        return [case(Path(name), how, SECONDS * rounds) for how in ("slow", "frozen")]


def case(folder: Path, how: str, seconds: float) -> dict:
    iqn = f"iqn.2026-11.com.example:{how}"
    other = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "slow_target.py"), iqn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        portal = other.stdout.readline().strip()
        disk = image(folder / f"{how}.img", BLOCKS * 512, seed=1)
        with (
            Daiko(folder, disk, name=f"works-{how}", mode="local") as works,
            Daiko(
                folder,
                works.url(0),
                lun={1: [f"iscsi://{portal}/{iqn}/0"]},
                name=f"first-{how}",
                mode="direct",
            ) as first,
        ):
            bench = Bench(first, other, how)
            cost = measure.cost(
                lambda: asyncio.run(bench.run(seconds)), [first.pid, works.pid, other.pid]
            )
    finally:
        other.kill()
        other.wait()
    return row(how, bench.sets, is_quiet=cost.is_quiet)


def row(how: str, sets: list[tuple[Times, Times]], *, is_quiet: bool) -> dict:
    pooled = Times()
    for quiet, beside in sets:
        pooled.update(quiet)
        pooled.update(beside)
    # The drawings need the slower ones only, and a fifth is plenty for the 99th percentile.
    floor = percentile([tail(pooled, FLOOR)], 80)
    tails = [(tail(quiet, floor), tail(beside, floor)) for quiet, beside in sets]
    ratio = percentile_ratio(tails)
    chance = random.Random(1)
    resampled = sorted(
        percentile_ratio(chance.choices(tails, k=len(tails))) for _ in range(RESAMPLES)
    )
    least, most = resampled[RESAMPLES // 40], resampled[-1 - RESAMPLES // 40]
    return {
        "name": f"p99 of 4 KiB reads beside a {how} back end",
        "against": "the same with that back end answering",
        "ratio": round(ratio, 3),
        "min": round(least, 3),
        "max": round(most, 3),
        "must": MUST,
        "aim": 1.0,
        "flags": ("" if is_quiet else "N") + ("S" if most - least > TOLERANCE else ""),
    }


class Tail(NamedTuple):
    """The slower ones of some response times."""

    count: int
    """Of all of them."""
    times: Times


def tail(times: Times, floor: int) -> Tail:
    """Those not below the bin `floor`."""
    return Tail(times.total(), Times({at: n for at, n in times.items() if at >= floor}))


def percentile_ratio(sets: Iterable[tuple[Tail, Tail]]) -> float:
    """Of all samples of these sets together: p99 of the quiet turns over that of the others."""
    quiet, beside = zip(*sets, strict=True)
    return math.exp((percentile(quiet, 99) - percentile(beside, 99)) * BIN)


def percentile(tails: Iterable[Tail], which: int) -> int:
    """The bin where it lies. Raises ValueError where it lies below all floors."""
    count, pooled = 0, Times()
    for some in tails:
        count += some.count
        pooled.update(some.times)
    above = count * (100 - which) // 100
    for at in sorted(pooled, reverse=True):
        above -= pooled[at]
        if above < 0:
            return at
    raise ValueError("there are too few samples above the floor")


@dataclass
class Bench:
    """The host of one case."""

    first: Daiko
    other: subprocess.Popen[str]
    how: str
    sets: list[tuple[Times, Times]] = field(default_factory=list)
    """The response times of the quiet turns and of those beside, of each set."""

    async def run(self, seconds: float) -> None:
        host = SecondController(
            "first",
            self.first.iqn,
            [self.first.portal],
            "iqn.2026-11.com.example:host",
            settings=PATIENT,
        )
        await host.open()
        works, other = host.device(0), host.device(1)
        await reads(works, seconds=1.0)
        # The pauses of this process's own collector are none of the controller's.
        gc.collect()
        gc.freeze()
        gc.disable()
        slowest = math.inf
        ends = _now() + seconds
        while _now() < ends:
            quiet, beside = Times(), Times()
            for is_beside, length in TURNS:
                times = beside if is_beside else quiet
                times += await self._turn(works, other, is_beside, length, slowest)
            if self.how == "tail":
                p99 = percentile([tail(quiet, FLOOR)], 99)
                slowest = 0.8 * math.exp(p99 * BIN)
            self.sets.append((quiet, beside))
        gc.enable()
        gc.unfreeze()
        host._paths.give_up_session("the end")
        await host.close()

    async def _turn(
        self, works: RemoteLu, other: RemoteLu, is_beside: bool, length: float, slowest: float
    ) -> Times:
        writes = Writes(other)
        if is_beside and self.how == "slow":
            self._tell(str(LATE))
        if is_beside and self.how == "frozen":
            self.other.send_signal(signal.SIGSTOP)
        # A frozen one gets as many as it can before the turn, and none in it: it answers none.
        writes.begin(again_after=None if self.how == "frozen" else LATE)
        await reads(works, count=WARM)
        times = await reads(works, seconds=length, slowest=slowest if is_beside else math.inf)
        if is_beside and self.how == "frozen":
            self.other.send_signal(signal.SIGCONT)
        await writes.end()
        if is_beside and self.how == "slow":
            self._tell("0")
        await reads(works, count=WARM)
        return times

    def _tell(self, seconds: str) -> None:
        """How late the other one answers from now on; at work when this returns."""
        assert self.other.stdin is not None
        assert self.other.stdout is not None
        self.other.stdin.write(f"{seconds}\n")
        self.other.stdin.flush()
        self.other.stdout.readline()


class Writes:
    """WRITES writes that go to a unit, each again so long after it was sent, or once it is done
    where that is later; the first ones spread over that time."""

    def __init__(self, unit: RemoteLu) -> None:
        self._unit = unit
        self._data = bytes(4096)
        self._chance = random.Random(2)
        self._in_flight = 0
        self._again_after: float | None = None
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._ended = asyncio.Event()
        self._goes_on = True

    def begin(self, again_after: float | None) -> None:
        """`again_after` None: all at once, and none again."""
        self._again_after = again_after
        for number in range(WRITES):
            self._later(number, (again_after or 0.0) * number / WRITES)

    async def end(self) -> None:
        """Send no more, and wait for those that were."""
        self._goes_on = False
        for timer in self._timers.values():
            timer.cancel()
        if self._in_flight:
            await self._ended.wait()

    def _later(self, number: int, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timers[number] = loop.call_later(seconds, self._send, number)

    def _send(self, number: int) -> None:
        sent = _now()
        self._in_flight += 1

        def done(error: object) -> None:
            self._in_flight -= 1
            if self._goes_on and self._again_after is not None:
                self._later(number, max(sent + self._again_after - _now(), 0.0))
            elif not self._goes_on and not self._in_flight:
                self._ended.set()

        self._unit.write(self._chance.randrange(BLOCKS - 512), self._data, done)


async def reads(
    unit: RemoteLu, *, seconds: float = math.inf, count: float = math.inf, slowest: float = math.inf
) -> Times:
    """The response times of reads for so long, or of so many. Those that take longer than
    `slowest` are delayed on purpose, by SLOWER of that time."""
    loop = asyncio.get_running_loop()
    times = Times()
    finished = loop.create_future()
    chance = random.Random(1)
    ends = loop.time() + seconds
    begun = in_flight = 0

    def go_on() -> None:
        nonlocal begun, in_flight
        begun += 1
        in_flight += 1
        at = loop.time()

        def end() -> None:
            nonlocal in_flight
            in_flight -= 1
            now = loop.time()
            times[int(math.log(now - at) // BIN)] += 1
            if now < ends and begun < count:
                go_on()
            elif not in_flight and not finished.done():
                finished.set_result(None)

        def done(error: object, data: object) -> None:
            if error is not None:
                if not finished.done():
                    finished.set_exception(RuntimeError(str(error)))
            elif (took := loop.time() - at) > slowest:
                loop.call_later(SLOWER * took, end)
            else:
                end()

        unit.read(chance.randrange(BLOCKS - 8), 8, done)

    for _ in range(DEPTH):
        go_on()
    await finished
    return times


def _now() -> float:
    return asyncio.get_running_loop().time()


def main() -> int:
    parser = argparse.ArgumentParser(description="One case, or a check of the method.")
    parser.add_argument("--case", choices=("same", "tail", "slow", "frozen"), required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory(prefix="daiko-bench-", dir="/dev/shm") as name:
        print(json.dumps(case(Path(name), options.case, SECONDS * options.rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
