"""`daiko serve` as a process: one line, restart, kill, and everything that can be wrong.

The hosts are tools that nobody here wrote: qemu-io, qemu-img, iscsi-ls, iscsi-inq.
"""

from __future__ import annotations

import filecmp
import os
import re
import signal
import socket
from pathlib import Path

import httpx
import pytest

from loop_device import MAY_MAKE_LOOP_DEVICES, loop_device
from processes import READY, Daiko, Process, ProcessFailed, Tgt, free_port, image, qemu_io, run

MIB = 1 << 20


def naa_of(url: str) -> str:
    """The identity that iscsi-inq reads from page 83h: it prints that of type T10 vendor, which
    repeats the NAA designator's digits, as text, the NAA designator itself as raw bytes."""
    said = run("iscsi-inq", "-e", "1", "-c", "131", url).stdout
    match = re.search(r"Designator:\[DAIKO +(6[0-9a-f]{31})\]", said)
    assert match is not None, said
    return match.group(1)


def test_file_is_a_disk_in_one_line(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", 16 * MIB)
    with Daiko(tmp_path, disk) as daiko:
        assert daiko.urls == [daiko.url(0)]
        assert daiko.lines[-1] == READY
        qemu_io(daiko.url(), "write -P 7 1M 64k", "read -P 7 1M 64k", "read -P 0 0 1M", "flush")
        listed = run("iscsi-ls", "-s", f"iscsi://{daiko.portal}").stdout
        assert daiko.iqn in listed
        assert "Lun:0" in listed
    assert disk.read_bytes()[MIB : MIB + 65536] == b"\7" * 65536


def test_file_comes_out_as_it_went_in(tmp_path: Path) -> None:
    source = image(tmp_path / "source.img", 24 * MIB, seed=1)
    disk = image(tmp_path / "disk.img", 24 * MIB)
    copy = tmp_path / "copy.img"
    with Daiko(tmp_path, disk) as daiko:
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, daiko.url())
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, daiko.url())
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", daiko.url(), copy)
    assert filecmp.cmp(source, copy, shallow=False)
    assert filecmp.cmp(source, disk, shallow=False)


if MAY_MAKE_LOOP_DEVICES:  # Without: tests/backend/test_block_device.py, in a guest.

    def test_block_device_is_a_disk_in_one_line(tmp_path: Path) -> None:
        source = image(tmp_path / "source.img", 8 * MIB, seed=1)
        behind, copy = image(tmp_path / "behind.img", 8 * MIB), tmp_path / "copy.img"
        with loop_device(behind) as path, Daiko(tmp_path, path) as daiko:
            run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, daiko.url())
            qemu_io(daiko.url(), "discard 4M 1M", "flush")
            run("qemu-img", "convert", "-f", "raw", "-O", "raw", daiko.url(), copy)
        wanted = bytearray(source.read_bytes())
        wanted[4 * MIB : 5 * MIB] = bytes(MIB)
        assert behind.read_bytes() == wanted
        assert copy.read_bytes() == wanted


def test_several_files_are_one_disk_end_to_end(tmp_path: Path) -> None:
    parts = [image(tmp_path / f"part{n}.img", 4 * MIB, seed=n) for n in range(3)]
    with Daiko(tmp_path, *parts) as daiko:
        whole = tmp_path / "whole.img"
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", daiko.url(), whole)
        assert whole.read_bytes() == b"".join(part.read_bytes() for part in parts)
        qemu_io(daiko.url(), "write -P 9 4190208 8k", "read -P 9 4190208 8k")
    assert parts[0].read_bytes()[-4096:] == b"\x09" * 4096
    assert parts[1].read_bytes()[:4096] == b"\x09" * 4096


def test_further_luns_and_files_that_are_made(tmp_path: Path) -> None:
    made = tmp_path / "made.img"
    other = image(tmp_path / "other.img", 8 * MIB)
    with Daiko(tmp_path, made, lun={5: [other]}, options=["--size", "16MiB"]) as daiko:
        assert daiko.urls == [daiko.url(0), daiko.url(5)]
        assert made.stat().st_size == 16 * MIB
        qemu_io(daiko.url(5), "write -P 3 0 4k", "read -P 3 0 4k")
        listed = run("iscsi-ls", "-s", f"iscsi://{daiko.portal}").stdout
        assert "Lun:5" in listed
    assert other.read_bytes()[:4096] == b"\3" * 4096


