"""The events that hosts are told of by a unit attention condition: one row for each (SAM-5, 5.14).

A row says the additional sense code, who is told, and what caused it. `LogicalUnit.announce` goes
by it, `unit_attention.py` keeps what is pending for each I_T_L nexus in the order of `rank`, and
docs/reference/unit-attentions.md is made from it. What ends a condition is the same for all of
them (`unit_attention.py`), but for REPORTED LUNS DATA HAS CHANGED, which a REPORT LUNS ends too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from daiko.scsi.sense import Sense, SenseKey


class Told(Enum):
    """Who is told of an event."""

    ALL = auto()
    """Every I_T nexus that sees the unit."""
    OTHERS = auto()
    """Every I_T nexus but the one whose command caused it; all of them where the cause is none."""
    CONCERNED = auto()
    """The I_T nexuses that it happened to; whoever announces it names them."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event. All columns are required."""

    asc: int
    ascq: int
    told: Told
    cause: str
    """What happened, for the reference."""


_ALL, _OTHERS, _CONCERNED = Told.ALL, Told.OTHERS, Told.CONCERNED


class Event(Enum):
    """The events, in the order of their codes. Named as in SPC-5, annex F."""

    MEDIUM_MAY_HAVE_CHANGED = EventRow(
        0x28, 0x00, _OTHERS, "the unit became ready again with other contents: it was formatted"
    )
    POWER_ON_OR_RESET = EventRow(
        0x29, 0x00, _CONCERNED, "the host has logged in, or has been given the unit"
    )
    TARGET_RESET = EventRow(0x29, 0x02, _ALL, "TARGET WARM RESET or TARGET COLD RESET")
    LOGICAL_UNIT_RESET = EventRow(0x29, 0x03, _ALL, "LOGICAL UNIT RESET")
    DEVICE_INTERNAL_RESET = EventRow(
        0x29, 0x04, _ALL, "a back end under the volume was reset: what its cache held may be lost"
    )
    NEXUS_LOSS = EventRow(0x29, 0x07, _CONCERNED, "I_T NEXUS RESET")
    MODE_PARAMETERS_CHANGED = EventRow(
        0x2A, 0x01, _OTHERS, "MODE SELECT changed a page that all hosts share"
    )
    LOG_PARAMETERS_CHANGED = EventRow(
        0x2A, 0x02, _OTHERS, "LOG SELECT changed or reset parameters that all hosts share"
    )
    RESERVATIONS_PREEMPTED = EventRow(
        0x2A, 0x03, _CONCERNED, "PERSISTENT RESERVE OUT with CLEAR removed the registration"
    )
    RESERVATIONS_RELEASED = EventRow(
        0x2A,
        0x04,
        _CONCERNED,
        "a reservation for registrants or of all registrants was released or became void",
    )
    REGISTRATIONS_PREEMPTED = EventRow(
        0x2A, 0x05, _CONCERNED, "PREEMPT or PREEMPT AND ABORT removed the registration"
    )
    ACCESS_STATE_CHANGED = EventRow(
        0x2A, 0x06, _OTHERS, "the asymmetric access state of a target port group changed"
    )
    CAPACITY_CHANGED = EventRow(0x2A, 0x09, _ALL, "the volume has grown")
    TIMESTAMP_CHANGED = EventRow(0x2A, 0x10, _OTHERS, "SET TIMESTAMP")
    COMMANDS_CLEARED = EventRow(
        0x2F,
        0x00,
        _CONCERNED,
        "another host's command or task management ended the host's commands, and TAS is 0",
    )
    SOFT_THRESHOLD_REACHED = EventRow(
        0x38, 0x07, _ALL, "the storage of a thin volume is nearly used up"
    )
    INQUIRY_DATA_CHANGED = EventRow(
        0x3F, 0x03, _ALL, "the storage under the volume offers more or less than before"
    )
    IDENTIFIER_CHANGED = EventRow(0x3F, 0x05, _OTHERS, "SET IDENTIFYING INFORMATION")
    REPORTED_LUNS_CHANGED = EventRow(
        0x3F, 0x0E, _CONCERNED, "the host was given other logical units, or fewer"
    )

    @property
    def sense(self) -> Sense:
        """The condition, as sense data."""
        return _SENSE[self]

    @property
    def told(self) -> Told:
        return self.value.told


_SENSE = {
    event: Sense(SenseKey.UNIT_ATTENTION, event.value.asc, event.value.ascq) for event in Event
}

_RANKS = (
    frozenset({(0x29, 0x01), (0x29, 0x04)}),
    frozenset({(0x29, 0x00)}),
    frozenset({(0x29, 0x02)}),
    frozenset({(0x29, 0x03)}),
    frozenset({(0x29, 0x07)}),
)
LOWEST_RANK = len(_RANKS)


def rank(condition: Sense) -> int:
    """Where the condition stands among others (SAM-5, table of 5.14); 0 is reported first."""
    code = (condition.asc, condition.ascq)
    return next((place for place, codes in enumerate(_RANKS) if code in codes), LOWEST_RANK)


def clears_all(condition: Sense) -> bool:
    """A power on or a reset makes all that the host was told before stale (SAM-5, 6)."""
    return rank(condition) <= rank(Event.LOGICAL_UNIT_RESET.sense)


IMPOSSIBLE = (
    (
        "POWER ON OCCURRED",
        "29/01",
        "no session outlives the controller: a new one begins with 29/00",
    ),
    (
        "IMPLICIT ASYMMETRIC ACCESS STATE TRANSITION FAILED",
        "2A/07",
        "a state is changed in the store first, and then holds",
    ),
    ("SCSI commands cleared by a power loss notification", "2F/01", "no such notification"),
    ("MICROCODE HAS BEEN CHANGED", "3F/01", "no microcode is loaded by a host"),
    ("CHANGED OPERATING DEFINITION", "3F/02", "there is one operating definition"),
    ("COMPONENT DEVICE ATTACHED", "3F/10", "back ends are no component devices of a unit"),
    ("ECHO BUFFER OVERWRITTEN", "3F/0F", "each host has an echo buffer of its own"),
    ("PRIORITY CHANGED", "2A/08", "there are no command priorities"),
    ("TARGET OPERATING CONDITIONS HAVE CHANGED", "3F/00", "each change has a code of its own"),
    ("PREVIOUS BUSY STATUS", "2C/07", "UA_INTLCK_CTRL is 00b or 10b"),
    ("PREVIOUS TASK SET FULL STATUS", "2C/08", "UA_INTLCK_CTRL is 00b or 10b"),
    ("PREVIOUS RESERVATION CONFLICT STATUS", "2C/09", "UA_INTLCK_CTRL is 00b or 10b"),
)
"""Events of SPC and SAM that this product cannot have: (name, code, why)."""
