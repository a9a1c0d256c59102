"""A whole system over files, with the API in front of it, and no socket between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from daiko.api.app import create_app
from daiko.command_control.plan import Mode
from daiko.control.system import System
from daiko.state.record import PortalGroupRecord, SystemRecord
from daiko.state.sqlite import SqliteStore

MIB = 1 << 20


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    """A controller with an empty store."""
    store = SqliteStore.open(tmp_path / "store")
    await store.put(
        SystemRecord(
            iqn="iqn.2026-11.com.example:first",
            initiator_iqn="iqn.2026-11.com.example:first.initiator",
            mode=Mode.DELEGATE,
        )
    )
    await store.put(PortalGroupRecord(tag=1, portals=("127.0.0.1:3260",), target_port_group=1))
    system = await System.start(store)
    yield system
    await system.stop()
    await store.close()


@pytest.fixture
async def api(system: System) -> AsyncIterator[httpx.AsyncClient]:
    """A client of its API."""
    transport = httpx.ASGITransport(app=create_app(system))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/v1") as client:
        yield client


@pytest.fixture
def disk(tmp_path: Path) -> Callable[..., Path]:
    """Makes a file that can be attached as a disk of the controller."""

    def make(name: str, size: int = MIB, *, content: bytes = b"") -> Path:
        path = tmp_path / f"{name}.img"
        with path.open("wb") as file:
            file.truncate(size)
            file.write(content)
        return path

    return make


@pytest.fixture
def attach(api: httpx.AsyncClient, disk: Callable[..., Path]) -> Callable[..., object]:
    """Makes a file and attaches it."""

    async def make(name: str, size: int = MIB, *, content: bytes = b"") -> Path:
        path = disk(name, size, content=content)
        answer = await api.post("/backends", json={"name": name, "address": str(path)})
        assert answer.status_code == 201, answer.text
        return path

    return make
