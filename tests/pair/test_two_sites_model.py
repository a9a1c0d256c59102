"""A pair over two sites through every history that Hypothesis finds: hosts at both, verbs of the
leader, taking over, roles that are exchanged and leads that are taken back; a link that goes, also
at any envelope, and envelopes that come late; disks that fail, that are slow, and that lose their
power; controllers that are killed, also round a commit; sites that stay down; bitmaps that are
lost.

The oracle knows of each side which values a block may hold by what its own hosts wrote. After every
step:

- *paired means equal*, unless the site that follows has taken over, or the lead was taken back and
  the other one has not heard of that (a disk that lost its power is noticed when the pair settles,
  or at the next command over the link);
- *a region that is marked nowhere is equal*, on stable storage as well;
- *a write that is acknowledged* is on both sides, or the leader's pair is not paired any more;
- *nobody but its hosts changes a side* that is not being copied to: neither what hosts wrote after
  a take-over, nor what the leader's hosts wrote, is lost;
- *nobody takes over a mixture*;
- *no state that is older* is taken, and after a take-over none but one by which an administrator at
  the leader said whose data counts.

- *nobody leads twice*: of one lead there is one leader, at any time.

And when all has been well for a while: one site leads and the other follows, nothing copies any
more, and both know the same.

DAIKO_PAIR_HISTORIES, DAIKO_PAIR_STEPS and DAIKO_PAIR_SHRINK are as in `test_pair_model.py`; of the
first, a tenth unless DAIKO_PAIR_SITE_HISTORIES says how many.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from daiko.device.error import DeviceError
from daiko.mapping.region_bitmap import RegionBitmap
from daiko.pair.error import VerbRefused
from daiko.pair.exchange import next_lead
from daiko.pair.followed import LETS_IN, CannotTakeOver
from daiko.pair.state import COPIES, USES, VERBS, Use, Verb
from daiko.pair.surroundings import SiteRefused
from daiko.pair.write_path import Way
from daiko.state.pair_record import PairRecord, PairState

from .pair_link import FOLLOWER, LEADER, OTHER, VOLUMES, Fault
from .pair_world import ALL_PIECES, BLOCK, BLOCKS, REGION_BLOCKS
from .two_sites import TwoSites, led

HISTORIES = int(
    os.environ.get("DAIKO_PAIR_SITE_HISTORIES")
    or int(os.environ.get("DAIKO_PAIR_HISTORIES", "400")) // 10
)
verbs = st.sampled_from(
    [Verb.SPLIT, Verb.RESYNC, Verb.RESYNC, Verb.RESYNC_REVERSE, Verb.SWAP, Verb.SWAP]
)
sites = st.sampled_from([LEADER, FOLLOWER])
pieces = st.sampled_from([ALL_PIECES, 0, 1, 3, 7])
blocks = st.integers(0, BLOCKS - 1)
kept = st.integers(0, 0xFFFF)
"""What a power cut leaves of what nothing was asked to keep."""
BITS_PAGE, HEADER_PAGE = 3, 0


class Written:
    """A write of a host."""

    def __init__(self, blocks: range, value: int, others: list[Written]) -> None:
        self.blocks = blocks
        self.value = value
        self.others = list(others)
        """That were under way at the same time: of these any may have been carried out last."""
        for other in others:
            other.others.append(self)


class TwoSitesMachine(RuleBasedStateMachine):
    """One pair, alpha at the site that leads at first and beta at the one that follows."""

    def __init__(self) -> None:
        super().__init__()
        shm = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="daiko-sites-", dir=shm))
        self.world = TwoSites(self.folder)
        self.may_hold: dict[str, list[set[int]]] = {}
        self.is_copied_to = {LEADER: True, FOLLOWER: True}
        """In the last step, or in this one."""
        self.waiting = {LEADER: 0, FOLLOWER: 0}
        self.under_way: dict[str, list[Written]] = {LEADER: [], FOLLOWER: []}
        """Writes that were not answered."""
        self.value = 0
        self.wrong: list[str] = []
        self.power_was_lost = False
        """Of a disk, and perhaps nobody has noticed yet."""
        self.stays_down = False
        """Whoever dies at a commit."""

    def teardown(self) -> None:
        self.world.close()
        shutil.rmtree(self.folder)

    @initialize(pieces=pieces, is_well=st.sampled_from([True, True, False]))
    def create(self, pieces: int, is_well: bool) -> None:
        self.world.pieces_left = pieces
        for site in (LEADER, FOLLOWER):
            self.world.kept[site].told = partial(self._told, site)
        self.world.create(led())
        if is_well:
            self.all_is_well()

    def _record(self, site: str) -> PairRecord:
        return self.world.kept[site]["p"]

    def _is_up(self, site: str) -> bool:
        return site in self.world.controllers

    def _leaders(self) -> list[str]:
        """Who leads, by its own store: the latest lead first."""
        found = [site for site in VOLUMES if not self._record(site).is_followed]
        return sorted(found, key=lambda site: -self._record(site).sequence)

    @property
    def leads(self) -> str:
        """Who leads; where nobody does, who did last."""
        leaders = self._leaders()
        if leaders:
            return leaders[0]
        return next(site for site in VOLUMES if self._record(site).offered_lead)

    @property
    def follows(self) -> str:
        return OTHER[self.leads]

    def _is_said_to_be_equal(self) -> bool:
        """One leads, a pair that is paired, and the other one follows it."""
        if len(self._leaders()) != 1:
            return False
        leads, follows = self._record(self.leads), self._record(self.follows)
        return leads.state is PairState.PAIRED and not follows.taken_over

    # --- what comes into the stores

    def _told(self, site: str, record: PairRecord) -> None:
        if _copies_to_itself(record):
            self.is_copied_to[site] = True
        if record.state is PairState.PAIRED and not record.is_followed:
            self.world.mixtures.clear()
        history = self.world.kept[site].history
        if len(history) < 2:
            return
        before, other = history[-2], self.world.kept[OTHER[site]]
        if record.sequence < before.sequence:
            self.wrong.append(f"an older state was taken: {record.sequence}")
        if before.taken_over and not record.taken_over:
            settling = [each.sequence for each in other.history if each.settles]
            offered = [next_lead(each.sequence) for each in other.history if each.offered_lead]
            is_taken = not record.is_followed and next_lead(record.sequence) in offered
            if not is_taken and record.sequence not in settling:
                self.wrong.append("a state was taken that does not settle a take-over")
        is_taking_over = record.taken_over and not before.taken_over
        if is_taking_over and VOLUMES[site] in self.world.mixtures:
            self.wrong.append("a mixture was taken over")
        there = other.get("p")
        both_lead = there is not None and not (record.is_followed or there.is_followed)
        if both_lead and next_lead(record.sequence) == next_lead(there.sequence):
            self.wrong.append("two lead")

    # --- hosts

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

    def _generations(self) -> list[int]:
        return [disk.generation for disk in self.world.disks.values()]

    def _acknowledged(self, site: str, written: Written) -> None:
        """A host hears that its write is done; no disk lost its power meanwhile."""
        for block in written.blocks:
            others = {other.value for other in written.others if block in other.blocks}
            self.may_hold[site][block] = {written.value} | others
        if site == self.leads and self._is_said_to_be_equal():
            alpha, beta = self.world.disks["alpha"].now, self.world.disks["beta"].now
            part = slice(written.blocks.start, written.blocks.stop)
            if alpha[part] != beta[part]:
                self.wrong.append(f"acknowledged on one side of a pair that is paired: {part}")

    # --- administrators

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

    # --- faults

    @rule()
    def cut(self) -> None:
        self.world.cut_link()

    @rule()
    def heal(self) -> None:
        if not self.world.wire.is_up:
            self.world.heal_link()

    @rule(envelopes=st.integers(1, 4), fault=st.sampled_from(Fault))
    def envelope_goes_wrong(self, envelopes: int, fault: Fault) -> None:
        self.world.wire.envelopes_left, self.world.wire.fault = envelopes, fault

    @rule(age=st.integers(0, 11))
    def envelope_comes_late(self, age: int) -> None:
        self.world.deliver_late(age)

    @rule(seconds=st.sampled_from([1.0, 8.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

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

    @rule(pieces=pieces)
    def rounds(self, pieces: int) -> None:
        self.world.let_rounds(pieces)

    @rule()
    def second_controllers_go_on(self) -> None:
        """With what they copy past the door, whoever still knows of it."""
        self.world.end_commands()

    @rule(site=sites)
    def disk_is_lost(self, site: str) -> None:
        self.world.call(self.world.disks[VOLUMES[site]].cut)

    @rule()
    def disks_are_back(self) -> None:
        for site in (LEADER, FOLLOWER):
            self.world.heal_disk(site)

    @rule(site=sites, late=st.booleans())
    def disk_is_slow(self, site: str, late: bool) -> None:
        """`late`: it carries changes out late as well."""
        disk = self.world.disks[VOLUMES[site]]
        disk.is_slow, disk.is_late = True, late

    @rule(site=sites)
    def late_answers(self, site: str) -> None:
        self.world.call(self.world.disks[VOLUMES[site]].release)

    @rule(site=sites, kept=kept)
    def disk_loses_power(self, site: str, kept: int) -> None:
        self.world.reset_disk(site, kept)
        self._power_lost(site)

    def _power_lost(self, site: str) -> None:
        """What hosts had not flushed may be gone: they are told, by a unit attention."""
        now = self.world.disks[VOLUMES[site]].now
        self.may_hold[site] = [
            held | {value} for held, value in zip(self.may_hold[site], now, strict=True)
        ]
        self.power_was_lost = True

    @rule(
        site=sites,
        lost=st.sampled_from(["", "", "", "file", "bits", "header"]),
        is_back=st.sampled_from([True, True, False]),
    )
    def crash(self, site: str, lost: str, is_back: bool) -> None:
        """`lost`: of its bitmaps."""
        self._goes_down(site)
        if lost:
            page = {"bits": BITS_PAGE, "header": HEADER_PAGE, "file": None}[lost]
            self.world.lose_bitmap(site, page)
        if is_back:
            self.world.start_site(site)

    @rule(site=sites, kept=kept, is_back=st.sampled_from([True, True, False]))
    def site_loses_power(self, site: str, kept: int, is_back: bool) -> None:
        if self._is_up(site):
            self.world.cut_power_of(site, kept)
            self._power_lost(site)
            self._forget_hosts(site)
        if is_back:
            self.site_comes_back(site)

    @rule(site=sites)
    def site_comes_back(self, site: str) -> None:
        if not self._is_up(site):
            self.world.start_site(site)

    def _goes_down(self, site: str) -> None:
        if self._is_up(site):
            self.world.kill_site(site)
            self._forget_hosts(site)

    def _forget_hosts(self, site: str) -> None:
        self.waiting[site] = 0
        self.under_way[site].clear()

    @rule(site=sites, commits=st.integers(0, 1), after=st.booleans(), stays_down=st.booleans())
    def die_at_a_commit(self, site: str, commits: int, after: bool, stays_down: bool) -> None:
        if self._is_up(site):
            self.world.controllers[site].commits_left = commits
            self.world.controllers[site].killed_after_commit = after
            self.stays_down = stays_down

    # --- what must hold

    @invariant()
    def holds(self) -> None:
        if "p" not in self.world.kept[LEADER]:
            return
        self.world.settle()
        while dead := [s for s, each in self.world.controllers.items() if each.is_dead]:
            self._goes_down(dead[0])
            if not self.stays_down:
                self.world.start_site(dead[0])
        assert not self.wrong, self.wrong
        self._hosts_data_is_kept()
        if not any(self.waiting.values()):
            self._sides_are_as_it_is_said()

    def _hosts_data_is_kept(self) -> None:
        for site, volume in VOLUMES.items():
            now = self.world.disks[volume].now
            if site not in self.may_hold or self.is_copied_to[site]:
                self.may_hold[site] = [{value} for value in now]
                for written in self.under_way[site]:
                    for block in written.blocks:
                        self.may_hold[site][block].add(written.value)
            for block, value in enumerate(now):
                assert value in self.may_hold[site][block], (
                    f"{self._say()}: block {block} of {volume} is {value}, "
                    f"may be {self.may_hold[site][block]}"
                )
        self.is_copied_to = {site: _copies_to_itself(self._record(site)) for site in VOLUMES}

    def _sides_are_as_it_is_said(self) -> None:
        """Nothing of hosts is under way."""
        alpha, beta = self.world.disks["alpha"], self.world.disks["beta"]
        leads = self._record(self.leads)
        if leads.state is not PairState.PAIRED or alpha.now == beta.now:
            self.power_was_lost = False
        elif self._is_up(self.leads) and self._is_said_to_be_equal() and not self.power_was_lost:
            assert alpha.now == beta.now, self._say()
        if not (self._is_up(LEADER) and self._is_up(FOLLOWER)):
            return
        marked = RegionBitmap(alpha.blocks, REGION_BLOCKS.bit_length() - 1)
        for controller in self.world.controllers.values():
            sides = [side for pair in controller.pairs.all() for side in pair.sides]
            for side in (*sides, *(pair.side for pair in controller.followed.all())):
                marked.update(side.bitmap.regions)
        for region in range(marked.regions):
            if not marked.any_in(region, region):
                part = slice(region * REGION_BLOCKS, (region + 1) * REGION_BLOCKS)
                assert alpha.now[part] == beta.now[part], f"{self._say()}: region {region}"
                assert alpha.stable[part] == beta.stable[part], (
                    f"{self._say()}: region {region} on stable storage"
                )

    def _say(self) -> str:
        return " / ".join(_in_words(self._record(site)) for site in VOLUMES)


def _copies_to_itself(record: PairRecord) -> bool:
    """Whether the volume of the site that has this record is copied to."""
    if record.is_followed:
        return record.state in LETS_IN
    return record.state is PairState.REVERSE_COPYING


def _in_words(record: PairRecord) -> str:
    lead, state = divmod(record.sequence, 1 << 32)
    role = "offers" if record.offered_lead else "follows" if record.is_followed else "leads"
    return f"{role} {record.state} {lead}:{state} ({record.reason})"


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
