"""Back ends."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from daiko.api.schema.chap import ChapView, SetChap
from daiko.api.schema.function import FunctionView
from daiko.control.backends import BackendState
from daiko.state.record import BackendRecord


class BackendView(BackendRecord):
    """A second controller, or a disk of this controller."""

    connected: bool = Field(description="It answers now")
    detail: str = Field(description="Why it does not, or through which portal it does")
    functions: list[FunctionView] = Field(description="What it can do; empty for an own disk")
    used_by: list[str] = Field(description="Volumes with extents on it")
    chap: ChapView | None = Field(description="As whom we log in; null: by our name alone")

    @classmethod
    def of(cls, state: BackendState) -> Self:
        return cls(
            **dict(state.record),
            connected=state.connected,
            detail=state.detail,
            functions=[FunctionView.of(row) for row in state.functions],
            used_by=list(state.used_by),
            chap=ChapView.of_any(state.chap),
        )


class GrowBackend(BaseModel, extra="forbid"):
    """How large the file of a disk of this controller is to be."""

    size: int = Field(gt=0, description="Bytes; a whole number of blocks", examples=[21474836480])


class ChangePatience(BaseModel, extra="forbid"):
    """How long a second controller may take, 1 to 3600 seconds each; what is not given stays."""

    command: float | None = Field(default=None, description="For a command; then ABORT TASK")
    abort: float | None = Field(default=None, description="For that; then LOGICAL UNIT RESET")
    reset: float | None = Field(
        default=None, description="For that; then the connection is dropped"
    )
    ping_interval: float | None = Field(default=None, description="Of silence; then it is pinged")
    ping_timeout: float | None = Field(
        default=None, description="For its answer; then the connection is dropped"
    )
    reconnect: float | None = Field(
        default=None,
        description="For a lost connection to come back; then the commands that wait for it fail",
    )


class ChangeBackend(BaseModel, extra="forbid"):
    """What can be changed of a back end that is attached."""

    patience: ChangePatience


class AddBackend(BaseModel, extra="forbid"):
    """A back end to attach."""

    name: str = Field(examples=["sd1"])
    address: str = Field(
        description="iscsi://HOST:PORT/IQN, iscsi://HOST:PORT where there is one target only, "
        "or the whole path of a file or block device",
        examples=["iscsi://10.0.0.5:3260/iqn.2003-01.com.example:array1"],
    )
    portals: list[str] = Field(default=[], description="Further HOST:PORT of the same target")
    block_size: int = Field(default=512, description="Bytes, 512 or 4096; for a file only")
    preallocate: bool = Field(
        default=False,
        description="A file gets all of its room now, and keeps it when hosts unmap blocks",
    )
    chap: SetChap | None = Field(
        default=None, description="As whom to log in: our user, and the target's with mutual CHAP"
    )
