"""Pairs of volumes. Where a route takes a name, it is that of a pair or of a consistency group."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from daiko.api.routes.dependency import Running
from daiko.api.schema.pair import (
    AskPair,
    CreatePair,
    DoneView,
    EffectView,
    EndPair,
    PacePair,
    PairView,
    ResyncPair,
)
from daiko.control import pairs
from daiko.pair.state import Verb
from daiko.state.pair_record import PairState

router = APIRouter(tags=["pair"])

LONGEST_WAIT = 60.0
"""Seconds that one request may wait; who wants to wait longer asks again."""


@router.get("/pairs", operation_id="listPairs")
async def ls(system: Running) -> list[PairView]:
    """All pairs by name."""
    return [PairView.of(status) for status in pairs.ls(system)]


@router.post("/pairs", status_code=201, operation_id="createPair")
async def create(system: Running, body: CreatePair) -> PairView:
    """Make a pair of two volumes of the same size and begin to copy."""
    return PairView.of(
        await pairs.create(
            system,
            body.name,
            body.primary,
            body.secondary,
            group=body.group,
            fence=body.fence,
            granularity=body.granularity,
            power_safe=body.power_safe,
            pace=body.pace,
            update=body.update,
            journal=body.journal,
            confirmed=body.confirmed,
        )
    )


@router.get("/pairs/{name}", operation_id="showPair")
async def show(system: Running, name: str) -> PairView:
    """One pair."""
    return PairView.of(pairs.show(system, name))


@router.patch("/pairs/{name}", operation_id="changePair")
async def change(system: Running, name: str, body: PacePair) -> list[PairView]:
    """Let a pair copy at another pace, from now on."""
    return [PairView.of(status) for status in await pairs.set_pace(system, name, body.pace)]


@router.get("/pairs/{name}/effects", operation_id="showPairEffects")
async def effects(system: Running, name: str, verb: Verb) -> list[EffectView]:
    """What a verb would do to the data, before it does."""
    return [EffectView.of(effect) for effect in await pairs.effects(system, name, verb)]


@router.get("/pairs/{name}/wait", operation_id="waitPair")
async def wait(
    system: Running,
    name: str,
    state: Annotated[list[PairState], Query(description="One of these is waited for")],
    seconds: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = LONGEST_WAIT,
) -> list[PairView]:
    """The pairs as soon as all are in one of the states, or one is split by error; or when the
    time is over."""
    return [PairView.of(status) for status in await pairs.wait(system, name, state, seconds)]


@router.post("/pairs/{name}/split", operation_id="splitPair")
async def split(system: Running, name: str, body: EndPair) -> DoneView:
    """Keep the secondary as it is at one instant, and let hosts use both sides."""
    return DoneView.of(
        await pairs.do(system, name, Verb.SPLIT, confirmed=body.confirmed, at_once=body.at_once)
    )


@router.post("/pairs/{name}/resync", operation_id="resyncPair")
async def resync(system: Running, name: str, body: ResyncPair) -> DoneView:
    """Copy what differs, and keep both sides the same from then on."""
    verb = Verb.RESYNC_REVERSE if body.reverse else Verb.RESYNC
    return DoneView.of(await pairs.do(system, name, verb, confirmed=body.confirmed))


@router.post("/pairs/{name}/swap", operation_id="swapPair")
async def swap(system: Running, name: str, body: AskPair) -> DoneView:
    """Let hosts use the other side."""
    return DoneView.of(await pairs.do(system, name, Verb.SWAP, confirmed=body.confirmed))


@router.delete("/pairs/{name}", operation_id="removePair")
async def remove(
    system: Running,
    name: str,
    confirmed: Annotated[
        bool,
        Query(
            description="Also while the volume is lent to the site that leads the pair, whose "
            "second controllers may be writing to it"
        ),
    ] = False,
    at_once: Annotated[
        bool, Query(description="Asynchronous pairs: give up what is in the journal")
    ] = False,
) -> DoneView:
    """Forget a pair; both volumes keep what is on them."""
    return DoneView.of(
        await pairs.do(system, name, Verb.REMOVE, confirmed=confirmed, at_once=at_once)
    )
