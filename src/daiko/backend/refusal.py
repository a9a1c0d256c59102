"""What a second controller's status and sense data mean for a device: one table of errors.

The other way round, `target/logical_unit.py` turns a `DeviceError` into what a host sees.
"""

from __future__ import annotations

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
from daiko.initiator.multipath import NOT_ACCESSIBLE
from daiko.scsi.layout import MalformedData
from daiko.scsi.opcode import Status
from daiko.scsi.sense import Sense, SenseKey, parse_sense

_LBA_OUT_OF_RANGE = (0x21, 0x00)
_INVALID_OPCODE = (0x20, 0x00)
_INVALID_FIELD_IN_CDB = (0x24, 0x00)
_NOT_SUPPORTED = (0x25, 0x00)
"""LOGICAL UNIT NOT SUPPORTED."""
_SPACE_ALLOCATION_FAILED = (0x27, 0x07)
_BECOMING_READY = (0x04, 0x01)
_MEDIUM_AT_WORK = frozenset({(0x04, 0x04), (0x04, 0x1B)})
"""FORMAT IN PROGRESS, SANITIZE IN PROGRESS."""


def device_error(
    status: int, sense: bytes, what: str, *, writing: bool, optional: bool = False
) -> DeviceError | None:
    """None for GOOD, else how the device failed. `what` names device and command for the
    administrator. `optional`: the command is one that a device need not have, so that "no such
    command" is Unsupported."""
    if status == Status.GOOD or status == Status.CONDITION_MET:
        return None
    if status in (Status.BUSY, Status.TASK_SET_FULL):
        return Busy(f"{what}: busy for too long")
    if status == Status.RESERVATION_CONFLICT:
        return ReservationConflict(f"{what}: another initiator holds a reservation")
    if status == Status.TASK_ABORTED:
        return Aborted(f"{what}: another initiator ended the task")
    if status != Status.CHECK_CONDITION:
        return Refused(f"{what}: status {status:02x}h", status=status, sense=sense)
    try:
        said = parse_sense(sense)
    except MalformedData as error:
        return Refused(f"{what}: {error}", status=status, sense=sense)
    return _of_sense(said, what, sense, writing=writing, optional=optional)


def is_of_medium(error: DeviceError) -> bool:
    """Whether a command that concerns no block was refused for the state of the medium: FORMAT UNIT
    or SANITIZE is at work on it, or has failed. Who the unit is can be asked all the same."""
    if isinstance(error, MediumFailure):
        return True
    if not isinstance(error, Refused):
        return False
    try:
        said = parse_sense(error.sense)
    except MalformedData:
        return False
    return said.key == SenseKey.NOT_READY and (said.asc, said.ascq) in _MEDIUM_AT_WORK


def _of_sense(
    said: Sense, what: str, sense: bytes, *, writing: bool, optional: bool
) -> DeviceError | None:
    words = f"{what}: {said}"
    code = (said.asc, said.ascq)
    match said.key:
        case SenseKey.NO_SENSE | SenseKey.RECOVERED_ERROR:
            return None  # the command did what it should; this is only a remark
        case SenseKey.MEDIUM_ERROR | SenseKey.HARDWARE_ERROR:
            return MediumFailure(words, writing=writing, lba=said.information)
        case SenseKey.DATA_PROTECT:
            return (SpaceExhausted if code == _SPACE_ALLOCATION_FAILED else WriteProtected)(words)
        case SenseKey.MISCOMPARE:
            return Miscompare(words, offset=said.information or 0)
        case SenseKey.UNIT_ATTENTION:
            return Busy(words)
        case SenseKey.NOT_READY if code == _BECOMING_READY:
            return Busy(words)
        case SenseKey.NOT_READY if code in NOT_ACCESSIBLE:
            # Of *our* path to it; a host must not take it for the state of its own.
            return Unreachable(words)
        case SenseKey.ILLEGAL_REQUEST:
            if code == _LBA_OUT_OF_RANGE:
                return OutOfRange(words)
            if code == _NOT_SUPPORTED:
                return Unreachable(words)
            if optional and code in (_INVALID_OPCODE, _INVALID_FIELD_IN_CDB):
                return Unsupported(words)
    return Refused(words, status=Status.CHECK_CONDITION, sense=sense)
