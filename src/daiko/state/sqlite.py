"""The store in SQLite: one file in a private folder, one process at a time.

Write-ahead logging with `synchronous = FULL`: a commit has reached stable storage when it
returns. All commits are made by one thread of the store's own, so the event loop never waits
for a disk. The schema version is `PRAGMA user_version`; older stores are brought up to date when
they are opened (`migrations/`), newer ones are refused. A lock on a file of its own, which the
kernel gives back when the process ends in whatever way, keeps a second process out.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Final

from pydantic_core import from_json

from daiko.state import record as records
from daiko.state.extents import Extents, Packed, packed_from_json
from daiko.state.migration_record import MigrationRecord
from daiko.state.pair_record import PairRecord
from daiko.state.record import Record, VolumeRecord
from daiko.state.store import (
    Change,
    Mirror,
    Store,
    StoreDamaged,
    StoreError,
    StoreInUse,
    StoreTooNew,
)

DATABASE: Final = "daiko.sqlite"
LOCK: Final = "lock"

KINDS: Final[dict[str, type[Record]]] = {
    kind.kind: kind
    for kind in (
        records.SystemRecord,
        records.PortalGroupRecord,
        records.TargetPortGroupRecord,
        records.BackendRecord,
        records.FunctionRecord,
        records.ReachRecord,
        records.VolumeRecord,
        records.UnitRecord,
        records.ReservationRecord,
        records.MediumWorkRecord,
        records.HostRecord,
        records.SiteRecord,
        records.CredentialRecord,
        PairRecord,
        MigrationRecord,
        records.JobRecord,
    )
}
"""The classes of the records that stand by themselves in a store."""

_APART: Final[dict[type[Record], set[str]]] = {VolumeRecord: {"extents"}}
"""Fields that stand in a table of their own."""


def default_folder() -> Path:
    """Where the store lies when nothing else is said: /var/lib/daiko for root, else `daiko` in
    the XDG state folder."""
    if os.geteuid() == 0:
        return Path("/var/lib/daiko")
    state = os.environ.get("XDG_STATE_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "daiko"


class SqliteStore(Store):
    """The store of one controller in one folder. Make it by `open`."""

    def __init__(
        self,
        folder: Path,
        lock: int,
        connection: sqlite3.Connection,
        mirror: Mirror,
        numbers: Mapping[str, int],
    ) -> None:
        super().__init__(mirror, numbers)
        self.folder = folder
        self._lock = lock
        self._connection = connection
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")

    @classmethod
    def open(cls, folder: Path) -> SqliteStore:
        """Open the store in `folder`, which is made (mode 0700) when it is not there.

        Raises StoreInUse, StoreTooNew, StoreDamaged, or StoreError where the folder cannot be
        used.
        """
        _make_private(folder)
        lock = _lock(folder)
        try:
            connection = _connect(folder)
            try:
                migrate(connection)
                mirror, numbers = _load(connection)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            os.close(lock)
            raise StoreDamaged(f"{folder / DATABASE}: {error}") from error
        except BaseException:
            os.close(lock)
            raise
        return cls(folder, lock, connection, mirror, numbers)

    async def _commit(self, changes: Sequence[Change], numbers: Mapping[str, int]) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._writer, self._write, changes, dict(numbers))
        except sqlite3.Error as error:
            raise StoreError(f"{self.folder / DATABASE} cannot be written: {error}") from error

    def _write(self, changes: Sequence[Change], numbers: Mapping[str, int]) -> None:
        gone = [(c.type.kind, c.key) for c in changes if c.after is None]
        there = [
            (c.type.kind, c.key, c.after.model_dump_json(exclude=_APART.get(c.type)))
            for c in changes
            if c.after is not None
        ]
        laid_out = [
            (c.key, *c.after.extents.packed())
            for c in changes
            if isinstance(c.after, VolumeRecord) and _lies_anew(c.before, c.after)
        ]
        forgotten = [(c.key,) for c in changes if c.type is VolumeRecord and c.after is None]
        with self._connection as connection:
            connection.executemany("DELETE FROM record WHERE kind = ? AND key = ?", gone)
            connection.executemany("REPLACE INTO record VALUES (?, ?, ?)", there)
            connection.executemany("DELETE FROM extents WHERE volume = ?", forgotten)
            connection.executemany("REPLACE INTO extents VALUES (?, ?, ?)", laid_out)
            connection.executemany("REPLACE INTO sequence VALUES (?, ?)", numbers.items())

    async def _close(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer, self._connection.close)
        self._writer.shutdown()
        os.close(self._lock)


def _lies_anew(before: Record | None, after: VolumeRecord) -> bool:
    return not isinstance(before, VolumeRecord) or before.extents != after.extents


def schema_version() -> int:
    """The version that this release reads and writes."""
    return max(_scripts())


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date, one version after the other, each in a transaction.

    Raises StoreTooNew when it is newer than this release.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    # For the script that packs the extents of volumes.
    connection.create_function("extent_devices", 1, lambda text: packed_from_json(text).devices)
    connection.create_function("extent_columns", 1, lambda text: packed_from_json(text).columns)
    newest = schema_version()
    if version > newest:
        raise StoreTooNew(
            f"the store has schema version {version}, this release knows {newest}: "
            "use the release that wrote it, or a later one"
        )
    for number, script in sorted(_scripts().items()):
        if number > version:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;"
            )


def _scripts() -> dict[int, str]:
    folder = resources.files("daiko.state.migrations")
    return {
        int(script.name[:4]): script.read_text("utf-8")
        for script in folder.iterdir()
        if script.name.endswith(".sql")
    }


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError as error:
        raise StoreError(f"the store's folder {folder}: {error.strerror}") from error
    if mode & 0o077:
        raise StoreError(
            f"the store's folder {folder} is open to others (mode {mode:04o}): "
            f"give it a folder of its own, or `chmod 700 {folder}`"
        )


def _lock(folder: Path) -> int:
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise StoreInUse(
            f"the store {folder} is in use by process {owner or 'unknown'}: "
            "stop that one first, or give another folder with --store"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _connect(folder: Path) -> sqlite3.Connection:
    path = folder / DATABASE
    # Made by hand first, so that it is private from its first byte whatever the umask says.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    # The event loop's thread opens and loads; from then on only the writer's thread uses it.
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _load(connection: sqlite3.Connection) -> tuple[Mirror, dict[str, int]]:
    mirror: Mirror = {}
    laid_out = {
        volume: Packed(devices, columns)
        for volume, devices, columns in connection.execute("SELECT * FROM extents")
    }
    with closing(connection.execute("SELECT kind, key, value FROM record")) as rows:
        for kind, key, value in rows:
            if kind not in KINDS:
                raise StoreDamaged(f"the store holds a record of unknown kind {kind!r}")
            try:
                if KINDS[kind] is VolumeRecord:
                    found: Record = _volume(value, laid_out[key])
                else:
                    found = KINDS[kind].model_validate_json(value)
            except KeyError:
                raise StoreDamaged(f"the store has no extents of volume {key!r}") from None
            except ValueError as error:
                raise StoreDamaged(f"the store's record {kind} {key!r}: {error}") from error
            mirror.setdefault(KINDS[kind], {})[key] = found
    numbers: dict[str, int] = dict(connection.execute("SELECT name, last FROM sequence"))
    return mirror, numbers


def _volume(value: str, packed: Packed) -> VolumeRecord:
    return VolumeRecord.model_validate({**from_json(value), "extents": Extents.unpacked(packed)})
