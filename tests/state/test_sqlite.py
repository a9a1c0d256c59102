"""The SQLite store: its folder, its lock, its schema, and what survives a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from daiko.command_control.function_table import CopyLimits, FunctionCell, Known, ReachCell
from daiko.command_control.plan import Function, Mode
from daiko.scsi.persistent_reservation import ReservationType
from daiko.state import sqlite
from daiko.state.migration_record import MigrationRecord, MigrationState
from daiko.state.pair_record import Fence, PairRecord, PairState
from daiko.state.record import (
    BackendKind,
    BackendRecord,
    CredentialRecord,
    DeviceFacts,
    ExtentRecord,
    FunctionRecord,
    GroupState,
    HostRecord,
    JobRecord,
    JobState,
    MediumWorkRecord,
    PortalGroupRecord,
    ReachRecord,
    Record,
    RegistrationRecord,
    ReservationRecord,
    SiteRecord,
    StepRecord,
    SystemRecord,
    TargetPortGroupRecord,
    UnitRecord,
    VolumeAccess,
    VolumeRecord,
)
from daiko.state.sqlite import SqliteStore
from daiko.state.store import StoreDamaged, StoreError, StoreInUse, StoreTooNew

LIMITS = CopyLimits(max_cscds=2, max_segments=1, max_list_bytes=92, segment_types=(2, 7))
STEP = StepRecord(
    source="sd1/0",
    source_lba=8,
    destination="vault/0",
    destination_lba=0,
    blocks=100,
    block_size=512,
    executor="second controller sd1",
    delegated=True,
    reason="it owns the source",
    rejected=(("this controller", "the data need not pass here"),),
    confirmed=((0, 40), (60, 10)),
    seconds=0.25,
)
ONE_OF_EACH: list[Record] = [
    SystemRecord(
        iqn="iqn.2026-11.com.example:d",
        initiator_iqn="iqn.2026-11.com.example:d.initiator",
        mode=Mode.LOCAL,
    ),
    PortalGroupRecord(tag=2, portals=("127.0.0.1:3260", "[::1]:3260"), target_port_group=7),
    TargetPortGroupRecord(number=7, state=GroupState.STANDBY, preferred=True),
    BackendRecord(
        name="sd1",
        type=BackendKind.ISCSI,
        iqn="iqn.2026-11.com.example:sd1",
        portals=("127.0.0.1:3261",),
        devices=(DeviceFacts(lun=0, block_size=512, blocks=2048, designators=("0103",)),),
    ),
    FunctionRecord(
        backend="sd1",
        function=Function.DIRECT_BACKUP,
        cell=FunctionCell(True, Known.PROBED, 1.5, "3PC is set", LIMITS, "Daiko 0.1"),
    ),
    ReachRecord(
        backend="sd1", device="vault/0", cell=ReachCell(False, Known.DECLARED, 2.0, "firewall")
    ),
    VolumeRecord(
        name="alpha",
        block_size=512,
        extents=(ExtentRecord(device="sd1/0", lba=8, blocks=100),),
        naa="602da10" + "0" * 25,
        mode=Mode.DIRECT,
        access={7: VolumeAccess(state=GroupState.UNAVAILABLE, by_host=True)},
    ),
    UnitRecord(naa="602da10" + "0" * 25, mode_pages=("08120000",), identifying_text="e5a4a7"),
    MediumWorkRecord(
        naa="6" * 32,
        work="overwrite",
        pattern="aa55",
        count=3,
        invert=True,
        is_restricted=True,
        has_failed=False,
    ),
    ReservationRecord(
        naa="602da10" + "0" * 25,
        type=ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
        registrations=(
            RegistrationRecord(
                initiator="iqn.2026-11.test:host",
                isid="0023d0000001",
                target_port=2,
                key="ffffffffffffffff",
                holds=True,
            ),
        ),
    ),
    HostRecord(name="h1", initiators=("iqn.2026-11.com.example:h1",), luns={0: "alpha", 7: "b"}),
    SiteRecord(
        name="osaka",
        iqn="iqn.2026-11.com.example:osaka",
        portals=("192.0.2.9:3260",),
        initiator="iqn.2026-11.com.example:osaka.initiator",
        offered={1: "alpha"},
        identity="0" * 32,
    ),
    CredentialRecord(
        owner="host:h1",
        user="h1",
        secret="never to be shown",
        mutual_user="array",
        mutual_secret="nor is this one",
    ),
    MigrationRecord(
        volume="alpha",
        state=MigrationState.FAILED,
        to="sd2/0",
        source="sd1/0",
        moved=((0, 100), (200, 50)),
        room=[ExtentRecord(device="sd2/0", lba=2048, blocks=150)],  # type: ignore[arg-type]
        pace="50MiB/s",
        reason="sd2/0: no path",
        created=1.0,
        changed=2.0,
    ),
    PairRecord(
        name="p",
        primary="alpha",
        secondary="beta",
        group="g",
        state=PairState.SPLIT_BY_ERROR,
        fence=Fence.DATA,
        reason="beta: no path",
        mixture="beta",
        created=1.0,
        changed=2.0,
    ),
    JobRecord(
        id=3,
        type="backup",
        asked_by="administrator",
        source="alpha",
        destination="vault",
        request={"ranges": [[0, 100, 0]], "mode": None},
        state=JobState.RUNNING,
        steps=(STEP,),
        blocks=100,
    ),
]


def test_every_kind_of_record_that_stands_by_itself_is_known_to_the_store() -> None:
    assert {type(record) for record in ONE_OF_EACH} == set(sqlite.KINDS.values())
    # DeviceFacts alone is only ever a part of a BackendRecord.
    assert set(Record.__subclasses__()) - set(sqlite.KINDS.values()) == {DeviceFacts}


@pytest.mark.parametrize("record", ONE_OF_EACH, ids=lambda record: record.kind)
async def test_record_is_the_same_after_the_store_is_opened_again(
    tmp_path: Path, record: Record
) -> None:
    store = SqliteStore.open(tmp_path / "s")
    await store.put(record)
    await store.close()
    store = SqliteStore.open(tmp_path / "s")
    found = store.get(type(record), record.key)
    await store.close()
    assert found == record


async def test_folder_is_made_private_with_its_parents(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        store = SqliteStore.open(tmp_path / "a" / "b")
    finally:
        os.umask(previous)
    await store.put(ONE_OF_EACH[0])
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    for path in (tmp_path / "a" / "b").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    await store.close()


def test_folder_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(StoreError, match=r"open to others \(mode 0755\).*chmod 700"):
        SqliteStore.open(tmp_path / "open")


def test_folder_that_cannot_be_made_is_a_readable_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        SqliteStore.open(tmp_path / "file" / "store")


async def test_second_opener_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "s")
    with pytest.raises(StoreInUse, match=f"in use by process {os.getpid()}"):
        SqliteStore.open(tmp_path / "s")
    await store.close()
    await SqliteStore.open(tmp_path / "s").close()


HOLDER = """
import asyncio, sys, pathlib
from daiko.state.record import HostRecord
from daiko.state.sqlite import SqliteStore

