"""A pair over two sites through every history that Hypothesis finds: hosts at both, verbs of the
leader, taking over, roles that are exchanged and leads that are taken back; a link that goes, also
at any envelope, and envelopes that come late; disks that fail, that are slow, and that lose their
power; controllers that are killed, also round a commit; sites that stay down; bitmaps that are
lost.

What must hold is in `sites_oracle.py`, and single faults are in `sites_faults.py`.

DAIKO_PAIR_HISTORIES, DAIKO_PAIR_STEPS and DAIKO_PAIR_SHRINK are as in `test_pair_model.py`; of the
first, a tenth unless DAIKO_PAIR_SITE_HISTORIES says how many.
"""

from __future__ import annotations

import os
from functools import partial

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from daiko.device.error import DeviceError
from daiko.pair.error import VerbRefused
from daiko.pair.followed import CannotTakeOver
from daiko.pair.state import COPIES, USES, VERBS, Use, Verb
from daiko.pair.surroundings import SiteRefused
from daiko.pair.write_path import Way
from daiko.state.pair_record import PairState

from .pair_link import FOLLOWER, LEADER, OTHER, Fault
from .pair_world import ALL_PIECES, BLOCK, BLOCKS, REGION_BLOCKS
from .sites_faults import SitesUnderFaults, blocks, kept, pieces, sites
from .sites_oracle import Written
from .two_sites import led

HISTORIES = int(
    os.environ.get("DAIKO_PAIR_SITE_HISTORIES")
    or int(os.environ.get("DAIKO_PAIR_HISTORIES", "400")) // 10
)
verbs = st.sampled_from(
    [Verb.SPLIT, Verb.RESYNC, Verb.RESYNC, Verb.RESYNC_REVERSE, Verb.SWAP, Verb.SWAP]
)


