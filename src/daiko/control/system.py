"""The running whole: store, back ends, volumes, hosts, copies, and the target that serves them.

`System` builds the parts, starts them in order and stops them in the reverse order, and is what
every noun of `control` works on. It does little itself: `inventory.py` knows the back ends,
`publication.py` what hosts see, `devices.py` is the copy manager's view of both.

Changes are live: what the store is told to hold is what hosts see when the request returns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from daiko.backend.worker import Workers
from daiko.command_control.decision import Place
from daiko.command_control.function_table import FunctionTable, ReachCell
from daiko.command_control.naming import DeviceAddress
from daiko.control import chap
from daiko.control.attachment import BackendUnavailable
from daiko.control.devices import LiveDevices
from daiko.control.error import Conflict, Invalid, NotFound, Unavailable
from daiko.control.intents import FOLDER, Intents
from daiko.control.inventory import Inventory
from daiko.control.lent_volumes import LentVolumes
from daiko.control.listening import Listening
from daiko.control.live_volumes import LiveVolumes
from daiko.control.management import check_urls
from daiko.control.management_units import ManagementUnits
from daiko.control.moving_volumes import MigrationCopies
from daiko.control.paired_volumes import PairCopies
from daiko.control.publication import Publication
from daiko.control.site_links import KnownDevices, SiteLinks, put_offer
from daiko.control.site_pairs import SitePairs
from daiko.copy_manager.copy_manager import CopyManager
from daiko.copy_manager.site_places import SitePlaces
from daiko.device.block import BlockDevice
from daiko.mapping.extent import DeviceId
from daiko.pair.exchange import Exchange
from daiko.pair.followed import FollowedPairs
from daiko.pair.migrations import Migrations
from daiko.pair.pairs import Pairs
from daiko.pair.peers import Peers
from daiko.pair.settings import PairSettings
from daiko.pair.site_copies import SiteCopies
from daiko.pair.surroundings import Workshop
from daiko.state.index import BlocksInUse, OfferedTo, SeenBy, VolumesOf
from daiko.state.migration_record import MigrationRecord
from daiko.state.record import (
    TERMINAL,
    BackendRecord,
    CredentialRecord,
    FunctionRecord,
    HostRecord,
    JobRecord,
    Patience,
    PortalGroupRecord,
    ReachRecord,
    SiteRecord,
    SystemRecord,
    VolumeRecord,
)
from daiko.state.store import Store, Transaction
from daiko.target.access import Access
from daiko.target.commands.third_party_copy import ThirdPartyCopyCommands
from daiko.target.logical_unit import LogicalUnit
from daiko.target.nexus import Nexus
from daiko.target.portal import Target

BITMAPS: Final = "bitmaps"
"""Folder of the differential bitmaps, beside the store."""
MIGRATIONS: Final = "migrations"
"""In it, folder of those of migrations."""


class System:
    """One controller. Made and started by `start`; `stop` ends it."""

    def __init__(self, store: Store, *, kept_in: Path | None = None) -> None:
        self.store = store
        self.changing = asyncio.Lock()
        """Held by whoever reads, checks and then changes what the administrator has set up."""
        record = self.record
        self.access = Access()
        self._publication = Publication(
            store,
            self._block_device,
            self.access,
            intents=Intents(None if kept_in is None else kept_in / FOLDER),
        )
        self._inventory = Inventory(store, record.initiator_iqn, self._publication)
        management_units = ManagementUnits(store, self._inventory)
        self._publication.management_units = management_units
        self.sites = SiteLinks(store, record.initiator_iqn, management_units.pairing)
        """The links to other sites, and what they are offered."""
        self.devices = LiveDevices(self._inventory, self._publication)
        volumes = LiveVolumes(store, self._publication, self.devices)
        places = SitePlaces(self.devices)
        self.copy_manager = CopyManager(store, places)
        bitmaps = None if kept_in is None else kept_in / BITMAPS
        settings = PairSettings()
        workers = self._bitmap_workers = Workers(2, name="bitmap")
        self.peers = Peers(self.sites.link, volumes.paired, settings)
        """What is said to the sites that follow where this one leads."""
        self.lent = LentVolumes(
            store,
            self._inventory,
            self.peers,
            places,
            self.copy_manager.other_machines,
            self.copy_manager.devices,
            lambda: KnownDevices(store),
        )
        """Volumes of other sites that second controllers of this one may write to."""
        workshop = _pair_workshop(self, volumes, settings)
        self.pairs = Pairs(store, volumes.paired, workshop, bitmaps, workers=workers)
        self.migrations = Migrations(
            store,
            volumes.moving,
            volumes.is_shown_as_real,
            _migration_workshop(self, settings),
            None if bitmaps is None else bitmaps / MIGRATIONS,
        )
        """The volumes that move to other devices."""
        self.followed = FollowedPairs(store, volumes.paired, bitmaps, time.time, workers)
        """The pairs that other sites lead."""
        self.exchange = Exchange(store, self.pairs, self.followed, self.peers, put_offer, time.time)
        self.site_pairs = SitePairs(self)
        management_units.pairing.handler = self.site_pairs
        management_units.pairing.state_of = self.site_pairs.state_of
        self._target = Target(record.iqn, self.access)
        self._follow_record(record)
        self._publication.on_hosts_changed = self._target.check_sessions
        self.listening = Listening(store, self._target)

    @classmethod
    async def start(cls, store: Store, *, kept_in: Path | None = None) -> System:
        """Start the controller whose state the store holds. Its back ends are open, or being
        tried in the background; its volumes answer; unfinished jobs go on. Hosts reach it after
        `listen`. `kept_in`: a folder that outlives the process, as the store does, for what is
        kept beside it; None: the store ends with the process."""
        system = cls(store, kept_in=kept_in)
        await system._give_identity()
        for index in (BlocksInUse, VolumesOf, SeenBy, OfferedTo):
            store.index(index)  # now, while no host waits
        await system._inventory.start()
        system._publication.third_party_copy = ThirdPartyCopyCommands(
            system.copy_manager, store, system.devices
        )
        system._publication.start()
        chap.follow(store, system._target.authentication)
        await system.copy_manager.start()
        await system.followed.start()
        await system.pairs.start()
        await system.migrations.start()
        system.site_pairs.start()
        system.sites.start()
        return system

    async def listen(self) -> None:
        """Open the portals to hosts. Raises Unavailable where one cannot be listened on."""
        await self.listening.open()

    async def stop(self) -> None:
        """Stop in order: no new commands, jobs to a checkpoint, hosts logged out, back ends
        let go. The store stays open."""
        await self._target.stop()
        await self.site_pairs.stop()
        await self.pairs.stop()
        await self.migrations.stop()
        await self.followed.stop()
        self._bitmap_workers.stop(lambda: None)
        await self.peers.telling.stop()
        await self.sites.stop()
        await self.copy_manager.stop()
        await self._publication.keepers.settle()
        self._publication.stop()
        await self._inventory.stop()

    # What there is

    @property
    def record(self) -> SystemRecord:
        """What this controller is."""
        record = self.store.get(SystemRecord, "system")
        assert record is not None, "the store has not been initialised"
        return record

    def function_table(self) -> FunctionTable:
        """The function table, by hand and found together."""
        return self._inventory.function_table()

    def directory(self) -> dict[DeviceId, DeviceAddress]:
        """All devices, with what a second command needs to name them."""
        return self._inventory.directory()

    def place(self, name: str) -> Place:
        """A volume; BACKEND/LUN; or BACKEND, where it has one LU. Raises NotFound."""
        try:
            return self.devices.place(name)
        except LookupError as error:
            raise NotFound(
                str(error), "`daiko volume ls` and `daiko backend ls` show all"
            ) from error

    def unit(self, volume: str) -> LogicalUnit:
        """The logical unit that hosts reach a volume by. Raises NotFound."""
        try:
            return self._publication.volume(volume).unit
        except KeyError:
            raise NotFound(f"there is no volume {volume}", "`daiko volume ls` shows all") from None

    def backend_status(self, name: str) -> tuple[bool, str]:
        """(connected, why not or which of its LUs are kept out). Raises NotFound."""
        self._existing(name)
        attachment = self._inventory.attachment(name)
        return attachment.is_connected, attachment.detail

    @property
    def portals(self) -> tuple[str, ...]:
        """HOST:PORT as they are listened on; those of the first portal group first."""
        return self._target.portals

    def sessions(self) -> tuple[Nexus, ...]:
        """The hosts that are logged in."""
        return self.access.sessions()

    async def change_record(self, changes: Mapping[str, Any]) -> None:
        """Change what the system record says. The mode changes at once; the iSCSI names, by which
        hosts and back ends know this controller, only at a restart with --iqn. Raises Conflict,
        Invalid."""
        now = self.record
        for name in ("iqn", "initiator_iqn"):
            if changes.get(name, getattr(now, name)) != getattr(now, name):
                raise Conflict(
                    f"{name} is {getattr(now, name)} while this controller runs",
                    "stop it, and start it with --iqn",
                    field=f"system.{name}",
                )
        if "management_urls" in changes:
            changes = {**changes, "management_urls": check_urls(changes["management_urls"])}
        wanted = now.model_copy(update=dict(changes))
        await self.store.put(wanted)
        self._follow_record(wanted)
        self.copy_manager.retention.wake()

    async def _give_identity(self) -> None:
        """A system that is new has no UUID yet."""
        if not self.record.identity:
            identity = uuid4().hex
            await self.store.put(self.record.model_copy(update={"identity": identity}))

    def _follow_record(self, record: SystemRecord) -> None:
        self._target.ping_interval = record.ping_interval
        self._target.ping_timeout = record.ping_timeout

    # Back ends

    async def attach_backend(
        self, record: BackendRecord, credentials: CredentialRecord | None = None
    ) -> BackendRecord:
        """Open a back end, by CHAP where `credentials` are given, find out what it has and can do,
        and keep all that. Raises Conflict (the name, target or file is taken) and Unavailable (it
        does not answer, or does not let us in)."""
        for other in self.store.list(BackendRecord):
            if other.name == record.name:
                raise Conflict(f"there is a back end {record.name} already", field="name")
            if (record.iqn and other.iqn == record.iqn) or (
                record.path and other.path == record.path
            ):
                raise Conflict(f"it is attached already, as {other.name}")
        if self.store.get(VolumeRecord, record.name) is not None:
            raise Conflict(f"a volume has the name {record.name}", field="name")
        try:
            return await self._inventory.attach(record, credentials)
        except BackendUnavailable as error:
            raise Unavailable(str(error), error.next_step or _look_at(record)) from error

    async def detach_backend(self, name: str) -> None:
        """Let go of a back end and forget what is known of it. Raises NotFound, and Conflict
        while a volume lies on it or a job works on it."""
        self._existing(name)
        for migration in self.store.list(MigrationRecord):
            if migration.is_open and name in migration.room.backends:
                raise Conflict(
                    f"volume {migration.volume} is being migrated to {migration.to}",
                    f"wait for it, or `daiko volume migrate {migration.volume} --cancel`",
                )
        volumes = self.store.index(VolumesOf).on(name)
        if volumes:
            raise Conflict(
                f"volume {volumes[0]} lies on {name}", f"`daiko volume rm {volumes[0]}` first"
            )
        for job in self.store.list(JobRecord):
            if job.state not in TERMINAL and name in _backends_of(job):
                raise Conflict(
                    f"job {job.id} works on {name}", f"`daiko job cancel {job.id}` first"
                )
        await self._inventory.detach(name)

    async def change_patience(self, name: str, patience: Patience) -> BackendRecord:
        """Give a back end other time limits, from now on. Raises NotFound; Invalid for an own
        disk."""
        if self._existing(name).path:
            raise Invalid(f"{name} is a disk of this controller: nothing is waited for there")
        return await self._inventory.use_patience(name, patience)

    async def change_backend_credentials(
        self, name: str, credentials: CredentialRecord | None
    ) -> str:
        """Log in to a back end by these from now on. Returns why they could not be tried yet, ""
        where they were. Raises NotFound, Invalid (an own disk), Unavailable (the back end does not
        let us in by them; nothing was changed)."""
        record = self._existing(name)
        if record.path:
            raise Invalid(f"{name} is a disk of this controller: nobody logs in to it")
        try:
            return await self._inventory.use_credentials(name, credentials)
        except BackendUnavailable as error:
            raise Unavailable(str(error), error.next_step) from error

    async def probe_backend(self, name: str, *, functions: bool = True) -> BackendRecord:
        """Look again at what a back end has and, with `functions`, at what it can do and reach.
        Raises NotFound, Unavailable."""
        record = self._existing(name)
        try:
            return await self._inventory.rescan(name, functions=functions)
        except BackendUnavailable as error:
            raise Unavailable(str(error), error.next_step or _look_at(record)) from error

    async def probe_reach(self, backend: str, device: DeviceId) -> ReachCell:
        """Find out whether a controller reaches a device by itself. Raises NotFound,
        Unavailable."""
        record = self._existing(backend)
        if device not in self._inventory.directory():
            raise NotFound(f"there is no device {device}", "`daiko backend ls` shows all")
        try:
            return await self._inventory.reach.ask(backend, device)
        except BackendUnavailable as error:
            raise Unavailable(str(error), error.next_step or _look_at(record)) from error

    # Hosts, cells, the system itself

    async def put_host(self, record: HostRecord) -> None:
        """Add a host or change what it sees. Raises NotFound (no such volume) and Conflict
        (another host has the initiator)."""
        async with self.store.transaction() as change:
            put_host(change, record)

    async def remove_host(self, name: str) -> None:
        """Forget a host; it sees nothing from now on. Raises NotFound."""
        async with self.store.transaction() as change:
            if change.get(HostRecord, name) is None:
                raise NotFound(f"there is no host {name}", "`daiko host ls` shows all")
            change.delete(HostRecord, name)
            change.delete(CredentialRecord, chap.host(name))

    async def put_cell(self, record: FunctionRecord | ReachRecord) -> None:
        """Set a cell of the function table or of the reachability column. Raises NotFound."""
        self._existing(record.backend)
        await self.store.put(record)

    async def remove_cell(self, kind: type[FunctionRecord | ReachRecord], key: str) -> None:
        """Take a cell away, so that another one for the same place shows again. Raises
        NotFound."""
        async with self.store.transaction() as change:
            if change.get(kind, key) is None:
                raise NotFound(f"there is no cell {key}", "`daiko function ls` shows all")
            change.delete(kind, key)

    def _existing(self, name: str) -> BackendRecord:
        record = self.store.get(BackendRecord, name)
        if record is None:
            raise NotFound(f"there is no back end {name}", "`daiko backend ls` shows all")
        return record

    def _block_device(self, device: DeviceId) -> BlockDevice:
        return self.devices.block_device(device)


def put_host(change: Transaction, record: HostRecord) -> None:
    """Check a host and put its record, inside a transaction. Raises NotFound, Conflict."""
    for lun, volume in record.luns.items():
        if change.get(VolumeRecord, volume) is None:
            raise NotFound(f"there is no volume {volume}", field=f"luns.{lun}")
    for tag in record.portal_groups:
        if change.get(PortalGroupRecord, f"{tag:05d}") is None:
            raise NotFound(
                f"there is no portal group {tag}",
                "`daiko portal ls` shows all",
                field="portal_groups",
            )
    for other in change.list(HostRecord):
        if other.name != record.name:
            for initiator in set(other.initiators) & set(record.initiators):
                raise Conflict(
                    f"host {other.name} has the initiator {initiator}", field="initiators"
                )
    for site in change.list(SiteRecord):
        if site.initiator in record.initiators:
            raise Conflict(
                f"site {site.name} has the initiator {site.initiator}", field="initiators"
            )
    change.put(record)


def _pair_workshop(system: System, volumes: LiveVolumes, settings: PairSettings) -> Workshop:
    peers, time_commands = system.peers, system.devices.time_commands
    own = PairCopies(system.copy_manager, lambda volume: system.devices.place(volume).table)
    copies = SiteCopies(own, partial(volumes.over_sites, peers), system.lent, time_commands)
    return Workshop(copies, time_commands, settings, peers)


def _migration_workshop(system: System, settings: PairSettings) -> Workshop:
    own = PairCopies(system.copy_manager, lambda volume: system.devices.place(volume).table)
    copies = MigrationCopies(own, lambda volume: system.migrations.living(volume).record)
    return Workshop(copies, system.devices.time_commands, settings)


def _backends_of(job: JobRecord) -> set[str]:
    devices = [device for step in job.steps for device in (step.source, step.destination)]
    names = {DeviceId.parse(device).backend for device in devices}
    return names | {job.source.partition("/")[0], job.destination.partition("/")[0]}


def _look_at(record: BackendRecord) -> str:
    if record.path:
        return "look whether the file is there and this process may use it"
    return f"look whether {record.iqn} is served at {', '.join(record.portals)}"
