"""docs/reference/failures.md: what a failure of a device or of a second controller means.

Where the code has no table but a decision, it is asked with one example of each case.
"""

from __future__ import annotations

from daiko.backend.refusal import device_error
from daiko.copy_manager.failure import (
    CHECK_CONDITION_TABLE,
    FailureRow,
    Lesson,
    Verdict,
    classify_answer,
    classify_error,
)
from daiko.device import error as device
from daiko.scsi.opcode import Status
from daiko.scsi.sense import Sense, SenseKey
from daiko.target.failure import answer_to
from reference_docs.markdown import code, head, spoken, table, text, words

_MEDIUM = "MediumFailure"


def _examples() -> dict[str, device.DeviceError]:
    """One of each class of device error."""
    found: dict[str, device.DeviceError] = {}
    for kind in device.DeviceError.__subclasses__():
        match kind.__name__:
            case "MediumFailure":
                found["MediumFailure, reading"] = device.MediumFailure("", writing=False)
                found["MediumFailure, writing"] = device.MediumFailure("", writing=True)
            case "Miscompare":
                found[kind.__name__] = device.Miscompare("", offset=0)
            case "Refused":
                found[kind.__name__] = device.Refused(
                    "", status=Status.CHECK_CONDITION, sense=_sense(SenseKey.HARDWARE_ERROR, 0, 0)
                )
            case name:
                found[name] = kind("")
    return found


def _sense(key: SenseKey, asc: int, ascq: int) -> bytes:
    return Sense(key, asc, ascq).fixed()


def _host_sees(name: str, error: device.DeviceError) -> tuple[str, ...]:
    what = words(type(error).__doc__)
    if isinstance(error, device.Refused):
        return code(name), what, "as it came", "as it came"
    status, said = answer_to(error)
    shown = "" if said is None else str(said)
    return code(name), what, spoken(Status(status).name).upper(), shown


def _number(value: int | None) -> str:
    return "any" if value is None else f"{value:02X}h"


def _lesson(lesson: Lesson) -> str:
    return str(lesson) or "nothing"


def _row(row: FailureRow) -> tuple[str, ...]:
    key = "any" if row.key is None else spoken(SenseKey(row.key).name).upper()
    return (
        row.name,
        key,
        _number(row.asc),
        _number(row.ascq),
        str(row.verdict),
        _lesson(row.lesson),
    )


_REFUSALS: tuple[tuple[str, int, bytes], ...] = (
    *(
        (spoken(status.name).upper(), int(status), b"")
        for status in Status
        if status is not Status.CHECK_CONDITION
    ),
    *((f"CHECK CONDITION, {spoken(key.name).upper()}", 2, _sense(key, 0, 0)) for key in SenseKey),
    ("CHECK CONDITION, NOT READY 04/01", 2, _sense(SenseKey.NOT_READY, 0x04, 0x01)),
    ("CHECK CONDITION, DATA PROTECT 27/07", 2, _sense(SenseKey.DATA_PROTECT, 0x27, 0x07)),
    ("CHECK CONDITION, ILLEGAL REQUEST 20/00", 2, _sense(SenseKey.ILLEGAL_REQUEST, 0x20, 0)),
    ("CHECK CONDITION, ILLEGAL REQUEST 21/00", 2, _sense(SenseKey.ILLEGAL_REQUEST, 0x21, 0)),
    ("CHECK CONDITION, ILLEGAL REQUEST 24/00", 2, _sense(SenseKey.ILLEGAL_REQUEST, 0x24, 0)),
    ("CHECK CONDITION, ILLEGAL REQUEST 25/00", 2, _sense(SenseKey.ILLEGAL_REQUEST, 0x25, 0)),
    ("CHECK CONDITION without sense data", 2, b""),
)


def _taken_as(status: int, sense: bytes, *, optional: bool) -> str:
    error = device_error(status, sense, "", writing=True, optional=optional)
    return "success" if error is None else code(type(error).__name__)


def document() -> str:
    lines = head(
        "Failures",
        "`device/error.py`, `target/failure.py`, `backend/refusal.py` and "
        "`copy_manager/failure.py`",
    )
    lines += [
        "A device fails in one of few ways, whatever it is: a file, an LU of a second controller,",
        "a virtual LU over both. Three tables say what follows.",
        "",
        "## What a host sees of a device's failure",
        "",
        "Sense data comes in the format that the control mode page asks for.",
        "",
    ]
    lines += table(
        ("failure", "what it is", "status", "sense data"),
        [_host_sees(name, error) for name, error in _examples().items()],
    )
    return text(lines + _of_answers() + _of_second_commands())


def _of_answers() -> list[str]:
    """What an answer to a READ and the like is taken for."""
    lines = [
        "## What a second controller's answer to a READ, a WRITE and the like is taken for",
        "",
        "An optional command is one that a device need not have: UNMAP, WRITE SAME, COMPARE AND",
        "WRITE, GET LBA STATUS, SYNCHRONIZE CACHE. Before an answer gets here, UNIT ATTENTION,",
        "BUSY, TASK SET FULL and ABORTED COMMAND have been tried again (`initiator/multipath.py`).",
        "",
    ]
    lines += table(
        ("answer", "taken for", "of an optional command"),
        [
            (
                name,
                _taken_as(status, sense, optional=False),
                _taken_as(status, sense, optional=True),
            )
            for name, status, sense in _REFUSALS
        ],
    )
    return lines


def _of_second_commands() -> list[str]:
    """What an answer to a second command means."""
    lines = [
        "## What the failure of a second command (EXTENDED COPY) means for the copy",
        "",
        "| verdict | what follows |",
        "| --- | --- |",
        f"| {Verdict.FALL_BACK} | This executor cannot do it: the rest is planned without it, "
        "from the last confirmed block. |",
        f"| {Verdict.TRY_AGAIN} | It can, but not now: the same command again, after a while, not "
        "for ever. |",
        f"| {Verdict.HOSTS_BUSINESS} | A reservation: its holder decided so, and whoever asked for "
        "the copy is told. |",
        f"| {Verdict.UNKNOWN} | Nobody can say what was done: the range counts as not copied and "
        "is copied again. |",
        "",
        "CHECK CONDITION, by its sense data; read from the top, the first row that fits holds:",
        "",
    ]
    lines += table(
        ("answer", "sense key", "ASC", "ASCQ", "verdict", "what the function table learns"),
        [_row(row) for row in CHECK_CONDITION_TABLE],
    )
    lines += ["Any other status:", ""]
    lines += table(
        ("status", "verdict"),
        [
            (spoken(status.name).upper(), str(classify_answer(status, b"").verdict))
            for status in Status
            if status not in (Status.GOOD, Status.CONDITION_MET, Status.CHECK_CONDITION)
        ],
    )
    lines += ["No status, or a failure of a device in a step that this controller carries out:", ""]
    lines += table(
        ("failure", "verdict"),
        [
            (
                code(name),
                "by the tables above"
                if isinstance(error, device.Refused)
                else str(classify_error(error).verdict),
            )
            for name, error in _examples().items()
        ],
    )
    return lines
