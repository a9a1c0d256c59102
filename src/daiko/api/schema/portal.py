"""Portals, portal groups, target port groups."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from daiko.control.portal_groups import PortalGroupView as PortalGroupState
from daiko.control.portal_groups import PortGroupView
from daiko.state.record import GroupState

_TAG = Field(ge=1, le=0xFFFF, description="Target portal group tag", examples=[2])


class PortalView(BaseModel):
    """A portal."""

    portal: str = Field(description="HOST:PORT", examples=["192.0.2.10:3260"])
    listening: bool = Field(description="Hosts can reach it; false where its group is offline")


class PortalGroupView(BaseModel):
    """The portals that lead to one SCSI target port."""

    tag: int = Field(description="Target portal group tag; the relative target port identifier")
    portals: list[PortalView]
    target_port_group: int = Field(description="The target port group that the port is in")
    sessions: list[str] = Field(description="Initiators that are logged in through it")

    @classmethod
    def of(cls, view: PortalGroupState) -> Self:
        return cls(
            tag=view.record.tag,
            portals=[
                PortalView(portal=portal, listening=portal in view.listening)
                for portal in view.record.portals
            ],
            target_port_group=view.record.target_port_group,
            sessions=list(view.hosts),
        )


class AddPortal(BaseModel, extra="forbid"):
    """A portal to listen at."""

    portal: str = Field(description="HOST:PORT; IPv6 in brackets", examples=["192.0.2.10:3260"])
    tag: int = Field(default=1, ge=1, le=0xFFFF, description="Portal group; made where it is new")
    target_port_group: int | None = Field(
        default=None,
        ge=1,
        le=0xFFFF,
        description="Of a new portal group; default: the one of the same number",
    )


class ChangePortal(BaseModel, extra="forbid"):
    """What can be changed of a portal."""

    tag: int = _TAG


class ChangePortalGroup(BaseModel, extra="forbid"):
    """What can be changed of a portal group."""

    target_port_group: int = Field(ge=1, le=0xFFFF)


class TargetPortGroupView(BaseModel):
    """The target ports through which a volume is accessible in the same way (ALUA)."""

    number: int
    portal_groups: list[int] = Field(description="Tags of the portal groups in it")
    state: GroupState
    preferred: bool
    by_host: bool = Field(description="A host has set the state, by SET TARGET PORT GROUPS")
    volumes: list[str] = Field(description="Volumes for which something else holds in it")

    @classmethod
    def of(cls, view: PortGroupView) -> Self:
        return cls(
            number=view.number,
            portal_groups=list(view.tags),
            state=view.state,
            preferred=view.preferred,
            by_host=view.by_host,
            volumes=list(view.volumes),
        )


class ChangeTargetPortGroup(BaseModel, extra="forbid"):
    """What is to hold in a target port group, for all volumes or for one."""

    state: GroupState | None = Field(default=None, description="Default: as it is")
    preferred: bool | None = Field(default=None, description="Default: as it is")
    force: bool = Field(default=False, description="Even where no group would be left active")
