"""Direct backups: sent to a backup device without a byte through a host, listed, and brought back.

A backup is the job that made it. It is good for a restore as long as it was completed and nothing
that this controller knows of was written over it since: later jobs that write to the same blocks of
the same devices are looked at, and of those whose records are gone it is noted
(`copy_manager/retention.py`). What hosts write to a backup device by themselves is not seen here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daiko.command_control.plan import Mode
from daiko.control import jobs
from daiko.control.error import Conflict
from daiko.copy_manager.backup import backup_request, restore_request
from daiko.copy_manager.overwriting import Writes
from daiko.copy_manager.request import CopyRequest
from daiko.state.record import JobState

if TYPE_CHECKING:
    from daiko.control.system import System

TYPE = "backup"

_NOT_DONE: Final = {
    JobState.QUEUED: "it has not begun",
    JobState.RUNNING: "it is still running",
    JobState.FAILED: "it failed",
    JobState.CANCELLED: "it was cancelled",
    JobState.INTERRUPTED: "it was interrupted",
}


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup, and whether it can be restored."""

    job: jobs.JobStatus
    restorable: bool
    why_not: str
    """One sentence; "" where it can be restored."""


def request(
    system: System,
    volume: str,
    to: str,
    *,
    first: int = 0,
    blocks: int | None = None,
    at: int | None = None,
    mode: Mode | None = None,
    pace: str = "full",
) -> CopyRequest:
    """What is to be backed up: `blocks` from `first` (default: all), to `at` in the backup device
    (default: the same block). Raises NotFound, Invalid; Conflict where another
    volume lies there."""
    with jobs.refusals():
        wanted = backup_request(
            system.devices,
            volume,
            to,
            first=first,
            blocks=blocks,
            at=jobs.same_place(system, volume, to, first) if at is None else at,
            mode=mode,
            pace=jobs.pace(pace),
        )
    return jobs.spare_volumes(system, wanted)


async def run(system: System, wanted: CopyRequest) -> Backup:
    """Start a backup; it is durable when this returns. Raises NotFound, Invalid."""
    with jobs.refusals():
        job = await system.copy_manager.submit(wanted)
    return show(system, job.id)


def ls(system: System, *, volume: str = "", state: JobState | None = None) -> list[Backup]:
    """Backups, newest first; of one volume, in one state."""
    writes = Writes(system.copy_manager.jobs())
    return [
        _backup(status, writes)
        for status in jobs.ls(system, type=TYPE, state=state)
        if not volume or status.record.source == volume
    ]


def show(system: System, id: int) -> Backup:
    """One backup. Raises NotFound."""
    status = jobs.show(system, id, type=TYPE)
    later = [job for job in system.copy_manager.jobs() if job.id > id]
    return _backup(status, Writes(later))


def restoration(
    system: System,
    id: int,
    *,
    to: str = "",
    mode: Mode | None = None,
    force: bool = False,
    pace: str = "full",
) -> CopyRequest:
    """What brings a backup back, to the volume it was made of or to another. Raises NotFound,
    Invalid; Conflict when it is not good for that, unless `force`d."""
    backup = show(system, id)
    record = backup.job.record
    if not backup.restorable and not (force and record.state is JobState.DONE):
        raise Conflict(
            f"backup {id} cannot be restored: {backup.why_not}",
            "choose another with `daiko backup ls`"
            + (", or insist with --force" if record.state is JobState.DONE else ""),
        )
    with jobs.refusals():
        wanted = restore_request(
            system.devices, record, to=to or None, mode=mode, pace=jobs.pace(pace)
        )
    return jobs.spare_volumes(system, wanted)


async def restore(system: System, wanted: CopyRequest) -> jobs.JobStatus:
    """Start a restore; it is durable when this returns. Raises NotFound, Invalid."""
    with jobs.refusals():
        job = await system.copy_manager.submit(wanted)
    return jobs.show(system, job.id)


def _backup(status: jobs.JobStatus, writes: Writes) -> Backup:
    record = status.record
    if record.state is not JobState.DONE:
        why_not = _NOT_DONE[record.state]
    else:
        over = record.overwritten_by
        if not over and (later := writes.first_over(record)) is not None:
            over = f"job {later.id} ({later.type})"
        why_not = f"{over} wrote over it" if over else ""
    return Backup(status, not why_not, why_not)
