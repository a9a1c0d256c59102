"""Target ports, the groups they are in, and what a unit allows through each (SPC-4, 5.16.2).

One target portal group tag of the iSCSI target is one SCSI target port, and its relative target
port identifier is the tag. Each port is in one target port group. The administrator gives each
group a state and says which is preferred; a logical unit may have a state of its own in a group,
given by the administrator or by a host's SET TARGET PORT GROUPS, which then counts instead.

`TargetPortGroups` is what all units of a target share. `AsymmetricAccess` is one unit's view of it:
the states that hold, the bar that follows from them for a port (`bar.py`), and the change of them.

**A change asked for by a host.** Where a group is about to lose the active states the unit first
refuses new commands there (the state is transitioning) and waits until those that it has begun
have ended: after the GOOD of SET TARGET PORT GROUPS nothing that came through those ports can
touch the medium any more. Then the `keeper` brings the states to stable storage, the new states
hold, and every other nexus is told. What does not end in time, or cannot be stored, ends the
command with SET TARGET PORT GROUPS COMMAND FAILED and leaves the states as they were.

A change by the administrator holds at once: it is implicit, and every nexus is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from daiko.scsi.opcode import Opcode
from daiko.scsi.target_port_groups import AccessState, StatusCode, TargetPortGroup
from daiko.target.bar import Bar
from daiko.target.event import Event

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

TRANSITION_SECONDS = 30
"""How long a change waits for commands in progress; also what hosts are told."""

SUPPORTED = frozenset(AccessState)
"""Every state can be met: hosts set the first four, the administrator takes a group offline, and a
change that a host asks for is seen as transitioning by others."""

_BARS = {
    AccessState.ACTIVE_OPTIMIZED: Bar(0),
    AccessState.ACTIVE_NON_OPTIMIZED: Bar(0),
    AccessState.STANDBY: Bar.STANDBY,
    AccessState.UNAVAILABLE: Bar.UNAVAILABLE,
    AccessState.OFFLINE: Bar.UNAVAILABLE,
    AccessState.TRANSITIONING: Bar.TRANSITIONING,
}


class GroupAccess(NamedTuple):
    """What holds in one target port group."""

    state: AccessState = AccessState.ACTIVE_OPTIMIZED
    preferred: bool = False
    by_host: bool = False
    """A host has set the state."""


class OwnAccess(NamedTuple):
    """What one unit says of a group; None = as the group says."""

    state: AccessState | None = None
    preferred: bool | None = None
    by_host: bool = False


_DEFAULT = GroupAccess()
_NOTHING = OwnAccess()


class TargetPortGroups:
    """The target ports of a target and their groups. Begins as one port, 1, in one group, 1."""

    __slots__ = ("_group_of", "_states", "hosts_set_states")

    def __init__(self) -> None:
        self.hosts_set_states = True
        """Units take SET TARGET PORT GROUPS (explicit as well as implicit access)."""
        self._group_of: dict[int, int] = {1: 1}
        self._states: dict[int, GroupAccess] = {}

    def replace(self, group_of: Mapping[int, int], states: Mapping[int, GroupAccess]) -> None:
        """Take these ports (relative target port -> group) and states of groups instead. Whoever
        calls it lets the units know by `AsymmetricAccess.follow`."""
        self._group_of = dict(group_of)
        self._states = dict(states)

    @property
    def ports(self) -> tuple[int, ...]:
        """Relative target ports, ascending."""
        return tuple(sorted(self._group_of))

    @property
    def groups(self) -> dict[int, tuple[int, ...]]:
        """Target port group -> its ports; groups and ports ascending."""
        found: dict[int, list[int]] = {}
        for port, group in sorted(self._group_of.items()):
            found.setdefault(group, []).append(port)
        return {group: tuple(found[group]) for group in sorted(found)}

    def group_of(self, port: int) -> int | None:
        """The group of a port; None for one that is not there (any more)."""
        return self._group_of.get(port)

    def access(self, group: int) -> GroupAccess:
        """What holds in a group for a unit that says nothing of its own."""
        return self._states.get(group, _DEFAULT)


class StateKeeper(Protocol):
    """Who brings states that a host has set to stable storage."""

    def keep_states(
        self, unit: LogicalUnit, states: Mapping[int, AccessState], done: Callable[[bool], None]
    ) -> None:
        """Store these states of groups for the unit and make it follow them; then `done(True)`,
        or `done(False)` with nothing changed."""


class AsymmetricAccess:
    """What a unit allows through the target port groups."""

    __slots__ = ("_asker", "_held", "_moving", "_own", "_unit", "groups", "keeper")

    def __init__(self, unit: LogicalUnit, groups: TargetPortGroups) -> None:
        self._unit = unit
        self.groups = groups
        self.keeper: StateKeeper | None = None
        """None: what a host sets does not outlive the unit."""
        self._own: dict[int, OwnAccess] = {}
        self._moving: frozenset[int] = frozenset()
        """Groups in transition."""
        self._asker: ItlNexus | None = None
        """Whose SET TARGET PORT GROUPS is being carried out."""
        self._held = self._snapshot()

    # --- what holds

    def state(self, group: int) -> AccessState:
        """The state of a group for this unit."""
        if group in self._moving:
            return AccessState.TRANSITIONING
        return self._settled(group).state

    def _settled(self, group: int) -> GroupAccess:
        everyone = self.groups.access(group)
        own = self._own.get(group, _NOTHING)
        preferred = everyone.preferred if own.preferred is None else own.preferred
        if own.state is None or everyone.state is AccessState.OFFLINE:
            return everyone._replace(preferred=preferred)
        return GroupAccess(own.state, preferred, own.by_host)

    def state_at(self, port: int) -> AccessState:
        """The state of a port. One that is gone is as good as offline."""
        group = self.groups.group_of(port)
        return AccessState.OFFLINE if group is None else self.state(group)

    def bar_at(self, port: int) -> Bar:
        """What bars commands that come through a port."""
        return _BARS[self.state_at(port)]

    def report(self) -> list[TargetPortGroup]:
        """For REPORT TARGET PORT GROUPS."""
        found = []
        for group, ports in self.groups.groups.items():
            settled = self._settled(group)
            code = StatusCode.NOTHING
            if settled.by_host:
                code = StatusCode.EXPLICIT
            elif settled.state is not AccessState.ACTIVE_OPTIMIZED:
                code = StatusCode.IMPLICIT
            found.append(
                TargetPortGroup(group, ports, self.state(group), SUPPORTED, settled.preferred, code)
            )
        return found

    # --- changes

    def follow(self, own: Mapping[int, OwnAccess] | None = None) -> None:
        """The groups, or with `own` what the unit itself says of them, are others now: tell the
        hosts where that changes anything for this unit."""
        if own is not None:
            self._own = dict(own)
        self._unit.refresh_bars()
        self._unit.refresh_commands()
        now = self._snapshot()
        if now != self._held:
            self._held = now
            self._unit.announce(Event.ACCESS_STATE_CHANGED, by=self._asker)

    def _snapshot(self) -> dict[int, tuple[AccessState, bool, tuple[int, ...]]]:
        return {
            group: (*self._settled(group)[:2], ports) for group, ports in self.groups.groups.items()
        }

    @property
    def is_changing(self) -> bool:
        """A host's SET TARGET PORT GROUPS is being carried out."""
        return self._asker is not None

    def change(
        self,
        wanted: Mapping[int, AccessState],
        asker: ItlNexus,
        task: Task,
        done: Callable[[bool], None],
    ) -> None:
        """Carry out a host's request for states that differ from those that hold. `done(True)`
        when they hold, `done(False)` when they do not and nothing has changed. One at a time
        (`is_changing`)."""
        self._asker = asker
        losing = {
            group
            for group, state in wanted.items()
            if self._settled(group).state.is_active and not state.is_active
        }

        def drained(in_time: bool) -> None:
            if not in_time:
                self._end(done, False)
            elif self.keeper is None:
                kept = {
                    group: self._own.get(group, _NOTHING)._replace(state=state, by_host=True)
                    for group, state in wanted.items()
                }
                self._moving = frozenset()
                self.follow({**self._own, **kept})
                self._end(done, True)
            else:
                self.keeper.keep_states(self._unit, wanted, lambda ok: self._end(done, ok))

        if not losing:
            drained(True)
            return
        self._moving = frozenset(losing)
        self._unit.refresh_bars()
        self._drain(losing, task, drained)

    def _end(self, done: Callable[[bool], None], ok: bool) -> None:
        self._moving = frozenset()
        self._asker = None
        self._unit.refresh_bars()
        done(ok)

    def _drain(self, losing: Iterable[int], own: Task, done: Callable[[bool], None]) -> None:
        """Wait until the commands that came through these groups have ended. Copies are not
        waited for: they are jobs, which go on whatever the state of a port is."""
        groups = set(losing)
        awaited = [
            task
            for itl in self._unit.nexuses
            if self.groups.group_of(itl.nexus.portal_group_tag) in groups
            for task in itl.tasks
            if task is not own and task.cdb[0] != Opcode.EXTENDED_COPY
        ]
        if not awaited:
            done(True)
            return
        timer: asyncio.TimerHandle | None = None

        def ended(in_time: bool) -> None:
            if timer is not None:
                timer.cancel()
            done(in_time)

        give_up = self._unit.task_set.await_end(awaited, lambda: ended(True))

        def too_late() -> None:
            give_up()
            ended(False)

        timer = asyncio.get_running_loop().call_later(TRANSITION_SECONDS, too_late)
