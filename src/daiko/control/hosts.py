"""Hosts: who may log in, which volumes they see under which LUNs, what they may name in a copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daiko.control import chap, names
from daiko.control.chap import Chap, ChapState
from daiko.control.error import Conflict, Invalid, NotFound
from daiko.state.record import CredentialRecord, HostRecord, SiteRecord

if TYPE_CHECKING:
    from daiko.control.system import System

ANY = "*"
LAST_LUN = 16383
"""The largest LUN that flat space addressing can write (SAM-5 4.7.7.4)."""


@dataclass(frozen=True, slots=True)
class Login:
    """One session of a host."""

    initiator: str
    address: str


@dataclass(frozen=True, slots=True)
class HostState:
    """A host and who of it is logged in."""

    record: HostRecord
    logins: tuple[Login, ...]
    chap: ChapState | None
    """How it has to prove itself; None: its name is enough."""


async def add(
    system: System,
    name: str,
    initiators: Iterable[str],
    *,
    luns: Mapping[int, str] | None = None,
    portal_groups: Iterable[int] = (),
    remote_copy: Iterable[str] = (),
) -> HostState:
    """Make a host known by its iSCSI names (`*`: any initiator that no other host names). Raises
    Invalid, NotFound for a volume, Conflict when the name or an initiator is taken."""
    names.name(name)
    async with system.changing:
        everyone = system.store.list(HostRecord)
        if any(other.name == name for other in everyone):
            raise Conflict(
                f"a host is called {name!r} already",
                f"see it with `daiko host show {name}`, or choose another name",
                field="name",
            )
        own = _initiators(initiators, everyone)
        for lun, volume in (luns or {}).items():
            _check_lun(lun)
            names.volume_of(system, volume)
        record = HostRecord(
            name=name,
            initiators=own,
            luns=dict(sorted((luns or {}).items())),
            portal_groups=tuple(sorted(set(portal_groups))),
            remote_copy=tuple(dict.fromkeys(_remote(text) for text in remote_copy)),
        )
        await system.put_host(record)
    return _state(system, record)


def ls(system: System) -> list[HostState]:
    """All hosts by name."""
    return [_state(system, record) for record in system.store.list(HostRecord)]


def show(system: System, name: str) -> HostState:
    """One host. Raises NotFound."""
    return _state(system, names.host_of(system, name))


async def change_initiators(system: System, name: str, initiators: Iterable[str]) -> HostState:
    """Make these the iSCSI names of a host, instead of those that it had. Raises NotFound, Invalid,
    Conflict when one is another host's."""
    async with system.changing:
        record = names.host_of(system, name)
        others = [other for other in system.store.list(HostRecord) if other.name != name]
        record = record.model_copy(update={"initiators": _initiators(initiators, others)})
        await system.put_host(record)
    return _state(system, record)


async def limit(system: System, name: str, portal_groups: Iterable[int]) -> HostState:
    """Let a host log in through these portal groups alone (none named: through all). Sessions
    elsewhere are asked to log out. Raises NotFound."""
    async with system.changing:
        record = names.host_of(system, name)
        record = record.model_copy(update={"portal_groups": tuple(sorted(set(portal_groups)))})
        await system.put_host(record)
    return _state(system, record)


async def remove(system: System, name: str) -> None:
    """Forget a host; its sessions lose all LUNs. Raises NotFound."""
    async with system.changing:
        names.host_of(system, name)
        await system.remove_host(name)


async def map_volume(
    system: System, name: str, volume: str, lun: int | None = None
) -> tuple[HostState, int]:
    """Give a volume to a host under a LUN, by default the lowest free one; answers with the LUN.
    A host that already has the volume there is left as it is. Raises NotFound, Invalid, Conflict
    when the LUN is taken or the host has the volume under another."""
    async with system.changing:
        record = names.host_of(system, name)
        names.volume_of(system, volume)
        has = {given: number for number, given in record.luns.items()}
        if volume in has and lun in (None, has[volume]):
            return _state(system, record), has[volume]
        if volume in has:
            raise Conflict(
                f"host {name!r} has {volume!r} as LUN {has[volume]} already",
                f"take it away first, with `daiko host unmap {name} {volume}`",
            )
        if lun is None:
            lun = next(number for number in range(LAST_LUN + 2) if number not in record.luns)
        _check_lun(lun)
        if lun in record.luns:
            raise Conflict(
                f"LUN {lun} of host {name!r} is {record.luns[lun]!r}",
                "choose another LUN, or leave it out for the lowest free one",
                field="lun",
            )
        record = record.model_copy(
            update={"luns": dict(sorted({**record.luns, lun: volume}.items()))}
        )
        await system.put_host(record)
    return _state(system, record), lun


