"""What one way of doing something cost, and whether that may be quoted."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernel_counters import cpu_seconds

_TICK = os.sysconf("SC_CLK_TCK")
NOISE = 0.10
"""Share of a core that others may use, or lose to the hypervisor, during a quiet sample."""
SPREAD = 1.25
"""How far the ratios of a row may be apart (largest over smallest)."""
RETRIES = 2
"""Of a sample that was not quiet."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one sample."""

    seconds: float
    cpu: float
    """Seconds of all processes that took part: servers, generator, this one."""
    each: tuple[float, ...]
    """CPU seconds of each server."""
    is_quiet: bool


def cost(way: Callable[[], None], pids: Sequence[int]) -> Cost:
    """Do it once. `pids`: the servers; processes that `way` starts and waits for, and this one,
    are counted with them."""
    machine, mine = _machine(), _mine()
    servers = [cpu_seconds(pid) for pid in pids]
    begun = time.perf_counter()
    way()
    seconds = time.perf_counter() - begun
    each = [cpu_seconds(pid) - before for pid, before in zip(pids, servers, strict=True)]
    cpu = sum(each) + _mine() - mine
    # The kernel's account of the whole machine goes in ticks: allow for one of each core.
    others = _machine() - machine - cpu - 2 / _TICK
    return Cost(seconds, cpu, tuple(each), others <= NOISE * seconds)


def quiet_cost(way: Callable[[], None], pids: Sequence[int], prepare: Callable[[], None]) -> Cost:
    """As `cost`, after `prepare`; again when something else ran meanwhile."""
    for _ in range(1 + RETRIES):
        prepare()
        found = cost(way, pids)
        if found.is_quiet:
            break
    return found


def _machine() -> float:
    """CPU seconds used by anything, or stolen, since the machine started."""
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICK


def _mine() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def row(
    name: str,
    against: str,
    ratios: Sequence[float],
    *,
    is_quiet: bool,
    goals: tuple[float, float] | None = None,
) -> dict:
    """A row of the results. `goals`: (must, aim)."""
    flags = "" if is_quiet else "N"
    if max(ratios) > SPREAD * min(ratios):
        flags += "S"
    must, aim = goals or (None, None)
    return {
        "name": name,
        "against": against,
        "ratio": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "must": must,
        "aim": aim,
        "flags": flags,
    }


def say(words: str) -> None:
    """Progress, for whoever watches."""
    print(words, file=sys.stderr, flush=True)
