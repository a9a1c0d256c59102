"""How a logical unit reports what its device reports: the one table from `DeviceError` to SCSI.

The order of the rows does not matter: the class of the error selects the row, and the classes of
`device/error.py` do not derive from each other. A class without a row is a fault of this program
and is reported as HARDWARE ERROR, INTERNAL TARGET FAILURE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daiko.device import error as device
from daiko.scsi import sense
from daiko.scsi.opcode import Status
from daiko.scsi.sense import Sense

Answer = tuple[int, Sense | bytes | None]
"""Status, and sense data: a condition, bytes that are passed on as they came, or none."""

_CHECK = Status.CHECK_CONDITION

_ROWS: dict[type[device.DeviceError], Callable[[Any], Answer]] = {
    device.OutOfRange: lambda error: (_CHECK, sense.lba_out_of_range()),
    device.MediumFailure: lambda error: (
        _CHECK,
        sense.medium_error(writing=error.writing, lba=error.lba),
    ),
    device.SpaceExhausted: lambda error: (_CHECK, sense.space_allocation_failed()),
    device.WriteProtected: lambda error: (_CHECK, sense.write_protected()),
    device.Miscompare: lambda error: (_CHECK, sense.miscompare(error.offset)),
    device.Unsupported: lambda error: (_CHECK, sense.invalid_opcode()),
    device.Unreachable: lambda error: (_CHECK, sense.unreachable()),
    device.Busy: lambda error: (Status.BUSY, None),
    device.ReservationConflict: lambda error: (Status.RESERVATION_CONFLICT, None),
    device.Aborted: lambda error: (Status.BUSY, None),
    device.Refused: lambda error: (error.status, error.sense),
}


def answer_to(error: device.DeviceError) -> Answer:
    """Status and sense data for a failed request."""
    row = _ROWS.get(type(error))
    return row(error) if row is not None else (_CHECK, sense.internal_target_failure())
