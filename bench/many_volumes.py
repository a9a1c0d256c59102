"""10,000 volumes of 100 extents each: how long a controller takes to start, list and serve them.

The store is made beforehand, as a controller would have left it: a million extents of 1 MiB, none
beside another of its volume, spread over two INTERNAL files (sparse) with a gap after each, so that
no two join; and ten hosts that see all of the volumes. Each figure is the allowance over what was
measured, so that more is better and 1 is the limit:

- 10 s from the command to `ready`;
- 1 s for `daiko volume ls`, its own start included;
- 0.1 s for the log-in of a host that sees 10,000 LUNs, and 1 s with its REPORT LUNS;
- 192 bytes of memory an extent (19 KiB a volume) over what the controller takes without any volume,
  the volumes and their logical units included (VmRSS);
- 64 KiB of memory for each session that sees 10,000 LUNs and has sent commands to one of them.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from daiko.backend.second_controller import SecondController
from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.mapping_table import MappingTable
from daiko.scsi.opcode import Opcode
from daiko.state.extents import Extents
from daiko.state.record import BackendKind, BackendRecord, DeviceFacts, HostRecord, VolumeRecord
from daiko.state.sqlite import SqliteStore
from processes import Daiko

VOLUMES = 10_000
EXTENTS = 100
HOSTS = 10
BLOCKS = 2048
"""Of an extent: 1 MiB."""
ALLOWED_START = 10.0
ALLOWED_LS = 1.0
ALLOWED_LOGIN = 0.1
ALLOWED_REPORT = 1.0
ALLOWED_BYTES_AN_EXTENT = 192
ALLOWED_BYTES_A_SESSION = 64 << 10


def table(volume: int, devices: list[DeviceId]) -> MappingTable:
    def extents() -> Iterator[Extent]:
        for number in range(EXTENTS):
            slot = number * VOLUMES + volume
            device = devices[number % len(devices)]
            yield Extent(number * BLOCKS, BLOCKS, device, slot * 2 * BLOCKS)

    return MappingTable(extents())


async def make_store(folder: Path, *, volumes: int) -> None:
    """A store with two files and `volumes` volumes that ten hosts see."""
    store = SqliteStore.open(folder / "store")
    devices = [DeviceId("left", 0), DeviceId("right", 0)]
    blocks = EXTENTS * VOLUMES * 2 * BLOCKS
    names = [f"volume-{number:05}" for number in range(volumes)]
    async with store.transaction() as change:
        for device in devices:
            path = folder / device.backend
            with path.open("wb") as file:
                file.truncate(blocks * 512)
            facts = DeviceFacts(lun=0, block_size=512, blocks=blocks)
            change.put(
                BackendRecord(
                    name=device.backend,
                    type=BackendKind.INTERNAL,
                    path=str(path),
                    devices=(facts,),
                )
            )
        for number, name in enumerate(names):
            change.put(
                VolumeRecord(
                    name=name,
                    block_size=512,
                    extents=Extents(table(number, devices)),
                    naa=f"62da10{number:026x}",
                )
            )
        for number in range(HOSTS):
            change.put(
                HostRecord(
                    name=f"host-{number}",
                    initiators=(initiator(number),),
                    luns=dict(enumerate(names)),
                )
            )
    await store.close()


def initiator(number: int) -> str:
    return f"iqn.2026-11.com.example:host-{number}"


def memory(daiko: Daiko) -> int:
    """VmRSS in bytes."""
    for line in Path(f"/proc/{daiko.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise LookupError("VmRSS")


async def log_in_all(daiko: Daiko) -> tuple[list[float], list[float], float]:
    """Seconds of each host's log-in, and of its first REPORT LUNS; bytes a session at the
    target."""
    logins, reports = [], []
    hosts: list[SecondController] = []
    before = memory(daiko)
    try:
        for number in range(HOSTS):
            host = SecondController("target", daiko.iqn, [daiko.portal], initiator(number))
            begun = time.perf_counter()
            await host._paths.open()
            host._paths.release()
            logins.append(time.perf_counter() - begun)
            hosts.append(host)
            begun = time.perf_counter()
            answer = await host.execute(
                0, bytes((Opcode.REPORT_LUNS, *bytes(5), 0, 1, 0x40, 0, 0, 0)), b"", 0x14000
            )
            reports.append(time.perf_counter() - begun)
            count = int.from_bytes(bytes(answer.data[:4]), "big") // 8
            if count != VOLUMES:
                raise SystemExit(f"bench: REPORT LUNS gives {count} LUNs")
        return logins, reports, (memory(daiko) - before) / HOSTS
    finally:
        for host in hosts:
            await host.close()


def run(rounds: int) -> list[dict]:
    starts, lists, logins, reports, sizes, sessions = [], [], [], [], [], []
    with tempfile.TemporaryDirectory(prefix="daiko-bench-", dir="/dev/shm") as name:
        folder = Path(name)
        empty = folder / "empty"
        empty.mkdir()
        asyncio.run(make_store(empty, volumes=0))
        asyncio.run(make_store(folder, volumes=VOLUMES))
        with Daiko(empty, name="empty", store=empty / "store") as daiko:
            bare = memory(daiko)
        for _ in range(max(1, min(rounds, 3))):
            daiko = Daiko(folder, name="many", store=folder / "store")
            begun = time.perf_counter()
            with daiko:
                starts.append(time.perf_counter() - begun)
                sizes.append((memory(daiko) - bare) / (VOLUMES * EXTENTS))
                begun = time.perf_counter()
                listed = daiko.cli("volume", "ls").stdout
                lists.append(time.perf_counter() - begun)
                if listed.count("volume-") != VOLUMES:
                    raise SystemExit("bench: `daiko volume ls` does not list all volumes")
                found = asyncio.run(log_in_all(daiko))
                logins += found[0]
                reports += found[1]
                sessions.append(found[2])
    return [
        row("start with 10,000 volumes of 100 extents", "10 s", ALLOWED_START, starts),
        row("`volume ls` of 10,000 volumes", "1 s", ALLOWED_LS, lists),
        row("log-in of a host with 10,000 LUNs", "0.1 s", ALLOWED_LOGIN, logins),
        row("REPORT LUNS of 10,000 LUNs", "1 s", ALLOWED_REPORT, reports),
        row("memory an extent, volumes included", "192 bytes", ALLOWED_BYTES_AN_EXTENT, sizes),
        row("memory of a session with 10,000 LUNs", "64 KiB", ALLOWED_BYTES_A_SESSION, sessions),
    ]


def row(name: str, against: str, allowed: float, measured: list[float]) -> dict:
    ratios = sorted(allowed / max(each, 1e-9) for each in measured)
    return {
        "name": name,
        "against": against,
        "ratio": round(statistics.median(ratios), 3),
        "min": round(ratios[0], 3),
        "max": round(ratios[-1], 3),
        "must": 1.0,
        "aim": None,
        "flags": "S" if ratios[-1] > 4 * ratios[0] else "",
    }
