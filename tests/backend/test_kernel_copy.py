"""Copies between files by the kernel: what is copied, what becomes of holes, where it says no."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daiko.backend import kernel_copy
from daiko.backend.file import FileDevice
from daiko.backend.memory import MemoryDevice
from daiko.device import awaitable
from daiko.device.block import BlockDevice
from daiko.device.error import Aborted, Miscompare, SpaceExhausted, Unsupported
from daiko.device.layer.change_tracking import ChangeTracking
from daiko.device.layer.delay import Delay
from daiko.device.layer.fault import Fault
from daiko.device.layer.layer import Layer
from daiko.device.layer.read_only import ReadOnly
from daiko.device.layer.stats import Stats
from device.suite import Outcomes, pattern
from loop_device import MAY_MAKE_LOOP_DEVICES, loop_device

SIZE = 1 << 20
PAGE = 4096


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder on another file system than tmp_path's."""
    folder = Path(f"/dev/shm/daiko-test-{os.getpid()}-{os.urandom(4).hex()}")
    folder.mkdir()
    yield folder
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def opened(path: Path, *, preallocate: bool = False, block_size: int = 512) -> FileDevice:
    return FileDevice.open(path, block_size, create_bytes=SIZE, preallocate=preallocate)


async def fill(device: BlockDevice, seed: int) -> bytes:
    data = pattern(device.blocks, device.block_size, seed)
    await awaitable.write(device, 0, data)
    return data


async def contents(device: BlockDevice) -> bytes:
    return bytes(await awaitable.read(device, 0, device.blocks))


@pytest.mark.parametrize("source_size", [512, 4096])
@pytest.mark.parametrize("size", [512, 4096])
async def test_copy_lands_where_it_should_and_leaves_its_neighbours_alone(
    tmp_path: Path, source_size: int, size: int
) -> None:
    source = opened(tmp_path / "a", block_size=source_size)
    destination = opened(tmp_path / "b", block_size=size)
    data, before = await fill(source, 1), await fill(destination, 2)
    at, begin, length = 5 * PAGE, 3 * PAGE, 7 * PAGE
    assert await awaitable.copy_from(
        destination, at // size, source, begin // source_size, length // source_size
    )
    expected = before[:at] + data[begin : begin + length] + before[at + length :]
    assert await contents(destination) == expected
    assert await contents(source) == data
    source.close()
    destination.close()


@pytest.mark.parametrize("reversed_", [False, True], ids=["to memory", "to disk"])
async def test_file_systems_do_not_matter(tmp_path: Path, in_memory: Path, reversed_: bool) -> None:
    places = [tmp_path / "a", in_memory / "b"]
    source, destination = map(opened, reversed(places) if reversed_ else places)
    data, before = await fill(source, 3), await fill(destination, 4)
    assert await awaitable.copy_from(destination, 1, source, 1, 1000)
    assert (
        await contents(destination) == before[:512] + data[512 : 1001 * 512] + before[1001 * 512 :]
    )
    source.close()
    destination.close()


if MAY_MAKE_LOOP_DEVICES:

    @pytest.mark.parametrize("way", ["to", "from"])
    async def test_block_devices_take_part(tmp_path: Path, way: str) -> None:
        (tmp_path / "behind").write_bytes(bytes(SIZE))
        with loop_device(tmp_path / "behind") as path:
            disk, file = FileDevice.open(path), opened(tmp_path / "file")
            source, destination = (file, disk) if way == "to" else (disk, file)
            data, before = await fill(source, 5), await fill(destination, 6)
            assert await awaitable.copy_from(destination, 8, source, 16, 64)
            assert (
                await contents(destination)
                == before[: 8 * 512] + data[16 * 512 : 80 * 512] + before[72 * 512 :]
            )
            disk.close()
            file.close()


