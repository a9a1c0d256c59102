"""What must hold of a pair over two sites, whatever happens to it.

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
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis.stateful import RuleBasedStateMachine, invariant

from daiko.mapping.region_bitmap import RegionBitmap
from daiko.pair.exchange import next_lead
from daiko.pair.followed import LETS_IN
from daiko.state.pair_record import PairRecord, PairState

from .pair_link import FOLLOWER, LEADER, OTHER, VOLUMES
from .pair_world import REGION_BLOCKS
from .two_sites import TwoSites


class Written:
    """A write of a host."""

    def __init__(self, blocks: range, value: int, others: list[Written]) -> None:
        self.blocks = blocks
        self.value = value
        self.others = list(others)
        """That were under way at the same time: of these any may have been carried out last."""
        for other in others:
            other.others.append(self)


class SitesOracle(RuleBasedStateMachine):
    """One pair, alpha at the site that leads at first and beta at the one that follows, and what
    each may hold."""

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

    def _power_lost(self, site: str) -> None:
        """What hosts had not flushed may be gone: they are told, by a unit attention."""
        now = self.world.disks[VOLUMES[site]].now
        self.may_hold[site] = [
            held | {value} for held, value in zip(self.may_hold[site], now, strict=True)
        ]
        self.power_was_lost = True

    def _goes_down(self, site: str) -> None:
        if self._is_up(site):
            self.world.kill_site(site)
            self._forget_hosts(site)

    def _forget_hosts(self, site: str) -> None:
        self.waiting[site] = 0
        self.under_way[site].clear()

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
