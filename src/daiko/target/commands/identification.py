"""Identifying information and the timestamp (SPC-4, 5.7 and 5.2): what hosts write on a unit so
that they, and their administrators, know it again.

Identifying information is kept over restarts. The timestamp is the controller's clock until a host
sets another one for the unit, which then runs on until the controller stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from daiko.device.block import Buffer
from daiko.scsi import sense, spc
from daiko.scsi.layout import Layout, bits, constant, number
from daiko.scsi.opcode import Status
from daiko.scsi.sense import CheckCondition
from daiko.target.commands.handler import serves
from daiko.target.event import Event
from daiko.target.kept import Kept

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

GOOD = int(Status.GOOD)

# ---------------------------------------------------------------------- identifying information


@dataclass(frozen=True, slots=True)
class _InformationType:
    """A type of identifying information."""

    code: int
    maximum: int
    """Bytes of a parameter list."""
    read: Callable[[Kept], bytes]
    write: Callable[[Kept, bytes], Kept]
    """Raises ValueError for what the type does not allow."""


def _with_text(kept: Kept, data: bytes) -> Kept:
    """UTF-8 with a NUL at its end (SPC-4, 6.43); nothing at all takes the text away."""
    if data and (data[-1] or 0 in data[:-1]):
        raise ValueError("the text does not end with its NUL")
    data[:-1].decode("utf-8")
    return replace(kept, identifying_text=data[:-1])


BINARY, TEXT, SUPPORTED = 0x00, 0x02, 0x7F
_TYPES = {
    BINARY: _InformationType(
        BINARY,
        512,
        lambda kept: kept.identifying_information,
        lambda kept, data: replace(kept, identifying_information=data),
    ),
    TEXT: _InformationType(
        TEXT,
        256,
        lambda kept: kept.identifying_text + b"\0" if kept.identifying_text else b"",
        _with_text,
    ),
}

_SUPPORTED_TYPE = Layout(
    "SupportedInformationType", 4, bits("type", 0, 7, 1), number("maximum", 2, 2)
)


@serves("REPORT_IDENTIFYING_INFORMATION")
def report_identifying_information(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Of one type, or which types there are."""
    cdb = spc.ReportIdentifyingInformation.unpack(task.cdb)
    if cdb.information_type == SUPPORTED:
        body = b"".join(
            [_SUPPORTED_TYPE.pack(type=each.code, maximum=each.maximum) for each in _TYPES.values()]
        )
    else:
        body = _type(cdb.information_type).read(_kept(unit))
    data = len(body).to_bytes(4, "big") + body
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


@serves("SET_IDENTIFYING_INFORMATION")
def set_identifying_information(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """On stable storage before the status."""
    cdb = spc.SetIdentifyingInformation.unpack(task.cdb)
    kind = _type(cdb.information_type)
    length = cdb.parameter_list_length
    if length > kind.maximum:
        raise CheckCondition(sense.invalid_field_in_cdb(6))

    def received(data: Buffer) -> None:
        if len(data) < length:
            raise CheckCondition(sense.parameter_list_length_error())
        try:
            kept = kind.write(_kept(unit), bytes(data))
        except ValueError as error:
            raise CheckCondition(sense.invalid_field_in_parameter_list(0)) from error
        assert unit.keeper is not None
        unit.keeper.keep(kept, stored)

    def stored(is_kept: bool) -> None:
        if is_kept:
            unit.announce(Event.IDENTIFIER_CHANGED, by=itl)
            itl.finish(task, GOOD)
        else:
            itl.refuse(task, sense.internal_target_failure())

    unit.receive(itl, task, length, received)


def _type(code: int) -> _InformationType:
    if code not in _TYPES:
        raise CheckCondition(sense.invalid_field_in_cdb(10, 7))
    return _TYPES[code]


def _kept(unit: LogicalUnit) -> Kept:
    assert unit.keeper is not None
    return unit.keeper.kept


# ---------------------------------------------------------------------- timestamp

_TIMESTAMP = Layout(
    "TimestampParameterData",
    12,
    constant("length", 0, 10, width=16),
    bits("origin", 2, 2, 0),
    number("timestamp", 4, 6),
)

SET_BY_COMMAND, SET_OTHERWISE = 0b010, 0b011
"""TIMESTAMP ORIGIN: by SET TIMESTAMP, or by the clock of the machine."""

LARGEST_TIMESTAMP = 0xF1 << 40
"""The first byte may be F0h at most (SPC-4, 6.47)."""


def now() -> int:
    """Milliseconds since 1970, of the machine."""
    return time.time_ns() // 1_000_000


@serves("REPORT_TIMESTAMP")
def report_timestamp(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """The unit's clock, and who set it."""
    cdb = spc.ReportTimestamp.unpack(task.cdb)
    is_set = unit.timestamp_offset is not None
    data = _TIMESTAMP.pack(
        origin=SET_BY_COMMAND if is_set else SET_OTHERWISE,
        timestamp=(now() + (unit.timestamp_offset or 0)) % (1 << 48),
    )
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


@serves("SET_TIMESTAMP")
def set_timestamp(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Legal while SCSIP of the control extension mode page is one."""
    if not unit.mode.takes_timestamp:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 4))
    cdb = spc.SetTimestamp.unpack(task.cdb)
    length = cdb.parameter_list_length
    if not length:
        itl.finish(task, GOOD)
        return

    def received(data: Buffer) -> None:
        if len(data) < _TIMESTAMP.length:
            raise CheckCondition(sense.parameter_list_length_error())
        wanted = _TIMESTAMP.unpack(data).timestamp
        if wanted >= LARGEST_TIMESTAMP:
            raise CheckCondition(sense.invalid_field_in_parameter_list(4))
        unit.timestamp_offset = wanted - now()
        unit.announce(Event.TIMESTAMP_CHANGED, by=itl)
        itl.finish(task, GOOD)

    unit.receive(itl, task, min(length, _TIMESTAMP.length), received)
