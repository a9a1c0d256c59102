"""What is asked of the copy manager: one request, whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from daiko.command_control.plan import Function, Mode
from daiko.copy_manager.pace import FULL, Pace
from daiko.state.record import ADMINISTRATOR, OF_MIGRATION, OF_PAIR, JobRecord, is_host

BACKUP, RESTORE, COPY, PAIR = "backup", "restore", "copy", "pair"
MIGRATION: Final = "migration"
"""The types of requests, and of the jobs that carry them out."""


class CopyRange(NamedTuple):
    """A run of blocks to copy. The names are those of the request where they are empty."""

    lba: int
    """First block in the source."""
    blocks: int
    """Source blocks."""
    destination_lba: int
    """First block in the destination, in its own blocks."""
    source: str = ""
    destination: str = ""
    number: int | None = None
    """The host's number of the segment that this is, where not all of its segments copy."""


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """A copy as it is asked for, before anything is decided."""

    type: str
    """backup, restore, copy, pair or migration."""
    function: Function
    source: str
    """A place as `devices.place` knows it: a volume, BACKEND/LUN, or BACKEND with one LU."""
    destination: str
    ranges: tuple[CopyRange, ...]
    """In the order in which they take effect."""
    mode: Mode | None = None
    """Overrides the volume's and the system's."""
    asked_by: str = ADMINISTRATOR
    pace: Pace = FULL

    @property
    def by_host(self) -> bool:
        """Asked for by a host's EXTENDED COPY."""
        return is_host(self.asked_by)

    @property
    def by_pair(self) -> bool:
        """A round of a pair or of a migration, which knows itself what hosts write meanwhile, and
        what is left to copy after a restart."""
        return self.asked_by.startswith((OF_PAIR, OF_MIGRATION))

    def as_json(self) -> dict[str, Any]:
        """What a JobRecord keeps of the request, to plan it again and to go on at its pace."""
        return {
            "function": str(self.function),
            "mode": None if self.mode is None else str(self.mode),
            "pace": str(self.pace),
            "ranges": [
                list(copy if copy[3:] != ("", "", None) else copy[:3]) for copy in self.ranges
            ],
        }

    @classmethod
    def from_json(
        cls, type: str, source: str, destination: str, asked_by: str, kept: Mapping[str, Any]
    ) -> CopyRequest:
        """The inverse of `as_json`."""
        mode = kept.get("mode")
        return cls(
            type=type,
            function=Function(kept["function"]),
            source=source,
            destination=destination,
            ranges=tuple(CopyRange(*copy) for copy in kept["ranges"]),
            mode=None if mode is None else Mode(mode),
            asked_by=asked_by,
            pace=_kept_pace(kept),
        )


def pace_of(record: JobRecord) -> Pace:
    """The pace that a job goes at, or went at last."""
    return _kept_pace(record.request)


def _kept_pace(kept: Mapping[str, Any]) -> Pace:
    """Requests that were kept before there were paces say none."""
    return Pace.parse(kept.get("pace", "full"))


def names_of(request: CopyRequest) -> set[str]:
    """Every place that a request names."""
    names = {request.source, request.destination}
    for span in request.ranges:
        names |= {span.source, span.destination}
    return names - {""}


def places_of(record: JobRecord) -> set[str]:
    """Every place that a job reads or writes: each segment of a host may name others."""
    names = {record.source, record.destination}
    for kept in record.request.get("ranges", ()):
        span = CopyRange(*kept)
        names |= {span.source, span.destination}
    return names - {""}
