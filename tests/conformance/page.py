"""`make conformance`: run libiscsi's suite in every scenario and write docs/conformance.md.

`--only WORDS` runs the scenarios with these words in their names and writes nothing. The exit
status is 1 where a test failed, or was skipped for a reason that is none.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conformance.libiscsi_suite import Outcome, Result, Run, explanation, run_all
from conformance.scenarios import SCENARIOS, Scenario

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"

AT_A_TIME = 6
"""Scenarios that run side by side: the suite sleeps more than it works."""

HEAD = """\
# Conformance

Made by `make conformance`. libiscsi's suite of conformance tests (`iscsi-test-cu`, family `ALL`,
which has those of `SCSI`, `iSCSI` and `LINUX` in it; destructive tests and SANITIZE allowed, a
second initiator and, but for SANITIZE, a second portal where a test wants them) on every kind of
LU: own disks and virtual LUs, thin and thick, with blocks of 512 and of 4096 bytes.

The suite counts a test that it leaves early as passed. Here it is *skipped*, and has its reason
below. `make test` runs some of these scenarios and fails where one differs from this page.

| LU | passed | skipped | failed |
|---|---:|---:|---:|
"""

EXCEPTIONS = """
## Skipped by the suite, or failed

A test that fails asks for what a standard forbids, or for more than it says. Clauses are named by
their titles, since their numbers differ between the revisions of a standard.

"""


def row(scenario: Scenario, run: Run) -> str:
    """The line of the first table."""
    return f"| {scenario.name} | {len(run.passed)} | {len(run.skipped)} | {len(run.failed)} |"


def page(runs: Mapping[str, Run]) -> str:
    """The whole document."""
    text = HEAD + "\n".join(row(SCENARIOS[name], run) for name, run in runs.items()) + "\n"
    text += EXCEPTIONS
    text += "| test | it says | why | where |\n|---|---|---|---|\n"
    return text + "".join(f"{line}\n" for line in _exceptions(runs))


def _exceptions(runs: Mapping[str, Run]) -> list[str]:
    where: dict[tuple[str, str, str], list[str]] = {}
    for name, run in runs.items():
        for outcome in [*run.skipped, *run.failed]:
            said = _said(outcome, SCENARIOS[name])
            where.setdefault(said, []).append(name)
    return [
        f"| `{test}` | {said} | {why} | {'everywhere' if len(at) == len(runs) else '; '.join(at)} |"
        for (test, said, why), at in sorted(where.items())
    ]


def _said(outcome: Outcome, scenario: Scenario) -> tuple[str, str, str]:
    said = outcome.reason if outcome.result is Result.SKIPPED else f"fails: {outcome.reason}"
    return outcome.name, said, explanation(outcome, scenario.situation) or "**a gap**"


def run_scenarios(names: Sequence[str]) -> dict[str, Run]:
    """Run the suite in these scenarios, and print what came of it."""
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        runs = threads.map(_run, [SCENARIOS[name] for name in names])
        return dict(zip(names, runs, strict=True))


def _run(scenario: Scenario) -> Run:
    with (
        tempfile.TemporaryDirectory(prefix="daiko-") as folder,
        scenario.running(Path(folder)) as urls,
    ):
        run = run_all(urls)
    print(row(scenario, run), flush=True)
    for test, said in run.surprises(scenario.situation).items():
        print(f"  {test}: {said}", flush=True)
    return run


def main() -> int:
    parser = argparse.ArgumentParser(description="Run libiscsi's suite on every kind of LU.")
    parser.add_argument("--only", default="", help="scenarios with these words in their names")
    options = parser.parse_args()
    chosen = [name for name in SCENARIOS if options.only in name]
    runs = run_scenarios(chosen)
    if not options.only:
        PAGE.write_text(page(runs))
    surprising = [run.surprises(SCENARIOS[name].situation) for name, run in runs.items()]
    return 1 if any(surprising) else 0


if __name__ == "__main__":
    sys.exit(main())
