"""The function table."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from daiko.api.routes.dependency import Running
from daiko.api.schema.function import (
    BackendFunctions,
    FunctionView,
    ProbeReach,
    ReachView,
    SetFunction,
    SetReach,
)
from daiko.control import functions

router = APIRouter(tags=["function"])


@router.get("/functions", operation_id="listFunctions")
async def ls(system: Running) -> list[FunctionView]:
    """Every function of every second controller."""
    return [FunctionView.of(row) for row in functions.ls(system)]


@router.get("/reach", operation_id="listReach")
async def reach(system: Running) -> list[ReachView]:
    """Which second controller reaches which devices by itself."""
    return [ReachView.of(row) for row in functions.reach(system)]


@router.get("/functions/{backend}", operation_id="showFunctions")
async def show(system: Running, backend: str) -> BackendFunctions:
    """What one second controller can do and reach."""
    rows, reached = functions.show(system, backend)
    return BackendFunctions(
        functions=[FunctionView.of(row) for row in rows],
        reach=[ReachView.of(row) for row in reached],
    )


@router.post("/functions/{backend}/probe", operation_id="probeFunctions")
async def probe(system: Running, backend: str) -> BackendFunctions:
    """Ask one second controller again what it can do and reach."""
    rows, reached = await functions.probe(system, backend)
    return BackendFunctions(
        functions=[FunctionView.of(row) for row in rows],
        reach=[ReachView.of(row) for row in reached],
    )


@router.put("/functions/{backend}/{function}", operation_id="setFunction")
async def set_function(
    system: Running, backend: str, function: str, body: SetFunction
) -> FunctionView:
    """Set a cell by hand; it wins over whatever was or will be found."""
    return FunctionView.of(
        await functions.declare(
            system, backend, function, body.can, reason=body.reason, limits=body.limits
        )
    )


@router.delete("/functions/{backend}/{function}", operation_id="unsetFunction")
async def unset_function(system: Running, backend: str, function: str) -> FunctionView:
    """Take a cell set by hand back, so that what was found holds again."""
    return FunctionView.of(await functions.undeclare(system, backend, function))


@router.put("/reach/{backend}", operation_id="setReach")
async def set_reach(system: Running, backend: str, body: SetReach) -> ReachView:
    """Set by hand whether a second controller reaches a device."""
    return ReachView.of(
        await functions.declare_reach(system, backend, body.device, body.can, reason=body.reason)
    )


@router.delete("/reach/{backend}", status_code=204, operation_id="unsetReach")
async def unset_reach(
    system: Running,
    backend: str,
    device: Annotated[str, Query(description="BACKEND or BACKEND/LUN")],
) -> None:
    """Take a reachability cell set by hand back."""
    await functions.undeclare_reach(system, backend, device)


@router.post("/reach/{backend}/probe", operation_id="probeReach")
async def probe_reach(system: Running, backend: str, body: ProbeReach) -> ReachView:
    """Ask whether a second controller reaches a device."""
    return ReachView.of(await functions.probe_reach(system, backend, body.device))
