"""The few ways a device fails.

A device reports a failure by handing one of these to the completion callback; it never raises
from `read`, `write` and the like. `target/logical_unit.py` turns each into a status and sense
data by one table, the copy manager decides by them whether to try again, to go on with another
executor or to give up. Nobody else interprets them.
"""

from __future__ import annotations


class DeviceError(Exception):
    """What went wrong with a request to a device; the message is for the administrator."""


class OutOfRange(DeviceError):
    """The range does not lie inside the device (SBC: LOGICAL BLOCK ADDRESS OUT OF RANGE)."""


class MediumFailure(DeviceError):
    """The storage under the device could not read or write the blocks."""

    def __init__(self, message: str, *, writing: bool, lba: int | None = None) -> None:
        super().__init__(message)
        self.writing = writing
        self.lba = lba
        """The first block concerned, in blocks of the device, where it is known."""


class SpaceExhausted(DeviceError):
    """A thin or sparse device found no room for the data (SBC: SPACE ALLOCATION FAILED)."""


class WriteProtected(DeviceError):
    """The device takes no writes."""


class Miscompare(DeviceError):
    """COMPARE AND WRITE found other data."""

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(message)
        self.offset = offset
        """Bytes from the start of the compare data to the first that differs."""


class Unsupported(DeviceError):
    """The device cannot do this, and no layer emulates it."""


class Unreachable(DeviceError):
    """No path to the device within the time allowed, or the connection was lost; a write may
    or may not have been done."""


class Busy(DeviceError):
    """The device has no room for the request now (BUSY, TASK SET FULL): try again later."""


class ReservationConflict(DeviceError):
    """Another initiator's reservation excludes the request (status RESERVATION CONFLICT)."""


class Aborted(DeviceError):
    """The request was taken back before it was done (task management, shutdown)."""


class Refused(DeviceError):
    """A second controller answered CHECK CONDITION; its sense data is carried along as it came."""

    def __init__(self, message: str, *, status: int, sense: bytes) -> None:
        super().__init__(message)
        self.status = status
        self.sense = sense
        """Sense data in fixed or descriptor format, without the iSCSI length field."""
