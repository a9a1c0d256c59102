"""What answers of second controllers mean: a row a condition."""

from __future__ import annotations

import pytest

from daiko.copy_manager.failure import (
    CHECK_CONDITION_TABLE,
    Lesson,
    Verdict,
    classify_answer,
    classify_error,
)
from daiko.device.error import (
    Aborted,
    Busy,
    DeviceError,
    MediumFailure,
    Refused,
    ReservationConflict,
    SpaceExhausted,
    Unreachable,
)
from daiko.scsi.opcode import Status
from daiko.scsi.sense import Sense, SenseKey
from daiko.target.event import Event

BACK, AGAIN = Verdict.FALL_BACK, Verdict.TRY_AGAIN

CONDITIONS = [
    # As third-party copy implementations answer; all of these mean "do it yourself".
    ("lio-anything", SenseKey.COPY_ABORTED, 0x0D, 0x02, BACK, Lesson.NOTHING),
    ("copy-aborted-no-more-said", SenseKey.COPY_ABORTED, 0x00, 0x00, BACK, Lesson.NOTHING),
    ("freebsd-unresolved", SenseKey.COPY_ABORTED, 0x08, 0x04, BACK, Lesson.CANNOT_REACH),
    ("quadstor-unresolved", SenseKey.ILLEGAL_REQUEST, 0x08, 0x04, BACK, Lesson.CANNOT_REACH),
    ("third-party-failure", SenseKey.COPY_ABORTED, 0x0D, 0x01, BACK, Lesson.NOTHING),
    ("wrong-device-type", SenseKey.COPY_ABORTED, 0x0D, 0x03, BACK, Lesson.NOTHING),
    ("inexact", SenseKey.COPY_ABORTED, 0x26, 0x0A, BACK, Lesson.NOTHING),
    ("parameter-list", SenseKey.ILLEGAL_REQUEST, 0x26, 0x00, BACK, Lesson.NOTHING),
    ("too-many-cscds", SenseKey.ILLEGAL_REQUEST, 0x26, 0x06, BACK, Lesson.NOTHING),
    ("too-many-segments", SenseKey.ILLEGAL_REQUEST, 0x26, 0x08, BACK, Lesson.NOTHING),
    ("not-authorized", SenseKey.ILLEGAL_REQUEST, 0x26, 0x15, BACK, Lesson.CANNOT_REACH),
    ("field-in-cdb", SenseKey.ILLEGAL_REQUEST, 0x24, 0x00, BACK, Lesson.NOTHING),
    ("no-such-command", SenseKey.ILLEGAL_REQUEST, 0x20, 0x00, BACK, Lesson.CANNOT_COPY),
    ("old-lio-not-ready", SenseKey.NOT_READY, 0x08, 0x00, BACK, Lesson.NOTHING),
    ("hardware", SenseKey.HARDWARE_ERROR, 0x44, 0x00, BACK, Lesson.NOTHING),
    # These mean "later".
    ("unit-attention", SenseKey.UNIT_ATTENTION, 0x29, 0x00, AGAIN, Lesson.NOTHING),
    ("luns-changed", SenseKey.UNIT_ATTENTION, 0x3F, 0x0E, AGAIN, Lesson.NOTHING),
    ("becoming-ready", SenseKey.NOT_READY, 0x04, 0x01, AGAIN, Lesson.NOTHING),
    ("list-id-in-use", SenseKey.ILLEGAL_REQUEST, 0x00, 0x16, AGAIN, Lesson.NOTHING),
    ("no-resources", SenseKey.ILLEGAL_REQUEST, 0x55, 0x03, AGAIN, Lesson.NOTHING),
    ("command-aborted", SenseKey.ABORTED_COMMAND, 0x47, 0x05, AGAIN, Lesson.NOTHING),
]


@pytest.mark.parametrize(
    ("key", "asc", "ascq", "verdict", "lesson"),
    [row[1:] for row in CONDITIONS],
    ids=[row[0] for row in CONDITIONS],
)
@pytest.mark.parametrize("descriptor_format", [False, True], ids=["fixed", "descriptor"])
def test_check_condition_is_classified(
    key: SenseKey, asc: int, ascq: int, verdict: Verdict, lesson: Lesson, descriptor_format: bool
) -> None:
    sense = Sense(key, asc, ascq).pack(descriptor_format=descriptor_format)
    failure = classify_answer(Status.CHECK_CONDITION, sense)
    assert (failure.verdict, failure.lesson) == (verdict, lesson)
    assert failure.reason.startswith("it answered ")


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (Status.BUSY, Verdict.TRY_AGAIN),
        (Status.TASK_SET_FULL, Verdict.TRY_AGAIN),
        (Status.ACA_ACTIVE, Verdict.TRY_AGAIN),
        (Status.RESERVATION_CONFLICT, Verdict.HOSTS_BUSINESS),
        (Status.TASK_ABORTED, Verdict.UNKNOWN),
        (0x7E, Verdict.FALL_BACK),
    ],
)
def test_status_is_classified(status: int, verdict: Verdict) -> None:
    assert classify_answer(status, b"").verdict is verdict


@pytest.mark.parametrize("sense", [b"", b"\x70", b"\x70\x00\x05", b"\xff" * 20])
def test_check_condition_without_readable_sense_data_falls_back(sense: bytes) -> None:
    assert classify_answer(Status.CHECK_CONDITION, sense).verdict is Verdict.FALL_BACK


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Unreachable("gone"), Verdict.UNKNOWN),
        (Busy("full"), Verdict.TRY_AGAIN),
        (ReservationConflict("held"), Verdict.HOSTS_BUSINESS),
        (MediumFailure("bad", writing=True), Verdict.FALL_BACK),
        (SpaceExhausted("full"), Verdict.FALL_BACK),
        (Aborted("stopped"), Verdict.FALL_BACK),
        (
            Refused(
                "no", status=Status.CHECK_CONDITION, sense=Event.POWER_ON_OR_RESET.sense.fixed()
            ),
            Verdict.TRY_AGAIN,
        ),
        (Refused("no", status=Status.BUSY, sense=b""), Verdict.TRY_AGAIN),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, DeviceError) else str(value),
)
def test_device_error_is_classified(error: DeviceError, verdict: Verdict) -> None:
    assert classify_error(error).verdict is verdict


def test_every_row_of_the_table_has_a_name_and_the_last_fits_everything() -> None:
    names = [row.name for row in CHECK_CONDITION_TABLE]
    assert len(set(names)) == len(names)
    last = CHECK_CONDITION_TABLE[-1]
    assert (last.key, last.asc, last.ascq, last.verdict) == (None, None, None, BACK)
