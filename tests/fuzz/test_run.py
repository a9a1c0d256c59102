"""The fuzz harness: a short run of every target, and that it finds what it is there to find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent.parent.parent / "fuzz"
COUNT = 10_000
NO_TARGETS = ("run", "mutation", "golden", "port_rig")
COSTS = {"initiator_port": 20, "target_port": 20, "third_party_copy": 20}
"""Targets that are more than a parser."""
TARGETS = sorted(file.stem for file in FUZZ.glob("*.py") if file.stem not in NO_TARGETS)


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FUZZ / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


def made(folder: Path, body: str) -> tuple[str, ...]:
    """A folder with one target, and the arguments that run it."""
    target = folder / "made.py"
    lines = ("from __future__ import annotations", "kept: list[bytes] = []", body)
    corpus = "def corpus() -> list[bytes]:\n    return [b'corpus entry']"
    target.write_text("\n".join((*lines, corpus, "")), encoding="ascii")
    return "--folder", str(folder), "--count", "20000"


def test_every_target_keeps_its_invariant() -> None:
    run = fuzz("--count", str(COUNT))
    assert run.returncode == 0, run.stdout + run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    assert [line[0] for line in lines] == TARGETS
    for name, cases, _, accepted, _, refused, *_ in lines:
        count = COUNT // COSTS.get(name, 1)
        assert int(cases) == count == int(accepted) + int(refused)
        assert int(accepted) > count // 100, f"{name} accepts nearly nothing: its corpus is no use"


@pytest.mark.parametrize("name", TARGETS)
def test_target_says_its_invariant_in_the_first_line(name: str) -> None:
    first = (FUZZ / f"{name}.py").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith('"""Invariant: ')
    assert first.endswith('."""')


def test_exception_is_found_kept_and_replayed(tmp_path: Path) -> None:
    body = "def check(data: bytes) -> bool:\n    return data[100] >= 0 if len(data) > 90 else True"
    arguments = made(tmp_path, body)
    run = fuzz(*arguments)
    assert run.returncode == 1
    assert "IndexError" in run.stdout
    (kept,) = (tmp_path / "findings").iterdir()
    data = bytes.fromhex(kept.read_text(encoding="ascii"))
    assert 90 < len(data) <= 100
    assert data.hex() in run.stdout
    again = fuzz(*arguments)
    assert "case 0," in again.stdout


def test_hang_is_found(tmp_path: Path) -> None:
    body = (
        "def check(data: bytes) -> bool:\n    while len(data) > 60:\n        pass\n    return True"
    )
    run = fuzz(*made(tmp_path, body), "--limit", "0.5")
    assert run.returncode == 1
    assert "Stuck" in run.stdout


def test_growth_is_found(tmp_path: Path) -> None:
    body = "def check(data: bytes) -> bool:\n    kept.append(data)\n    return True"
    run = fuzz(*made(tmp_path, body))
    assert run.returncode == 1
    assert "allocations more than after the warm-up" in run.stdout


@pytest.mark.parametrize(
    ("made_of", "says"),
    [("b'1' * (100 << 20)", "MiB more at the peak"), ("bytes(2 << 30)", "MemoryError")],
    ids=["touched", "reserved"],
)
def test_large_allocation_is_found(tmp_path: Path, made_of: str, says: str) -> None:
    body = (
        "def check(data: bytes) -> bool:\n"
        f"    big = b'' if kept or data[:2] != b'\\xff\\xff' else {made_of}\n"
        "    kept[:] = [big[:1]] if big else kept\n"
        "    return True\n"
    )
    run = fuzz(*made(tmp_path, body))
    assert run.returncode == 1
    assert says in run.stdout


def test_unknown_target_is_a_usage_error() -> None:
    run = fuzz("--only", "nonsense")
    assert run.returncode == 2
    assert "no target nonsense" in run.stderr


def test_same_seed_gives_the_same_run() -> None:
    def counts(seed: str) -> list[str]:
        run = fuzz("--only", "sense_data", "--count", "3000", "--seed", seed)
        return run.stdout.split()[:6]

    assert counts("5") == counts("5")
    assert counts("5") != counts("6")
