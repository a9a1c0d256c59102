"""libiscsi's conformance suite, `iscsi-test-cu`: its run against one LU, and what it said.

The suite counts a test as passed that it left early because it found something missing, and says
so only in words. So each test's own lines are read here: a test with a line `[SKIPPED]` is skipped,
for that reason. `SKIPPED` says of each reason why it may be one; a reason without a row may not.
`CONTRADICTIONS` has the tests that ask for what a standard forbids, or for more than it says.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

COMMAND = ("iscsi-test-cu", "--dataloss", "--allow-sanitize", "--verbose")
PATIENCE = 300
"""Seconds for one run of the whole suite."""


@dataclass(frozen=True)
class Reason:
    """Why a test may be skipped, or may fail."""

    said: str
    """What the suite says, from its beginning on: when it skips a test, or in each line with which
    a failed one complains. A regular expression."""
    why: str
    tests: str = ""
    """The beginning of the names of the tests that it holds for."""
    where: Callable[[Situation], bool] = lambda situation: True


@dataclass(frozen=True)
class Situation:
    """What of an LU bears on whether a test may be skipped."""

    block_size: int
    """Bytes."""
    can_unmap: bool
    """At least one of its devices can."""
    can_erase: bool = True
    """All of its devices can unmap, and give the room back."""


def _cannot_unmap(situation: Situation) -> bool:
    return not situation.can_unmap


def _cannot_erase(situation: Situation) -> bool:
    return not situation.can_erase


NOT_REMOVABLE = "removable media are not in the product"
NO_UNMAP = "the back end cannot unmap, so the LU is thick"
SKIPPED = (
    Reason("LBPPB < 2", "needs a physical block of several logical blocks"),
    Reason("Logical unit is not removable", NOT_REMOVABLE),
    Reason("Media is not removable", NOT_REMOVABLE),
    Reason("Logical unit is not write-protected", "a scenario of its own has such an LU"),
    Reason("Logical unit is fully provisioned", NO_UNMAP, where=_cannot_unmap),
    Reason("Logical unit does not have LBP", NO_UNMAP, where=_cannot_unmap),
    Reason("UNMAP is not implemented", NO_UNMAP, where=_cannot_unmap),
    Reason(
        "SANITIZE BLOCK_ERASE is not",
        "a device of the LU is preallocated, or cannot unmap",
        where=_cannot_erase,
    ),
    Reason("No (alignment|granularity) restrictions", "the LU has no such restriction"),
    Reason("SANITIZE CRYPTO_ERASE is not", "nothing is encrypted, so no key can be erased"),
)
"""What the suite may say when it skips a test."""

CONTRADICTIONS = (
    Reason(
        r"\[FAILED\] WRITE10 command: failed with sense: .*\(0x0e03\)",
        "writes one block with 512 bytes of data whatever the size of a block. SBC-4, WRITE (10) "
        "command: TRANSFER LENGTH counts whole logical blocks, so 3,584 bytes are missing. RFC "
        "7143, Residual Count, calls that an overflow and leaves the rest to SCSI; as FCP-4 has "
        "it, the command ends with INVALID FIELD IN COMMAND INFORMATION UNIT, and nothing is "
        "written",
        tests="ProutReserve.Access",
        where=lambda situation: situation.block_size != 512,
    ),
    Reason(
        r"(?i)\[FAILED\] \w+ .*should have failed with .*SANITIZE_IN_PROGRESS",
        "wants a SANITIZE to be at work after 3 seconds, and again after all resets. SBC-4, "
        "Performing a sanitize operation, says what is answered while it is performed, and no "
        "clause how long that is at least; on an LU of this size it has completed by then",
        tests="Sanitize.Reset",
    ),
    Reason(
        r"\d+\. .*lba offset in first descriptor does not",
        "where a physical block has several logical ones it asks at one address and wants the "
        "first descriptor to begin at a later one. SBC-4, LBA status descriptor relationships: "
        "the first descriptor begins at the lowest address that is not below the one that was "
        "asked for",
        tests="GetLBAStatus.UnmapSingle",
        where=lambda situation: situation.block_size == 512 and situation.can_unmap,
    ),
    Reason(
        r".*Blocks did not read back",
        "sends a block of FFh with UNMAP = 1 and wants zeros. SBC-4, WRITE SAME command and unmap"
        " operations: where unmapped blocks read as zeros and any bit that was sent is not zero, "
        "it shall be written and nothing unmapped. `WriteSame16.UnmapUntilEnd`, its twin, sends "
        "zeros",
        tests="WriteSame10.UnmapUntilEnd",
    ),
)
"""Failures of tests that ask for what a standard forbids, or for more than it says; with the title
of its clause, since numbers differ between the revisions of a standard."""


class Result(StrEnum):
    PASSED = "passed"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass
class Outcome:
    """One test of the suite."""

    name: str
    """SUITE.TEST"""
    result: Result = Result.PASSED
    reason: str = ""
    """The first line that says why it was skipped, or its failed assertions."""
    lines: list[str] = field(default_factory=list)
    """All that it printed."""


class Run:
    """A run of a family against one LU. Raises AssertionError when the suite did not end."""

    def __init__(self, urls: Sequence[str], family: str = "ALL") -> None:
        done = subprocess.run(
            # Unbuffered, so that what is printed of a test stands among the lines of that test.
            ["stdbuf", "-o0", *COMMAND, "--test", family, *urls],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
        self.text = done.stdout
        summary = re.search(r"^ +tests +(\d+) +(\d+) +(\d+) +(\d+)", self.text, re.MULTILINE)
        assert summary is not None, self.text
        total, ran, _, failed = map(int, summary.groups())
        self.outcomes = outcomes(self.text)
        # What was read must be what the suite itself counted.
        assert len(self.outcomes) == total == ran, self.text
        assert len(self.failed) == failed, self.text

    def _of(self, result: Result) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.result is result]

    def replace(self, other: Run) -> None:
        """Let the tests of another run count instead of the same ones here."""
        instead = {outcome.name: outcome for outcome in other.outcomes}
        self.outcomes = [instead.pop(each.name, each) for each in self.outcomes]
        assert not instead, instead

    @property
    def passed(self) -> list[Outcome]:
        return self._of(Result.PASSED)

    @property
    def skipped(self) -> list[Outcome]:
        return self._of(Result.SKIPPED)

    @property
    def failed(self) -> list[Outcome]:
        return self._of(Result.FAILED)

    def surprises(self, situation: Situation) -> dict[str, str]:
        """Tests that failed without contradicting a standard, or were skipped for a reason that
        is none: name -> what it said."""
        return {
            outcome.name: outcome.reason
            for outcome in [*self.failed, *self.skipped]
            if explanation(outcome, situation) is None
        }


def run_all(urls: Sequence[str]) -> Run:
    """The whole suite by two portals, and what sanitizes by one. With two, the second session is
    one that there was before, which is told of the SANITIZE (SAM-5, 5.14), and the suite does not
    expect that."""
    run = Run(urls)
    run.replace(Run(urls[:1], "ALL.Sanitize"))
    return run


def explanation(outcome: Outcome, situation: Situation) -> str | None:
    """Why a test that was skipped or failed says nothing against the product; None: it does."""
    has_failed = outcome.result is Result.FAILED
    # Of a failed test everything that it complains of must be what is known.
    said = [line.strip() for line in outcome.lines if "[FAILED]" in line]
    said = said if has_failed else [outcome.reason]
    for reason in CONTRADICTIONS if has_failed else SKIPPED:
        if (
            said
            and all(re.match(reason.said, line) for line in said)
            and outcome.name.startswith(reason.tests)
            and reason.where(situation)
        ):
            return reason.why
    return None


def outcomes(text: str) -> list[Outcome]:
    """What the suite printed, test by test."""
    found: list[Outcome] = []
    suite = ""
    current: Outcome | None = None
    for line in text.splitlines():
        if line.startswith("Suite: "):
            suite, current = line.removeprefix("Suite: ").strip(), None
            continue
        if begun := re.match(r" +Test: (\S+) \.\.\.(.*)", line):
            current = Outcome(f"{suite}.{begun[1]}")
            found.append(current)
            line = begun[2]
        if current is None:
            continue
        current.lines.append(line)
        # CUnit prints the verdict where the test's own lines end; what follows it is the suite's.
        if line.startswith("passed"):
            skipped = re.search(r"\[SKIPPED\] (.*)", "\n".join(current.lines[:-1]))
            if skipped:
                current.result, current.reason = Result.SKIPPED, skipped[1].strip()
            current = None
        elif line.startswith("FAILED"):
            current.result = Result.FAILED
        elif current.result is Result.FAILED and re.match(r" +\d+\. ", line):
            current.reason = f"{current.reason}; {line.strip()}".removeprefix("; ")
    return found


def listed(family: str) -> set[str]:
    """The tests of a family, as SUITE.TEST."""
    text = subprocess.run(
        ["iscsi-test-cu", "--list"], capture_output=True, text=True, check=True
    ).stdout
    names = [line.split(".") for line in text.split()]
    return {".".join(name[1:]) for name in names if name[0] == family and len(name) == 3}
