"""The whole at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from daiko.control.error import Invalid
from daiko.state.record import (
    TERMINAL,
    BackendRecord,
    HostRecord,
    JobState,
    PortalGroupRecord,
    SystemRecord,
    VolumeRecord,
)

if TYPE_CHECKING:
    from daiko.control.system import System


@dataclass(frozen=True, slots=True)
class Status:
    """What an administrator asks first."""

    version: str
    record: SystemRecord
    portals: tuple[str, ...]
    """HOST:PORT of all portal groups."""
    backends: int
    unreachable: tuple[tuple[str, str], ...]
    """Back ends that do not answer, each with why."""
    volumes: int
    volume_bytes: int
    hosts: int
    sessions: int
    jobs_active: int
    jobs_failed: int


def show(system: System) -> Status:
    """This controller now."""
    backends = system.store.list(BackendRecord)
    volumes = system.store.list(VolumeRecord)
    jobs = system.copy_manager.jobs()
    states = [(record.name, *system.backend_status(record.name)) for record in backends]
    return Status(
        version=version("daiko"),
        record=system.record,
        portals=tuple(
            portal for group in system.store.list(PortalGroupRecord) for portal in group.portals
        ),
        backends=len(backends),
        unreachable=tuple((name, detail) for name, connected, detail in states if not connected),
        volumes=len(volumes),
        volume_bytes=sum(volume.blocks * volume.block_size for volume in volumes),
        hosts=len(system.store.list(HostRecord)),
        sessions=len(system.sessions()),
        jobs_active=sum(job.state not in TERMINAL for job in jobs),
        jobs_failed=sum(job.state is JobState.FAILED for job in jobs),
    )


async def change(system: System, changes: Mapping[str, Any]) -> Status:
    """Change the mode, how hosts are pinged, or how many jobs are kept. Raises Invalid."""
    async with system.changing:
        try:
            SystemRecord.model_validate({**system.record.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise Invalid(f"{field}: {first['msg']}", field=field) from error
        await system.change_record(changes)
    return show(system)
