"""Memory for transfers, shared in turns."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from daiko.copy_manager.budget import TransferBudget


def _noting(order: list[str], name: str) -> Callable[[], None]:
    return lambda: order.append(name)


def test_those_that_wait_are_served_in_turn_and_nobody_overtakes() -> None:
    budget = TransferBudget(10)
    order: list[str] = []
    assert budget.take(10, _noting(order, "never"))
    assert not budget.take(6, _noting(order, "a"))
    assert not budget.take(1, _noting(order, "b")), "it would fit, but a came first"
    budget.give(10)
    assert order == ["a", "b"]
    assert budget.used == 7


def test_a_request_larger_than_everything_is_served_alone() -> None:
    budget = TransferBudget(10)
    order: list[str] = []
    assert budget.take(4, _noting(order, "never"))
    assert not budget.take(50, _noting(order, "large"))
    budget.give(4)
    assert order == ["large"]
    assert not budget.take(1, _noting(order, "after"))
    budget.give(50)
    assert order == ["large", "after"]


def test_step_that_gives_nothing_back_leaves_something_to_the_others() -> None:
    """Steps take one unit after the other and never end a transfer: each stops at what is left."""
    budget = TransferBudget(64)
    holds = [0] * 5
    for number in range(4):
        while budget.take(1, lambda: None, lambda n=number: holds[n]):  # type: ignore[misc]
            holds[number] += 1
    assert holds == [32, 16, 8, 4, 0]
    order: list[str] = []
    for _ in range(3):  # four wait with their share in hand; one that works passes them
        assert budget.take(1, _noting(order, "works"), lambda: 1)
        budget.give(1)
    assert order == []


def test_step_that_waited_with_its_share_goes_on_when_it_gave_some_back() -> None:
    budget = TransferBudget(8)
    held = 4
    order: list[str] = []
    for _ in range(4):
        assert budget.take(1, _noting(order, "never"))
    assert not budget.take(1, _noting(order, "again"), lambda: held)
    held -= 1
    budget.give(1)
    assert order == ["again"]
    assert budget.used == 4


def test_who_leaves_the_queue_is_not_served() -> None:
    budget = TransferBudget(1)
    order: list[str] = []
    first, second = _noting(order, "first"), _noting(order, "second")
    assert budget.take(1, first)
    budget.take(1, first)
    budget.take(1, second)
    assert budget.withdraw(first)
    assert not budget.withdraw(first)
    budget.give(1)
    assert order == ["second"]


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=60))
def test_no_more_is_held_than_the_limit_unless_one_request_alone_is_larger(
    requests: list[tuple[int, bool]],
) -> None:
    budget = TransferBudget(30)
    held: list[int] = []
    for size, give_back in requests:
        if budget.take(size, lambda size=size: held.append(size)):  # type: ignore[misc]
            held.append(size)
        assert budget.used == sum(held)
        assert budget.used <= 30 or len(held) == 1
        if give_back and held:
            budget.give(held.pop(0))
