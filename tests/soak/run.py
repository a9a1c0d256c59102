"""`make soak`: mixed verified load for a long time, while everything round it fails.

32 sessions of our own initiator in four processes, and qemu-io (libiscsi) beside them, write, read
and check a virtual LU that lies on two Daikos and a tgt. Meanwhile their connections are dropped
and their commands aborted at random, digests are on for some and CHAP for half; back ends are
killed, stopped or frozen and come back; a backup of the LU runs again and again, and a copy of
another one, which is compared. At the end everything is read once more.

It fails (exit status 1) when any block is not what it must be, a command has no answer for too
long, a command ends in an error that is none of the expected ones, a copy differs, or a process
grows: VmRSS, file descriptors, threads, over the last two thirds of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import Daiko, Process, ProcessFailed, Tgt, qemu_io
from soak.model import CELL
from soak.rig import Rig, rig
from soak.watch import Growth, Watch

FOREIGN_CELLS = 4096
"""Of the LU, for qemu-io: 16 MiB."""
PROCESSES = 4
SHORTEST = 60.0
"""Seconds of a process's life that say something about its growth."""
GRACE = 20.0
"""Seconds that a back end may be away, its own start included, before hosts may be told: what is
left of the 30 s that commands wait is for the connection to come up again."""
GROWS = 16 << 20
"""Bytes that a process may grow by over the last two thirds."""


@dataclass
class Report:
    seconds: float = 0.0
    operations: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    drops: int = 0
    task_management: int = 0
    in_doubt: int = 0
    slowest: float = 0.0
    disturbances: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    foreign: int = 0
    mismatches: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    outages: list[tuple[str, str]] = field(default_factory=list)
    """From when to when a back end was away for so long that hosts have to be told."""

    @property
    def unexpected(self) -> list[str]:
        """The faults, but for what hosts are told of a back end that is away for long."""
        return [
            fault
            for fault in self.faults
            if "(08/00)" not in fault
            or not any(left <= fault[:8] <= back for left, back in self.outages)
        ]

    @property
    def failures(self) -> list[str]:
        grown = [
            f"{g.process} grew by {g.resident >> 20} MiB, {g.descriptors_to - g.descriptors_from} "
            f"descriptors, {g.threads_to - g.threads_from} threads in {g.seconds:.0f} s"
            for g in self.growth
            if g.resident > GROWS
            or g.descriptors_to - g.descriptors_from > 8
            or g.threads_to - g.threads_from > 4
        ]
        idle = [] if self.operations["write"] and self.operations["read"] else ["nothing was done"]
        return [*self.mismatches, *self.unexpected, *grown, *idle]

    def text(self) -> str:
        lines = [
            f"{self.seconds:.0f} s: {sum(self.operations.values()):,} operations "
            f"({', '.join(f'{n:,} {kind}' for kind, n in sorted(self.operations.items()))}), "
            f"{self.bytes / (1 << 30):.1f} GiB, {self.foreign} rounds of qemu-io",
            f"{self.drops} connections dropped, {self.task_management} task management functions, "
            f"{self.in_doubt} operations in doubt, the slowest answer after {self.slowest:.1f} s",
            f"back ends: {dict(self.disturbances)}; jobs: {dict(self.jobs)}",
            *(
                f"{g.process}: {g.resident_from >> 20} -> {g.resident_to >> 20} MiB, "
                f"{g.descriptors_from} -> {g.descriptors_to} descriptors, "
                f"{g.threads_from} -> {g.threads_to} threads over the last {g.seconds:.0f} s"
                for g in self.growth
            ),
            f"{len(self.mismatches)} mismatches, {len(self.unexpected)} faults; "
            f"{len(self.outages)} outages of over {GRACE:g} s, of which hosts were told",
        ]
        return "\n".join([*lines, *(f"FAILED: {words}" for words in self.failures)])


@dataclass(frozen=True)
class Plan:
    seconds: float
    sessions: int = 32
    cells: int = 1024
    """Of each writer: 4 MiB."""
    seed: int = 0
    drop_every: float = 10.0
    """Seconds between two losses of one session's connection, on average."""
    manage_every: float = 5.0
    disturb_every: float = 20.0
    """Seconds between two disturbances of back ends."""
    down: float = 4.0
    """Seconds for which a back end is away, at most."""
    oldest: float = 100.0
    """Seconds within which each command has an answer. Three limits of 30 s may add up: the
    command's own, the grace of the host's initiator, that of the controller's."""
    jobs: bool = True
    rest: float = 0.05
    """Seconds between an answer and the next command, at most: what is soaked should not spend
    all of the time on the load."""