class TwoSitesMachine(SitesUnderFaults):
    """Hosts, administrators, and what often happens together."""

    @initialize(pieces=pieces, is_well=st.sampled_from([True, True, False]))
    def create(self, pieces: int, is_well: bool) -> None:
        self.world.pieces_left = pieces
        for site in (LEADER, FOLLOWER):
            self.world.kept[site].told = partial(self._told, site)
        self.world.create(led())
        if is_well:
            self.all_is_well()

    @rule(site=sites, lba=blocks, count=st.integers(1, 2 * REGION_BLOCKS))
    def write(self, site: str, lba: int, count: int) -> None:
        if not self._is_up(site):
            return
        count = min(count, BLOCKS - lba)
        self.value = value = self.value % 250 + 1
        controller = self.world.controllers[site]
        record = self._record(site)
        uses = USES[record.state]
        use = uses.secondary if record.is_followed else uses.primary
        layer = controller.volume.layer
        is_refused = use is Use.PROTECTED and layer is not None and layer.way != Way.HOLD
        held = self.may_hold[site]
        written = Written(range(lba, lba + count), value, self.under_way[site])
        if not is_refused:
            for block in written.blocks:
                held[block] = held[block] | {value}
        self.waiting[site] += 1
        self.under_way[site].append(written)
        generations = self._generations()

        def done(error: DeviceError | None) -> None:
            if controller.is_dead:
                return
            self.waiting[site] -= 1
            self.under_way[site].remove(written)
            if error is None:
                if is_refused:
                    self.wrong.append("a side that is protected took a write")
                if generations == self._generations():
                    self._acknowledged(site, written)

        front = controller.volume.front
        data = bytes([value]) * (BLOCK * count)
        self.world.call_at(site, lambda: front.write(lba, data, done))

    @rule(verb=verbs)
    def ask(self, verb: Verb) -> None:
        """Of who leads."""
        site = self.leads
        if not self._is_up(site) or self._record(site).is_followed:
            return
        controller = self.world.controllers[site]
        is_exchange = VERBS[self._record(site).state][verb].exchanges_roles
        asked = controller.exchange.hand_over if is_exchange else controller.pairs.verb
        try:
            self.world.run_at(site, asked("p", verb))
        except (VerbRefused, SiteRefused):
            return

    @rule()
    def take_over(self) -> None:
        """At the site that follows; where nobody leads, at the one that has not offered the
        lead."""
        self._take_over_at(self.follows)

    @rule()
    def take_back(self) -> None:
        """A lead that was offered."""
        self._take_over_at(self.leads)

    def _take_over_at(self, site: str) -> None:
        record = self._record(site)
        if not self._is_up(site) or not record.is_followed:
            return
        controller = self.world.controllers[site]
        try:
            if record.offered_lead:
                self.world.run_at(site, controller.exchange.take_back("p", "asked for"))
            else:
                self.world.run_at(site, controller.followed.take_over("p"))
        except (CannotTakeOver, VerbRefused):
            return

    @rule()
    def all_is_well(self) -> None:
        """For a while: what has begun comes to its end."""
        world = self.world
        world.wire.envelopes_left = -1
        for controller in world.controllers.values():
            controller.commits_left = -1
        for site in (LEADER, FOLLOWER):
            world.heal_disk(site)
            self.late_answers(site)
            self.site_comes_back(site)
        world.let_rounds(ALL_PIECES)
        self.heal()
        looks = world.controllers[self.leads].site_pairs
        world.run_at(self.leads, looks.ask([self._record(self.leads)]))  # as `daiko pair show` does
        for _ in range(2):
            world.pass_time(40.0)
        leads, follows = self._record(self.leads), self._record(self.follows)
        self.power_was_lost = False
        assert len(self._leaders()) == 1, self._say()
        assert not any(self.waiting.values()), self._say()
        assert leads.state not in COPIES, self._say()
        if follows.taken_over:
            assert leads.state is not PairState.PAIRED, self._say()
            # What is there can be kept: `resync --reverse` is not refused for a mixture.
            assert leads.mixture != leads.secondary, self._say()
        else:
            assert leads.state is follows.state, self._say()
            assert leads.sequence >= follows.sequence, self._say()

    @rule(verb=st.sampled_from([Verb.SWAP, Verb.RESYNC]), arrives=st.booleans(), lba=blocks)
    def lead_is_taken_back_though_it_was_offered(self, verb: Verb, arrives: bool, lba: int) -> None:
        """`arrives`: the offer does, and its answer does not."""
        self.all_is_well()
        self.ask(Verb.RESYNC)
        self.world.pass_time(8.0)
        if verb is Verb.RESYNC:
            self.ask(Verb.SPLIT)
            self.ask(Verb.SWAP)
        offers = self.leads
        self.envelope_goes_wrong(1, Fault.UNHEARD if arrives else Fault.LOST)
        self.ask(verb)
        self.holds()
        self.write(OTHER[offers], lba, 3)
        self._take_over_at(offers)
        self.write(offers, lba, 2)
        self.world.pass_time(8.0)
        self.holds()
        self.heal()
        self.holds()

    @rule(lba=blocks, verb=verbs)
    def site_is_lost_and_comes_back(self, lba: int, verb: Verb) -> None:
        """What the sites are two for."""
        lost, left = self.leads, self.follows
        self.cut()
        self.holds()
        self.write(lost, lba, 3)
        self.world.pass_time(40.0)
        self.holds()
        self._take_over_at(left)
        self.write(left, BLOCKS - 1 - lba, 3)
        self.holds()
        self.heal()
        self.holds()
        self.ask(verb)

    @rule(
        state=st.sampled_from([PairState.PAIRED, PairState.SPLIT, None]),
        slow=st.sampled_from([FOLLOWER, LEADER]),
        verb=st.sampled_from([None, None, Verb.RESYNC_REVERSE, Verb.SPLIT, Verb.RESYNC, Verb.SWAP]),
        writes=st.sampled_from([FOLLOWER, FOLLOWER, LEADER]),
        lba=blocks,
        is_cut=st.booleans(),
        stuck=st.integers(0, 2),
        newest_first=st.booleans(),
        commits=st.sampled_from([-1, -1, 0]),
    )
    def change_while_writes_are_under_way(
        self,
        state: PairState | None,
        slow: str,
        verb: Verb | None,
        writes: str,
        lba: int,
        is_cut: bool,
        stuck: int,
        newest_first: bool,
        commits: int,
    ) -> None:
        """`state`: all is well and the pair is like this before. `verb`: None is taking over. Hosts
        write before it and, held back, while it is done; who does it dies at a commit or not."""
        if state is not None:
            self.all_is_well()
            self.ask(Verb.RESYNC)
            self.world.pass_time(8.0)
            if state is PairState.SPLIT:
                self.ask(Verb.SPLIT)
            self.holds()
        decider = self.follows if verb is None else self.leads
        with self.world.slow(slow, stuck=stuck, newest_first=newest_first):
            self.write(LEADER, lba, 3)
            self.write(FOLLOWER, lba, 3)
            if is_cut:
                self.cut()
            if verb is None:
                self.take_over()
            else:
                self.ask(verb)
            self.holds()
            self.write(writes, lba, 2)
            self.holds()
            if self._is_up(decider):
                self.world.controllers[decider].commits_left = commits
                self.world.controllers[decider].killed_after_commit = False
        self.holds()

    @rule(
        pieces=st.integers(0, 3),
        lost=st.sampled_from(["disk", "site", "link", ""]),
        verb=verbs,
    )
    def round_is_broken_off(self, pieces: int, lost: str, verb: Verb) -> None:
        """While second controllers write past the door: what the leader loses."""
        self.all_is_well()
        leads, follows = self.leads, self.follows
        self.ask(Verb.SPLIT)
        self.write(leads, 0, BLOCKS)
        self.world.let_rounds(pieces)
        self.ask(Verb.RESYNC)
        self.holds()
        if lost == "disk":
            self.disk_is_lost(leads)
        elif lost == "site":
            self._goes_down(leads)
        elif lost == "link":
            self.cut()
        self.world.let_rounds(ALL_PIECES)
        self.world.pass_time(8.0)
        self.holds()
        self.site_comes_back(leads)
        self.ask(verb)
        self.take_over()
        self.write(follows, BLOCKS - 7, 7)
        self.holds()
        self.second_controllers_go_on()
        self.holds()

    @rule(
        site=sites,
        lba=blocks,
        kept=kept,
        of_all=st.booleans(),
        is_cut=st.booleans(),
        seconds=st.sampled_from([0.0, 8.0]),
    )
    def power_is_lost_after_a_write(
        self, site: str, lba: int, kept: int, of_all: bool, is_cut: bool, seconds: float
    ) -> None:
        """Of a pair that is paired: before or after it was settled. `of_all`: not of the disk
        alone."""
        self.all_is_well()
        self.ask(Verb.RESYNC)
        self.world.pass_time(8.0)
        self.write(self.leads, lba, 5)
        self.world.pass_time(seconds)
        if is_cut:
            self.cut()
            self.heal()
        if of_all:
            self.site_loses_power(site, kept, True)
        else:
            self.disk_loses_power(site, kept)
        self.holds()
        self.world.pass_time(8.0)
        self.holds()
        self.all_is_well()


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
