"""A world for pairs: disks with a volatile cache that can be cut off, slowed and robbed of their
power, volumes over them, a store that can end the controller at a commit, and rounds of copying."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any, cast

from daiko.backend.worker import Finished, Work, Workers
from daiko.copy_manager.pace import Pace
from daiko.device.block import BlockDevice, Buffer, Capabilities, Done, Level, ReadDone
from daiko.device.error import DeviceError, Unreachable
from daiko.mapping.range_set import RangeSet
from daiko.pair.pairs import Pairs
from daiko.pair.settings import PairSettings
from daiko.pair.surroundings import RoundFailed, Workshop
from daiko.pair.write_path import PairedDevice
from daiko.state.pair_record import PairRecord, PairState
from daiko.state.store import Store

BLOCK = 512
REGION_BLOCKS = 8
BLOCKS = 8 * REGION_BLOCKS - 3
"""The last region is cut short."""
GRANULARITY = REGION_BLOCKS * BLOCK

QUICK = PairSettings(
    catch_up_bytes=2 * GRANULARITY,
    rounds=4,
    copy_bytes=GRANULARITY,
    copies_in_flight=2,
    retry_seconds=(1.0, 2.0),
)

ALL_PIECES = 1 << 30


class Disk(BlockDevice):
    """Blocks in memory, each filled with one value. What was not flushed is lost with the power."""

    def __init__(self, values: bytes) -> None:
        self.block_size = BLOCK
        self.blocks = len(values)
        self.capabilities = Capabilities(
            unmap=Level.NATIVE,
            write_same=Level.NATIVE,
            compare_and_write=Level.NATIVE,
            fua=Level.NATIVE,
            unmapped_reads_zero=True,
        )
        self.now = bytearray(values)
        self.stable = bytearray(values)
        self.is_down = False
        self.is_slow = False
        self.is_late = False
        """While it is slow: it carries out changes late, not only answers late."""
        self.stuck = 0
        """So many changes more are carried out and answered late, and nothing else is."""
        self.is_deaf = False
        """Whoever asks is dead already."""
        self.generation = 0
        self._held: list[Callable[[], None]] = []
        self._late: list[Callable[[], None]] = []
        """Of what is held: changes, not answers."""

    # What reality does

    def cut(self, arrives: Callable[[], bool] = lambda: True) -> None:
        """Nobody reaches it any more; of the changes that were on the way those come that
        `arrives` says."""
        self.is_down = True
        self.generation += 1
        late, self._late = self._late, []
        self._held = [each for each in self._held if each not in late or arrives()]
        self.release()

    def heal(self) -> None:
        self.is_down = False

    def lose_power(self, kept: int) -> None:
        """Of what was not flushed only blocks whose bit of `kept` is set are there afterwards."""
        for block in range(self.blocks):
            if not kept >> (block % 16) & 1:
                self.now[block] = self.stable[block]
        self.stable[:] = self.now
        self.generation += 1

    def release(self, *, newest_first: bool = False) -> None:
        """Late answers come. `newest_first`: of changes that were sent together the last was
        carried out first."""
        self.is_slow, self.stuck = False, 0
        late, self._late = self._late, []
        held, self._held = self._held, []
        if newest_first:
            late = [change for change in reversed(late) if change in held]
            held = [*late, *(each for each in held if each not in late)]
        for answer in held:
            answer()

    def forget_answers(self) -> None:
        """Those who would get them are gone."""
        self._held.clear()
        self._late.clear()
        self.is_slow, self.stuck = False, 0

    @property
    def answers_held(self) -> int:
        return len(self._held)

    def _answer(self, answer: Callable[[], None], *, is_stuck: bool = False) -> None:
        if self.is_slow or is_stuck:
            context = copy_context()  # whoever lets the answers come, they are for who asked
            self._held.append(lambda: context.run(answer))
        else:
            answer()

    def _end(self, done: Done, *, is_stuck: bool = False) -> None:
        generation = self.generation

        def answer() -> None:
            lost = self.generation != generation
            done(Unreachable("the connection was lost") if lost else None)

        self._answer(answer, is_stuck=is_stuck)

    # What it is asked

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        if self.is_deaf:
            return
        if self.is_down:
            done(Unreachable("it is down"), b"")
            return
        data = b"".join(bytes([value]) * BLOCK for value in self.now[lba : lba + blocks])
        self._answer(lambda: done(None, data))

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        self._set(lba, bytes(data)[::BLOCK], done, fua=fua)

    def _set(self, lba: int, values: bytes, done: Done, *, fua: bool = False) -> None:
        if self.is_deaf:
            return
        if self.is_down:
            done(Unreachable("it is down"))
            return
        self._carry_out(lambda: self._put(lba, values, fua=fua), done)

    def _put(self, lba: int, values: bytes, *, fua: bool = False) -> None:
        self.now[lba : lba + len(values)] = values
        if fua:
            self.stable[lba : lba + len(values)] = values

    def _carry_out(self, change: Callable[[], None], done: Done) -> None:
        is_stuck = self.stuck > 0
        if is_stuck or (self.is_slow and self.is_late):
            self.stuck -= is_stuck
            self._held.append(change)
            self._late.append(change)
            self._end(done, is_stuck=is_stuck)
        else:
            change()
            self._end(done)

    def flush(self, done: Done) -> None:
        if self.is_deaf:
            return
        if self.is_down:
            done(Unreachable("it is down"))
            return
        self.stable[:] = self.now
        self._end(done)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        self._set(lba, bytes(blocks), done)

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        self._set(lba, bytes(pattern)[:1] * blocks, done)

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        if self.is_deaf:
            return
        if self.is_down:
            done(Unreachable("it is down"))
            return
        values = bytes(data)[::BLOCK]

        def change() -> None:
            found = self.now[lba : lba + len(values)]
            self._put(lba, bytes(a | b for a, b in zip(found, values, strict=True)))

        self._carry_out(change, done)


class NoFiles(selectors.SelectSelector):
    """Nothing is watched, so nothing has to be asked of the operating system in each turn."""

    def select(self, timeout: float | None = None) -> list[Any]:
        return []


class StillLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still unless it is told to pass, and that nothing outside
    reaches. What a callback raises is kept in `raised`."""

    def __init__(self) -> None:
        super().__init__(NoFiles())
        self.now = 0.0
        self.raised: list[BaseException] = []
        self.set_exception_handler(self._keep)

    def time(self) -> float:
        return self.now

    @property
    def is_still(self) -> bool:
        """Nothing but the passing of time would make anything move."""
        timers = self._scheduled  # type: ignore[attr-defined]
        return not self._ready and not (  # type: ignore[attr-defined]
            timers and timers[0]._when <= self.now
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """What is called inside finds the loop running."""
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def go_on(self, is_enough: Callable[[], bool]) -> None:
        """Turn until nothing moves any more, or it is enough; at least once."""
        with self.running():
            for _ in range(20_000):
                self._run_once()  # type: ignore[attr-defined]
                if is_enough() or self.is_still:
                    return
        raise AssertionError("it never comes to rest")

    def _keep(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "handle" in context and "exception" in context:
            self.raised.append(context["exception"])

    def _make_self_pipe(self) -> None:
        """No other thread wakes it."""

    def _close_self_pipe(self) -> None:
        """There is none."""


class World:
    """What is there whether a controller runs or not, and the controller while it runs."""

    def __init__(self, folder: Path, volumes: Sequence[str]) -> None:
        self.folder = folder
        self.disks = {
            name: Disk(bytes((number * 50 + block) % 251 for block in range(BLOCKS)))
            for number, name in enumerate(volumes)
        }
        self.records: dict[str, PairRecord] = {}
        self.commits_left = -1
        """Commits until the controller is killed; -1: it is not."""
        self.killed_after_commit = False
        self.is_dead = False
        self.volumes: dict[str, Volume] = {}
        self.pairs: Pairs | None = None
        self.pieces_left = ALL_PIECES
        """That rounds copy before they stand still where they are, and hosts go on."""
        self.rounds_go = asyncio.Event()
        self.became_paired: Callable[[PairRecord], None] = lambda before: None
        """Called when the store says so, with the record before."""
        self.loop = StillLoop()

    def start(self) -> None:
        """A controller comes up."""
        self.is_dead = False
        self.commits_left = -1
        self.volumes = {name: Volume(name, disk) for name, disk in self.disks.items()}
        self.pairs = Pairs(
            cast("Store", KillingStore(self)),
            self.volumes.__getitem__,
            Workshop(DirectCopies(self), lambda place, times: lambda: None, QUICK),
            self.folder,
            workers=cast("Workers", InlineWorkers()),
            clock=lambda: 1.0,
        )
        self.run(self.pairs.start())

    def kill(self) -> None:
        """It is killed, as by kill -9: nothing of it runs any more, its answers reach nobody."""
        self.is_dead = True
        for disk in self.disks.values():
            disk.forget_answers()
            disk.is_deaf = True
        for pair in [] if self.pairs is None else self.pairs.all():
            for side in pair.sides:
                if side.bitmap._file is not None:
                    side.bitmap._file.close()
            if pair.applier is not None:
                pair.applier.journal._file.close()
        # What their ends do is done in memory that is gone: no disk and no store hears of it. Some
        # wait there for what is in flight, which never comes back.
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self._go_on(dying=True)
        for disk in self.disks.values():
            disk.is_deaf = False
        self.loop.close()
        self.loop = StillLoop()
        self.rounds_go = asyncio.Event()
        self.pairs = None

    def close(self) -> None:
        self.kill()
        self.loop.close()

    def run(self, work: Any) -> Any:
        """Run a coroutine until nothing moves any more, or the controller is dead; its result, None
        where it has not ended."""
        task = self.loop.create_task(work)
        self._go_on()
        if task.done() and not task.cancelled():
            return task.result()
        return None

    def finish(self, work: Any) -> Any:
        """As `run`, but what it waits for comes: late answers arrive."""
        task = self.loop.create_task(work)
        self._go_on()
        if not task.done() and not self.is_dead:
            for disk in self.disks.values():
                self.call(disk.release)
            self._go_on()
        return task.result() if task.done() and not task.cancelled() else None

    def let_rounds(self, pieces: int) -> None:
        """Let rounds copy so many pieces more, and then stand still."""
        self.pieces_left = pieces
        waiting, self.rounds_go = self.rounds_go, asyncio.Event()
        self.call(waiting.set)

    def call(self, function: Callable[[], None]) -> None:
        """Call something on the event loop, and let everything go on until nothing moves."""

        with self.loop.running():
            function()
        self.settle()

    def settle(self) -> None:
        """Let everything go on until nothing moves any more."""
        self._go_on()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, in steps, and what is due happen."""
        for _ in range(4):
            self.loop.now += seconds / 4
            self.settle()

    def _go_on(self, *, dying: bool = False) -> None:
        self.loop.go_on(lambda: self.is_dead and not dying)
        assert not self.loop.raised, self.loop.raised


class InlineWorkers:
    """What would be done in threads is done at once, and told in the next turn of the loop."""

    def run(self, work: Work, finished: Finished) -> None:
        result = work()
        asyncio.get_running_loop().call_soon(finished, result)

    def stop(self, then: Callable[[], None]) -> None:
        then()


class Volume:
    """A volume that is one disk (`surroundings.PairVolume`)."""

    def __init__(self, name: str, disk: Disk) -> None:
        self.name = name
        self.naa = name
        self.block_size = BLOCK
        self.blocks = disk.blocks
        self.device = disk
        self.layer: PairedDevice | None = None
        self.is_protected = False

    @property
    def generations(self) -> tuple[int, ...]:
        return (self.device.generation,)

    @property
    def front(self) -> BlockDevice:
        """What hosts use."""
        return self.device if self.layer is None else self.layer

    def put(self, layer: PairedDevice) -> None:
        self.layer = layer

    def take(self, layer: PairedDevice) -> None:
        self.layer = None

    def protect(self, protected: bool) -> None:
        self.is_protected = protected


class KillingStore:
    """A store of pairs; the process may end before or after a commit."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._change: list[tuple[str, PairRecord | None]] = []

    def list(self, kind: type[PairRecord]) -> tuple[PairRecord, ...]:
        return tuple(self._world.records.values())

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[KillingStore]:
        change = KillingStore(self._world)
        yield change
        world = self._world
        if world.is_dead:
            await asyncio.Event().wait()
        if change._change and world.commits_left == 0 and not world.killed_after_commit:
            world.is_dead = True
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        for name, record in change._change:
            if record is None:
                world.records.pop(name, None)
            else:
                before = world.records.get(name)
                world.records[name] = record
                is_paired = record.state is PairState.PAIRED
                if is_paired and before is not None and before.state is not PairState.PAIRED:
                    world.became_paired(before)
        if change._change and world.commits_left >= 0:
            if world.commits_left == 0:
                world.is_dead = True
                await asyncio.Event().wait()
            world.commits_left -= 1

    def put(self, record: PairRecord) -> None:
        self._change.append((record.name, record))

    def delete(self, kind: type[PairRecord], name: str) -> None:
        self._change.append((name, None))


class DirectCopies:
    """Rounds that read and write the disks themselves, as a second controller does."""

    def __init__(self, world: World) -> None:
        self._world = world

    def job_of(self, pair: str) -> int | None:
        return None

    async def set_pace(self, pair: str, pace: Pace) -> None:
        pass

    async def copy(
        self,
        pair: str,
        source: str,
        destination: str,
        ranges: Sequence[tuple[int, int]],
        pace: Pace,
    ) -> AsyncGenerator[RangeSet, None]:
        here, there = self._world.disks[source], self._world.disks[destination]
        generation = there.generation
        confirmed = RangeSet()
        for first, blocks in ranges:
            for at in range(first, first + blocks, 5):
                count = min(5, first + blocks - at)
                while not self._world.pieces_left:
                    await self._world.rounds_go.wait()
                self._world.pieces_left -= 1
                values = here.now[at : at + count]
                await asyncio.sleep(0)
                if here.is_down or there.is_down or there.generation != generation:
                    raise RoundFailed("a disk was lost")
                there.now[at : at + count] = values
                confirmed.add(at, count)
                there.stable[:] = there.now
                yield confirmed.copy()


def failure_of(error: DeviceError | None) -> str:
    """For messages of assertions."""
    return "" if error is None else f"{type(error).__name__}: {error}"
