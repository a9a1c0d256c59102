"""A group of two asynchronous pairs over two sites, for `test_async_sites.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from daiko.pair.error import VerbRefused
from daiko.pair.live_pair import JournalStatus
from daiko.pair.state import Verb
from daiko.pair.surroundings import SiteRefused
from daiko.state.pair_record import PairRecord, PairState, Update
from daiko.state.store import StoreError

from .acknowledged import Hosts
from .pair_link import FOLLOWER, LEADER, NAA_OF, OTHER
from .pair_world import BLOCKS, REGION_BLOCKS
from .two_sites import TwoSites, led

S = PairState
PRIMARY_OF = {"beta": "alpha", "delta": "gamma"}


class AsyncSites(TwoSites):
    """Two asynchronous pairs p and q of a group g."""

    volumes_of: Mapping[str, Sequence[str]] = {
        LEADER: ["alpha", "gamma"],
        FOLLOWER: ["beta", "delta"],
    }

    leads = LEADER
    """The site that does; the other one follows."""

    @property
    def follows(self) -> str:
        return OTHER[self.leads]

    @property
    def primary_of(self) -> dict[str, str]:
        """Secondary -> primary."""
        there, here = self.volumes_of[self.follows], self.volumes_of[self.leads]
        return dict(zip(there, here, strict=True))

    def make(self, journal: int = 1 << 16) -> Hosts:
        """The pairs, which are the same, and their hosts."""
        for number, (secondary, primary) in enumerate(PRIMARY_OF.items()):
            self.create(
                led(
                    name="pq"[number],
                    primary=primary,
                    secondary=f"{FOLLOWER}:{secondary}",
                    mixture=f"{FOLLOWER}:{secondary}",
                    peer_naa=NAA_OF[secondary],
                    uuid=bytes([number] * 16).hex(),
                    group="g",
                    update=Update.ASYNC,
                    journal=journal,
                )
            )
        self.converge()
        return Hosts(
            self,
            PRIMARY_OF,
            lambda volume: self.controllers[self.leads].volumes[volume].front,
            lambda function: self.call_at(self.leads, function),
        )

    def records_of(self, site: str) -> list[PairRecord]:
        return list(self.kept[site].values())

    @property
    def is_earlier(self) -> bool:
        """The site that follows may take over."""
        return all(
            each.is_earlier_state and each.good_as_of for each in self.records_of(self.follows)
        )

    def journal(self, pair: str = "p") -> JournalStatus:
        status = self.controllers[self.leads].pairs.pair(pair).status.journal
        assert status is not None
        return status

    def ask(self, verb: Verb, name: str = "g", *, at_once: bool = False) -> None:
        self.run_at(
            self.leads, self.controllers[self.leads].pairs.verb(name, verb, at_once=at_once)
        )
        self.settle()

    def take_over(self, name: str = "g") -> None:
        """Or take the lead back, as an administrator does either; what is under way there comes
        first."""
        here = self.controllers[self.follows]
        is_offered = any(each.offered_lead for each in self.records_of(self.follows))
        work = (
            here.exchange.take_back("p", "asked for")
            if is_offered
            else here.followed.take_over(name)
        )
        task = self.loop.create_task(work, context=here.context.copy())
        self.settle()
        if not here.is_dead:
            for disk in self.disks_of(self.follows):
                self.call(disk.release)
            task.result()
        if is_offered:
            self.leads = self.follows

    def exchange(self, verb: Verb = Verb.SWAP) -> str:
        """Ask that the other site leads; why it does not, "" where it does, or may."""
        work = self.controllers[self.leads].exchange.hand_over("g", verb)
        task = self.loop.create_task(work, context=self.controllers[self.leads].context.copy())
        self.pass_time(30.0)
        for site, controller in list(self.controllers.items()):
            controller.commits_left = -1
            if controller.is_dead:
                self.restart(site)
        try:
            task.result()
        except (VerbRefused, SiteRefused, StoreError) as refused:
            return str(refused)
        except asyncio.CancelledError:
            return "killed"
        finally:
            self.see_who_leads()
        return ""

    def see_who_leads(self) -> None:
        """At any time one site, or none."""
        led = [site for site in OTHER if not all(e.is_followed for e in self.records_of(site))]
        assert len(led) < 2, self.all_records
        if led:
            (self.leads,) = led
            assert not any(each.is_followed for each in self.records_of(self.leads))

    @property
    def nobody_leads(self) -> bool:
        return all(each.is_followed for each in self.all_records)

    def everything_is_there(self) -> None:
        for disk in self.disks.values():
            disk.heal()
            self.call(disk.release)
        if not self.wire.is_up:
            self.heal_link()

    def converge(self) -> None:
        """Everything is there: the pairs become the same, at both sites."""
        self.everything_is_there()
        for _ in range(40):
            self.pass_time(40.0)
            if self.is_paired and self.is_earlier and not self.journal().used:
                break
        found = [(each.name, each.state, each.reason) for each in self.all_records]
        assert self.is_paired, found
        assert self.is_earlier, found
        for secondary, primary in self.primary_of.items():
            assert self.disks[secondary].now == self.disks[primary].now

    @property
    def all_records(self) -> list[PairRecord]:
        return [*self.records_of(self.leads), *self.records_of(self.follows)]

    @property
    def is_paired(self) -> bool:
        return all(each.state is S.PAIRED for each in self.all_records)

    def restart(self, site: str) -> None:
        self.kill_site(site)
        self.start_site(site)

    def check_marks(self) -> None:
        """A region that differs is marked somewhere; to be asked while no write is under way."""
        for name, (secondary, primary) in zip("pq", self.primary_of.items(), strict=True):
            sides = [
                *self.controllers[self.leads].pairs.pair(name).sides,
                self.controllers[self.follows].followed.pair(name).side,
            ]
            here, there = self.disks[primary].now, self.disks[secondary].now
            for region in range((BLOCKS + REGION_BLOCKS - 1) // REGION_BLOCKS):
                part = slice(region * REGION_BLOCKS, (region + 1) * REGION_BLOCKS)
                if here[part] != there[part]:
                    assert any(side.bitmap.regions.any_in(region, region) for side in sides)
