"""Migrations: a volume moves to another device while hosts use it [0066]."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from daiko.control import jobs, names
from daiko.control.error import Conflict, Invalid, NotFound, Unavailable
from daiko.control.explain import Explanation
from daiko.control.moving_volumes import moving_request
from daiko.control.pair_checks import check_free
from daiko.control.volumes import device_facts, find_room
from daiko.copy_manager.request import CopyRequest
from daiko.mapping.extent import DeviceId
from daiko.mapping.move import leaving
from daiko.pair.live_migration import LiveMigration, MigrationStatus
from daiko.pair.migration_state import VERBS, MigrationVerb
from daiko.pair.migrations import NoSuchMigration
from daiko.pair.state import Answer
from daiko.state.extents import Extents
from daiko.state.index import OfferedTo
from daiko.state.migration_record import MigrationRecord, MigrationState
from daiko.state.record import OF_MIGRATION, BackendRecord, VolumeRecord
from daiko.state.store import Transaction

if TYPE_CHECKING:
    from daiko.control.system import System


class Carrier(NamedTuple):
    """Who has copied for a migration, and why it was that one."""

    executor: str
    reason: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Migration:
    """A migration as it is now."""

    status: MigrationStatus
    carriers: tuple[Carrier, ...]
    """In its rounds, which are jobs; the rest this controller has copied or mirrored itself."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of what was asked for."""

    changed: bool
    """False: there was nothing to do."""
    migration: Migration | None
    """None: the volume lies there, and was never migrated."""


def ls(system: System) -> list[Migration]:
    """The last of each volume, by name."""
    return [_with_carriers(system, status) for status in system.migrations.all()]


def show(system: System, volume: str) -> Migration:
    """The last of a volume. Raises NotFound."""
    try:
        return _with_carriers(system, system.migrations.status(volume))
    except NoSuchMigration as missing:
        raise _missing(missing) from None


async def start(
    system: System, volume: str, to: str, *, source: str = "", pace: str = "full"
) -> Asked:
    """Begin to move a volume to a device, from where it lies elsewhere or from one device. Raises
    NotFound, Invalid, Conflict: it cannot be moved there, or not now; Unavailable."""
    wanted = str(jobs.pace(pace))
    async with system.changing:
        record = await _prepared(system, volume, to, source)
        if record is None:
            with suppress(NotFound):
                return Asked(False, show(system, volume))
            return Asked(False, None)
        record = record.model_copy(update={"pace": wanted})

        def check(change: Transaction) -> None:
            # A job that began meanwhile was planned past the migration.
            check_free(change, [names.volume_of(system, volume)])

        try:
            await system.migrations.begin(record, check)
        except OSError as error:
            raise Unavailable(
                f"the differential bitmap cannot be made: {error}",
                "look at the disk that holds the store; nothing was changed",
            ) from error
        return Asked(True, show(system, volume))


async def explain(system: System, volume: str, to: str, *, source: str = "") -> Explanation:
    """Who would move a volume, how much, and why; nothing is carried out. Raises as `start`;
    Conflict where nothing would move."""
    async with system.changing:
        record = await _prepared(system, volume, to, source)
    wanted = None if record is None else moving_request(record, record.moved)
    if wanted is None:
        raise Conflict(f"nothing of {volume} would move: it lies there", field="to")
    return _explanation(system, wanted)


async def resume(system: System, volume: str) -> Asked:
    """Go on after a failure. Raises NotFound; Conflict where a state does not allow it."""
    return await _ask(system, volume, MigrationVerb.RESUME)


async def cancel(system: System, volume: str) -> Asked:
    """Leave the volume where it is, and give its new place back. Raises NotFound."""
    return await _ask(system, volume, MigrationVerb.CANCEL)


async def set_pace(system: System, volume: str, pace: str) -> Migration:
    """Let it copy at another pace from now on. Raises NotFound, Invalid; Conflict when it has
    ended."""
    wanted = str(jobs.pace(pace))
    found = show(system, volume)
    if not found.status.record.is_open:
        raise Conflict(f"the migration of {volume} has ended: it is {found.status.record.state}")
    await system.migrations.living(volume).set_pace(wanted)
    return show(system, volume)


async def wait(system: System, volume: str, seconds: float) -> Migration:
    """As soon as it moves no more, at the latest after `seconds`. Raises NotFound."""
    show(system, volume)
    with suppress(TimeoutError, NoSuchMigration):
        async with asyncio.timeout(seconds):
            while True:
                living = system.migrations.living(volume)
                if living.record.state is not MigrationState.MOVING:
                    break
                await living.changed()
    return show(system, volume)


# --- inside -------------------------------------------------------------------------------------


