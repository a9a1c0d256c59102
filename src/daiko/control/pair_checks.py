"""What has to be so before volumes become a pair, whoever asks for it: an administrator here, or
another site."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from daiko.control.error import Conflict, Invalid
from daiko.copy_manager.request import places_of
from daiko.pair.journal_file import LEAST_CAPACITY, MOST_CAPACITY
from daiko.state.migration_record import MigrationRecord
from daiko.state.pair_record import Fence, PairRecord, Update
from daiko.state.record import TERMINAL, JobRecord, VolumeRecord
from daiko.state.store import Store, Transaction

if TYPE_CHECKING:
    from daiko.control.system import System


def refuse_while_paired(pairs: Iterable[PairRecord], volume: str) -> None:
    """Raises Conflict where a volume is a side of one of the pairs."""
    for pair in pairs:
        if volume in (pair.primary, pair.secondary):
            raise Conflict(
                f"{volume} is in pair {pair.name}", f"`daiko pair rm {pair.name}` ends the pair"
            )


def refuse_while_migrated(migrations: Iterable[MigrationRecord], volume: str) -> None:
    """Raises Conflict where a volume is being moved."""
    for migration in migrations:
        if migration.volume == volume and migration.is_open:
            raise Conflict(
                f"{volume} is being migrated to {migration.to}",
                f"wait for it, or `daiko volume migrate {volume} --cancel`",
            )


def check_free(store: Store | Transaction, wanted: Sequence[VolumeRecord]) -> None:
    """Raises Conflict where one of these volumes is in a pair, is being moved, or a job works on
    it."""
    for volume in wanted:
        refuse_while_migrated(store.list(MigrationRecord), volume.name)
        refuse_while_paired(store.list(PairRecord), volume.name)
    _check_jobs(store, wanted)


def check_names(store: Store | Transaction, name: str, group: str) -> None:
    """Raises Conflict where the names of a new pair and its group are taken."""
    for pair in store.list(PairRecord):
        if name in (pair.name, pair.group):
            raise Conflict(
                f"there is a pair or group {name} already",
                "see `daiko pair ls`, or choose another name",
                field="name",
            )
        if group and group == pair.name:
            raise Conflict(
                f"a pair is called {group}", "choose another name for the group", field="group"
            )
    if group == name:
        raise Conflict("a pair and its group have different names", field="group")


def check_update(system: System, update: Update, journal: int, *, fence: Fence) -> None:
    """Raises Invalid where a pair cannot be updated like this."""
    if update is Update.SYNC:
        return
    if fence is Fence.DATA:
        raise Invalid(
            "an asynchronous pair acknowledges what only the primary has",
            "fence `data` is for synchronous pairs",
            field="fence",
        )
    if not LEAST_CAPACITY <= journal <= MOST_CAPACITY:
        raise Invalid(
            f"a journal cannot have {journal} bytes", "give 1 MiB to 1 TiB", field="journal"
        )
    if not system.pairs.is_kept:
        raise Invalid(
            "a journal needs a folder, and this store is not kept",
            "start the controller with a store in a file",
            field="update",
        )


def check_group(found: Store | Transaction, record: PairRecord) -> None:
    """Raises Conflict where a new pair cannot be in its group: its pairs are led by one site, have
    their secondaries in one place and are updated alike."""
    for pair in found.list(PairRecord):
        if not record.group or pair.group != record.group:
            continue
        if pair.is_followed != record.is_followed:
            who = f"site {pair.site} leads" if pair.is_followed else "this site leads"
            raise Conflict(
                f"{who} the pairs of group {record.group}",
                "choose another name for the group",
                field="group",
            )
        if pair.site != record.site:
            where = f"at site {pair.site}" if pair.site else "here"
            place = "primaries" if record.is_followed else "secondaries"
            raise Conflict(
                f"the {place} of group {record.group} are {where}",
                f"all pairs of a consistency group have their {place} in the same place",
                field="group",
            )
        check_same_update(record, pair)


def check_same_update(new: PairRecord, other: PairRecord) -> None:
    """Raises Conflict where two pairs of a group are not updated alike."""
    if new.update is not other.update:
        raise Conflict(
            f"the pairs of group {new.group} are updated `{other.update}`",
            "all pairs of a consistency group are updated alike",
            field="update",
        )
    if new.is_async and not new.is_followed and new.journal != other.journal:
        raise Conflict(
            f"the journal of group {new.group} has {other.journal} bytes",
            "the pairs of a consistency group share it: give the same size",
            field="journal",
        )


def _check_jobs(store: Store | Transaction, wanted: Sequence[VolumeRecord]) -> None:
    for job in store.list(JobRecord):
        if job.state in TERMINAL:
            continue
        for volume in wanted:
            if volume.name in places_of(job):
                raise Conflict(
                    f"job {job.id} ({job.type}) works on {volume.name}",
                    f"wait for it, or `daiko job cancel {job.id}`",
                )


def not_confirmed(what: str) -> Conflict:
    """What is said where data would be lost and that is not confirmed."""
    return Conflict(
        what, "say that this is meant: `confirmed` in the request, --yes on the command line"
    )