async def unmap_volume(
    system: System, name: str, volume: str = "", lun: int | None = None
) -> HostState:
    """Take a volume from a host, named by volume or LUN. Raises NotFound."""
    async with system.changing:
        record = names.host_of(system, name)
        gone = [
            number
            for number, given in record.luns.items()
            if number == lun or (volume and given == volume)
        ]
        if not gone:
            what = repr(volume) if volume else f"LUN {lun}"
            raise NotFound(f"host {name!r} has no {what}", f"see `daiko host show {name}`")
        record = record.model_copy(
            update={"luns": {n: given for n, given in record.luns.items() if n not in gone}}
        )
        await system.put_host(record)
    return _state(system, record)


async def allow_copy(system: System, name: str, portals: Iterable[str]) -> HostState:
    """Let a host name LUs behind these portals of other machines (HOST:PORT, or `*` for all) in its
    copy commands. Raises NotFound, Invalid."""
    async with system.changing:
        record = names.host_of(system, name)
        allowed = dict.fromkeys((*record.remote_copy, *(_remote(text) for text in portals)))
        record = record.model_copy(update={"remote_copy": tuple(allowed)})
        await system.put_host(record)
    return _state(system, record)


async def forbid_copy(system: System, name: str, portals: Iterable[str] = ()) -> HostState:
    """Take that right back, for these portals or altogether. Raises NotFound."""
    async with system.changing:
        record = names.host_of(system, name)
        gone = {_remote(text) for text in portals}
        for portal in gone - set(record.remote_copy):
            raise NotFound(
                f"host {name!r} has no right to copy to {portal}",
                f"see `daiko host show {name}`",
            )
        left = tuple(portal for portal in record.remote_copy if gone and portal not in gone)
        record = record.model_copy(update={"remote_copy": left})
        await system.put_host(record)
    return _state(system, record)


async def set_chap(system: System, name: str, given: Chap) -> HostState:
    """Let a host log in only by CHAP, by this user and secret. Its sessions go on; it holds for
    the next login. Raises NotFound, Invalid."""
    credentials = chap.record_of(chap.host(name), given)
    async with system.changing:
        record = names.host_of(system, name)
        async with system.store.transaction() as change:
            chap.put_for_target(change, credentials)
    return _state(system, record)


async def clear_chap(system: System, name: str) -> HostState:
    """Let a host log in by its name alone. Raises NotFound."""
    async with system.changing:
        record = names.host_of(system, name)
        async with system.store.transaction() as change:
            change.delete(CredentialRecord, chap.host(name))
    return _state(system, record)


def _state(system: System, record: HostRecord) -> HostState:
    named = {i for other in system.store.list(HostRecord) for i in other.initiators}
    named |= {site.initiator for site in system.store.list(SiteRecord)}
    return HostState(
        record,
        tuple(
            Login(nexus.initiator_name, names.socket_address(nexus.peer_address))
            for nexus in system.sessions()
            if nexus.initiator_name in record.initiators
            or (ANY in record.initiators and nexus.initiator_name not in named)
        ),
        chap.state(system.store, chap.host(record.name)),
    )


def _initiators(texts: Iterable[str], others: Iterable[HostRecord]) -> tuple[str, ...]:
    """The names of a host beside these others."""
    own = tuple(
        dict.fromkeys(
            ANY if text == ANY else names.iscsi_name(text, "initiators") for text in texts
        )
    )
    if not own:
        raise Invalid(
            "a host needs at least one initiator name",
            "give --initiator IQN (a Linux host has it in /etc/iscsi/initiatorname.iscsi)",
            field="initiators",
        )
    for other in others:
        for initiator in set(own) & set(other.initiators):
            raise Conflict(
                f"{initiator} belongs to host {other.name!r}",
                "an initiator name can be of one host only",
                field="initiators",
            )
    return own


def _remote(text: str) -> str:
    return ANY if text == ANY else names.portal(text, "portals")


def check(record: HostRecord) -> None:
    """Hold a record that was not made here to the same rules. Raises Invalid."""
    _initiators(record.initiators, ())
    for lun in record.luns:
        _check_lun(lun)
    for portal in record.remote_copy:
        _remote(portal)


def _check_lun(lun: int) -> None:
    if not 0 <= lun <= LAST_LUN:
        raise Invalid(f"LUN {lun} is not possible", f"use 0 to {LAST_LUN}", field="lun")
