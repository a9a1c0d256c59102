"""Back ends: second controllers and own disks, attached, probed and taken away."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from daiko.control import chap, functions, names, target_address
from daiko.control.chap import Chap, ChapState
from daiko.control.error import Conflict, Invalid, Unavailable
from daiko.state.index import VolumesOf
from daiko.state.record import (
    TERMINAL,
    BackendKind,
    BackendRecord,
    CredentialRecord,
    Patience,
)

if TYPE_CHECKING:
    from daiko.control.system import System


@dataclass(frozen=True, slots=True)
class BackendState:
    """A back end and how it is now."""

    record: BackendRecord
    connected: bool
    detail: str
    """Why it is not connected, or by which portal it is."""
    functions: tuple[functions.FunctionRow, ...]
    used_by: tuple[str, ...]
    """Volumes with extents on it."""
    chap: ChapState | None
    """By which user this controller logs in to it; None: by its name alone."""


async def add(
    system: System,
    name: str,
    address: str,
    *,
    portals: tuple[str, ...] = (),
    block_size: int = 512,
    preallocate: bool = False,
    login: Chap | None = None,
) -> BackendState:
    """Attach a back end, and probe it.

    `address` is `iscsi://HOST[:PORT][/IQN]` for a second controller, with further `portals` of the
    same target, or the path of a file or block device for a disk of this controller; with
    `preallocate` a file gets all of its room now, and keeps it when hosts unmap blocks. Without an
    IQN the portal is asked for its targets, and must have exactly one.

    `login` is the CHAP user by which this controller proves itself to a second controller.

    Raises Invalid, Conflict when the name or the target is attached already, Unavailable when it
    does not answer.
    """
    names.name(name)
    credentials = None if login is None else chap.record_of(chap.backend(name), login)
    async with system.changing:
        if system.store.get(BackendRecord, name) is not None:
            raise Conflict(
                f"a back end is called {name!r} already",
                f"see it with `daiko backend show {name}`, or choose another name",
                field="name",
            )
        if address.startswith("iscsi:"):
            record = await _second_controller(system, name, address, portals, credentials)
        else:
            if credentials is not None:
                raise Invalid(
                    "nobody logs in to a file or block device",
                    "leave the CHAP user out, or write the address as iscsi://HOST:PORT/IQN",
                    field="chap",
                )
            if portals:
                raise Invalid(
                    "a file or block device has no portals",
                    "leave them out, or write the address as iscsi://HOST:PORT/IQN",
                    field="portals",
                )
            record = _internal(name, address, block_size, preallocate)
        _refuse_second_name(system, record)
        return _state(system, await system.attach_backend(record, credentials))


def _refuse_second_name(system: System, record: BackendRecord) -> None:
    for other in system.store.list(BackendRecord):
        same_target = record.iqn and record.iqn == other.iqn
        same_path = record.path and record.path == other.path
        if same_target or same_path:
            raise Conflict(
                f"{record.iqn or record.path} is attached already, as {other.name!r}",
                "one back end stands for one target: add its other portals to that one",
                field="address",
            )


async def _second_controller(
    system: System,
    name: str,
    address: str,
    portals: tuple[str, ...],
    credentials: CredentialRecord | None,
) -> BackendRecord:
    target = await target_address.find(system, address, portals, credentials)
    return BackendRecord(name=name, type=BackendKind.ISCSI, iqn=target.iqn, portals=target.portals)


def _internal(name: str, path: str, block_size: int, preallocate: bool) -> BackendRecord:
    record = BackendRecord(
        name=name,
        type=BackendKind.INTERNAL,
        path=path,
        block_size=block_size,
        preallocate=preallocate,
    )
    check(record)
    return record


def check(record: BackendRecord) -> None:
    """Hold a record that was not made here to the same rules. Raises Invalid."""
    if record.type is BackendKind.ISCSI:
        names.iscsi_name(record.iqn)
        for portal in record.portals:
            names.portal(portal)
        return
    if not record.path.startswith("/"):
        raise Invalid(
            f"{record.path!r} is neither an address nor the whole path of a file",
            "write iscsi://HOST:PORT/IQN, or a path that begins with '/'",
            field="address",
        )
    if record.block_size not in (512, 4096):
        raise Invalid(
            f"a block of {record.block_size} bytes is not possible",
            "use a block size of 512 or 4096",
            field="block_size",
        )


def ls(system: System) -> list[BackendState]:
    """All back ends by name."""
    return [_state(system, record) for record in system.store.list(BackendRecord)]


def show(system: System, name: str) -> BackendState:
    """One back end. Raises NotFound."""
    return _state(system, names.backend_of(system, name))


async def probe(system: System, name: str) -> BackendState:
    """Ask the back end everything again: devices, functions, limits, reachability. Cells set by
    hand stay. Raises NotFound, Unavailable."""
    async with system.changing:
        names.backend_of(system, name)
        return _state(system, await system.probe_backend(name))


async def rescan(system: System, name: str) -> BackendState:
    """Find new, grown and vanished LUs. Raises NotFound, Unavailable."""
    async with system.changing:
        names.backend_of(system, name)
        return _state(system, await system.probe_backend(name, functions=False))


async def grow(system: System, name: str, size: int) -> BackendState:
    """Make the file of a disk of this controller `size` bytes long; what is on it stays. Volumes
    may then grow onto it. Raises NotFound; Invalid for what is no file, and for a size that is no
    whole number of blocks; Conflict where it would shrink; Unavailable where the file system
    has no room or refuses."""
    async with system.changing:
        record = names.backend_of(system, name)
        now = await asyncio.to_thread(_length, record.path)
        if now is None:
            raise Invalid(
                f"{name!r} is not a file of this controller",
                f"let it grow where it is, then `daiko backend rescan {name}`",
            )
        if size % record.block_size:
            raise Invalid(
                f"{size} bytes are no whole number of blocks of {record.block_size} bytes",
                field="size",
            )
        if size < now:
            raise Conflict(
                f"{record.path} has {now} bytes, more than {size}: a disk does not shrink",
                field="size",
            )
        try:
            await asyncio.to_thread(_lengthen, record.path, now, size, record.preallocate)
        except OSError as error:
            raise Unavailable(
                f"{record.path} cannot grow: {error.strerror}", "see that its file system has room"
            ) from error
        return _state(system, await system.probe_backend(name, functions=False))


def _length(path: str) -> int | None:
    """Bytes of a file; None for what is none."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


