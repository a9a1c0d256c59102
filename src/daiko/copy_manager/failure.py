"""What a failed second command means: one table.

An executor's refusal is not the end of a copy: three things can follow, and which one is decided
here and nowhere else. The answers that arrays give differ widely (Linux answers nearly everything
with COPY ABORTED, 0D/02), so the table goes by sense key and additional sense code and is read
from the top; the first row that fits holds.

    FALL_BACK        this executor cannot do it: plan the rest without it
    TRY_AGAIN        it can, but not now: the same command again, after a while, not for ever
    HOSTS_BUSINESS   a reservation: its holder decided so, and whoever asked for the copy is told
    UNKNOWN          nobody can say what was done: treat the range as not copied, copy it again

Copying a range again is safe whatever part of it was done, as long as source and destination do
not overlap; overlapping ranges are never delegated.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from daiko.device.error import Busy, DeviceError, Refused, ReservationConflict, Unreachable
from daiko.scsi.layout import MalformedData
from daiko.scsi.opcode import Status
from daiko.scsi.sense import SenseKey, parse_sense


class Verdict(StrEnum):
    """What follows from a failure."""

    FALL_BACK = "fall back"
    TRY_AGAIN = "try again"
    HOSTS_BUSINESS = "the host's business"
    UNKNOWN = "outcome unknown"


class Lesson(StrEnum):
    """What the function table learns from a failure."""

    NOTHING = ""
    CANNOT_COPY = "it does not carry out copies"
    CANNOT_REACH = "it does not reach the other device"


class FailureRow(NamedTuple):
    """One row; None stands for any."""

    name: str
    key: SenseKey | None
    asc: int | None
    ascq: int | None
    verdict: Verdict
    lesson: Lesson = Lesson.NOTHING


_K = SenseKey
_BACK, _AGAIN = Verdict.FALL_BACK, Verdict.TRY_AGAIN

CHECK_CONDITION_TABLE: tuple[FailureRow, ...] = (
    FailureRow("unit attention", _K.UNIT_ATTENTION, None, None, _AGAIN),
    FailureRow("becoming ready", _K.NOT_READY, 0x04, 0x01, _AGAIN),
    FailureRow("transition of access state", _K.NOT_READY, 0x04, 0x0A, _AGAIN),
    FailureRow("operation in progress", None, 0x00, 0x16, _AGAIN),
    FailureRow("insufficient resources", None, 0x55, 0x03, _AGAIN),
    FailureRow("command aborted", _K.ABORTED_COMMAND, None, None, _AGAIN),
    FailureRow("no such command", _K.ILLEGAL_REQUEST, 0x20, None, _BACK, Lesson.CANNOT_COPY),
    FailureRow("device not reachable", None, 0x08, 0x04, _BACK, Lesson.CANNOT_REACH),
    # LIO says 0D/02 also for a reservation or a range beyond the end: nothing is learned.
    FailureRow("third party", None, 0x0D, None, _BACK),
    FailureRow("not authorized", None, 0x26, 0x15, _BACK, Lesson.CANNOT_REACH),
    FailureRow("field in parameter list", None, 0x26, None, _BACK),
    FailureRow("field in CDB", _K.ILLEGAL_REQUEST, 0x24, None, _BACK),
    FailureRow("communication failure", _K.NOT_READY, 0x08, None, _BACK),
    FailureRow("anything else", None, None, None, _BACK),
)
"""For status CHECK CONDITION, by sense data."""

_STATUS_TABLE: dict[int, tuple[Verdict, str]] = {
    Status.BUSY: (Verdict.TRY_AGAIN, "BUSY"),
    Status.TASK_SET_FULL: (Verdict.TRY_AGAIN, "TASK SET FULL"),
    Status.ACA_ACTIVE: (Verdict.TRY_AGAIN, "ACA ACTIVE"),
    Status.TASK_ABORTED: (Verdict.UNKNOWN, "TASK ABORTED"),
    Status.RESERVATION_CONFLICT: (Verdict.HOSTS_BUSINESS, "RESERVATION CONFLICT"),
}


class Failure(NamedTuple):
    """A failure, understood."""

    verdict: Verdict
    reason: str
    """One sentence for the administrator, without a full stop."""
    lesson: Lesson = Lesson.NOTHING


def classify_answer(status: int, sense: bytes) -> Failure:
    """The meaning of a second command's status other than GOOD, with its sense data."""
    if status != Status.CHECK_CONDITION:
        verdict, name = _STATUS_TABLE.get(status, (Verdict.FALL_BACK, f"status {status:02X}h"))
        return Failure(verdict, f"it answered {name}")
    try:
        said = parse_sense(sense)
    except MalformedData as error:
        return Failure(Verdict.FALL_BACK, f"it answered CHECK CONDITION with {error}")
    row = next(
        row
        for row in CHECK_CONDITION_TABLE
        if row.key in (None, said.key)
        and row.asc in (None, said.asc)
        and row.ascq in (None, said.ascq)
    )
    return Failure(row.verdict, f"it answered {said}", row.lesson)


def classify_error(error: DeviceError) -> Failure:
    """The meaning of a failure that did not come as a status, or that a device reported."""
    match error:
        case Unreachable():
            return Failure(Verdict.UNKNOWN, f"the connection was lost: {error}")
        case Busy():
            return Failure(Verdict.TRY_AGAIN, f"it was busy: {error}")
        case ReservationConflict():
            return Failure(Verdict.HOSTS_BUSINESS, f"it is reserved: {error}")
        case Refused():
            return classify_answer(error.status, error.sense)
        case _:
            return Failure(Verdict.FALL_BACK, str(error))
