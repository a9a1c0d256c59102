"""A virtual LU against `qemu-storage-daemon` as a gateway, each before the same LU of one Daiko.

Ours is reached by iSCSI, the other by NBD on a Unix socket. `qemu-img bench` drives both, and the
back end directly: what a gateway leaves of the back end's throughput is through/direct, and a row
is ours over theirs.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import Cost, quiet_cost, row, say
from processes import PATIENCE, Daiko, Process

MIB = 1 << 20
SIZE = 256 * MIB
SECONDS = 1.25
"""Of one sample."""
SCATTER = 40503 * 4096
"""An odd multiple of 4 KiB: visits every 4 KiB block."""
SATURATED = 0.90
"""Share of a core above which the generator, and not a gateway, is the limit."""


@dataclass(frozen=True, slots=True)
class Load:
    words: str
    size: int
    depth: int
    step: int
    goals: tuple[float, float]
    """(must, aim)."""
    writes: bool = False

    def command(self, url: str, count: int) -> list[str]:
        command = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-c", str(count)]
        command += ["-d", str(self.depth), "-s", str(self.size), "-S", str(self.step)]
        return [*command, *(["-w", "--pattern=165"] if self.writes else []), url]


SMALL, LARGE = (1.1, 1.4), (0.8, 1.1)
LOADS = (
    Load("4 KiB random read QD32", 4096, 32, SCATTER, SMALL),
    Load("4 KiB random write QD32", 4096, 32, SCATTER, SMALL, writes=True),
    Load("256 KiB sequential read QD8", MIB // 4, 8, MIB // 4, LARGE),
    Load("256 KiB sequential write QD8", MIB // 4, 8, MIB // 4, LARGE, writes=True),
)


class StorageDaemon(Process):
    """`qemu-storage-daemon` with one LU of a target, exported by NBD.

    Without an I/O thread: with one, QEMU 7.2 (Debian 12) ends on an assertion when the first client
    leaves (blockdev-nbd.c, nbd_blockdev_client_closed)."""

    def __init__(self, folder: Path, server: Daiko, lun: int = 0) -> None:
        super().__init__(folder, "qemu-storage-daemon")
        self.server = server
        self.lun = lun
        # A socket's path must be short.
        self.socket = Path(f"/tmp/daiko-bench-{os.getpid()}.nbd")
        self.monitor = self.socket.with_suffix(".qmp")

    @property
    def url(self) -> str:
        return f"nbd+unix:///lu?socket={self.socket}"

    def command(self) -> Sequence[str]:
        return [
            "qemu-storage-daemon",
            "--blockdev", "driver=iscsi,node-name=lu,transport=tcp,cache.direct=on,"
            f"portal={self.server.portal},target={self.server.iqn},lun={self.lun}",
            "--nbd-server", f"addr.type=unix,addr.path={self.socket},max-connections=0",
            "--export", "type=nbd,id=lu,node-name=lu,name=lu,writable=on",
            "--chardev", f"socket,id=talk,path={self.monitor},server=on,wait=off",
            "--monitor", "chardev=talk",
        ]  # fmt: skip

    def wait_ready(self) -> None:
        # Its monitor comes last on the command line: when it answers, all the rest is there.
        assert self.popen is not None
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.popen.poll() is not None:
                raise self.failed(f"ended with status {self.popen.returncode}")
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as talk:
                talk.settimeout(PATIENCE)
                talk.connect(str(self.monitor))
                if b'"QMP"' in talk.recv(4096):
                    return
            time.sleep(0.01)  # a process that has not begun to listen sends no event
        raise self.failed("does not answer")

    def stop(self) -> int:
        status = super().stop()
        for path in (self.socket, self.monitor):
            path.unlink(missing_ok=True)
        return status


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the LU, and the servers on it."""

    name: str
    url: str
    pids: tuple[int, ...]


def run(rounds: int) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="daiko-bench-", dir="/dev/shm") as name:
        folder = Path(name)
        file = folder / "below"
        file.write_bytes(b"\xa5" * SIZE)
        with (
            Daiko(folder, file, name="below", mode="local") as below,
            Daiko(folder, below.url(0), name="gateway") as gateway,
            StorageDaemon(folder, below) as daemon,
        ):
            ways = (
                Way("ours", gateway.url(0), (gateway.pid, below.pid)),
                Way("theirs", daemon.url, (daemon.pid, below.pid)),
                Way("directly", below.url(0), (below.pid,)),
            )
            return [compare(load, ways, rounds) for load in LOADS]


def compare(load: Load, ways: Sequence[Way], rounds: int) -> dict:
    counts = {way.name: calibrated(load, way) for way in ways}
    ratios: list[float] = []
    quiet, saturated = True, False
    for number in range(rounds):
        found = {way.name: sample(load, way, counts[way.name]) for way in ways}
        direct = found["directly"].rate
        ours, theirs = found["ours"].rate / direct, found["theirs"].rate / direct
        ratios.append(ours / theirs)
        quiet &= all(each.cost.is_quiet for each in found.values())
        saturated |= any(found[name].load > SATURATED for name in ("ours", "theirs"))
        say(
            f"round {number + 1}/{rounds} {load.words:29} through/direct {ours:.2f}, theirs "
            f"{theirs:.2f}; directly {direct:.0f}/s{'' if quiet else ' *'}"
        )
    name = f"virtual LU, {load.words}, through/direct"
    made = row(name, "qemu-storage-daemon", ratios, is_quiet=quiet, goals=load.goals)
    made["flags"] += "G" if saturated else ""
    return made


@dataclass(frozen=True, slots=True)
class Sample:
    rate: float
    """Requests a second."""
    cost: Cost
    load: float
    """Of the generator: CPU time over time."""


def calibrated(load: Load, way: Way) -> int:
    """How many requests take a sample's time. The tool counts requests."""
    count = 200
    while True:
        found = sample(load, way, count)
        if count / found.rate > SECONDS / 4:
            return max(count, int(found.rate * SECONDS))
        count *= 4


def sample(load: Load, way: Way, count: int) -> Sample:
    said: list[str] = []

    def go() -> None:
        done = subprocess.run(
            load.command(way.url, count), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"bench: {way.name}: {done.stderr.strip()}")
        said.append(done.stdout)

    cost = quiet_cost(go, way.pids, lambda: None)
    match = re.search(r"Run completed in ([\d.]+) seconds", said[-1])
    if match is None:
        raise SystemExit(f"bench: {way.name}: qemu-img said {said[-1]!r}")
    generator = cost.cpu - sum(cost.each)
    return Sample(count / float(match[1]), cost, generator / cost.seconds)
