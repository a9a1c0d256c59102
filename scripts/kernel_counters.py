"""What the kernel says of a process: payload on its TCP sockets, and its CPU time.

The demonstration and the tests state with these how many bytes went through which controller:
counted by the kernel on the sockets, not in the controllers' own books.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of TCP payload (iSCSI headers included)."""

    sent: int = 0
    received: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.sent + other.sent, self.received + other.received)

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(self.sent - other.sent, self.received - other.received)

    @property
    def total(self) -> int:
        return self.sent + self.received


def sockets(pid: int, within: Sequence[str] = ()) -> dict[tuple[int, int], Traffic]:
    """The established TCP connections of a process: (local port, peer port) -> traffic so far.
    `within`: the words before a command that run it in the network namespace of the process.

    Raises RuntimeError when `ss` cannot say (it is part of Debian's iproute2)."""
    done = subprocess.run(
        [*within, "ss", "-tinpHO", "state", "established"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"ss failed: {done.stderr.strip()}")
    found = {}
    for line in done.stdout.splitlines():
        if f"pid={pid}," not in line:
            continue
        # With a state filter the state column is left out: two queue lengths come first.
        match = re.match(r"^\s*\d+\s+\d+\s+\S*:(\d+)\s+\S*:(\d+)\s+(.*)$", line)
        if match is None:
            raise RuntimeError(f"ss printed a line of an unknown form: {line!r}")
        rest = match.group(3)
        found[int(match.group(1)), int(match.group(2))] = Traffic(
            _counter("bytes_sent", rest), _counter("bytes_received", rest)
        )
    return found


def _counter(name: str, line: str) -> int:
    match = re.search(rf"\b{name}:(\d+)", line)
    return int(match.group(1)) if match else 0


def traffic_with(pid: int, ports: Iterable[int], within: Sequence[str] = ()) -> dict[int, Traffic]:
    """Traffic of the connections that `pid` opened to each of the given ports; `within` as for
    `sockets`."""
    wanted = dict.fromkeys(ports, Traffic())
    for (_, peer), traffic in sockets(pid, within).items():
        if peer in wanted:
            wanted[peer] = wanted[peer] + traffic
    return wanted


def cpu_seconds(pid: int) -> float:
    """CPU time of all living threads of a process, as finely as the kernel counts."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9
