"""A pair over two sites through every history that Hypothesis finds: hosts at both, verbs of the
leader, taking over, a link that goes, controllers that are killed, also round a commit.

The oracle knows of each side which values a block may hold by what its own hosts wrote. After every
step:

- *paired means equal*, unless the site that follows has taken over;
- *a region that is marked nowhere is equal*;
- *nobody but its hosts changes a side* that is not being copied to by a verb of the leader: neither
  what hosts wrote after a take-over, nor what the leader's hosts wrote, is lost.

DAIKO_PAIR_HISTORIES and DAIKO_PAIR_STEPS are as in `test_pair_model.py`; a tenth as many.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from daiko.device.error import DeviceError
from daiko.pair.error import VerbRefused
from daiko.pair.followed import LETS_IN, CannotTakeOver
from daiko.pair.state import USES, Use, Verb
from daiko.pair.surroundings import SiteRefused
from daiko.state.pair_record import PairRecord, PairState

from .pair_world import ALL_PIECES, BLOCK, BLOCKS, REGION_BLOCKS
from .two_sites import FOLLOWER, LEADER, VOLUMES, TwoSites, led

HISTORIES = int(os.environ.get("DAIKO_PAIR_HISTORIES", "400")) // 10
VERBS = [Verb.SPLIT, Verb.RESYNC, Verb.RESYNC, Verb.RESYNC_REVERSE]
sites = st.sampled_from([LEADER, FOLLOWER])
pieces = st.sampled_from([ALL_PIECES, ALL_PIECES, 0, 1, 3, 7])


class TwoSitesMachine(RuleBasedStateMachine):
    """One pair, alpha at the leader and beta at the site that follows."""

    def __init__(self) -> None:
        super().__init__()
        shm = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="daiko-sites-", dir=shm))
        self.world = TwoSites(self.folder)
        self.may_hold: dict[str, list[set[int]]] = {}
        self.is_copied_to = {LEADER: True, FOLLOWER: True}
        """Since the last step, by a verb of the leader or by mirroring."""
        self.waiting = {LEADER: 0, FOLLOWER: 0}
        self.under_way: dict[str, list[tuple[range, int]]] = {LEADER: [], FOLLOWER: []}
        """Blocks and value of each write that was not answered."""
        self.value = 0
        self.wrong: list[str] = []

    def teardown(self) -> None:
        self.world.close()
        shutil.rmtree(self.folder)

    @initialize(pieces=pieces)
    def create(self, pieces: int) -> None:
        self.world.pieces_left = pieces
        self.world.became_paired = self._became_paired
        self.world.create(led())

    def _became_paired(self, before: PairRecord) -> None:
        """Also of a verb that waited, and took effect in a later step."""
        if before.state is PairState.REVERSE_COPYING:
            self.is_copied_to[LEADER] = True

    def _record(self, site: str) -> PairRecord:
        return self.world.kept[site]["p"]

    # --- hosts

    @rule(site=sites, lba=st.integers(0, BLOCKS - 1), count=st.integers(1, 2 * REGION_BLOCKS))
    def write(self, site: str, lba: int, count: int) -> None:
        count = min(count, BLOCKS - lba)
        self.value = value = self.value % 250 + 1
        controller = self.world.controllers[site]
        record = self._record(site)
        uses = USES[record.state]
        use = uses.primary if site == LEADER else uses.secondary
        held = self.may_hold[site]
        if use is not Use.PROTECTED:
            for block in range(lba, lba + count):
                held[block] = held[block] | {value}
        self.waiting[site] += 1
        under_way = (range(lba, lba + count), value)
        self.under_way[site].append(under_way)

        def done(error: DeviceError | None) -> None:
            if controller.is_dead:
                return
            self.waiting[site] -= 1
            self.under_way[site].remove(under_way)
            if error is None:
                if use is Use.PROTECTED:
                    self.wrong.append("a side that is protected took a write")
                for block in range(lba, lba + count):
                    held[block] = {value}

        front = controller.volume.front
        data = bytes([value]) * (BLOCK * count)
        self.world.call_at(site, lambda: front.write(lba, data, done))

    # --- administrators

    @rule(verb=st.sampled_from(VERBS))
    def ask(self, verb: Verb) -> None:
        before = self._record(LEADER).sequence
        try:
            self.world.run_at(LEADER, self.world.controllers[LEADER].pairs.verb("p", verb))
        except (VerbRefused, SiteRefused):
            return
        if self._record(LEADER).sequence != before:
            if verb is Verb.RESYNC:
                self.is_copied_to[FOLLOWER] = True
            elif verb is Verb.RESYNC_REVERSE:
                self.is_copied_to[LEADER] = True

    @rule()
    def take_over(self) -> None:
        try:
            self.world.run_at(FOLLOWER, self.world.controllers[FOLLOWER].followed.take_over("p"))
        except CannotTakeOver:
            return

    # --- faults

    @rule()
    def cut(self) -> None:
        self.world.cut_link()

    @rule()
    def heal(self) -> None:
        if not self.world.link_is_up:
            self.world.heal_link()

    @rule(seconds=st.sampled_from([1.0, 8.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule()
    def all_is_well(self) -> None:
        """For a while: what has begun comes to its end."""
        self.disks_are_back()
        for site in (LEADER, FOLLOWER):
            self.late_answers(site)
        self.world.let_rounds(ALL_PIECES)
        self.heal()
        self.world.pass_time(40.0)

    @rule(lba=st.integers(0, BLOCKS - 1), verb=st.sampled_from(VERBS))
    def site_is_lost_and_comes_back(self, lba: int, verb: Verb) -> None:
        """What the sites are two for."""
        self.cut()
        self.holds()
        self.write(LEADER, lba, 3)
        self.world.pass_time(40.0)
        self.holds()
        self.take_over()
        self.write(FOLLOWER, BLOCKS - 1 - lba, 3)
        self.holds()
        self.heal()
        self.holds()
        self.ask(verb)

    @rule(pieces=pieces)
    def rounds(self, pieces: int) -> None:
        self.world.let_rounds(pieces)

    @rule(site=sites)
    def disk_is_lost(self, site: str) -> None:
        self.world.call(self.world.disks[VOLUMES[site]].cut)

    @rule()
    def disks_are_back(self) -> None:
        for disk in self.world.disks.values():
            disk.heal()
        self.world.settle()

    @rule(site=sites, late=st.booleans())
    def disk_is_slow(self, site: str, late: bool) -> None:
        """`late`: it carries changes out late as well."""
        disk = self.world.disks[VOLUMES[site]]
        disk.is_slow, disk.is_late = True, late

    @rule(site=sites)
    def late_answers(self, site: str) -> None:
        self.world.call(self.world.disks[VOLUMES[site]].release)

    @rule(site=sites)
    def crash(self, site: str) -> None:
        self.world.kill_site(site)
        self.waiting[site] = 0
        self.under_way[site].clear()
        self.world.start_site(site)

    @rule(site=sites, commits=st.integers(0, 1), after=st.booleans())
    def die_at_a_commit(self, site: str, commits: int, after: bool) -> None:
        self.world.controllers[site].commits_left = commits
        self.world.controllers[site].killed_after_commit = after

    # --- what must hold

    @invariant()
    def holds(self) -> None:
        if not self.world.controllers:
            return
        self.world.settle()
        while dead := [s for s, each in self.world.controllers.items() if each.is_dead]:
            self.crash(dead[0])
        assert not self.wrong
        leads, follows = self._record(LEADER), self._record(FOLLOWER)
        copied = {
            LEADER: leads.state is PairState.REVERSE_COPYING or leads.mixture == leads.primary,
            FOLLOWER: follows.state in LETS_IN or follows.mixture == follows.secondary,
        }
        for site, volume in VOLUMES.items():
            now = self.world.disks[volume].now
            if site not in self.may_hold or copied[site] or self.is_copied_to[site]:
                self.may_hold[site] = [{value} for value in now]
                for blocks, value in self.under_way[site]:
                    for block in blocks:
                        self.may_hold[site][block].add(value)
            for block, value in enumerate(now):
                assert value in self.may_hold[site][block], (
                    f"{self._say()}: block {block} of {volume} is {value}, "
                    f"may be {self.may_hold[site][block]}"
                )
        self.is_copied_to = copied
        if any(self.waiting.values()):
            return
        alpha, beta = self.world.disks["alpha"].now, self.world.disks["beta"].now
        if leads.state is PairState.PAIRED and not follows.taken_over:
            assert alpha == beta, self._say()
        pair = self.world.controllers[LEADER].pairs.pair("p")
        there = self.world.controllers[FOLLOWER].followed.pair("p").side
        for region in range((BLOCKS + REGION_BLOCKS - 1) // REGION_BLOCKS):
            sides = (*pair.sides, there)
            if not any(side.bitmap.regions.any_in(region, region) for side in sides):
                part = slice(region * REGION_BLOCKS, (region + 1) * REGION_BLOCKS)
                assert alpha[part] == beta[part], f"{self._say()}: region {region}"

    def _say(self) -> str:
        leads, follows = self._record(LEADER), self._record(FOLLOWER)
        return f"{leads.state} ({leads.reason}) / {follows.state} ({follows.reason})"


TwoSitesMachine.TestCase.settings = settings(
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


class TestTwoSites(TwoSitesMachine.TestCase):  # type: ignore[misc, valid-type]
    """Every history."""
