"""Volume copies."""

from __future__ import annotations

import time

from fastapi import APIRouter

from daiko.api.routes.dependency import Running
from daiko.api.schema.job import JobView, RunCopy
from daiko.control import copies
from daiko.state.record import JobState

router = APIRouter(tags=["copy"])


@router.get("/copies", operation_id="listCopies")
async def ls(system: Running, state: JobState | None = None) -> list[JobView]:
    """Copies, newest first."""
    now = time.time()
    return [JobView.of(status, now) for status in copies.ls(system, state=state)]


@router.post("/copies", status_code=202, operation_id="runCopy")
async def run(system: Running, body: RunCopy) -> JobView:
    """Start a copy. It is durable when this answers; follow it as the job of the same number."""
    wanted = copies.request(
        system,
        body.source,
        body.destination,
        first=body.first,
        blocks=body.blocks,
        at=body.at,
        mode=body.mode,
        pace=body.pace,
    )
    return JobView.of(await copies.run(system, wanted), time.time())


@router.get("/copies/{id}", operation_id="showCopy")
async def show(system: Running, id: int) -> JobView:
    """One copy."""
    return JobView.of(copies.show(system, id), time.time())
