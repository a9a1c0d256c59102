"""The differential bitmap: what may be sent when, and what a file is worth afterwards.

Crashes and power cuts at any moment are in `test_crashes.py`.
"""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daiko.backend.worker import Workers
from daiko.pair.bitmap_file import AREA, Condition
from daiko.pair.differential_bitmap import DifferentialBitmap, this_boot
from simulated_disk import HandThreads, SimulatedDisk

GIB = 1 << 30
BLOCKS = 8 * GIB // 512
A_REGION = (64 << 10) // 512
AN_AREA = AREA // 512
IDENTITY = bytes(range(16))
OTHER_BOOT = b"another boot of."


def opened(path: Path | None, **settings: object) -> DifferentialBitmap:
    given = {"blocks": BLOCKS, "block_size": 512, "identity": IDENTITY, **settings}
    return DifferentialBitmap.open(path, **given)  # type: ignore[arg-type]


def end_process(bitmap: DifferentialBitmap) -> None:
    """All that is left of it is the file as it is in the page cache."""
    assert bitmap._file is not None
    bitmap._file.close()


async def marked(bitmap: DifferentialBitmap, lba: int, blocks: int = 8) -> OSError | None:
    """Until a write may be sent, or never will be."""
    told: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
    bitmap.when_marked(lba, blocks, told.set_result)
    return await told


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pairs" / "alpha.bitmap"


# --- on real files


async def test_write_waits_once_for_its_area(path: Path) -> None:
    bitmap = opened(path)
    assert not bitmap.mark(100, 8)
    assert await marked(bitmap, 100) is None
    assert bitmap.hot_areas == 1
    assert bitmap.mark(AN_AREA - 1, 1)
    assert not bitmap.mark(AN_AREA - 1, 2)
    assert bitmap.marked_bytes == 3 * 65536
    await bitmap.close()


async def test_write_to_what_is_marked_does_not_wait_wherever_it_is(path: Path) -> None:
    bitmap = opened(path)
    bitmap.mark_all()
    assert not bitmap.mark(0, 8)
    await bitmap.sync()
    assert all(bitmap.mark(lba, 8) for lba in range(0, BLOCKS, AN_AREA))
    assert bitmap.mark(0, BLOCKS)
    assert (bitmap.hot_areas, bitmap.marked_bytes) == (0, 8 * GIB)
    await bitmap.close()


async def test_clear_and_what_is_told_of_it(path: Path) -> None:
    bitmap = opened(path)
    assert await marked(bitmap, 0, 10 * A_REGION) is None
    bitmap.clear(2, 4)
    assert list(bitmap.regions.runs()) == [(0, 2), (5, 5)]
    assert bitmap.marked_bytes == 7 * 65536
    assert bitmap.is_marked(A_REGION, A_REGION + 1)
    assert not bitmap.is_marked(2 * A_REGION, 3 * A_REGION)
    assert not bitmap.is_marked(0, 0)
    await bitmap.close()


async def test_clear_bit_in_a_hot_area_is_marked_again_at_once(path: Path) -> None:
    bitmap = opened(path)
    assert await marked(bitmap, 0) is None
    bitmap.clear(0, 0)
    assert bitmap.mark(0, 8)
    await bitmap.close()


async def test_no_blocks_are_marked_at_once(path: Path) -> None:
    bitmap = opened(path)
    assert bitmap.mark(7, 0)
    assert bitmap.marked_bytes == 0
    await bitmap.close()


async def test_file_that_was_closed_is_exact_on_any_boot(path: Path) -> None:
    bitmap = opened(path)
    assert await marked(bitmap, 100) is None
    await bitmap.close()
    again = opened(path, boot_id=OTHER_BOOT)
    assert again.found.condition is Condition.EXACT
    assert list(again.regions.runs()) == [(0, 1)]
    await again.close()


async def test_file_of_a_process_that_ended_is_exact_on_the_same_boot(path: Path) -> None:
    bitmap = opened(path)
    assert await marked(bitmap, 100) is None
    bitmap.mark(5 * AN_AREA, 1)
    bitmap.clear(0, 0)
    end_process(bitmap)
    again = opened(path)
    assert again.found.condition is Condition.EXACT
    assert again.regions == bitmap.regions
    await again.close()


