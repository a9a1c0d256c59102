"""The function table."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from daiko.command_control.function_table import CopyLimits, FunctionCell, Known, ReachCell
from daiko.command_control.plan import Function
from daiko.control.functions import FunctionRow, ReachRow


class FoundView(BaseModel):
    """A cell that was found but does not hold, because another was set by hand."""

    can: bool
    known: Known
    reason: str
    at: float

    @classmethod
    def of(cls, cell: FunctionCell | ReachCell | None) -> Self | None:
        if cell is None:
            return None
        return cls(can=cell.can, known=cell.known, reason=cell.reason, at=cell.at)


class FunctionView(BaseModel):
    """Can this second controller do this function?"""

    backend: str
    function: Function
    can: bool = Field(description="False also where nothing is known")
    known: Known | None = Field(description="How it is known; null = it is not")
    reason: str
    at: float = Field(description="When it was found, in seconds since the epoch; 0 = never")
    on: str = Field(description="Vendor, product and revision that it was found on")
    limits: CopyLimits | None = Field(description="What one copy command may contain")
    hidden: FoundView | None = Field(
        description="What was found, where the administrator's word holds"
    )

    @classmethod
    def of(cls, row: FunctionRow) -> Self:
        cell = row.cell
        return cls(
            backend=row.backend,
            function=row.function,
            can=cell.can if cell else False,
            known=cell.known if cell else None,
            reason=cell.reason if cell else "it was never asked",
            at=cell.at if cell else 0.0,
            on=cell.on if cell else "",
            limits=cell.limits if cell else None,
            hidden=FoundView.of(row.hidden),
        )


class ReachView(BaseModel):
    """Can this second controller reach that device by itself?"""

    backend: str
    device: str = Field(description="BACKEND/LUN, or BACKEND for all of its LUs")
    can: bool
    known: Known
    reason: str
    at: float
    hidden: FoundView | None

    @classmethod
    def of(cls, row: ReachRow) -> Self:
        return cls(
            backend=row.backend,
            device=row.device,
            can=row.cell.can,
            known=row.cell.known,
            reason=row.cell.reason,
            at=row.cell.at,
            hidden=FoundView.of(row.hidden),
        )


class BackendFunctions(BaseModel):
    """Everything that is known of what one back end can do."""

    functions: list[FunctionView]
    reach: list[ReachView]


class SetFunction(BaseModel, extra="forbid"):
    """The administrator's word on a function."""

    can: bool
    reason: str = ""
    limits: CopyLimits | None = Field(
        default=None,
        description="What one copy command may contain; default: what was found, if anything",
    )


class SetReach(BaseModel, extra="forbid"):
    """The administrator's word on reachability."""

    device: str = Field(
        description="BACKEND/LUN, or BACKEND for all of its LUs", examples=["sd2/0"]
    )
    can: bool
    reason: str = ""


class ProbeReach(BaseModel, extra="forbid"):
    """A device to ask about."""

    device: str = Field(description="BACKEND/LUN", examples=["sd2/0"])
