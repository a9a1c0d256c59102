"""Memory for the data of commands: shares, fairness, pressure, and who holds it for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.target import data_budget as module
from daiko.target.data_budget import LEAST, DataBudget

MIB = 1 << 20


class Holder:
    def __init__(self, budget: DataBudget) -> None:
        self.share = 0
        self.used = 0
        self.moved: object | None = None
        self.changes: list[tuple[int, int]] = []
        self.ended = False
        self.budget = budget
        budget.join(self)

    def in_use(self) -> int:
        return self.used

    def progress(self) -> object | None:
        return self.moved

    def share_changed(self, before: int) -> None:
        self.changes.append((before, self.share))

    def end_stalled(self) -> None:
        self.ended = True
        self.budget.leave(self)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def test_lone_session_stops_at_half_and_others_always_get_some() -> None:
    budget = DataBudget(64 * MIB)
    holders = [Holder(budget) for _ in range(6)]
    for holder in holders:
        share = 32 * MIB
        while share > holder.share and not budget._give(holder, share):
            share //= 2
        holder.used = holder.share
    shares = [holder.share // MIB for holder in holders]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] <= 32
    assert shares[-1] >= 1
    assert budget.granted <= budget.total


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 64 * MIB)), max_size=60))
def test_shares_are_within_the_total_whatever_is_asked(wishes: list[tuple[int, int]]) -> None:
    budget = DataBudget(64 * MIB)
    holders = [Holder(budget) for _ in range(8)]
    for index, share in wishes:
        left = budget.total - budget.granted
        before = holders[index].share
        if budget._give(holders[index], share):
            assert holders[index].share - before <= left - (holders[index].share - before)
        assert budget.granted == sum(holder.share for holder in holders) <= budget.total
    for holder in holders:
        budget.leave(holder)
        budget.leave(holder)
    assert budget.granted == 0


async def test_what_is_not_used_goes_to_who_waits() -> None:
    budget = DataBudget(64 * MIB)
    idle, busy, late = Holder(budget), Holder(budget), Holder(budget)
    assert budget.grow(idle, 30 * MIB)
    assert budget.grow(busy, 15 * MIB)
    busy.used = 15 * MIB
    assert not budget.grow(late, 16 * MIB)
    assert budget.is_short
    await until(lambda: late.share == 16 * MIB)
    assert (idle.share, busy.share) == (LEAST, 15 * MIB)
    assert late.changes == [(LEAST, 16 * MIB)]
    assert not budget.is_short
    assert budget._timer is None


async def test_small_wish_is_not_kept_waiting_by_a_large_one() -> None:
    budget = DataBudget(64 * MIB)
    slow, large, small = Holder(budget), Holder(budget), Holder(budget)
    assert budget.grow(slow, 30 * MIB)
    slow.used = 30 * MIB
    assert not budget.grow(large, 24 * MIB)
    assert not budget.grow(small, 2 * MIB), "it is in line like everybody"
    await until(lambda: small.share == 2 * MIB)
    assert large.share == LEAST
    slow.used = 0
    await until(lambda: large.share > LEAST)
    assert not slow.ended


async def test_session_that_holds_memory_for_nothing_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.1)
    budget = DataBudget(64 * MIB)
    stalled, working, slow, late = (Holder(budget) for _ in range(4))
    for holder, share in ((stalled, 30 * MIB), (working, 14 * MIB), (slow, 8 * MIB)):
        assert budget.grow(holder, share)
        holder.used = share
    stalled.moved = 1
    working.moved = 0
    assert not budget.grow(late, 16 * MIB)
    while not stalled.ended:
        assert isinstance(working.moved, int)
        working.moved += 1
        await asyncio.sleep(0.005)
    await until(lambda: late.share == 16 * MIB)
    assert not working.ended
    assert not slow.ended, "its host is not the one that is waited for"


async def test_nobody_is_ended_while_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.0)
    budget = DataBudget(64 * MIB)
    holder, other = Holder(budget), Holder(budget)
    assert budget.grow(holder, 30 * MIB)
    holder.used, holder.moved = 30 * MIB, 1
    assert not budget.grow(other, 32 * MIB)
    budget.forget(other)
    await until(lambda: budget._timer is None)
    assert not holder.ended