async def test_file_of_another_boot_has_its_hot_areas_marked(path: Path) -> None:
    bitmap = opened(path)
    assert await marked(bitmap, AN_AREA) is None
    end_process(bitmap)
    again = opened(path, boot_id=OTHER_BOOT)
    assert again.found.condition is Condition.AFTER_POWER_CUT
    assert again.found.marked_bytes == AREA - 65536
    assert list(again.regions.runs()) == [(256, 256)]
    await again.close()


_CHILD = """
import asyncio, sys
from pathlib import Path
from daiko.pair.differential_bitmap import DifferentialBitmap

async def main():
    bitmap = DifferentialBitmap.open(
        Path(sys.argv[1]), blocks=16777216, block_size=512, identity=bytes(range(16))
    )
    bitmap.when_marked(32768, 8, lambda error: print("error" if error else "marked", flush=True))
    await bitmap.sync()
    for region in range(300, 500, 7):
        bitmap.mark(region * 128, 1)
    bitmap.clear(307, 321)
    print("done", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_bits_outlive_a_process_that_is_killed(path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _CHILD, str(path)), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert [await child.stdout.readline() for _ in range(2)] == [b"marked\n", b"done\n"]
    with pytest.raises(OSError, match="already open") as caught:
        opened(path)
    assert caught.value.errno == errno.EBUSY
    child.kill()
    await child.wait()
    bitmap = opened(path)
    assert bitmap.found.condition is Condition.EXACT
    expected = {256, *range(300, 500, 7)} - set(range(307, 322))
    assert list(bitmap.regions.runs()) == [(region, 1) for region in sorted(expected)]
    await bitmap.close()


async def test_many_bitmaps_share_threads(tmp_path: Path) -> None:
    workers = Workers(2, name="bitmaps")
    bitmaps = [opened(tmp_path / f"{n}.bitmap", workers=workers) for n in range(5)]
    assert await asyncio.gather(*(marked(bitmap, 0) for bitmap in bitmaps)) == [None] * 5
    await bitmaps[0].close()
    assert await marked(bitmaps[1], AN_AREA) is None
    await asyncio.gather(*(bitmap.close() for bitmap in bitmaps))
    workers.stop(lambda: None)


async def test_bitmap_that_is_forgotten_leaves_no_file(path: Path) -> None:
    bitmap = opened(path)
    assert await marked(bitmap, 0) is None
    bitmap.forget()
    bitmap.forget()
    assert list(path.parent.iterdir()) == []
    again = opened(path)
    assert again.found.condition is Condition.NEW
    again.forget()


def put_a_folder_in_the_place_of(path: Path) -> Path:
    """Where the file is then."""
    moved = path.rename(path.with_name("moved.bitmap"))
    path.mkdir()
    return moved


async def test_file_that_cannot_be_taken_away_is_let_go_of(path: Path) -> None:
    bitmap = opened(path)
    moved = put_a_folder_in_the_place_of(path)
    with pytest.raises(OSError, match=r"alpha\.bitmap"):
        bitmap.forget()
    again = opened(moved)
    again.forget()


def test_boot_id_is_the_kernels() -> None:
    text = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert f"{this_boot().hex()}" == text.replace("-", "")


async def test_bitmap_without_a_file_marks_at_once() -> None:
    bitmap = opened(None)
    assert bitmap.found.condition is Condition.NEW
    assert bitmap.mark(0, 8)
    assert await marked(bitmap, AN_AREA) is None
    bitmap.clear(0, 0)
    bitmap.mark(5, 1)
    await bitmap.sync()
    assert list(bitmap.regions.runs()) == [(0, 1), (256, 1)]
    await bitmap.close()
    assert not bitmap.mark(0, 8)
    opened(None).forget()


async def test_without_power_safety_nothing_waits_and_a_power_cut_marks_all(path: Path) -> None:
    bitmap = opened(path, power_safe=False)
    assert all(bitmap.mark(lba, 8) for lba in range(0, BLOCKS, AN_AREA))
    bitmap.clear(0, bitmap.regions.regions - 2)
    assert bitmap.hot_areas == 0
    await bitmap.sync()
    assert bitmap.mark(0, 8)
    end_process(bitmap)
    again = opened(path, power_safe=False)
    assert again.found.condition is Condition.EXACT
    assert again.regions == bitmap.regions
    end_process(again)
    after = opened(path, boot_id=OTHER_BOOT)
    assert after.found.condition is Condition.LOST
    assert after.marked_bytes == 8 * GIB
    await after.close()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"blocks": 0}, "a volume of 0 blocks"),
        ({"block_size": 1024}, "blocks of 1024 bytes"),
        ({"granularity": 2048}, "regions of 2048 bytes"),
        ({"granularity": 2 << 20}, "regions of 2097152 bytes"),
        ({"granularity": 65535}, "regions of 65535 bytes"),
        ({"granularity": 0}, "regions of 0 bytes"),
        ({"identity": b"short"}, "an identity of 5 bytes"),
        ({"hot_bytes": (32 << 20) - 1}, "33554431 bytes that a power cut may mark"),
        ({"hot_bytes": (16 << 30) + 1}, "17179869185 bytes that a power cut may mark"),
        ({"boot_id": b"short"}, "a boot id of 5 bytes"),
    ],
    ids=str,
)
def test_setting_that_cannot_be_is_refused(
    path: Path, setting: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        opened(path, **setting)
    assert not path.exists()


@pytest.mark.parametrize("granularity", [4 << 10, 1 << 20])
@pytest.mark.parametrize("block_size", [512, 4096])
@pytest.mark.parametrize("hot_bytes", [32 << 20, 16 << 30])
async def test_settings_at_their_ends_work(
    path: Path, granularity: int, block_size: int, hot_bytes: int
) -> None:
    settings = {"granularity": granularity, "block_size": block_size, "blocks": 100_000}
    bitmap = opened(path, hot_bytes=hot_bytes, **settings)
    assert await marked(bitmap, 99_999, 1) is None
    end_process(bitmap)
    again = opened(path, boot_id=OTHER_BOOT, hot_bytes=hot_bytes, **settings)
    blocks = 100_000 - 99_999 // (AREA // block_size) * (AREA // block_size)
    assert again.marked_bytes == blocks * block_size
    await again.close()


async def test_regions_that_the_volume_has_not_are_refused(path: Path) -> None:
    bitmap = opened(path)
    for lba, blocks in ((BLOCKS, 1), (-1, 1), (BLOCKS - 1, 2)):
        with pytest.raises(ValueError, match="are not a range"):
            bitmap.mark(lba, blocks)
        with pytest.raises(ValueError, match="are not a range"):
            bitmap.is_marked(lba, blocks)
    with pytest.raises(ValueError, match="are not a range"):
        bitmap.clear(0, bitmap.regions.regions)
    await bitmap.close()


# --- on a disk and with threads that do as they are told


class Rig:
    def __init__(self, **settings: object) -> None:
        self.disk = SimulatedDisk()
        self.threads = HandThreads()
        self.settings = settings
        self.bitmap = self.open()
        self.told: list[tuple[int, OSError | None]] = []

    def open(self, boot: bytes = b"the first boot..") -> DifferentialBitmap:
        return opened(
            Path("simulated"),
            boot_id=boot,
            workers=self.threads,
            open_file=lambda path: self.disk,
            **self.settings,
        )

    def open_again(self) -> DifferentialBitmap:
        """By the next process on the same boot."""
        self.disk.opened()
        return self.open()

    def wait(self, lba: int, blocks: int = 8) -> None:
        self.bitmap.when_marked(lba, blocks, lambda error: self.told.append((lba, error)))

    def heat(self, *areas: int) -> None:
        for area in areas:
            self.wait(area * AN_AREA)
        self.threads.settle()
        self.told.clear()

    def run(self, what: Callable[[], object]) -> None:
        self.threads.at_once = True
        asyncio.run(what())  # type: ignore[arg-type]
        self.threads.at_once = False


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_those_who_wait_share_a_commit(rig: Rig) -> None:
    before = rig.disk.syncs
    rig.wait(0)
    for area in range(1, 9):
        rig.wait(area * AN_AREA)
    assert rig.told == []
    rig.threads.settle()
    assert rig.told == [(area * AN_AREA, None) for area in range(9)]
    assert rig.disk.syncs - before == 2
    assert rig.bitmap.hot_areas == 9


def test_who_comes_to_an_area_that_is_entering_does_not_wait_for_another_commit(rig: Rig) -> None:
    rig.wait(0)
    rig.threads.work()
    rig.wait(A_REGION)
    rig.threads.tell()
    assert rig.told == [(0, None), (A_REGION, None)]
    assert not rig.threads.has_work


def test_bit_set_while_a_commit_is_under_way_waits_for_the_next(rig: Rig) -> None:
    rig.wait(0)
    assert not rig.bitmap.mark(AN_AREA, 8)
    rig.threads.work()
    rig.threads.tell()
    assert not rig.bitmap.mark(AN_AREA, 8)
    rig.wait(AN_AREA)
    rig.threads.settle()
    assert rig.bitmap.mark(AN_AREA, 8)


def test_sync_waits_for_a_commit_that_begins_after_it(rig: Rig) -> None:
    async def synchronize() -> None:
        rig.wait(0)
        task = asyncio.create_task(rig.bitmap.sync())
        await asyncio.sleep(0)
        rig.threads.work()
        rig.threads.tell()
        await asyncio.sleep(0)
        assert (rig.told, task.done()) == ([(0, None)], False)
        rig.threads.settle()
        await task

    asyncio.run(synchronize())


def test_waiter_is_told_even_if_its_area_never_becomes_hot() -> None:
    """The one place in the log is taken by an area in which bits are set all the time, and so are
    bits in the waiter's own area."""
    rig = Rig(hot_bytes=32 << 20)
    rig.heat(0)
    region = iter(range(1, 250))

    def bits_are_set() -> None:
        number = next(region)
        assert rig.bitmap.mark(number * A_REGION, 1)
        assert not rig.bitmap.mark(AN_AREA + number * A_REGION, 1)

    rig.disk.during_sync = bits_are_set
    bits_are_set()
    rig.wait(AN_AREA)
    rig.threads.settle()
    assert rig.told == [(AN_AREA, None)]
    assert rig.bitmap.hot_areas == 1


