"""What can go wrong with a pair over two sites, one thing at a time: rules of its model."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from .pair_link import FOLLOWER, LEADER, VOLUMES, Fault
from .pair_world import ALL_PIECES, BLOCKS
from .sites_oracle import SitesOracle

sites = st.sampled_from([LEADER, FOLLOWER])
pieces = st.sampled_from([ALL_PIECES, 0, 1, 3, 7])
blocks = st.integers(0, BLOCKS - 1)
kept = st.integers(0, 0xFFFF)
"""What a power cut leaves of what nothing was asked to keep."""
BITS_PAGE, HEADER_PAGE = 3, 0


class SitesUnderFaults(SitesOracle):
    """The link, the disks, the sites and their bitmaps fail."""

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

    @rule(site=sites, commits=st.integers(0, 1), after=st.booleans(), stays_down=st.booleans())
    def die_at_a_commit(self, site: str, commits: int, after: bool, stays_down: bool) -> None:
        if self._is_up(site):
            self.world.controllers[site].commits_left = commits
            self.world.controllers[site].killed_after_commit = after
            self.stays_down = stays_down
