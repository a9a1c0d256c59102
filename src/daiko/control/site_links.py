"""The links to all other sites: they follow the store, as everything that is live does.

Other code talks to a site by `link(name)`, offers it a volume by `offer`, and takes that back by
`withdraw`. A LUN once given to a volume stays that volume's until it is withdrawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence

import structlog

from daiko.backend.site_link import SiteLink
from daiko.backend.site_reading import OwnDevice
from daiko.backend.site_session import LinkState, LinkStatus
from daiko.command_control.naming import naa_of
from daiko.control import chap
from daiko.control.inventory import device_address
from daiko.control.offers import PairSeam
from daiko.iscsi.chap import Account
from daiko.scsi.site_values import LARGEST_LUN
from daiko.state.record import (
    BackendRecord,
    CredentialRecord,
    Record,
    SiteRecord,
    SystemRecord,
    VolumeRecord,
)
from daiko.state.store import Change, Store, StoreError, Transaction

log = structlog.get_logger(__name__)


class SiteLinks:
    """One link for each SiteRecord. `start` before use, `stop` at the end."""

    def __init__(self, store: Store, initiator_iqn: str, pairing: PairSeam) -> None:
        self.pairing = pairing
        """Where those who pair volumes join in."""
        self.on_up: Callable[[str], None] = lambda site: None
        """Told of each site whose link has come up."""
        self._store = store
        self._initiator_iqn = initiator_iqn
        self._links: dict[str, SiteLink] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._unwatch: Callable[[], None] | None = None

    def start(self) -> None:
        """Link to all sites of the store, and follow the store from now on."""
        for record in self._store.list(SiteRecord):
            self._begin(record)
        self._unwatch = self._store.watch(self._follow)

    async def stop(self) -> None:
        """Log out everywhere. Harmless when it is not started."""
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        links, self._links = self._links, {}
        for task in self._background:
            task.cancel()
        await asyncio.gather(*(link.stop() for link in links.values()))
        await asyncio.gather(*self._background, return_exceptions=True)

    def link(self, name: str) -> SiteLink:
        """Raises KeyError where there is no such site."""
        return self._links[name]

    async def settle(self, name: str, seconds: float) -> None:
        """Ask a site again now, and wait for how its link is then, at most so long. Raises
        KeyError."""
        link = self._links[name]

        async def probe() -> None:
            await link.probe()

        await asyncio.wait([self._spawn(probe())], timeout=seconds)

    async def offer(self, site: str, volume: str) -> int:
        """Let a site read and write a volume of ours, and learn where it lies. Returns the LUN by
        which it sees it: the one that it has already, or the lowest free one. Raises KeyError where
        there is no such site or volume, OverflowError where no LUN is free."""
        async with self._store.transaction() as change:
            return put_offer(change, site, volume)

    async def withdraw(self, site: str, volume: str) -> None:
        """Take that back; nothing happens where it was not offered. Raises KeyError where there is
        no such site."""
        async with self._store.transaction() as change:
            record = _record(change, site)
            left = {lun: name for lun, name in record.offered.items() if name != volume}
            change.put(record.model_copy(update={"offered": left}))

    def _begin(self, record: SiteRecord) -> None:
        system = self._store.get(SystemRecord, "system")
        assert system is not None
        account, missing = self._account(record)
        link = SiteLink(
            record.name,
            record.iqn,
            record.portals,
            self._initiator_iqn,
            own_identity=system.identity,
            own=lambda: KnownDevices(self._store),
            identity=record.identity,
            account=account,
            missing=missing,
        )
        link.watch_identity(lambda identity: self._remember(record.name, identity))
        self._links[record.name] = link

        def changed(status: LinkStatus) -> None:
            if status.state is LinkState.UP:
                self.on_up(record.name)

        link.watch(changed)
        link.start()

    def _account(self, record: SiteRecord) -> tuple[Account | None, str]:
        """As whom to log in, and what is missing for that."""
        known = self._store.get(CredentialRecord, chap.site(record.name))
        if known is None:
            if record.without_chap:
                return None, ""
            return None, f"no CHAP user is set for it: `daiko site set {record.name}`"
        if not known.secret or bool(known.mutual_user) != bool(known.mutual_secret):
            return None, (
                f"the secret of CHAP user {known.user} is not given yet: "
                f"`daiko site set {record.name} --chap-user {known.user} --chap-secret-file FILE`"
            )
        return chap.account_of(known), ""

    def _follow(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.type is SiteRecord:
                self._follow_site(change)
            elif change.type is CredentialRecord:
                owner, _, name = change.key.partition(":")
                record = self._store.get(SiteRecord, name)
                if owner == "site" and record is not None and name in self._links:
                    self._use_account(record)

    def _follow_site(self, change: Change) -> None:
        before, after = change.before, change.after
        if isinstance(after, SiteRecord) and _is_at_same_place(before, after):
            self._use_account(after)
            return
        if change.key in self._links:
            self._spawn(self._links.pop(change.key).stop())
        if isinstance(after, SiteRecord):
            self._begin(after)

    def _use_account(self, record: SiteRecord) -> None:
        self._links[record.name].use_account(*self._account(record))

    def _remember(self, name: str, identity: str) -> None:
        self._spawn(self._keep(name, identity))

    async def _keep(self, name: str, identity: str) -> None:
        """Remember who the other system is."""
        try:
            async with self._store.transaction() as change:
                record = change.get(SiteRecord, name)
                if record is not None and not record.identity:
                    change.put(record.model_copy(update={"identity": identity}))
        except StoreError as error:
            log.error("identity of a site not kept", site=name, error=str(error))

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


def _is_at_same_place(before: Record | None, after: SiteRecord) -> bool:
    return isinstance(before, SiteRecord) and (before.iqn, before.portals) == (
        after.iqn,
        after.portals,
    )


def put_offer(change: Transaction, site: str, volume: str) -> int:
    """Offer a volume to a site inside a transaction, as `SiteLinks.offer`."""
    record = _record(change, site)
    if change.get(VolumeRecord, volume) is None:
        raise KeyError(volume)
    for lun, name in record.offered.items():
        if name == volume:
            return lun
    free = next((lun for lun in range(1, LARGEST_LUN + 1) if lun not in record.offered), None)
    if free is None:
        raise OverflowError(f"all LUNs of site {site} are taken")
    offered = dict(sorted({**record.offered, free: volume}.items()))
    change.put(record.model_copy(update={"offered": offered}))
    return free


def _record(change: Transaction, site: str) -> SiteRecord:
    record = change.get(SiteRecord, site)
    if record is None:
        raise KeyError(site)
    return record


class KnownDevices:
    """What this controller knows of its own devices now (`site_reading.OwnDevices`)."""

    def __init__(self, store: Store) -> None:
        self._by_place: dict[tuple[str, int], OwnDevice] = {}
        self._by_naa: dict[bytes, OwnDevice] = {}
        for record in store.list(BackendRecord):
            for facts in record.devices:
                address = device_address(record, facts)
                own = OwnDevice(address.device, facts.block_size, facts.blocks, address)
                if address.iqn:
                    self._by_place[address.iqn.lower(), address.lun] = own
                naa = naa_of(address)
                if naa is not None:
                    self._by_naa[naa] = own

    def at(self, iqn: str, lun: int) -> OwnDevice | None:
        """The device at this target and LUN."""
        return self._by_place.get((iqn, lun))

    def with_naa(self, designator: bytes) -> OwnDevice | None:
        """The device that shows this designator (with its header)."""
        return self._by_naa.get(designator)
