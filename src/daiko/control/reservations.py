"""The reservations of a volume's logical unit: who among the hosts is registered, who holds what,
and how an administrator takes all of that away when the hosts cannot do it any more."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from daiko.control.error import Unavailable
from daiko.state.record import HostRecord, SiteRecord
from daiko.target.reservations import it_nexus

if TYPE_CHECKING:
    from daiko.control.system import System

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Registration:
    """One registered I_T nexus."""

    host: str
    """Name of the host record, or `site NAME`; "" where none names this initiator."""
    initiator: str
    isid: str
    """6 bytes in hex."""
    target_port: int
    """Relative target port identifier."""
    key: str
    """8 bytes in hex, as `sg_persist` writes it."""
    holds: bool
    in_session: bool


@dataclass(frozen=True, slots=True)
class VolumeReservations:
    """All of one volume."""

    volume: str
    type: str | None
    """Of the persistent reservation, in words; None: there is none."""
    kept: bool
    """Registrations and reservation outlive a restart of this controller (APTPL)."""
    generation: int
    reserved_by: str | None
    """Initiator that has the volume by RESERVE(6) or (10)."""
    registrations: tuple[Registration, ...]


def show(system: System, name: str) -> VolumeReservations:
    """Raises NotFound."""
    reservations = system.unit(name).reservations
    state = reservations.state
    hosts = {i: host.name for host in system.store.list(HostRecord) for i in host.initiators}
    hosts |= {site.initiator: f"site {site.name}" for site in system.store.list(SiteRecord)}
    in_session = {it_nexus(nexus) for nexus in system.sessions()}
    by = reservations.reserved_by
    return VolumeReservations(
        volume=name,
        type=None if state.type is None else state.type.name.lower().replace("_", "-"),
        kept=state.is_kept,
        generation=state.generation,
        reserved_by=None if by is None else by.nexus.initiator_name,
        registrations=tuple(
            Registration(
                host=hosts.get(nexus.initiator, hosts.get("*", "")),
                initiator=nexus.initiator,
                isid=nexus.isid.hex(),
                target_port=nexus.target_port,
                key=f"0x{key:x}",
                holds=state.holds(nexus),
                in_session=nexus in in_session,
            )
            for nexus, key in state.keys.items()
        ),
    )


async def clear(system: System, name: str) -> VolumeReservations:
    """Take all registrations, the persistent reservation and a RESERVE away; what there was is
    returned. Every host may use the volume then; those that were registered are told
    (RESERVATIONS PREEMPTED). Raises NotFound, Unavailable (the store cannot be written)."""
    unit = system.unit(name)
    before = show(system, name)
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    unit.reservations.clear(done.set_result)
    if not await done:
        raise Unavailable(
            f"the reservations of {name} are kept in the store, and that cannot be written",
            "look at the log for why; nothing has changed",
        )
    log.info("reservations cleared by the administrator", volume=name, had=before.type)
    return before
