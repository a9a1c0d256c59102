"""The target under iscsi-perf and `qemu-img bench`: a file LU against tgt on a file of the same
kind, a virtual LU against its back end directly. All files lie in memory (/dev/shm)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from processes import Daiko, Tgt

HERE = Path(__file__).parent
MIB = 1 << 20
SIZE = 256 * MIB
SECONDS = 2

GOALS = {
    ("file LU", "rr4k-q32"): (1.8, 2.3),
    ("file LU", "rw4k-q32"): (1.4, 1.7),
    ("file LU", "rr4k-q1s"): (1.15, 1.4),
    ("file LU", "rw4k-q1s"): (0.9, 1.1),
    ("file LU", "sr256k-q8"): (1.4, 1.7),
    ("file LU", "sw256k-q8"): (1.4, 1.7),
    ("virtual LU", "rr4k-q32"): (0.45, 0.6),
    ("virtual LU", "rw4k-q32"): (0.45, 0.6),
    ("virtual LU", "rr4k-q1s"): (0.4, 0.5),
    ("virtual LU", "sr256k-q8"): (0.5, 0.8),
    ("virtual LU", "sw256k-q8"): (0.6, 0.8),
    ("virtual LU over tgt", "rr4k-q32"): (0.8, 0.95),
    ("virtual LU over tgt", "rw4k-q32"): (0.8, 0.95),
}
"""(must, aim). What each subject is measured with; all of these have a figure to reach."""

WORDS = {
    "rr4k-q32": "4 KiB random read QD32",
    "rw4k-q32": "4 KiB random write QD32",
    "rr4k-q1s": "4 KiB random read QD1, one core",
    "rw4k-q1s": "4 KiB random write QD1, one core",
    "sr256k-q8": "256 KiB sequential read QD8",
    "sw256k-q8": "256 KiB sequential write QD8",
}


def run(rounds: int) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="daiko-bench-", dir="/dev/shm") as name:
        folder = Path(name)
        files = {}
        for part in ("ours", "theirs", "below"):
            files[part] = folder / part
            # Allocated, so that no load pays for a first touch.
            files[part].write_bytes(b"\xa5" * SIZE)
        rows = []
        with (
            Daiko(folder, files["ours"], name="file", mode="local") as file_lu,
            Tgt(folder, files["theirs"], name="tgt", threads=16) as tgt,
        ):
            rows += compare("file LU", file_lu.url(0), "tgt", tgt.url(1), rounds)
            with Daiko(folder, tgt.url(1), name="over-tgt") as gateway:
                rows += compare(
                    "virtual LU over tgt", gateway.url(0), "tgt", tgt.url(1), rounds, tgt.pid
                )
        with (
            Daiko(folder, files["below"], name="below", mode="local") as below,
            Daiko(folder, below.url(0), name="gateway") as gateway,
        ):
            rows += compare(
                "virtual LU", gateway.url(0), "its back end", below.url(0), rounds, below.pid
            )
        return rows


def compare(
    name: str, ours: str, against: str, theirs: str, rounds: int, below: int | None = None
) -> list[dict]:
    """Run the loads on both in alternation, and make rows of the ratios. `below` is the process
    of the back end where there is one: what it uses is no noise."""
    loads = [load for subject, load in GOALS if subject == name]
    measured = {}
    # Servers may use both cores, but where the load wants generator and server on one.
    for cpu, chosen in (
        ("free", [load for load in loads if not load.endswith("q1s")]),
        ("0", [load for load in loads if load.endswith("q1s")]),
    ):
        if chosen:
            measured |= target_bench(ours, theirs, chosen, rounds, cpu, below)
    return [row(name, load, against, figures) for load, figures in measured.items()]


def target_bench(
    ours: str, theirs: str, loads: list[str], rounds: int, cpu: str, below: int | None
) -> dict:
    with tempfile.NamedTemporaryFile(suffix=".json") as results:
        command = [
            sys.executable, str(HERE / "target-bench"), ours, theirs, "--write",
            "--loads", ",".join(loads), "--rounds", str(rounds), "--seconds", str(SECONDS),
            "--srv-cpu", cpu, "--json", results.name,
        ]  # fmt: skip
        if below is not None:
            command += ["--a-pid", str(below)]
        status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
        if status > 1:
            raise SystemExit(f"bench: target-bench ended with {status} comparing {ours}, {theirs}")
        measured: dict = json.loads(Path(results.name).read_text())
    return measured


def row(name: str, load: str, against: str, figures: dict) -> dict:
    must, aim = GOALS[name, load]
    return {
        "name": f"{name}, {WORDS[load]}",
        "against": against,
        "ratio": round(figures["ratio"], 3),
        "min": round(min(figures["ratios"]), 3),
        "max": round(max(figures["ratios"]), 3),
        "must": must,
        "aim": aim,
        "flags": figures["flags"],
    }
