"""Plans, without carrying anything out."""

from __future__ import annotations

from fastapi import APIRouter

from daiko.api.routes.dependency import Running
from daiko.api.schema.plan import PlanBackup, PlanCopy, PlanMigration, PlanRequest, PlanView
from daiko.control import backups, copies, migrations
from daiko.control.explain import explain

router = APIRouter(tags=["plan"])


@router.post("/plans", operation_id="explain")
async def plan(system: Running, body: PlanRequest) -> PlanView:
    """What would be done about a backup, copy, restore or migration now, by whom, and why. Nothing
    is run, nothing is sent."""
    if isinstance(body, PlanMigration):
        return PlanView.of(
            await migrations.explain(system, body.volume, body.to, source=body.source)
        )
    if isinstance(body, PlanBackup):
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
    elif isinstance(body, PlanCopy):
        wanted = copies.request(
            system,
            body.source,
            body.destination,
            first=body.first,
            blocks=body.blocks,
            at=body.at,
            mode=body.mode,
            pace=body.pace,
        )
    else:
        wanted = backups.restoration(
            system, body.backup, to=body.to, mode=body.mode, force=body.force, pace=body.pace
        )
    return PlanView.of(explain(system, wanted))
