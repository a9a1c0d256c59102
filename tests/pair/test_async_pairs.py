"""Asynchronous pairs: whatever is lost, and whenever, the secondaries are an earlier state of their
whole group; and when everything is there again, they become the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from daiko.device.error import DeviceError, Unsupported
from daiko.pair.error import VerbRefused
from daiko.pair.journal_file import Entry
from daiko.pair.live_pair import JournalStatus
from daiko.pair.state import Verb
from daiko.state.pair_record import PairRecord, PairState, Update

from .acknowledged import HISTORIES, Hosts
from .pair_world import BLOCK, BLOCKS, World

S = PairState
PRIMARY_OF = {"b": "a", "d": "c"}
HEADER = 64


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "pairs", "abcd")
    world.start()
    yield world
    world.close()


def _make(world: World, journal: int = 1 << 16) -> Hosts:
    assert world.pairs is not None
    for name, primary, secondary in (("p", "a", "b"), ("q", "c", "d")):
        world.run(
            world.pairs.create(
                PairRecord(
                    name=name,
                    primary=primary,
                    secondary=secondary,
                    group="g",
                    granularity=4096,
                    update=Update.ASYNC,
                    journal=journal,
                    mixture=secondary,
                )
            )
        )
    _converge(world)
    return Hosts(world, PRIMARY_OF, lambda volume: world.volumes[volume].front, world.call)


def _converge(world: World) -> None:
    """Everything is there: the pairs become the same."""
    for disk in world.disks.values():
        disk.heal()
        world.call(disk.release)
    for _ in range(40):
        world.pass_time(40.0)
        if all(record.state is S.PAIRED for record in world.records.values()) and not (
            _journal(world).used
        ):
            break
    assert [record.state for record in world.records.values()] == [S.PAIRED] * 2
    assert _journal(world).good_as_of is not None
    for secondary, primary in PRIMARY_OF.items():
        assert world.disks[secondary].now == world.disks[primary].now


def _journal(world: World, pair: str = "p") -> JournalStatus:
    assert world.pairs is not None
    status = world.pairs.pair(pair).status.journal
    assert status is not None
    return status


def _is_earlier(world: World) -> bool:
    return all(_journal(world, pair).good_as_of is not None for pair in ("p", "q"))


def test_writes_are_good_while_the_secondary_is_lost_and_come_to_it_later(world: World) -> None:
    hosts = _make(world)
    world.disks["b"].cut()
    for block in range(5):
        hosts.write("a", block)
        hosts.write("c", block)
    assert not hosts.under_way
    assert [record.state for record in world.records.values()] == [S.PAIRED] * 2
    status = _journal(world)
    assert status.behind_bytes == 10 * BLOCK
    assert status.used == 10 * (BLOCK + HEADER)
    assert "it is down" in status.state
    assert world.disks["d"].now == hosts.first["d"], "nothing comes before what b lacks"
    hosts.check()
    _converge(world)
    assert _journal(world).behind_bytes == 0


@pytest.mark.parametrize("seed", range(HISTORIES or 24))
def test_the_secondaries_are_always_an_earlier_state(world: World, seed: int) -> None:
    choose = random.Random(seed)
    hosts = _make(world, journal=choose.choice([4096, 1 << 16]))
    for _ in range(24):
        _step(world, hosts, choose)
        if _is_earlier(world):
            hosts.check()
    end = choose.choice(["lose power", "kill", "stop", "heal"])
    was_earlier = _is_earlier(world)
    if end == "lose power":
        for secondary in PRIMARY_OF:
            world.disks[secondary].lose_power(choose.randrange(1 << 16))
    elif end == "kill":
        world.kill()
    elif end == "stop":
        for disk in world.disks.values():
            world.call(disk.release)
        was_earlier = _is_earlier(world)
        assert world.pairs is not None
        world.finish(world.pairs.stop())
        world.kill()
    if was_earlier:
        hosts.check()
    if world.pairs is None:
        for disk in world.disks.values():
            disk.heal()
        world.start()
        if end == "stop" and was_earlier:
            assert {record.state for record in world.records.values()} <= {S.PAIRED, S.COPYING}
    _converge(world)


def _step(world: World, hosts: Hosts, choose: random.Random) -> None:
    steps = {"write": 10, "slow": 2, "release": 3, "cut": 1, "heal": 2, "power": 1, "time": 2}
    what = choose.choices(list(steps), list(steps.values()))
    primary, secondary = choose.choice("ac"), choose.choice("bd")
    if what == ["write"]:
        hosts.write(primary, choose.randrange(BLOCKS), choose.choice([1, 1, 3]))
    elif what == ["slow"]:
        disk = world.disks[choose.choice([primary, secondary])]
        disk.is_slow, disk.is_late = True, choose.random() < 0.5
    elif what == ["release"]:
        world.call(world.disks[choose.choice([primary, secondary])].release)
    elif what == ["cut"]:
        disk = world.disks[secondary]
        world.call(lambda: disk.cut(lambda: choose.random() < 0.5))
    elif what == ["power"]:
        world.disks[secondary].lose_power(choose.randrange(1 << 16))
    elif what == ["heal"]:
        world.disks[secondary].heal()
    else:
        world.pass_time(choose.choice([0.5, 3.0, 30.0]))


def test_after_a_clean_stop_the_journal_goes_on_and_nothing_is_copied(world: World) -> None:
    hosts = _make(world)
    world.disks["b"].cut()
    for block in range(8):
        hosts.write("a", block)
        hosts.write("c", 50 - block)
    assert world.pairs is not None
    world.finish(world.pairs.stop())
    world.kill()
    world.start()
    assert [record.state for record in world.records.values()] == [S.PAIRED] * 2
    assert _journal(world).behind_bytes == 16 * BLOCK
    world.pieces_left = 0  # rounds could copy nothing
    _converge(world)


def test_after_a_crash_the_journal_comes_first_and_then_what_is_marked(world: World) -> None:
    hosts = _make(world)
    world.disks["b"].cut()
    for block in range(8):
        hosts.write("a", block)
    world.kill()
    world.start()
    assert [record.state for record in world.records.values()] == [S.COPYING] * 2
    assert world.records["p"].is_draining
    assert world.records["p"].mixture == ""
    world.pass_time(60)
    assert world.records["p"].is_draining, "the secondary is an earlier state still"
    hosts.check()
    _converge(world)


def test_a_full_journal_leaves_the_secondary_as_it_is_until_it_is_drained(world: World) -> None:
    hosts = _make(world, journal=4096)
    world.disks["b"].cut()
    for block in range(20):
        hosts.write("a", block)
    assert not hosts.under_way, "hosts go on"
    assert [record.state for record in world.records.values()] == [S.COPYING] * 2
    assert world.records["p"].reason == "the journal is full"
    assert world.records["p"].mixture == ""
    assert _journal(world).good_as_of is not None
    hosts.check()
    world.pieces_left = 0
    world.disks["b"].heal()
    world.pass_time(60)
    assert world.disks["b"].now[:7] == world.disks["a"].now[:7], "what was in the journal"
    assert world.records["p"].mixture == "b", "what is marked is copied now"
    assert _journal(world).good_as_of is None
    world.let_rounds(1 << 30)
    _converge(world)


@pytest.mark.parametrize("verb", [Verb.SPLIT, Verb.REMOVE])
def test_a_split_is_of_the_instant_at_which_it_was_asked_for(world: World, verb: Verb) -> None:
    hosts = _make(world)
    world.disks["b"].is_slow = True
    hosts.write("a", 1)
    hosts.write("c", 1)
    wanted = {name: bytes(world.disks[PRIMARY_OF[name]].now) for name in PRIMARY_OF}
    assert world.pairs is not None
    task = world.loop.create_task(world.pairs.verb("g", verb))
    world.settle()
    hosts.write("a", 2)
    hosts.write("c", 2)
    assert not hosts.under_way, "hosts go on"
    assert not task.done()
    for _ in range(5):
        world.disks["b"].is_slow = False
        world.call(world.disks["b"].release)
    assert task.done()
    assert {name: bytes(world.disks[name].now) for name in PRIMARY_OF} == wanted
    if verb is Verb.SPLIT:
        world.run(world.pairs.verb("g", Verb.RESYNC))
        _converge(world)


def test_a_split_waits_for_the_journal_and_goes_without_it_at_once(world: World) -> None:
    hosts = _make(world)
    world.disks["b"].cut()
    hosts.write("a", 1)
    assert world.pairs is not None
    task = world.loop.create_task(world.pairs.verb("g", Verb.SPLIT))
    world.pass_time(100.0)
    with pytest.raises(VerbRefused, match="did not come to the secondary"):
        task.result()
    assert world.records["p"].state is S.PAIRED
    hosts.write("a", 2)
    world.run(world.pairs.verb("g", Verb.SPLIT, at_once=True))
    assert world.records["p"].state is S.SPLIT
    assert world.disks["b"].now == hosts.first["b"]
    assert world.pairs.pair("p").status.differs
    world.disks["b"].heal()
    world.run(world.pairs.verb("g", Verb.RESYNC))
    _converge(world)


def test_a_swap_leaves_nothing_behind(world: World) -> None:
    hosts = _make(world)
    hosts.write("a", 1)
    assert world.pairs is not None
    world.run(world.pairs.verb("g", Verb.SWAP))
    assert (world.records["p"].primary, world.records["p"].state) == ("b", S.PAIRED)
    assert world.disks["a"].now == world.disks["b"].now
    front = world.volumes["b"].front
    world.call(lambda: front.write(5, b"x" * BLOCK, lambda error: None))
    _converge(world)


def test_a_pair_of_the_group_is_split_alone_and_its_entries_are_nobodys(world: World) -> None:
    hosts = _make(world)
    world.disks["b"].cut()
    hosts.write("a", 1)
    hosts.write("c", 1)
    assert world.pairs is not None
    world.run(world.pairs.verb("p", Verb.SPLIT, at_once=True))
    world.pass_time(60.0)
    assert world.records["q"].state is S.PAIRED
    assert world.disks["d"].now == world.disks["c"].now
    assert world.disks["b"].now == hosts.first["b"]
    world.disks["b"].heal()
    world.run(world.pairs.verb("p", Verb.RESYNC))
    _converge(world)


def test_entries_that_are_nobodys_are_not_even_read(world: World) -> None:
    hosts = _make(world)
    for name in PRIMARY_OF:
        world.disks[name].cut()
    for block in range(20):
        hosts.write("a", block)
    assert world.pairs is not None
    applier = world.pairs.pair("p").applier
    assert applier is not None
    read: list[int] = []
    fetch = applier.journal.fetch

    async def fetched(entries: list[Entry]) -> list[bytes]:
        read.append(len(entries))
        return await fetch(entries)

    applier.journal.fetch = fetched  # type: ignore[method-assign]
    world.run(world.pairs.verb("g", Verb.SPLIT, at_once=True))
    world.settle()
    assert applier.journal.is_drained
    assert not any(read)
    assert applier.journal.used == 0


def test_every_change_of_blocks_comes_to_the_secondary(world: World) -> None:
    _make(world)
    front = world.volumes["a"].front
    failures: list[DeviceError | None] = []
    for send in (
        lambda: front.write_same(3, 20, b"s" * BLOCK, failures.append),
        lambda: front.unmap(5, 4, failures.append),
        lambda: front.or_write(7, b"\x0f" * BLOCK, failures.append),
        lambda: front.write_atomic(40, b"t" * BLOCK, failures.append),
    ):
        world.call(send)
    assert failures[:3] == [None] * 3
    assert isinstance(failures[3], Unsupported)
    assert {record.state for record in world.records.values()} == {S.PAIRED}
    assert world.disks["a"].now[3:8] == b"ss\0\0\x0f"
    _converge(world)
    world.pass_time(10.0)
    assert world.pairs is not None
    assert world.pairs.pair("p").primary.marked_bytes == 0, "proved, so no mark is left"


def test_a_secondary_lost_while_it_is_copied_to_is_copied_to_again(world: World) -> None:
    """While the last regions are copied, writes go to both sides."""
    hosts = _make(world)
    assert world.pairs is not None
    world.run(world.pairs.verb("g", Verb.SPLIT))
    hosts.write("a", 1)
    world.disks["b"].is_slow = True
    world.run(world.pairs.verb("g", Verb.RESYNC))
    hosts.write("a", 30)
    world.call(world.disks["b"].cut)
    world.pass_time(100.0)
    assert not hosts.under_way
    assert world.records["p"].state is S.COPYING
    _converge(world)


def test_what_the_primary_loses_with_its_cache_is_copied_again(world: World) -> None:
    hosts = _make(world)
    world.disks["b"].cut()
    hosts.write("a", 1)
    world.disks["a"].lose_power(0)
    world.pass_time(10.0)
    assert world.records["p"].is_draining
    hosts.check()
    _converge(world)


def test_hosts_can_go_over_when_the_primary_is_lost_with_what_the_journal_has(
    world: World,
) -> None:
    hosts = _make(world)
    world.disks["b"].cut()
    hosts.write("a", 1)
    hosts.write("c", 1)
    a, b = world.disks["a"], world.disks["b"]
    acknowledged = bytes(a.now)
    assert b.now != acknowledged
    world.call(a.cut)
    refused: list[DeviceError | None] = []
    front = world.volumes["a"].front
    world.call(lambda: front.write(30, b"x" * BLOCK, refused.append))
    assert refused
    assert refused[0] is not None
    world.pass_time(10.0)
    assert world.records["p"].is_draining
    b.heal()
    world.pass_time(100.0)
    assert b.now == acknowledged
    record = world.records["p"]
    assert record.state is S.SPLIT_BY_ERROR
    assert record.reason.startswith("a: ")
    assert not record.mixture
    assert world.pairs is not None
    world.run(world.pairs.verb("p", Verb.SWAP))
    assert world.records["p"].state is S.SWAPPED
