"""Jobs, and how to follow one.

A job can be followed in two ways. By asking: an answer carries an ETag, and a request with it in
If-None-Match and `wait=SECONDS` is answered when the job has changed, or with 304. By listening:
`/events` sends the job as server-sent events until it ends.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from daiko.api.routes.dependency import Running
from daiko.api.schema.job import ChangeJob, JobView
from daiko.control import jobs
from daiko.control.system import System
from daiko.state.record import TERMINAL, JobState

router = APIRouter(tags=["job"])

LONGEST_WAIT = 30.0
"""Seconds: under the time-outs of usual proxies."""

NEVER = -1
"""A version that no job has."""


@router.get("/jobs", operation_id="listJobs")
async def ls(
    system: Running,
    type: Annotated[str, Query(description="backup, restore or copy")] = "",
    state: JobState | None = None,
    before: Annotated[int, Query(ge=0, description="Only jobs with a lower number")] = 0,
    limit: Annotated[int, Query(ge=0, description="0 = all")] = 0,
) -> list[JobView]:
    """Jobs, newest first."""
    now = time.time()
    found = jobs.ls(system, type=type, state=state, before=before, limit=limit)
    return [JobView.of(status, now) for status in found]


@router.get(
    "/jobs/{id}", operation_id="showJob", responses={304: {"description": "It has not changed"}}
)
async def show(
    system: Running,
    request: Request,
    response: Response,
    id: int,
    wait: Annotated[
        float, Query(ge=0, le=LONGEST_WAIT, description="Seconds to wait for a change")
    ] = 0.0,
    ended: Annotated[bool, Query(description="Wait for its end rather than for a change")] = False,
    steps: Annotated[bool, Query(description="Tell its steps; else the list is empty")] = True,
    if_none_match: Annotated[str, Header()] = "",
) -> JobView:
    """One job; with `wait`, as soon as it has changed (If-None-Match says since when) or ended."""
    boot = request.app.state.boot
    known, _, number = if_none_match.removeprefix("W/").strip('"').partition("-")
    since = int(number) if known == boot and number.isdecimal() else NEVER
    if since != NEVER or ended:
        status = await jobs.changed(system, id, since, wait, ended=ended)
    else:
        status = jobs.show(system, id)
    if status.version == since:
        # FastAPI sends an answer of this type as it is.
        return Response(status_code=304, headers={"ETag": if_none_match})  # type: ignore[return-value]
    response.headers["ETag"] = f'"{boot}-{status.version}"'
    return JobView.of(status, time.time(), steps=steps)


@router.patch("/jobs/{id}", operation_id="changeJob")
async def change(system: Running, id: int, body: ChangeJob) -> JobView:
    """Let a job that waits or runs go at another pace, from now on and over a restart."""
    return JobView.of(await jobs.set_pace(system, id, body.pace), time.time())


@router.get(
    "/jobs/{id}/events",
    operation_id="followJob",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "`job` events"}},
)
async def events(system: Running, id: int) -> StreamingResponse:
    """The job as server-sent events: now, at every change, and at its end; then the stream ends."""
    status = jobs.show(system, id)
    return StreamingResponse(
        _events(system, status),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


@router.post("/jobs/{id}/cancel", operation_id="cancelJob")
async def cancel(system: Running, id: int) -> JobView:
    """Stop a job; what it confirmed stays where it is."""
    return JobView.of(await jobs.cancel(system, id), time.time())


async def _events(system: System, status: jobs.JobStatus) -> AsyncIterator[str]:
    id = status.record.id
    sent = -1
    while True:
        if status.version != sent:
            view = JobView.of(status, time.time())
            yield f"event: job\nid: {status.version}\ndata: {view.model_dump_json()}\n\n"
            sent = status.version
            if status.record.state in TERMINAL:
                return
        else:
            # A line that says nothing keeps proxies from closing the stream.
            yield ":\n\n"
        status = await jobs.changed(system, id, sent, LONGEST_WAIT)
