"""Several writers in one process of load: each a session of its own over our own initiator.

A writer owns a run of cells and keeps up to DEPTH commands in flight on them: writes (some with
FUA), reads that are checked, WRITE SAME of zeros, COMPARE AND WRITE of what must be there, flushes.
Meanwhile its connection is dropped and its commands are aborted or its unit reset, at random. What
the initiator makes of that (commands sent again, sessions reinstated) is its business; what it
gives up with Unreachable, Aborted or Busy (it was sent again too often) is in doubt in the model,
and any other error is a fault.

    python -m soak.writers < configuration.json        ends on its own; prints its account as JSON
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import structlog

from daiko.backend.remote_lu import RemoteLu
from daiko.backend.second_controller import SecondController
from daiko.device import awaitable
from daiko.device.error import Aborted, Busy, DeviceError, Miscompare, Refused, Unreachable
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.chap import Account, Secret
from soak.model import CELL, Mismatch, Model

DEPTH = 8
LONGEST = 256
"""Cells of a request: 1 MiB."""


@dataclass
class Tally:
    """What one process has done and found."""

    operations: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    drops: int = 0
    task_management: int = 0
    in_doubt: int = 0
    mismatches: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    """Seconds from the first sending of a request to its end, whatever happened between."""
    tasks: int = 0
    """asyncio tasks at the end."""


class Writer:
    """One session, one model."""

    def __init__(self, number: int, wanted: dict[str, Any], account: Tally) -> None:
        self.number = number
        self.account = account
        self.chance = random.Random(wanted["seed"] * 1000 + number)
        self.model = Model(number, number * wanted["cells"], wanted["cells"])
        digests = self.chance.choice(((False, False), (True, False), (False, True), (True, True)))
        settings = InitiatorSettings(
            header_digest=digests[0],
            data_digest=digests[1],
            initial_r2t=self.chance.random() < 0.3,
            immediate_data=self.chance.random() < 0.8,
            max_recv_data_segment_length=self.chance.choice((8192, 65536, 262144)),
            queue_depth=self.chance.choice((4, 32, 128)),
        )
        login = wanted["chap"].get(str(number))
        self.controller = SecondController(
            f"writer-{number}",
            wanted["iqn"],
            [wanted["portal"]],
            wanted["initiators"][number],
            settings=settings,
            account=Account(Secret(login[0], login[1].encode())) if login else None,
        )
        self.unit: RemoteLu | None = None
        self.in_flight: dict[int, tuple[float, str]] = {}
        self._next = 0
        self.ends_at = float("inf")
        self._ended = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._oldest = wanted["oldest"]
        self._rest = wanted["rest"]
        self._drop_every = wanted["drop_every"]
        self._manage_every = wanted["manage_every"]

    async def run(self, seconds: float) -> None:
        await self.controller.open()
        self.unit = self.controller.device(0)
        loop = asyncio.get_running_loop()
        self.ends_at = loop.time() + seconds
        disturbing = loop.create_task(self._disturb())
        for _ in range(DEPTH):
            self._go_on()
        await self._ended.wait()
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)
        await self._read_back()
        await self.controller.close()

    # --- operations

    def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() >= self.ends_at:
            if not self.in_flight:
                self._ended.set()
            return
        taken = self.model.take(self.chance, LONGEST)
        if taken is None:
            loop.call_later(0.001, self._go_on)
            return
        at, count = taken
        kind = self.chance.random()
        if kind < 0.45:
            self._write(at, count)
        elif kind < 0.9:
            self._read(at, count)
        elif kind < 0.94:
            self._zero(at, count)
        elif kind < 0.98:
            self._compare(at)
            self.model.give(at + 1, count - 1)
        else:
            self._flush(at, count)

    def _begin(self, kind: str, cells: int) -> int:
        self._next += 1
        self.in_flight[self._next] = (asyncio.get_running_loop().time(), kind)
        self.account.operations[kind] += 1
        self.account.bytes += cells * CELL
        return self._next

    def _end(self, number: int, error: DeviceError | None, at: int, count: int) -> bool:
        """Take note of an end; False: what it did is in doubt."""
        begun, kind = self.in_flight.pop(number)
        loop = asyncio.get_running_loop()
        self.account.slowest = max(self.account.slowest, loop.time() - begun)
        self.model.give(at, count)
        if error is None:
            loop.call_later(self.chance.uniform(0, self._rest), self._go_on)
            return True
        loop.call_later(0.1, self._go_on)  # a host that is refused does not try as fast as it can
        self.account.in_doubt += 1
        if not isinstance(error, Unreachable | Aborted | Busy) and not _is_expected(kind, error):
            self._fault(f"{kind} of {count} cells at {at}: {type(error).__name__}: {error}")
        return False

    def _fault(self, words: str) -> None:
        if len(self.account.faults) < 100:
            self.account.faults.append(f"{_now()} writer {self.number}: {words}")

    def _write(self, at: int, count: int) -> None:
        assert self.unit is not None
        sequence, data = self.model.begin_write(at, count)
        number = self._begin("write", count)

        def done(error: DeviceError | None) -> None:
            self.model.written(at, count, sequence, is_certain=error is None)
            self._end(number, error, at, count)

        scale = CELL // self.unit.block_size
        self.unit.write(at * scale, data, done, fua=self.chance.random() < 0.05)

    def _zero(self, at: int, count: int) -> None:
        assert self.unit is not None
        number = self._begin("write same", count)

        def done(error: DeviceError | None) -> None:
            self.model.written(at, count, 0, is_certain=error is None)
            self._end(number, error, at, count)

        size = self.unit.block_size
        self.unit.write_same(at * CELL // size, count * CELL // size, bytes(size), done)

    def _read(self, at: int, count: int) -> None:
        assert self.unit is not None
        number = self._begin("read", count)

        def done(error: DeviceError | None, data: Any) -> None:
            if error is None:
                self._check(at, memoryview(data))
            self._end(number, error, at, count)

        size = self.unit.block_size
        self.unit.read(at * CELL // size, count * CELL // size, done)

    def _check(self, at: int, data: memoryview) -> None:
        try:
            self.model.check(at, data)
        except Mismatch as found:
            if len(self.account.mismatches) < 100:
                self.account.mismatches.append(f"{_now()} writer {self.number}: {found}")

    def _compare(self, at: int) -> None:
        """COMPARE AND WRITE of one block with what is there: it must compare equal."""
        assert self.unit is not None
        number = self._begin("compare and write", 1)
        size = self.unit.block_size
        content = self.model.certain(at, 1)

        def done(error: DeviceError | None) -> None:
            if isinstance(error, Miscompare):
                self.account.mismatches.append(f"{_now()} writer {self.number}: {at}: {error}")
                error = None
            self._end(number, error, at, 1)

        if content is None or not self.unit.capabilities.compare_and_write:
            asyncio.get_running_loop().call_soon(done, None)
            return
        block = content[:size]
        self.unit.compare_and_write(at * CELL // size, block, block, done)

    def _flush(self, at: int, count: int) -> None:
        assert self.unit is not None
        number = self._begin("flush", 0)
        self.unit.flush(lambda error: (self._end(number, error, at, count), None)[1])

    async def _read_back(self) -> None:
        """All cells once more, when nothing disturbs any more. What was disturbed last may take a
        while to come back, but it has to."""
        patience = asyncio.get_running_loop().time() + self._oldest
        for at in range(self.model.first, self.model.first + self.model.count, LONGEST):
            count = min(LONGEST, self.model.first + self.model.count - at)
            while (error := await self._read_last(at, count)) is not None:
                if asyncio.get_running_loop().time() > patience:
                    self._fault(f"the last read of {count} cells at {at}: {error}")
                    break
                await asyncio.sleep(0.2)

    async def _read_last(self, at: int, count: int) -> DeviceError | None:
        assert self.unit is not None
        scale = CELL // self.unit.block_size
        try:
            data = await awaitable.read(self.unit, at * scale, count * scale)
        except DeviceError as error:
            return error
        self._check(at, memoryview(data))
        return None

    # --- what disturbs

    async def _disturb(self) -> None:
        drop = self.chance.expovariate(1 / self._drop_every)
        manage = self.chance.expovariate(1 / self._manage_every)
        while True:
            pause = min(drop, manage)
            await asyncio.sleep(pause)
            drop -= pause
            manage -= pause
            paths = self.controller._paths
            session = paths.session
            if drop <= 0:
                drop = self.chance.expovariate(1 / self._drop_every)
                if session is not None:
                    self.account.drops += 1
                    paths.give_up_session("the soak drops it")
            elif manage <= 0:
                manage = self.chance.expovariate(1 / self._manage_every)
                if session is not None and session.tasks:
                    self.account.task_management += 1
                    command = self.chance.choice(list(session.tasks.values()))
                    session.upkeep._escalate(command)
                    if self.chance.random() < 0.1 and session.tasks.get(command.tag) is command:
                        session.upkeep._escalate(command)  # LOGICAL UNIT RESET


def _is_expected(kind: str, error: DeviceError) -> bool:
    """A flush that a reset came between is no proof that what was written before it is kept, and
    is refused with that reset. A COMPARE AND WRITE that a back end was lost with is not sent
    again."""
    if not isinstance(error, Refused):
        return False
    asc = error.sense[12]
    return (kind == "flush" and asc == 0x29) or (kind == "compare and write" and asc == 0x08)


def _now() -> str:
    return time.strftime("%H:%M:%S")


async def _main(wanted: dict[str, Any]) -> None:
    account = Tally()
    writers = [Writer(number, wanted, account) for number in wanted["writers"]]
    working = asyncio.gather(*(writer.run(wanted["seconds"]) for writer in writers))
    watching = asyncio.ensure_future(_watch(writers, wanted["oldest"], account))
    try:
        async with asyncio.timeout(wanted["seconds"] + 2 * wanted["oldest"]):
            await working
    except TimeoutError:
        for writer in writers:
            for begun, kind in writer.in_flight.values():
                age = asyncio.get_running_loop().time() - begun
                writer._fault(f"{kind} has no answer after {age:.0f} s")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await asyncio.sleep(0)
    account.tasks = len(asyncio.all_tasks())
    print(json.dumps(vars(account)), flush=True)


async def _watch(writers: list[Writer], oldest: float, account: Tally) -> None:
    """A command that has no answer for too long is a fault at once, not only at the end."""
    told: set[tuple[int, int]] = set()
    while True:
        await asyncio.sleep(1)
        now = asyncio.get_running_loop().time()
        for writer in writers:
            for number, (begun, kind) in writer.in_flight.items():
                if now - begun > oldest and (writer.number, number) not in told:
                    told.add((writer.number, number))
                    writer._fault(f"{kind} has no answer after {oldest:g} s")


if __name__ == "__main__":
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(30),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    import uvloop

    os.set_blocking(0, True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(json.load(sys.stdin)))
