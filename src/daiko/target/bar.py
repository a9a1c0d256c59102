"""What bars commands at a logical unit, and what a barred command is answered.

A bar is a condition of the unit, as one host sees it, under which not every command is carried
out. Which ones are not is written in the columns of the command table; `barred_by` compiles them
to a mask for each row, and each I_T_L nexus keeps the mask of the bars that stand for it
(`ItlNexus.bars`). So the gate looks at one integer, `row mask & nexus mask`, whatever stands.

Only where that is not 0 does `answer_to_barred` ask which bar it was. The order of `_ANSWERS` is
the order in which SCSI looks: can the port be used (SPC-4, 5.16.2), can the medium (SBC-4, 4.11),
is the unit another's (SPC-4, 5.13), may the medium be written. A unit attention is reported before
any of them.
"""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Final

from daiko.command_control.command_table import Change, CommandRow
from daiko.scsi import sense
from daiko.scsi.opcode import Status
from daiko.target.failure import Answer

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus


class Bar(IntFlag):
    """The bars. A nexus may have several at once."""

    UNAVAILABLE = 1 << 0
    """The target port is in the asymmetric access state unavailable."""
    STANDBY = 1 << 1
    """It is in the state standby."""
    TRANSITIONING = 1 << 9
    """It is on its way from one state to another."""
    FORMATTING = 1 << 5
    """FORMAT UNIT is at work on the medium."""
    SANITIZING = 1 << 6
    """SANITIZE is at work on the medium."""
    FORMAT_FAILED = 1 << 7
    """FORMAT UNIT did not come to its end."""
    SANITIZE_FAILED = 1 << 8
    """SANITIZE did not come to its end."""
    WRITE_EXCLUSIVE = 1 << 2
    """Another host holds a reservation of a write exclusive type."""
    EXCLUSIVE_ACCESS = 1 << 3
    """Another host holds a reservation of an exclusive access type."""
    RESERVED = 1 << 10
    """Another host has the unit by RESERVE(6) or RESERVE(10)."""
    SELF_TEST = 1 << 11
    """A self-test is at work in the foreground."""
    WRITE_PROTECTED = 1 << 4
    """The medium is not to be written."""


OF_MEDIUM: Final = Bar.FORMATTING | Bar.SANITIZING
"""Bars whose answer says how far the work is."""


def barred_by(row: CommandRow) -> int:
    """The bars under which the command is not carried out."""
    bars = Bar(0)
    if not row.state.unavailable:
        bars |= Bar.UNAVAILABLE
    if not row.state.standby:
        bars |= Bar.STANDBY
    if not row.state.transitioning:
        bars |= Bar.TRANSITIONING
    if not row.on_medium.in_progress:
        bars |= Bar.FORMATTING | Bar.SANITIZING | Bar.SELF_TEST
    if not row.on_medium.sanitize_failed:
        bars |= Bar.SANITIZE_FAILED
    if not row.on_medium.format_failed:
        bars |= Bar.FORMAT_FAILED
    if not row.reservation.write_exclusive:
        bars |= Bar.WRITE_EXCLUSIVE
    if not row.reservation.exclusive_access:
        bars |= Bar.EXCLUSIVE_ACCESS
    if not row.reservation.reserved:
        bars |= Bar.RESERVED
    if row.change is Change.WRITES:
        bars |= Bar.WRITE_PROTECTED
    return int(bars)


PORT_STATES: Final = int(Bar.UNAVAILABLE | Bar.STANDBY | Bar.TRANSITIONING)
"""The bars of the asymmetric access state of the target port."""

BY_RESERVATION: Final = int(Bar.WRITE_EXCLUSIVE | Bar.EXCLUSIVE_ACCESS | Bar.RESERVED)
"""The bars that a command in a harmless form passes (`command_table.passes_reservations`)."""


_ANSWERS: dict[Bar, Answer] = {
    Bar.UNAVAILABLE: (Status.CHECK_CONDITION, sense.target_port_unavailable()),
    Bar.STANDBY: (Status.CHECK_CONDITION, sense.target_port_in_standby()),
    Bar.TRANSITIONING: (Status.CHECK_CONDITION, sense.target_port_in_transition()),
    Bar.FORMATTING: (Status.CHECK_CONDITION, sense.format_in_progress()),
    Bar.SANITIZING: (Status.CHECK_CONDITION, sense.sanitize_in_progress()),
    Bar.SELF_TEST: (Status.CHECK_CONDITION, sense.self_test_in_progress(0)),
    Bar.SANITIZE_FAILED: (Status.CHECK_CONDITION, sense.sanitize_command_failed()),
    Bar.FORMAT_FAILED: (Status.CHECK_CONDITION, sense.medium_format_corrupted()),
    Bar.WRITE_EXCLUSIVE: (Status.RESERVATION_CONFLICT, None),
    Bar.EXCLUSIVE_ACCESS: (Status.RESERVATION_CONFLICT, None),
    Bar.RESERVED: (Status.RESERVATION_CONFLICT, None),
    Bar.WRITE_PROTECTED: (Status.CHECK_CONDITION, sense.write_protected()),
}


def bars_for(unit: LogicalUnit, itl: ItlNexus) -> int:
    """What bars commands of one host at a unit now."""
    bars = unit.asymmetric_access.bar_at(itl.nexus.portal_group_tag)
    bars |= unit.reservations.bars_for(itl.nexus)
    if unit.self_test is not None and unit.self_test.is_exclusive:
        bars |= Bar.SELF_TEST
    if unit.is_write_protected:
        bars |= Bar.WRITE_PROTECTED
    if unit.medium_state is not None:
        bars |= unit.medium_state.bars
    return int(bars)


def answer_to_barred(bars: int) -> Answer:
    """Status and sense data for a command that is barred by all of `bars` (not 0)."""
    return next(answer for bar, answer in _ANSWERS.items() if bars & bar)