async def main():
    store = SqliteStore.open(pathlib.Path(sys.argv[1]))
    number = 0
    while True:
        await store.put(HostRecord(name=f"h{number:06d}", initiators=("*",)))
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


def test_what_was_committed_survives_kill_9_and_the_lock_goes_with_the_process(
    tmp_path: Path,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        while holder.stdout.readline() != "20\n":
            assert holder.poll() is None
        with pytest.raises(StoreInUse, match=f"process {holder.pid}"):
            SqliteStore.open(tmp_path / "s")
        holder.send_signal(signal.SIGKILL)
        said = [int(line) for line in holder.stdout]
    last = said[-1] if said else 20
    store = SqliteStore.open(tmp_path / "s")
    names = {record.name for record in store.list(HostRecord)}
    asyncio.run(store.close())
    assert {f"h{number:06d}" for number in range(last + 1)} <= names


def test_store_of_a_later_release_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o700)
    with closing(sqlite3.connect(tmp_path / "s" / "daiko.sqlite")) as connection:
        connection.execute(f"PRAGMA user_version = {sqlite.schema_version() + 1}")
    with pytest.raises(StoreTooNew, match="use the release that wrote it"):
        SqliteStore.open(tmp_path / "s")


@pytest.mark.parametrize("version", range(sqlite.schema_version() + 1))
async def test_store_of_each_older_schema_version_is_brought_up_to_date(
    tmp_path: Path, version: int
) -> None:
    """tests/state/schema/NNNN.sql is a store as the release of that version left it."""
    (tmp_path / "s").mkdir(mode=0o700)
    with closing(sqlite3.connect(tmp_path / "s" / "daiko.sqlite")) as connection:
        if version:
            script = Path(__file__).parent / "schema" / f"{version:04d}.sql"
            connection.executescript(script.read_text())
    store = SqliteStore.open(tmp_path / "s")
    if version:
        found = store.get(HostRecord, "h1")
        assert found is not None
        assert found.luns == {0: "alpha"}
        volume = store.get(VolumeRecord, "alpha")
        assert volume is not None
        assert (volume.mode, volume.created, volume.blocks) == (Mode.DIRECT, 1.5, 151)
        assert [(e.device, e.lba, e.blocks) for e in volume.extents] == [
            ("sd1/0", 8, 100),
            ("old/3", 0, 50),
            ("sd1/0", 200, 1),
        ]
        portals = store.get(PortalGroupRecord, "00001")
        assert portals == PortalGroupRecord(
            tag=1, portals=("192.0.2.1:3260", "[2001:db8::1]:3260"), target_port_group=1
        )
        system = store.get(SystemRecord, "system")
        assert system is not None
        assert (system.mode, system.company_id) == (Mode.LOCAL, 187920)
        assert len(system.identity) == 32
        assert (system.identity == "0123456789abcdef" * 2) is (version >= 4)
        offered = [site.offered for site in store.list(SiteRecord)]
        assert offered == ([{1: "alpha"}] if version >= 4 else [])
        async with store.transaction() as change:
            assert change.next_number("job") == 42
    await store.put(ONE_OF_EACH[0])
    await store.close()
    with closing(sqlite3.connect(tmp_path / "s" / "daiko.sqlite")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (sqlite.schema_version(),)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_migrations_are_numbered_without_a_gap_and_each_has_its_old_store() -> None:
    assert sorted(sqlite._scripts()) == list(range(1, sqlite.schema_version() + 1))
    kept = sorted(int(path.stem) for path in (Path(__file__).parent / "schema").iterdir())
    assert kept == list(range(1, sqlite.schema_version() + 1))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("host", "h1", "{}"), "record host 'h1'"),
        (("host", "h1", "no json"), "record host 'h1'"),
        (("teapot", "t", "{}"), "unknown kind 'teapot'"),
    ],
    ids=["fields-missing", "no-json", "unknown-kind"],
)
async def test_damaged_record_is_named_and_the_lock_given_back(
    tmp_path: Path, row: tuple[str, str, str], message: str
) -> None:
    await SqliteStore.open(tmp_path / "s").close()
    with closing(sqlite3.connect(tmp_path / "s" / "daiko.sqlite")) as connection, connection:
        connection.execute("INSERT INTO record VALUES (?, ?, ?)", row)
    for _ in range(2):
        with pytest.raises(StoreDamaged, match=message):
            SqliteStore.open(tmp_path / "s")


def test_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o700)
    (tmp_path / "s" / "daiko.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreDamaged, match=r"daiko\.sqlite: file is not a database"):
        SqliteStore.open(tmp_path / "s")


@pytest.mark.parametrize(
    ("root", "xdg", "expected"),
    [
        (True, "/x/state", "/var/lib/daiko"),
        (False, "/x/state", "/x/state/daiko"),
        (False, "relative", "/home/someone/.local/state/daiko"),
        (False, "", "/home/someone/.local/state/daiko"),
    ],
    ids=["root", "xdg", "relative-xdg-is-ignored", "home"],
)
def test_default_folder(
    monkeypatch: pytest.MonkeyPatch, root: bool, xdg: str, expected: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setenv("XDG_STATE_HOME", xdg)
    monkeypatch.setenv("HOME", "/home/someone")
    assert sqlite.default_folder() == Path(expected)
