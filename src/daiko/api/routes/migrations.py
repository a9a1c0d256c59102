"""Migrations: volumes that move to other devices while hosts use them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from daiko.api.routes.dependency import Running
from daiko.api.schema.migration import AskedView, MigrateVolume, MigrationView, PaceMigration
from daiko.control import migrations

router = APIRouter(tags=["migration"])

LONGEST_WAIT = 60.0
"""Seconds that one request may wait; who wants to wait longer asks again."""


@router.get("/migrations", operation_id="listMigrations")
async def ls(system: Running) -> list[MigrationView]:
    """The last migration of each volume, by the volumes' names."""
    return [MigrationView.of(found) for found in migrations.ls(system)]


@router.post("/volumes/{name}/migration", operation_id="migrateVolume")
async def start(system: Running, name: str, body: MigrateVolume) -> AskedView:
    """Begin to move a volume to another device; hosts use it all the time."""
    return AskedView.of(
        await migrations.start(system, name, body.to, source=body.source, pace=body.pace)
    )


@router.get("/volumes/{name}/migration", operation_id="showMigration")
async def show(system: Running, name: str) -> MigrationView:
    """The migration of a volume, or its last."""
    return MigrationView.of(migrations.show(system, name))


@router.patch("/volumes/{name}/migration", operation_id="changeMigration")
async def change(system: Running, name: str, body: PaceMigration) -> MigrationView:
    """Let it copy at another pace, from now on."""
    return MigrationView.of(await migrations.set_pace(system, name, body.pace))


@router.get("/volumes/{name}/migration/wait", operation_id="waitMigration")
async def wait(
    system: Running,
    name: str,
    seconds: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = LONGEST_WAIT,
) -> MigrationView:
    """The migration as soon as it moves no more, or when the time is over."""
    return MigrationView.of(await migrations.wait(system, name, seconds))


@router.post("/volumes/{name}/migration/resume", operation_id="resumeMigration")
async def resume(system: Running, name: str) -> AskedView:
    """Go on after a failure, with what differs."""
    return AskedView.of(await migrations.resume(system, name))


@router.delete("/volumes/{name}/migration", operation_id="cancelMigration")
async def cancel(system: Running, name: str) -> AskedView:
    """Leave the volume where it is, and give its new place back."""
    return AskedView.of(await migrations.cancel(system, name))
