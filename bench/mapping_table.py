"""A mapping table of 1,000,000 extents: how fast it is read, how large it is, how fast it loads.

Each figure is the allowance over what was measured, so that more is better and 1 is the limit:
2 us a lookup (the call and the loop round it included), 64 bytes an extent, 2 s to load. The
extents lie on 16 devices; once they are all of one size, once of sizes from 1 block to a million.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.mapping_table import MappingTable

EXTENTS = 1_000_000
LOOKUPS = 200_000
ALLOWED_SECONDS_A_LOOKUP = 2e-6
ALLOWED_BYTES_AN_EXTENT = 64
ALLOWED_SECONDS_TO_LOAD = 2.0
DEVICES = [DeviceId(f"sd{number}", number % 4) for number in range(16)]


def extents(*, alike: bool) -> Iterator[Extent]:
    """The same ones every time."""
    chance = random.Random(20040205)
    ends = [0] * len(DEVICES)
    lba = 0
    for _ in range(EXTENTS):
        blocks = 2048 if alike else int(10 ** chance.uniform(0, 6))
        number = chance.randrange(len(DEVICES))
        yield Extent(lba, blocks, DEVICES[number], ends[number])
        ends[number] += blocks
        lba += blocks


def run(rounds: int) -> list[dict]:
    """The rows for `bench/run.py`; each figure is the median of `rounds` measurements."""
    rows = []
    for alike in (True, False):
        sizes = "of one size" if alike else "of all sizes"
        given = list(extents(alike=alike))
        table = MappingTable(given)
        lookups = [seconds_a_lookup(table, seed) for seed in range(rounds)]
        loads = [seconds_to_load(given) for _ in range(rounds)]
        del given
        rows += [
            row(
                f"lookup among 1,000,000 extents {sizes}", "2 us", ALLOWED_SECONDS_A_LOOKUP, lookups
            ),
            row(f"load of 1,000,000 extents {sizes}", "2 s", ALLOWED_SECONDS_TO_LOAD, loads),
        ]
    sizes_found = [bytes_an_extent()]
    rows.append(row("memory an extent", "64 bytes", ALLOWED_BYTES_AN_EXTENT, sizes_found))
    return rows


def seconds_a_lookup(table: MappingTable, seed: int) -> float:
    """Eight blocks anywhere, as a host's 4 KiB read asks."""
    chance = random.Random(seed)
    lbas = [chance.randrange(table.blocks - 8) for _ in range(LOOKUPS)]
    lookup = table.lookup
    begun = time.perf_counter()
    for lba in lbas:
        lookup(lba, 8)
    return (time.perf_counter() - begun) / LOOKUPS


def seconds_to_load(given: list[Extent]) -> float:
    gc.collect()
    begun = time.perf_counter()
    MappingTable(given)
    return time.perf_counter() - begun


def bytes_an_extent() -> float:
    """All that a table keeps allocated once its extents are let go."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        table = MappingTable(extents(alike=True))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / len(table)


def row(name: str, against: str, allowed: float, measured: list[float]) -> dict:
    ratios = sorted(allowed / each for each in measured)
    return {
        "name": name,
        "against": against,
        "ratio": round(statistics.median(ratios), 3),
        "min": round(ratios[0], 3),
        "max": round(ratios[-1], 3),
        "must": 1.0,
        "aim": None,
        "flags": "S" if ratios[-1] > 2 * ratios[0] else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a mapping table of 1,000,000 extents.")
    parser.add_argument("--rounds", type=int, default=5, help="the median is of so many (5)")
    parser.add_argument("output", nargs="?", type=Path, help="a file for the rows (stdout)")
    options = parser.parse_args()
    text = json.dumps(run(options.rounds), indent=1) + "\n"
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
