"""A running controller on files, for tests of what an administrator can ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control import site_pairs
from daiko.command_control.plan import Mode
from daiko.control import earlier_states, sites
from daiko.control.system import System
from daiko.state.record import BackendKind, BackendRecord, PortalGroupRecord, SystemRecord
from daiko.state.sqlite import SqliteStore
from processes import free_port
from site_rig import Site, linked

IQN = "iqn.2026-11.com.example:test"


def initial_record(mode: Mode = Mode.LOCAL) -> SystemRecord:
    return SystemRecord(iqn=IQN, initiator_iqn=f"{IQN}.initiator", mode=mode)


def disk(folder: Path, name: str, blocks: int, block_size: int = 512) -> BackendRecord:
    """A file of zeros and the record of the back end that it will be."""
    path = folder / f"{name}.img"
    with path.open("wb") as file:
        file.truncate(blocks * block_size)
    return BackendRecord(
        name=name, type=BackendKind.INTERNAL, path=str(path), block_size=block_size
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(tmp_path / "store")
    await store.put(initial_record())
    await store.put(
        PortalGroupRecord(tag=1, portals=(f"127.0.0.1:{free_port()}",), target_port_group=1)
    )
    yield store
    await store.close()


@pytest.fixture
async def system(store: SqliteStore, tmp_path: Path) -> AsyncIterator[System]:
    """With the INTERNAL devices a/0 and b/0 of 4096 blocks of 512 bytes."""
    system = await System.start(store)
    for name in ("a", "b"):
        await system.attach_backend(disk(tmp_path, name, 4096))
    yield system
    await system.stop()


@pytest.fixture
def leaders_are_asked_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of when an earlier state is good is known as soon as it may be."""
    monkeypatch.setattr(earlier_states, "SOON_SECONDS", 0.02)


@pytest.fixture
async def tokyo(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path, "tokyo")
    yield site
    await site.stop()


@pytest.fixture
async def osaka(tmp_path: Path, tokyo: Site) -> AsyncIterator[Site]:
    """Linked with tokyo. tokyo has alpha and gamma, osaka has beta and delta, which it offers."""
    site = Site(tmp_path, "osaka")
    await linked(tokyo, site)
    for each in (tokyo, site):
        site_pairs.quick(each)
    for name in ("alpha", "gamma"):
        await site_pairs.disk(tokyo, name)
    for name in ("beta", "delta"):
        await site_pairs.disk(site, name)
        await sites.offer(site.system, "tokyo", name)
    yield site
    await site.stop()
