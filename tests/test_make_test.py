"""How `make test` hands the tests to its workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

MAKEFILE = Path(__file__).parents[1] / "Makefile"

SHARED = """
from pathlib import Path

import pytest

@pytest.fixture(scope="module")
def site():
    with Path("made").open("a") as made:
        made.write("NAME\\n")

@pytest.mark.parametrize("number", range(6))
def test_shares(site, number):
    pass
"""


def test_what_the_tests_of_a_file_share_is_made_once(tmp_path: Path) -> None:
    options = re.search(r"^PYTEST := \S+ -m pytest (-n 2 .*)$", MAKEFILE.read_text(), re.MULTILINE)
    assert options
    for name in ("one", "other"):
        (tmp_path / f"test_{name}.py").write_text(SHARED.replace("NAME", name))
    (tmp_path / "pytest.ini").touch()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist", *options[1].split()],
        # Neither a worker of the run that this is part of, nor with its plugins.
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "12 passed" in done.stdout, done.stdout + done.stderr
    assert sorted((tmp_path / "made").read_text().split()) == ["one", "other"]
