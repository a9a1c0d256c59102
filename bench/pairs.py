"""What the differential bitmap costs on the write path: 4 KiB random writes at QD32 to the primary
of a pair that is split, against a like LU that is in no pair. All files lie in memory, so the wait
for stable storage that a power-safe bitmap has is as short as it can be."""

from __future__ import annotations

import tempfile
from pathlib import Path

from processes import Daiko
from target_loads import MIB, SIZE, WORDS, target_bench

LOAD = "rw4k-q32"
KINDS = {"--process-safe": ("process-crash safe", 0.95), "--power-safe": ("power-cut safe", None)}
"""Option of `daiko pair create` -> what the bitmap outlives, and what must be reached."""


def run(rounds: int) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="daiko-bench-", dir="/dev/shm") as name:
        folder = Path(name)
        files = [folder / f"lu{number}" for number in range(1 + 2 * len(KINDS))]
        for file in files:
            with file.open("wb") as opened:
                for _ in range(SIZE // MIB):
                    opened.write(b"\xa5" * MIB)
        lun = {number: [file] for number, file in enumerate(files) if number}
        with Daiko(
            folder, files[0], lun=lun, name="pairs", mode="local", store=folder / "store"
        ) as daiko:
            volumes = [volume["name"] for volume in daiko.rest("GET", "/v1/volumes").json()]
            rows = []
            for place, (option, (words, must)) in enumerate(KINDS.items()):
                pair, primary = f"p{place}", 1 + 2 * place
                daiko.cli(
                    *("pair", "create", pair, volumes[primary], volumes[primary + 1]),
                    *(option, "--yes"),
                )
                daiko.cli("pair", "wait", pair)
                daiko.cli("pair", "split", pair)
                (figures,) = target_bench(
                    daiko.url(primary), daiko.url(0), [LOAD], rounds, "free", None
                ).values()
                rows.append(
                    {
                        "name": f"split pair, {words}, {WORDS[LOAD]}",
                        "against": "the like LU in no pair",
                        "ratio": round(figures["ratio"], 3),
                        "min": round(min(figures["ratios"]), 3),
                        "max": round(max(figures["ratios"]), 3),
                        "must": must,
                        "aim": None,
                        "flags": figures["flags"],
                    }
                )
            return rows
