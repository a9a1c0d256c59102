"""Plans: what would be done about a request, by whom, and why."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from daiko.api.schema.job import RejectionView, Restore, RunBackup, RunCopy, StepView
from daiko.command_control.plan import Function, Mode, Step
from daiko.control.explain import Explanation


class PlanView(BaseModel):
    """A plan; nothing of it was carried out."""

    type: str = Field(description="backup, restore, copy or migration")
    function: Function
    source: str
    destination: str
    mode: Mode | None = Field(description="As asked for; null = the volume's, or the system's")
    blocks: int
    block_size: int = Field(description="Bytes")
    blocks_delegated: int = Field(description="That would not pass through this controller")
    steps: list[StepView]

    @classmethod
    def of(cls, explanation: Explanation) -> Self:
        wanted, plan = explanation.request, explanation.plan
        return cls(
            type=wanted.type,
            function=plan.function,
            source=wanted.source,
            destination=wanted.destination,
            mode=wanted.mode,
            blocks=plan.blocks,
            block_size=explanation.block_size,
            blocks_delegated=sum(s.source.blocks for s in plan.steps if s.executor.delegated),
            steps=[_step(step, explanation) for step in plan.steps],
        )


def _step(step: Step, explanation: Explanation) -> StepView:
    return StepView(
        source=str(step.source.device),
        source_lba=step.source.lba,
        destination=str(step.destination.device),
        destination_lba=step.destination.lba,
        blocks=step.source.blocks,
        block_size=explanation.block_size,
        destination_block_size=explanation.destination_block_size,
        segment=step.segment,
        executor=str(step.executor),
        delegated=step.executor.delegated,
        reason=step.reason,
        rejected=[RejectionView(executor=str(r.executor), reason=r.reason) for r in step.rejected],
    )


class PlanBackup(RunBackup):
    """Explain a backup."""

    type: Literal["backup"]


class PlanCopy(RunCopy):
    """Explain a copy."""

    type: Literal["copy"]


class PlanRestore(Restore):
    """Explain a restore."""

    type: Literal["restore"]
    backup: int = Field(description="Number of the backup")


class PlanMigration(BaseModel, extra="forbid"):
    """Explain how a volume would move to another device."""

    type: Literal["migration"]
    volume: str = Field(examples=["alpha"])
    to: str = Field(description="BACKEND/LUN, or BACKEND with one LU", examples=["sd2/0"])
    source: str = Field(
        default="", description="Only what lies on this device; default: all that lies elsewhere"
    )


PlanRequest = Annotated[
    PlanBackup | PlanCopy | PlanRestore | PlanMigration, Field(discriminator="type")
]
