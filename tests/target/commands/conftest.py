"""A target in front of a copy manager, for tests of the copy commands of hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from copy_target import (
    FAR,
    CopyTarget,
)
from daiko.state.sqlite import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(tmp_path / "store")
    yield store
    await store.close()


@pytest.fixture
async def target(store: SqliteStore) -> AsyncIterator[CopyTarget]:
    target = await CopyTarget.start(store, remote_copy=(FAR,))
    yield target
    await target.stop()
