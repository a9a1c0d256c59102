"""docs/reference/commands.md: the command table."""

from __future__ import annotations

from daiko.command_control.command_table import (
    ROWS,
    Addresses,
    Attention,
    Change,
    CommandRow,
    CommandSet,
    Data,
    Form,
    Order,
)
from daiko.scsi.report import CommandTimeouts
from daiko.target.logical_unit import MAXIMUM_TRANSFER
from reference_docs.markdown import code, head, member_words, said, spoken, table, text, words

_COLUMNS = (
    "command",
    "opcode",
    "service action",
    "CDB",
    "set",
    "function asked for",
    "data",
    "blocks",
    "task order",
    "unit attention",
    "medium",
    "under another's write exclusive",
    "under another's exclusive access",
    "under another's RESERVE",
    "port standby",
    "port unavailable",
    "medium in work",
    "format failed",
    "sanitize failed",
    "seconds, nominal",
    "seconds, recommended",
    "CDB usage data",
)

_HARMLESS = {
    Form.NONE: "",
    Form.STARTS_THE_UNIT: " (always: START 1, POWER CONDITION 0)",
    Form.ALLOWS_REMOVAL: " (always: PREVENT 0)",
}


def _row(row: CommandRow) -> tuple[str, ...]:
    action = row.service_action
    return (
        code(row.name),
        f"{row.opcode:02X}h",
        "" if action is None else f"{action:02X}h",
        str(row.layout.length),
        row.command_set.name.replace("_", " ").lower()
        if row.command_set in (CommandSet.THIRD_PARTY_COPY, CommandSet.SITE)
        else row.command_set.name,
        "" if row.function is None else str(row.function),
        spoken(row.data.name),
        spoken(row.addresses.name),
        spoken(row.order.name),
        spoken(row.attention.name),
        "writes" if row.change is Change.WRITES else "keeps",
        said(row.reservation.write_exclusive),
        said(row.reservation.exclusive_access),
        said(row.reservation.reserved) + _HARMLESS[row.reservation.harmless],
        said(row.state.standby),
        said(row.state.unavailable),
        said(row.on_medium.in_progress),
        said(row.on_medium.format_failed),
        said(row.on_medium.sanitize_failed),
        str(row.timeouts.nominal),
        str(row.timeouts.recommended),
        code(row.layout.mask.hex(" ")),
    )


def document() -> str:
    lines = head("Command table", "`command_control/command_table.py`")
    lines += [
        "Every SCSI command that a logical unit knows: one row for each command and service",
        "action. What has no row is answered with ILLEGAL REQUEST, INVALID COMMAND OPERATION CODE",
        "(20/00), or with INVALID FIELD IN CDB (24/00) where only its service action is unknown.",
        "REPORT SUPPORTED OPERATION CODES tells a host the same.",
        "",
        "A logical unit leaves out the rows that it cannot serve: those of third-party copy where",
        "it has no copy manager; UNMAP, WRITE SAME and COMPARE AND WRITE where its device neither",
        "has them nor has them emulated. Those of a site belong to a management unit, which has no",
        "others but TEST UNIT READY, REQUEST SENSE, INQUIRY, REPORT LUNS and REPORT SUPPORTED",
        "OPERATION CODES ([protocol.md](../protocol.md)).",
        "",
        f"One READ, WRITE or VERIFY moves at most {MAXIMUM_TRANSFER >> 20} MiB (page B0h).",
        "",
        "The columns of reservations and of port states say what the standards demand of each",
        "command. No reservation and no port state other than active exists yet",
        "([supported.md](../supported.md)).",
        "",
    ]
    lines += table(_COLUMNS, [_row(row) for row in ROWS])
    lines += ["## What the columns say", ""]
    columns = member_words(CommandRow)
    lines += table(
        ("column", "meaning"),
        [
            ("CDB", "Length in bytes."),
            ("set", words(CommandSet.__doc__)),
            ("function asked for", columns["function"]),
            ("data", words(Data.__doc__)),
            ("blocks", words(Addresses.__doc__)),
            ("task order", words(Order.__doc__)),
            ("unit attention", words(Attention.__doc__)),
            ("medium", words(Change.__doc__)),
            ("under another's …", "Carried out while another initiator holds this reservation."),
            ("port …", "Carried out by a target port in this asymmetric access state."),
            ("medium in work", "Carried out while FORMAT UNIT or SANITIZE is at work."),
            ("… failed", "Carried out after that has failed, until it succeeds."),
            ("seconds, …", words(CommandTimeouts.__doc__)),
            ("CDB usage data", "Bits that are evaluated; any other bit that is set is refused."),
        ],
    )
    for title, kind in (
        ("blocks", Addresses),
        ("task order", Order),
        ("unit attention", Attention),
    ):
        lines += [f"### {title}", ""]
        said_of = member_words(kind)
        lines += table(
            ("value", "meaning"),
            [(spoken(member.name), said_of.get(member.name, "")) for member in kind],
        )
    return text(lines)
