"""Numbering of a session: CmdSN and StatSN windows, task tags (RFC 7143, 4.2.2).

All numbers are 32-bit serial numbers (RFC 1982): compared by the sign of their difference. The
attributes are public on purpose: the data path reads and advances them in line.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from daiko.iscsi.bhs import RESERVED_TAG
from daiko.iscsi.error import LocalProtocolError
from daiko.iscsi.event import Arrival

MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


def serial_difference(a: int, b: int) -> int:
    """a - b of two serial numbers: negative where a is before b."""
    return (a - b + _HALF & MASK) - _HALF


class CommandWindow:
    """The target's side: which CmdSN comes next, how far the initiator may go.

    The window advances by one for each command that was answered (`answered`), so no more than
    `size` commands of a session are ever in progress."""

    __slots__ = ("exp_cmd_sn", "max_cmd_sn", "size", "withheld")

    def __init__(self, first: int, size: int = 128) -> None:
        if not 1 <= size < _HALF:
            raise LocalProtocolError("a command window has at least one place")
        self.size = size
        self.exp_cmd_sn = first
        self.max_cmd_sn = first + size - 1 & MASK
        self.withheld = 0
        """Places that answered commands have left, and that the initiator does not have back."""

    def arrive(self, cmd_sn: int) -> Arrival:
        """Judge the CmdSN of a non-immediate command. NEXT advances ExpCmdSN."""
        if cmd_sn == self.exp_cmd_sn:
            if serial_difference(cmd_sn, self.max_cmd_sn) > 0:
                return Arrival.IGNORED
            self.exp_cmd_sn = cmd_sn + 1 & MASK
            return Arrival.NEXT
        if (
            serial_difference(cmd_sn, self.exp_cmd_sn) > 0
            and serial_difference(cmd_sn, self.max_cmd_sn) <= 0
        ):
            return Arrival.EARLY
        return Arrival.IGNORED

    def answered(self) -> None:
        """A non-immediate command has its answer: one more may come."""
        self.max_cmd_sn = self.max_cmd_sn + 1 & MASK

    def withhold(self, least: int) -> None:
        """Keep back the place that an answered command has just left, of which the initiator has
        not been told, unless the window allows fewer than `least` more commands already."""
        if serial_difference(self.max_cmd_sn, self.exp_cmd_sn) >= least:
            self.max_cmd_sn = self.max_cmd_sn - 1 & MASK
            self.withheld += 1

    def give_back(self) -> None:
        """Open the window again by all places that were withheld."""
        self.max_cmd_sn = self.max_cmd_sn + self.withheld & MASK
        self.withheld = 0


class CommandNumbers:
    """The initiator's side: the next CmdSN, the target's window, the status acknowledged."""

    __slots__ = ("cmd_sn", "exp_cmd_sn", "exp_stat_sn", "max_cmd_sn")

    def __init__(self, cmd_sn: int, exp_stat_sn: int, exp_cmd_sn: int, max_cmd_sn: int) -> None:
        self.cmd_sn = cmd_sn
        """CmdSN of the next command."""
        self.exp_stat_sn = exp_stat_sn
        self.exp_cmd_sn = exp_cmd_sn
        self.max_cmd_sn = max_cmd_sn

    @property
    def is_open(self) -> bool:
        """Whether the window has room for one more non-immediate command."""
        return serial_difference(self.cmd_sn, self.max_cmd_sn) <= 0

    def take(self) -> int:
        """The CmdSN for a non-immediate command to be sent now."""
        if not self.is_open:
            raise LocalProtocolError("the command window is closed")
        cmd_sn = self.cmd_sn
        self.cmd_sn = cmd_sn + 1 & MASK
        return cmd_sn

    def update(self, exp_cmd_sn: int, max_cmd_sn: int) -> None:
        """Take the target's numbers from any of its PDUs (4.2.2.1)."""
        if serial_difference(max_cmd_sn, exp_cmd_sn - 1 & MASK) < 0:
            return
        if serial_difference(exp_cmd_sn, self.exp_cmd_sn) > 0:
            self.exp_cmd_sn = exp_cmd_sn
        if serial_difference(max_cmd_sn, self.max_cmd_sn) > 0:
            self.max_cmd_sn = max_cmd_sn

    def acknowledge(self, stat_sn: int) -> bool:
        """Take the StatSN of a PDU that carries a status. False: it is not the next one (a
        status was lost, which ends the session at ErrorRecoveryLevel 0)."""
        if stat_sn != self.exp_stat_sn:
            return False
        self.exp_stat_sn = stat_sn + 1 & MASK
        return True


class TaskTags:
    """Initiator task tags or target transfer tags: unique among those in use."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = RESERVED_TAG

    def take(self, in_use: Container[int] = ()) -> int:
        """A tag that is not in `in_use`, never the reserved one."""
        tag = self._last + 1 & MASK
        while tag == RESERVED_TAG or tag in in_use:
            tag = tag + 1 & MASK
        self._last = tag
        return tag
