"""Asynchronous pairs over two sites: whatever is lost, and whenever, the secondaries are an earlier
state of their whole group as long as the site that follows may take over; and what may differ
afterwards is copied."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daiko.device.error import DeviceError
from daiko.pair.error import VerbRefused
from daiko.pair.followed import CannotTakeOver
from daiko.pair.state import Verb
from daiko.state.pair_record import PairState

from .acknowledged import HISTORIES, Hosts
from .async_sites import PRIMARY_OF, AsyncSites
from .pair_link import FOLLOWER, LEADER, OTHER, Fault
from .pair_world import BLOCK, BLOCKS

S = PairState


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AsyncSites]:
    monkeypatch.setattr("daiko.pair.exchange.LEAST_CAPACITY", 4096)
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


# --- roles that are exchanged


def test_other_site_leads_with_a_journal_of_its_own(world: AsyncSites) -> None:
    hosts = world.make()
    world.disks["beta"].is_slow = True
    hosts.write("alpha", 3)
    assert world.journal().behind_bytes
    world.disks["beta"].is_slow = False
    world.call(world.disks["beta"].release)
    assert world.exchange() == ""
    assert world.leads == FOLLOWER
    hosts.primary_of = world.primary_of
    hosts.begin_anew()
    assert world.disks["alpha"].now == world.disks["beta"].now
    world.cut_link()
    for block in range(5):
        hosts.write("beta", block)
        hosts.write("delta", block)
    assert world.journal().behind_bytes == 10 * BLOCK
    world.converge()
    assert world.exchange() == ""
    assert world.leads == LEADER


def test_journal_that_does_not_come_up_keeps_the_lead(world: AsyncSites) -> None:
    hosts = world.make()
    world.disks["beta"].cut()
    hosts.write("alpha", 3)
    assert "osaka:beta, which hosts would use, cannot be read: it is down" in world.exchange()
    world.disks["beta"].heal()
    world.disks["beta"].is_slow = True
    world.pass_time(10.0)
    assert "cannot be read: it does not answer within 10 s" in world.exchange()
    assert world.leads == LEADER
    assert world.is_paired
    hosts.write("alpha", 4)
    assert not hosts.under_way
    world.converge()


def test_group_that_copies_is_exchanged_by_no_swap(world: AsyncSites) -> None:
    hosts = world.make(journal=4096)
    world.cut_link()
    for block in range(20):
        hosts.write("alpha", block)
    assert "wait until it is paired" in world.exchange()
    world.converge()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("commit", range(3))
@pytest.mark.parametrize("victim", [LEADER, FOLLOWER])
def test_whoever_dies_at_a_commit_of_an_exchange_one_leads_a_whole_group(
    world: AsyncSites, victim: str, commit: int, after: bool
) -> None:
    hosts = world.make()
    write_both(hosts, 3)
    world.controllers[victim].commits_left = commit
    world.controllers[victim].killed_after_commit = after
    world.exchange()
    world.everything_is_there()
    world.converge()
    world.see_who_leads()
    hosts.primary_of = world.primary_of
    hosts.begin_anew()
    for volume in world.primary_of.values():
        hosts.write(volume, 9)
    world.converge()


def test_journal_that_was_left_behind_by_a_killed_leader_is_nobodys(world: AsyncSites) -> None:
    """It was killed after it had offered the lead, and before it had taken its journal away."""
    hosts = world.make()
    world.controllers[LEADER].commits_left = 0
    world.controllers[LEADER].killed_after_commit = True
    world.exchange()
    world.converge()
    world.see_who_leads()
    assert world.leads == FOLLOWER
    assert (world.folder / LEADER / "journals" / "g").exists()
    assert world.exchange() == ""
    assert world.leads == LEADER
    world.cut_link()
    write_both(hosts, 9)
    assert world.journal().behind_bytes == 2 * BLOCK
    world.converge()


# --- every history


STEPS: dict[str, int] = {
    "write": 12, "slow": 2, "release": 3, "cut": 1, "heal": 2, "time": 2, "disk": 1,
    "kill leader": 1, "kill follower": 1, "power": 1, "split": 1, "resync": 2, "swap": 2,
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
        world.kill_site(world.leads)
        hosts.forget_under_way()
    if choose.random() < 0.3:
        _lose_power(world, choose)
    was_earlier, here = world.is_earlier, world.follows
    try:
        world.take_over()
    except CannotTakeOver:
        assert not was_earlier
        _bring_back(world)
        return
    for name in world.volumes_of[here]:
        world.call(world.disks[name].release)  # it waits for what was under way
    if was_earlier:  # else an administrator had split it, or a part of it
        hosts.check()
    _bring_back(world, here)


def _step(world: AsyncSites, hosts: Hosts, choose: random.Random) -> None:
    (what,) = choose.choices(list(STEPS), list(STEPS.values()))
    secondary = choose.choice(list(world.primary_of))
    disk = world.disks[secondary]
    steps: dict[str, Callable[[], Any]] = {
        "slow": lambda: vars(disk).update(is_slow=True, is_late=choose.random() < 0.5),
        "release": lambda: world.call(disk.release),
        "cut": world.cut_link,
        "heal": world.everything_is_there,
        "time": lambda: world.pass_time(choose.choice([0.5, 3.0, 30.0])),
        "disk": lambda: world.call(lambda: disk.cut(lambda: choose.random() < 0.5)),
        "kill follower": lambda: world.restart(world.follows),
        "power": lambda: _lose_power(world, choose),
        "split": lambda: world.ask(Verb.SPLIT, choose.choice("gpq"), at_once=True),
        "resync": lambda: world.ask(Verb.RESYNC),
    }
    if what == "write":
        volume = choose.choice(list(world.primary_of.values()))
        hosts.write(volume, choose.randrange(BLOCKS), choose.choice([1, 1, 3]))
    elif what == "kill leader":
        world.kill_site(world.leads)
        hosts.forget_under_way()
        world.start_site(world.leads)
    elif what == "swap":
        _swap(world, hosts, choose)
    else:
        steps[what]()


def _swap(world: AsyncSites, hosts: Hosts, choose: random.Random) -> None:
    """The other site comes to lead, or does not; somebody may die at a commit of it, or an envelope
    be lost. In the end one leads."""
    if hosts.under_way:
        return
    led = world.leads
    fault = choose.choice(["none", "none", "commit", "after commit", "envelope"])
    victim = choose.choice([LEADER, FOLLOWER])
    if fault == "envelope":
        world.wire.fault = choose.choice(list(Fault))
        world.wire.envelopes_left = choose.randrange(1, 5)
    elif fault != "none":
        world.controllers[victim].commits_left = choose.randrange(3)
        world.controllers[victim].killed_after_commit = fault == "after commit"
    world.exchange()
    world.wire.envelopes_left = -1
    if world.nobody_leads:
        world.everything_is_there()
        for _ in range(3):
            world.pass_time(40.0)
        world.see_who_leads()
        assert not world.nobody_leads
    if world.leads != led:
        for secondary, primary in world.primary_of.items():
            assert world.disks[secondary].now == world.disks[primary].now
        hosts.primary_of = world.primary_of
        hosts.begin_anew()


def _lose_power(world: AsyncSites, choose: random.Random) -> None:
    """Disks of the site that follows, or all of it."""
    if choose.random() < 0.5:
        world.disks[choose.choice(list(world.primary_of))].lose_power(choose.randrange(1 << 16))
        return
    world.kill_site(world.follows)
    for name in world.primary_of:
        world.disks[name].lose_power(choose.randrange(1 << 16))
    world.start_site(world.follows)


def _bring_back(world: AsyncSites, taken_over: str = "") -> None:
    """Where a site has taken over, its data is wanted at both in the end; else what is there."""
    volumes = world.volumes_of[taken_over] if taken_over else []
    wanted = {name: bytes(world.disks[name].now) for name in volumes}
    for site in OTHER:
        if site not in world.controllers:
            world.start_site(site)
    world.everything_is_there()
    for _ in range(6):
        world.pass_time(40.0)
    world.see_who_leads()
    if taken_over:
        world.check_marks()
        world.ask(Verb.RESYNC if world.leads == taken_over else Verb.RESYNC_REVERSE)
    elif any(each.state in (S.SPLIT, S.SPLIT_BY_ERROR) for each in world.records_of(world.leads)):
        world.ask(Verb.RESYNC)
    world.converge()
    for name, data in wanted.items():
        assert bytes(world.disks[name].now) == data
