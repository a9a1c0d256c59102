"""The self-test of a logical unit (SPC-4, 5.13): the first block is read, the last block is read,
and what has been written is brought to stable storage. All that a unit stands on takes part: the
mapping table, each device under its ends, the way to a second controller.

The device cannot be called back, so an aborted test ends at once and what the device still
answers is dropped. There is no extended self-test: reading all of a volume through a controller
would be a load on the storage behind it that nobody asked for by that name.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from daiko.device.block import Buffer
from daiko.device.error import DeviceError
from daiko.scsi.log_page import NO_ADDRESS
from daiko.scsi.sense import Sense, parse_sense
from daiko.target.failure import answer_to
from daiko.target.unit_log import SelfTestEntry

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit

DEFAULT, BACKGROUND_SHORT, FOREGROUND_SHORT = 0b000, 0b001, 0b101
BACKGROUND_EXTENDED, FOREGROUND_EXTENDED, ABORT_BACKGROUND = 0b010, 0b110, 0b100
"""SELF-TEST CODE of SEND DIAGNOSTIC."""

PASSED, ABORTED_BY_COMMAND, ABORTED_OTHERWISE = 0x0, 0x1, 0x2
FIRST_FAILED, SECOND_FAILED, ANOTHER_FAILED, AT_WORK = 0x5, 0x6, 0x7, 0xF
"""SELF-TEST RESULTS of page 10h."""

_SEGMENTS = 3

_STARTED = time.monotonic()


def hours() -> int:
    """Since the start of the controller; FFFFh = that or more."""
    return min(int((time.monotonic() - _STARTED) // 3600), 0xFFFF)


class SelfTest:
    """One self-test at work."""

    __slots__ = ("_done", "_segment", "_unit", "code", "is_over")

    def __init__(
        self, unit: LogicalUnit, code: int, done: Callable[[bool], None] | None = None
    ) -> None:
        """`done` is called once with whether the unit has passed."""
        self._unit = unit
        self._done = done
        self._segment = 0
        self.code = code
        self.is_over = False

    @property
    def progress(self) -> int:
        """In parts of 65,536."""
        return (1 << 16) * self._segment // _SEGMENTS

    @property
    def in_background(self) -> bool:
        return self.code == BACKGROUND_SHORT

    @property
    def is_exclusive(self) -> bool:
        """Other commands are refused meanwhile."""
        return self.code == FOREGROUND_SHORT

    def entry(self) -> SelfTestEntry:
        """For page 10h, while it is at work."""
        return SelfTestEntry(self.code, AT_WORK, hours())

    def begin(self) -> None:
        """There must be none at work at the unit. It may end at once."""
        self._unit.self_test = self
        self._unit.refresh_bars()
        self._unit.device.read(0, 1, self._first_read)

    def abort(self, result: int) -> None:
        """End it before its time: it has not passed."""
        if not self.is_over:
            self._end(SelfTestEntry(self.code, result, hours()), has_passed=False)

    def _first_read(self, error: DeviceError | None, data: Buffer) -> None:
        if self._goes_on(error, 0):
            self._unit.device.read(self._unit.blocks - 1, 1, self._last_read)

    def _last_read(self, error: DeviceError | None, data: Buffer) -> None:
        if self._goes_on(error, self._unit.blocks - 1):
            self._unit.device.flush(self._flushed)

    def _flushed(self, error: DeviceError | None) -> None:
        if self._goes_on(error, NO_ADDRESS):
            self._end(SelfTestEntry(self.code, PASSED, hours()), has_passed=True)

    def _goes_on(self, error: DeviceError | None, lba: int) -> bool:
        """Note how a segment has ended; is there to be another?"""
        if self.is_over:
            return False
        self._segment += 1
        if error is None:
            return True
        result = {1: FIRST_FAILED, 2: SECOND_FAILED}.get(self._segment, ANOTHER_FAILED)
        entry = SelfTestEntry(
            self.code,
            result,
            hours(),
            number=self._segment if result == ANOTHER_FAILED else 0,
            first_failure=lba,
            sense=_codes(error),
        )
        self._end(entry, has_passed=False)
        return False

    def _end(self, entry: SelfTestEntry, *, has_passed: bool) -> None:
        self.is_over = True
        if self.code != DEFAULT:
            # Of the default self-test its status says all; a passed one would look like none.
            self._unit.log.note_self_test(entry)
        if self._unit.self_test is self:
            self._unit.self_test = None
            self._unit.refresh_bars()
        if self._done is not None:
            self._done(has_passed)


def _codes(error: DeviceError) -> tuple[int, int, int]:
    """Key, ASC and ASCQ of what a host would be told."""
    _, said = answer_to(error)
    if isinstance(said, bytes):
        said = parse_sense(said)
    return (said.key, said.asc, said.ascq) if isinstance(said, Sense) else (0, 0, 0)
