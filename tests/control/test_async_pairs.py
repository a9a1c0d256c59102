"""Asynchronous pairs in a running controller, on files."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from daiko.control import pairs, volumes
from daiko.control.error import Conflict, Invalid
from daiko.control.system import System
from daiko.device.awaitable import write
from daiko.mapping.extent import DeviceId
from daiko.pair.group import Group
from daiko.pair.live_pair import JournalStatus
from daiko.pair.settings import PairSettings
from daiko.pair.state import Verb
from daiko.state.pair_record import Fence, PairState, Update
from daiko.state.sqlite import SqliteStore

from .conftest import disk

BLOCKS = 4096
SIZE = BLOCKS * 512
SETTINGS = PairSettings(settle_seconds=0.01)
TWO = (("p", "alpha", "beta"), ("q", "gamma", "delta"))


async def _start(store: SqliteStore, folder: Path) -> System:
    system = await System.start(store, kept_in=folder)
    system.pairs._workshop = replace(system.pairs._workshop, settings=SETTINGS)
    return system


@pytest.fixture
async def system(store: SqliteStore, tmp_path: Path) -> AsyncIterator[System]:
    """Volumes alpha, beta, gamma, delta: each a whole disk of random bytes."""
    system = await _start(store, tmp_path)
    for name in ("alpha", "beta", "gamma", "delta"):
        await system.attach_backend(disk(tmp_path, f"{name}-disk", BLOCKS))
        (tmp_path / f"{name}-disk.img").write_bytes(random.Random(name).randbytes(SIZE))
        await volumes.create_whole(system, name, [DeviceId(f"{name}-disk", 0)])
    yield system
    await system.stop()


def _bytes(tmp_path: Path, volume: str) -> bytes:
    return (tmp_path / f"{volume}-disk.img").read_bytes()


async def _make(system: System, **more: object) -> None:
    for name, primary, secondary in TWO:
        await pairs.create(
            system,
            name,
            primary,
            secondary,
            group="g",
            update=Update.ASYNC,
            confirmed=True,
            **{"journal": 1 << 20, **more},  # type: ignore[arg-type]
        )
    await _paired(system)


async def _paired(system: System) -> None:
    found = await pairs.wait(system, "g", [PairState.PAIRED], 20)
    assert [status.record.state for status in found] == [PairState.PAIRED] * 2, found


def _group(system: System) -> Group:
    return system.pairs._groups["group", "g"]


def _journal(system: System) -> JournalStatus:
    status = pairs.show(system, "p").journal
    assert status is not None
    return status


async def _write(system: System, volume: str, lba: int, data: bytes) -> None:
    await write(system.unit(volume).device, lba, data)


async def _drain(system: System) -> None:
    applier = _group(system).applier
    assert applier is not None
    await applier.reached(applier.journal.last)


async def test_writes_come_to_the_secondary_later(system: System, tmp_path: Path) -> None:
    await _make(system)
    await _group(system).pause()
    before = _bytes(tmp_path, "beta")
    for number in range(20):
        await _write(system, "alpha", number * 37, random.Random(number).randbytes(512 * 5))
    assert _bytes(tmp_path, "beta") == before
    status = _journal(system)
    assert status.behind_bytes == 20 * 5 * 512
    assert status.behind_seconds >= 0
    assert status.good_as_of is not None
    _group(system).resume()
    await _drain(system)
    assert _bytes(tmp_path, "alpha") == _bytes(tmp_path, "beta")
    assert _journal(system).behind_bytes == 0


async def test_a_split_brings_the_journal_up_and_now_does_not(
    system: System, tmp_path: Path
) -> None:
    await _make(system)
    before = _bytes(tmp_path, "beta")
    await _write(system, "alpha", 10, b"1" * 512)
    await pairs.do(system, "g", Verb.SPLIT)
    assert _bytes(tmp_path, "beta") == _bytes(tmp_path, "alpha") != before
    await pairs.do(system, "g", Verb.RESYNC, confirmed=True)
    await _paired(system)
    await _group(system).pause()
    await _write(system, "alpha", 10, b"2" * 512)
    _group(system)._settings = replace(SETTINGS, drain_seconds=0.0)
    with pytest.raises(Conflict, match="p is paired: split is refused") as refused:
        await pairs.do(system, "g", Verb.SPLIT)
    assert "split it --now" in str(refused.value.next_step)
    await _group(system).pause()
    await _write(system, "alpha", 10, b"3" * 512)
    wanted = _bytes(tmp_path, "beta")
    await pairs.do(system, "g", Verb.SPLIT, at_once=True)
    assert _bytes(tmp_path, "beta") == wanted
    await pairs.do(system, "g", Verb.RESYNC, confirmed=True)
    await _paired(system)
    assert _bytes(tmp_path, "beta") == _bytes(tmp_path, "alpha")


async def test_the_journal_outlives_the_controller(
    system: System, store: SqliteStore, tmp_path: Path
) -> None:
    await _make(system)
    await _group(system).pause()
    before = _bytes(tmp_path, "beta")
    await _write(system, "alpha", 10, b"1" * 5120)
    await _write(system, "gamma", 10, b"2" * 5120)
    await system.stop()
    assert _bytes(tmp_path, "beta") == before
    again = await _start(store, tmp_path)
    try:
        assert pairs.show(again, "p").record.state is PairState.PAIRED
        await _drain(again)
        for _, primary, secondary in TWO:
            assert _bytes(tmp_path, primary) == _bytes(tmp_path, secondary)
    finally:
        await again.stop()


async def test_a_full_journal_ends_in_copying_and_comes_back(
    system: System, tmp_path: Path
) -> None:
    await _make(system)
    await _group(system).pause()
    for number in range(40):
        await _write(system, "alpha", number * 64, bytes([number]) * 64 * 512)
    found = await pairs.wait(system, "g", [PairState.COPYING], 20)
    assert found[0].record.reason == "the journal is full"
    await _paired(system)
    for _, primary, secondary in TWO:
        assert _bytes(tmp_path, primary) == _bytes(tmp_path, secondary)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"fence": Fence.DATA}, "acknowledges what only the primary has"),
        ({"journal": 4096}, "4096 bytes"),
    ],
)
async def test_what_cannot_be_asynchronous_is_refused(
    system: System, wanted: dict[str, object], said: str
) -> None:
    given = {"name": "p", "primary": "alpha", "secondary": "beta", "update": Update.ASYNC}
    with pytest.raises(Invalid, match=said):
        await pairs.create(system, **(given | wanted), confirmed=True)  # type: ignore[arg-type]


async def test_the_pairs_of_a_group_are_updated_alike(system: System) -> None:
    await pairs.create(system, *TWO[0], group="g", update=Update.ASYNC, confirmed=True)
    with pytest.raises(Conflict, match="updated `async`"):
        await pairs.create(system, *TWO[1], group="g", confirmed=True)
    with pytest.raises(Conflict, match="has 268435456 bytes"):
        await pairs.create(
            system, *TWO[1], group="g", update=Update.ASYNC, journal=1 << 20, confirmed=True
        )


async def test_the_journal_goes_with_the_last_pair(system: System) -> None:
    await _make(system)
    folder = system.pairs._folder
    assert folder is not None
    assert os.listdir(folder / "journals") == ["g"]
    await pairs.do(system, "g", Verb.REMOVE)
    assert os.listdir(folder / "journals") == []
