"""Volumes: made by hand or automatically, taken in as they are and given back [0014, 0060].

A volume is a record: its extents, its identity, its name. Nothing here touches a byte of the
data. What is checked is checked inside the transaction that stores the record, so that two
requests at once cannot both get the same blocks.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydantic import ValidationError

from daiko.command_control.plan import Mode
from daiko.control import kept
from daiko.control.error import Conflict, Invalid, NotFound
from daiko.control.pair_checks import refuse_while_migrated, refuse_while_paired
from daiko.control.system import System
from daiko.copy_manager.request import places_of
from daiko.mapping.allocator import NoRoom, Unfit, allocate, by_hand
from daiko.mapping.extent import DeviceId
from daiko.mapping.range_set import RangeSet
from daiko.state.extents import Extents
from daiko.state.index import BlocksInUse, OfferedTo, SeenBy, VolumesOf
from daiko.state.migration_record import MigrationRecord
from daiko.state.pair_record import PairRecord
from daiko.state.record import (
    TERMINAL,
    BackendRecord,
    DeviceFacts,
    ExtentRecord,
    GroupState,
    JobRecord,
    VolumeAccess,
    VolumeRecord,
)
from daiko.state.store import Transaction

ALIGNMENT = 1 << 20
"""Bytes: where on a device automatically made extents begin, so that no array has to read, merge
and write back a stripe or page because of us."""


async def create_by_hand(
    system: System, name: str, extents: Sequence[ExtentRecord], *, mode: Mode | None = None
) -> VolumeRecord:
    """Make a volume of these extents, end to end in this order.

    Raises Invalid (bad name, block sizes that differ), NotFound (no such device), Conflict (the
    name is taken; blocks are taken or outside their device).
    """
    async with system.changing, system.store.transaction() as change:
        return put_new(change, name, extents, naa=new_naa(system.record.company_id), mode=mode)


async def create_automatic(
    system: System,
    name: str,
    size: int,
    candidates: Sequence[DeviceId],
    *,
    mode: Mode | None = None,
) -> VolumeRecord:
    """Make a volume of at least `size` bytes on free room of the candidate devices, taken in the
    order in which they are given.

    Raises as `create_by_hand`; Conflict when there is not enough room.
    """
    if size <= 0:
        raise Invalid(f"a volume of {size} bytes cannot be", field="size")
    if not candidates:
        raise Invalid("no device is given to take room from", field="devices")
    async with system.changing, system.store.transaction() as change:
        refuse_taken_name(change, name)
        return put_new(
            change,
            name,
            find_room(change, size, candidates),
            naa=new_naa(system.record.company_id),
            mode=mode,
        )


async def create_whole(
    system: System, name: str, devices: Sequence[DeviceId], *, mode: Mode | None = None
) -> VolumeRecord:
    """Make a volume of whole devices, end to end. Raises as `create_by_hand`."""
    async with system.changing, system.store.transaction() as change:
        return put_new(
            change, name, whole(change, devices), naa=new_naa(system.record.company_id), mode=mode
        )


async def take_image(
    system: System, name: str, device: DeviceId, *, mode: Mode | None = None
) -> VolumeRecord:
    """Take an existing LU in as it is: block for block, nothing copied, to be given back by
    `release`. Raises as `create_by_hand`."""
    async with system.changing, system.store.transaction() as change:
        return put_new(
            change,
            name,
            whole(change, [device]),
            naa=new_naa(system.record.company_id),
            mode=mode,
            image=True,
        )


async def grow(
    system: System,
    name: str,
    *,
    size: int | None = None,
    by: int | None = None,
    candidates: Sequence[DeviceId] = (),
) -> VolumeRecord:
    """Make a volume larger while hosts use it: to `size` bytes or more, by `by` bytes or more, or,
    with neither, by all that is free behind its last extent. Room is taken in place where the last
    extent's device has it right behind, else on the candidates (by default the devices that the
    volume lies on).

    Raises NotFound, Invalid, Conflict (it would shrink; there is not enough room).
    """
    if size is not None and by is not None:
        raise Invalid("say either how large it is to be or by how much it is to grow", field="by")
    if by is not None and by <= 0:
        raise Invalid(f"a volume does not grow by {by} bytes", field="by")
    async with system.changing, system.store.transaction() as change:
        record = change.get(VolumeRecord, name)
        if record is None:
            raise NotFound(f"there is no volume {name}", "`daiko volume ls` shows all")
        if by is not None:
            wanted = record.blocks - (-by // record.block_size)
        elif size is not None:
            wanted = -(-size // record.block_size)
        else:
            wanted = record.blocks + room_behind(change, record)
        return put_grown(change, record, wanted, candidates)


def room_behind(change: Transaction, record: VolumeRecord) -> int:
    """The free blocks right behind the last extent of a volume, on its device."""
    last = record.extents[-1]
    device = parse_device(last.device)
    end = last.lba + last.blocks
    size = device_facts(change.list(BackendRecord), device).blocks
    used = change.index(BlocksInUse).by_device.get(device, RangeSet())
    if end >= size:
        return 0
    first, length = next(iter(used.gaps(end, size - end)), (size, 0))
    return length if first == end else 0


def put_grown(
    change: Transaction, record: VolumeRecord, blocks: int, candidates: Sequence[DeviceId] = ()
) -> VolumeRecord:
    """Put the record of a volume that is to have `blocks` blocks, inside a transaction. Raises as
    `grow`."""
    if blocks < record.blocks:
        raise Conflict(
            f"volume {record.name} has {record.blocks} blocks of {record.block_size} bytes, more "
            f"than {blocks}: a volume does not shrink",
            f"give a size of at least {record.blocks * record.block_size} bytes",
            field="size",
        )
    if blocks == record.blocks:
        return record
    refuse_while_paired(change.list(PairRecord), record.name)
    refuse_while_migrated(change.list(MigrationRecord), record.name)
    added = blocks - record.blocks
    last = record.extents[-1]
    in_place = 0
    if not candidates or parse_device(last.device) in candidates:
        in_place = min(room_behind(change, record), added)
    extents = list(record.extents)
    if in_place:
        extents[-1] = last.model_copy(update={"blocks": last.blocks + in_place})
    if added > in_place:
        if record.image:
            raise Conflict(
                f"{record.name} is {last.device} as it is, which has {in_place} blocks more",
                f"let that LU grow first, then `daiko backend rescan {record.extents.backends[0]}`",
                field="size",
            )
        if in_place:
            change.put(record.model_copy(update={"extents": Extents.of(extents)}))
        size = (added - in_place) * record.block_size
        extents += find_room(change, size, candidates or record.extents.devices, record.block_size)
    grown = record.model_copy(update={"extents": Extents.of(extents)})
    change.put(grown)
    return grown


def put_extended(
    change: Transaction, record: VolumeRecord, extents: Sequence[ExtentRecord]
) -> VolumeRecord:
    """Put the record of a volume that is to have these extents, which begin with those that it has,
    inside a transaction. Raises as `create_by_hand`."""
    refuse_while_paired(change.list(PairRecord), record.name)
    refuse_while_migrated(change.list(MigrationRecord), record.name)
    change.delete(VolumeRecord, record.name)
    checked = put_new(
        change, record.name, extents, naa=record.naa, mode=record.mode, access=record.access
    )
    grown = record.model_copy(update={"extents": checked.extents})
    change.put(grown)
    return grown


async def set_mode(system: System, name: str, mode: Mode | None) -> VolumeRecord:
    """Override the system's mode for a volume, or with None let it hold again. Jobs that run keep
    theirs. Raises NotFound."""
    async with system.changing, system.store.transaction() as change:
        record = change.get(VolumeRecord, name)
        if record is None:
            raise NotFound(f"there is no volume {name}", "`daiko volume ls` shows all")
        changed = record.model_copy(update={"mode": mode})
        change.put(changed)
        return changed


async def release(system: System, name: str) -> str:
    """Give an image volume's LU back, with all that is on it. Returns what to do next.

    Raises NotFound, Invalid (no image volume), Conflict (a host or a job uses it).
    """
    record = await _take_away(system, name, only_image=True)
    device = record.extents[0].device
    return (
        f"{device} holds {record.blocks} blocks of {record.block_size} bytes as they were in "
        f"{name}: hosts can use it directly again"
    )


async def remove(system: System, name: str) -> None:
    """Forget a volume; its blocks become free, their contents stay until they are used again.

    Raises NotFound, Conflict (a host or a job uses it).
    """
    await _take_away(system, name, only_image=False)


def refuse_taken_name(change: Transaction, name: str) -> None:
    """Raises Conflict where a volume or back end has this name."""
    if change.get(VolumeRecord, name) is not None:
        raise Conflict(
            f"there is a volume {name} already",
            f"see it with `daiko volume show {name}`, or choose another name",
            field="name",
        )
    if change.get(BackendRecord, name) is not None:
        # `backup run alpha --to NAME` takes volumes and back ends alike.
        raise Conflict(
            f"a back end has the name {name}", "choose another name for the volume", field="name"
        )


def put_new(
    change: Transaction,
    name: str,
    extents: Sequence[ExtentRecord],
    *,
    naa: str,
    mode: Mode | None = None,
    image: bool = False,
    access: Mapping[int, VolumeAccess] | None = None,
) -> VolumeRecord:
    """Check a new volume and put its record, inside a transaction. Raises as `create_by_hand`."""
    refuse_taken_name(change, name)
    if not extents:
        raise Invalid("a volume needs at least one extent", field="extents")
    parts = list(_parts(extents))
    backends = change.list(BackendRecord)
    devices = dict.fromkeys(device for device, _, _ in parts)
    facts = {device: device_facts(backends, device) for device in devices}
    block_size = one_block_size(facts.values())
    sizes = {device: found.blocks for device, found in facts.items()}
    try:
        by_hand(parts, sizes, change.index(BlocksInUse).by_device)
    except Unfit as error:
        raise Conflict(
            str(error), "`daiko mapping ls` shows what lies where", field="extents"
        ) from error
    if change.index(VolumesOf).with_naa(naa) is not None:
        raise Conflict(f"another volume has the identity {naa}", field="naa")
    try:
        record = VolumeRecord(
            name=name,
            block_size=block_size,
            extents=Extents.of(extents),
            naa=naa,
            image=image,
            mode=mode,
            created=time.time(),
            access=dict(access or {}),
        )
    except ValidationError as error:
        raise Invalid(
            f"{name!r} is no name for a volume",
            "use lower case letters, digits, `.`, `_` and `-`",
            field="name",
        ) from error
    change.put(record)
    return record


def check_access(access: Mapping[int, VolumeAccess], field: str) -> None:
    """What can hold for one volume in target port groups. Raises Invalid."""
    for number, said in access.items():
        if not 1 <= number <= 0xFFFF:
            raise Invalid(f"there can be no target port group {number}", field=field)
        if said.state is GroupState.OFFLINE:
            raise Invalid(
                "a group is offline for all volumes: its portals do not listen",
                "use unavailable for one volume",
                field=field,
            )


def find_room(
    change: Transaction,
    size: int,
    candidates: Sequence[DeviceId],
    block_size: int | None = None,
) -> list[ExtentRecord]:
    """Extents of at least `size` bytes on free room of the candidates, whose blocks have all the
    same size, or the one given. Raises as `create_automatic`."""
    if size <= 0:
        raise Invalid(f"a volume of {size} bytes cannot be", field="size")
    if not candidates:
        raise Invalid("no device is given to take room from", field="devices")
    backends = change.list(BackendRecord)
    facts = {device: device_facts(backends, device) for device in candidates}
    found_size = one_block_size(facts.values())
    if block_size not in (None, found_size):
        raise Invalid(
            f"the devices have blocks of {found_size} bytes, the volume has {block_size}",
            "give devices with blocks of the same size",
            field="candidates",
        )
    block_size = found_size
    try:
        extents = allocate(
            -(-size // block_size),
            [(device, found.blocks) for device, found in facts.items()],
            change.index(BlocksInUse).by_device,
            max(1, ALIGNMENT // block_size),
        )
    except NoRoom as error:
        raise Conflict(
            str(error), "give more devices, or look at `daiko mapping ls` for what uses them"
        ) from error
    return [
        ExtentRecord(device=str(extent.device), lba=extent.device_lba, blocks=extent.blocks)
        for extent in extents
    ]


def whole(change: Transaction, devices: Sequence[DeviceId]) -> list[ExtentRecord]:
    """Extents that are whole devices. Raises NotFound."""
    backends = change.list(BackendRecord)
    return [
        ExtentRecord(device=str(device), lba=0, blocks=device_facts(backends, device).blocks)
        for device in devices
    ]


async def _take_away(system: System, name: str, *, only_image: bool) -> VolumeRecord:
    async with system.changing, system.store.transaction() as change:
        record = change.get(VolumeRecord, name)
        if record is None:
            raise NotFound(f"there is no volume {name}", "`daiko volume ls` shows all")
        if only_image and not record.image:
            raise Invalid(
                f"{name} was not taken in as it is, so there is no LU to give back",
                f"`daiko volume rm {name}` forgets it",
            )
        delete(change, record)
        return record


def delete(change: Transaction, volume: VolumeRecord) -> None:
    """Take a volume out of the store, with what was kept for its unit. Raises Conflict when a
    host or another site sees it or a job that is not finished works on it."""
    refuse_while_used(change, volume)
    change.delete(VolumeRecord, volume.name)
    change.delete(MigrationRecord, volume.name)
    kept.forget(change, volume)


def refuse_while_used(change: Transaction, volume: VolumeRecord) -> None:
    """Raise Conflict when a host or another site sees the volume, a job that is not finished works
    on it, it is a side of a pair, or it is being moved."""
    refuse_while_paired(change.list(PairRecord), volume.name)
    refuse_while_migrated(change.list(MigrationRecord), volume.name)
    sights = change.index(SeenBy).volume(volume.name)
    if sights:
        host = sights[0].host
        luns = [str(sight.lun) for sight in sights if sight.host == host]
        raise Conflict(
            f"host {host} sees {volume.name} as LUN {', '.join(luns)}",
            f"`daiko host unmap {host} {volume.name}` takes it away from the host",
        )
    for sight in change.index(OfferedTo).volume(volume.name):
        raise Conflict(
            f"{volume.name} is offered to site {sight.host} as LUN {sight.lun}",
            f"`daiko site show {sight.host}` shows what it is offered",
        )
    for job in change.list(JobRecord):
        if job.state not in TERMINAL and volume.name in places_of(job):
            raise Conflict(
                f"job {job.id} ({job.type}) works on {volume.name}",
                f"wait for it, or `daiko job cancel {job.id}`",
            )


def new_naa(company_id: int) -> str:
    """A new identity, 16 bytes in hex: NAA 6 with the company id (24 bits) and 100 random bits
    (SPC-4, 7.8.6.6.5: VENDOR SPECIFIC IDENTIFIER and its extension)."""
    return f"{(6 << 124) | (company_id << 100) | secrets.randbits(100):032x}"


def parse_device(text: str) -> DeviceId:
    """BACKEND/LUN. Raises Invalid."""
    try:
        return DeviceId.parse(text)
    except ValueError as error:
        raise Invalid(str(error), field="device") from error


def device_facts(backends: Iterable[BackendRecord], device: DeviceId) -> DeviceFacts:
    """What is known of a device. Raises NotFound."""
    for backend in backends:
        if backend.name == device.backend:
            for facts in backend.devices:
                if facts.lun == device.lun:
                    return facts
            luns = ", ".join(str(facts.lun) for facts in backend.devices) or "none"
            raise NotFound(
                f"back end {device.backend} has no LU {device.lun} (it has: {luns})",
                f"`daiko backend rescan {device.backend}` looks again",
            )
    raise NotFound(f"there is no back end {device.backend}", "`daiko backend ls` shows all")


def one_block_size(facts: Iterable[DeviceFacts]) -> int:
    """The block size that all devices have. Raises Invalid when they differ."""
    sizes = sorted({device.block_size for device in facts})
    if len(sizes) != 1:
        raise Invalid(
            f"the devices have blocks of {' and '.join(map(str, sizes))} bytes; "
            "all devices of a volume must have the same",
            field="extents",
        )
    return sizes[0]


def _parts(extents: Sequence[ExtentRecord]) -> Iterator[tuple[DeviceId, int, int]]:
    """(device, first block there, blocks) of each extent. Raises Invalid."""
    if isinstance(extents, Extents):
        for _, blocks, device, lba in extents.table:
            yield device, lba, blocks
        return
    devices: dict[str, DeviceId] = {}
    for extent in extents:
        found = devices.get(extent.device)
        if found is None:
            found = devices[extent.device] = parse_device(extent.device)
        yield found, extent.lba, extent.blocks
