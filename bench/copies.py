"""One volume copied three ways: by the controller that owns it, by the first controller, and by
qemu-img through a host. Source and destination lie on one second controller, in memory.

A ratio is time (or CPU time of all processes that take part) of the first way over the second:
below 1 is better, so `must` and `aim`, where set, are for its inverse.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kernel_counters import cpu_seconds
from processes import Daiko

MIB = 1 << 20
SIZE = 512 * MIB


class Cost(NamedTuple):
    seconds: float
    cpu: float
    """Of all processes that take part."""
    first_cpu: float
    """Of the first controller alone."""


def run(rounds: int) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="daiko-bench-", dir="/dev/shm") as name:
        folder = Path(name)
        source, target = folder / "source", folder / "target"
        with open("/dev/urandom", "rb") as chance, source.open("wb") as file:
            for _ in range(SIZE // MIB):
                file.write(chance.read(MIB))
        target.write_bytes(b"\0" * SIZE)
        with (
            Daiko(folder, source, lun={1: [target]}, name="owner", mode="local") as owner,
            Daiko(folder, owner.url(0), lun={1: [owner.url(1)]}, name="first") as first,
        ):
            return rows(measure(owner, first, target, source, rounds))


def measure(
    owner: Daiko, first: Daiko, target: Path, source: Path, rounds: int
) -> dict[str, list[Cost]]:
    volumes = [volume["name"] for volume in json.loads(first.cli("volume", "ls", "--json").stdout)]
    if len(volumes) != 2:
        raise SystemExit(f"bench: two volumes expected, there are {volumes}")
    alpha, beta = sorted(volumes)

    def by_daiko(mode: str) -> None:
        first.cli("copy", "run", alpha, beta, "--mode", mode, "--json")

    def by_host() -> None:
        words = [
            "qemu-img",
            "convert",
            "-n",
            "-W",
            "-m",
            "16",
            "-t",
            "none",
            "-T",
            "none",
            "-f",
            "raw",
            "-O",
            "raw",
        ]
        subprocess.run([*words, first.url(0), first.url(1)], check=True)

    ways: dict[str, Callable[[], None]] = {
        "delegated": lambda: by_daiko("delegate"),
        "by the first controller": lambda: by_daiko("direct"),
        "qemu-img through a host": by_host,
    }
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            target.write_bytes(b"\0" * SIZE)
            costs[name].append(cost(way, (owner, first)))
            if target.read_bytes() != source.read_bytes():
                raise SystemExit(f"bench: the copy {name} differs from its source")
    return costs


def cost(way: Callable[[], None], servers: tuple[Daiko, Daiko]) -> Cost:
    """CPU time of the servers; that of the command that asks only where it moves the data."""
    before = [cpu_seconds(server.pid) for server in servers]
    asked = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    way()
    seconds = time.perf_counter() - begun
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = [cpu_seconds(server.pid) - then for server, then in zip(servers, before, strict=True)]
    children = now.ru_utime + now.ru_stime - asked.ru_utime - asked.ru_stime
    return Cost(seconds, sum(used) + children, used[1])


def rows(costs: dict[str, list[Cost]]) -> list[dict]:
    delegated, own, host = costs.values()
    return [
        row("delegated copy of 512 MiB, time", "by the first controller", delegated, own, 0),
        row("delegated copy of 512 MiB, CPU of all", "by the first controller", delegated, own, 1),
        row("delegated copy, CPU of first controller", "by itself", delegated, own, 2),
        row("delegated copy of 512 MiB, time", "qemu-img through a host", delegated, host, 0),
        row("delegated copy of 512 MiB, CPU of all", "qemu-img through a host", delegated, host, 1),
        row("copy by the first controller, time", "qemu-img through a host", own, host, 0),
        row("copy by the first controller, CPU of all", "qemu-img through a host", own, host, 1),
    ]


def row(name: str, against: str, ours: list[Cost], theirs: list[Cost], what: int) -> dict:
    ratios = [a[what] / b[what] for a, b in zip(ours, theirs, strict=True)]
    return {
        "name": name,
        "against": against,
        "ratio": round(statistics.median(ratios), 4),
        "min": round(min(ratios), 4),
        "max": round(max(ratios), 4),
        "must": None,
        "aim": None,
        "flags": "",
    }
