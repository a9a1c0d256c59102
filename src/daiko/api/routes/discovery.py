"""Discovery sessions: who may ask which targets are here."""

from __future__ import annotations

from fastapi import APIRouter

from daiko.api.routes.dependency import Running
from daiko.api.schema.chap import ChapView, SetChap
from daiko.control import chap

router = APIRouter(tags=["system"])


@router.get("/discovery/chap", operation_id="showDiscoveryChap")
async def show(system: Running) -> ChapView | None:
    """By which user discovery sessions prove themselves; null: anybody may discover."""
    return ChapView.of_any(chap.state(system.store, chap.DISCOVERY))


@router.put("/discovery/chap", operation_id="setDiscoveryChap")
async def put(system: Running, body: SetChap) -> ChapView:
    """Let discovery sessions begin with a proof by CHAP."""
    return ChapView.of(await chap.set_for_discovery(system, body.chap()))


@router.delete("/discovery/chap", status_code=204, operation_id="clearDiscoveryChap")
async def clear(system: Running) -> None:
    """Let anybody discover again."""
    await chap.clear_for_discovery(system)
