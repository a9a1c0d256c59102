"""Back ends."""

from __future__ import annotations

from fastapi import APIRouter

from daiko.api.routes.dependency import Running
from daiko.api.schema.backend import AddBackend, BackendView, ChangeBackend, GrowBackend
from daiko.api.schema.chap import SetChap
from daiko.control import backends

router = APIRouter(tags=["backend"])


@router.get("/backends", operation_id="listBackends")
async def ls(system: Running) -> list[BackendView]:
    """All back ends by name."""
    return [BackendView.of(state) for state in backends.ls(system)]


@router.post("/backends", status_code=201, operation_id="addBackend")
async def add(system: Running, body: AddBackend) -> BackendView:
    """Attach a back end and probe it."""
    return BackendView.of(
        await backends.add(
            system,
            body.name,
            body.address,
            portals=tuple(body.portals),
            block_size=body.block_size,
            preallocate=body.preallocate,
            login=None if body.chap is None else body.chap.chap(),
        )
    )


@router.post("/backends/rescan", operation_id="rescanBackends")
async def rescan_all(system: Running) -> list[BackendView]:
    """Find new, grown and vanished LUs of all back ends."""
    return [BackendView.of(state) for state in await backends.rescan_all(system)]


@router.get("/backends/{name}", operation_id="showBackend")
async def show(system: Running, name: str) -> BackendView:
    """One back end."""
    return BackendView.of(backends.show(system, name))


@router.patch("/backends/{name}", operation_id="changeBackend")
async def change(system: Running, name: str, body: ChangeBackend) -> BackendView:
    """Change how long a second controller may take, from now on."""
    changes = body.patience.model_dump(exclude_none=True)
    return BackendView.of(await backends.set_patience(system, name, changes))


@router.delete("/backends/{name}", status_code=204, operation_id="removeBackend")
async def remove(system: Running, name: str) -> None:
    """Detach a back end; no data on it is touched."""
    await backends.remove(system, name)


@router.post("/backends/{name}/probe", operation_id="probeBackend")
async def probe(system: Running, name: str) -> BackendView:
    """Ask a back end everything again: devices, functions, limits, reachability."""
    return BackendView.of(await backends.probe(system, name))


@router.post("/backends/{name}/grow", operation_id="growBackend")
async def grow(system: Running, name: str, body: GrowBackend) -> BackendView:
    """Make the file of a disk of this controller longer; volumes may then grow onto it."""
    return BackendView.of(await backends.grow(system, name, body.size))


@router.post("/backends/{name}/rescan", operation_id="rescanBackend")
async def rescan(system: Running, name: str) -> BackendView:
    """Find new, grown and vanished LUs of one back end."""
    return BackendView.of(await backends.rescan(system, name))


@router.put("/backends/{name}/chap", operation_id="setBackendChap")
async def set_chap(system: Running, name: str, body: SetChap) -> BackendView:
    """Log in to a second controller by this CHAP user from now on. It is tried at once, in a
    session of its own."""
    return BackendView.of(await backends.set_chap(system, name, body.chap()))


@router.delete("/backends/{name}/chap", operation_id="clearBackendChap")
async def clear_chap(system: Running, name: str) -> BackendView:
    """Log in to a second controller by this controller's name alone."""
    return BackendView.of(await backends.clear_chap(system, name))
