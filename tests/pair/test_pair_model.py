"""A pair through every history that Hypothesis finds: hosts, verbs, faults, crashes.

The oracle knows of each block of each volume which values it may hold, as the hosts know it: the
last that was acknowledged, or one that was sent later and never acknowledged. After every step:

- *paired means equal*: where the store says paired and nothing is under way, both sides read alike
  (a disk that lost its power is noticed when the pair settles: until then the marks say it);
- *a cleared bit means equal*, on stable storage as well: a region that is marked on neither side is
  the same on both disks even if both lose their power now;
- *nothing acknowledged is lost*: the side that hosts use reads as the oracle says;
- *a write that is acknowledged* is on both sides, or the store does not say paired any more.

DAIKO_PAIR_HISTORIES says how many histories (`make soak` runs many), DAIKO_PAIR_STEPS how long they
are at most, DAIKO_PAIR_SHRINK that one that fails is made as short as it can be.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from daiko.device.error import DeviceError
from daiko.pair.error import VerbRefused
from daiko.pair.state import Verb
from daiko.state.pair_record import Fence, PairRecord, PairState

from .pair_world import ALL_PIECES, BLOCK, BLOCKS, GRANULARITY, REGION_BLOCKS, World

HISTORIES = int(os.environ.get("DAIKO_PAIR_HISTORIES", "400"))

blocks = st.integers(0, BLOCKS - 1)
lengths = st.integers(1, 2 * REGION_BLOCKS)
sides = st.sampled_from(["alpha", "beta"])
pieces = st.sampled_from([ALL_PIECES, ALL_PIECES, 0, 1, 3, 7, 11])


class PairMachine(RuleBasedStateMachine):
    """One pair, alpha and beta."""

    def __init__(self) -> None:
        super().__init__()
        shm = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="daiko-pair-", dir=shm))
        self.world = World(self.folder, ["alpha", "beta"])
        self.may_hold: dict[str, list[set[int]]] = {
            name: [{value} for value in disk.now] for name, disk in self.world.disks.items()
        }
        self.waiting = 0
        """Requests of hosts that have not been answered."""
        self.ors: list[tuple[range, int]] = []
        """Blocks, and bits to set, of each OR since there were none such."""
        self.value = 0
        self.wrong: list[str] = []
        self.source = "alpha"
        """What is copied from, or was last."""

    def teardown(self) -> None:
        self.world.close()
        shutil.rmtree(self.folder)

    @initialize(fence=st.sampled_from(Fence), pieces=pieces)
    def create(self, fence: Fence, pieces: int) -> None:
        self.world.pieces_left = pieces
        self.world.became_paired = self._became_paired
        self.world.start()
        record = PairRecord(
            name="p",
            primary="alpha",
            secondary="beta",
            fence=fence,
            granularity=GRANULARITY,
            mixture="beta",
            created=1.0,
            changed=1.0,
        )
        assert self.world.pairs is not None
        self.world.run(self.world.pairs.create(record))

    # --- hosts

    def _used(self) -> str:
        """The volume that hosts use."""
        record = self.world.records["p"]
        return record.secondary if record.state is PairState.SWAPPED else record.primary

    def _change(self, volume: str, lba: int, count: int, send: str) -> None:
        count = min(count, BLOCKS - lba)
        self.value = self.value % 250 + 1
        value = self.value
        front = self.world.volumes[volume].front
        world = self.world
        generations = self._generations()
        self.waiting += 1

        def done(error: DeviceError | None) -> None:
            if world.is_dead:
                return
            self.waiting -= 1
            if not self.waiting:
                self.ors.clear()
            # A disk that lost its power since may have lost this write again.
            is_sure = not self.waiting and self._generations() == generations
            if error is None and is_sure:
                self._check_both_sides(lba, count)
            if error is None and send != "or" and is_sure:
                for block in range(lba, lba + count):
                    self.may_hold[volume][block] = {0 if send == "unmap" else value}

        if send == "or":
            self.ors.append((range(lba, lba + count), value))
        # It may come to the other side as well, whatever becomes of it on this one.
        is_mirrored = self.world.records["p"].state in (PairState.COPYING, PairState.PAIRED)
        for each in ("alpha", "beta") if is_mirrored else (volume,):
            for block in range(lba, lba + count):
                held = self.may_hold[each][block]
                if send != "or":
                    held = held | {0 if send == "unmap" else value}
                # What is under way at the same time may be carried out in any order.
                for blocks_of_or, bits in self.ors:
                    if block in blocks_of_or:
                        held = held | {found | bits for found in held}
                self.may_hold[each][block] = held
        data = bytes([value]) * (BLOCK * count)
        sends: dict[str, Callable[[], None]] = {
            "write": lambda: front.write(lba, data, done),
            "fua": lambda: front.write(lba, data, done, fua=True),
            "unmap": lambda: front.unmap(lba, count, done),
            "same": lambda: front.write_same(lba, count, data[:BLOCK], done),
            "or": lambda: front.or_write(lba, data, done),
        }
        self.world.call(sends[send])

    def _generations(self) -> list[int]:
        return [disk.generation for disk in self.world.disks.values()]

    def _check_both_sides(self, lba: int, count: int) -> None:
        """A host hears that its write is done."""
        record = self.world.records["p"]
        alpha, beta = self.world.disks["alpha"], self.world.disks["beta"]
        part = slice(lba, lba + count)
        if record.state is PairState.PAIRED and alpha.now[part] != beta.now[part]:
            self.wrong.append(f"acknowledged on one side of a pair that is paired: {part}")

    @rule(
        lba=blocks,
        count=lengths,
        send=st.sampled_from(["write", "write", "write", "fua", "unmap", "same", "or"]),
    )
    def change(self, lba: int, count: int, send: str) -> None:
        self._change(self._used(), lba, count, send)

    @precondition(lambda self: self.world.records["p"].state is PairState.SPLIT)
    @rule(lba=blocks, count=lengths)
    def change_secondary(self, lba: int, count: int) -> None:
        self._change(self.world.records["p"].secondary, lba, count, "write")

    @rule()
    def flush(self) -> None:
        self.waiting += 1
        world = self.world

        def done(error: DeviceError | None) -> None:
            if world is self.world and not world.is_dead:
                self.waiting -= 1

        self.world.call(lambda: self.world.volumes[self._used()].front.flush(done))

    # --- administrators

    @rule(verb=st.sampled_from([verb for verb in Verb if verb is not Verb.REMOVE]))
    def ask(self, verb: Verb) -> None:
        assert self.world.pairs is not None
        before = self.world.records["p"]
        settler = self.world.pairs.pair("p")._settler
        is_sound = (
            not self.waiting
            and settler._now() == settler._generations
            and not any(disk.is_down or disk.answers_held for disk in self.world.disks.values())
        )
        try:
            # To its end: the oracle has to know when it takes effect.
            self.world.finish(self.world.pairs.verb("p", verb))
        except VerbRefused:
            return
        after = self.world.records["p"]
        if verb is Verb.SPLIT and before.state is PairState.PAIRED and is_sound:
            assert not after.mixture, "a split of what was the same is no mixture"
        if before.mixture and not after.mixture:
            self._take(before.mixture, self.source)  # it had become equal before the verb's turn
        if before.state is PairState.PAIRED and after.primary != before.primary:
            self._take(after.primary, before.primary)
        if verb is Verb.RESYNC_REVERSE and after != before:
            self.source = after.secondary
        elif verb is Verb.RESYNC and after != before:
            self.source = after.primary
        self._after_death()

    def _became_paired(self, before: PairRecord) -> None:
        """It may be so for a moment only, and a rule end when it is split by error."""
        if before.state is PairState.REVERSE_COPYING:
            self._take(before.primary, before.secondary)
        else:
            self._take(before.secondary, before.primary)

    def _take(self, volume: str, source: str) -> None:
        """What is on one volume is known to be what was on another."""
        self.may_hold[volume] = [set(held) for held in self.may_hold[source]]

    # --- faults

    @rule(side=sides)
    def cut(self, side: str) -> None:
        self.world.call(self.world.disks[side].cut)

    @rule(side=sides)
    def heal(self, side: str) -> None:
        self.world.disks[side].heal()
        self.world.settle()

    @rule(seconds=st.sampled_from([1.0, 8.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(pieces=pieces)
    def rounds(self, pieces: int) -> None:
        self.world.let_rounds(pieces)

    @rule(side=sides, late=st.booleans())
    def slow(self, side: str, late: bool) -> None:
        """`late`: it carries changes out late as well."""
        self.world.disks[side].is_slow = True
        self.world.disks[side].is_late = late

    @rule(side=sides)
    def late_answers(self, side: str) -> None:
        self.world.call(self.world.disks[side].release)

    @rule(side=sides, kept=st.integers(0, 0xFFFF))
    def lose_power(self, side: str, kept: int) -> None:
        disk = self.world.disks[side]
        self.world.call(disk.release)
        disk.lose_power(kept)
        # What hosts had not flushed may be gone: they are told, by a unit attention.
        self.may_hold[side] = [
            held | {value} for held, value in zip(self.may_hold[side], disk.now, strict=True)
        ]
        self.world.settle()

    @rule(lost=st.sampled_from(["", "", "", "alpha", "beta"]))
    def crash(self, lost: str) -> None:
        self._crash(lost)

    @rule(commits=st.integers(0, 1), after=st.booleans())
    def die_at_a_commit(self, commits: int, after: bool) -> None:
        self.world.commits_left = commits
        self.world.killed_after_commit = after

    def _after_death(self) -> None:
        if self.world.is_dead:
            self._crash("")

    def _crash(self, lost: str) -> None:
        self.world.kill()
        self.waiting = 0
        self.ors.clear()
        if lost:
            (self.folder / f"p.{lost}").unlink(missing_ok=True)
        if "p" in self.world.records:
            self.world.start()

    # --- what must hold

    @invariant()
    def holds(self) -> None:
        if self.world.pairs is None and not self.world.records:
            return
        self.world.settle()
        self._after_death()
        assert not self.wrong
        record = self.world.records["p"]
        disks = self.world.disks
        assert self.world.pairs is not None
        pair = self.world.pairs.pair("p")
        is_quiet = not self.waiting and not any(disk.answers_held for disk in disks.values())
        alpha, beta = disks["alpha"], disks["beta"]
        if not is_quiet:
            return
        if record.state is PairState.PAIRED and self.source == record.secondary:
            self._take(record.primary, self.source)
            self.source = record.primary
        settler = pair._settler
        if record.state is PairState.PAIRED and settler._now() == settler._generations:
            assert alpha.now == beta.now, self._say(record)
            self._take(record.secondary, record.primary)
        for region in range((BLOCKS + REGION_BLOCKS - 1) // REGION_BLOCKS):
            if any(side.bitmap.regions.any_in(region, region) for side in pair.sides):
                continue
            part = slice(region * REGION_BLOCKS, (region + 1) * REGION_BLOCKS)
            assert alpha.now[part] == beta.now[part], f"{self._say(record)}: region {region}"
            assert alpha.stable[part] == beta.stable[part], (
                f"{self._say(record)}: region {region} on stable storage"
            )
        used = self._used()
        if record.mixture != used:
            for block, value in enumerate(disks[used].now):
                assert value in self.may_hold[used][block], (
                    f"{self._say(record)}: block {block} of {used} is {value}, "
                    f"may be {self.may_hold[used][block]}"
                )

    def _say(self, record: PairRecord) -> str:
        return f"{record.state} ({record.reason})"


PairMachine.TestCase.settings = settings(
    max_examples=HISTORIES,
    stateful_step_count=int(os.environ.get("DAIKO_PAIR_STEPS", "30")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[
        Phase.reuse,
        Phase.generate,
        *([Phase.shrink] if "DAIKO_PAIR_SHRINK" in os.environ else []),
    ],
)


class TestPair(PairMachine.TestCase):  # type: ignore[misc, valid-type]
    """Every history."""
