"""Sites."""

from __future__ import annotations

from fastapi import APIRouter

from daiko.api.routes.dependency import Running
from daiko.api.schema.chap import SetChap
from daiko.api.schema.site import AddSite, ChangeSite, SiteView
from daiko.control import sites
from daiko.control.chap import Chap

router = APIRouter(tags=["site"])


@router.get("/sites", operation_id="listSites")
async def ls(system: Running) -> list[SiteView]:
    """All sites by name."""
    return [SiteView.of(state) for state in sites.ls(system)]


@router.post("/sites", status_code=201, operation_id="addSite")
async def add(system: Running, body: AddSite) -> SiteView:
    """Name another site's first controller. Its administrator does the same with this one; until
    then, and while it does not answer, `state` says so."""
    return SiteView.of(
        await sites.add(
            system,
            body.name,
            body.address,
            portals=tuple(body.portals),
            initiator=body.initiator,
            login=_chap(body.chap),
            peer=_chap(body.peer_chap),
            without_chap=body.without_chap,
        )
    )


@router.get("/sites/{name}", operation_id="showSite")
async def show(system: Running, name: str) -> SiteView:
    """One site."""
    return SiteView.of(sites.show(system, name))


@router.patch("/sites/{name}", operation_id="changeSite")
async def change(system: Running, name: str, body: ChangeSite) -> SiteView:
    """Give a site other portals, another initiator name or other CHAP users; they hold from the
    next login on."""
    return SiteView.of(
        await sites.change(
            system,
            name,
            portals=tuple(body.portals or ()),
            initiator=body.initiator or "",
            login=_chap(body.chap),
            peer=_chap(body.peer_chap),
            without_chap=body.without_chap,
        )
    )


@router.delete("/sites/{name}", status_code=204, operation_id="removeSite")
async def remove(system: Running, name: str) -> None:
    """Forget a site; sessions in both directions end."""
    await sites.remove(system, name)


@router.post("/sites/{name}/probe", operation_id="probeSite")
async def probe(system: Running, name: str) -> SiteView:
    """Ask a site again now."""
    return SiteView.of(await sites.probe(system, name))


@router.put("/sites/{name}/offered/{volume}", operation_id="offerVolume")
async def offer(system: Running, name: str, volume: str) -> SiteView:
    """Let a site read and write a volume of this system, learn where it lies, and pair it with one
    of its own."""
    return SiteView.of(await sites.offer(system, name, volume))


@router.delete("/sites/{name}/offered/{volume}", operation_id="withdrawVolume")
async def withdraw(system: Running, name: str, volume: str) -> SiteView:
    """Take that back. Refused while the site leads a pair with the volume."""
    return SiteView.of(await sites.withdraw(system, name, volume))


def _chap(given: SetChap | None) -> Chap | None:
    return None if given is None else given.chap()
