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


# --- roles that are exchanged


def test_swap_that_follows_on_a_split_nobody_heard_of_is_heeded(machine: TwoSitesMachine) -> None:
    machine.cut()
    machine.ask(Verb.SPLIT)
    machine.ask(Verb.SWAP)
    assert states(machine) == (PairState.SWAPPED, PairState.PAIRED)
    machine.heal()
    assert states(machine) == (PairState.SWAPPED, PairState.SWAPPED)


def test_site_that_took_over_before_it_was_offered_the_lead_says_that_it_leads_another(
    machine: TwoSitesMachine,
) -> None:
    machine.envelope_goes_wrong(1, Fault.LOST)
    machine.ask(Verb.SWAP)
    assert machine._record(LEADER).offered_lead
    machine.take_over()
    machine.write(FOLLOWER, 5, 3)
    machine.heal()
    machine.time_passes(40.0)
    assert machine.leads == FOLLOWER
    assert states(machine) == (PairState.SPLIT_BY_ERROR, PairState.SPLIT_BY_ERROR)


def test_verb_that_meets_another_state_than_it_was_asked_in_exchanges_nothing(
    machine: TwoSitesMachine,
) -> None:
    """The leader hears of the take-over while the swap waits for the disk."""
    machine.change_while_writes_are_under_way(
        state=PairState.PAIRED, slow=LEADER, verb=Verb.SWAP, writes=LEADER, lba=5, is_cut=True,
        stuck=0, newest_first=False, commits=-1,
    )  # fmt: skip
    machine.take_over()
    machine.all_is_well()
    assert len(machine._leaders()) == 1


@pytest.mark.parametrize("verb", [Verb.SWAP, Verb.RESYNC])
@pytest.mark.parametrize("arrives", [False, True])
def test_lead_that_was_taken_back_is_conceded_by_who_had_taken_it(
    machine: TwoSitesMachine, verb: Verb, arrives: bool
) -> None:
    machine.lead_is_taken_back_though_it_was_offered(verb, arrives, 7)
    machine.all_is_well()
    # What may have been copied to is not taken back.
    assert machine.leads == (LEADER if verb is Verb.SWAP else FOLLOWER)


@pytest.mark.parametrize("site", [LEADER, FOLLOWER])
@pytest.mark.parametrize("after", [False, True])
def test_whoever_dies_at_the_commit_of_an_exchange_one_leads_in_the_end(
    machine: TwoSitesMachine, site: str, after: bool
) -> None:
    machine.die_at_a_commit(site, 0, after, stays_down=False)
    machine.ask(Verb.SWAP)
    machine.holds()
    machine.all_is_well()
    assert machine.leads == (LEADER if (site, after) == (LEADER, False) else FOLLOWER)
    assert states(machine) == (PairState.PAIRED, PairState.PAIRED)
