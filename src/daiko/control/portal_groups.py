"""Portals, the portal groups that they make up, and the target port groups of those.

Three words of two standards. A *portal* is HOST:PORT. A *portal group* is the portals that lead to
one SCSI target port; its tag is the port's relative target port identifier (RFC 7143, 4.2.1). A
*target port group* is the target ports through which a volume is accessible in the same way; it has
an asymmetric access state (SPC-4, 5.16.2), and a volume may have another one in it.

Changes are live: portals listen or stop to, sessions that may not stay are asked to log out, hosts
are told of states by a unit attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daiko.control import names
from daiko.control.error import Conflict, Invalid, NotFound
from daiko.control.listening import wanted_portals
from daiko.state.record import (
    GroupState,
    HostRecord,
    PortalGroupRecord,
    TargetPortGroupRecord,
    VolumeAccess,
    VolumeRecord,
)
from daiko.state.store import Transaction

if TYPE_CHECKING:
    from daiko.control.system import System

LAST_TAG = 0xFFFF


@dataclass(frozen=True, slots=True)
class PortalGroupView:
    """A portal group and how it is now."""

    record: PortalGroupRecord
    listening: tuple[str, ...]
    """Those of its portals that hosts can reach."""
    hosts: tuple[str, ...]
    """Initiator names of the sessions that came through it."""


@dataclass(frozen=True, slots=True)
class PortGroupView:
    """A target port group, for all volumes or for one."""

    number: int
    tags: tuple[int, ...]
    state: GroupState
    preferred: bool
    by_host: bool
    """A host has set the state (of this volume)."""
    volumes: tuple[str, ...]
    """Volumes that have something of their own in it."""


# --- portals and portal groups


def ls(system: System) -> list[PortalGroupView]:
    """All portal groups by tag."""
    return [_view(system, record) for record in system.store.list(PortalGroupRecord)]


def show(system: System, tag: int) -> PortalGroupView:
    """One portal group. Raises NotFound."""
    return _view(system, _existing(system, tag))


async def add(
    system: System, portal: str, tag: int = 1, *, target_port_group: int | None = None
) -> PortalGroupView:
    """Listen at a portal, as one of the portal group with this tag, which is made where it is not
    there: in the target port group of the same number unless another is said. Raises Invalid,
    Conflict (the portal is there already), Unavailable (it cannot be listened on)."""
    portal = names.portal(portal, "portal")
    _check_number(tag, "tag")
    known = _get(system, tag)
    if known is not None and target_port_group not in (None, known.target_port_group):
        raise Conflict(
            f"portal group {tag} is in target port group {known.target_port_group}",
            f"change that with `daiko portal set-group {tag} {target_port_group}`",
            field="target_port_group",
        )
    group = known.target_port_group if known is not None else tag
    if target_port_group is not None:
        group = target_port_group
    _check_number(group, "target_port_group")
    async with system.changing:
        for other in system.store.list(PortalGroupRecord):
            if portal in other.portals:
                raise Conflict(
                    f"{portal} is a portal of portal group {other.tag} already",
                    f"move it with `daiko portal set-tag {portal} TAG`",
                    field="portal",
                )
        portals = (*(known.portals if known is not None else ()), portal)
        await _put(
            system, {tag: PortalGroupRecord(tag=tag, portals=portals, target_port_group=group)}
        )
    return show(system, tag)


async def remove(system: System, portal: str) -> None:
    """Stop to listen at a portal; a portal group without portals is gone. Sessions that came
    through it are asked to log out. Raises NotFound; Conflict for the last portal of this
    controller, and for the last of a portal group that a host is limited to."""
    portal = names.portal(portal, "portal")
    async with system.changing:
        known = _group_with(system, portal)
        left = tuple(each for each in known.portals if each != portal)
        record = known.model_copy(update={"portals": left}) if left else None
        await _put(system, {known.tag: record})


async def set_tag(system: System, portal: str, tag: int) -> PortalGroupView:
    """Let a portal be one of another portal group. Raises as `add` and `remove`."""
    portal = names.portal(portal, "portal")
    _check_number(tag, "tag")
    async with system.changing:
        known = _group_with(system, portal)
        if known.tag != tag:
            left = tuple(each for each in known.portals if each != portal)
            there = _get(system, tag) or PortalGroupRecord(
                tag=tag, portals=(), target_port_group=tag
            )
            await _put(
                system,
                {
                    known.tag: known.model_copy(update={"portals": left}) if left else None,
                    tag: there.model_copy(update={"portals": (*there.portals, portal)}),
                },
            )
    return show(system, tag)


async def set_group(system: System, tag: int, target_port_group: int) -> PortalGroupView:
    """Let a portal group's target port be in another target port group. Raises NotFound,
    Invalid."""
    _check_number(target_port_group, "target_port_group")
    async with system.changing:
        known = _existing(system, tag)
        changed = known.model_copy(update={"target_port_group": target_port_group})
        await _put(system, {tag: changed})
    return show(system, tag)


async def _put(system: System, changed: Mapping[int, PortalGroupRecord | None]) -> None:
    """Store these portal groups (None: it is gone) and make the target follow. Raises as the
    callers say."""
    groups = {record.tag: record for record in system.store.list(PortalGroupRecord)}
    groups.update({tag: record for tag, record in changed.items() if record is not None})
    for tag in [tag for tag, record in changed.items() if record is None]:
        del groups[tag]
    check(groups.values(), system.store.list(HostRecord))
    port_groups = system.store.list(TargetPortGroupRecord)
    await system.listening.prepare(wanted_portals(groups.values(), port_groups))
    try:
        async with system.store.transaction() as change:
            for tag, record in changed.items():
                if record is not None:
                    change.put(record)
                else:
                    change.delete(PortalGroupRecord, f"{tag:05d}")
            drop_unused(change)
    finally:
        await system.listening.settle()


def check(groups: Iterable[PortalGroupRecord], hosts: Iterable[HostRecord]) -> None:
    """Whether these can be all portal groups of a controller with these hosts. Raises Conflict,
    Invalid."""
    tags: dict[str, int] = {}
    numbers = set()
    for group in groups:
        numbers.add(group.tag)
        _check_number(group.tag, "tag")
        _check_number(group.target_port_group, "target_port_group")
        for portal in group.portals:
            if tags.setdefault(portal, group.tag) != group.tag:
                raise Conflict(
                    f"{portal} is in the portal groups {tags[portal]} and {group.tag}",
                    "a portal is of one portal group",
                    field="portal",
                )
    if not tags:
        raise Conflict(
            "no host could reach this controller without a portal",
            "add another one first, with `daiko portal add HOST:PORT`",
        )
    for host in hosts:
        for tag in host.portal_groups:
            if tag not in numbers:
                raise Conflict(
                    f"host {host.name} is limited to portal groups, {tag} among them",
                    f"change that first, with `daiko host set {host.name} --portal-group …`",
                )


def put_portals(change: Transaction, tag: int, portals: Iterable[str]) -> None:
    """Let these be the portals of a portal group, inside a transaction. Raises Conflict where
    another one has one of them."""
    own = tuple(dict.fromkeys(names.portal(portal, "portal") for portal in portals))
    known = change.get(PortalGroupRecord, f"{tag:05d}")
    group = known.target_port_group if known is not None else tag
    change.put(PortalGroupRecord(tag=tag, portals=own, target_port_group=group))
    check(change.list(PortalGroupRecord), ())


def drop_unused(change: Transaction) -> None:
    """Forget what is said of target port groups that no port is in."""
    used = {record.target_port_group for record in change.list(PortalGroupRecord)}
    for record in change.list(TargetPortGroupRecord):
        if record.number not in used:
            change.delete(TargetPortGroupRecord, record.key)


def _get(system: System, tag: int) -> PortalGroupRecord | None:
    return system.store.get(PortalGroupRecord, f"{tag:05d}")


def _existing(system: System, tag: int) -> PortalGroupRecord:
    record = _get(system, tag)
    if record is None:
        raise NotFound(f"there is no portal group {tag}", "`daiko portal ls` shows all")
    return record


def _group_with(system: System, portal: str) -> PortalGroupRecord:
    for record in system.store.list(PortalGroupRecord):
        if portal in record.portals:
            return record
    raise NotFound(f"there is no portal {portal}", "`daiko portal ls` shows all")


def _view(system: System, record: PortalGroupRecord) -> PortalGroupView:
    listening = [portal for portal in record.portals if system.listening.is_listening(portal)]
    hosts = [
        nexus.initiator_name for nexus in system.sessions() if nexus.portal_group_tag == record.tag
    ]
    return PortalGroupView(record, tuple(listening), tuple(hosts))


def _check_number(number: int, field: str) -> None:
    if not 1 <= number <= LAST_TAG:
        raise Invalid(f"{number} cannot be", f"use 1 to {LAST_TAG}", field=field)


# --- target port groups and their states


def port_groups(system: System, volume: str = "") -> list[PortGroupView]:
    """All target port groups, as they are for all volumes or for one. Raises NotFound."""
    record = names.volume_of(system, volume) if volume else None
    tags: dict[int, list[int]] = {}
    for portal_group in system.store.list(PortalGroupRecord):
        tags.setdefault(portal_group.target_port_group, []).append(portal_group.tag)
    own: dict[int, list[str]] = {}
    for each in system.store.list(VolumeRecord):
        for number in each.access:
            own.setdefault(number, []).append(each.name)
    found = []
    for number in sorted(tags):
        state, preferred, by_host = _effective(system, number, record)
        found.append(
            PortGroupView(
                number, tuple(tags[number]), state, preferred, by_host, tuple(own.get(number, ()))
            )
        )
    return found


def _effective(
    system: System, number: int, volume: VolumeRecord | None
) -> tuple[GroupState, bool, bool]:
    said = _port_group(system, number)
    if volume is None:
        return said.state, said.preferred, False
    own = volume.access.get(number, VolumeAccess())
    preferred = said.preferred if own.preferred is None else own.preferred
    if own.state is None or said.state is GroupState.OFFLINE:
        return said.state, preferred, False
    return own.state, preferred, own.by_host


def _port_group(system: System, number: int) -> TargetPortGroupRecord:
    known = system.store.get(TargetPortGroupRecord, f"{number:05d}")
    return known or TargetPortGroupRecord(number=number)


async def set_state(
    system: System,
    number: int,
    state: GroupState | None = None,
    *,
    preferred: bool | None = None,
    force: bool = False,
) -> PortGroupView:
    """Give a target port group a state, or say whether it is preferred, for all volumes that say
    nothing else. Raises NotFound; Conflict, unless `force`, where no group would be left active."""
    async with system.changing:
        _port_group_exists(system, number)
        changes = {"state": state, "preferred": preferred}
        known = _port_group(system, number)
        wanted = known.model_copy(
            update={name: value for name, value in changes.items() if value is not None}
        )
        others = [each.state for each in port_groups(system) if each.number != number]
        if not force and wanted.state != known.state:
            _refuse_without_path([wanted.state, *others], "all volumes")
        states = [each for each in system.store.list(TargetPortGroupRecord) if each != known]
        await system.listening.prepare(
            wanted_portals(system.store.list(PortalGroupRecord), [*states, wanted])
        )
        try:
            await system.store.put(wanted)
        finally:
            await system.listening.settle()
    return next(each for each in port_groups(system) if each.number == number)


async def set_volume_state(
    system: System,
    number: int,
    volume: str,
    state: GroupState | None = None,
    *,
    preferred: bool | None = None,
    force: bool = False,
) -> PortGroupView:
    """The same for one volume. Raises NotFound; Invalid for offline, which is of a whole group;
    Conflict, unless `force`, where no group would be left active."""
    async with system.changing:
        _port_group_exists(system, number)
        record = names.volume_of(system, volume)
        if state is GroupState.OFFLINE:
            raise Invalid(
                "a group is offline for all volumes: its portals do not listen",
                "use unavailable for one volume",
                field="state",
            )
        own = record.access.get(number, VolumeAccess())
        if state is not None:
            others = [each.state for each in port_groups(system, volume) if each.number != number]
            if not force:
                _refuse_without_path([state, *others], f"volume {volume}")
            own = own.model_copy(update={"state": state, "by_host": False})
        if preferred is not None:
            own = own.model_copy(update={"preferred": preferred})
        await _put_access(system, volume, {**record.access, number: own})
    return next(each for each in port_groups(system, volume) if each.number == number)


async def clear_volume_state(system: System, number: int, volume: str) -> PortGroupView:
    """Let a volume follow the group again, whoever gave it a state of its own. Raises NotFound."""
    async with system.changing:
        _port_group_exists(system, number)
        record = names.volume_of(system, volume)
        left = {each: own for each, own in record.access.items() if each != number}
        await _put_access(system, volume, left)
    return next(each for each in port_groups(system, volume) if each.number == number)


async def _put_access(system: System, volume: str, access: Mapping[int, VolumeAccess]) -> None:
    async with system.store.transaction() as change:
        record = change.get(VolumeRecord, volume)
        if record is None:
            raise NotFound(f"there is no volume {volume}", "`daiko volume ls` shows all")
        change.put(record.model_copy(update={"access": dict(sorted(access.items()))}))


def _port_group_exists(system: System, number: int) -> None:
    known = {record.target_port_group for record in system.store.list(PortalGroupRecord)}
    if number not in known:
        raise NotFound(
            f"no portal group is in a target port group {number}", "`daiko portal groups` shows all"
        )


ACTIVE = frozenset({GroupState.ACTIVE_OPTIMIZED, GroupState.ACTIVE_NON_OPTIMIZED})


def _refuse_without_path(states: Iterable[GroupState], whose: str) -> None:
    if not ACTIVE & set(states):
        raise Conflict(
            f"no target port group would be left active for {whose}: hosts could not read or write",
            "make another group active first, or say --force",
            field="state",
        )
