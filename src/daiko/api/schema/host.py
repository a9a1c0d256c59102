"""Hosts."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field, model_validator

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
    portal_groups: list[int] = Field(
        default=[], description="Tags of the portal groups it may use; none = all"
    )
    remote_copy: list[str] = Field(
        default=[],
        description="Portals of other machines whose LUs it may name in a copy; * for all",
    )


class ChangeHost(BaseModel, extra="forbid"):
    """What can be changed of a host. What is left out stays."""

    initiators: list[str] | None = Field(
        default=None, description="Its iSCSI names, instead of those that it had"
    )
    portal_groups: list[int] | None = Field(
        default=None, description="Tags of the portal groups it may use; none in the list = all"
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.initiators is None and self.portal_groups is None:
            raise ValueError("give `initiators`, `portal_groups` or both")
        return self


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
