"""A copy manager on controllers that are made for the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from copy_rig import QUICK, Rig
from daiko.copy_manager.copy_manager import CopyManager
from daiko.state.sqlite import SqliteStore


@pytest.fixture
def rig() -> Rig:
    """alpha lies half on sd1, which can copy and reaches the vault, half on sd2, which cannot."""
    rig = Rig()
    rig.attach("sd1", 1024, reaches=("vault",))
    rig.attach("sd2", 1024, limits=None)
    rig.attach("vault", 2048, limits=None)
    rig.volume("alpha", ("sd1/0", 0, 512), ("sd2/0", 100, 512))
    return rig


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(tmp_path / "store")
    yield store
    await store.close()


@pytest.fixture
async def manager(rig: Rig, store: SqliteStore) -> AsyncIterator[CopyManager]:
    manager = CopyManager(store, rig, settings=QUICK)
    await manager.start()
    yield manager
    await manager.stop()
