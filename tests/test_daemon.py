"""What the command line of `daiko serve` means, before anything is started."""

from __future__ import annotations

import io
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from daiko import daemon
from daiko.cli import main as cli
from daiko.command_control.plan import Mode
from daiko.control.document import BackendPart
from daiko.control.error import Conflict, Invalid, Unavailable
from daiko.daemon import Options, Source
from daiko.state.record import (
    BackendKind,
    BackendRecord,
    HostRecord,
    PortalGroupRecord,
    SystemRecord,
)
from daiko.state.sqlite import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(tmp_path / "store")
    yield store
    await store.close()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for the name of a Unix socket (108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="daiko-test-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "name",
    [
        "iqn.2026-11.com.example:disks",
        "iqn.2026-11.com.example",
        "iqn.1998-01.com.vmware:host-4a5b:77",
        "eui.0123456789abcdef",
        "naa.52004567ba64678d",
        "naa.62004567ba64678d0123456789abcdef",
    ],
)
def test_iscsi_name_in_normal_form_is_accepted(name: str) -> None:
    daemon.check_iscsi_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "disks",
        "iqn.2026-13.com.example:disks",
        "iqn.2026-11.Com.Example:disks",
        "iqn.2026-11.com.example:di sks",
        "iqn.26-11.com.example",
        "eui.012345",
        "naa.52004567ba64678",
        "iqn.2026-11.com.example:" + "a" * 200,
    ],
)
def test_what_is_no_iscsi_name_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(Invalid, match="is not an iSCSI name") as caught:
        daemon.check_iscsi_name(name)
    assert "iqn.2026-11.com.example:disks" in caught.value.next_step


@pytest.mark.parametrize("portal", ["127.0.0.1:3260", "host.example:1", "[::1]:65535", "h:0"])
def test_portal_is_accepted(portal: str) -> None:
    daemon.check_portal(portal)


@pytest.mark.parametrize("portal", ["", "3260", ":3260", "host", "host:", "host:65536", "::1:3260"])
def test_what_is_no_portal_is_refused(portal: str) -> None:
    with pytest.raises(Invalid, match="is not a portal"):
        daemon.check_portal(portal)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/a.img", Source(BackendPart(path="/srv/a.img", block_size=4096), 0)),
        (
            "iscsi://192.0.2.1:3261/iqn.2026-11.com.example:a/7",
            Source(BackendPart(iqn="iqn.2026-11.com.example:a", portals=("192.0.2.1:3261",)), 7),
        ),
        (
            "iscsi://array.example/iqn.2026-11.com.example:a/0",
            Source(
                BackendPart(iqn="iqn.2026-11.com.example:a", portals=("array.example:3260",)), 0
            ),
        ),
        (
            "iscsi://[2001:db8::1]/iqn.2026-11.com.example:a/0",
            Source(
                BackendPart(iqn="iqn.2026-11.com.example:a", portals=("[2001:db8::1]:3260",)), 0
            ),
        ),
    ],
    ids=["file", "url", "url-without-port", "url-with-ipv6"],
)
def test_source_is_read(text: str, expected: Source) -> None:
    assert daemon.parse_source(text, 4096) == expected


def test_relative_path_is_kept_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert daemon.parse_source("a.img", 512).backend.path == str(tmp_path / "a.img")


@pytest.mark.parametrize(
    "text",
    [
        "iscsi://",
        "iscsi://h:1/iqn.2026-11.com.example:a",
        "iscsi://h:1/iqn.2026-11.com.example:a/x",
        "iscsi://h:1/iqn.2026-11.com.example:a/0/1",
        "iscsi://h:1/target/0",
        "iscsi://h:99999/iqn.2026-11.com.example:a/0",
        "iscsi://[::1/iqn.2026-11.com.example:a/0",
        "http://h:1/iqn.2026-11.com.example:a/0",
    ],
)
def test_url_that_names_no_lu_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        daemon.parse_source(text, 512)


def test_password_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(Invalid, match="user name or password") as caught:
        daemon.parse_source("iscsi://joe%hush@h:1/iqn.2026-11.com.example:a/0", 512)
    assert "hush" not in f"{caught.value} {caught.value.next_step}"


async def test_source_that_is_given_twice_is_refused(store: SqliteStore) -> None:
    with pytest.raises(Invalid, match="/a is given twice"):
        daemon.document_of(store, Options(luns={0: ["/a"], 1: ["/b", "/a"]}))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"size": 1000}, id="size-of-no-whole-blocks"),
        pytest.param({"size": 4096, "block_size": 1000}, id="block-size"),
        pytest.param({}, id="no-size"),
    ],
)
def test_file_that_could_not_be_used_is_not_made(tmp_path: Path, options: dict[str, int]) -> None:
    file = tmp_path / "new.img"
    with pytest.raises((Invalid, Unavailable)) as caught:
        daemon.serve(
            Options(
                luns={0: [str(file)]},
                portals=["127.0.0.1:0"],
                api=f"unix:{tmp_path}/s",
                **options,  # type: ignore[arg-type]
            )
        )
    assert caught.value.next_step
    assert not file.exists()


