"""Asynchronous pairs over two sites: whatever is lost, and whenever, the secondaries are an earlier
state of their whole group as long as the site that follows may take over; and what may differ
afterwards is copied."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from daiko.device.error import DeviceError
from daiko.pair.error import VerbRefused
from daiko.pair.followed import CannotTakeOver
from daiko.pair.live_pair import JournalStatus
from daiko.pair.state import Verb
from daiko.state.pair_record import PairRecord, PairState, Update

from .acknowledged import HISTORIES, Hosts
from .pair_link import FOLLOWER, LEADER, NAA_OF
from .pair_world import BLOCK, BLOCKS, REGION_BLOCKS
from .two_sites import TwoSites, led

S = PairState
PRIMARY_OF = {"beta": "alpha", "delta": "gamma"}


class AsyncSites(TwoSites):
    """Two asynchronous pairs p and q of a group g."""

    volumes_of: Mapping[str, Sequence[str]] = {
        LEADER: ["alpha", "gamma"],
        FOLLOWER: ["beta", "delta"],
    }

    def make(self, journal: int = 1 << 16) -> Hosts:
        """The pairs, which are the same, and their hosts."""
        for number, (secondary, primary) in enumerate(PRIMARY_OF.items()):
            self.create(
                led(
                    name="pq"[number],
                    primary=primary,
                    secondary=f"{FOLLOWER}:{secondary}",
                    mixture=f"{FOLLOWER}:{secondary}",
                    peer_naa=NAA_OF[secondary],
                    uuid=bytes([number] * 16).hex(),
                    group="g",
                    update=Update.ASYNC,
                    journal=journal,
                )
            )
        self.converge()
        return Hosts(
            self,
            PRIMARY_OF,
            lambda volume: self.controllers[LEADER].volumes[volume].front,
            lambda function: self.call_at(LEADER, function),
        )

    def records_of(self, site: str) -> list[PairRecord]:
        return list(self.kept[site].values())

    @property
    def is_earlier(self) -> bool:
        """The site that follows may take over."""
        return all(each.is_earlier_state and each.good_as_of for each in self.records_of(FOLLOWER))

    def journal(self, pair: str = "p") -> JournalStatus:
        status = self.controllers[LEADER].pairs.pair(pair).status.journal
        assert status is not None
        return status

    def ask(self, verb: Verb, name: str = "g", *, at_once: bool = False) -> None:
        self.run_at(LEADER, self.controllers[LEADER].pairs.verb(name, verb, at_once=at_once))
        self.settle()

    def take_over(self, name: str = "g") -> None:
        self.run_at(FOLLOWER, self.controllers[FOLLOWER].followed.take_over(name))

    def everything_is_there(self) -> None:
        for disk in self.disks.values():
            disk.heal()
            self.call(disk.release)
        if not self.wire.is_up:
            self.heal_link()

    def converge(self) -> None:
        """Everything is there: the pairs become the same, at both sites."""
        self.everything_is_there()
        for _ in range(40):
            self.pass_time(40.0)
            if self.is_paired and self.is_earlier and not self.journal().used:
                break
        found = [(each.name, each.state, each.reason) for each in self.all_records]
        assert self.is_paired, found
        assert self.is_earlier, found
        for secondary, primary in PRIMARY_OF.items():
            assert self.disks[secondary].now == self.disks[primary].now

    @property
    def all_records(self) -> list[PairRecord]:
        return [*self.records_of(LEADER), *self.records_of(FOLLOWER)]

    @property
    def is_paired(self) -> bool:
        return all(each.state is S.PAIRED for each in self.all_records)

    def restart(self, site: str) -> None:
        self.kill_site(site)
        self.start_site(site)

    def check_marks(self) -> None:
        """A region that differs is marked somewhere; to be asked while no write is under way."""
        for name, (secondary, primary) in zip("pq", PRIMARY_OF.items(), strict=True):
            sides = [
                *self.controllers[LEADER].pairs.pair(name).sides,
                self.controllers[FOLLOWER].followed.pair(name).side,
            ]
            here, there = self.disks[primary].now, self.disks[secondary].now
            for region in range((BLOCKS + REGION_BLOCKS - 1) // REGION_BLOCKS):
                part = slice(region * REGION_BLOCKS, (region + 1) * REGION_BLOCKS)
                if here[part] != there[part]:
                    assert any(side.bitmap.regions.any_in(region, region) for side in sides)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[AsyncSites]:
    world = AsyncSites(tmp_path)
    yield world
    world.close()


def write_both(hosts: Hosts, block: int) -> None:
    hosts.write("alpha", block)
    hosts.write("gamma", block)


def test_lost_link_splits_nothing_and_no_host_waits_for_it(world: AsyncSites) -> None:
    hosts = world.make()
    world.cut_link()
    for block in range(5):
        write_both(hosts, block)
    world.pass_time(300.0)
    assert not hosts.under_way
    assert world.is_paired
    status = world.journal()
    assert status.behind_bytes == 10 * BLOCK
    assert "link" in status.state
    assert world.disks["beta"].now == hosts.first["beta"]
    world.heal_link()
    world.pass_time(1.0)
    assert world.journal().behind_bytes == 0, "it is tried as soon as the link is there"
    world.converge()


def test_hosts_go_on_when_the_journal_is_full_while_the_other_site_does_not_answer(
    world: AsyncSites,
) -> None:
    hosts = world.make(journal=4096)
    world.disks["beta"].is_slow = True
    followed = world.controllers[FOLLOWER].followed.pair("p")
    world.run_at(FOLLOWER, followed.lock.acquire())  # so it does not answer when it is told
    for block in range(20):
        hosts.write("alpha", block)
    assert not hosts.under_way
    assert world.kept[LEADER]["p"].is_draining
    assert world.kept[LEADER]["p"].reason == "the journal is full"
    assert world.kept[FOLLOWER]["p"].state is S.PAIRED
    followed.lock.release()
    world.converge()


def test_full_journal_leaves_an_earlier_state_that_may_be_taken_over(world: AsyncSites) -> None:
    hosts = world.make(journal=4096)
    slow = world.disks["beta"]
    slow.is_slow = True
    for block in range(20):
        hosts.write("alpha", block)
    assert not hosts.under_way
    slow.release()
    world.cut_link()
    assert [each.state for each in world.records_of(LEADER)] == [S.COPYING] * 2
    hosts.check()
    world.take_over()
    assert [each.state for each in world.records_of(FOLLOWER)] == [S.SWAPPED] * 2
    assert "earlier state of tokyo:alpha, good as of" in world.kept[FOLLOWER]["p"].reason
    hosts.check()


def test_site_that_follows_knows_a_draining_pair_from_a_mixture(world: AsyncSites) -> None:
    hosts = world.make(journal=4096)
    world.disks["delta"].cut()
    for block in range(20):
        write_both(hosts, block)
    world.pass_time(1.0)
    there = world.kept[FOLLOWER]["q"]
    assert (there.state, there.mixture, there.is_draining) == (S.COPYING, "", True)
    followed = world.controllers[FOLLOWER].followed
    assert any("earlier state" in note for note in followed.pair("q").status.notes)
    world.pieces_left = 0
    world.disks["delta"].heal()
    for _ in range(4):
        world.pass_time(60.0)
    there = world.kept[FOLLOWER]["q"]
    assert (there.state, there.mixture, there.is_earlier_state) == (S.COPYING, "delta", False)
    with pytest.raises(CannotTakeOver, match="is lent"):
        world.take_over()
    world.let_rounds(1 << 30)
    world.converge()


def test_group_is_an_earlier_state_until_all_of_it_can_be_copied_to(world: AsyncSites) -> None:
    hosts = world.make(journal=4096)
    world.disks["delta"].cut()
    world.disks["beta"].is_slow = True
    for block in range(20):
        hosts.write("alpha", block)
    world.call(world.disks["beta"].release)
    for _ in range(4):
        world.pass_time(60.0)
    assert world.journal().used == 0, "all of it was for beta"
    assert all(each.is_draining for each in world.all_records), world.all_records
    hosts.check()
    world.cut_link()
    world.take_over()
    world.everything_is_there()
    world.pass_time(40.0)
    world.ask(Verb.RESYNC)
    world.converge()


def test_write_that_is_alone_counts_when_one_more_command_was_answered(world: AsyncSites) -> None:
    """Else a reset that it met at the other site would be told too late."""
    hosts = world.make()
    seen: list[str] = []
    device = world.controllers[LEADER].pairs.pair("p").secondary.volume.device
    write, read = device.write, device.read
    device.write = lambda *given: (seen.append("write"), write(*given))  # type: ignore[method-assign]
    device.read = lambda *given: (seen.append("read"), read(*given))  # type: ignore[method-assign]
    hosts.write("alpha", 7)
    assert seen == ["write", "read"]
    assert world.journal().behind_bytes == 0


@pytest.mark.parametrize("verb", [Verb.RESYNC, Verb.RESYNC_REVERSE])
def test_what_was_taken_over_and_what_the_journal_had_is_copied(
    world: AsyncSites, verb: Verb
) -> None:
    hosts = world.make()
    world.cut_link()
    for block in range(6):
        write_both(hosts, 5 * block)
    world.take_over()
    at_instant = {name: bytes(world.disks[name].now) for name in PRIMARY_OF}
    failures: list[DeviceError | None] = []
    front = world.controllers[FOLLOWER].volumes["beta"].front
    world.call_at(FOLLOWER, lambda: front.write(60, b"\xff" * BLOCK, failures.append))
    assert failures == [None]
    world.heal_link()
    world.pass_time(40.0)
    for record in world.records_of(LEADER):
        assert record.state is S.SPLIT_BY_ERROR
        assert record.reason == "site osaka has taken over"
    assert bytes(world.disks["delta"].now) == at_instant["delta"], "no late batch"
    assert world.disks["beta"].now[:60] == at_instant["beta"][:60]
    world.check_marks()
    kept = "beta" if verb is Verb.RESYNC_REVERSE else "alpha"
    wanted = bytes(world.disks[kept].now)
    world.ask(verb)
    world.converge()
    assert bytes(world.disks["alpha"].now) == wanted
    assert bytes(world.disks["beta"].now) == wanted


def test_member_is_not_taken_over_alone_and_all_go_in_one_commit(world: AsyncSites) -> None:
    world.make()
    world.cut_link()
    with pytest.raises(CannotTakeOver, match="taken over as one: name g"):
        world.take_over("p")
    world.controllers[FOLLOWER].commits_left = 0
    world.take_over()
    world.restart(FOLLOWER)
    assert [each.state for each in world.records_of(FOLLOWER)] == [S.PAIRED] * 2
    world.controllers[FOLLOWER].commits_left = 0
    world.controllers[FOLLOWER].killed_after_commit = True
    world.take_over()
    world.restart(FOLLOWER)
    assert [each.taken_over for each in world.records_of(FOLLOWER)] == [True] * 2
    with pytest.raises(CannotTakeOver, match="p: this site has taken over already"):
        world.take_over()


def test_group_that_is_not_of_one_instant_yet_is_not_taken_over(world: AsyncSites) -> None:
    hosts = world.make()
    world.ask(Verb.SPLIT, "q")
    world.disks["beta"].cut()
    hosts.write("alpha", 1)
    hosts.write("gamma", 1)
    world.ask(Verb.RESYNC, "q")
    world.pass_time(5.0)
    assert [each.state for each in world.records_of(FOLLOWER)] == [S.PAIRED] * 2
    world.cut_link()
    with pytest.raises(CannotTakeOver, match=r"of one instant \(q\)"):
        world.take_over()
    world.converge()
    world.cut_link()
    world.take_over()


@pytest.mark.parametrize("at_once", [False, True])
def test_split_is_of_its_instant_and_needs_the_link_but_now(
    world: AsyncSites, at_once: bool
) -> None:
    hosts = world.make()
    world.cut_link()
    write_both(hosts, 3)
    before = bytes(world.disks["beta"].now)
    if at_once:
        world.ask(Verb.SPLIT, at_once=True)
        assert bytes(world.disks["beta"].now) == before
        world.heal_link()
        world.pass_time(1.0)
    else:
        work = world.controllers[LEADER].pairs.verb("g", Verb.SPLIT)
        task = world.loop.create_task(work, context=world.controllers[LEADER].context.copy())
        world.pass_time(100.0)
        with pytest.raises(VerbRefused, match="did not come to the secondary"):
            task.result()
        world.heal_link()
        world.pass_time(1.0)
        world.ask(Verb.SPLIT)
        assert world.disks["beta"].now == world.disks["alpha"].now
    assert [each.state for each in world.all_records] == [S.SPLIT] * 4
    write_both(hosts, 9)
    world.check_marks()
    world.ask(Verb.RESYNC)
    world.converge()


def test_leader_that_stops_cleanly_goes_on_with_its_journal(world: AsyncSites) -> None:
    hosts = world.make()
    world.cut_link()
    for block in range(8):
        write_both(hosts, block)
    world.run_at(LEADER, world.controllers[LEADER].pairs.stop())
    world.kill_site(LEADER)
    world.start_site(LEADER)
    assert world.is_paired
    world.pieces_left = 0  # rounds could copy nothing
    world.converge()


def test_leader_that_is_killed_brings_up_its_journal_first(world: AsyncSites) -> None:
    hosts = world.make()
    world.cut_link()
    for block in range(8):
        write_both(hosts, block)
    world.kill_site(LEADER)
    world.start_site(LEADER)
    assert all(each.is_draining for each in world.records_of(LEADER))
    hosts.check()
    world.converge()


def test_end_of_the_pairs_at_the_site_that_follows_splits_them(world: AsyncSites) -> None:
    hosts = world.make()
    write_both(hosts, 1)
    for name in "pq":
        world.run_at(FOLLOWER, world.controllers[FOLLOWER].followed.forget(name))
    write_both(hosts, 2)
    world.cut_link()
    world.heal_link()
    world.pass_time(40.0)
    assert not hosts.under_way
    for record in world.records_of(LEADER):
        assert (record.state, record.reason) == (
            S.SPLIT_BY_ERROR,
            "site osaka has no such pair any more",
        )


# --- every history


STEPS: dict[str, int] = {
    "write": 12, "slow": 2, "release": 3, "cut": 1, "heal": 2, "time": 2, "disk": 1,
    "kill leader": 1, "kill follower": 1, "power": 1, "split": 1, "resync": 2,
}  # fmt: skip


@pytest.mark.parametrize("seed", range(HISTORIES or 40))
def test_secondaries_are_an_earlier_state_whenever_they_may_be_taken_over(
    world: AsyncSites, seed: int
) -> None:
    choose = random.Random(seed)
    hosts = world.make(journal=choose.choice([4096, 1 << 16]))
    for _ in range(30):
        _step(world, hosts, choose)
        if world.is_earlier:
            hosts.check()
        if not hosts.under_way:
            world.check_marks()
    world.cut_link()
    if choose.random() < 0.5:
        world.kill_site(LEADER)
        hosts.forget_under_way()
    if choose.random() < 0.3:
        _lose_power(world, choose)
    was_earlier = world.is_earlier
    try:
        world.take_over()
    except CannotTakeOver:
        assert not was_earlier
        _bring_back(world)
        return
    for name in PRIMARY_OF:
        world.call(world.disks[name].release)  # it waits for what was under way
    if was_earlier:  # else an administrator had split it, or a part of it
        hosts.check()
    at_instant = {name: bytes(world.disks[name].now) for name in PRIMARY_OF}
    _bring_back(world, at_instant)


def _step(world: AsyncSites, hosts: Hosts, choose: random.Random) -> None:
    (what,) = choose.choices(list(STEPS), list(STEPS.values()))
    secondary = choose.choice(list(PRIMARY_OF))
    disk = world.disks[secondary]
    steps: dict[str, Callable[[], Any]] = {
        "slow": lambda: vars(disk).update(is_slow=True, is_late=choose.random() < 0.5),
        "release": lambda: world.call(disk.release),
        "cut": world.cut_link,
        "heal": world.everything_is_there,
        "time": lambda: world.pass_time(choose.choice([0.5, 3.0, 30.0])),
        "disk": lambda: world.call(lambda: disk.cut(lambda: choose.random() < 0.5)),
        "kill follower": lambda: world.restart(FOLLOWER),
        "power": lambda: _lose_power(world, choose),
        "split": lambda: world.ask(Verb.SPLIT, choose.choice("gpq"), at_once=True),
        "resync": lambda: world.ask(Verb.RESYNC),
    }
    if what == "write":
        volume = choose.choice(list(PRIMARY_OF.values()))
        hosts.write(volume, choose.randrange(BLOCKS), choose.choice([1, 1, 3]))
    elif what == "kill leader":
        world.kill_site(LEADER)
        hosts.forget_under_way()
        world.start_site(LEADER)
    else:
        steps[what]()


def _lose_power(world: AsyncSites, choose: random.Random) -> None:
    """Disks of the site that follows, or all of it."""
    if choose.random() < 0.5:
        world.disks[choose.choice(list(PRIMARY_OF))].lose_power(choose.randrange(1 << 16))
        return
    world.kill_site(FOLLOWER)
    for name in PRIMARY_OF:
        world.disks[name].lose_power(choose.randrange(1 << 16))
    world.start_site(FOLLOWER)


def _bring_back(world: AsyncSites, wanted: dict[str, bytes] | None = None) -> None:
    """What is wanted (secondary -> data) is kept at both sites in the end; else what is there."""
    if LEADER not in world.controllers:
        world.start_site(LEADER)
    world.everything_is_there()
    for _ in range(6):
        world.pass_time(40.0)
    if wanted is not None:
        world.check_marks()
        world.ask(Verb.RESYNC_REVERSE)
    elif any(each.state in (S.SPLIT, S.SPLIT_BY_ERROR) for each in world.records_of(LEADER)):
        world.ask(Verb.RESYNC)
    world.converge()
    for name, data in (wanted or {}).items():
        assert bytes(world.disks[name].now) == data
