"""What hosts see: volumes as logical units, and which host sees which.

The publication follows the store. Each VolumeRecord is a logical unit over a virtual LU (or over
the device itself, where the volume is one whole device); each HostRecord a row of the access
control, and each SiteRecord another: its first controller sees a management unit, and the volumes
that it is offered. When a back end comes, goes or is opened anew, the volumes on it get their
devices anew without the hosts' sessions noticing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import structlog

from daiko.backend.intent_log import IntentLog
from daiko.command_control.decision import Place
from daiko.control.attachment import DeviceWatcher
from daiko.control.intents import Intents
from daiko.control.kept import UnitKeepers
from daiko.control.management_units import ManagementUnits
from daiko.device.block import BlockDevice
from daiko.device.emulate import Emulate
from daiko.device.layer.overlay import Overlay
from daiko.mapping.extent import DeviceId
from daiko.mapping.mapping_table import begins_with
from daiko.pair.peer_door import PeerDoor
from daiko.scsi.site import MANAGEMENT_LUN
from daiko.scsi.target_port_groups import AccessState
from daiko.state.index import OfferedTo, SeenBy, VolumesOf
from daiko.state.migration_record import MigrationRecord, MigrationState
from daiko.state.pair_record import PairRecord
from daiko.state.record import (
    BackendKind,
    BackendRecord,
    GroupState,
    HostRecord,
    PortalGroupRecord,
    SiteRecord,
    SystemRecord,
    TargetPortGroupRecord,
    VolumeAccess,
    VolumeRecord,
)
from daiko.state.store import Change, Store, StoreError
from daiko.target.access import Access
from daiko.target.asymmetric_access import GroupAccess, OwnAccess, TargetPortGroups
from daiko.target.event import Event
from daiko.target.kept import Keeper
from daiko.target.logical_unit import Identity, LogicalUnit, ThirdPartyCopy
from daiko.target.management import ManagementAddresses
from daiko.virtual_lu.virtual_lu import VirtualLu

log = structlog.get_logger(__name__)

DeviceSource = Callable[[DeviceId], BlockDevice]

AnyOverlay = TypeVar("AnyOverlay", bound=Overlay)

_OF_PORT_GROUPS = (PortalGroupRecord, SystemRecord, TargetPortGroupRecord)


class WrittenThrough(NamedTuple):
    """A layer that has to see every write to a volume."""

    layer: Overlay
    why: str
    """In a sentence, for plans."""


class PublishedVolume:
    """A volume as it lives: its mapping table, its device, and its logical unit."""

    def __init__(
        self,
        record: VolumeRecord,
        device_of: DeviceSource,
        third_party_copy: ThirdPartyCopy | None,
        *,
        is_real: bool,
        keeper: Keeper | None = None,
        port_groups: TargetPortGroups | None = None,
        management: ManagementAddresses | None = None,
        open_intents: Callable[[], IntentLog] | None = None,
    ) -> None:
        self.record = record
        self.is_real = is_real
        """Shown to hosts as a real LU."""
        self.table = record.extents.table
        self._device_of = device_of
        self._overlays: list[Overlay] = []
        """What is put over the volume, from the lowest to the newest."""
        self.device = self._build()
        """The volume over its devices as they are, below everything that is put over it."""
        self.written_through: WrittenThrough | None = None
        """The layer that no write may go past, whoever writes."""
        self.unit = LogicalUnit(
            Identity(
                record.name,
                bytes.fromhex(record.naa),
                product="LU" if is_real else "VIRTUAL LU",
            ),
            self.device,
            third_party_copy=third_party_copy,
            keeper=keeper,
            port_groups=port_groups,
            management=management,
            open_intents=open_intents,
        )
        self.unit.asymmetric_access.follow(own_access(record))
        self._doors: dict[str, tuple[PeerDoor, LogicalUnit]] = {}
        """Site that leads a pair with this volume -> how its first controller writes to it."""

    def door(self, site: str) -> PeerDoor:
        """By which a site that leads a pair with this volume writes to it, past its layers."""
        return self._door(site)[0]

    def peer_unit(self, site: str) -> LogicalUnit:
        """The unit that the first controller of such a site sees."""
        return self._door(site)[1]

    def take_door(self, site: str) -> None:
        """The site leads no pair with this volume any more."""
        self._doors.pop(site, None)

    def announce_reset(self) -> None:
        """A device may have lost what was not flushed: tell all who wrote to the volume."""
        for unit in (self.unit, *(unit for _, unit in self._doors.values())):
            unit.announce(Event.DEVICE_INTERNAL_RESET)

    def _door(self, site: str) -> tuple[PeerDoor, LogicalUnit]:
        if site not in self._doors:
            door = PeerDoor(self.device)
            # Without the copy manager: no copy goes past the door, from here or from another unit.
            self._doors[site] = (door, LogicalUnit(self.unit.identity, door))
        return self._doors[site]

    @property
    def place(self) -> Place:
        """The volume as decisions see it."""
        through = self.written_through
        return Place(
            self.record.name,
            self.record.block_size,
            self.table.blocks,
            self.table,
            "" if through is None else through.why,
        )

    def lies_on(self, device: DeviceId) -> bool:
        return device in self.table.devices

    def rebuild(self) -> None:
        """Take the devices as they are now; what is put over the volume stays there."""
        self.device = self._build()
        for overlay in self._overlays:
            overlay.capabilities = self.device.capabilities
        if self._overlays:
            self._overlays[0].below = self.device
        for door, unit in self._doors.values():
            door.below, door.capabilities = self.device, self.device.capabilities
            unit.replace_device(door)
        self.unit.replace_device(self._overlays[-1] if self._overlays else self.device)

    def grow(self, record: VolumeRecord) -> None:
        """Take a record whose extents begin with those that there are: the hosts keep the unit and
        everything in flight, and are told of the new capacity. What is put over the volume stays
        there."""
        self.record = record
        self.table = record.extents.table
        self.device = below = self._build()
        for overlay in self._overlays:
            overlay.below = below
            overlay.grow(self.device.capabilities)
            below = overlay
        self.unit.resize(below)

    def move(self, record: VolumeRecord) -> None:
        """Take a record by which the same data lies elsewhere: hosts keep the unit and notice
        nothing. Who moved it has seen to it that nothing is under way below."""
        self.record = record
        self.table = record.extents.table
        self.rebuild()

    def put_over(self, make: Callable[[BlockDevice], AnyOverlay]) -> AnyOverlay:
        """Put a layer into the way of all commands of hosts. Each call needs a `take_off`.

        The layers lie one on another, the newest on top, so each sees all commands since it was
        put there."""
        overlay = make(self.unit.bare_device)
        self._overlays.append(overlay)
        self.unit.replace_device(overlay)
        return overlay

    def put_under(self, overlay: Overlay) -> None:
        """Put a layer, made over `device`, below all others. It needs a `take_off` as well."""
        overlay.below = self.device
        self._overlays.insert(0, overlay)
        if len(self._overlays) > 1:
            self._overlays[1].below = overlay
        else:
            self.unit.replace_device(overlay)

    def take_off(self, overlay: Overlay) -> None:
        """Take a layer out of the way, from wherever it lies in it: jobs may follow one another
        without a gap for as long as the controller runs."""
        place = self._overlays.index(overlay)
        del self._overlays[place]
        if place < len(self._overlays):
            self._overlays[place].below = overlay.below
        else:
            self.unit.replace_device(overlay.below)

    def _build(self) -> BlockDevice:
        """The volume over its devices as they are."""
        table = self.table
        if len(table) == 1:
            only = table[0]
            device = self._device_of(only.device)
            if only.device_lba == 0 and only.blocks == device.blocks:
                return with_all_commands(device)
        devices = {each: with_all_commands(self._device_of(each)) for each in table.devices}
        return VirtualLu(table, devices, self.record.block_size)


class Publication:
    """All volumes, published to the hosts that the store gives them to."""

    def __init__(
        self,
        store: Store,
        device_of: DeviceSource,
        access: Access,
        *,
        intents: Intents | None = None,
    ) -> None:
        self.access = access
        self._intents = intents or Intents(None)
        self.third_party_copy: ThirdPartyCopy | None = None
        """Set before `start`: what carries out the copy commands of hosts."""
        self.management_units: ManagementUnits | None = None
        """Set before `start`: how other sites talk to this controller."""
        self.keepers = UnitKeepers(store)
        self._store = store
        self._device_of = device_of
        self._volumes: dict[str, PublishedVolume] = {}
        self._views: dict[str, tuple[Mapping[int, str], Mapping[int, LogicalUnit]]] = {}
        """Host -> its LUNs as stored, and the units they stand for."""
        self._peer_views: dict[str, Mapping[int, LogicalUnit]] = {}
        """Site -> the units that its first controller sees."""
        self.on_hosts_changed: Callable[[], None] = lambda: None
        """Called when the hosts, or what they may use, have become others."""
        self.watchers: list[DeviceWatcher] = []
        """Told of devices as this is, after it: places that are no volumes yet."""
        self._port_groups = TargetPortGroups()
        self._management = ManagementAddresses()
        self._keeping: set[asyncio.Task[None]] = set()
        self._unwatch: Callable[[], None] | None = None

    def start(self) -> None:
        """Publish all that the store has, and follow the store from now on."""
        self._follow_port_groups()
        self._follow_system()
        for record in self._store.list(VolumeRecord):
            self._add(record)
        self._publish()
        self._unwatch = self._store.watch(self._follow)

    def stop(self) -> None:
        """Take everything away from the hosts."""
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        self.access.publish({})
        for volume in self._volumes.values():
            self._close(volume)
        self._volumes.clear()
        self._views.clear()
        self._peer_views.clear()
        if self.management_units is not None:
            self.management_units.stop()

    def volume(self, name: str) -> PublishedVolume:
        """Raises KeyError."""
        return self._volumes[name]

    def volumes_on(self, backend: str) -> tuple[PublishedVolume, ...]:
        """The volumes that have blocks on any device of a back end."""
        on = self._store.index(VolumesOf).on(backend)
        return tuple(self._volumes[name] for name in on if name in self._volumes)

    def backend_changed(self, name: str) -> None:
        """The devices of a back end have become others."""
        for volume in self.volumes_on(name):
            volume.rebuild()
        for watcher in self.watchers:
            watcher.backend_changed(name)

    def device_was_reset(self, device: DeviceId) -> None:
        """A device reported a reset, and what its cache held may be gone: the hosts that wrote
        there must not take their next flush for proof of what they wrote before (SAM-5, 5.14)."""
        for volume in self._volumes.values():
            if volume.lies_on(device):
                volume.announce_reset()
        for watcher in self.watchers:
            watcher.device_was_reset(device)

    def _add(self, record: VolumeRecord) -> None:
        volume = self._volumes[record.name] = PublishedVolume(
            record,
            self._device_of,
            self.third_party_copy,
            is_real=(
                is_real_lu(self._store, record)
                if record.shown_as_real is None
                else record.shown_as_real
            ),
            keeper=self.keepers.of(record),
            port_groups=self._port_groups,
            management=self._management,
            open_intents=self._intents.opener(record),
        )
        volume.unit.asymmetric_access.keeper = self
        self._intents.take_up(record, volume.unit)
        work = self.keepers.of(record).medium_work
        if work is not None:
            volume.unit.medium.take_up(work)

    def _follow_system(self) -> None:
        """Tell hosts the management's addresses as the store has them now."""
        record = self._store.get(SystemRecord, "system")
        urls = () if record is None else record.management_urls
        if urls == self._management.urls:
            return
        self._management.urls = urls
        for volume in self._volumes.values():
            volume.unit.announce(Event.INQUIRY_DATA_CHANGED)

    # What hosts and administrators say of target port groups

    def keep_states(
        self, unit: LogicalUnit, states: Mapping[int, AccessState], done: Callable[[bool], None]
    ) -> None:
        """`asymmetric_access.StateKeeper`: in the record of the volume, and so over restarts."""
        task = asyncio.ensure_future(self._keep_states(unit, states, done))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep_states(
        self, unit: LogicalUnit, states: Mapping[int, AccessState], done: Callable[[bool], None]
    ) -> None:
        name = unit.identity.name
        try:
            async with self._store.transaction() as change:
                record = change.get(VolumeRecord, name)
                if record is None:
                    raise StoreError(f"volume {name} is gone")
                access = dict(record.access)
                for group, state in states.items():
                    said = access.get(group, VolumeAccess())
                    access[group] = said.model_copy(
                        update={"state": GROUP_STATES[state], "by_host": True}
                    )
                change.put(record.model_copy(update={"access": access}))
        except StoreError as error:
            log.error("states of target port groups not kept", volume=name, error=str(error))
            done(False)
        else:
            log.info(
                "a host set states of target port groups", volume=name,
                states={group: GROUP_STATES[state].value for group, state in states.items()},
            )  # fmt: skip
            done(True)

    def _follow_port_groups(self) -> None:
        """Take the ports and the groups as the store has them now."""
        system = self._store.get(SystemRecord, "system")
        self._port_groups.hosts_set_states = system is None or system.hosts_set_states
        self._port_groups.replace(
            {
                record.tag: record.target_port_group
                for record in self._store.list(PortalGroupRecord)
            },
            {
                record.number: GroupAccess(ACCESS_STATES[record.state], record.preferred)
                for record in self._store.list(TargetPortGroupRecord)
            },
        )
        for volume in self._volumes.values():
            volume.unit.asymmetric_access.follow()

    def _close(self, volume: PublishedVolume) -> None:
        """The volume is not served any more, or by another unit."""
        self._intents.close(volume.unit)
        if volume.unit.medium_state is not None:
            volume.unit.medium_state.close()
        if volume.unit.thresholds is not None:
            volume.unit.thresholds.stop()

    def _follow(self, changes: Sequence[Change]) -> None:
        concerned = False
        moved = {
            change.key
            for change in changes
            if isinstance(change.after, MigrationRecord)
            and change.after.state is MigrationState.DONE
        }
        if any(change.type in _OF_PORT_GROUPS for change in changes):
            self._follow_port_groups()
        for change in changes:
            if change.type is HostRecord:
                concerned = True
                self._views.pop(change.key, None)
            elif change.type is SiteRecord:
                concerned = True
                self._follow_site(change)
            elif change.type is PairRecord:
                concerned = self._follow_pair(change) or concerned
            elif change.type is SystemRecord:
                self._follow_system()
            elif change.type is VolumeRecord:
                seen_by = self._store.index(SeenBy).volume(change.key)
                offered_to = self._store.index(OfferedTo).volume(change.key)
                if self._follow_volume(change, has_moved=change.key in moved) and (
                    seen_by or offered_to
                ):
                    concerned = True
                    for sight in seen_by:
                        self._views.pop(sight.host, None)
                    for sight in offered_to:
                        self._peer_views.pop(sight.host, None)
        if concerned:
            self._publish()
            self.on_hosts_changed()

    def _follow_volume(self, change: Change, *, has_moved: bool) -> bool:
        """Take a volume as it is now; whether hosts see another unit for it. `has_moved`: its data
        lies where the record says, as it lay before."""
        after = change.after
        if not isinstance(after, VolumeRecord):
            self._close(self._volumes.pop(change.key))
            if isinstance(change.before, VolumeRecord):
                self._intents.forget(change.before)
            return True
        living = self._volumes.get(change.key)
        if living is not None and living.table == after.extents.table:
            before, living.record = living.record, after
            if before.access != after.access:
                living.unit.asymmetric_access.follow(own_access(after))
            return False
        if living is not None and has_moved:
            living.move(after)
            return False
        if living is not None and begins_with(after.extents.table, living.table):
            living.grow(after)
            return False
        if living is not None:
            self._close(living)
        self._add(after)
        if living is not None:
            self._volumes[change.key].unit.reservations.take_over(living.unit.reservations)
        return True

    def _publish(self) -> None:
        hosts: dict[str, Mapping[int, LogicalUnit]] = {}
        tags: dict[str, tuple[int, ...]] = {}
        for host in self._store.list(HostRecord):
            units = self._units_of(host)
            for initiator in host.initiators:
                hosts[initiator] = units
                tags[initiator] = host.portal_groups
        for site in self._store.list(SiteRecord):
            hosts[site.initiator] = self._units_of_peer(site)
        self.access.publish(hosts, tags)

    def _units_of(self, host: HostRecord) -> Mapping[int, LogicalUnit]:
        """What a host sees; the same object as long as that does not change."""
        known = self._views.get(host.name)
        if known is None or known[0] is not host.luns:
            units = {lun: self._volumes[name].unit for lun, name in host.luns.items()}
            known = self._views[host.name] = (host.luns, units)
        return known[1]

    def _follow_site(self, change: Change) -> None:
        before, after = change.before, change.after
        if isinstance(before, SiteRecord) and isinstance(after, SiteRecord):
            if before.offered == after.offered:
                return
        elif after is None and self.management_units is not None:
            self.management_units.forget(change.key)
        self._peer_views.pop(change.key, None)

    def _follow_pair(self, change: Change) -> bool:
        """A pair that another site leads begins or ends; whether its first controller sees another
        unit now."""
        led = [
            (record.site, record.secondary)
            for record in (change.before, change.after)
            if isinstance(record, PairRecord) and record.is_followed
        ]
        if len(led) != 1:
            return False
        site, volume = led[0]
        self._peer_views.pop(site, None)
        if isinstance(change.before, PairRecord) and change.before.is_followed:
            self._volumes[volume].take_door(site)
        return True

    def _unit_of_peer(self, site: str, name: str) -> LogicalUnit:
        """What a site sees of a volume that it is offered."""
        is_led = any(
            (record.is_followed, record.site, record.secondary) == (True, site, name)
            for record in self._store.list(PairRecord)
        )
        volume = self._volumes[name]
        return volume.peer_unit(site) if is_led else volume.unit

    def _units_of_peer(self, site: SiteRecord) -> Mapping[int, LogicalUnit]:
        """What the first controller of a site sees; as `_units_of`."""
        known = self._peer_views.get(site.name)
        if known is None:
            assert self.management_units is not None
            units = {lun: self._unit_of_peer(site.name, n) for lun, n in site.offered.items()}
            units[MANAGEMENT_LUN] = self.management_units.of(site.name)
            known = self._peer_views[site.name] = units
        return known


