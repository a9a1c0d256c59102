"""What it costs a host's write that its region is marked in the differential bitmap.

A volume of 16 TiB in regions of 64 KiB, and in it as many hot areas as the activity log takes. Each
figure is the allowance over what was measured, so that more is better and 1 is the limit: 1 us for
a region that is marked already, 5 us for one that is not, the loop round the call included. What a
write waits whose area is not hot is the disk's matter, and printed for the folder that is given.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from daiko.mapping.region_bitmap import RegionBitmap
from daiko.pair.bitmap_file import AREA
from daiko.pair.differential_bitmap import DEFAULT_GRANULARITY, DifferentialBitmap

BLOCK = 512
BLOCKS = (16 << 40) // BLOCK
A_REGION = DEFAULT_GRANULARITY // BLOCK
AN_AREA = AREA // BLOCK
HOT_AREAS = 48
ALLOWED_SECONDS_MARKED = 1e-6
ALLOWED_SECONDS_NEWLY = 5e-6
MEMORY = Path("/dev/shm")


def run(rounds: int) -> list[dict]:
    """The rows for `bench/run.py`; each figure is the median of `rounds` measurements."""
    rows = []
    for power_safe in (True, False):
        found = asyncio.run(seconds_a_mark(MEMORY, power_safe, rounds))
        kind = "a bitmap safe from power cuts" if power_safe else "one that is not"
        rows += [
            row(f"mark, set already, in {kind}", "1 us", ALLOWED_SECONDS_MARKED, found[0]),
            row(f"mark, newly set, in {kind}", "5 us", ALLOWED_SECONDS_NEWLY, found[1]),
        ]
    return rows


async def seconds_a_mark(
    folder: Path, power_safe: bool, rounds: int
) -> tuple[list[float], list[float]]:
    """Of a region that is marked already, and of one that is not, in a hot area: all regions of all
    hot areas, one after the other."""
    marked, newly = [], []
    with tempfile.TemporaryDirectory(dir=folder) as name:
        bitmap = opened(Path(name) / "bitmap", power_safe)
        await heat(bitmap)
        lbas = range(0, HOT_AREAS * AN_AREA, A_REGION)
        for _ in range(rounds):
            bitmap.clear(0, len(lbas) - 1)
            for seconds in (newly, marked):
                mark = bitmap.mark
                begun = time.perf_counter()
                for lba in lbas:
                    mark(lba, 8)
                seconds.append((time.perf_counter() - begun) / len(lbas))
        assert bitmap.hot_areas == (HOT_AREAS if power_safe else 0)
        await bitmap.close()
    return marked, newly


async def seconds_to_wait(folder: Path, times: int) -> list[float]:
    """Of a write, alone, whose area is not hot."""
    found = []
    with tempfile.TemporaryDirectory(dir=folder) as name:
        bitmap = opened(Path(name) / "bitmap", True)
        for number in range(times):
            begun = time.perf_counter()
            await marked(bitmap, number * 3 * AN_AREA)
            found.append(time.perf_counter() - begun)
        await bitmap.close()
    return found


async def seconds_to_open(folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        await opened(Path(name) / "bitmap", True).close()
        begun = time.perf_counter()
        bitmap = opened(Path(name) / "bitmap", True)
        seconds = time.perf_counter() - begun
        await bitmap.close()
    return seconds


def opened(path: Path, power_safe: bool) -> DifferentialBitmap:
    return DifferentialBitmap.open(
        path, blocks=BLOCKS, block_size=BLOCK, identity=bytes(16), power_safe=power_safe
    )


async def heat(bitmap: DifferentialBitmap) -> None:
    await asyncio.gather(*(marked(bitmap, area * AN_AREA) for area in range(HOT_AREAS)))


async def marked(bitmap: DifferentialBitmap, lba: int) -> None:
    told: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
    bitmap.when_marked(lba, 8, told.set_result)
    error = await told
    if error is not None:
        raise error


def seconds_in_memory() -> tuple[float, float]:
    """Of `RegionBitmap.mark` alone: a region that is marked already, and one that is not."""
    bitmap = RegionBitmap(BLOCKS, 7)
    regions = range(200_000)
    found = []
    for _ in range(2):
        mark = bitmap.mark
        begun = time.perf_counter()
        for region in regions:
            mark(region, region)
        found.append((time.perf_counter() - begun) / len(regions))
    return found[1], found[0]


def row(name: str, against: str, allowed: float, measured: list[float]) -> dict:
    ratios = sorted(allowed / each for each in measured)
    return {
        "name": name,
        "against": against,
        "ratio": round(statistics.median(ratios), 3),
        "min": round(ratios[0], 3),
        "max": round(ratios[-1], 3),
        "must": None,
        "aim": None,
        "flags": "S" if ratios[-1] > 2 * ratios[0] else "",
    }


def told(folder: Path, rounds: int) -> str:
    """The figures themselves."""
    lines = []
    alone = [seconds_in_memory() for _ in range(rounds)]
    for what, found in zip(("set already", "newly set"), zip(*alone, strict=True), strict=True):
        lines.append(f"RegionBitmap.mark, {what}: {nanoseconds(found)}")
    for power_safe in (True, False):
        both = asyncio.run(seconds_a_mark(folder, power_safe, rounds))
        for what, found in zip(("set already", "newly set"), both, strict=True):
            lines.append(f"mark, {what}, power_safe={power_safe}: {nanoseconds(found)}")
    waits = sorted(asyncio.run(seconds_to_wait(folder, 200)))
    lines.append(f"wait for an area: {waits[100] * 1e3:.2f} ms, the longest {waits[-1] * 1e3:.2f}")
    lines.append(f"open, of 16 TiB: {asyncio.run(seconds_to_open(folder)) * 1e3:.0f} ms")
    return "\n".join(lines)


def nanoseconds(found: tuple[float, ...] | list[float]) -> str:
    return f"{statistics.median(found) * 1e9:.0f} ns, the least {min(found) * 1e9:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the differential bitmap.")
    parser.add_argument("--rounds", type=int, default=9, help="the median is of so many (9)")
    parser.add_argument("--folder", type=Path, default=MEMORY, help="where the files lie")
    parser.add_argument("--json", action="store_true", help="the rows, not the figures")
    options = parser.parse_args()
    if options.json:
        sys.stdout.write(json.dumps(run(options.rounds), indent=1) + "\n")
    else:
        print(told(options.folder, options.rounds))


if __name__ == "__main__":
    main()
