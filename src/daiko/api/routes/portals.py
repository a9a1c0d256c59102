"""Portals, portal groups, target port groups."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from daiko.api.routes.dependency import Running
from daiko.api.schema.portal import (
    AddPortal,
    ChangePortal,
    ChangePortalGroup,
    ChangeTargetPortGroup,
    PortalGroupView,
    TargetPortGroupView,
)
from daiko.control import portal_groups

router = APIRouter(tags=["portal"])


@router.get("/portal-groups", operation_id="listPortalGroups")
async def ls(system: Running) -> list[PortalGroupView]:
    """All portal groups by tag, with their portals."""
    return [PortalGroupView.of(view) for view in portal_groups.ls(system)]


@router.get("/portal-groups/{tag}", operation_id="showPortalGroup")
async def show(system: Running, tag: int) -> PortalGroupView:
    """One portal group."""
    return PortalGroupView.of(portal_groups.show(system, tag))


@router.patch("/portal-groups/{tag}", operation_id="changePortalGroup")
async def set_group(system: Running, tag: int, body: ChangePortalGroup) -> PortalGroupView:
    """Let the port of a portal group be in another target port group."""
    return PortalGroupView.of(await portal_groups.set_group(system, tag, body.target_port_group))


@router.post("/portals", status_code=201, operation_id="addPortal")
async def add(system: Running, body: AddPortal) -> PortalGroupView:
    """Listen at a portal; answers with its portal group."""
    return PortalGroupView.of(
        await portal_groups.add(
            system, body.portal, body.tag, target_port_group=body.target_port_group
        )
    )


@router.patch("/portals/{portal}", operation_id="changePortal")
async def set_tag(system: Running, portal: str, body: ChangePortal) -> PortalGroupView:
    """Let a portal be one of another portal group; sessions through it are asked to log out."""
    return PortalGroupView.of(await portal_groups.set_tag(system, portal, body.tag))


@router.delete("/portals/{portal}", status_code=204, operation_id="removePortal")
async def remove(system: Running, portal: str) -> None:
    """Stop to listen at a portal; sessions through it are asked to log out."""
    await portal_groups.remove(system, portal)


@router.get("/target-port-groups", operation_id="listTargetPortGroups")
async def port_groups(
    system: Running,
    volume: Annotated[str, Query(description="As they are for this volume")] = "",
) -> list[TargetPortGroupView]:
    """All target port groups with their asymmetric access states."""
    return [TargetPortGroupView.of(view) for view in portal_groups.port_groups(system, volume)]


@router.patch("/target-port-groups/{number}", operation_id="changeTargetPortGroup")
async def set_state(
    system: Running, number: int, body: ChangeTargetPortGroup
) -> TargetPortGroupView:
    """Change the state of a target port group for all volumes that have none of their own."""
    return TargetPortGroupView.of(
        await portal_groups.set_state(
            system, number, body.state, preferred=body.preferred, force=body.force
        )
    )


@router.patch(
    "/volumes/{volume}/target-port-groups/{number}", operation_id="changeVolumeTargetPortGroup"
)
async def set_volume_state(
    system: Running, volume: str, number: int, body: ChangeTargetPortGroup
) -> TargetPortGroupView:
    """Change the state of a target port group for one volume."""
    return TargetPortGroupView.of(
        await portal_groups.set_volume_state(
            system, number, volume, body.state, preferred=body.preferred, force=body.force
        )
    )


@router.delete(
    "/volumes/{volume}/target-port-groups/{number}", operation_id="clearVolumeTargetPortGroup"
)
async def clear_volume_state(system: Running, volume: str, number: int) -> TargetPortGroupView:
    """Let a volume follow a target port group again, whoever gave it a state of its own."""
    return TargetPortGroupView.of(await portal_groups.clear_volume_state(system, number, volume))
