"""What has to be so before volumes become a pair, whoever asks for it: an administrator here, or
another site."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from daiko.control.error import Conflict
from daiko.copy_manager.request import places_of
from daiko.state.migration_record import MigrationRecord
from daiko.state.record import TERMINAL, JobRecord, PairRecord, VolumeRecord
from daiko.state.store import Store, Transaction


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
