"""`make soak-pairs`: the long tests of pairs.

KILLS random kill -9 of the first controller and of both second controllers under verified load
(`pair_load.py`): nothing that was acknowledged is lost, and a pair that says paired has two sides
that are the same.
Then HISTORIES generated histories of each model: of a pair within one system, and of one over two
sites (`tests/pair/test_pair_model.py`, `test_two_sites_model.py`); and a tenth as many of groups of
asynchronous pairs, within one system and over two sites (`test_async_pairs.py`,
`test_async_sites.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pair_load import Rig, kill_at_random

MIB = 1 << 20
TESTS = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill processes round a pair, for long.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--histories", type=int, default=10_000, help="0: only kill")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="daiko-soak-") as name:
        rig = Rig(Path(name), 4 * MIB)
        rig.start()
        try:
            rig.first.cli("pair", "create", "p", "lun0", "lun1", "--yes")
            rig.wait_until_paired()
            begun = time.monotonic()
            writes = asyncio.run(
                kill_at_random(
                    rig, options.kills, options.seed, lambda line: print(line, flush=True)
                )
            )
        finally:
            rig.stop()
    print(
        f"{options.kills} kills in {time.monotonic() - begun:.0f} s, {writes} writes acknowledged: "
        "none lost, both sides the same",
        flush=True,
    )
    return _histories(options.histories) if options.histories else 0


def _histories(histories: int) -> int:
    """The exit status of the models."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n0",
            "--timeout=0",
            str(TESTS / "pair" / "test_pair_model.py"),
            str(TESTS / "pair" / "test_two_sites_model.py"),
            str(TESTS / "pair" / "test_async_pairs.py"),
            str(TESTS / "pair" / "test_async_sites.py"),
        ],
        env={
            **os.environ,
            "DAIKO_PAIR_HISTORIES": str(histories),
            "DAIKO_PAIR_SITE_HISTORIES": str(histories),
            "DAIKO_PAIR_ASYNC_HISTORIES": str(max(1, histories // 10)),
        },
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
