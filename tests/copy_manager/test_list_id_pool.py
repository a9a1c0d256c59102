"""List identifiers towards a back end."""

from __future__ import annotations

import asyncio

import pytest

from daiko.copy_manager.list_id_pool import ListIdPool


async def test_255_copies_have_255_identifiers_and_the_next_waits() -> None:
    pool = ListIdPool()
    taken = [await pool.take() for _ in range(255)]
    assert sorted(taken) == list(range(1, 256))
    waiting = [asyncio.ensure_future(pool.take()) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in waiting)
    pool.give(7)
    assert await waiting[0] == 7
    pool.give(9)
    assert await waiting[1] == 9


async def test_one_that_gave_up_waiting_gets_none() -> None:
    pool = ListIdPool()
    for _ in range(255):
        await pool.take()
    quitter, other = (asyncio.ensure_future(pool.take()) for _ in range(2))
    await asyncio.sleep(0)
    quitter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await quitter
    pool.give(3)
    assert await other == 3


async def test_an_identifier_given_to_one_that_is_cancelled_is_not_lost() -> None:
    pool = ListIdPool()
    for _ in range(255):
        await pool.take()
    waiter = asyncio.ensure_future(pool.take())
    await asyncio.sleep(0)
    pool.give(3)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert await pool.take() == 3
