"""Volumes."""

from __future__ import annotations

from fastapi import APIRouter

from daiko.api.routes.dependency import Running
from daiko.api.schema.volume import (
    AddAutomatic,
    AddByHand,
    AddVolume,
    ChangeVolume,
    Released,
    VolumeView,
)
from daiko.control import names, volumes
from daiko.control.system import System
from daiko.state.record import HostRecord, VolumeRecord

router = APIRouter(tags=["volume"])


@router.get("/volumes", operation_id="listVolumes")
async def ls(system: Running) -> list[VolumeView]:
    """All volumes by name."""
    return [_view(system, record) for record in system.store.list(VolumeRecord)]


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


@router.delete("/volumes/{name}", status_code=204, operation_id="removeVolume")
async def remove(system: Running, name: str) -> None:
    """Forget a volume; its blocks become free, their contents stay until they are used again."""
    await volumes.remove(system, name)


@router.post("/volumes/{name}/release", operation_id="releaseVolume")
async def release(system: Running, name: str) -> Released:
    """Give the LU of an image volume back, with everything that is on it."""
    return Released(volume=name, next_step=await volumes.release(system, name))


def _view(system: System, record: VolumeRecord) -> VolumeView:
    return VolumeView.of(record, system.store.list(HostRecord))
