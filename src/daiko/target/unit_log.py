"""What a logical unit notes about itself for log pages: errors that were not the medium's, and the
results of its self-tests. In memory: it begins anew with the controller."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from daiko.device import error as device
from daiko.device.error import DeviceError
from daiko.scsi.log_page import NO_ADDRESS, SELF_TEST_RESULTS

NON_MEDIUM = (device.Unreachable, device.Aborted, device.Busy)
"""Failures of a command that say nothing about the blocks it was for (SPC-4, 7.3.9)."""


@dataclass(frozen=True, slots=True)
class SelfTestEntry:
    """A self-test that has ended, or is at work."""

    code: int
    """SELF-TEST CODE; 0 = the default self-test."""
    result: int
    """As in page 10h; see `self_test.py`."""
    hours: int
    """Of the controller since its start, when the test ended."""
    number: int = 0
    """Of the segment that failed, where `result` has no word for it."""
    first_failure: int = NO_ADDRESS
    """LBA."""
    sense: tuple[int, int, int] = (0, 0, 0)
    """Key, ASC and ASCQ of the failure."""


class UnitLog:
    """The notes of one unit."""

    __slots__ = ("non_medium_errors", "self_tests")

    def __init__(self) -> None:
        self.non_medium_errors = 0
        self.self_tests: deque[SelfTestEntry] | None = None
        """The newest first; None until there is one, as thousands of units never have."""

    def note_failure(self, error: DeviceError) -> None:
        """A command has failed."""
        if isinstance(error, NON_MEDIUM):
            self.non_medium_errors += 1

    def note_self_test(self, entry: SelfTestEntry) -> None:
        """A self-test has ended."""
        if self.self_tests is None:
            self.self_tests = deque(maxlen=SELF_TEST_RESULTS)
        self.self_tests.appendleft(entry)
