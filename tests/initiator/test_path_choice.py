"""Which portal to prefer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.initiator.path_choice import PathChoice, Worth, judge, worth_of
from daiko.initiator.portal import Portal
from daiko.scsi.target_port_groups import AccessState, TargetPortGroup

A, B, C = Portal("a"), Portal("b"), Portal("c")


@pytest.mark.parametrize(
    ("state", "worth"),
    [
        (AccessState.ACTIVE_OPTIMIZED, Worth.OPTIMIZED),
        (AccessState.ACTIVE_NON_OPTIMIZED, Worth.NON_OPTIMIZED),
        (AccessState.STANDBY, Worth.NOT_ACCESSIBLE),
        (AccessState.UNAVAILABLE, Worth.NOT_ACCESSIBLE),
        (AccessState.OFFLINE, Worth.NOT_ACCESSIBLE),
        (AccessState.TRANSITIONING, Worth.NOT_ACCESSIBLE),
        (0x7, Worth.NOT_ACCESSIBLE),
    ],
)
def test_path_is_worth_what_its_state_allows(state: int, worth: Worth) -> None:
    assert worth_of(state) is worth


def groups(**states: int) -> list[TargetPortGroup]:
    return [TargetPortGroup(int(name[1:]), (), state) for name, state in states.items()]


@pytest.mark.parametrize(
    ("units", "judgement"),
    [
        pytest.param([], (Worth.OPTIMIZED, Worth.NO_ANSWER), id="nothing-known"),
        pytest.param([(1, groups(g1=0))], (Worth.OPTIMIZED, Worth.NO_ANSWER), id="one-group"),
        pytest.param([(1, groups(g1=1, g2=0))], (Worth.NON_OPTIMIZED, Worth.OPTIMIZED), id="two"),
        pytest.param(
            [(1, groups(g1=0, g2=2)), (1, groups(g1=2, g2=1))],
            (Worth.NOT_ACCESSIBLE, Worth.NON_OPTIMIZED),
            id="the-worst-unit-here-counts",
        ),
        pytest.param([(9, groups(g1=2))], (Worth.OPTIMIZED, Worth.NO_ANSWER), id="own-not-told"),
    ],
)
def test_path_is_judged_by_all_units(
    units: list[tuple[int, list[TargetPortGroup]]], judgement: tuple[Worth, Worth]
) -> None:
    assert judge(units) == judgement


def test_portals_are_tried_by_worth_then_around() -> None:
    choice = PathChoice([A, B, C])
    assert choice.order(0) == [A, B, C]
    assert choice.order(1) == [B, C, A]
    choice.note(A, Worth.NON_OPTIMIZED)
    assert choice.order(0) == [B, C, A]
    choice.note(C, Worth.OPTIMIZED)
    assert choice.order(0) == [C, B, A]
    choice.forget()
    assert choice.order(2) == [C, A, B]


def test_optimized_path_is_never_left() -> None:
    choice = PathChoice([A, B])
    assert not choice.is_worth_leaving(A, Worth.OPTIMIZED, Worth.OPTIMIZED)


def test_path_is_left_only_where_the_target_has_a_better_one() -> None:
    choice = PathChoice([A, B])
    assert not choice.is_worth_leaving(A, Worth.NON_OPTIMIZED, Worth.NON_OPTIMIZED)
    assert choice.is_worth_leaving(A, Worth.NON_OPTIMIZED, Worth.OPTIMIZED)


def test_only_portal_is_not_left() -> None:
    choice = PathChoice([A])
    assert not choice.is_worth_leaving(A, Worth.NOT_ACCESSIBLE, Worth.OPTIMIZED)


@given(
    st.lists(st.sampled_from([Worth.OPTIMIZED, Worth.NON_OPTIMIZED, Worth.NOT_ACCESSIBLE]),
             min_size=1, max_size=6),
    st.integers(0, 5),
)  # fmt: skip
def test_search_ends_at_the_best_portal(worths: list[Worth], start: int) -> None:
    """Whatever the portals are worth: no more moves than portals, and then the best one."""
    portals = [Portal(f"p{number}") for number in range(len(worths))]
    worth = dict(zip(portals, worths, strict=True))
    choice = PathChoice(portals)
    here = choice.order(start % len(portals))[0]
    moves = 0
    while choice.is_worth_leaving(here, worth[here], min(worths)):
        here = choice.order(portals.index(here))[0]
        moves += 1
        assert moves <= len(portals)
    assert worth[here] == min(worths)