async def soak(folder: Path, plan: Plan) -> Report:
    report = Report()
    # Whoever waits for a process here has a thread to do it in.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(PROCESSES + 8))
    cells = plan.sessions * plan.cells
    with rig(folder, writers=plan.sessions, cells=cells + FOREIGN_CELLS) as made:
        begun = time.monotonic()
        watch = Watch()
        ends = begun + plan.seconds
        writers = [_start(made, plan, number) for number in range(PROCESSES)]
        sides = [
            asyncio.ensure_future(_foreign(made, plan, ends, cells, report)),
            asyncio.ensure_future(_disturb(made, plan, ends, report)),
        ]
        if plan.jobs:
            sides.append(asyncio.ensure_future(_jobs(made, plan, ends, report)))
        watching = asyncio.ensure_future(_watch(made, writers, watch, begun))
        accounts = await asyncio.gather(*(_account(process, plan) for process in writers))
        await asyncio.gather(*sides)
        watching.cancel()
        for account in accounts:
            _add(report, account)
        report.seconds = time.monotonic() - begun
        report.growth = watch.growth(plan.seconds / 3, max(SHORTEST, plan.seconds / 4))
        _look_at_logs(made, report)
    return report


# --- load


def _start(made: Rig, plan: Plan, number: int) -> subprocess.Popen[bytes]:
    wanted = {
        "writers": list(range(number, plan.sessions, PROCESSES)),
        "seconds": plan.seconds,
        "oldest": plan.oldest,
        "seed": plan.seed,
        "cells": plan.cells,
        "drop_every": plan.drop_every,
        "manage_every": plan.manage_every,
        "rest": plan.rest,
        "iqn": made.first.iqn,
        "portal": made.first.portal,
        "initiators": made.initiators,
        "chap": made.chap,
    }
    with (made.folder / f"writers-{number}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "soak.writers"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps(wanted).encode())
    process.stdin.close()
    return process


async def _account(process: subprocess.Popen[bytes], plan: Plan) -> dict[str, Any]:
    assert process.stdout is not None
    said = await asyncio.to_thread(process.stdout.read)
    await asyncio.to_thread(process.wait)
    process.stdout.close()
    if not said:
        return {"faults": [f"a process of writers ended with status {process.returncode}"]}
    account: dict[str, Any] = json.loads(said)
    return account


def _add(report: Report, account: dict[str, Any]) -> None:
    report.operations.update(account.get("operations", {}))
    for name in ("bytes", "drops", "task_management", "in_doubt"):
        setattr(report, name, getattr(report, name) + account.get(name, 0))
    report.slowest = max(report.slowest, account.get("slowest", 0.0))
    report.mismatches += account.get("mismatches", [])
    report.faults += account.get("faults", [])
    if account.get("tasks", 1) > 2:
        report.faults.append(f"{account['tasks']} asyncio tasks are left in a process of writers")


async def _foreign(made: Rig, plan: Plan, ends: float, first: int, report: Report) -> None:
    """qemu-io: writes a pattern, reads it back in the same session, and in the next one."""
    chance = random.Random(plan.seed + 1)
    holds: dict[int, int] = {}
    size = 64 * CELL
    number = 0
    while time.monotonic() < ends:
        number += 1
        at = (first + chance.randrange(FOREIGN_CELLS // 64) * 64) * CELL
        value = chance.randrange(1, 255)
        # What another host's reset ended (TASK ABORTED has no words in QEMU) it takes for an error.
        for _ in range(10):
            earlier = [f"read -P {was} {at} {size}" for was in (holds.pop(at, None),) if was]
            write = f"write {chance.choice(('', '-f '))}-P {value} {at} {size}"
            commands = [*earlier, write, f"read -P {value} {at} {size}", "flush"]
            try:
                await asyncio.to_thread(qemu_io, made.first.url(0), *commands)
            except ProcessFailed as failed:
                if "failed: (null)" in str(failed) or "(0x29" in str(failed):
                    report.jobs["qemu-io again after a reset"] += 1
                    continue
                said = f"{_now()} qemu-io: {failed}"
                if "Pattern verification" in said:
                    report.mismatches.append(said)
                else:
                    report.faults.append(said.replace("(0x0800)", "(08/00)"))
            else:
                holds[at] = value
            break
        report.foreign += 1
        await asyncio.sleep(0.2)


# --- what disturbs


async def _disturb(made: Rig, plan: Plan, ends: float, report: Report) -> None:
    chance = random.Random(plan.seed + 2)
    while True:
        pause = chance.expovariate(1 / plan.disturb_every)
        if time.monotonic() + pause + plan.down >= ends:
            return
        await asyncio.sleep(pause)
        name, process = chance.choice(list(made.backends.items()))
        how = chance.choice(("kill", "freeze", "stop"))
        report.disturbances[f"{how} {name}"] += 1
        down = chance.uniform(0.0, plan.down)
        begun = time.monotonic()
        left = _now()
        print(f"{left} {how} {name} for {down:.1f} s", flush=True)
        try:
            await _away(process, how, down)
        except ProcessFailed as failed:
            report.faults.append(f"{name} does not come back: {failed}")
            return
        took = time.monotonic() - begun
        print(f"{_now()} {name} is back after {took:.1f} s", flush=True)
        if took > GRACE:
            # (and for the seconds until the controller has noticed, and has looked at its units)
            noticed = time.localtime(time.time() + 15)
            report.outages.append((left, time.strftime("%H:%M:%S", noticed)))


async def _away(process: Process, how: str, seconds: float) -> None:
    if how == "freeze":
        assert process.popen is not None
        process.popen.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        process.popen.send_signal(signal.SIGCONT)
        return
    await asyncio.to_thread(process.kill if how == "kill" else process.stop)
    await asyncio.sleep(seconds)
    for _ in range(3):
        try:
            await asyncio.to_thread(process.start)
        except ProcessFailed:
            continue  # a machine that is busy with other things as well may be very slow
        return
    await asyncio.to_thread(process.start)


async def _jobs(made: Rig, plan: Plan, ends: float, report: Report) -> None:
    """One after the other: a backup of what is being written, a copy that is compared."""
    while time.monotonic() < ends:
        for words in (("backup", "run", "span", "--to", "sd2/1"), ("copy", "run", "calm", "twin")):
            state = await asyncio.to_thread(_job, made.first, words)
            report.jobs[f"{words[0]} {state}"] += 1
            if state != "done":
                report.faults.append(f"the {words[0]} is {state}")
            elif words[0] == "copy" and await asyncio.to_thread(made.digest, 2) != made.calm_digest:
                report.mismatches.append("the copy of calm differs from it")
            if time.monotonic() >= ends:
                return


def _job(first: Daiko, words: tuple[str, ...]) -> str:
    started = json.loads(first.cli(*words, "--no-wait", "--json").stdout)
    while True:
        job = first.rest("GET", f"/v1/jobs/{started['id']}").raise_for_status().json()
        if job["state"] not in ("queued", "running"):
            return str(job["state"]) + (f" ({job['error']})" if job["error"] else "")
        time.sleep(0.5)


async def _watch(
    made: Rig, writers: list[subprocess.Popen[bytes]], watch: Watch, begun: float
) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            processes = {
                name: process.pid
                for name, process in ({"first": made.first} | made.backends).items()
                if process.popen is not None
            }
            processes |= {
                f"writers {number}": process.pid
                for number, process in enumerate(writers)
                if process.returncode is None
            }
            watch.look(time.monotonic() - begun, processes)
            await asyncio.sleep(1)


def _look_at_logs(made: Rig, report: Report) -> None:
    """A defect that was caught and logged is a defect."""
    for process in (made.first, *made.backends.values()):
        if isinstance(process, Tgt):
            continue
        for line in process.log.read_text(errors="replace").splitlines():
            if "Traceback" in line or "defect" in line or "completed twice" in line:
                report.faults.append(f"{process.name}.log: {line}")


def _now() -> str:
    return time.strftime("%H:%M:%S")


def main() -> int:
    parser = argparse.ArgumentParser(description="Mixed verified load while everything fails.")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--sessions", type=int, default=32)
    parser.add_argument("--rest", type=float, default=Plan.rest, help="between two commands")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", action="store_true", help="leave the folder with the logs")
    parser.add_argument("--json", type=Path, help="a file for the report")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="daiko-soak-", dir="/dev/shm"))
    print(f"seed {options.seed}; logs in {folder}", flush=True)
    plan = Plan(options.seconds, options.sessions, seed=options.seed, rest=options.rest)
    report = asyncio.run(soak(folder, plan))
    print(report.text())
    if options.json is not None:
        options.json.write_text(json.dumps(vars(report), default=str, indent=1) + "\n")
    if not options.keep and not report.failures:
        shutil.rmtree(folder)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
