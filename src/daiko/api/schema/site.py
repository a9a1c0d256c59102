"""Sites."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field, model_validator

from daiko.api.schema.chap import ChapView, SetChap
from daiko.api.schema.host import LoginView
from daiko.backend.site_session import LinkState
from daiko.command_control.plan import Mode
from daiko.command_control.site_terms import MODES
from daiko.control.sites import SiteState
from daiko.state.record import SiteRecord


class SiteView(SiteRecord):
    """Another site, and how the link to its first controller is."""

    state: LinkState = Field(description="Of the link from here to there")
    detail: str = Field(description="Why it is not up, or through which portal it is")
    since: float = Field(description="When it came into this state")
    protocol: str = Field(description="Version of the protocol it speaks; empty: not known yet")
    software: str = Field(description="Version of its program; empty: not known yet")
    mode: Mode | None = Field(description="Its mode; null: not known yet")
    clock_difference: float | None = Field(
        description="Seconds that its clock was ahead of ours when it last said; null: not known"
    )
    logins: list[LoginView] = Field(description="Its sessions here")
    chap: ChapView | None = Field(description="As whom we log in there; null: by name alone")
    peer_chap: ChapView | None = Field(description="As whom it logs in here; null: by name alone")
    pairs: list[str] = Field(description="Pairs with it, whichever side leads")

    @classmethod
    def of(cls, state: SiteState) -> Self:
        greeting, version = state.greeting, state.version
        return cls(
            **dict(state.record),
            state=state.status.state,
            detail=state.status.detail,
            since=state.status.since,
            protocol="" if version is None else ".".join(map(str, version)),
            software="" if greeting is None else greeting.software,
            mode=None if greeting is None else MODES.get(greeting.mode),
            clock_difference=state.clock_difference,
            logins=[LoginView(initiator=i.initiator, address=i.address) for i in state.logins],
            chap=ChapView.of_any(state.chap),
            peer_chap=ChapView.of_any(state.peer_chap),
            pairs=list(state.pairs),
        )


class AddSite(BaseModel, extra="forbid"):
    """Another site's first controller to name."""

    name: str = Field(examples=["osaka"])
    address: str = Field(
        description="iscsi://HOST:PORT/IQN, or iscsi://HOST:PORT where there is one target only",
        examples=["iscsi://192.0.2.9:3260/iqn.2026-11.com.example:osaka"],
    )
    portals: list[str] = Field(default=[], description="Further HOST:PORT of the same target")
    initiator: str = Field(
        default="",
        description="iSCSI name under which it logs in here; empty: its target's name with "
        ".initiator behind it",
    )
    chap: SetChap | None = Field(default=None, description="As whom to log in there")
    peer_chap: SetChap | None = Field(default=None, description="As whom it logs in here")
    without_chap: bool = Field(
        default=False, description="Names are proof enough where no CHAP user is given"
    )


class ChangeSite(BaseModel, extra="forbid"):
    """What can be changed of a site. What is left out stays."""

    portals: list[str] | None = Field(default=None, min_length=1, description="HOST:PORT, all")
    initiator: str | None = None
    chap: SetChap | None = Field(default=None, description="As whom to log in there")
    peer_chap: SetChap | None = Field(default=None, description="As whom it logs in here")
    without_chap: bool = Field(
        default=False,
        description="Names are proof enough: the CHAP users that are not given are taken away",
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give at least one thing that is to change")
        return self
