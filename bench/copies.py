"""1 GiB of random data copied in several ways, from LU to LU of one Daiko, in memory.

- By the Daiko that owns both LUs, asked by a host with one EXTENDED COPY (`local`).
- By a first controller that has them as virtual LUs: by itself (`direct`), and handed over to
  their owner (`delegate`); asked by a host in the same way.
- By a host that reads and writes: `qemu-img convert`, to the same LUs at the same place.

A ratio is the other way's cost over ours, so that more is better: 4 is a quarter of its time. The
CPU time is that of all processes that take part. Before each sample the destination is overwritten
in place with data that differs from the source's in every block; after it the two are compared.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from daiko.backend.second_controller import SecondController
from daiko.scsi.copy_parameters import ExtendedCopy, ListIdUsage
from daiko.scsi.cscd import IdentificationCscd
from daiko.scsi.opcode import Status
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.spc import ExtendedCopyLid1
from measure import Cost, quiet_cost, row, say
from processes import Daiko

MIB = 1 << 20
SIZE = 1024 * MIB
BLOCK = 512
SEGMENT = 65535 // 8 * 8
"""Blocks: as many whole pages as a segment descriptor can name."""
HOST = "iqn.2026-11.com.example:bench"

CONVERT = [
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
    "-S",
    "0",
    "-f",
    "raw",
    "-O",
    "raw",
]
"""-S 0: it does not look for zeros in what it copies."""

LOCAL_TIME, LOCAL_CPU = (4, 6), (6, 8)
OWN_TIME, OWN_CPU = (2, 2.5), (1 / 0.6, 2)
"""(must, aim): a quarter of the time, and so on."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to copy, and who takes part in it."""

    name: str
    go: Callable[[], None]
    servers: tuple[Daiko, ...]


def run(rounds: int) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="daiko-bench-", dir="/dev/shm") as name:
        folder = Path(name)
        source, target = folder / "source", folder / "target"
        with source.open("wb") as file:
            for _ in range(SIZE // MIB):
                file.write(os.urandom(MIB))
        scramble(target)
        with Daiko(folder, source, lun={1: [target]}, name="owner", mode="local") as owner:
            rows = of_local(measure(ways_of_local(owner), source, target, rounds))
            with (
                Daiko(
                    folder, owner.url(0), lun={1: [owner.url(1)]}, name="own", mode="direct"
                ) as own,
                Daiko(folder, owner.url(0), lun={1: [owner.url(1)]}, name="hands") as hands,
            ):
                ways = ways_of_first(owner, own, hands)
                return rows + of_first(measure(ways, source, target, rounds))


def ways_of_local(owner: Daiko) -> list[Way]:
    return [
        Way("EXTENDED COPY", lambda: extended_copy(owner), (owner,)),
        Way("qemu-img", lambda: through_a_host(owner), (owner,)),
    ]


def ways_of_first(owner: Daiko, own: Daiko, hands: Daiko) -> list[Way]:
    return [
        Way("handed over", lambda: extended_copy(hands), (hands, owner)),
        Way("by the first controller", lambda: extended_copy(own), (own, owner)),
        Way("qemu-img", lambda: through_a_host(own), (own, owner)),
    ]


def measure(ways: list[Way], source: Path, target: Path, rounds: int) -> list[list[Cost]]:
    """The costs of each way, round by round in alternation."""
    costs: list[list[Cost]] = [[] for _ in ways]
    for number in range(rounds):
        for way, found in zip(ways, costs, strict=True):
            pids = [server.pid for server in way.servers]
            found.append(quiet_cost(way.go, pids, lambda: scramble(target)))
            if not is_same(source, target):
                raise SystemExit(f"bench: the copy {way.name} differs from its source")
            last = found[-1]
            say(
                f"round {number + 1}/{rounds} {way.name:24} {last.seconds:6.3f} s, CPU "
                f"{last.cpu:6.3f} s ({' '.join(f'{each:.3f}' for each in last.each)})"
                f"{'' if last.is_quiet else ' *'}"
            )
    return costs


def of_local(costs: list[list[Cost]]) -> list[dict]:
    ours, host = costs
    words, against = "EXTENDED COPY of 1 GiB in one Daiko", "qemu-img through a host"
    return [
        compared(f"{words}, time", against, ours, host, seconds, LOCAL_TIME),
        compared(f"{words}, CPU of all", against, ours, host, cpu, LOCAL_CPU),
    ]


def of_first(costs: list[list[Cost]]) -> list[dict]:
    handed, own, host = costs
    words, against = "first controller's own copy of 1 GiB", "qemu-img through a host"
    delegated, itself = "delegated copy of 1 GiB", "first controller's own copy"
    return [
        compared(f"{words}, time", against, own, host, seconds, OWN_TIME),
        compared(f"{words}, CPU of all", against, own, host, cpu, OWN_CPU),
        compared(f"{delegated}, time", against, handed, host, seconds),
        compared(f"{delegated}, CPU of all", against, handed, host, cpu),
        compared(f"{delegated}, time", itself, handed, own, seconds),
        compared(f"{delegated}, CPU of all", itself, handed, own, cpu),
        compared(f"{delegated}, CPU of 1st controller", itself, handed, own, of_first_alone),
    ]


def seconds(cost: Cost) -> float:
    return cost.seconds


def cpu(cost: Cost) -> float:
    return cost.cpu


def of_first_alone(cost: Cost) -> float:
    return cost.each[0]


def compared(
    name: str,
    against: str,
    ours: list[Cost],
    theirs: list[Cost],
    what: Callable[[Cost], float],
    goals: tuple[float, float] | None = None,
) -> dict:
    ratios = [what(their) / what(our) for our, their in zip(ours, theirs, strict=True)]
    is_quiet = all(sample.is_quiet for sample in (*ours, *theirs))
    return row(name, against, ratios, is_quiet=is_quiet, goals=goals)


# --- the two hosts ----------------------------------------------------------------------------


def through_a_host(server: Daiko) -> None:
    subprocess.run([*CONVERT, server.url(0), server.url(1)], check=True)


def extended_copy(server: Daiko) -> None:
    """One EXTENDED COPY of all of LUN 0 to LUN 1."""
    asyncio.run(_extended_copy(server))


async def _extended_copy(server: Daiko) -> None:
    host = SecondController("bench", server.iqn, [server.portal], HOST)
    await host.open()
    try:
        cscds = tuple(
            IdentificationCscd(host.units[lun].designators[0], block_length=BLOCK) for lun in (0, 1)
        )
        data = ExtendedCopy(0, ListIdUsage.DISABLE, cscds, tuple(_segments())).pack()
        cdb = ExtendedCopyLid1.pack(parameter_list_length=len(data))
        answer = await host.execute(0, cdb, data, timeout=600.0)
    finally:
        await host.close()
    if answer.status != Status.GOOD:
        raise SystemExit(f"bench: EXTENDED COPY ended with {answer}")


def _segments() -> list[BlockToBlock]:
    blocks = SIZE // BLOCK
    return [
        BlockToBlock(0, 1, min(SEGMENT, blocks - first), first, first)
        for first in range(0, blocks, SEGMENT)
    ]


# --- the files --------------------------------------------------------------------------------


def scramble(target: Path) -> None:
    """Other data in every block, in the pages that the file has already."""
    noise = os.urandom(MIB)
    with target.open("r+b" if target.exists() else "wb") as file:
        for _ in range(SIZE // MIB):
            file.write(noise)


def is_same(source: Path, target: Path) -> bool:
    with source.open("rb") as one, target.open("rb") as other:
        return all(one.read(MIB) == other.read(MIB) for _ in range(SIZE // MIB))