def _lengthen(path: str, now: int, size: int, preallocate: bool) -> None:
    """Give a file its new length, and room for it; a file that cannot have all of the room keeps
    its length. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if preallocate and size > now:
            try:
                os.posix_fallocate(descriptor, now, size - now)
            except OSError:
                os.ftruncate(descriptor, now)
                raise
        else:
            os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def rescan_all(system: System) -> list[BackendState]:
    """Find new, grown and vanished LUs of all back ends; those that do not answer stay as they are,
    and their state says so."""
    async with system.changing:
        for record in system.store.list(BackendRecord):
            with suppress(Unavailable):
                await system.probe_backend(record.name, functions=False)
    return ls(system)


async def set_patience(system: System, name: str, changes: Mapping[str, float]) -> BackendState:
    """Change how long a second controller may take, by the fields of `Patience`. Raises NotFound,
    Invalid."""
    async with system.changing:
        record = names.backend_of(system, name)
        try:
            patience = Patience(**{**record.patience.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise Invalid(f"{field}: {first['msg']}", field=f"patience.{field}") from error
        return _state(system, await system.change_patience(name, patience))


async def set_chap(system: System, name: str, login: Chap) -> BackendState:
    """Log in to a second controller by this user and secret from now on. They are tried at once,
    in a session of their own. Raises NotFound, Invalid, and Unavailable where it does not let us
    in by them; a back end that does not answer at all is told them when it does."""
    credentials = chap.record_of(chap.backend(name), login)
    async with system.changing:
        names.backend_of(system, name)
        await system.change_backend_credentials(name, credentials)
    return show(system, name)


async def clear_chap(system: System, name: str) -> BackendState:
    """Log in by this controller's name alone. Raises as `set_chap` does."""
    async with system.changing:
        names.backend_of(system, name)
        await system.change_backend_credentials(name, None)
    return show(system, name)


async def remove(system: System, name: str) -> None:
    """Detach a back end. No data on it is touched. Raises NotFound; Conflict while a volume has
    extents on it or a job works with it."""
    async with system.changing:
        names.backend_of(system, name)
        volumes = used_by(system, name)
        if volumes:
            raise Conflict(
                f"{name!r} holds data of {_and(volumes)}",
                f"take the volume away first, with `daiko volume rm {volumes[0]}`",
            )
        for job in system.copy_manager.jobs():
            devices = {d for step in job.steps for d in (step.source, step.destination)}
            if job.state not in TERMINAL and any(d.rpartition("/")[0] == name for d in devices):
                raise Conflict(
                    f"job {job.id} works with {name!r}",
                    f"wait for it with `daiko job wait {job.id}`, or cancel it",
                )
        await system.detach_backend(name)


def used_by(system: System, name: str) -> tuple[str, ...]:
    """Names of the volumes with extents on the back end."""
    return system.store.index(VolumesOf).on(name)


def _state(system: System, record: BackendRecord) -> BackendState:
    connected, detail = system.backend_status(record.name)
    return BackendState(
        record,
        connected,
        detail,
        tuple(row for row in functions.ls(system) if row.backend == record.name),
        used_by(system, record.name),
        chap.state(system.store, chap.backend(record.name)),
    )


def _and(things: tuple[str, ...]) -> str:
    quoted = [repr(thing) for thing in things]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]
