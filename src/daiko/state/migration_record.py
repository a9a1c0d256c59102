"""The record of a volume that moves to another place while hosts use it."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from daiko.state.extents import Extents
from daiko.state.record import Record


class MigrationState(StrEnum):
    MOVING = "moving"
    """Copied to its new place, from the start or from where it was interrupted."""
    FAILED = "failed"
    """It stays where it is; what differs is noted, and its new place kept for it."""
    DONE = "done"
    """It lies in its new place."""
    CANCELLED = "cancelled"
    """It stays where it is; the new place was given back."""


class MigrationRecord(Record):
    """A volume that moves, or moved last, to another place while hosts use it. One a volume."""

    kind: ClassVar[str] = "migration"
    volume: str
    """Its name."""
    state: MigrationState = MigrationState.MOVING
    to: str
    """BACKEND/LUN that it moves to."""
    source: str = ""
    """BACKEND/LUN that it moves from; "" = from wherever else it lies."""
    moved: tuple[tuple[int, int], ...]
    """Of the volume: (first block, blocks) of each run that moves, in order."""
    room: Extents
    """What they move to, end to end in the same order. Nobody else's until the migration has
    ended."""
    granularity: int = 64 << 10
    """Bytes a region of the differential bitmap."""
    pace: str = "full"
    """Of its copying, as `copy_manager/pace.py` reads it."""
    reason: str = ""
    """Why it failed."""
    created: float = 0.0
    changed: float = 0.0
    """When the state became what it is."""

    @property
    def key(self) -> str:
        return self.volume

    @property
    def name(self) -> str:
        """Of its differential bitmap."""
        return self.volume

    @property
    def power_safe(self) -> bool:
        """Its bitmap outlives the process only: no write of a host waits for the disk that it lies
        on, and a power cut costs no more than copying again."""
        return False

    @property
    def is_open(self) -> bool:
        """It has not ended, and its room is kept."""
        return self.state in (MigrationState.MOVING, MigrationState.FAILED)
