"""What the core reports of the data of a command to the role that carries it out.

These are answers of rare paths only; a READ or a WRITE that goes well makes no object here.
"""

from __future__ import annotations

from enum import Enum, auto


class DataOutEvent(Enum):
    """Outcome of a Data-Out PDU (`data_transfer.DataOutTransfer.receive`)."""

    MORE = auto()
    """The sequence goes on."""
    SEQUENCE_END = auto()
    """A sequence is complete; more may have to be asked for."""
    COMPLETE = auto()
    """All data that was asked for is here."""
    NO_SEQUENCE = auto()
    """Its target transfer tag is none of the command's R2Ts."""
    UNEXPECTED_UNSOLICITED = auto()
    """RFC 7143, 11.4.7.2: the command ends with sense 0B/0C/0C."""
    NOT_ENOUGH = auto()
    """RFC 7143, 11.4.7.2, incorrect amount of data: the command ends with sense 0B/0C/0D."""


class Arrival(Enum):
    """What becomes of a non-immediate command, by its CmdSN (`session.CommandWindow`)."""

    NEXT = auto()
    EARLY = auto()
    """Inside the window with a gap before it: to be held until the gap is filled."""
    IGNORED = auto()
    """A duplicate or outside the window: dropped silently (4.2.2.1)."""
