"""Memory, file descriptors and threads of processes over time; do they grow?"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    at: float
    resident: int
    """VmRSS, bytes."""
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Growth:
    """From the first quarter to the last of what is looked at (medians)."""

    process: str
    resident_from: int
    resident_to: int
    descriptors_from: int
    descriptors_to: int
    threads_from: int
    threads_to: int
    seconds: float

    @property
    def resident(self) -> int:
        return self.resident_to - self.resident_from


class Watch:
    """Samples of processes by name and process id: one that is started anew begins anew."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, int], list[Sample]] = defaultdict(list)

    def look(self, at: float, processes: Mapping[str, int]) -> None:
        for name, pid in processes.items():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                descriptors = len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                continue  # it has just been killed
            facts = dict(line.split(":", 1) for line in status.splitlines())
            if "VmRSS" not in facts:
                continue  # it is ending
            resident = int(facts["VmRSS"].split()[0]) << 10
            self.samples[name, pid].append(Sample(at, resident, descriptors, int(facts["Threads"])))

    def growth(self, since: float, shortest: float) -> list[Growth]:
        """Of each process over the time after `since`, and not the first third of its own life;
        where that is `shortest` seconds at least."""
        found = []
        for (name, _), samples in self.samples.items():
            grown_up = samples[0].at + (samples[-1].at - samples[0].at) / 3
            late = [sample for sample in samples if sample.at >= max(since, grown_up)]
            if len(late) < 8 or late[-1].at - late[0].at < shortest:
                continue
            quarter = len(late) // 4
            first, last = late[:quarter], late[-quarter:]
            found.append(
                Growth(
                    name,
                    _median([s.resident for s in first]),
                    _median([s.resident for s in last]),
                    _median([s.descriptors for s in first]),
                    _median([s.descriptors for s in last]),
                    _median([s.threads for s in first]),
                    _median([s.threads for s in last]),
                    late[-1].at - late[0].at,
                )
            )
        return found


def _median(values: list[int]) -> int:
    return sorted(values)[len(values) // 2]