def test_wide_mark_leaves_hot_areas_as_they_are(rig: Rig) -> None:
    rig.heat(1, 3)
    assert not rig.bitmap.mark(0, 5 * AN_AREA)
    assert rig.bitmap.mark(AN_AREA, AN_AREA)
    assert rig.bitmap.mark(3 * AN_AREA, 8)
    assert not rig.bitmap.mark(2 * AN_AREA, 8)


def test_area_without_a_clear_bit_takes_no_place_in_the_log(rig: Rig) -> None:
    rig.wait(AN_AREA // 2, 3 * AN_AREA)
    rig.wait(10 * AN_AREA, 4 * AN_AREA)
    rig.threads.settle()
    assert [error for _, error in rig.told] == [None, None]
    assert rig.bitmap.hot_areas == 2
    assert rig.bitmap.mark(0, 8)
    assert rig.bitmap.mark(3 * AN_AREA, AN_AREA)


def test_write_larger_than_the_whole_log_is_marked_all_the_same() -> None:
    rig = Rig(hot_bytes=32 << 20)
    rig.wait(AN_AREA // 2, 100 * AN_AREA)
    rig.threads.settle()
    assert rig.told == [(AN_AREA // 2, None)]
    assert rig.bitmap.mark(50 * AN_AREA, 8)


def test_log_has_three_quarters_of_the_hot_bytes() -> None:
    rig = Rig(hot_bytes=64 << 20)
    rig.heat(*range(20))
    assert rig.bitmap.hot_areas == 3
    rig.heat(*range(20, 40))
    rig.heat(*range(40, 60))
    assert rig.bitmap.hot_areas == 3


def test_what_is_cleared_reaches_stable_storage_by_itself_before_it_is_too_much() -> None:
    rig = Rig(hot_bytes=64 << 20)
    rig.bitmap.mark_all()
    rig.run(rig.bitmap.sync)
    # An eighth of 64 MiB is 128 regions.
    rig.bitmap.clear(0, 126)
    assert not rig.threads.has_work
    rig.bitmap.clear(100, 127)
    assert rig.threads.has_work
    rig.bitmap.clear(200, 400)
    rig.threads.work()
    rig.threads.tell()
    assert rig.threads.has_work
    rig.threads.settle()
    rig.disk.cut_power(lambda versions: 0)
    after = rig.open(OTHER_BOOT)
    assert list(after.regions.runs())[:2] == [(128, 72), (401, after.regions.regions - 401)]
    assert after.found.marked_bytes == 0


def test_waiter_whose_bit_is_cleared_meanwhile_is_marked_again(rig: Rig) -> None:
    rig.wait(0)
    rig.bitmap.clear(0, 0)
    rig.threads.settle()
    assert rig.told == [(0, None)]
    assert rig.bitmap.is_marked(0, 8)


def test_who_is_told_may_mark_and_wait_again(rig: Rig) -> None:
    told: list[str] = []

    def first(error: OSError | None) -> None:
        assert rig.bitmap.mark(A_REGION, 8)
        rig.bitmap.when_marked(AN_AREA, 8, lambda error: told.append(f"second {error}"))
        told.append(f"first {error}")

    rig.bitmap.when_marked(0, 8, first)
    rig.threads.settle()
    assert told == ["first None", "second None"]


# --- the end


async def test_closed_bitmap_refuses_and_still_says_what_is_marked(path: Path) -> None:
    bitmap = opened(path)
    told: list[OSError | None] = []
    bitmap.when_marked(0, 8, told.append)
    await bitmap.close()
    assert told == [None]
    await bitmap.close()
    assert not bitmap.mark(0, 8)
    error = await marked(bitmap, 0)
    assert error is not None
    assert (error.errno, str(error)) == (errno.EBADF, "[Errno 9] the bitmap is closed")
    with pytest.raises(OSError, match="the bitmap is closed"):
        await bitmap.sync()
    bitmap.clear(0, 0)
    bitmap.mark(A_REGION, 8)
    assert list(bitmap.regions.runs()) == [(1, 1)]
    assert bitmap.failed is None
    again = opened(path)
    assert list(again.regions.runs()) == [(0, 1)]
    await again.close()


async def test_file_is_let_go_of_when_the_closing_is_cancelled(path: Path) -> None:
    workers = Workers(1)
    bitmap = opened(path, workers=workers)
    assert await marked(bitmap, 0) is None
    closing = asyncio.create_task(bitmap.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    # The only thread comes to this when it is done with that.
    released = asyncio.get_running_loop().create_future()
    workers.run(lambda: b"", released.set_result)
    await released
    workers.stop(lambda: None)
    again = opened(path, boot_id=OTHER_BOOT)
    assert again.found.condition is Condition.EXACT
    await again.close()


def test_bitmap_forgotten_while_a_commit_is_under_way(rig: Rig) -> None:
    rig.wait(0)
    rig.bitmap.forget()
    assert (rig.disk.is_removed, rig.disk.is_closed, rig.told) == (True, False, [])
    rig.threads.settle()
    assert rig.disk.is_closed
    assert [(lba, error and error.errno) for lba, error in rig.told] == [(0, errno.EBADF)]
    assert not rig.bitmap.mark(0, 8)


def test_bitmap_forgotten_by_one_who_was_told(rig: Rig) -> None:
    rig.bitmap.when_marked(0, 8, lambda error: rig.bitmap.forget())
    rig.wait(A_REGION)
    rig.threads.work()
    rig.wait(AN_AREA)
    rig.threads.settle()
    # Told: one that was marked; one that waited for the next commit, which never comes.
    assert [(lba, error and error.errno) for lba, error in rig.told] == [
        (AN_AREA, errno.EBADF),
        (A_REGION, None),
    ]
    assert rig.disk.is_closed


# --- failure


def is_failed(rig: Rig) -> bool:
    """Does it refuse everything, with what failed first, and still know its bits?"""
    failed = rig.bitmap.failed
    assert failed is not None
    assert failed.errno == errno.EIO
    rig.told.clear()
    assert not rig.bitmap.mark(0, 8)
    assert not rig.bitmap.mark(7 * AN_AREA, 8)
    rig.wait(0)
    rig.wait(7 * AN_AREA)
    with pytest.raises(OSError, match="simulated"):
        rig.run(rig.bitmap.sync)
    assert rig.bitmap.is_marked(7 * AN_AREA, 8)
    rig.bitmap.clear(7 * 256, 7 * 256)
    assert not rig.bitmap.is_marked(7 * AN_AREA, 8)
    return rig.told == [(0, failed), (7 * AN_AREA, failed)] and not rig.threads.has_work


@pytest.mark.parametrize("mends", [False, True], ids=["for good", "once"])
def test_write_that_fails_is_told_from_then_on(rig: Rig, mends: bool) -> None:
    rig.heat(0)
    rig.disk.broken.add("write")
    assert not rig.bitmap.mark(A_REGION, 8)
    if mends:
        rig.disk.broken.clear()
    assert is_failed(rig)
    with pytest.raises(OSError, match="simulated"):
        rig.run(rig.bitmap.close)
    assert rig.disk.is_closed


def test_sync_raises_what_it_fails_with(rig: Rig) -> None:
    rig.disk.broken.add("sync")
    with pytest.raises(OSError, match="simulated") as caught:
        rig.run(rig.bitmap.sync)
    assert caught.value is not rig.bitmap.failed
    assert is_failed(rig)


@pytest.mark.parametrize("mends", [False, True], ids=["for good", "once"])
def test_sync_that_fails_is_told_from_then_on(rig: Rig, mends: bool) -> None:
    rig.heat(0)
    rig.disk.broken.add("sync")
    rig.wait(AN_AREA)
    rig.wait(2 * AN_AREA)
    rig.threads.work()
    if mends:
        rig.disk.broken.clear()
    rig.threads.settle()
    assert [(lba, error and error.errno) for lba, error in rig.told] == [
        (AN_AREA, errno.EIO),
        (2 * AN_AREA, errno.EIO),
    ]
    assert is_failed(rig)


def test_write_that_fails_while_a_commit_is_under_way_fails_who_waits(rig: Rig) -> None:
    rig.wait(0)
    rig.disk.broken.add("write")
    assert not rig.bitmap.mark(A_REGION, 8)
    rig.disk.broken.clear()
    rig.threads.settle()
    assert [(lba, error and error.errno) for lba, error in rig.told] == [(0, errno.EIO)]
    assert is_failed(rig)


def test_clear_that_fails_is_a_failure_too(rig: Rig) -> None:
    rig.heat(0)
    rig.disk.broken.add("write")
    rig.bitmap.clear(0, 0)
    assert not rig.bitmap.is_marked(0, 8)
    assert is_failed(rig)


def test_file_that_failed_is_not_taken_for_exact_on_the_same_boot(rig: Rig) -> None:
    rig.heat(0)
    assert rig.bitmap.mark(A_REGION, 8)
    rig.disk.broken.add("sync")
    rig.wait(AN_AREA)
    rig.threads.settle()
    # The kernel drops what it could not write.
    rig.disk.forget_page(3)
    rig.disk.broken.clear()
    again = rig.open_again()
    assert again.found.condition is Condition.AFTER_POWER_CUT
    assert again.found.reason == "it could not be written"
    assert again.regions.all_in(0, 255)


def test_closing_that_fails_is_told_and_noted(rig: Rig) -> None:
    rig.heat(0)
    rig.disk.broken.add("sync")
    with pytest.raises(OSError, match="simulated"):
        rig.run(rig.bitmap.close)
    assert rig.disk.is_closed
    rig.disk.broken.clear()
    again = rig.open_again()
    assert again.found.reason == "it could not be written"
    assert again.regions.all_in(0, 255)


async def test_closing_waits_for_a_commit_of_a_bitmap_that_has_failed(path: Path) -> None:
    disk = SimulatedDisk()
    bitmap = opened(path, open_file=lambda path: disk)
    told: list[OSError | None] = []
    bitmap.when_marked(0, 8, told.append)
    disk.broken.add("write")
    bitmap.mark(A_REGION, 8)
    with pytest.raises(OSError, match="simulated"):
        await bitmap.close()
    assert [error and error.errno for error in told] == [errno.EIO]
    assert disk.is_closed


def test_file_that_cannot_be_opened_is_let_go_of() -> None:
    disk = SimulatedDisk()
    disk.broken.add("allocate")
    with pytest.raises(OSError, match="simulated"):
        opened(Path("simulated"), open_file=lambda path: disk)
    assert disk.is_closed
