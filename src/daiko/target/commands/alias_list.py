"""The alias lists of the I_T nexuses (SPC-4, 6.2 and 6.26).

A host sets aliases before it names them in a copy; an entry says which device is meant, not
whether it can be reached or may be named: that is looked at when it is used. The list lives as
long as the nexus. It is bounded: a host that sets more is told INSUFFICIENT RESOURCES.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from daiko.scsi import sense
from daiko.scsi.alias import Alias
from daiko.scsi.sense import CheckCondition
from daiko.target.commands.list_identifiers import NexusIdentity
from daiko.target.nexus import Nexus

MAXIMUM_ALIASES = 1024
"""Of one nexus; some 300 bytes each."""


class AliasLists:
    """Alias value -> alias, for each nexus."""

    def __init__(self) -> None:
        self._lists: dict[NexusIdentity, dict[int, Alias]] = {}
        self._in_use: dict[NexusIdentity, Counter[int]] = {}

    def change(self, nexus: Nexus, changes: Iterable[Alias]) -> None:
        """Carry out a CHANGE ALIASES list, all of it or nothing. Raises CheckCondition: OPERATION
        IN PROGRESS when a running copy names one of the values, INSUFFICIENT RESOURCES."""
        changed = dict(self._lists.get(nexus.identity, {}))
        in_use = self._in_use.get(nexus.identity, Counter())
        for alias in changes:
            if in_use[alias.value] and changed.get(alias.value) != alias:
                raise CheckCondition(sense.operation_in_progress())
            if alias.name:
                changed[alias.value] = alias
            else:
                changed.pop(alias.value, None)
        if len(changed) > MAXIMUM_ALIASES:
            raise CheckCondition(sense.insufficient_resources())
        self._lists[nexus.identity] = changed

    def aliases(self, nexus: Nexus) -> tuple[Alias, ...]:
        """The list of a nexus, by value."""
        return tuple(alias for _, alias in sorted(self._lists.get(nexus.identity, {}).items()))

    def find(self, nexus: Nexus, value: int) -> Alias | None:
        """What a value stands for."""
        return self._lists.get(nexus.identity, {}).get(value)

    def hold(self, nexus: Nexus, values: Iterable[int]) -> None:
        """A copy begins that names these values."""
        self._in_use.setdefault(nexus.identity, Counter()).update(values)

    def release(self, nexus: Nexus, values: Iterable[int]) -> None:
        """That copy has ended."""
        in_use = self._in_use.get(nexus.identity)
        if in_use is None:
            return
        in_use.subtract(values)
        left = +in_use
        if left:
            self._in_use[nexus.identity] = left
        else:
            del self._in_use[nexus.identity]

    def forget(self, nexus: Nexus) -> None:
        """The nexus was lost, and its list with it."""
        self._lists.pop(nexus.identity, None)
