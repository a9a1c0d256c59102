"""Volumes."""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from daiko.api.listing import listed
from daiko.api.routes.dependency import Running
from daiko.api.schema.reservation import ReservationsView
from daiko.api.schema.volume import (
    AddAutomatic,
    AddByHand,
    AddVolume,
    ChangeVolume,
    GrowVolume,
    Released,
    VolumeSummary,
    VolumeView,
)
from daiko.control import names, reservations, volumes
from daiko.control.system import System
from daiko.state.index import SeenBy
from daiko.state.record import VolumeRecord

router = APIRouter(tags=["volume"])


@router.get("/volumes", operation_id="listVolumes", response_model=list[VolumeSummary])
async def ls(
    system: Running,
    after: Annotated[str, Query(description="Only volumes whose names come after this one")] = "",
    limit: Annotated[int, Query(ge=0, description="At most so many; 0 = all")] = 0,
) -> StreamingResponse:
    """All volumes by name, or, with `after` and `limit`, a page of them; without their extents."""
    found = system.store.list(VolumeRecord)
    first = bisect_right(found, after, key=attrgetter("name")) if after else 0
    seen_by = system.store.index(SeenBy).draft()
    return listed(
        VolumeSummary.row(record, seen_by.volume(record.name))
        for record in found[first : first + limit if limit else None]
    )


@router.post("/volumes", status_code=201, operation_id="addVolume")
async def add(system: Running, body: AddVolume) -> VolumeView:
    """Make a volume: by hand, automatically, or from an LU as it is."""
    names.name(body.name)
    if isinstance(body, AddByHand):
        record = await volumes.create_by_hand(system, body.name, body.extents, mode=body.mode)
    elif isinstance(body, AddAutomatic):
        candidates = names.devices(system, body.candidates, "candidates")
        record = await volumes.create_automatic(
            system, body.name, body.size, candidates, mode=body.mode
        )
    else:
        device = names.one_device(system, body.device)
        record = await volumes.take_image(system, body.name, device, mode=body.mode)
    return _view(system, record)


@router.get("/volumes/{name}", operation_id="showVolume")
async def show(system: Running, name: str) -> VolumeView:
    """One volume."""
    return _view(system, names.volume_of(system, name))


@router.patch("/volumes/{name}", operation_id="changeVolume")
async def change(system: Running, name: str, body: ChangeVolume) -> VolumeView:
    """Override the system's mode for a volume, or let it hold again."""
    return _view(system, await volumes.set_mode(system, name, body.mode))


@router.post("/volumes/{name}/grow", operation_id="growVolume")
async def grow(system: Running, name: str, body: GrowVolume) -> VolumeView:
    """Make a volume larger while hosts use it; they are told."""
    candidates = names.devices(system, body.candidates, "candidates")
    record = await volumes.grow(system, name, size=body.size, by=body.by, candidates=candidates)
    return _view(system, record)


@router.delete("/volumes/{name}", status_code=204, operation_id="removeVolume")
async def remove(system: Running, name: str) -> None:
    """Forget a volume; its blocks become free, their contents stay until they are used again."""
    await volumes.remove(system, name)


@router.post("/volumes/{name}/release", operation_id="releaseVolume")
async def release(system: Running, name: str) -> Released:
    """Give the LU of an image volume back, with everything that is on it."""
    return Released(volume=name, next_step=await volumes.release(system, name))


@router.get("/volumes/{name}/reservations", operation_id="showReservations")
async def show_reservations(system: Running, name: str) -> ReservationsView:
    """Who among the hosts is registered with a volume, and who holds it."""
    return ReservationsView.of(reservations.show(system, name))


@router.post("/volumes/{name}/clear-reservations", operation_id="clearReservations")
async def clear_reservations(system: Running, name: str) -> ReservationsView:
    """Take all registrations and reservations of hosts away; the answer is what there was. Every
    host may write to the volume then."""
    return ReservationsView.of(await reservations.clear(system, name))


def _view(system: System, record: VolumeRecord) -> VolumeView:
    return VolumeView.of(record, system.store.index(SeenBy).volume(record.name))
