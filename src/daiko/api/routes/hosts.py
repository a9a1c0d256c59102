"""Hosts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from daiko.api.routes.dependency import Running
from daiko.api.schema.chap import SetChap
from daiko.api.schema.host import AddHost, ChangeHost, CopyRight, HostView, MappedVolume, MapVolume
from daiko.control import hosts

router = APIRouter(tags=["host"])


@router.get("/hosts", operation_id="listHosts")
async def ls(system: Running) -> list[HostView]:
    """All hosts by name."""
    return [HostView.of(state) for state in hosts.ls(system)]


@router.post("/hosts", status_code=201, operation_id="addHost")
async def add(system: Running, body: AddHost) -> HostView:
    """Make a host known by its iSCSI names."""
    return HostView.of(
        await hosts.add(
            system,
            body.name,
            body.initiators,
            luns=body.luns,
            portal_groups=body.portal_groups,
            remote_copy=body.remote_copy,
        )
    )


@router.get("/hosts/{name}", operation_id="showHost")
async def show(system: Running, name: str) -> HostView:
    """One host, its LUNs and its sessions."""
    return HostView.of(hosts.show(system, name))


@router.patch("/hosts/{name}", operation_id="changeHost")
async def change(system: Running, name: str, body: ChangeHost) -> HostView:
    """Give a host other iSCSI names, or limit it to portal groups; its LUNs stay."""
    if body.initiators is not None:
        await hosts.change_initiators(system, name, body.initiators)
    if body.portal_groups is not None:
        await hosts.limit(system, name, body.portal_groups)
    return HostView.of(hosts.show(system, name))


@router.delete("/hosts/{name}", status_code=204, operation_id="removeHost")
async def remove(system: Running, name: str) -> None:
    """Forget a host; its sessions lose all LUNs."""
    await hosts.remove(system, name)


@router.post("/hosts/{name}/luns", operation_id="mapVolume")
async def map_volume(system: Running, name: str, body: MapVolume) -> MappedVolume:
    """Give a volume to a host, under a LUN or the lowest free one."""
    state, lun = await hosts.map_volume(system, name, body.volume, body.lun)
    return MappedVolume(lun=lun, host=HostView.of(state))


@router.delete("/hosts/{name}/luns/{lun}", operation_id="unmapLun")
async def unmap_lun(system: Running, name: str, lun: int) -> HostView:
    """Take a LUN from a host."""
    return HostView.of(await hosts.unmap_volume(system, name, lun=lun))


@router.delete("/hosts/{name}/volumes/{volume}", operation_id="unmapVolume")
async def unmap_volume(system: Running, name: str, volume: str) -> HostView:
    """Take a volume from a host, whatever its LUN."""
    return HostView.of(await hosts.unmap_volume(system, name, volume))


@router.post("/hosts/{name}/remote-copy", operation_id="allowCopy")
async def allow_copy(system: Running, name: str, body: CopyRight) -> HostView:
    """Let a host name LUs behind these portals of other machines in its copy commands."""
    return HostView.of(await hosts.allow_copy(system, name, body.portals))


@router.delete("/hosts/{name}/remote-copy", operation_id="forbidCopy")
async def forbid_copy(
    system: Running,
    name: str,
    portal: Annotated[list[str] | None, Query(description="Default: all of them")] = None,
) -> HostView:
    """Take that right back."""
    return HostView.of(await hosts.forbid_copy(system, name, portal or []))


@router.put("/hosts/{name}/chap", operation_id="setHostChap")
async def set_chap(system: Running, name: str, body: SetChap) -> HostView:
    """Let a host log in only by CHAP, from its next login on."""
    return HostView.of(await hosts.set_chap(system, name, body.chap()))


@router.delete("/hosts/{name}/chap", operation_id="clearHostChap")
async def clear_chap(system: Running, name: str) -> HostView:
    """Let a host log in by its name alone."""
    return HostView.of(await hosts.clear_chap(system, name))
