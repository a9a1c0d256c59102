"""What hosts get of their volume while it is copied to the secondary of a new pair: 4 KiB random
reads and writes at QD32 to the primary, against the same while nothing is copied.

A first controller before one Daiko that owns both volumes, all in memory. In a round each load runs
three times: idle, while the owner copies (mode `delegate`), and while the first controller leads
the copy itself (mode `direct`). A copy in memory is soon over, so one pair is made after the other
for as long as the load runs. Before each sample the secondary is overwritten with what differs in
every block; after it the last pair is brought to its end and the two sides are compared.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from measure import quiet_cost, row, say
from processes import PATIENCE, Daiko

MIB = 1 << 20
SIZE = 1024 * MIB
SECONDS = 3
"""Of a sample."""
SCATTER = 40503 * 4096
"""Visits every 4 KiB block of the volume before it visits one again."""
LOADS = ("4 KiB random read QD32", "4 KiB random write QD32")
MODES = {"delegate": "owner copies", "direct": "it copies"}
"""Mode -> who copies in it: the owner of both volumes, or the first controller itself."""
MUST = {"delegate": (0.9, 1.0)}
"""(must, aim)."""
COVERED = 0.8
"""Of a sample's time, at least, in which a pair must be copying."""
GENERATOR_BUSY = 0.9
OLD = (0xFF, 0xFE)
"""The bytes of which primary and secondary are full before anything is written or copied."""
PAIR = "copied"


@dataclass(frozen=True, slots=True)
class Sample:
    iops: float
    is_quiet: bool
    is_generator_busy: bool
    """The generator had used its core up."""


