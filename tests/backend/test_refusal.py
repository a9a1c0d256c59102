"""Each status and sense that a second controller may give, and the error it becomes."""

from __future__ import annotations

import pytest

from daiko.backend.refusal import device_error
from daiko.device.error import (
    Aborted,
    Busy,
    DeviceError,
    MediumFailure,
    Miscompare,
    OutOfRange,
    Refused,
    ReservationConflict,
    SpaceExhausted,
    Unreachable,
    Unsupported,
    WriteProtected,
)
from daiko.scsi import sense as senses
from daiko.scsi.opcode import Status
from daiko.scsi.sense import Sense
from daiko.target.event import Event

STATUSES: list[tuple[int, type[DeviceError] | None]] = [
    (Status.GOOD, None),
    (Status.CONDITION_MET, None),
    (Status.BUSY, Busy),
    (Status.TASK_SET_FULL, Busy),
    (Status.RESERVATION_CONFLICT, ReservationConflict),
    (Status.TASK_ABORTED, Aborted),
    (Status.ACA_ACTIVE, Refused),
    (Status.CHECK_CONDITION, Refused),  # without sense data
    (0xEE, Refused),
]

SENSES: list[tuple[Sense, type[DeviceError] | None]] = [
    (senses.no_sense(), None),
    (Sense(1, 0x17, 0x00), None),
    (senses.unrecovered_read_error(77), MediumFailure),
    (senses.write_error(77), MediumFailure),
    (senses.internal_target_failure(), MediumFailure),
    (senses.write_protected(), WriteProtected),
    (senses.space_allocation_failed(), SpaceExhausted),
    (senses.miscompare(300), Miscompare),
    (senses.lba_out_of_range(), OutOfRange),
    (senses.logical_unit_not_supported(), Unreachable),
    (senses.not_ready_becoming_ready(), Busy),
    (senses.not_ready_manual_intervention(), Refused),
    (Event.POWER_ON_OR_RESET.sense, Busy),
    (senses.invalid_opcode(), Refused),
    (senses.invalid_field_in_cdb(1), Refused),
    (senses.overlapped_commands_attempted(), Refused),
]


@pytest.mark.parametrize(("status", "expected"), STATUSES)
def test_status_becomes_its_error(status: int, expected: type[DeviceError] | None) -> None:
    error = device_error(status, b"", "sd1/0: WRITE", writing=True)
    assert type(error) is (expected or type(None))


@pytest.mark.parametrize(
    ("sense", "expected"), SENSES, ids=[str(sense).split(",")[1][:40] for sense, _ in SENSES]
)
@pytest.mark.parametrize("form", ["fixed", "descriptor"])
def test_sense_becomes_its_error(
    sense: Sense, expected: type[DeviceError] | None, form: str
) -> None:
    data = sense.pack(descriptor_format=form == "descriptor")
    error = device_error(Status.CHECK_CONDITION, data, "sd1/0: WRITE", writing=True)
    assert type(error) is (expected or type(None))
    if isinstance(error, MediumFailure):
        assert (error.writing, error.lba) == (True, sense.information)
    if isinstance(error, Miscompare):
        assert error.offset == 300
    if isinstance(error, Refused):
        assert (error.status, error.sense) == (Status.CHECK_CONDITION, data)
    if error is not None:
        assert str(error).startswith("sd1/0: WRITE")


@pytest.mark.parametrize("sense", [senses.invalid_opcode(), senses.invalid_field_in_cdb(1)])
def test_missing_optional_command_is_unsupported(sense: Sense) -> None:
    data = sense.fixed()
    error = device_error(Status.CHECK_CONDITION, data, "x", writing=False, optional=True)
    assert type(error) is Unsupported