def test_disk_with_blocks_of_4096_bytes(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", 8 * MIB)
    with Daiko(tmp_path, disk, options=["--block-size", "4096"]) as daiko:
        said = run("iscsi-readcapacity16", daiko.url()).stdout
        assert re.search(r"RETURNED LOGICAL BLOCK ADDRESS:\s*2047\b", said.upper()), said
        assert re.search(r"LOGICAL BLOCK LENGTH IN BYTES:\s*4096\b", said.upper()), said
        qemu_io(daiko.url(), "write -P 5 4k 8k", "read -P 5 4k 8k")


@pytest.mark.parametrize("preallocate", [False, True])
def test_file_takes_its_room_as_it_was_told(tmp_path: Path, preallocate: bool) -> None:
    made = tmp_path / "made.img"

    def room() -> int:
        return made.stat().st_blocks * 512

    options = ["--size", "8MiB", *(["--preallocate"] if preallocate else [])]
    with Daiko(tmp_path, made, store=tmp_path / "store", options=options) as daiko:
        assert (room() >= 8 * MIB) == preallocate
        qemu_io(daiko.url(), "write -P 7 0 8M", "discard 1M 4M", "read -P 0 1M 4M", "flush")
        assert (room() >= 8 * MIB) == preallocate
        # The store remembers it.
        daiko.sources, daiko.options = (), []
        daiko.restart()
        qemu_io(daiko.url(), "discard 5M 2M", "read -P 0 5M 2M", "read -P 7 7M 1M", "flush")
        assert (room() >= 8 * MIB) == preallocate


def test_lu_of_tgt_is_served_as_a_virtual_lu(tmp_path: Path) -> None:
    behind = image(tmp_path / "behind.img", 16 * MIB)
    with Tgt(tmp_path, behind) as tgt, Daiko(tmp_path, tgt.url()) as daiko:
        qemu_io(daiko.url(), "write -P 7 1M 64k", "read -P 7 1M 64k", "read -P 0 2M 64k", "flush")
        qemu_io(tgt.url(), "read -P 7 1M 64k")
    assert behind.read_bytes()[MIB : MIB + 65536] == b"\7" * 65536


def test_disk_is_reached_over_ipv6_by_hosts_and_by_a_first_controller(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", 4 * MIB)
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
        portal = f"[::1]:{probe.getsockname()[1]}"
    second = Daiko(tmp_path, disk, name="second", options=["--portal", portal])
    url = f"iscsi://{portal}/{second.iqn}/0"
    with second, Daiko(tmp_path, url, name="first") as first:
        assert portal in run("iscsi-ls", f"iscsi://{portal}").stdout
        qemu_io(url, "write -P 7 0 64k", "read -P 7 0 64k")
        qemu_io(first.url(), "read -P 7 0 64k", "write -P 8 1M 64k")
        (connected,) = first.rest("GET", "/v1/backends").raise_for_status().json()
        assert connected["portals"] == [portal]
    assert disk.read_bytes()[MIB : MIB + 65536] == b"\x08" * 65536


def test_lus_of_daiko_and_tgt_and_a_file_are_one_virtual_lu(tmp_path: Path) -> None:
    parts = [image(tmp_path / f"part{n}.img", 4 * MIB, seed=n) for n in range(3)]
    source = image(tmp_path / "source.img", 12 * MIB, seed=9)
    with (
        Tgt(tmp_path, parts[0]) as tgt,
        Daiko(tmp_path, parts[1], name="second") as second,
        Daiko(tmp_path, tgt.url(), second.url(), parts[2], name="first") as first,
    ):
        whole = tmp_path / "whole.img"
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", first.url(), whole)
        assert whole.read_bytes() == b"".join(part.read_bytes() for part in parts)
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, first.url())
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, first.url())
    assert b"".join(part.read_bytes() for part in parts) == source.read_bytes()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_restart_keeps_identities_maps_and_data(tmp_path: Path, how: str) -> None:
    disk = image(tmp_path / "disk.img", 8 * MIB)
    store = tmp_path / "store"
    with Daiko(tmp_path, disk, lun={3: [image(tmp_path / "b.img", MIB)]}, store=store) as daiko:
        identities = [naa_of(daiko.url(0)), naa_of(daiko.url(3))]
        qemu_io(daiko.url(), "write -P 7 0 64k")
        (daiko.stop if how == "stop" else daiko.kill)()
        # The store alone is enough: nothing is said on the command line but where.
        daiko.sources, daiko.lun = (), {}
        daiko.start()
        assert [naa_of(daiko.url(0)), naa_of(daiko.url(3))] == identities
        assert daiko.urls == [daiko.url(0), daiko.url(3)]
        qemu_io(daiko.url(), "read -P 7 0 64k")


