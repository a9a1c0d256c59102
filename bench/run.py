"""`make bench`: run the benchmarks and write `bench/results/latest.json`.

Every figure is a ratio against a peer or a limit in the same run. A benchmark is a module here
with `run(rounds) -> list of rows`; a row is `{name, against, ratio, min, max, must, aim, flags}`
(`must` and `aim` are null where none is set). More is always better: of costs the ratio is theirs
over ours. README.md says how each row is measured. The exit status is 1 when a row that has no flag
misses its `must`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent

BENCHMARKS = (
    "mapping_table",
    "differential_bitmap",
    "target_loads",
    "idle_sessions",
    "copies",
    "storage_daemon",
    "pairs",
    "initial_copies",
    "many_volumes",
    "isolation",
)
FLAGS = (
    "flags: G the generator was the limit, N the machine was noisy, S samples spread, P a server "
    "polls; a flagged ratio is not to be quoted"
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the benchmarks; figures are ratios.")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="run just this one")
    parser.add_argument("--rounds", type=int, default=5, help="the median is of so many (5)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "latest.json")
    options = parser.parse_args()
    rows = []
    for name in options.only or BENCHMARKS:
        print(f"-- {name}", file=sys.stderr, flush=True)
        rows += importlib.import_module(name).run(options.rounds)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    return 1 if any(missed(row) for row in rows) else 0


def missed(row: dict) -> bool:
    return row["must"] is not None and not row["flags"] and row["ratio"] < row["must"]


def table(rows: list[dict]) -> str:
    lines = [
        f"{'load':44} {'against':38} {'ratio':>8} {'[min..max]':>17} {'must':>6} {'aim':>6} flags"
    ]
    for row in rows:
        goal = {key: "-" if row[key] is None else f"{row[key]:g}" for key in ("must", "aim")}
        spread = f"[{row['min']:.2f}..{row['max']:.2f}]"
        verdict = "  MISSED" if missed(row) else ""
        lines.append(
            f"{row['name']:44} {row['against']:38} {row['ratio']:8.2f} {spread:>17} "
            f"{goal['must']:>6} {goal['aim']:>6} {row['flags']}{verdict}"
        )
    return "\n".join([*lines, FLAGS])


if __name__ == "__main__":
    sys.exit(main())
