"""Jobs, backups and copies."""

from __future__ import annotations

from typing import Any, Final, Self

from pydantic import BaseModel, Field

from daiko.command_control.plan import Mode
from daiko.control.backups import Backup
from daiko.control.jobs import JobStatus
from daiko.copy_manager.pacer import Limit
from daiko.state.record import JobState, StepRecord

PACE: Final = (
    "`full`; a rate (`50MiB/s`); a latency of hosts (`latency:5ms`): slower while their commands "
    "take longer; or both with a comma"
)
"""What a pace may be, as the description of the API says it."""


class RejectionView(BaseModel):
    """An executor that was considered and not chosen."""

    executor: str
    reason: str


class StepView(BaseModel):
    """A step of a plan: one run of blocks, from one device to one device, by one executor."""

    source: str = Field(description="BACKEND/LUN")
    source_lba: int
    destination: str = Field(description="BACKEND/LUN")
    destination_lba: int = Field(description="In blocks of the destination")
    destination_block_size: int = Field(description="Bytes a destination block")
    segment: int = Field(description="Number of the requested range that this is a part of")
    blocks: int = Field(description="Source blocks")
    block_size: int = Field(description="Bytes a source block")
    executor: str = Field(description="`second controller NAME` or `this controller`")
    delegated: bool = Field(description="The data does not pass through this controller")
    reason: str = Field(description="Why this executor")
    rejected: list[RejectionView] = Field(description="Who else was considered, and why not")


class StepReport(StepView):
    """A step of a job, and what became of it."""

    confirmed_blocks: int
    bytes_through_first_controller: int = Field(
        description="Payload that this controller itself read or wrote for the step"
    )
    bytes_in_kernel: int = Field(
        description="Of these: copied between two disks of this controller by its machine's kernel"
    )
    bytes_moved: int = Field(description="By the executor")
    seconds: float
    error: str = Field(description="Why the executor dropped the rest; empty = it did not")

    @classmethod
    def of(cls, step: StepRecord) -> Self:
        kept = {name: value for name, value in step if name not in {"rejected", "confirmed"}}
        kept["destination_block_size"] = step.destination_block_size or step.block_size
        return cls(
            **kept,
            rejected=[RejectionView(executor=e, reason=r) for e, r in step.rejected],
            confirmed_blocks=step.confirmed_blocks,
        )


