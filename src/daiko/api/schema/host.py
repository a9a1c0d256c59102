"""Hosts."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from daiko.api.schema.chap import ChapView
from daiko.control.hosts import HostState
from daiko.state.record import HostRecord


class LoginView(BaseModel):
    """A session of a host."""

    initiator: str
    address: str


class HostView(HostRecord):
    """A host, the LUNs it sees, and its sessions."""

    logins: list[LoginView]
    chap: ChapView | None = Field(description="How it has to log in; null: its name is enough")

    @classmethod
    def of(cls, state: HostState) -> Self:
        return cls(
            **dict(state.record),
            logins=[LoginView(initiator=i.initiator, address=i.address) for i in state.logins],
            chap=ChapView.of_any(state.chap),
        )


class AddHost(BaseModel, extra="forbid"):
    """A host to make known."""

    name: str = Field(examples=["db1"])
    initiators: list[str] = Field(
        description="iSCSI names; * stands for any initiator that no other host names",
        examples=[["iqn.1993-08.org.debian:01:abc"]],
    )
    luns: dict[int, str] = Field(default={}, description="LUN to volume", examples=[{"0": "alpha"}])
    remote_copy: list[str] = Field(
        default=[],
        description="Portals of other machines whose LUs it may name in a copy; * for all",
    )


class ChangeHost(BaseModel, extra="forbid"):
    """What can be changed of a host."""

    initiators: list[str] = Field(description="Its iSCSI names, instead of those that it had")


class MapVolume(BaseModel, extra="forbid"):
    """A volume to give to a host."""

    volume: str = Field(examples=["alpha"])
    lun: int | None = Field(default=None, description="Default: the lowest free one")


class MappedVolume(BaseModel):
    """The LUN that a volume was given."""

    lun: int
    host: HostView


class CopyRight(BaseModel, extra="forbid"):
    """Portals of other machines."""

    portals: list[str] = Field(description="HOST:PORT, or * for all", examples=[["10.0.0.9:3260"]])
