"""One slow or dead back end: what becomes of the response time of a unit on another?

A first controller with two units for a host, one over a Daiko that works, one over a second
controller that is slow (the `delay` layer: every answer half a second late) or frozen (SIGSTOP, as
good as dead: it takes what its buffers take, and says nothing). The host reads 4 KiB of the unit
that works, eight at a time, while it keeps 32 writes of 4 KiB at the other one, over the same
session: few bytes, so that it is waiting that is measured and not work. The figure is the 99th
percentile of the response times with the other back end idle over that with it slow or dead,
measured by turns; 1 is no difference, and 0.9 the limit.
"""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import structlog

from daiko.backend.remote_lu import RemoteLu
from daiko.backend.second_controller import SecondController
from daiko.initiator.settings import InitiatorSettings
from processes import Daiko, image

READS = 2000
DEPTH = 8
BLOCKS = 1 << 16
WRITES = 32
LATE = 0.5
MUST = 0.9
ROUNDS = 5
"""For each that is asked for: a 99th percentile is of few samples."""
PATIENT = InitiatorSettings(command_timeout=600.0, ping_interval=600.0)


def run(rounds: int) -> list[dict]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory(prefix="daiko-bench-", dir="/dev/shm") as name:
        return [case(Path(name), how, ROUNDS * rounds) for how in ("slow", "frozen")]


def case(folder: Path, how: str, rounds: int) -> dict:
    iqn = f"iqn.2026-11.com.example:{how}"
    slow = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "slow_target.py"), iqn, str(LATE)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert slow.stdout is not None
        portal = slow.stdout.readline().strip()
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
            pairs = asyncio.run(measure(first, slow, how, rounds))
    finally:
        slow.kill()
        slow.wait()
    ratios = sorted(quiet / beside for quiet, beside in pairs)
    return {
        "name": f"p99 of 4 KiB reads beside a {how} back end",
        "against": "the same with that back end idle",
        "ratio": round(statistics.median(ratios), 3),
        "min": round(ratios[0], 3),
        "max": round(ratios[-1], 3),
        "must": MUST,
        "aim": 1.0,
        "flags": "S" if ratios[len(ratios) * 3 // 4] > 1.5 * ratios[len(ratios) // 4] else "",
    }


async def measure(
    first: Daiko, slow: subprocess.Popen[str], how: str, rounds: int
) -> list[tuple[float, float]]:
    """(p99 with the other back end idle, p99 with it slow or dead) of each round."""
    host = SecondController(
        "first", first.iqn, [first.portal], "iqn.2026-11.com.example:host", settings=PATIENT
    )
    await host.open()
    works, other = host.device(0), host.device(1)
    await reads(works, READS)
    pairs = []
    for _ in range(rounds):
        quiet = await reads(works, READS)
        if how == "frozen":
            slow.send_signal(signal.SIGSTOP)
        ended = asyncio.Event()
        stop = load(other, ended)
        beside = await reads(works, READS)
        if how == "frozen":
            slow.send_signal(signal.SIGCONT)
        stop()
        await ended.wait()
        pairs.append((quiet, beside))
    host._paths.give_up_session("the end")
    await host.close()
    return pairs


def load(unit: RemoteLu, ended: asyncio.Event) -> Callable[[], None]:
    """Keep WRITES writes at a unit until what is returned is called; `ended` is set when they
    are all back."""
    data = bytes(4096)
    in_flight = 0
    goes_on = True

    def go_on() -> None:
        nonlocal in_flight
        in_flight += 1
        unit.write(random.randrange(BLOCKS - 512), data, done)

    def done(error: object) -> None:
        nonlocal in_flight
        in_flight -= 1
        if goes_on:
            asyncio.get_running_loop().call_soon(go_on)
        elif not in_flight:
            ended.set()

    def stop() -> None:
        nonlocal goes_on
        goes_on = False
        if not in_flight:
            ended.set()

    for _ in range(WRITES):
        go_on()
    return stop


async def reads(unit: RemoteLu, count: int) -> float:
    """The 99th percentile of the response times of so many reads, in seconds."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    finished = loop.create_future()
    chance = random.Random(1)
    begun = 0

    def go_on() -> None:
        nonlocal begun
        begun += 1
        at = loop.time()

        def done(error: object, data: object) -> None:
            if error is not None:
                finished.set_exception(RuntimeError(str(error)))
                return
            times.append(loop.time() - at)
            if begun < count:
                go_on()
            elif len(times) == count:
                finished.set_result(None)

        unit.read(chance.randrange(BLOCKS - 8), 8, done)

    for _ in range(DEPTH):
        go_on()
    await finished
    return sorted(times)[int(len(times) * 0.99)]