class JobView(BaseModel):
    """A job: its plan, its progress, its report."""

    id: int
    type: str = Field(description="backup, restore, copy or pair")
    state: JobState
    asked_by: str = Field(description="`administrator`, the host, or the pair")
    source: str
    destination: str
    request: dict[str, Any] = Field(
        description="Ranges [[lba, blocks, destination lba]], mode and pace"
    )
    steps: list[StepReport]
    blocks: int = Field(description="To be copied, in source blocks")
    block_size: int = Field(description="Bytes a source block")
    copied_blocks: int = Field(description="Until now, confirmed or not yet")
    confirmed_blocks: int = Field(
        description="Known to be on stable storage; a restart of anything goes on from there"
    )
    percent: float = Field(description="Copied, of all blocks, 0 to 100")
    bytes_per_second: float = Field(description="Now; 0 when it is not running")
    eta_seconds: float | None = Field(description="null = not known, or ended")
    seconds: float = Field(description="From start to end, or until now")
    pace: str = Field(description=f"As it was asked for: {PACE}")
    limited_by: Limit | None = Field(
        description="What of the pace holds the copy back now; null = nothing of it"
    )
    paced_bytes_per_second: float | None = Field(
        description="What the pace grants now; null = no bound, or it has ended"
    )
    bytes_through_first_controller: int = Field(description="Of all steps")
    bytes_in_kernel: int = Field(description="Of these, by its machine's kernel")
    bytes_delegated: int = Field(description="Moved by second controllers, of all steps")
    one_instant: bool = Field(
        description="False: hosts wrote to the source while the job ran (or may have, unseen)"
    )
    changed_blocks: int = Field(description="Source blocks that hosts wrote while the job ran")
    error: str = Field(description="Why it failed; empty = it did not")
    created: float = Field(description="Seconds since the epoch")
    started: float
    finished: float

    @classmethod
    def fields_of(cls, status: JobStatus, now: float, *, steps: bool = True) -> dict[str, Any]:
        """All fields as they are `now`; without `steps`, none of them."""
        job = status.record
        kept = {name: value for name, value in job if name not in {"steps", "overwritten_by"}}
        copied = status.copied_blocks
        return kept | {
            "steps": [StepReport.of(step) for step in job.steps] if steps else [],
            "copied_blocks": copied,
            "confirmed_blocks": status.confirmed_blocks,
            "percent": round(100 * copied / job.blocks, 1) if job.blocks else _all(job.state),
            "bytes_per_second": status.blocks_per_second * job.block_size,
            "eta_seconds": status.eta_seconds if job.state is JobState.RUNNING else None,
            "seconds": (job.finished or now) - job.started if job.started else 0.0,
            "pace": str(status.pace),
            "limited_by": status.limited_by,
            "paced_bytes_per_second": status.paced_rate,
            "bytes_through_first_controller": sum(
                step.bytes_through_first_controller for step in job.steps
            ),
            "bytes_in_kernel": sum(step.bytes_in_kernel for step in job.steps),
            "bytes_delegated": sum(step.bytes_moved for step in job.steps if step.delegated),
        }

    @classmethod
    def of(cls, status: JobStatus, now: float, *, steps: bool = True) -> Self:
        return cls(**cls.fields_of(status, now, steps=steps))


class BackupView(JobView):
    """A backup: the job that made it, and whether it can be brought back."""

    restorable: bool
    why_not: str = Field(description="Why it cannot be restored; empty = it can")

    @classmethod
    def of_backup(cls, backup: Backup, now: float) -> Self:
        return cls(
            **cls.fields_of(backup.job, now), restorable=backup.restorable, why_not=backup.why_not
        )


class RunBackup(BaseModel, extra="forbid"):
    """A backup to make."""

    volume: str = Field(examples=["alpha"])
    to: str = Field(
        description="The backup device: a volume, BACKEND/LUN, or a BACKEND with one LU",
        examples=["vault"],
    )
    first: int = Field(default=0, ge=0, description="First block; default: the volume's first")
    blocks: int | None = Field(default=None, ge=1, description="How many; default: all from there")
    at: int | None = Field(
        default=None,
        ge=0,
        description="First block in the backup device; default: the same as `first`",
    )
    mode: Mode | None = Field(default=None, description="Overrides the volume's and the system's")
    pace: str = Field(default="full", description=PACE)


class RunCopy(BaseModel, extra="forbid"):
    """A copy to make."""

    source: str = Field(
        examples=["alpha"], description="A volume, BACKEND/LUN, or a BACKEND with one LU"
    )
    destination: str = Field(examples=["beta"])
    first: int = Field(default=0, ge=0)
    blocks: int | None = Field(default=None, ge=1)
    at: int | None = Field(default=None, ge=0)
    mode: Mode | None = None
    pace: str = Field(default="full", description=PACE)


class Restore(BaseModel, extra="forbid"):
    """A backup to bring back."""

    to: str = Field(
        default="", description="A volume or device; default: the volume it was made of"
    )
    force: bool = Field(
        default=False, description="Even when something was written over the backup"
    )
    mode: Mode | None = None
    pace: str = Field(default="full", description=PACE)


class ChangeJob(BaseModel, extra="forbid"):
    """What can be changed of a job."""

    pace: str = Field(description=PACE, examples=["50MiB/s,latency:5ms"])


def _all(state: JobState) -> float:
    return 100.0 if state is JobState.DONE else 0.0
