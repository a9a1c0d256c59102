"""Parameter data of the REPORT commands: LUNS, SUPPORTED OPERATION CODES, SUPPORTED TASK MANAGEMENT
FUNCTIONS; and the LUN field itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from daiko.scsi.layout import Buffer, Layout, MalformedData, bit, bits, constant, number

# --- LUN field (SAM-5, 4.7) ----------------------------------------------------------------------


def lun_field(lun: int) -> int:
    """The 8-byte LUN field of a logical unit number, as an unsigned integer: peripheral device
    addressing below 256, flat space addressing up to 16383. Raises ValueError above that."""
    if 0 <= lun < 0x100:
        return lun << 48
    if 0 <= lun < 0x4000:
        return (0x4000 | lun) << 48
    raise ValueError(f"LUN {lun} does not fit one level of addressing")


def lun_number(field: int) -> int | None:
    """The logical unit number in an 8-byte LUN field; None for the forms that we do not use
    (several levels, a bus number, well known and extended addressing)."""
    first = field >> 48
    if field & 0xFFFFFFFFFFFF:
        return None
    if first < 0x100:
        return first
    return first & 0x3FFF if first >> 14 == 1 else None


# --- REPORT LUNS (SPC-4, 6.33) -------------------------------------------------------------------


def pack_report_luns(fields: Iterable[int]) -> bytes:
    """`fields` are 8-byte LUN fields."""
    entries = b"".join([field.to_bytes(8, "big") for field in fields])
    return len(entries).to_bytes(4, "big") + bytes(4) + entries


def parse_report_luns(data: Buffer) -> tuple[int, ...]:
    """The 8-byte LUN fields; raises MalformedData when the answer is cut short."""
    end = 8 + int.from_bytes(data[:4], "big")
    if len(data) < max(8, end):
        raise MalformedData(f"REPORT LUNS: {end} bytes, {len(data)} present")
    return tuple([int.from_bytes(data[at : at + 8], "big") for at in range(8, end - (end % 8), 8)])


# --- REPORT SUPPORTED OPERATION CODES (SPC-4, 6.35) ----------------------------------------------


class ReportingOptions(IntEnum):
    ALL = 0
    ONE_OPCODE = 1
    """Refused where the operation code has service actions."""
    ONE_SERVICE_ACTION = 2
    """Refused where the operation code has none."""
    ONE = 3


class Support(IntEnum):
    NOT_AVAILABLE = 0
    NOT_SUPPORTED = 1
    STANDARD = 3
    VENDOR = 5


_COMMAND = Layout(
    "CommandDescriptor",
    8,
    number("opcode", 0, 1),
    number("service_action", 2, 2),
    bit("ctdp", 5, 1),
    bit("servactv", 5, 0),
    number("cdb_length", 6, 2),
)

_ONE_COMMAND = Layout(
    "OneCommand",
    4,
    bit("ctdp", 1, 7),
    bits("support", 1, 2, 0),
    number("cdb_length", 2, 2),
)

_TIMEOUTS = Layout(
    "CommandTimeoutsDescriptor",
    12,
    constant("length", 0, 10, width=16),
    number("command_specific", 3, 1),
    number("nominal", 4, 4),
    number("recommended", 8, 4),
)


class CommandTimeouts(NamedTuple):
    """How long a command takes, in seconds (SPC-4, 6.35.4); 0 = not said."""

    nominal: int = 0
    """The longest it takes where nothing is wrong."""
    recommended: int = 0
    """When an initiator may take it for lost."""

    def pack(self) -> bytes:
        """The command timeouts descriptor."""
        return _TIMEOUTS.pack(nominal=self.nominal, recommended=self.recommended)

    @classmethod
    def parse(cls, data: Buffer, at: int) -> CommandTimeouts:
        fields = _TIMEOUTS.unpack(data, at)
        return cls(fields.nominal, fields.recommended)


@dataclass(frozen=True, slots=True)
class SupportedCommand:
    """One command descriptor."""

    opcode: int
    service_action: int | None
    """None where the operation code has no service actions."""
    cdb_length: int
    timeouts: CommandTimeouts | None = None
    """None = they are not said."""


def pack_all_commands(commands: Iterable[SupportedCommand]) -> bytes:
    """Parameter data for ReportingOptions.ALL."""
    entries = b"".join(
        [
            _COMMAND.pack(
                opcode=command.opcode,
                service_action=command.service_action or 0,
                ctdp=command.timeouts is not None,
                servactv=command.service_action is not None,
                cdb_length=command.cdb_length,
            )
            + (command.timeouts.pack() if command.timeouts is not None else b"")
            for command in commands
        ]
    )
    return len(entries).to_bytes(4, "big") + entries


def parse_all_commands(data: Buffer) -> tuple[SupportedCommand, ...]:
    """Read an answer to ReportingOptions.ALL; raises MalformedData when it is cut short."""
    end = 4 + int.from_bytes(data[:4], "big")
    if len(data) < max(4, end):
        raise MalformedData(f"supported operation codes: {end} bytes, {len(data)} present")
    found, at = [], 4
    while at < end:
        if end - at < _COMMAND.length:
            raise MalformedData("supported operation codes: the last command is cut short")
        fields = _COMMAND.unpack(data, at)
        action = fields.service_action if fields.servactv else None
        at += _COMMAND.length
        timeouts = CommandTimeouts.parse(data, at) if fields.ctdp else None
        found.append(SupportedCommand(fields.opcode, action, fields.cdb_length, timeouts))
        at += _TIMEOUTS.length if fields.ctdp else 0
    return tuple(found)


def pack_one_command(
    support: Support, usage: bytes = b"", timeouts: CommandTimeouts | None = None
) -> bytes:
    """Parameter data for one command. `usage` is CDB USAGE DATA: a layout's mask."""
    if support not in (Support.STANDARD, Support.VENDOR):
        timeouts = None
    head = _ONE_COMMAND.pack(ctdp=timeouts is not None, support=support, cdb_length=len(usage))
    return head + usage + (timeouts.pack() if timeouts is not None else b"")


