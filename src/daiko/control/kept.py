"""What hosts tell logical units to keep, in the store: one UnitRecord for each volume of which
there is anything to keep, and one ReservationRecord for each whose registrations are to outlive a
loss of power. They go with the volume.

A logical unit knows no store and does not wait; `UnitKeeper` takes what it is told on the event
loop, and says when it is on stable storage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from daiko.state.record import (
    MediumWorkRecord,
    RegistrationRecord,
    ReservationRecord,
    UnitRecord,
    VolumeRecord,
)
from daiko.state.store import Store, StoreError, Transaction
from daiko.target.kept import NOTHING_KEPT, Done, Kept, MediumWork, WorkKind
from daiko.target.registrations import NOBODY, ItNexus, Registrations

log = structlog.get_logger(__name__)

Write = Callable[[Transaction], None]


class UnitKeepers:
    """The keepers of all units of one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._under_way: set[asyncio.Task[None]] = set()

    def of(self, volume: VolumeRecord) -> UnitKeeper:
        """The keeper of a volume's unit."""
        return UnitKeeper(self, volume.name, volume.naa)

    def begin(self, keeper: UnitKeeper, write: Write, done: Done) -> None:
        """Write to the store; `done` is called once, later."""
        task = asyncio.get_running_loop().create_task(self._keep(keeper, write, done))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def settle(self) -> None:
        """Wait until all that was begun is in the store, or has failed."""
        await asyncio.gather(*self._under_way)

    async def _keep(self, keeper: UnitKeeper, write: Write, done: Done) -> None:
        try:
            async with self.store.transaction() as change:
                volume = change.get(VolumeRecord, keeper.volume)
                is_there = volume is not None and volume.naa == keeper.naa
                if is_there:
                    write(change)
        except StoreError as error:
            log.error("what a host told a unit to keep is lost", volume=keeper.volume, why=error)
            is_there = False
        done(is_there)


class UnitKeeper:
    """Keeps for one unit (`daiko.target.kept.Keeper`)."""

    __slots__ = ("_keepers", "naa", "volume")

    def __init__(self, keepers: UnitKeepers, volume: str, naa: str) -> None:
        self._keepers = keepers
        self.volume = volume
        self.naa = naa

    @property
    def kept(self) -> Kept:
        record = self._keepers.store.get(UnitRecord, self.naa)
        return NOTHING_KEPT if record is None else kept_of(record)

    def keep(self, kept: Kept, done: Done) -> None:
        self._keepers.begin(self, lambda change: change.put(record_of(self.naa, kept)), done)

    @property
    def is_lasting(self) -> bool:
        return self._keepers.store.is_lasting

    @property
    def medium_work(self) -> MediumWork | None:
        record = self._keepers.store.get(MediumWorkRecord, self.naa)
        return None if record is None else medium_work_of(record)

    def keep_medium_work(self, work: MediumWork | None, done: Done) -> None:
        def write(change: Transaction) -> None:
            if work is None:
                change.delete(MediumWorkRecord, self.naa)
            else:
                change.put(medium_work_record_of(self.naa, work))

        self._keepers.begin(self, write, done)

    @property
    def registrations(self) -> Registrations:
        record = self._keepers.store.get(ReservationRecord, self.naa)
        return NOBODY if record is None else registrations_of(record)

    def keep_registrations(self, state: Registrations, done: Done) -> None:
        def write(change: Transaction) -> None:
            if state.is_kept:
                change.put(reservation_record_of(self.naa, state))
            else:
                change.delete(ReservationRecord, self.naa)

        self._keepers.begin(self, write, done)


def record_of(naa: str, kept: Kept) -> UnitRecord:
    """As it is stored."""
    pages = kept.mode_pages
    return UnitRecord(
        naa=naa,
        mode_pages=None if pages is None else tuple(page.hex() for page in pages),
        identifying_information=kept.identifying_information.hex(),
        identifying_text=kept.identifying_text.hex(),
    )


def kept_of(record: UnitRecord) -> Kept:
    """`record_of` the other way."""
    pages = record.mode_pages
    return Kept(
        mode_pages=None if pages is None else tuple(map(bytes.fromhex, pages)),
        identifying_information=bytes.fromhex(record.identifying_information),
        identifying_text=bytes.fromhex(record.identifying_text),
    )


def medium_work_record_of(naa: str, work: MediumWork) -> MediumWorkRecord:
    """As it is stored."""
    return MediumWorkRecord(
        naa=naa,
        work=work.kind.value,
        pattern=work.pattern.hex(),
        count=work.count,
        invert=work.invert,
        is_restricted=work.is_restricted,
        has_failed=work.has_failed,
        is_handed_over=work.is_handed_over,
    )


def medium_work_of(record: MediumWorkRecord) -> MediumWork:
    """`medium_work_record_of` the other way."""
    return MediumWork(
        WorkKind(record.work),
        bytes.fromhex(record.pattern),
        record.count,
        record.invert,
        record.is_restricted,
        record.has_failed,
        record.is_handed_over,
    )


def reservation_record_of(naa: str, state: Registrations) -> ReservationRecord:
    """As it is stored."""
    return ReservationRecord(
        naa=naa,
        type=state.type,
        registrations=tuple(
            RegistrationRecord(
                initiator=nexus.initiator,
                isid=nexus.isid.hex(),
                target_port=nexus.target_port,
                key=f"{key:016x}",
                holds=nexus == state.holder,
            )
            for nexus, key in state.keys.items()
        ),
    )


def registrations_of(record: ReservationRecord) -> Registrations:
    """`reservation_record_of` the other way, as after a start (PRgeneration is 0)."""
    keys = {}
    holder = None
    for each in record.registrations:
        nexus = ItNexus(each.initiator, bytes.fromhex(each.isid), each.target_port)
        keys[nexus] = int(each.key, 16)
        if each.holds:
            holder = nexus
    return Registrations(keys, record.type, holder, is_kept=True)


def forget(change: Transaction, volume: VolumeRecord) -> None:
    """Drop what was kept for a volume's unit, inside the transaction that takes the volume away."""
    change.delete(UnitRecord, volume.naa)
    change.delete(ReservationRecord, volume.naa)
    change.delete(MediumWorkRecord, volume.naa)