async def _ask(system: System, volume: str, verb: MigrationVerb) -> Asked:
    async with system.changing:
        record = show(system, volume).status.record
        cell = VERBS[record.state][verb]
        if cell.answer is Answer.REFUSED:
            raise Conflict(f"{volume} is {record.state}: {verb} is refused", cell.text)
        changed = False
        if cell.answer is Answer.GOES:
            changed = await _carry_out(system.migrations.living(volume), verb)
    return Asked(changed, show(system, volume))


async def _carry_out(migration: LiveMigration, verb: MigrationVerb) -> bool:
    """False: it has ended in the meantime."""
    if verb is MigrationVerb.CANCEL:
        return await migration.cancel()
    await migration.resume()
    return True


async def _prepared(system: System, name: str, to: str, source: str) -> MigrationRecord | None:
    """What would be put into the store, with room that is free now; None where nothing moves."""
    volume = names.volume_of(system, name)
    target = names.one_device(system, to, "to")
    left = names.one_device(system, source, "source") if source else None
    _check_volume(system, volume)
    table = volume.extents.table
    if left is not None and left not in table.devices:
        raise Invalid(
            f"{name} does not lie on {left}",
            f"`daiko volume show {name}` shows where it lies",
            field="source",
        )
    if left == target:
        raise Invalid("a volume does not move from a device to itself", field="source")
    runs = leaving(table, lambda device: device == left if left else device != target)
    if not runs:
        return None
    _check_device(system, volume, target)
    now = time.time()
    return MigrationRecord(
        volume=name,
        to=str(target),
        source="" if left is None else str(left),
        moved=tuple(runs),
        room=await _room(system, volume, target, sum(blocks for _, blocks in runs)),
        created=now,
        changed=now,
    )


def _check_volume(system: System, volume: VolumeRecord) -> None:
    """Raises Conflict where it cannot be moved now."""
    record = system.store.get(MigrationRecord, volume.name)
    if record is not None:
        cell = VERBS[record.state][MigrationVerb.START]
        if cell.answer is not Answer.GOES:
            raise Conflict(
                f"{volume.name} is being migrated to {record.to}, which is {record.state}",
                cell.text,
            )
    check_free(system.store, [volume])
    for sight in system.store.index(OfferedTo).volume(volume.name):
        raise Conflict(
            f"{volume.name} is offered to site {sight.host}, which may copy by where it lies now",
            f"`daiko site show {sight.host}` shows what it is offered; take the volume from it",
        )


def _check_device(system: System, volume: VolumeRecord, target: DeviceId) -> None:
    """Raises Invalid, Conflict, Unavailable where it takes no blocks of the volume."""
    facts = device_facts(system.store.list(BackendRecord), target)
    if facts.block_size != volume.block_size:
        raise Invalid(
            f"{target} has blocks of {facts.block_size} bytes, {volume.name} of "
            f"{volume.block_size}",
            "choose a device with blocks of the same size",
            field="to",
        )
    is_connected, why = system.backend_status(target.backend)
    if not is_connected:
        raise Unavailable(
            f"{target.backend} cannot be reached: {why}", f"`daiko backend show {target.backend}`"
        )
    if system.devices.block_device(target).capabilities.read_only:
        raise Conflict(f"{target} is read only", "choose another device", field="to")


async def _room(system: System, volume: VolumeRecord, target: DeviceId, blocks: int) -> Extents:
    """Free room on a device, which nobody else takes while `System.changing` is held. Raises
    Conflict."""
    async with system.store.transaction() as change:
        try:
            found = find_room(change, blocks * volume.block_size, [target], volume.block_size)
        except Conflict as error:
            raise Conflict(
                f"{blocks * volume.block_size:,} bytes of {volume.name} would move: {error}",
                f"choose another device, or see what uses it: `daiko mapping ls --device {target}`",
                field="to",
            ) from error
    return Extents.of(found)


def _explanation(system: System, wanted: CopyRequest) -> Explanation:
    with jobs.refusals():
        plan = system.copy_manager.plan(wanted)
        size = system.devices.place(wanted.source).block_size
    return Explanation(wanted, plan, size, size)


def _with_carriers(system: System, status: MigrationStatus) -> Migration:
    """The jobs that a restart interrupted count as well."""
    record = status.record
    found: dict[tuple[str, str], int] = {}
    asked_by = OF_MIGRATION + record.volume
    for job in system.copy_manager.jobs():
        if job.asked_by == asked_by and job.created >= record.created:
            for step in job.steps:
                who = (step.executor, step.reason)
                found[who] = found.get(who, 0) + step.confirmed_blocks * step.block_size
    return Migration(status, tuple(Carrier(*who, moved) for who, moved in found.items() if moved))


def _missing(missing: NoSuchMigration) -> NotFound:
    return NotFound(str(missing), "`daiko volume migrations` shows all")
