"""A file as a device: the suite for each kind of file, and the ways a file system fails."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daiko.backend import file as file_module
from daiko.backend.file import FileDevice
from daiko.backend.file_lock import FileInUse
from daiko.backend.open_file import failure
from daiko.device import awaitable
from daiko.device.block import BlockDevice, Level
from daiko.device.error import (
    Aborted,
    MediumFailure,
    Miscompare,
    SpaceExhausted,
    Unsupported,
    WriteProtected,
)
from device.suite import BlockDeviceSuite, Outcomes, pattern

SIZE = 6 << 20


def sparse(path: Path, block_size: int) -> FileDevice:
    return FileDevice.open(path, block_size, create_bytes=SIZE)


def preallocated(path: Path, block_size: int) -> FileDevice:
    return FileDevice.open(path, block_size, create_bytes=SIZE, preallocate=True)


def without_nowait(path: Path, block_size: int) -> FileDevice:
    device = sparse(path, block_size)
    device._read_flags = 0
    return device


def always_in_threads(path: Path, block_size: int) -> FileDevice:
    device = without_nowait(path, block_size)
    device._pace.blocked_until = float("inf")
    return device


@pytest.mark.parametrize("block_size", [512, 4096])
@pytest.mark.parametrize("make", [sparse, preallocated, without_nowait, always_in_threads])
class TestFileDevice(BlockDeviceSuite):
    @pytest.fixture
    def device(
        self, tmp_path: Path, make: Callable[[Path, int], FileDevice], block_size: int
    ) -> Iterator[BlockDevice]:
        device = make(tmp_path / "disk", block_size)
        yield device
        device.close()


class TestOnTmpfs(BlockDeviceSuite):
    """A file system without RWF_NOWAIT."""

    @pytest.fixture
    def device(self) -> Iterator[BlockDevice]:
        path = Path(f"/dev/shm/daiko-test-{os.getpid()}-{os.urandom(4).hex()}")
        device = sparse(path, 512)
        path.unlink()
        yield device
        device.close()


def room(path: Path) -> int:
    """Bytes that the file takes on its file system."""
    return path.stat().st_blocks * 512


class TestRoom:
    async def test_sparse_file_takes_room_as_written_and_gives_it_back(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "disk"
        device = sparse(path, 512)
        assert room(path) < 1 << 16
        await awaitable.write(device, 0, pattern(2048, 512, 1))
        await awaitable.flush(device)
        assert room(path) >= 1 << 20
        await awaitable.unmap(device, 0, 2048)
        assert room(path) < 1 << 16
        device.close()

    async def test_write_same_of_zeros_takes_no_room(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        device = sparse(path, 512)
        await awaitable.write_same(device, 0, device.blocks, bytes(512))
        await awaitable.flush(device)
        assert room(path) < 1 << 16
        device.close()

    async def test_preallocated_file_keeps_its_room(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        device = preallocated(path, 512)
        assert room(path) >= SIZE
        await awaitable.write(device, 0, pattern(2048, 512, 1))
        await awaitable.unmap(device, 0, 2048)
        assert bytes(await awaitable.read(device, 0, 2048)) == bytes(1 << 20)
        assert room(path) >= SIZE
        device.close()

    def test_preallocation_leaves_nothing_behind_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        preallocated(path, 512).close()
        assert room(path) <= SIZE + (1 << 16)
        assert path.stat().st_size == SIZE

    async def test_holes_of_a_sparse_file_are_deallocated(self, tmp_path: Path) -> None:
        device = sparse(tmp_path / "disk", 512)
        await awaitable.write(device, 16, pattern(8, 512, 1))
        await awaitable.write(device, 64, pattern(8, 512, 1))
        found: list[object] = []
        device.lba_status(0, device.blocks, lambda error, runs: found.extend(runs))
        assert found == [
            (16, False), (8, True), (40, False), (8, True), (device.blocks - 72, False),
        ]  # fmt: skip
        found.clear()
        device.lba_status(20, 46, lambda error, runs: found.extend(runs))
        assert found == [(4, True), (40, False), (2, True)]
        device.close()


class TestOpen:
    def test_bytes_after_the_last_whole_block_are_not_served(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        path.write_bytes(bytes(4096 * 3 + 100))
        device = FileDevice.open(path, 4096)
        assert (device.blocks, device.block_size) == (3, 4096)
        device.close()

    def test_existing_file_is_not_made_anew(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        path.write_bytes(b"x" * 1024)
        FileDevice.open(path, 512, create_bytes=SIZE).close()
        assert path.read_bytes() == b"x" * 1024

    def test_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            FileDevice.open(tmp_path / "disk")

    @pytest.mark.parametrize("size", [0, 511])
    def test_file_below_one_block_is_refused(self, tmp_path: Path, size: int) -> None:
        (tmp_path / "disk").write_bytes(bytes(size))
        with pytest.raises(ValueError, match="not one block"):
            FileDevice.open(tmp_path / "disk")

    def test_directory_and_character_device_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="neither"):
            FileDevice.open(tmp_path, read_only=True)
        with pytest.raises(ValueError, match="neither"):
            FileDevice.open("/dev/null")

    def test_other_block_sizes_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="520"):
            FileDevice.open(tmp_path / "disk", 520, create_bytes=SIZE)
        assert not (tmp_path / "disk").exists()

    async def test_read_only_file_takes_no_change(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        path.write_bytes(b"x" * 4096)
        path.chmod(0o400)
        device = FileDevice.open(path, read_only=True)
        assert device.capabilities.read_only
        assert bytes(await awaitable.read(device, 0, 8)) == b"x" * 4096
        for change in (
            awaitable.write(device, 0, bytes(512)),
            awaitable.write_same(device, 0, 1, bytes(512)),
            awaitable.compare_and_write(device, 0, b"x" * 512, bytes(512)),
        ):
            with pytest.raises(WriteProtected):
                await change
        with pytest.raises(Unsupported):
            await awaitable.unmap(device, 0, 1)
        await awaitable.flush(device)
        device.close()


class TestFailures:
    @pytest.mark.parametrize(
        ("number", "expected"),
        [
            (errno.ENOSPC, SpaceExhausted),
            (errno.EDQUOT, SpaceExhausted),
            (errno.EROFS, WriteProtected),
            (errno.EIO, MediumFailure),
            (errno.EBADF, MediumFailure),
        ],
    )
    @pytest.mark.parametrize("fua", [False, True], ids=["inline", "thread"])
    async def test_failed_write_is_named_for_its_cause(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        expected: type[Exception],
        fua: bool,
    ) -> None:
        device = sparse(tmp_path / "disk", 512)

        def fail(*arguments: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(file_module.os, "pwritev", fail)
        with pytest.raises(expected, match="disk"):
            await awaitable.write(device, 3, bytes(512), fua=fua)
        monkeypatch.undo()
        await awaitable.write(device, 3, bytes(512), fua=fua)
        device.close()

    def test_no_room_on_a_real_file_system_is_space_exhausted(self) -> None:
        with Path("/dev/full").open("wb") as full:
            error = failure(
                _error_of(lambda: os.write(full.fileno(), b"x")), "disk", 0, writing=True
            )
        assert isinstance(error, SpaceExhausted)

    async def test_medium_error_of_a_read_names_the_block(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        device = sparse(tmp_path / "disk", 512)

        def fail(*arguments: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(file_module.os, "preadv", fail)
        with pytest.raises(MediumFailure) as caught:
            await awaitable.read(device, 9, 2)
        assert (caught.value.lba, caught.value.writing) == (9, False)
        device.close()

    async def test_read_that_would_block_goes_to_a_thread(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        device = sparse(tmp_path / "disk", 512)
        data = pattern(8, 512, 1)
        await awaitable.write(device, 0, data)
        real = os.preadv

        def not_now(descriptor: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
            if flags & os.RWF_NOWAIT:
                raise BlockingIOError(errno.EAGAIN, "would block")
            return real(descriptor, buffers, offset, flags)

        monkeypatch.setattr(file_module.os, "preadv", not_now)
        outcomes = Outcomes()
        found: list[bytes] = []

        def keep(error: object, buffer: object) -> None:
            found.append(bytes(buffer))  # type: ignore[call-overload]
            outcomes.note(None)

        device.read(0, 8, keep)
        assert not found  # not inline
        await outcomes.all_of(1)
        assert found == [data]
        device.close()

    async def test_read_partly_in_the_cache_is_completed_by_a_thread(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        device = sparse(tmp_path / "disk", 512)
        data = pattern(64, 512, 2)
        await awaitable.write(device, 0, data)
        real = os.preadv

        def some(descriptor: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
            if flags & os.RWF_NOWAIT:
                return real(descriptor, [memoryview(buffers[0])[:5000]], offset)
            return real(descriptor, buffers, offset, flags)

        monkeypatch.setattr(file_module.os, "preadv", some)
        assert bytes(await awaitable.read(device, 0, 64)) == data
        device.close()

    async def test_short_write_is_continued(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        device = sparse(tmp_path / "disk", 512)
        real = os.pwritev
        monkeypatch.setattr(
            file_module.os,
            "pwritev",
            lambda fd, buffers, offset, flags: real(
                fd, [memoryview(buffers[0])[:700]], offset, flags
            ),
        )
        data = pattern(8, 512, 3)
        await awaitable.write(device, 0, data)
        assert bytes(await awaitable.read(device, 0, 8)) == data
        device.close()

    async def test_file_that_shrank_is_a_medium_failure(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        device = sparse(path, 512)
        os.truncate(path, 1 << 20)
        with pytest.raises(MediumFailure, match="shrunk"):
            await awaitable.read(device, 2047, 2)
        device.close()


def _error_of(call: Callable[[], object]) -> OSError:
    with pytest.raises(OSError, match="space") as caught:
        call()
    return caught.value


class TestClose:
    async def test_requests_in_threads_complete_as_aborted(self, tmp_path: Path) -> None:
        device = sparse(tmp_path / "disk", 512)
        outcomes = Outcomes()
        device.write(0, bytes(512), outcomes.note, fua=True)
        device.flush(outcomes.note)
        descriptor = device._descriptor
        device.close()
        device.close()
        await outcomes.all_of(2)
        assert [type(outcome) for outcome in outcomes] == [Aborted, Aborted]
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(descriptor)

    async def test_closed_device_answers_aborted(self, tmp_path: Path) -> None:
        device = sparse(tmp_path / "disk", 512)
        device.close()
        for operation in (
            awaitable.read(device, 0, 1),
            awaitable.write(device, 0, bytes(512)),
            awaitable.flush(device),
            awaitable.unmap(device, 0, 1),
        ):
            with pytest.raises(Aborted):
                await operation


class TestOrder:
    async def test_write_and_comparison_on_the_same_blocks_do_not_mix(self, tmp_path: Path) -> None:
        device = sparse(tmp_path / "disk", 512)
        outcomes = Outcomes()
        old, new, later = bytes(512), pattern(1, 512, 1), pattern(1, 512, 2)
        device.compare_and_write(5, old, new, outcomes.note)
        device.write(5, later, outcomes.note)  # waits: it would be inline otherwise
        assert len(outcomes) == 0
        device.compare_and_write(5, later, old, outcomes.note)
        device.compare_and_write(5, new, old, outcomes.note)
        await outcomes.all_of(4)
        assert [type(outcome) for outcome in outcomes] == [
            type(None), type(None), type(None), Miscompare,
        ]  # fmt: skip
        device.close()

    @pytest.mark.parametrize("writing", [False, True], ids=["read", "write"])
    async def test_slow_operation_sends_the_next_ones_to_threads(
        self, tmp_path: Path, writing: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        device = without_nowait(tmp_path / "disk", 512)
        now, cost = 10.0, 0.0

        def clock() -> float:
            nonlocal now
            now += cost
            return now

        monkeypatch.setattr(file_module.time, "monotonic", clock)
        outcomes = Outcomes()

        def ends_inline() -> bool:
            before = len(outcomes)
            if writing:
                device.write(0, bytes(512), outcomes.note)
            else:
                device.read(0, 1, lambda error, _: outcomes.note(error))
            return len(outcomes) > before

        assert ends_inline()
        cost = 0.01
        assert ends_inline(), "this one is slow"
        cost = 0.0
        assert not ends_inline()
        now += 1.1
        assert ends_inline(), "after a while it is tried again"
        await outcomes.all_of(4)
        assert list(outcomes) == [None] * 4
        device.close()


def test_capabilities_of_a_sparse_file(tmp_path: Path) -> None:
    device = sparse(tmp_path / "disk", 512)
    assert device.capabilities.unmap is Level.NATIVE
    assert device.capabilities.unmapped_reads_zero
    assert device.capabilities.unmap_granularity == 8
    device.close()


def test_file_that_another_device_has_is_refused_until_that_one_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    first = FileDevice.open(path, create_bytes=1 << 20)
    with pytest.raises(FileInUse, match="another back end of this controller"):
        FileDevice.open(path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(FileInUse):
        FileDevice.open(tmp_path / "link", read_only=True)
    first.close()
    FileDevice.open(path).close()


def test_file_that_another_process_has_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    with subprocess.Popen(
        ["flock", str(path), "sh", "-c", "echo held; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(FileInUse, match=rf"in use by process {other.pid}"):
            FileDevice.open(path)
        other.stdin.write(b"\n")
        other.stdin.close()
    FileDevice.open(path).close()


def test_read_only_devices_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    one = FileDevice.open(path, read_only=True)
    other = FileDevice.open(path, read_only=True)
    with pytest.raises(FileInUse):
        FileDevice.open(path)
    one.close()
    other.close()