# --- holes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("preallocate", [False, True], ids=["thin", "preallocated"])
@given(
    written=st.lists(st.tuples(st.integers(0, 255), st.integers(1, 40)), max_size=6),
    at=st.integers(0, 2047),
    begin=st.integers(0, 2047),
    blocks=st.integers(1, 2048),
    seed=st.integers(0, 1 << 30),
)
@settings(max_examples=40)
async def test_sparse_source_reads_the_same_at_the_destination(
    tmp_path_factory: pytest.TempPathFactory,
    preallocate: bool,
    written: list[tuple[int, int]],
    at: int,
    begin: int,
    blocks: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("holes")
    source, destination = opened(folder / "a"), opened(folder / "b", preallocate=preallocate)
    before = await fill(destination, seed)
    for page, pages in written:
        count = min(pages, 256 - page) * PAGE // 512
        await awaitable.write(source, page * PAGE // 512, pattern(count, 512, seed + page))
    data = await contents(source)
    blocks = min(blocks, 2048 - at, 2048 - begin)
    room = os.stat(folder / "b").st_blocks
    assert await awaitable.copy_from(destination, at, source, begin, blocks)
    expected = bytearray(before)
    expected[at * 512 : (at + blocks) * 512] = data[begin * 512 : (begin + blocks) * 512]
    assert await contents(destination) == expected
    if preallocate:
        assert os.stat(folder / "b").st_blocks >= SIZE // 512
        assert os.stat(folder / "b").st_blocks >= room
    source.close()
    destination.close()


async def test_hole_takes_no_room_at_a_thin_destination(tmp_path: Path) -> None:
    source, destination = opened(tmp_path / "a"), opened(tmp_path / "b")
    await fill(destination, 7)
    await awaitable.write(source, 1024, pattern(8, 512, 8))
    assert await awaitable.copy_from(destination, 0, source, 0, source.blocks)
    assert await contents(destination) == await contents(source)
    assert os.stat(tmp_path / "b").st_blocks * 512 <= 4 * PAGE
    source.close()
    destination.close()


async def test_run_of_data_is_looked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = opened(tmp_path / "a"), opened(tmp_path / "b")
    await fill(source, 9)
    looked: list[int] = []
    find = kernel_copy._find
    monkeypatch.setattr(
        kernel_copy,
        "_find",
        lambda descriptor, position: looked.append(position) or find(descriptor, position),
    )
    for lba in range(0, source.blocks, 64):
        assert await awaitable.copy_from(destination, lba, source, lba, 64)
    assert looked == [0]
    assert await contents(destination) == await contents(source)
    source.close()
    destination.close()


@pytest.mark.parametrize("which", ["source", "destination", "neither"])
async def test_room_that_was_promised_is_never_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """A file system that shares extents does so in copy_file_range: it must not be asked to."""
    source = opened(tmp_path / "a", preallocate=which == "source")
    destination = opened(tmp_path / "b", preallocate=which == "destination")
    data = await fill(source, 10)
    asked: list[int] = []
    copy_file_range = os.copy_file_range
    monkeypatch.setattr(
        os,
        "copy_file_range",
        lambda *arguments: asked.append(1) or copy_file_range(*arguments),
    )
    assert await awaitable.copy_from(destination, 0, source, 0, source.blocks)
    assert await contents(destination) == data
    assert bool(asked) == (which == "neither")
    source.close()
    destination.close()


# --- beside other requests --------------------------------------------------------------------


async def test_compare_and_write_meets_a_copy_before_or_after_it(tmp_path: Path) -> None:
    """Whatever the order, what is compared is what is overwritten."""
    source, destination = opened(tmp_path / "a"), opened(tmp_path / "b")
    new = pattern(1, 512, 11)
    for turn in range(10):
        data, before = await fill(source, 100 + turn), await fill(destination, 200 + turn)
        lba = 50 * turn % source.blocks
        old = before[lba * 512 : (lba + 1) * 512]
        outcomes = Outcomes()
        assert destination.copy_from(0, source, 0, source.blocks, outcomes.note)
        destination.compare_and_write(lba, old, new, outcomes.note)
        await outcomes.all_of(2)
        after = bytes(await awaitable.read(destination, lba, 1))
        # The copy came first, since it held the blocks: other data is found, and stays.
        assert sum(isinstance(outcome, Miscompare) for outcome in outcomes) == 1
        assert after == data[lba * 512 : (lba + 1) * 512]
    source.close()
    destination.close()


async def test_copy_waits_for_a_compare_and_write_and_overwrites_it(tmp_path: Path) -> None:
    source, destination = opened(tmp_path / "a"), opened(tmp_path / "b")
    data, before = await fill(source, 12), await fill(destination, 13)
    outcomes = Outcomes()
    destination.compare_and_write(3, before[3 * 512 : 4 * 512], pattern(1, 512, 14), outcomes.note)
    assert destination.copy_from(0, source, 0, source.blocks, outcomes.note)
    await outcomes.all_of(2)
    assert outcomes == [None, None]
    assert await contents(destination) == data
    source.close()
    destination.close()


async def test_requests_are_served_while_copies_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies have threads of their own: a flush does not queue behind them."""
    source, destination = opened(tmp_path / "a"), opened(tmp_path / "b")
    data = await fill(source, 15)
    outcomes = Outcomes()
    may_go_on = threading.Event()
    copy_file_range = os.copy_file_range

    def held(*arguments: int) -> int:
        assert may_go_on.wait(60)
        return copy_file_range(*arguments)

    monkeypatch.setattr(os, "copy_file_range", held)
    try:
        for _ in range(20):
            assert destination.copy_from(0, source, 0, source.blocks, outcomes.note)
        await awaitable.write(destination, 0, pattern(1, 512, 16), fua=True)
        await awaitable.flush(destination)
        assert not outcomes
    finally:
        may_go_on.set()
    await outcomes.all_of(20)
    assert outcomes == [None] * 20
    assert await contents(destination) == data
    source.close()
    destination.close()


async def test_closing_either_end_ends_the_copy(tmp_path: Path) -> None:
    source, destination = opened(tmp_path / "a"), opened(tmp_path / "b")
    data = await fill(source, 16)
    outcomes = Outcomes()
    assert destination.copy_from(0, source, 0, source.blocks, outcomes.note)
    source.close()  # a copy that was begun has its own hold on the file
    await outcomes.all_of(1)
    assert outcomes == [None]
    assert await contents(destination) == data
    assert not await awaitable.copy_from(destination, 0, source, 0, 8)
    source = opened(tmp_path / "a")
    assert destination.copy_from(0, source, 0, source.blocks, outcomes.note)
    destination.close()
    await outcomes.all_of(2)
    assert isinstance(outcomes[1], Aborted)
    assert not await awaitable.copy_from(destination, 0, source, 0, 8)
    source.close()


# --- where it says no -------------------------------------------------------------------------


async def test_full_file_system_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = opened(tmp_path / "a"), opened(tmp_path / "b")
    await fill(source, 17)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(SpaceExhausted):
        await awaitable.copy_from(destination, 0, source, 0, 8)
    source.close()
    destination.close()


async def test_kernel_that_can_neither_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = opened(tmp_path / "a"), opened(tmp_path / "b")
    await fill(source, 18)

    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(os, "sendfile", refuse)
    with pytest.raises(Unsupported, match="does not copy"):
        await awaitable.copy_from(destination, 0, source, 0, 8)
    source.close()
    destination.close()


async def test_read_only_destination_is_left_alone(tmp_path: Path) -> None:
    source = opened(tmp_path / "a")
    opened(tmp_path / "b").close()
    destination = FileDevice.open(tmp_path / "b", read_only=True)
    assert not await awaitable.copy_from(destination, 0, source, 0, 8)
    assert await awaitable.copy_from(source, 0, destination, 0, 8)
    source.close()
    destination.close()


@pytest.mark.parametrize("kind", [Fault, Delay, ReadOnly, Stats, Layer])
@pytest.mark.parametrize("side", ["source", "destination"])
async def test_no_copy_goes_past_a_layer(
    tmp_path: Path, kind: Callable[[BlockDevice], BlockDevice], side: str
) -> None:
    source, destination = opened(tmp_path / "a"), opened(tmp_path / "b")
    before = await fill(destination, 20)
    from_, to = (kind(source), destination) if side == "source" else (source, kind(destination))
    assert not await awaitable.copy_from(to, 0, from_, 0, 8)
    assert not await awaitable.copy_from(destination, 0, MemoryDevice(256), 0, 8)
    assert await contents(destination) == before
    source.close()
    destination.close()


async def test_change_tracking_notes_a_copy_as_a_write(tmp_path: Path) -> None:
    source, destination = opened(tmp_path / "a", block_size=4096), opened(tmp_path / "b")
    data = await fill(source, 21)
    tracked = ChangeTracking(destination)
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    assert tracked.copy_from(16, ChangeTracking(source), 4, 2, lambda _: done.set_result(None))
    assert list(tracked.ranges()) == [(16, 16)]
    await done
    assert (await contents(destination))[16 * 512 : 32 * 512] == data[4 * 4096 : 6 * 4096]
    source.close()
    destination.close()