async def test_sources_become_back_ends_volumes_and_the_host_any(store: SqliteStore) -> None:
    url = "iscsi://192.0.2.1:3260/iqn.2026-11.com.example:sd1/3"
    document = daemon.document_of(store, Options(luns={0: ["/a/Big Disk.img", url], 4: ["/b/x"]}))
    assert document.backend == {
        "big-disk": BackendPart(path="/a/Big Disk.img"),
        "sd1": BackendPart(iqn="iqn.2026-11.com.example:sd1", portals=("192.0.2.1:3260",)),
        "x": BackendPart(path="/b/x"),
    }
    assert document.volume["lun0"].devices == ("big-disk/0", "sd1/3")
    assert document.volume["lun4"].devices == ("x/0",)
    assert document.host["any"].initiators == ("*",)
    assert document.host["any"].luns == {0: "lun0", 4: "lun4"}


async def test_sources_of_equal_names_get_different_ones(store: SqliteStore) -> None:
    document = daemon.document_of(store, Options(luns={0: ["/a/x.img", "/b/x.img", "/c/lun0"]}))
    assert list(document.backend) == ["x", "x-2", "disk-lun0"]


async def test_two_lus_of_one_target_are_one_back_end(store: SqliteStore) -> None:
    url = "iscsi://192.0.2.1:3260/iqn.2026-11.com.example:sd1/"
    document = daemon.document_of(store, Options(luns={0: [f"{url}0", f"{url}1"]}))
    assert list(document.backend) == ["sd1"]
    assert document.volume["lun0"].devices == ("sd1/0", "sd1/1")


async def test_source_that_is_attached_keeps_its_name_and_the_host_its_rights(
    store: SqliteStore,
) -> None:
    await store.put(BackendRecord(name="old", type=BackendKind.INTERNAL, path="/a/x.img"))
    await store.put(
        HostRecord(name="any", initiators=("*",), luns={7: "v"}, remote_copy=("192.0.2.9:3260",))
    )
    document = daemon.document_of(store, Options(luns={0: ["/a/x.img"]}))
    assert document.backend == {}
    assert document.volume["lun0"].devices == ("old/0",)
    assert document.host["any"].luns == {7: "v", 0: "lun0"}
    assert document.host["any"].remote_copy == ("192.0.2.9:3260",)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"block_size": 4096}, "attached with blocks of 512 bytes"),
        ({"preallocate": True}, "takes room as it is written"),
    ],
    ids=["block-size", "preallocate"],
)
async def test_source_that_is_attached_otherwise_is_refused(
    store: SqliteStore, asked: dict[str, Any], said: str
) -> None:
    luns = {0: ["/a/x.img"]}
    await store.put(BackendRecord(name="old", type=BackendKind.INTERNAL, path="/a/x.img"))
    with pytest.raises(Conflict, match=said):
        daemon.document_of(store, Options(luns=luns, **asked))
    large = BackendRecord(
        name="old", type=BackendKind.INTERNAL, path="/a/x.img", block_size=4096, preallocate=True
    )
    await store.put(large)
    for options in (Options(luns=luns), Options(luns=luns, **asked)):
        assert daemon.document_of(store, options).backend == {}


@pytest.mark.parametrize(
    ("luns", "expected"),
    [
        ({}, Mode.DELEGATE),
        ({0: ["/a"], 1: ["/b"]}, Mode.LOCAL),
        ({0: ["/a", "iscsi://h:1/iqn.2026-11.com.example:a/0"]}, Mode.DELEGATE),
    ],
    ids=["no-sources", "own-disks-only", "second-controller"],
)
async def test_new_store_gets_the_mode_that_fits_the_sources(
    store: SqliteStore, luns: dict[int, list[str]], expected: Mode
) -> None:
    await daemon._initialise(store, Options(luns=luns))
    record = store.get(SystemRecord, "system")
    assert record is not None
    assert record.mode is expected
    daemon.check_iscsi_name(record.iqn)
    daemon.check_iscsi_name(record.initiator_iqn)
    assert portals_of(store) == {1: ("127.0.0.1:3260",)}


