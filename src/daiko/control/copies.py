"""Volume copies: from a volume or device to another, whole or a range."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daiko.command_control.plan import Mode
from daiko.control import jobs
from daiko.copy_manager.backup import copy_request
from daiko.copy_manager.request import CopyRequest
from daiko.state.record import JobState

if TYPE_CHECKING:
    from daiko.control.system import System

TYPE = "copy"


def request(
    system: System,
    source: str,
    destination: str,
    *,
    first: int = 0,
    blocks: int | None = None,
    at: int | None = None,
    mode: Mode | None = None,
    pace: str = "full",
) -> CopyRequest:
    """What is to be copied: `blocks` from `first` (default: all), to `at` in the destination
    (default: the same block). Raises NotFound, Invalid; Conflict where another
    volume lies there."""
    with jobs.refusals():
        wanted = copy_request(
            system.devices,
            source,
            destination,
            first=first,
            blocks=blocks,
            at=jobs.same_place(system, source, destination, first) if at is None else at,
            mode=mode,
            pace=jobs.pace(pace),
        )
    return jobs.spare_volumes(system, wanted)


async def run(system: System, wanted: CopyRequest) -> jobs.JobStatus:
    """Start a copy; it is durable when this returns. Raises NotFound, Invalid."""
    with jobs.refusals():
        job = await system.copy_manager.submit(wanted)
    return jobs.show(system, job.id)


def ls(system: System, *, state: JobState | None = None) -> list[jobs.JobStatus]:
    """All copies, newest first."""
    return jobs.ls(system, type=TYPE, state=state)


def show(system: System, id: int) -> jobs.JobStatus:
    """One copy. Raises NotFound."""
    return jobs.show(system, id, type=TYPE)
