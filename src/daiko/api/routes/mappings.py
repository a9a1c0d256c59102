"""Which block of a volume lies where."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from daiko.api.listing import listed
from daiko.api.routes.dependency import Running
from daiko.api.schema.mapping import MappingView
from daiko.control import mappings

router = APIRouter(tags=["mapping"])


@router.get("/mappings", operation_id="listMappings", response_model=list[MappingView])
async def ls(
    system: Running,
    device: Annotated[str, Query(description="Only extents on this BACKEND or BACKEND/LUN")] = "",
) -> StreamingResponse:
    """All extents of all volumes; with `device` those that lie there, in its own order."""
    return listed(map(MappingView.of, mappings.ls(system, device=device)))


@router.get("/mappings/{volume}", operation_id="showMapping", response_model=list[MappingView])
async def show(
    system: Running,
    volume: str,
    lba: Annotated[int | None, Query(ge=0, description="Only where this block lies")] = None,
) -> StreamingResponse:
    """The extents of one volume in order; with `lba` that one block."""
    if lba is not None:
        return listed([MappingView.of(mappings.locate(system, volume, lba))])
    return listed(map(MappingView.of, mappings.show(system, volume)))
