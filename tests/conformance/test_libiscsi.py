"""libiscsi's conformance suite, `iscsi-test-cu`, against every kind of LU that a host can meet.

A test of the suite that finds a command missing counts as passed, so what was skipped is checked
as well: only commands that this product does not have, and situations that are not given, may be
reasons. Everything else that is skipped is a failure here.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from processes import READY, Daiko, Process, image

SIZE = 50 << 20
"""Bytes of each image: enough for the longest transfers that the suite tries."""

NOT_IN_THE_PRODUCT = (
    "WRITEATOMIC16 is not implemented",
    "Logical unit does not have LBPWS10",
)
NOT_THE_SITUATION = (
    "--allow-sanitize flag is not set",
    "Logical unit is not removable",
    "Media is not removable",
    "Multipath unavailable",
    "LBPPB < 2",
    "Logical unit is not write-protected",
)

Scenario = Callable[[Path, ExitStack], Sequence[str]]
"""Starts what is to be tested, and returns the URLs for the suite."""


def real_lu(folder: Path, stack: ExitStack) -> Sequence[str]:
    file = image(folder / "real.img", 2 * SIZE)
    return [stack.enter_context(Daiko(folder, file, mode="local", name="real")).url()]


def real_lu_with_large_blocks(folder: Path, stack: ExitStack) -> Sequence[str]:
    file = image(folder / "large.img", 2 * SIZE)
    daiko = Daiko(folder, file, mode="local", name="large", options=["--block-size", "4096"])
    return [stack.enter_context(daiko).url()]


def virtual_lu_over_two_second_controllers(folder: Path, stack: ExitStack) -> Sequence[str]:
    seconds = [
        stack.enter_context(
            Daiko(folder, image(folder / f"{name}.img", SIZE), mode="local", name=name)
        )
        for name in ("sd1", "sd2")
    ]
    first = Daiko(folder, *(second.url() for second in seconds), name="first")
    return [stack.enter_context(first).url()]


def real_lu_by_two_paths(folder: Path, stack: ExitStack) -> Sequence[str]:
    return list(real_lu(folder, stack)) * 2


class Suite:
    """What a run of the suite printed."""

    def __init__(self, urls: Sequence[str], family: str) -> None:
        done = subprocess.run(
            ["iscsi-test-cu", "--dataloss", "--normal", "--test", family, *urls],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        self.text = done.stdout + done.stderr
        summary = re.search(r"^ +tests +(\d+) +(\d+) +(\d+) +(\d+)", self.text, re.MULTILINE)
        assert summary is not None, self.text
        self.total, self.ran, self.passed, self.failed = map(int, summary.groups())
        self.failures = re.findall(r"^Suite .*had failures:\n(?: +\d+\. .*\n?)+", self.text, re.M)

    @property
    def skipped(self) -> list[str]:
        """The reasons for which tests were skipped."""
        return sorted(set(re.findall(r"\[SKIPPED\] (.*)", self.text)))


def surprising(reasons: Sequence[str], allowed: Sequence[str]) -> list[str]:
    return [each for each in reasons if not each.startswith(tuple(allowed))]


@contextmanager
def running(scenario: Scenario, folder: Path) -> Iterator[Sequence[str]]:
    with ExitStack() as stack:
        yield scenario(folder, stack)


@pytest.mark.parametrize(
    ("scenario", "family"),
    [
        # The family iSCSI tests the port, which is the same one in every scenario.
        pytest.param(real_lu, "ALL", id="real LU"),
        pytest.param(real_lu_with_large_blocks, "SCSI", id="real LU with blocks of 4,096 bytes"),
        pytest.param(virtual_lu_over_two_second_controllers, "SCSI", id="virtual LU"),
    ],
)
def test_whole_suite_passes(scenario: Scenario, family: str, tmp_path: Path) -> None:
    with running(scenario, tmp_path) as urls:
        suite = Suite(urls, family)
    assert suite.failures == []
    assert (suite.ran, suite.passed, suite.failed) == (suite.total, suite.total, 0)
    assert suite.total >= 200
    assert surprising(suite.skipped, NOT_IN_THE_PRODUCT + NOT_THE_SITUATION) == []


def test_multipath_suite_passes_by_two_paths(tmp_path: Path) -> None:
    with running(real_lu_by_two_paths, tmp_path) as urls:
        suite = Suite(urls, "ALL.MultipathIO")
    assert suite.failures == []
    assert (suite.ran, suite.passed) == (4, 4)
    assert surprising(suite.skipped, []) == []


class FileServer(Process):
    """`serve_file.py`: the target layer alone."""

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        super().__init__(folder, "serve-file")
        self.arguments = arguments
        self.portal = ""

    def command(self) -> Sequence[str]:
        script = Path(__file__).with_name("serve_file.py")
        return [sys.executable, str(script), *map(str, self.arguments)]

    def wait_ready(self) -> None:
        self.portal = self.lines_until(READY)[0]


def test_write_protected_lu_refuses_every_write(tmp_path: Path) -> None:
    file = image(tmp_path / "protected.img", SIZE, seed=7)
    before = file.read_bytes()
    with FileServer(tmp_path, "--read-only", file) as server:
        url = f"iscsi://{server.portal}/iqn.2026-11.test.daiko:conformance/0"
        suite = Suite([url], "ALL.ReadOnly")
    assert suite.failures == []
    assert (suite.ran, suite.passed) == (1, 1)
    assert surprising(suite.skipped, ["WRITEATOMIC16"]) == []
    assert file.read_bytes() == before
