"""Threads that hand their outcomes back to the loop."""

from __future__ import annotations

import asyncio
import threading

from daiko.backend.worker import Workers
from daiko.device.block import Buffer
from daiko.device.error import Aborted, DeviceError


async def test_work_runs_elsewhere_and_completes_on_the_loop() -> None:
    workers = Workers(2)
    here = threading.get_ident()
    where: list[int] = []
    future: asyncio.Future[Buffer | DeviceError] = asyncio.get_running_loop().create_future()

    def work() -> Buffer:
        where.append(threading.get_ident())
        return b"done"

    def finished(result: Buffer | DeviceError) -> None:
        where.append(threading.get_ident())
        future.set_result(result)

    workers.run(work, finished)
    assert workers.in_flight == 1
    assert await future == b"done"
    assert where[0] != here
    assert where[1] == here
    assert workers.in_flight == 0
    workers.stop(lambda: None)


async def test_all_of_many_pieces_complete_with_a_few_threads() -> None:
    workers = Workers(3)
    results: list[Buffer | DeviceError] = []
    all_done = asyncio.Event()

    def finished(result: Buffer | DeviceError) -> None:
        results.append(result)
        if len(results) == 200:
            all_done.set()

    for number in range(200):
        workers.run(lambda number=number: bytes([number]), finished)
    await asyncio.wait_for(all_done.wait(), 60)
    assert sorted(
        bytes(result)[0] for result in results if not isinstance(result, DeviceError)
    ) == (list(range(200)))
    assert sum(thread.name.startswith("file-") for thread in threading.enumerate()) <= 3
    workers.stop(lambda: None)


async def test_stop_calls_back_after_the_last_piece() -> None:
    workers = Workers(1)
    gate = threading.Event()
    order: list[str] = []
    stopped = asyncio.Event()

    def work() -> Buffer | DeviceError:
        gate.wait(60)
        return Aborted("late")

    def then() -> None:
        order.append("stopped")
        stopped.set()

    workers.run(work, lambda result: order.append(type(result).__name__))
    workers.stop(then)
    assert order == []
    gate.set()
    await asyncio.wait_for(stopped.wait(), 60)
    assert order == ["Aborted", "stopped"]


async def test_stop_of_idle_workers_calls_back_at_once() -> None:
    order: list[str] = []
    Workers().stop(lambda: order.append("stopped"))
    assert order == ["stopped"]
