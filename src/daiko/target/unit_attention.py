"""Unit attention conditions of one I_T_L nexus (SAM-5, 5.14).

A condition waits here until it is reported: by CHECK CONDITION to the next command that reports
them, or as the parameter data of REQUEST SENSE. The list is nearly always empty, and its truth
value is all that the data path looks at.
"""

from __future__ import annotations

from daiko.scsi.sense import Sense


class UnitAttentions(list[Sense]):
    """Pending conditions, the most urgent first."""

    __slots__ = ()

    def establish(self, condition: Sense) -> None:
        """Add a condition, unless the same one is pending already.

        A reset or a power-on makes everything that the initiator knew stale, so it clears what
        was pending (SAM-5, 5.14: it has precedence over all others) and stands alone."""
        if condition.asc == RESET_ASC:
            if self and self[0].asc == RESET_ASC and self[0].ascq <= condition.ascq:
                return
            self[:] = [condition]
            return
        for pending in self:
            if (pending.asc, pending.ascq) == (condition.asc, condition.ascq):
                return
        self.append(condition)

    def take(self) -> Sense:
        """Report the most urgent condition: it is cleared. Raises IndexError when none is."""
        return self.pop(0)

    def clear_kind(self, asc: int, ascq: int) -> None:
        """Clear a condition that the initiator has learnt of in another way."""
        self[:] = [each for each in self if (each.asc, each.ascq) != (asc, ascq)]


RESET_ASC = 0x29
"""POWER ON, RESET, OR BUS DEVICE RESET OCCURRED and its relatives."""
