"""`make demo-sites` in its short form, with what it reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


def test_demo_of_two_sites_verifies_itself_counts_its_links_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    report, folder = tmp_path / "report.json", tmp_path / "d"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo_sites.py"), "--short", "--size", "16",
         "--report", str(report)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = json.loads(report.read_text())
    assert found["verified"]
    assert len(found["checks"]) > 15
    assert all(check["holds"] for check in found["checks"])
    stages = {stage["stage"]: stage["links"]["tokyo - osaka"] for stage in found["stages"]}
    size = sum(found["bytes"].values())
    assert stages["initial copy under load"]["sent"] >= size
    assert 2 * MIB <= stages["resync"]["sent"] < size
    assert 3 * MIB <= stages["resync --reverse"]["received"] < size
    there_and_back = stages["swap, and back"]
    assert there_and_back["sent"] >= MIB  # what was written in Tokyo
    assert there_and_back["received"] >= MIB
    assert found["initial_copy"]["host"]["turns"] > 2
    assert list(folder.iterdir()) == []
