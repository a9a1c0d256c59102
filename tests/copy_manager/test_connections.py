"""Sessions to other machines over real wires."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daiko.copy_manager.connections import Connections
from daiko.device.awaitable import read, write
from daiko.device.error import Unreachable
from daiko.state.record import SystemRecord
from daiko.state.sqlite import SqliteStore
from daiko.target.access import Access
from daiko.target.portal import Target
from target.fake import unit_of

IQN = "iqn.2026-11.test:far"


@pytest.fixture
async def connections(tmp_path: Path) -> AsyncIterator[Connections]:
    store = SqliteStore.open(tmp_path / "store")
    await store.put(SystemRecord(iqn="iqn.2026-11.test:us", initiator_iqn="iqn.2026-11.test:us"))
    yield Connections(store)
    await store.close()


@pytest.fixture
async def portal() -> AsyncIterator[str]:
    access = Access()
    access.publish({"iqn.2026-11.test:us": {5: unit_of()}})
    target = Target(IQN, access)
    yield await target.listen("127.0.0.1:0")
    await target.stop()


async def test_a_target_is_found_logged_in_to_and_used(
    connections: Connections, portal: str
) -> None:
    assert list(await connections.find_targets(portal)) == [IQN]
    controller = connections.connect("far", IQN, portal)
    await controller.open()
    facts = controller.units[5]
    assert facts.capacity is not None
    assert (facts.capacity.blocks, facts.capacity.block_size) == (1024, 512)
    device = controller.device(5)
    await write(device, 7, b"x" * 512)
    assert await read(device, 7, 1) == b"x" * 512
    await controller.close()


async def test_a_portal_where_nobody_listens_is_unreachable(
    connections: Connections, portal: str
) -> None:
    host = portal.rpartition(":")[0]
    with pytest.raises(Unreachable):
        await connections.find_targets(f"{host}:1")
    controller = connections.connect("far", IQN, f"{host}:1")
    with pytest.raises(Unreachable):
        await controller.open()
    await controller.close()
