"""The differential bitmap against sets of regions, through crashes of the process and cuts of the
power at any moment, on a disk that forgets all that it was not asked to keep.

Power cuts are not only drawn: after every step, and twice within each commit, the bitmap is read
from every state that a cut would leave the disk in at that moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from daiko.pair.bitmap_file import AREA, Condition
from daiko.pair.differential_bitmap import DifferentialBitmap
from simulated_disk import HandThreads, PowerCut, SimulatedDisk

GRANULARITY = 64 << 10
AREA_REGIONS = AREA // GRANULARITY
PAGE_REGIONS = 4080 * 8
REGIONS = PAGE_REGIONS + 3 * AREA_REGIONS
"""Two pages of bits; area 127 lies in both."""
BLOCKS_A_REGION = GRANULARITY // 4096
BLOCKS = REGIONS * BLOCKS_A_REGION - 5

Span = tuple[int, int]
"""first..last, in regions."""
Change = tuple[str, Span]

spans = st.tuples(
    st.sampled_from([0, 1, 2, 127, 129]),
    st.sampled_from([0, 1, 7, 255]),
    st.sampled_from([1, 1, 1, 2, 9, 600]),
).map(
    lambda drawn: (
        drawn[0] * AREA_REGIONS + drawn[1],
        min(drawn[0] * AREA_REGIONS + drawn[1] + drawn[2], REGIONS) - 1,
    )
)
changes = st.lists(st.tuples(st.sampled_from(["mark", "wait", "clear"]), spans), max_size=3)
choices = st.lists(st.integers(0, 5), min_size=1, max_size=7)
"""Which version of each page a power cut leaves, by turns."""


def blocks_of(span: Span) -> tuple[int, int]:
    """LBA and blocks inside these regions, all of which they touch."""
    lba = span[0] * BLOCKS_A_REGION + 3
    return lba, min(span[1] * BLOCKS_A_REGION + 4, BLOCKS) - lba


def bits_of(span: Span) -> int:
    return (1 << span[1] + 1) - (1 << span[0])


def bits_in(bitmap: DifferentialBitmap) -> int:
    return int.from_bytes(bitmap.regions.bytes_at(0, bitmap.regions.size), "little")


def areas_of(bits: int) -> set[int]:
    """The areas in which any of the bits lie."""
    return {area for area in range(-(-REGIONS // AREA_REGIONS)) if bits >> area * 256 & ALL_OF_ONE}


ALL = bits_of((0, REGIONS - 1))
ALL_OF_ONE = (1 << AREA_REGIONS) - 1


class Model:
    """What is expected of a bitmap, as bits of regions: `memory` is what was marked and not
    cleared; `counts` is what of it a write may have been sent for; `cleared` is what may be set on
    the disk still."""

    def __init__(self, bitmap: DifferentialBitmap, hot_areas: int) -> None:
        self.hot_areas = hot_areas
        self.hot_bytes = (hot_areas + 1) * AREA
        self.cleared = 0
        """Since the last commit began in its thread."""
        self.cleared_before = 0
        """By then; until it ends."""
        self.waiting: list[Span] = []
        self.take_up(bitmap)

    def take_up(self, bitmap: DifferentialBitmap) -> None:
        """Go on with this bitmap: what it has is on stable storage."""
        self.bitmap = bitmap
        self.waiting.clear()
        self.memory = self.counts = bits_in(bitmap)
        self.cleared = self.cleared_before = 0

    # --- what is done to it

    def mark(self, span: Span) -> None:
        self.memory |= bits_of(span)
        if self.bitmap.mark(*blocks_of(span)):
            self.counts |= bits_of(span)

    def wait(self, span: Span) -> None:
        self.memory |= bits_of(span)
        self.waiting.append(span)

        def done(error: OSError | None) -> None:
            assert error is None
            self.waiting.remove(span)
            self.counts |= bits_of(span)

        self.bitmap.when_marked(*blocks_of(span), done)

    def clear(self, span: Span) -> None:
        if any(bits_of(span) & bits_of(waiting) for waiting in self.waiting):
            return  # nobody clears what a write waits for
        self.cleared |= bits_of(span) & self.memory
        self.memory &= ~bits_of(span)
        self.counts &= ~bits_of(span)
        self.bitmap.clear(*span)

    def do(self, what: list[Change]) -> None:
        for verb, span in what:
            {"mark": self.mark, "wait": self.wait, "clear": self.clear}[verb](span)

    # --- what a bitmap must be that was opened again

    def check_exact(self, bitmap: DifferentialBitmap) -> None:
        assert bitmap.found.condition is Condition.EXACT
        assert bitmap.found.marked_bytes == 0
        assert bits_in(bitmap) == self.memory

    def check_safe(self, bitmap: DifferentialBitmap) -> None:
        assert bitmap.found.condition in (Condition.AFTER_POWER_CUT, Condition.EXACT)
        found = bits_in(bitmap)
        assert not self.counts & ~found, "a bit is lost that a write may have been sent for"
        cleared = self.cleared | self.cleared_before
        beyond = found & ~self.memory
        assert len(areas_of(beyond & ~cleared)) <= self.hot_areas
        if cleared.bit_count() * GRANULARITY <= self.hot_bytes // 4:
            assert beyond.bit_count() * GRANULARITY <= self.hot_bytes
        if bitmap.found.condition is Condition.EXACT:
            assert bitmap.found.marked_bytes == 0


class Crashes(RuleBasedStateMachine):
    """A bitmap, its model, and the disk and the threads that it works with."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = SimulatedDisk()
        self.boot = 1

    @initialize(hot_areas=st.integers(1, 3))
    def make(self, hot_areas: int) -> None:
        self.hot_bytes = (hot_areas + 1) * AREA
        self.threads = HandThreads()
        bitmap = self.opened(self.disk)
        assert bitmap.found.condition is Condition.NEW
        assert not bitmap.marked_bytes
        self.model = Model(bitmap, hot_areas)

    def opened(self, disk: SimulatedDisk) -> DifferentialBitmap:
        return DifferentialBitmap.open(
            Path("simulated"),
            blocks=BLOCKS,
            block_size=4096,
            granularity=GRANULARITY,
            identity=bytes(range(16)),
            hot_bytes=self.hot_bytes,
            boot_id=self.boot.to_bytes(16, "big"),
            workers=self.threads,  # type: ignore[arg-type]
            open_file=lambda path: disk,
        )

    @contextmanager
    def during_the_commit(
        self, before: list[Change], during: list[Change], then: Callable[[], None]
    ) -> Iterator[None]:
        """What the loop does before the commit's sync begins, and while it is under way."""

        def before_sync() -> None:
            self.model.do(before)
            self.survives_a_power_cut()
            self.model.cleared_before |= self.model.cleared
            self.model.cleared = 0

        def during_sync() -> None:
            self.model.do(during)
            self.survives_a_power_cut()
            then()
            self.model.cleared_before = 0

        self.disk.before_sync, self.disk.during_sync = before_sync, during_sync
        try:
            yield
        finally:
            self.disk.before_sync = self.disk.during_sync = lambda: None

    # --- marking and clearing

    @rule(span=spans)
    def mark(self, span: Span) -> None:
        self.model.mark(span)

    @rule(span=spans)
    def wait_until_marked(self, span: Span) -> None:
        self.model.wait(span)

    @rule(span=spans)
    def wait_and_settle(self, span: Span) -> None:
        self.model.wait(span)
        self.settle()
        assert not self.model.waiting

    @rule(span=spans)
    def clear(self, span: Span) -> None:
        self.model.clear(span)

    @rule(keep=st.booleans())
    def mark_all(self, keep: bool) -> None:
        self.model.bitmap.mark_all()
        self.model.memory = ALL
        if not keep:
            self.model.clear((0, REGIONS - 1))

    # --- commits

    @precondition(lambda self: self.threads.has_work)
    @rule(before=changes, during=changes)
    def commit(self, before: list[Change], during: list[Change]) -> None:
        with self.during_the_commit(before, during, lambda: None):
            self.threads.work()

    @precondition(lambda self: self.threads.has_news)
    @rule()
    def hear_of_the_commit(self) -> None:
        self.threads.tell()

    def settle(self) -> None:
        while self.threads.has_news or self.threads.has_work:
            if self.threads.has_work:
                self.commit([], [])
            else:
                self.threads.tell()

    def finish(self, what: Coroutine[object, object, None]) -> None:
        self.settle()
        self.threads.at_once = True
        with self.during_the_commit([], [], lambda: None):
            asyncio.run(what)
        self.threads.at_once = False

    @rule()
    def synchronize(self) -> None:
        self.finish(self.model.bitmap.sync())
        self.model.counts |= self.model.memory
        assert not self.model.waiting

    # --- the end of a process, and its successor

    def take_up(self, bitmap: DifferentialBitmap) -> None:
        self.threads.end()
        self.model.take_up(bitmap)

    @invariant()
    def survives_a_power_cut(self) -> None:
        """At this moment, whatever the disk kept."""
        if hasattr(self, "model"):
            self.boot += 1
            for disk in self.disk.after_a_power_cut():
                self.model.check_safe(self.opened(disk))
            self.boot -= 1

    def open_again(self) -> DifferentialBitmap:
        """Open what the disk has; a power cut at any moment of it is survived."""
        self.disk.opened()
        self.disk.before_sync = self.disk.during_sync = self.survives_a_power_cut
        bitmap = self.opened(self.disk)
        self.disk.before_sync = self.disk.during_sync = lambda: None
        return bitmap

    @rule()
    def close_and_open_again(self) -> None:
        self.finish(self.model.bitmap.close())
        self.boot += 1
        bitmap = self.open_again()
        self.model.check_exact(bitmap)
        self.take_up(bitmap)

    @rule()
    def crash_of_the_process(self) -> None:
        bitmap = self.open_again()
        self.model.check_exact(bitmap)
        self.take_up(bitmap)

    @precondition(lambda self: self.threads.has_work)
    @rule(during=changes)
    def crash_of_the_process_in_a_commit(self, during: list[Change]) -> None:
        def then() -> None:
            raise PowerCut

        with suppress(PowerCut), self.during_the_commit([], during, then):
            self.threads.work()
        self.crash_of_the_process()

    # --- power cuts after which it goes on

    def cut(self, kept: list[int]) -> None:
        turn = iter(range(1 << 30))
        self.disk.cut_power(lambda versions: kept[next(turn) % len(kept)] % versions)
        self.boot += 1

    @rule(cuts=st.lists(st.tuples(st.integers(0, 6), choices), max_size=2), kept=choices)
    def power_cut(self, cuts: list[tuple[int, list[int]]], kept: list[int]) -> None:
        """Perhaps once more while it is opened after it."""
        self.cut(kept)
        for calls, kept_then in cuts:
            self.disk.calls_left = calls
            with suppress(PowerCut):
                self.opened(self.disk)
                self.disk.opened()
                break
            self.cut(kept_then)
        bitmap = self.open_again()
        self.model.check_safe(bitmap)
        self.take_up(bitmap)

    @precondition(lambda self: self.threads.has_work)
    @rule(calls=st.integers(0, 2), during=changes, kept=choices)
    def power_cut_in_a_commit(self, calls: int, during: list[Change], kept: list[int]) -> None:
        def then() -> None:
            raise PowerCut

        self.disk.calls_left = calls
        with suppress(PowerCut), self.during_the_commit([], during, then):
            self.threads.work()
        self.power_cut([], kept)

    @rule(calls=st.integers(0, 4), kept=choices)
    def power_cut_in_the_closing(self, calls: int, kept: list[int]) -> None:
        self.settle()
        self.disk.calls_left = calls
        self.threads.at_once = True
        with suppress(PowerCut):
            asyncio.run(self.model.bitmap.close())
        self.power_cut([], kept)

    # --- what is always so

    @invariant()
    def memory_is_what_was_marked(self) -> None:
        if hasattr(self, "model"):
            assert bits_in(self.model.bitmap) == self.model.memory
            assert self.model.bitmap.hot_areas <= self.model.hot_areas

    @invariant()
    def nobody_waits_without_a_commit_on_its_way(self) -> None:
        assert not self.model.waiting or self.threads.has_work or self.threads.has_news


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(max_examples=250, stateful_step_count=40)
