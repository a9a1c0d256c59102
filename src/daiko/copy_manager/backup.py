"""Direct backup, its restore, and plain copies: what an administrator asks, as copy requests.

A backup is one range of a volume to a place on the backup device; a restore is the same range in
the other direction, decided and carried out by the same means [0068-0071]. A backup that is done
is its job record: where from, where to, of which blocks, whether of one instant.
"""

from __future__ import annotations

from daiko.command_control.decision import Place
from daiko.command_control.plan import Function, Mode
from daiko.copy_manager.devices import Devices
from daiko.copy_manager.error import CopyRefused
from daiko.copy_manager.pace import FULL, Pace
from daiko.copy_manager.request import BACKUP, COPY, RESTORE, CopyRange, CopyRequest
from daiko.state.record import JobRecord, JobState


def backup_request(
    devices: Devices,
    volume: str,
    to: str,
    *,
    first: int = 0,
    blocks: int | None = None,
    at: int = 0,
    mode: Mode | None = None,
    pace: Pace = FULL,
) -> CopyRequest:
    """Back up `blocks` blocks of a volume from block `first` on (None: to its end) to the place
    `to`, from its block `at` on. Raises CopyRefused."""
    span = _range(devices, volume, to, first, blocks, at)
    return CopyRequest(BACKUP, Function.DIRECT_BACKUP, volume, to, (span,), mode, pace=pace)


def copy_request(
    devices: Devices,
    source: str,
    destination: str,
    *,
    first: int = 0,
    blocks: int | None = None,
    at: int = 0,
    mode: Mode | None = None,
    pace: Pace = FULL,
) -> CopyRequest:
    """Copy between any two places. Raises CopyRefused."""
    span = _range(devices, source, destination, first, blocks, at)
    return CopyRequest(COPY, Function.VOLUME_COPY, source, destination, (span,), mode, pace=pace)


def restore_request(
    devices: Devices,
    backup: JobRecord,
    *,
    to: str | None = None,
    mode: Mode | None = None,
    pace: Pace = FULL,
) -> CopyRequest:
    """Bring a backup back to its volume, or to another place of the same block numbers. Raises
    CopyRefused."""
    if backup.type != BACKUP:
        raise CopyRefused(
            f"job {backup.id} is a {backup.type}, not a backup",
            next_step="daiko backup ls shows the backups",
            field="backup",
        )
    if backup.state is not JobState.DONE:
        raise CopyRefused(
            f"backup {backup.id} is {backup.state}: it does not hold all of its blocks",
            next_step=f"daiko backup show {backup.id} shows what became of it",
            field="backup",
        )
    made = CopyRequest.from_json(
        backup.type, backup.source, backup.destination, backup.asked_by, backup.request
    )
    volume = made.source if to is None else to
    ranges = []
    for span in made.ranges:
        source = _place(devices, span.destination or made.destination, "backup")
        block_size = backup.block_size
        blocks = span.blocks * block_size // source.block_size
        ranges.append(
            _range(
                devices,
                span.destination or made.destination,
                volume,
                span.destination_lba,
                blocks,
                span.lba,
            )
        )
    return CopyRequest(
        RESTORE, Function.DIRECT_BACKUP, made.destination, volume, tuple(ranges), mode, pace=pace
    )


def _range(
    devices: Devices, source: str, destination: str, first: int, blocks: int | None, at: int
) -> CopyRange:
    """One range, checked against both places before anything else happens."""
    here, there = _place(devices, source, "source"), _place(devices, destination, "destination")
    if blocks is None:
        blocks = here.blocks - first
    if blocks < 1 or first < 0 or first + blocks > here.blocks:
        raise CopyRefused(
            f"{source} has {here.blocks} blocks: a range of {blocks} blocks from block {first} "
            "does not lie in it",
            next_step="choose a range inside it, or none for all of it",
            field="blocks",
        )
    size = blocks * here.block_size
    if size % there.block_size:
        raise CopyRefused(
            f"{blocks} blocks of {here.block_size} bytes do not fill whole blocks of "
            f"{there.block_size} bytes of {destination}",
            next_step=f"choose a multiple of {there.block_size // here.block_size} blocks",
            field="blocks",
        )
    needed = size // there.block_size
    if at < 0 or at + needed > there.blocks:
        raise CopyRefused(
            f"{destination} has {there.blocks} blocks, and {needed} are needed from block {at} on",
            next_step="choose a larger destination, a smaller range or another place in it",
            field="destination",
        )
    return CopyRange(first, blocks, at)


def _place(devices: Devices, name: str, field: str) -> Place:
    try:
        return devices.place(name)
    except LookupError as missing:
        raise CopyRefused(str(missing), field=field) from missing
