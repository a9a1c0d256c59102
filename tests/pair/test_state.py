"""Every cell of the tables of a pair's states."""

from __future__ import annotations

import itertools

import pytest

from daiko.pair.state import (
    EVENTS,
    OF_MIXTURE,
    USES,
    VERBS,
    Answer,
    PairEvent,
    Role,
    Use,
    Verb,
    asked,
    carried_out,
    moved,
)
from daiko.state.pair_record import PairRecord, PairState

GOES, NOTHING, REFUSED = Answer.GOES, Answer.NOTHING, Answer.REFUSED
S = PairState

# State -> split, resync, resync --reverse, swap, rm: the state after it, or how it is met.
EXPECTED: dict[PairState, tuple[PairState | Answer | None, ...]] = {
    S.COPYING: (S.SPLIT, NOTHING, REFUSED, REFUSED, None),
    S.PAIRED: (S.SPLIT, NOTHING, NOTHING, S.PAIRED, None),
    S.SPLIT: (NOTHING, S.COPYING, S.REVERSE_COPYING, S.SWAPPED, None),
    S.SPLIT_BY_ERROR: (S.SPLIT, S.COPYING, S.REVERSE_COPYING, S.SWAPPED, None),
    S.REVERSE_COPYING: (S.SPLIT, REFUSED, NOTHING, REFUSED, None),
    S.SWAPPED: (NOTHING, S.COPYING, REFUSED, S.SPLIT, None),
}


def _record(state: PairState, mixture: str = "") -> PairRecord:
    return PairRecord(name="p", primary="a", secondary="b", state=state, mixture=mixture)


@pytest.mark.parametrize(("state", "verb"), list(itertools.product(PairState, Verb)))
def test_what_a_verb_does_in_a_state(state: PairState, verb: Verb) -> None:
    cell = VERBS[state][verb]
    expected = EXPECTED[state][list(Verb).index(verb)]
    if isinstance(expected, Answer):
        assert (cell.answer, cell.state) == (expected, None)
    else:
        assert (cell.answer, cell.state) == (GOES, expected)
    assert cell.text
    assert asked(_record(state), verb) == cell


@pytest.mark.parametrize(("state", "event"), list(itertools.product(PairState, PairEvent)))
def test_what_an_event_does_in_a_state(state: PairState, event: PairEvent) -> None:
    expected = {
        (S.COPYING, PairEvent.EQUAL): S.PAIRED,
        (S.REVERSE_COPYING, PairEvent.EQUAL): S.PAIRED,
        (S.COPYING, PairEvent.DIFFER): S.COPYING,
        (S.PAIRED, PairEvent.DIFFER): S.COPYING,
        (S.COPYING, PairEvent.FAIL): S.SPLIT_BY_ERROR,
        (S.REVERSE_COPYING, PairEvent.FAIL): S.SPLIT_BY_ERROR,
        (S.PAIRED, PairEvent.FAIL): S.SPLIT_BY_ERROR,
        (S.COPYING, PairEvent.DRAINED): S.COPYING,
    }
    assert EVENTS[state].get(event) == expected.get((state, event))


@pytest.mark.parametrize("state", PairState)
def test_a_side_that_is_copied_to_takes_no_writes_of_hosts(state: PairState) -> None:
    uses = USES[state]
    if state in (S.COPYING, S.PAIRED):
        assert uses.secondary is Use.PROTECTED
    if state is S.REVERSE_COPYING:
        assert uses.primary is Use.PROTECTED
    if state is S.SWAPPED:
        assert (uses.primary, uses.secondary) == (Use.PROTECTED, Use.TRACKED)


@pytest.mark.parametrize(("role", "verb"), list(itertools.product(Role, Verb)))
@pytest.mark.parametrize("state", [S.SPLIT, S.SPLIT_BY_ERROR])
def test_nothing_is_copied_from_a_mixture_and_no_host_sent_to_it(
    state: PairState, role: Role, verb: Verb
) -> None:
    mixture = "a" if role is Role.PRIMARY else "b"
    cell = asked(_record(state, mixture), verb)
    if verb in OF_MIXTURE[role]:
        assert cell.answer is REFUSED
        assert mixture in cell.text
    else:
        assert cell == VERBS[state][verb]


@pytest.mark.parametrize(
    ("before", "after", "mixture"),
    [
        (_record(S.SPLIT), S.COPYING, "b"),
        (_record(S.SPLIT), S.REVERSE_COPYING, "a"),
        (_record(S.COPYING, "b"), S.PAIRED, ""),
        (_record(S.COPYING, "b"), S.SPLIT, "b"),
        (_record(S.COPYING, "b"), S.SPLIT_BY_ERROR, "b"),
        (_record(S.REVERSE_COPYING, "a"), S.SPLIT, "a"),
        (_record(S.PAIRED), S.SPLIT, ""),
        (_record(S.PAIRED), S.COPYING, "b"),
        (_record(S.SPLIT, "a"), S.SWAPPED, "a"),
    ],
)
def test_which_side_is_a_mixture_follows_the_state(
    before: PairRecord, after: PairState, mixture: str
) -> None:
    record = moved(before, after, 5.0, reason="why")
    assert (record.state, record.mixture, record.reason, record.changed) == (
        after,
        mixture,
        "why",
        5.0,
    )


def test_roles_are_exchanged_by_a_swap_of_a_paired_pair_and_by_a_resync_after_one() -> None:
    for state, verb in ((S.PAIRED, Verb.SWAP), (S.SWAPPED, Verb.RESYNC)):
        record = carried_out(_record(state), VERBS[state][verb], 0.0)
        assert (record.primary, record.secondary) == ("b", "a")
    exchanging = [
        (state, verb) for state in S for verb in Verb if VERBS[state][verb].exchanges_roles
    ]
    assert exchanging == [(S.PAIRED, Verb.SWAP), (S.SWAPPED, Verb.RESYNC)]
