"""What becomes of a pair when one of its sides fails; in the world of the model."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from daiko.device.error import DeviceError
from daiko.pair import side as side_module
from daiko.pair.differential_bitmap import DifferentialBitmap
from daiko.pair.pairs import Pairs
from daiko.pair.state import Verb
from daiko.pair.write_path import Way
from daiko.state.pair_record import Fence, PairRecord, PairState
from daiko.state.store import StoreError

from .pair_world import BLOCK, BLOCKS, GRANULARITY, KillingStore, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, ["alpha", "beta", "gamma", "delta"])
    world.start()
    yield world
    world.close()


def pairs_of(world: World) -> Pairs:
    assert world.pairs is not None
    return world.pairs


def record(name: str, primary: str, secondary: str, **more: object) -> PairRecord:
    return PairRecord.model_validate(
        {
            "name": name,
            "primary": primary,
            "secondary": secondary,
            "granularity": GRANULARITY,
            "mixture": secondary,
            "created": 1.0,
            **more,
        }
    )


def paired(world: World, name: str, primary: str, secondary: str, **more: object) -> None:
    world.run(pairs_of(world).create(record(name, primary, secondary, **more)))
    world.pass_time(8.0)
    assert world.records[name].state is PairState.PAIRED


def write(world: World, volume: str, lba: int, value: int) -> list[DeviceError | None]:
    """One block; how it ended, if it has."""
    ended: list[DeviceError | None] = []
    front = world.volumes[volume].front
    world.call(lambda: front.write(lba, bytes([value]) * BLOCK, ended.append))
    return ended


@pytest.mark.parametrize("fence", Fence)
def test_hosts_can_go_over_to_the_secondary_of_a_primary_that_failed(
    world: World, fence: Fence
) -> None:
    paired(world, "p", "alpha", "beta", fence=fence)
    assert write(world, "alpha", 3, 201) == [None]
    world.call(world.disks["alpha"].cut)

    (error,) = write(world, "alpha", 4, 202)

    assert error is not None
    found = world.records["p"]
    assert found.state is PairState.SPLIT_BY_ERROR
    assert found.reason.startswith("alpha: ")
    assert not found.mixture
    world.run(pairs_of(world).verb("p", Verb.SWAP))
    assert world.records["p"].state is PairState.SWAPPED
    assert world.disks["beta"].now[3] == 201, "what was acknowledged is there"
    assert write(world, "beta", 5, 203) == [None]


def test_a_primary_that_fails_while_nobody_writes_leaves_a_whole_secondary(world: World) -> None:
    paired(world, "p", "alpha", "beta")
    assert write(world, "alpha", 3, 201) == [None]
    world.call(world.disks["alpha"].cut)

    world.pass_time(40.0)  # settling flushes both

    assert world.records["p"].state is PairState.SPLIT_BY_ERROR
    assert not world.records["p"].mixture


def test_the_whole_group_splits_when_a_primary_fails(world: World) -> None:
    paired(world, "p", "alpha", "beta", group="g")
    paired(world, "q", "gamma", "delta", group="g")
    world.call(world.disks["alpha"].cut)

    write(world, "alpha", 4, 202)

    assert [world.records[name].state for name in "pq"] == [PairState.SPLIT_BY_ERROR] * 2


def test_what_the_primary_missed_is_copied_when_it_is_back(world: World) -> None:
    paired(world, "p", "alpha", "beta")
    world.call(world.disks["alpha"].cut)
    write(world, "alpha", 4, 202)
    assert world.disks["beta"].now[4] == 202, "it had come to the other side"
    world.disks["alpha"].heal()

    world.run(pairs_of(world).verb("p", Verb.RESYNC))
    world.pass_time(8.0)

    assert world.records["p"].state is PairState.PAIRED
    assert world.disks["alpha"].now == world.disks["beta"].now


def test_hosts_go_on_when_the_primary_refuses_a_write_while_a_pair_catches_up(
    world: World,
) -> None:
    paired(world, "p", "alpha", "beta")
    world.run(pairs_of(world).verb("p", Verb.SPLIT))
    write(world, "alpha", 0, 201)
    alpha, beta = world.disks["alpha"], world.disks["beta"]
    beta.is_slow = True
    world.run(pairs_of(world).verb("p", Verb.RESYNC))
    assert pairs_of(world).pair("p").primary.layer.way == Way.MIRROR
    assert world.records["p"].state is PairState.COPYING
    alpha.is_down = True
    refused = write(world, "alpha", BLOCKS - 1, 202)
    alpha.heal()
    assert not refused, "the other side has not answered"

    world.call(beta.release)

    assert refused
    assert refused[0] is not None
    assert write(world, "alpha", BLOCKS - 2, 203) == [None]
    world.pass_time(8.0)
    assert world.records["p"].state is PairState.PAIRED
    assert alpha.now == beta.now


def test_a_pair_whose_second_bitmap_cannot_be_made_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    real = DifferentialBitmap.open

    def second_fails(path: Path, **settings: object) -> DifferentialBitmap:
        opened.append(path)
        if len(opened) == 2:
            raise OSError(errno.ENOSPC, "no space left")
        return real(path, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(side_module.DifferentialBitmap, "open", second_fails)
    with pytest.raises(OSError, match="no space left"):
        world.run(pairs_of(world).create(record("p", "alpha", "beta")))
    monkeypatch.undo()

    assert not opened[0].exists()
    assert not pairs_of(world).all()
    assert write(world, "alpha", 3, 201) == [None]
    paired(world, "p", "alpha", "beta")


def test_a_verb_that_the_store_does_not_take_forgets_nothing_that_differs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    paired(world, "p", "alpha", "beta")
    assert write(world, "alpha", 3, 201) == [None]
    world.disks["beta"].lose_power(0)  # nothing was flushed: beta has not got it any more
    put, failures = KillingStore.put, [StoreError("the disk is full")]

    def fails_once(store: KillingStore, record: PairRecord) -> None:
        if failures:
            raise failures.pop()
        put(store, record)

    monkeypatch.setattr(KillingStore, "put", fails_once)
    with pytest.raises(StoreError):
        world.run(pairs_of(world).verb("p", Verb.SPLIT))
    monkeypatch.undo()

    world.pass_time(8.0)
    assert world.records["p"].state is PairState.PAIRED
    assert world.disks["beta"].now == world.disks["alpha"].now