def parse_one_command(data: Buffer) -> tuple[int, bytes]:
    """(support, CDB usage data) of an answer about one command; raises MalformedData."""
    fields = _ONE_COMMAND.unpack(data)
    usage = bytes(data[4 : 4 + fields.cdb_length])
    if len(usage) < fields.cdb_length:
        raise MalformedData(f"CDB usage data: {fields.cdb_length} bytes, {len(usage)} present")
    return fields.support, usage


# --- REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4, 6.37) ------------------------------------

_TASK_MANAGEMENT = Layout(
    "TaskManagementFunctions",
    4,
    bit("abort_task", 0, 7),
    bit("abort_task_set", 0, 6),
    bit("clear_aca", 0, 5),
    bit("clear_task_set", 0, 4),
    bit("logical_unit_reset", 0, 3),
    bit("query_task", 0, 2),
    bit("target_reset", 0, 1),
    bit("query_async_event", 1, 2),
    bit("query_task_set", 1, 1),
    bit("it_nexus_reset", 1, 0),
)


_QUICK_FUNCTIONS = {
    "abort_task": "atts",
    "abort_task_set": "atsts",
    "clear_aca": "cacats",
    "clear_task_set": "ctsts",
    "logical_unit_reset": "lurts",
    "query_task": "qtts",
    "query_async_event": "qaets",
    "query_task_set": "qtsts",
    "it_nexus_reset": "itnrts",
}
"""Function -> the bit that says that the short timeout is its."""

_TASK_MANAGEMENT_TIMEOUTS = Layout(
    "TaskManagementFunctionsTimeouts",
    12,
    bit("tmftmov", 0, 0),
    bit("atts", 2, 7),
    bit("atsts", 2, 6),
    bit("cacats", 2, 5),
    bit("ctsts", 2, 4),
    bit("lurts", 2, 3),
    bit("qtts", 2, 2),
    bit("qaets", 3, 2),
    bit("qtsts", 3, 1),
    bit("itnrts", 3, 0),
    number("long", 4, 4),
    number("short", 8, 4),
)


class TaskManagementTimeouts(NamedTuple):
    """How long task management functions take, in tenths of a second (SPC-4, 6.37)."""

    long: int
    short: int
    quick: frozenset[str]
    """The functions that take no longer than `short`."""


def pack_task_management_functions(
    *names: str, timeouts: TaskManagementTimeouts | None = None
) -> bytes:
    """Parameter data with these functions supported; with `timeouts` (REPD) 16 bytes, else 4."""
    head = bytearray(_TASK_MANAGEMENT.pack(**dict.fromkeys(names, 1)))
    if timeouts is None:
        return bytes(head)
    head[3] = _TASK_MANAGEMENT_TIMEOUTS.length
    quick = {bit_: name in timeouts.quick for name, bit_ in _QUICK_FUNCTIONS.items()}
    return bytes(head) + _TASK_MANAGEMENT_TIMEOUTS.pack(
        tmftmov=1, long=timeouts.long, short=timeouts.short, **quick
    )
