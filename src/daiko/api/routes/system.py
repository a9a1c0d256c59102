"""The controller as a whole, and its configuration as a file."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from daiko.api.routes.dependency import Running
from daiko.api.schema.system import (
    ApplyRequest,
    ApplyResult,
    ChangeSystem,
    ChangeView,
    ManagementUrls,
    SystemView,
)
from daiko.control import apply, management, status

router = APIRouter(tags=["system"])


@router.get("/system", operation_id="showSystem")
async def show(system: Running) -> SystemView:
    """This controller at a glance."""
    return SystemView.of(status.show(system))


@router.patch("/system", operation_id="changeSystem")
async def change(system: Running, body: ChangeSystem) -> SystemView:
    """Change the mode, or how hosts are pinged; at once."""
    return SystemView.of(await status.change(system, body.model_dump(exclude_none=True)))


@router.put("/system/management-urls", operation_id="setManagementUrls")
async def set_management_urls(system: Running, body: ManagementUrls) -> ManagementUrls:
    """Tell hosts where administrators reach this controller."""
    return ManagementUrls(urls=list(await management.set_urls(system, body.urls)))


@router.post("/apply", operation_id="apply")
async def apply_file(system: Running, body: ApplyRequest) -> ApplyResult:
    """Make the store match a system file; with `dry_run` only say what would change."""
    actions = await apply.apply(
        system,
        body.toml,
        dry_run=body.dry_run,
        prune=body.prune,
        confirmed=body.confirmed,
    )
    return ApplyResult(
        dry_run=body.dry_run,
        changes=[
            ChangeView(
                action=done.verb,
                kind=done.kind,
                name=done.name,
                detail=done.detail,
                lost=done.lost,
            )
            for done in actions
        ],
    )


class TomlResponse(PlainTextResponse):
    """A TOML document."""

    media_type = "application/toml"


@router.get("/export", operation_id="export", response_class=TomlResponse)
async def export_file(system: Running) -> TomlResponse:
    """The configuration as a system file (TOML)."""
    return TomlResponse(apply.export(system))
