"""Parameter data of the REPORT commands: LUNS, SUPPORTED OPERATION CODES, SUPPORTED TASK MANAGEMENT
FUNCTIONS; and the LUN field itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from daiko.scsi.layout import Buffer, Layout, MalformedData, bit, bits, number

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

_NO_TIMEOUTS = b"\x00\x0a" + bytes(10)
"""Command timeouts descriptor that says nothing (SPC-4, 6.35.4)."""


@dataclass(frozen=True, slots=True)
class SupportedCommand:
    """One command descriptor."""

    opcode: int
    service_action: int | None
    """None where the operation code has no service actions."""
    cdb_length: int


def pack_all_commands(commands: Iterable[SupportedCommand], *, timeouts: bool = False) -> bytes:
    """Parameter data for ReportingOptions.ALL."""
    entries = b"".join(
        [
            _COMMAND.pack(
                opcode=command.opcode,
                service_action=command.service_action or 0,
                ctdp=timeouts,
                servactv=command.service_action is not None,
                cdb_length=command.cdb_length,
            )
            + (_NO_TIMEOUTS if timeouts else b"")
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
        found.append(SupportedCommand(fields.opcode, action, fields.cdb_length))
        at += _COMMAND.length + (len(_NO_TIMEOUTS) if fields.ctdp else 0)
    return tuple(found)


def pack_one_command(support: Support, usage: bytes = b"", *, timeouts: bool = False) -> bytes:
    """Parameter data for one command. `usage` is CDB USAGE DATA: a layout's mask."""
    timeouts = timeouts and support in (Support.STANDARD, Support.VENDOR)
    head = _ONE_COMMAND.pack(ctdp=timeouts, support=support, cdb_length=len(usage))
    return head + usage + (_NO_TIMEOUTS if timeouts else b"")


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


def pack_task_management_functions(*names: str, extended: bool = False) -> bytes:
    """Parameter data with these functions supported; `extended` = REPD, 16 bytes instead of 4."""
    head = bytearray(_TASK_MANAGEMENT.pack(**dict.fromkeys(names, 1)))
    if extended:
        head[3] = 0x0C
    return bytes(head) + (bytes(12) if extended else b"")
