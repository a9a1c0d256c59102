"""A target port on a socket of loopback, with LUN 0 in memory behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from daiko.target.portal import Target
from target.memory_access import IQN, MemoryAccess, serving
from target.raw_initiator import RawInitiator


@pytest.fixture
def access() -> MemoryAccess:
    return MemoryAccess()


@pytest_asyncio.fixture
async def served(access: MemoryAccess) -> AsyncIterator[tuple[Target, str]]:
    async with serving(access) as made:
        yield made


@pytest_asyncio.fixture
async def target(served: tuple[Target, str]) -> Target:
    return served[0]


@pytest_asyncio.fixture
async def portal(served: tuple[Target, str]) -> str:
    return served[1]


@pytest_asyncio.fixture
async def host(portal: str) -> AsyncIterator[RawInitiator]:
    """Logged in with the target's defaults."""
    async with await RawInitiator.connect(portal) as made:
        assert (await made.login(IQN)).status == 0
        yield made
