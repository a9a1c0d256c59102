"""Which portal of a target to prefer, by the asymmetric access states of its logical units.

There is one session at a time, so all logical units of the target go the same way. A portal is
worth what the worst state of a unit in use is through it (`Worth`). What is known of a portal came
from the last session there; a change of states makes all of it stale. A session is moved only where
the target says that another target port group is better and some portal may lead there: one that
is not known, or is known to be better. So the search ends at the best portal that there is, even
where no two units agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

from daiko.initiator.portal import Portal
from daiko.scsi.target_port_groups import AccessState, TargetPortGroup


class Worth(IntEnum):
    """How good a path is; less is better."""

    OPTIMIZED = 0
    NOT_KNOWN = 1
    """It may be as good as any, so it is tried before one that is known to be worse."""
    NON_OPTIMIZED = 2
    NOT_ACCESSIBLE = 3
    """Blocks cannot be read through it."""
    NO_ANSWER = 4


_OF_STATE = {
    AccessState.ACTIVE_OPTIMIZED: Worth.OPTIMIZED,
    AccessState.ACTIVE_NON_OPTIMIZED: Worth.NON_OPTIMIZED,
}


def worth_of(state: int) -> Worth:
    """What a path in this state is worth."""
    known = state in _OF_STATE
    return _OF_STATE[AccessState(state)] if known else Worth.NOT_ACCESSIBLE


def judge(
    units: Sequence[tuple[int, Sequence[TargetPortGroup]]],
) -> tuple[Worth, Worth]:
    """(worth of the path here, of the best one elsewhere), from each unit's own target port group
    and what it reports of all groups. A unit that does not report its own group says nothing."""
    here, elsewhere = Worth.OPTIMIZED, Worth.NO_ANSWER
    for own, groups in units:
        states = {group.group: worth_of(group.state) for group in groups}
        if own not in states:
            continue
        here = max(here, states.pop(own))
        elsewhere = min([elsewhere, *states.values()])
    return here, elsewhere


class PathChoice:
    """What is known of the portals of one target."""

    __slots__ = ("_portals", "_worth")

    def __init__(self, portals: Sequence[Portal]) -> None:
        self._portals = tuple(portals)
        self._worth: dict[Portal, Worth] = {}

    @property
    def known(self) -> Mapping[Portal, Worth]:
        """What was found so far."""
        return self._worth

    def note(self, portal: Portal, worth: Worth) -> None:
        """This is what the portal is worth now."""
        self._worth[portal] = worth

    def forget(self) -> None:
        """The states have changed: every portal may be as good as any."""
        self._worth.clear()

    def order(self, first: int) -> list[Portal]:
        """The portals in the order in which to try them: by worth; among equals from the one with
        the number `first` on, around."""
        around = [*self._portals[first:], *self._portals[:first]]
        return sorted(around, key=self._worth_of)

    def is_worth_leaving(self, portal: Portal, here: Worth, elsewhere: Worth) -> bool:
        """Note what the portal in use is worth, and say whether to try another one."""
        self.note(portal, here)
        return elsewhere < here and any(
            self._worth_of(other) < here for other in self._portals if other != portal
        )

    def _worth_of(self, portal: Portal) -> Worth:
        return self._worth.get(portal, Worth.NOT_KNOWN)