ACCESS_STATES = {
    GroupState.ACTIVE_OPTIMIZED: AccessState.ACTIVE_OPTIMIZED,
    GroupState.ACTIVE_NON_OPTIMIZED: AccessState.ACTIVE_NON_OPTIMIZED,
    GroupState.STANDBY: AccessState.STANDBY,
    GroupState.UNAVAILABLE: AccessState.UNAVAILABLE,
    GroupState.OFFLINE: AccessState.OFFLINE,
}
"""The states of the store as SCSI has them."""
GROUP_STATES = {state: name for name, state in ACCESS_STATES.items()}


def own_access(record: VolumeRecord) -> dict[int, OwnAccess]:
    """What a volume says of target port groups itself."""
    return {
        group: OwnAccess(
            None if said.state is None else ACCESS_STATES[said.state], said.preferred, said.by_host
        )
        for group, said in record.access.items()
    }


def is_real_lu(store: Store, volume: VolumeRecord) -> bool:
    """Is the volume one whole disk of this controller (port INTERNAL) [0065]?"""
    if len(volume.extents) != 1:
        return False
    extent = volume.extents[0]
    device = DeviceId.parse(extent.device)
    backend = store.get(BackendRecord, device.backend)
    return (
        backend is not None
        and backend.type is BackendKind.INTERNAL
        and extent.lba == 0
        and any(f.lun == device.lun and f.blocks == extent.blocks for f in backend.devices)
    )


def with_all_commands(device: BlockDevice) -> BlockDevice:
    """The device with WRITE SAME and FUA, emulated where it lacks them. UNMAP is left as it is:
    done by writing zeros it would cost a host much and give back nothing."""
    has = device.capabilities
    if has.write_same and has.fua:
        return device
    whole = Emulate(device)
    whole.capabilities = replace(
        whole.capabilities, unmap=has.unmap, unmapped_reads_zero=has.unmapped_reads_zero
    )
    return whole
