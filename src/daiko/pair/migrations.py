"""All migrations of a controller: begun, found again after a restart, ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from daiko.backend.worker import Workers
from daiko.copy_manager.request import places_of
from daiko.mapping.move import Move
from daiko.pair.live_migration import (
    LiveMigration,
    MigrationStatus,
    Places,
    SwitchRefused,
)
from daiko.pair.side import Side
from daiko.pair.surroundings import PairVolume, Workshop
from daiko.pair.write_path import Loss
from daiko.state.extents import Extents
from daiko.state.migration_record import MigrationRecord
from daiko.state.record import TERMINAL, JobRecord, VolumeRecord
from daiko.state.store import Store, StoreError, Transaction


class NoSuchMigration(LookupError):
    """The volume has not been migrated."""

    def __init__(self, volume: str) -> None:
        super().__init__(f"{volume} is not being migrated, and was not")


class Migrations:
    """The migrations, by the names of their volumes."""

    def __init__(
        self,
        store: Store,
        places: Callable[[MigrationRecord], Places],
        is_shown_as_real: Callable[[VolumeRecord], bool],
        workshop: Workshop,
        folder: Path | None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`places(record)` raises LookupError. `folder` holds the bitmaps; None: they end with the
        process, as the store does."""
        self._store = store
        self._places = places
        self._is_shown_as_real = is_shown_as_real
        self._workshop = workshop
        self._folder = folder
        self._workers = Workers(1, name="bitmap")
        self._clock = clock
        self._living: dict[str, LiveMigration] = {}

    async def start(self) -> None:
        """Take up the open migrations of the store; before any host can write."""
        found = []
        for record in self._store.list(MigrationRecord):
            if record.is_open:
                migration = self._make(record, is_new=False)
                await migration.keep_what_was_found()
                found.append(migration)
        for migration in found:
            migration.act(migration.record)

    async def stop(self) -> None:
        """Bring them to rest; hosts are gone."""
        for migration in self._living.values():
            if migration.record.is_open:
                await migration.close()
        self._workers.stop(lambda: None)

    def all(self) -> list[MigrationStatus]:
        """Each volume's last, by name."""
        return [self.status(record.volume) for record in self._store.list(MigrationRecord)]

    def status(self, volume: str) -> MigrationStatus:
        """The last of a volume. Raises NoSuchMigration."""
        living = self._living.get(volume)
        if living is not None and living.record.is_open:
            return living.status
        record = self._store.get(MigrationRecord, volume)
        if record is None:
            raise NoSuchMigration(volume)
        held = self._store.get(VolumeRecord, volume)
        size = record.room.table.blocks * (0 if held is None else held.block_size)
        return MigrationStatus(record, size, 0, None, None, "")

    def living(self, volume: str) -> LiveMigration:
        """The open one of a volume. Raises NoSuchMigration."""
        found = self._living.get(volume)
        if found is None or not found.record.is_open:
            raise NoSuchMigration(volume)
        return found

    async def begin(
        self, record: MigrationRecord, check: Callable[[Transaction], None]
    ) -> LiveMigration:
        """Begin to move a volume. It is in the store when this returns, unless `check`, which is
        called in the same transaction, raises. Raises LookupError (no such device), OSError (the
        bitmap cannot be made), StoreError."""
        migration = self._make(record, is_new=True)
        try:
            await migration.mark_moved()
            async with self._store.transaction() as change:
                check(change)
                change.put(record)
        except BaseException:
            del self._living[record.volume]
            migration.end(record)
            raise
        migration.act(record)
        return migration

    # --- inside ---------------------------------------------------------------------------------

    def _make(self, record: MigrationRecord, *, is_new: bool) -> LiveMigration:
        places = self._places(record)
        migration = LiveMigration(
            record,
            places,
            partial(self._open, record, places.volume, self._folder, is_new),
            # What differs is known from the side that hosts use.
            partial(self._open, record, places.new, None, True),
            self._workshop,
            self._store.put,
            self._switch,
            self._clock,
        )
        self._living[record.volume] = migration
        migration.install()
        return migration

    def _open(
        self,
        record: MigrationRecord,
        volume: PairVolume,
        folder: Path | None,
        is_new: bool,
        lost: Callable[[Loss], None],
    ) -> Side:
        return Side.open(record, volume, folder, is_new=is_new, workers=self._workers, lost=lost)

    async def _switch(self, record: MigrationRecord) -> None:
        async with self._store.transaction() as change:
            volume = change.get(VolumeRecord, record.volume)
            if volume is None:
                raise StoreError(f"volume {record.volume} is gone")
            for job in change.list(JobRecord):
                if job.state not in TERMINAL and record.volume in places_of(job):
                    # It names the blocks that the volume lies on.
                    raise SwitchRefused(f"job {job.id} ({job.type}), which works on the volume")
            table = Move(record.moved, record.room.table).after(volume.extents.table)
            change.put(record)  # before the volume: it gives up the room that the volume takes
            change.put(
                volume.model_copy(
                    update={
                        "extents": Extents(table),
                        "image": False,
                        "shown_as_real": self._is_shown_as_real(volume),
                    }
                )
            )
