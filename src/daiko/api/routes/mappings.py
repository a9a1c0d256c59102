"""Which block of a volume lies where."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from daiko.api.routes.dependency import Running
from daiko.api.schema.mapping import MappingView
from daiko.control import mappings

router = APIRouter(tags=["mapping"])


@router.get("/mappings", operation_id="listMappings")
async def ls(
    system: Running,
    device: Annotated[str, Query(description="Only extents on this BACKEND or BACKEND/LUN")] = "",
) -> list[MappingView]:
    """All extents of all volumes; with `device` those that lie there, in its own order."""
    return [MappingView.of(row) for row in mappings.ls(system, device=device)]


@router.get("/mappings/{volume}", operation_id="showMapping")
async def show(
    system: Running,
    volume: str,
    lba: Annotated[int | None, Query(ge=0, description="Only where this block lies")] = None,
) -> list[MappingView]:
    """The extents of one volume in order; with `lba` that one block."""
    if lba is not None:
        return [MappingView.of(mappings.locate(system, volume, lba))]
    return [MappingView.of(row) for row in mappings.show(system, volume)]
