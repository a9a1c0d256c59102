"""Migrations of volumes."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from daiko.api.schema.job import PACE
from daiko.control.migrations import Asked, Migration
from daiko.copy_manager.pacer import Limit
from daiko.state.migration_record import MigrationState


class CarrierView(BaseModel):
    """Who has copied for a migration."""

    executor: str = Field(description="`second controller NAME` or `this controller`")
    reason: str = Field(description="Why it was that one")
    bytes: int


class MigrationView(BaseModel):
    """A volume that moves, or moved last, to another device. Sizes in bytes."""

    volume: str
    state: MigrationState
    reason: str = Field(description="Why it failed")
    to: str = Field(description="BACKEND/LUN that it moves to")
    source: str = Field(description="That it moves from; empty = from wherever else it lay")
    size: int = Field(description="Of what moves")
    left: int = Field(description="Of that what has still to be copied")
    percent: float = Field(description="Of what moves, copied, 0 to 100")
    job: int | None = Field(description="The job that copies for it now")
    carriers: list[CarrierView] = Field(
        description="Who has copied in its jobs; the rest this controller has copied itself"
    )
    waits_for: str = Field(
        description="Why the volume does not lie there yet though all is copied; empty = nothing"
    )
    pace: str = Field(description="Of its copying")
    limited_by: Limit | None = Field(
        description="What of the pace holds back its copying beside jobs; null = nothing of it"
    )
    notes: list[str] = Field(description="What should be known besides: a bitmap that was lost")
    created: float = Field(description="Seconds since the epoch")
    changed: float = Field(description="When the state became what it is")

    @classmethod
    def of(cls, migration: Migration) -> Self:
        status = migration.status
        record = status.record
        return cls(
            volume=record.volume,
            state=record.state,
            reason=record.reason,
            to=record.to,
            source=record.source,
            size=status.size,
            left=status.left,
            percent=round(100 * (1 - status.left / status.size), 1) if status.size else 100.0,
            job=status.job,
            carriers=[
                CarrierView(executor=each.executor, reason=each.reason, bytes=each.bytes)
                for each in migration.carriers
            ],
            waits_for=status.waits_for,
            pace=record.pace,
            limited_by=status.limited_by,
            notes=list(status.notes),
            created=record.created,
            changed=record.changed,
        )


class AskedView(BaseModel):
    """What became of what was asked for."""

    changed: bool = Field(description="False = there was nothing to do")
    migration: MigrationView | None = Field(
        description="As it is now; null = the volume lies there, and was never migrated"
    )

    @classmethod
    def of(cls, asked: Asked) -> Self:
        found = asked.migration
        return cls(
            changed=asked.changed, migration=None if found is None else MigrationView.of(found)
        )


class MigrateVolume(BaseModel, extra="forbid"):
    """Where a volume is to move."""

    to: str = Field(description="BACKEND/LUN, or BACKEND with one LU", examples=["sd2/0"])
    source: str = Field(
        default="",
        description="Move only what lies on this device; default: all that lies elsewhere",
        examples=["sd1/0"],
    )
    pace: str = Field(default="full", description=PACE)


class PaceMigration(BaseModel, extra="forbid"):
    """Another pace."""

    pace: str = Field(description=PACE, examples=["50MiB/s,latency:5ms"])
