"""The differential bitmap: when its activity log is written, and who waits for that."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from daiko.backend.worker import Workers
from daiko.pair.bitmap_file import Condition
from pair.bitmap_rig import A_REGION, AN_AREA, OTHER_BOOT, Rig, marked, opened
from simulated_disk import SimulatedDisk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pairs" / "alpha.bitmap"


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
