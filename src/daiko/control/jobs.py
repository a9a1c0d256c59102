"""Jobs: every copy of whatever kind, from its request to its report."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daiko.control.error import Conflict, Invalid, NotFound
from daiko.copy_manager.error import CopyRefused, JobNotRunning
from daiko.copy_manager.pace import HOW_TO_WRITE, NoPace, Pace
from daiko.copy_manager.pacer import Limit
from daiko.copy_manager.request import CopyRequest
from daiko.mapping.extent import Piece
from daiko.state.index import BlocksInUse
from daiko.state.migration_record import MigrationRecord
from daiko.state.pair_record import PairRecord
from daiko.state.record import TERMINAL, JobRecord, JobState, VolumeRecord

if TYPE_CHECKING:
    from daiko.control.system import System


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job and how far it is."""

    record: JobRecord
    confirmed_blocks: int
    """Known to be on stable storage."""
    copied_blocks: int
    """Confirmed or not yet."""
    blocks_per_second: float
    eta_seconds: float | None
    """None: not known, or nothing is left."""
    pace: Pace
    """As it was asked for."""
    limited_by: Limit | None
    """What of the pace holds the copy back now."""
    paced_rate: float | None
    """Bytes a second that the pace grants now; None: no bound."""
    version: int
    """Changes whenever any of this does, as long as this process lives."""


def ls(
    system: System,
    *,
    type: str = "",
    state: JobState | None = None,
    before: int = 0,
    limit: int = 0,
) -> list[JobStatus]:
    """Jobs, newest first; of one type or state, older than job `before`, at most `limit`."""
    found = [
        job
        for job in reversed(system.copy_manager.jobs())
        if (not type or job.type == type)
        and (state is None or job.state is state)
        and (not before or job.id < before)
    ]
    return [_status(system, job) for job in (found[:limit] if limit else found)]


def show(system: System, id: int, *, type: str = "") -> JobStatus:
    """One job, with `type` only if it is of that type. Raises NotFound."""
    try:
        job = system.copy_manager.job(id)
    except LookupError:
        raise NotFound(f"there is no job {id}", "see `daiko job ls`") from None
    if type and job.type != type:
        raise NotFound(f"job {id} is a {job.type}, not a {type}", f"see `daiko job show {id}`")
    return _status(system, job)


async def changed(
    system: System, id: int, since: int, seconds: float, *, ended: bool = False
) -> JobStatus:
    """The job as soon as its version differs from `since`, or with `ended` as soon as it has
    ended; at the latest after `seconds`. Raises NotFound."""
    status = show(system, id)
    try:
        async with asyncio.timeout(seconds):
            while status.record.state not in TERMINAL and (ended or status.version == since):
                news = await system.copy_manager.changed(id, status.version)
                if news.version == status.version:
                    break  # it runs no more: nothing will come
                status = show(system, id)
    except TimeoutError:
        return show(system, id)
    return status


async def cancel(system: System, id: int) -> JobStatus:
    """Stop a job; what it confirmed stays where it is. Raises NotFound; Conflict when it has ended
    already."""
    status = show(system, id)
    if status.record.state in TERMINAL:
        raise Conflict(
            f"job {id} has ended already: {status.record.state}", f"see `daiko job show {id}`"
        )
    try:
        await system.copy_manager.cancel(id)
    except JobNotRunning:
        raise Conflict(f"job {id} has just ended", f"see `daiko job show {id}`") from None
    return show(system, id)


async def set_pace(system: System, id: int, text: str) -> JobStatus:
    """Let a job that has not ended go at another pace. Raises NotFound; Invalid; Conflict when it
    has ended already."""
    wanted = pace(text)
    show(system, id)
    try:
        await system.copy_manager.set_pace(id, wanted)
    except JobNotRunning as ended:
        raise Conflict(str(ended), f"see `daiko job show {id}`") from None
    return show(system, id)


def pace(text: str) -> Pace:
    """The pace that a text says. Raises Invalid."""
    try:
        return Pace.parse(text)
    except NoPace as wrong:
        raise Invalid(str(wrong), HOW_TO_WRITE, field="pace") from wrong


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what the copy manager refuses into this package's errors."""
    try:
        yield
    except CopyRefused as refused:
        if isinstance(refused.__cause__, LookupError):
            raise NotFound(
                str(refused),
                refused.next_step or "see `daiko volume ls` and `daiko backend ls`",
                field=refused.field,
            ) from refused
        raise Invalid(str(refused), refused.next_step, field=refused.field) from refused
    except LookupError as missing:
        raise NotFound(str(missing.args[0]) if missing.args else "no such thing") from missing


def same_place(system: System, source: str, destination: str, first: int) -> int:
    """Block `first` of the source in blocks of the destination. Raises LookupError; Invalid where
    it does not begin a block there."""
    if not first:
        return 0
    here, there = system.devices.place(source), system.devices.place(destination)
    at, rest = divmod(first * here.block_size, there.block_size)
    if rest:
        raise Invalid(
            f"block {first} of {source} does not begin a block of {destination}",
            f"blocks there have {there.block_size} bytes; say where with --at",
            field="at",
        )
    return at


def spare_volumes(system: System, wanted: CopyRequest) -> CopyRequest:
    """The request, if it writes to no block of a volume that it does not name (who writes to a
    device as such may not know what lies there), nor to the side of a pair that is copied to.
    Raises Conflict, NotFound."""
    pair = next(
        (
            record
            for record in system.store.list(PairRecord)
            if wanted.destination in (record.primary, record.secondary)
        ),
        None,
    )
    if pair is not None and system.unit(wanted.destination).is_write_protected:
        where = f" at site {pair.site}, which leads it," if pair.is_followed else ""
        raise Conflict(
            f"{wanted.destination} is copied to by pair {pair.name}, which is {pair.state}",
            f"`daiko pair split {pair.name}`{where} first",
            field="destination",
        )
    with refusals():
        destination = system.devices.place(wanted.destination)
    if system.store.get(VolumeRecord, wanted.destination) is not None:
        return wanted
    with refusals():
        source = system.devices.place(wanted.source)
    used = system.store.index(BlocksInUse).by_device
    for span in wanted.ranges:
        blocks = span.blocks * source.block_size // destination.block_size
        for piece in destination.table.lookup(span.destination_lba, blocks):
            if piece.device in used and used[piece.device].overlaps(piece.lba, piece.blocks):
                name = _volume_at(system, piece)
                raise Conflict(
                    f"volume {name!r} lies on those blocks of {piece.device}",
                    f"name the volume if you mean to overwrite it, or see what is free with "
                    f"`daiko mapping ls --device {piece.device}`",
                    field="destination",
                )
    return wanted


def _volume_at(system: System, piece: Piece) -> str:
    """The name of the first volume that lies on any block of a piece, or moves there."""
    end = piece.lba + piece.blocks
    lying = [
        *((volume.name, volume.extents.table) for volume in system.store.list(VolumeRecord)),
        *(
            (migration.volume, migration.room.table)
            for migration in system.store.list(MigrationRecord)
            if migration.is_open
        ),
    ]
    return next(
        name
        for name, table in lying
        if any(first < end and piece.lba < upto for first, upto in table.taken_on(piece.device))
    )


def _status(system: System, job: JobRecord) -> JobStatus:
    progress = system.copy_manager.progress(job.id)
    return JobStatus(
        job,
        progress.confirmed_blocks,
        progress.copied_blocks,
        progress.blocks_per_second,
        progress.eta_seconds,
        progress.pace,
        progress.limited_by,
        progress.paced_rate,
        progress.version,
    )
