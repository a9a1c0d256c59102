"""The scripted target and paths to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from daiko.initiator.multipath import Multipath
from daiko.initiator.portal import Portal
from daiko.initiator.settings import InitiatorSettings
from initiator.exchange import INITIATOR, QUICK, MakePaths, Watcher
from initiator.scripted_target import IQN, ScriptedTarget


@pytest.fixture
async def target() -> AsyncIterator[ScriptedTarget]:
    async with ScriptedTarget() as target:
        yield target


@pytest.fixture
def watcher(target: ScriptedTarget) -> Watcher:
    return Watcher(target)


@pytest.fixture
async def make(target: ScriptedTarget, watcher: Watcher) -> AsyncIterator[MakePaths]:
    made: list[Multipath] = []

    def make(settings: InitiatorSettings = QUICK, *portals: Portal) -> Multipath:
        paths = Multipath(IQN, portals or (target.portal,), INITIATOR, watcher, settings=settings)
        watcher.paths = paths
        made.append(paths)
        return paths

    yield make
    for paths in made:
        await paths.close()


@pytest.fixture
async def paths(make: MakePaths) -> Multipath:
    paths = make()
    await paths.open()
    return paths
