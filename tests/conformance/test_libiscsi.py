"""libiscsi's conformance suite, `iscsi-test-cu`, against every kind of LU that a host can meet.

The scenarios that `make test` has time for; `make conformance` runs all of them and writes
docs/conformance.md, which must say what is seen here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from conformance import page
from conformance.libiscsi_suite import (
    PATIENCE,
    Outcome,
    Result,
    Run,
    Situation,
    explanation,
    listed,
    outcomes,
)
from conformance.scenarios import SCENARIOS
from processes import READY, Process, image

IN_EVERY_RUN = [name for name, each in SCENARIOS.items() if each.always]


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    return page.run_scenarios(IN_EVERY_RUN)


@pytest.mark.timeout(2 * PATIENCE)  # The set-up of the first of them runs the suite.
@pytest.mark.parametrize("name", IN_EVERY_RUN)
def test_whole_suite_passes(runs: dict[str, Run], name: str) -> None:
    scenario, run = SCENARIOS[name], runs[name]
    assert run.surprises(scenario.situation) == {}
    assert page.row(scenario, run) in page.PAGE.read_text(), "run `make conformance`"


def test_page_has_all_scenarios() -> None:
    text = page.PAGE.read_text()
    assert [name for name in SCENARIOS if f"| {name} |" not in text] == []


def test_family_all_is_all_there_is() -> None:
    """The page says that the families SCSI, iSCSI and LINUX lie in the one that is run."""
    everything = listed("ALL")
    assert len(everything) > 200
    for family in ("SCSI", "iSCSI", "LINUX"):
        assert listed(family) <= everything


def _access(*lines: str) -> Outcome:
    return Outcome("ProutReserve.AccessEA", Result.FAILED, "1. x.c:77", list(lines))


TEXT = """\
    [SKIPPED] the suite looks around
Suite: Read10
  Test: Simple ...    [VERBOSE] reads
passed
  Test: Late ...    [VERBOSE] reads
    [SKIPPED] No late reads. Skipping
passed    [SKIPPED] of the next suite
Suite: Write10
  Test: Wrong ...    [FAILED] said and meant
FAILED
    1. test_write10.c:31  - CU_ASSERT_EQUAL(ret,0)
  Test: Right ...    [FAILED] said, and expected by the test
passed
"""


def test_what_the_suite_prints_is_read_test_by_test() -> None:
    read = {each.name: (each.result, each.reason) for each in outcomes(TEXT)}
    assert read == {
        "Read10.Simple": (Result.PASSED, ""),
        "Read10.Late": (Result.SKIPPED, "No late reads. Skipping"),
        "Write10.Wrong": (Result.FAILED, "1. test_write10.c:31  - CU_ASSERT_EQUAL(ret,0)"),
        "Write10.Right": (Result.PASSED, ""),
    }


THIN = Situation(512, can_unmap=True)
THICK = Situation(4096, can_unmap=False, can_erase=False)
PART_OF_A_BLOCK = "    [FAILED] WRITE10 command: failed with sense: SENSE KEY: (5) ASCQ:(0x0e03)"
OVER_ALREADY = (
    "    [FAILED] READ16 failed. Should have failed with 04/SANITIZE_IN_PROGRESS but did not"
)


@pytest.mark.parametrize(
    ("outcome", "situation", "is_explained"),
    [
        (Outcome("A.B", Result.FAILED, "1. x.c:1"), THIN, False),
        (Outcome("A.B", Result.SKIPPED, "READ10 is not implemented."), THIN, False),
        (Outcome("A.B", Result.SKIPPED, "Media is not removable."), THIN, True),
        (Outcome("Unmap.VPD", Result.SKIPPED, "UNMAP is not implemented."), THIN, False),
        (Outcome("Unmap.VPD", Result.SKIPPED, "UNMAP is not implemented."), THICK, True),
        (Outcome("Sanitize.B", Result.SKIPPED, "SANITIZE BLOCK_ERASE is not in"), THIN, False),
        (Outcome("Sanitize.B", Result.SKIPPED, "SANITIZE BLOCK_ERASE is not in"), THICK, True),
        (_access(PART_OF_A_BLOCK), THICK, True),
        (_access(PART_OF_A_BLOCK), THIN, False),
        (Outcome("Sanitize.Reset", Result.FAILED, "1. x", [OVER_ALREADY]), THIN, True),
        (Outcome("Sanitize.Simple", Result.FAILED, "1. x", [OVER_ALREADY]), THIN, False),
        (_access(PART_OF_A_BLOCK, "    [FAILED] READ10 command failed"), THICK, False),
    ],
)
def test_only_what_is_known_and_fits_the_lu_is_explained(
    outcome: Outcome, situation: Situation, is_explained: bool
) -> None:
    assert (explanation(outcome, situation) is not None) == is_explained


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
    file = image(tmp_path / "protected.img", 60 << 20, seed=7)
    before = file.read_bytes()
    with FileServer(tmp_path, "--read-only", file) as server:
        url = f"iscsi://{server.portal}/iqn.2026-11.test.daiko:conformance/0"
        run = Run([url], "ALL.ReadOnly")
    assert run.surprises(Situation(512, can_unmap=True)) == {}
    assert len(run.passed) == 1
    assert file.read_bytes() == before
