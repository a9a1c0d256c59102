"""Backups and restores."""

from __future__ import annotations

import time

from fastapi import APIRouter

from daiko.api.routes.dependency import Running
from daiko.api.schema.job import BackupView, JobView, Restore, RunBackup
from daiko.control import backups
from daiko.state.record import JobState

router = APIRouter(tags=["backup"])


@router.get("/backups", operation_id="listBackups")
async def ls(system: Running, volume: str = "", state: JobState | None = None) -> list[BackupView]:
    """Backups, newest first."""
    now = time.time()
    return [
        BackupView.of_backup(backup, now)
        for backup in backups.ls(system, volume=volume, state=state)
    ]


@router.post("/backups", status_code=202, operation_id="runBackup")
async def run(system: Running, body: RunBackup) -> BackupView:
    """Start a backup. It is durable when this answers; follow it as the job of the same number."""
    wanted = backups.request(
        system,
        body.volume,
        body.to,
        first=body.first,
        blocks=body.blocks,
        at=body.at,
        mode=body.mode,
        pace=body.pace,
    )
    return BackupView.of_backup(await backups.run(system, wanted), time.time())


@router.get("/backups/{id}", operation_id="showBackup")
async def show(system: Running, id: int) -> BackupView:
    """One backup."""
    return BackupView.of_backup(backups.show(system, id), time.time())


@router.post("/backups/{id}/restore", status_code=202, operation_id="restoreBackup")
async def restore(system: Running, id: int, body: Restore) -> JobView:
    """Start to bring a backup back; answers with the job."""
    wanted = backups.restoration(
        system, id, to=body.to, mode=body.mode, force=body.force, pace=body.pace
    )
    return JobView.of(await backups.restore(system, wanted), time.time())