async def test_known_store_keeps_what_the_options_do_not_say(store: SqliteStore) -> None:
    options = Options(iqn="iqn.2026-11.com.example:a", portals=("127.0.0.1:1",), mode=Mode.DIRECT)
    await daemon._initialise(store, options)
    before = store.get(SystemRecord, "system")
    await daemon._initialise(store, Options())
    assert store.get(SystemRecord, "system") == before
    await daemon._initialise(store, Options(portals=("127.0.0.1:2",)))
    after = store.get(SystemRecord, "system")
    assert before is not None
    assert after == before
    assert portals_of(store) == {1: ("127.0.0.1:2",)}


def portals_of(store: SqliteStore) -> dict[int, tuple[str, ...]]:
    return {record.tag: record.portals for record in store.list(PortalGroupRecord)}


async def test_portals_are_told_by_portal_group(store: SqliteStore) -> None:
    await daemon._initialise(store, Options(portals=("127.0.0.1:1", "127.0.0.1:2,7", "[::1]:1")))
    assert portals_of(store) == {1: ("127.0.0.1:1", "[::1]:1"), 7: ("127.0.0.1:2",)}
    await daemon._initialise(store, Options(portals=("127.0.0.1:3",)))
    assert portals_of(store) == {1: ("127.0.0.1:3",), 7: ("127.0.0.1:2",)}
    with pytest.raises(Conflict, match="in the portal groups 1 and 7"):
        await daemon._initialise(store, Options(portals=("127.0.0.1:2",)))


@pytest.mark.parametrize("tag", ["", "0", "65536", "x", "-1"])
async def test_portal_of_an_impossible_portal_group_is_refused(
    store: SqliteStore, tag: str
) -> None:
    with pytest.raises(Invalid, match="names no portal group"):
        await daemon._initialise(store, Options(portals=(f"127.0.0.1:1,{tag}",)))


def test_unix_socket_is_private_and_gone_afterwards(short_folder: Path) -> None:
    path = short_folder / "run" / "api.sock"
    with daemon._unix_listener(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()


def test_unix_socket_of_a_living_controller_is_left_alone(short_folder: Path) -> None:
    path = short_folder / "api.sock"
    with daemon._unix_listener(path):
        inode = path.stat().st_ino
        with pytest.raises(Conflict, match="another controller"), daemon._unix_listener(path):
            pass
        assert path.stat().st_ino == inode


def test_unix_socket_that_was_left_behind_is_replaced(short_folder: Path) -> None:
    path = short_folder / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with daemon._unix_listener(path) as listener:
        listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_unix_socket_with_too_long_a_path_is_a_readable_error(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 100) / "api.sock"
    with pytest.raises(Conflict, match="cannot listen at"), daemon._unix_listener(path):
        pass


def test_default_address_that_is_taken_falls_back_to_the_stores_folder(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    with daemon._api_address(Options(), short_folder / "one") as one:
        assert one.address.path == str(short_folder / "daiko" / "api.sock")
        with daemon._api_address(Options(), short_folder / "two") as two:
            assert two.address.path == str(short_folder / "two" / "api.sock")


def test_api_port_in_use_is_a_readable_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        api = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(Unavailable, match="Address already in use"),
            daemon._api_address(Options(api=api), tmp_path),
        ):
            pass


@pytest.mark.parametrize("api", ["http://192.0.2.1:80", "0.0.0.0:8080", "array.example:80"])
def test_api_that_others_can_reach_needs_a_token(tmp_path: Path, api: str) -> None:
    with (
        pytest.raises(Invalid, match="needs a token"),
        daemon._api_address(Options(api=api), tmp_path),
    ):
        pass


def test_default_folder_that_another_user_made_first_is_used_by_neither_end(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = short_folder / "daiko"
    folder.mkdir()
    if os.getuid() == 0:
        os.chown(folder, 12345, -1)
    monkeypatch.setattr(os, "getuid", lambda: 23456)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    monkeypatch.delenv("DAIKO_API", raising=False)
    with (
        pytest.raises(Conflict, match="another user's"),
        daemon._unix_listener(folder / "api.sock"),
    ):
        pass
    monkeypatch.setattr("sys.argv", ["daiko", "backend", "ls"])
    with pytest.raises(SystemExit) as ended:
        cli.run()
    assert ended.value.code == 6
    assert "another user's" in capfd.readouterr().err


def test_line_goes_out_in_one_piece_where_the_output_is_not_buffered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a line of the log may come between it and its end on a terminal that shows both."""
    pieces: list[bytes] = []

    class Terminal(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, piece: Any) -> int:
            pieces.append(bytes(piece))
            return len(piece)

    # As Python makes it with -u, or PYTHONUNBUFFERED.
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(Terminal(), write_through=True))
    daemon._say("ready")
    assert pieces == [b"ready\n"]
