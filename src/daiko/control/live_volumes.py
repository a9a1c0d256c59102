"""The published volumes by name, as pairs and migrations take hold of them."""

from __future__ import annotations

from daiko.control.devices import LiveDevices
from daiko.control.moving_volumes import LiveMovingVolume, NewPlace
from daiko.control.paired_volumes import LiveVolume
from daiko.control.publication import Publication
from daiko.copy_manager.checkpoint import connection_generation
from daiko.mapping.extent import DeviceId
from daiko.pair.live_migration import Places
from daiko.pair.peers import Peers
from daiko.pair.surroundings import PairVolume
from daiko.state.migration_record import MigrationRecord
from daiko.state.pair_record import PairRecord
from daiko.state.record import VolumeRecord
from daiko.state.store import Store


class LiveVolumes:
    """Of one system. A volume that does not exist: KeyError."""

    def __init__(self, store: Store, publication: Publication, devices: LiveDevices) -> None:
        self._store = store
        self._publication = publication
        self._devices = devices

    def paired(self, name: str) -> LiveVolume:
        """A volume as a side of a pair."""
        return LiveVolume(self._publication.volume(name), self._generation)

    def moving(self, record: MigrationRecord) -> Places:
        """A volume that moves, and its new place."""
        volume = self._publication.volume(record.volume)
        place = NewPlace(
            record, volume, self._devices.block_device, self._generation, self._publication
        )
        return Places(LiveMovingVolume(volume, self._generation), place)

    def is_shown_as_real(self, record: VolumeRecord) -> bool:
        """Whether hosts see the volume as a real LU."""
        return self._publication.volume(record.name).is_real

    def over_sites(self, peers: Peers, pair: str, name: str) -> PairVolume | None:
        """A volume of a pair that this system leads over two sites; None where it leads none."""
        record = self._store.get(PairRecord, pair)
        if record is None or not record.site:
            return None
        return peers.volume(record) if name == record.secondary else self.paired(name)

    def _generation(self, backend: str) -> int:
        return connection_generation(self._devices, DeviceId(backend, 0))
