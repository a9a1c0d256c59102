"""Unit attention conditions of one I_T_L nexus (SAM-5, 5.14).

A condition waits here until it is reported: by CHECK CONDITION to the next command that reports
them, or as the parameter data of REQUEST SENSE. The list is nearly always empty, and its truth
value is all that the data path looks at. The events themselves: `event.py`.
"""

from __future__ import annotations

from daiko.scsi.sense import Sense
from daiko.target.event import LOWEST_RANK, Event, clears_all, rank


class UnitAttentions(list[Sense]):
    """Pending conditions, the most urgent first."""

    __slots__ = ()

    def establish(self, condition: Sense) -> None:
        """Add a condition, unless the same one is pending already.

        A reset or a power-on makes everything that the initiator knew stale, so it clears what
        was pending; a lesser one that follows it, or the loss of the nexus, says nothing new
        (SAM-5, 5.14)."""
        place = rank(condition)
        if place < LOWEST_RANK and self and clears_all(self[0]) and rank(self[0]) <= place:
            return
        if clears_all(condition):
            self[:] = [condition]
            return
        code = (condition.asc, condition.ascq)
        at = 0
        for pending in self:
            if (pending.asc, pending.ascq) == code:
                return
            at += rank(pending) <= place
        self.insert(at, condition)

    def take(self) -> Sense:
        """Report the most urgent condition: it is cleared. Raises IndexError when none is."""
        return self.pop(0)

    def clear(self, event: Event | None = None) -> None:
        """Clear the condition of an event that the initiator has learnt of in another way, or
        all that are pending."""
        gone = event and event.sense
        self[:] = [each for each in self if gone is not None and each != gone]
