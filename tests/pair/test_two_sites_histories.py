"""Histories of the model of two sites that deserve a name: each was the one by which a defect, made
on purpose, was found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from daiko.pair.state import Verb
from daiko.state.pair_record import PairState

from .pair_link import FOLLOWER, LEADER, Fault
from .pair_world import ALL_PIECES
from .test_two_sites_model import TwoSitesMachine


@pytest.fixture
def machine() -> Iterator[TwoSitesMachine]:
    """What holds in the model has to hold at the end, and when all has been well again."""
    machine = TwoSitesMachine()
    try:
        machine.create(pieces=ALL_PIECES, is_well=True)
        machine.holds()
        yield machine
        machine.holds()
        machine.all_is_well()
        machine.holds()
    finally:
        machine.teardown()


def states(machine: TwoSitesMachine) -> tuple[PairState, PairState]:
    return machine._record(LEADER).state, machine._record(FOLLOWER).state


def test_second_controllers_that_go_on_after_a_round_overwrite_nothing_of_hosts(
    machine: TwoSitesMachine,
) -> None:
    machine.round_is_broken_off(pieces=1, lost="disk", verb=Verb.SPLIT)
    assert states(machine) == (PairState.SPLIT, PairState.COPYING)


def test_take_over_that_dies_before_its_commit_has_let_no_host_write(
    machine: TwoSitesMachine,
) -> None:
    machine.change_while_writes_are_under_way(
        state=PairState.PAIRED, slow=FOLLOWER, verb=None, writes=FOLLOWER, lba=5, is_cut=False,
        stuck=0, newest_first=False, commits=0,
    )  # fmt: skip
    assert states(machine) == (PairState.PAIRED, PairState.PAIRED)


def test_take_over_waits_for_what_the_leader_had_sent(machine: TwoSitesMachine) -> None:
    machine.change_while_writes_are_under_way(
        state=PairState.PAIRED, slow=FOLLOWER, verb=None, writes=FOLLOWER, lba=5, is_cut=True,
        stuck=1, newest_first=False, commits=-1,
    )  # fmt: skip
    assert machine._record(FOLLOWER).taken_over


def test_copy_waits_for_what_hosts_of_the_other_site_had_sent(machine: TwoSitesMachine) -> None:
    machine.change_while_writes_are_under_way(
        state=PairState.SPLIT, slow=FOLLOWER, verb=Verb.RESYNC, writes=LEADER, lba=5, is_cut=False,
        stuck=1, newest_first=False, commits=-1,
    )  # fmt: skip
    machine.holds()
    machine.time_passes(8.0)
    assert states(machine) == (PairState.PAIRED, PairState.PAIRED)


def test_reverse_copy_waits_for_what_hosts_of_the_leader_had_sent(machine: TwoSitesMachine) -> None:
    machine.change_while_writes_are_under_way(
        state=PairState.SPLIT, slow=LEADER, verb=Verb.RESYNC_REVERSE, writes=FOLLOWER, lba=5,
        is_cut=False, stuck=1, newest_first=False, commits=-1,
    )  # fmt: skip
    machine.holds()
    machine.time_passes(8.0)
    assert states(machine) == (PairState.PAIRED, PairState.PAIRED)


def test_what_was_written_after_a_take_over_can_be_kept_when_the_leader_is_back(
    machine: TwoSitesMachine,
) -> None:
    """Killed under load, the leader means to copy when it is back, and finds that it may not; so
    the secondary has not become a mixture."""
    machine.write(LEADER, 5, 3)
    machine.crash(LEADER, "", is_back=False)
    machine.holds()
    machine.take_over()
    machine.write(FOLLOWER, 20, 3)
    machine.holds()
    machine.site_comes_back(LEADER)
    machine.holds()
    machine.time_passes(40.0)
    assert states(machine) == (PairState.SPLIT_BY_ERROR, PairState.SWAPPED)
    value = machine.value

    machine.ask(Verb.RESYNC_REVERSE)
    machine.time_passes(8.0)

    assert states(machine) == (PairState.PAIRED, PairState.PAIRED)
    assert machine.world.disks["alpha"].now[20] == value


@pytest.mark.parametrize("age", range(12))
def test_envelope_that_comes_late_is_stale(machine: TwoSitesMachine, age: int) -> None:
    machine.ask(Verb.SPLIT)
    machine.write(FOLLOWER, 5, 3)
    machine.ask(Verb.RESYNC)
    machine.time_passes(8.0)
    machine.holds()
    before = machine._record(FOLLOWER)
    machine.envelope_comes_late(age)
    machine.holds()
    assert machine._record(FOLLOWER).sequence == before.sequence
    assert machine._record(FOLLOWER).state is before.state


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("envelopes", range(1, 6))
def test_marks_of_the_other_site_outlive_a_link_that_goes_while_they_are_fetched(
    machine: TwoSitesMachine, envelopes: int, fault: Fault
) -> None:
    machine.ask(Verb.SPLIT)
    machine.write(FOLLOWER, 5, 3)
    machine.envelope_goes_wrong(envelopes, fault)
    machine.ask(Verb.RESYNC)
    machine.holds()
    machine.heal()
    machine.holds()
    machine.time_passes(40.0)


@pytest.mark.parametrize("of_all", [False, True])
@pytest.mark.parametrize("site", [LEADER, FOLLOWER])
def test_write_that_a_disk_forgot_is_copied_again(
    machine: TwoSitesMachine, site: str, of_all: bool
) -> None:
    machine.power_is_lost_after_a_write(
        site=site, lba=5, kept=0, of_all=of_all, is_cut=False, seconds=0.0
    )