def test_same_command_again_on_the_same_store_is_the_same_system(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", 8 * MIB)
    with Daiko(tmp_path, disk, store=tmp_path / "store") as daiko:
        identity = naa_of(daiko.url())
        daiko.restart()
        assert naa_of(daiko.url()) == identity


def test_second_controller_that_is_down_at_start_does_not_stop_the_rest(tmp_path: Path) -> None:
    behind = image(tmp_path / "behind.img", 8 * MIB, seed=4)
    disk = image(tmp_path / "disk.img", 8 * MIB)
    tgt = Tgt(tmp_path, behind)
    daiko = Daiko(tmp_path, disk, lun={1: [tgt.url()]}, store=tmp_path / "store")
    with tgt, daiko:
        identity = naa_of(daiko.url(1))
        daiko.stop()
        tgt.kill()
        daiko.start()
        qemu_io(daiko.url(0), "write -P 7 0 4k", "read -P 7 0 4k")
        said = run("qemu-io", "-f", "raw", "-c", "read 0 4k", daiko.url(1), check=False)
        assert "NOT READY" in said.stderr
        assert naa_of(daiko.url(1)) == identity
        tgt.start()
        daiko.wait_until_connected(tgt.iqn)
        qemu_io(daiko.url(1), "write -P 8 0 4k", "read -P 8 0 4k")


def test_two_processes_on_one_store_are_refused(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", MIB)
    store = tmp_path / "store"
    with Daiko(tmp_path, disk, store=store) as daiko:
        other = Daiko(tmp_path, disk, store=store, name="other")
        with pytest.raises(ProcessFailed) as caught:
            other.start()
        assert f"is in use by process {daiko.pid}" in str(caught.value)
        qemu_io(daiko.url(), "read 0 4k")


class TemporaryIn(Daiko):
    """With its temporary files in a folder of the test's."""

    def __init__(self, temporary: Path, folder: Path, *sources: Path | str) -> None:
        super().__init__(folder, *sources)
        self.temporary = temporary

    def environment(self) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self.temporary)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_temporary_store_is_private_and_gone_after_a_stop(
    tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with TemporaryIn(temporary, tmp_path, image(tmp_path / "disk.img", MIB)) as daiko:
        (folder,) = temporary.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert daiko.popen is not None
        daiko.popen.send_signal(number)
        assert daiko.stop() == 0
    assert list(temporary.iterdir()) == []


class LoggedIn(Process):
    """A host that has read something and stays logged in."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder, "host")
        self.url = url

    def command(self) -> list[str]:
        # Without stdbuf what qemu-io says stays in its buffer while it sleeps.
        return [
            "stdbuf",
            "-oL",
            "qemu-io",
            "-f",
            "raw",
            "-c",
            "read 0 4k",
            "-c",
            "sleep 600000",
            self.url,
        ]

    def wait_ready(self) -> None:
        self.lines_until_match("read 4096/4096")

    def stop(self) -> int:
        self.kill()
        return 0


def test_stop_with_a_host_logged_in_is_orderly(tmp_path: Path) -> None:
    with (
        Daiko(tmp_path, image(tmp_path / "disk.img", MIB)) as daiko,
        LoggedIn(tmp_path, daiko.url()),
    ):
        assert daiko.stop() == 0


def test_stop_before_it_is_ready_undoes_what_was_begun(tmp_path: Path) -> None:
    """The source takes the connection and never answers."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = f"iscsi://127.0.0.1:{silent.getsockname()[1]}/iqn.2026-11.com.example:s/0"
        daiko = Starting(temporary, tmp_path, source)
        with daiko:
            connection, _ = silent.accept()
            assert len(list(temporary.iterdir())) == 1
            assert daiko.stop() == 130
            connection.close()
    assert list(temporary.iterdir()) == []
    assert "Traceback" not in daiko.log_end()


class Starting(TemporaryIn):
    """Not waited for."""

    def wait_ready(self) -> None:
        pass


def test_api_that_others_can_reach_asks_for_the_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("correct horse\n")
    port = free_port()
    options = ["--api", f"http://0.0.0.0:{port}", "--token-file", str(token)]
    url = f"http://127.0.0.1:{port}/v1/export"
    with Daiko(tmp_path, image(tmp_path / "a.img", MIB), options=options):
        assert httpx.get(url).status_code == 401
        wrong = httpx.get(url, headers={"Authorization": "Bearer battery staple"})
        assert wrong.status_code == 401
        right = httpx.get(url, headers={"Authorization": "Bearer correct horse"})
        assert right.status_code == 200


def test_second_of_two_one_liners_gets_an_api_of_its_own(tmp_path: Path) -> None:
    """Both are started without --api; each prints where its own is."""
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": "/tmp"}
    first = NoApi(runtime, tmp_path, image(tmp_path / "a.img", MIB), name="first")
    second = NoApi(runtime, tmp_path, image(tmp_path / "b.img", MIB), name="second")
    with first, second:
        addresses = [
            next(line for line in daiko.lines if line.startswith("API at unix:"))
            for daiko in (first, second)
        ]
        assert addresses[0] != addresses[1]
        for daiko, line in zip((first, second), addresses, strict=True):
            environment = {**os.environ, "DAIKO_API": line.removeprefix("API at ")}
            exported = run(*daiko.program(), "export", env=environment).stdout
            assert daiko.iqn in exported


class NoApi(Daiko):
    """Started without --api."""

    def __init__(self, runtime: dict[str, str], folder: Path, *sources: Path, name: str) -> None:
        super().__init__(folder, *sources, name=name)
        self.runtime = runtime

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.runtime}

    def command(self) -> list[str]:
        command = list(super().command())
        at = command.index("--api")
        return command[:at] + command[at + 2 :]


def failure(tmp_path: Path, *sources: Path | str, **options: object) -> str:
    """What a start that must fail says, which ends with a status other than 0."""
    daiko = Daiko(tmp_path, *sources, **options)  # type: ignore[arg-type]
    with pytest.raises(ProcessFailed) as caught, daiko:
        pass
    said = str(caught.value)
    assert "Traceback" not in said
    assert re.search(r"ended with status [1-5] ", said), said
    return str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "nothing.img: No such file" in failure(tmp_path, tmp_path / "nothing.img")


def test_folder_as_a_source_is_refused(tmp_path: Path) -> None:
    assert re.search("Is a directory|neither a file nor", failure(tmp_path, tmp_path))


def test_size_that_is_no_multiple_of_the_block_size_is_named(tmp_path: Path) -> None:
    said = failure(tmp_path, image(tmp_path / "odd.img", 1000))
    assert "1000 bytes, is no multiple of the block size, 512 bytes" in said


def test_bad_block_size_is_named(tmp_path: Path) -> None:
    said = failure(tmp_path, image(tmp_path / "a.img", MIB), options=["--block-size", "1000"])
    assert "512 or 4096" in said


def test_bad_iqn_is_named_with_an_example(tmp_path: Path) -> None:
    said = failure(tmp_path, image(tmp_path / "a.img", MIB), iqn="disks")
    assert "'disks' is not an iSCSI name" in said
    assert "iqn.2026-11.com.example:disks" in said


def test_port_in_use_is_named(tmp_path: Path) -> None:
    disk = image(tmp_path / "a.img", MIB)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        portal = f"127.0.0.1:{taken.getsockname()[1]}"
        said = failure(tmp_path, disk, options=["--portal", portal])
        assert f"cannot listen on {portal}: Address already in use" in said


def test_bad_log_level_is_named(tmp_path: Path) -> None:
    said = failure(tmp_path, image(tmp_path / "a.img", MIB), options=["--log-level", "loud"])
    assert "'loud' is no log level" in said


def test_host_name_that_does_not_exist_is_named(tmp_path: Path) -> None:
    disk = image(tmp_path / "a.img", MIB)
    said = failure(tmp_path, disk, options=["--portal", "host.invalid:3260"])
    assert "cannot listen on host.invalid:3260" in said


def test_source_that_does_not_answer_is_named(tmp_path: Path) -> None:
    port = free_port()
    said = failure(tmp_path, f"iscsi://127.0.0.1:{port}/iqn.2026-11.com.example:nobody/0")
    assert f"127.0.0.1:{port}" in said
    assert "iqn.2026-11.com.example:nobody" in said


def test_target_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with Tgt(tmp_path, image(tmp_path / "a.img", MIB)) as tgt:
        said = failure(tmp_path, f"iscsi://{tgt.portal}/iqn.2026-11.com.example:nobody/1")
        assert "iqn.2026-11.com.example:nobody" in said


def test_lun_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with Tgt(tmp_path, image(tmp_path / "a.img", MIB)) as tgt:
        assert "no LU 9 (it has: 1)" in failure(tmp_path, tgt.url(9))


def test_store_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0o755)
    said = failure(tmp_path, image(tmp_path / "a.img", MIB), store=tmp_path / "store")
    assert "open to others" in said


def test_other_sources_for_a_lun_that_the_store_has_are_refused(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with Daiko(tmp_path, image(tmp_path / "a.img", MIB), store=store):
        pass
    said = failure(tmp_path, image(tmp_path / "b.img", MIB), store=store)
    assert "volume lun0 does not lie on b/0, but on a/0" in said