def run(rounds: int) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="daiko-bench-", dir="/dev/shm") as name:
        folder = Path(name)
        files = [folder / "primary", folder / "secondary"]
        for file, byte in zip(files, OLD, strict=True):
            with file.open("wb") as opened:
                for _ in range(SIZE // MIB):
                    opened.write(bytes((byte,)) * MIB)
        with (
            Daiko(folder, files[0], lun={1: [files[1]]}, name="owner", mode="local") as owner,
            Daiko(
                folder, owner.url(0), lun={1: [owner.url(1)]}, name="first", store=folder / "first"
            ) as first,
            httpx.Client(base_url=first.api, timeout=PATIENCE) as client,
        ):
            bench = Bench(first, owner, client, *files)
            return [found for load in LOADS for found in bench.rows(load, rounds)]


@dataclass
class Bench:
    first: Daiko
    owner: Daiko
    client: httpx.Client
    """Of the first controller's API; kept, as making one takes longer than some copies."""
    primary: Path
    secondary: Path
    writes: int = 20_000
    """In a sample: as many as were done in SECONDS the last time."""
    pattern: int = 0

    def rows(self, load: str, rounds: int) -> list[dict]:
        idle: list[Sample] = []
        copied: dict[str, list[Sample]] = {mode: [] for mode in MODES}
        for number in range(rounds):
            idle.append(self._sample(load, ""))
            for mode, found in copied.items():
                found.append(self._sample(load, mode))
            figures = [idle[-1], *(found[-1] for found in copied.values())]
            say(
                f"round {number + 1}/{rounds} {load:24} "
                + " ".join(
                    f"{name} {sample.iops:.0f}{'' if sample.is_quiet else '*'}"
                    for name, sample in zip(("idle", *MODES), figures, strict=True)
                )
            )
        return [
            self._row(f"{load}, {words}", idle, copied[mode], MUST.get(mode))
            for mode, words in MODES.items()
        ]

    def _row(
        self,
        name: str,
        idle: list[Sample],
        copied: list[Sample],
        goals: tuple[float, float] | None,
    ) -> dict:
        ratios = [during.iops / alone.iops for during, alone in zip(copied, idle, strict=True)]
        both = (*idle, *copied)
        found = row(
            name,
            "the same, nothing is copied",
            ratios,
            is_quiet=all(sample.is_quiet for sample in both),
            goals=goals,
        )
        if any(sample.is_generator_busy for sample in both):
            found["flags"] += "G"
        return found

    def _sample(self, load: str, mode: str) -> Sample:
        """`mode`: of the copies; "" for none."""
        found: list[tuple[float, float]] = []

        def way() -> None:
            with self._copying(mode):
                found.append(self._generate(load))

        cost = quiet_cost(way, [self.first.pid, self.owner.pid], lambda: self._prepare(mode))
        iops, busy = found[-1]
        return Sample(iops, cost.is_quiet, busy >= GENERATOR_BUSY)

    def _generate(self, load: str) -> tuple[float, float]:
        """Run it once; returns IOPS and how much of a core the generator used."""
        url = self.first.url(0)
        is_write = "write" in load
        if is_write:
            # What is written differs from sample to sample, so that a lost write is seen.
            self.pattern = self.pattern % OLD[1] + 1
            command = (
                f"qemu-img bench -w --pattern={self.pattern} -f raw -t none -c {self.writes} "
                f"-d 32 -s 4096 -S {SCATTER} {url}"
            )
        else:
            command = f"iscsi-perf -t {SECONDS} -b 8 -m 32 -r {url}"
        before, begun = _children(), time.monotonic()
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        busy = (_children() - before) / (time.monotonic() - begun)
        pattern = r"Run completed in ([\d.]+) seconds" if is_write else r"iops average (\d+)"
        said = re.findall(pattern, done.stdout)
        if done.returncode or not said or not float(said[-1]):
            raise SystemExit(f"bench: `{command}` gave no figure: {done.stdout}{done.stderr}")
        iops = self.writes / float(said[-1]) if is_write else float(said[-1])
        if is_write:
            self.writes = max(2000, int(iops * SECONDS))
        return iops, busy

    # --- pairs ----------------------------------------------------------------------------------

    def _prepare(self, mode: str) -> None:
        if mode:
            self.first.cli("system", "set", "--mode", mode)
            with self.secondary.open("r+b") as file:
                for _ in range(SIZE // MIB):
                    file.write(bytes((OLD[1],)) * MIB)

    @contextmanager
    def _copying(self, mode: str) -> Iterator[None]:
        """Make pair after pair meanwhile. Raises SystemExit when the last has sides that differ,
        another than was meant has copied, or there were none for too much of the time."""
        if not mode:
            yield
            return
        self._create()
        ends: list[bool] = []
        begun = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            try:
                work = pool.submit(self._go_on, lambda: bool(ends))
                yield
            finally:
                seconds = time.monotonic() - begun
                ends.append(True)
            idle = work.result()
        if idle > (1 - COVERED) * seconds:
            raise SystemExit(f"bench: for {idle:.1f} of {seconds:.1f} s no pair was copying")
        self._check(mode)

    def _create(self) -> None:
        self._ask("POST", "", json={"name": PAIR, "primary": "lun0", "secondary": "lun1",
                                    "confirmed": True})  # fmt: skip

    def _go_on(self, is_over: Callable[[], bool]) -> float:
        """Returns the seconds in which there was no pair that copied."""
        idle = 0.0
        while not is_over():
            if not self._is_paired(1.0):
                continue
            since = time.monotonic()
            self._ask("DELETE", f"/{PAIR}")
            self._create()
            idle += time.monotonic() - since
        return idle

    def _is_paired(self, seconds: float) -> bool:
        found = self._ask("GET", f"/{PAIR}/wait", params={"state": "paired", "seconds": seconds})
        return all(pair["state"] == "paired" for pair in found)

    def _check(self, mode: str) -> None:
        while not self._is_paired(10.0):
            pass
        self._ask("DELETE", f"/{PAIR}")
        jobs = self.first.rest("GET", "/v1/jobs").raise_for_status().json()
        last = max((job for job in jobs if job["type"] == "pair"), key=lambda job: job["id"])
        if (last["bytes_delegated"] > 0) is not (mode == "delegate"):
            raise SystemExit(f"bench: another than was meant has copied: {json.dumps(last)}")
        if subprocess.run(["cmp", "-s", self.primary, self.secondary], check=False).returncode:
            raise SystemExit("bench: the sides of the pair differ")

    def _ask(self, method: str, path: str, **given: Any) -> Any:
        answer = self.client.request(method, f"/v1/pairs{path}", **given).raise_for_status()
        return answer.json() if answer.content else None


def _children() -> float:
    """CPU seconds of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
