"""The differential bitmap: what may be sent when, and what a file is worth afterwards.

Here on real files; when its activity log is written is in `test_bitmap_commits.py`, crashes and
power cuts at any moment are in `test_crashes.py`.
"""

from __future__ import annotations

import asyncio
import errno
import sys
from pathlib import Path

import pytest

from daiko.backend.worker import Workers
from daiko.pair.bitmap_file import AREA, Condition
from daiko.pair.differential_bitmap import DifferentialBitmap, this_boot
from pair.bitmap_rig import A_REGION, AN_AREA, BLOCKS, GIB, OTHER_BOOT, marked, opened


def end_process(bitmap: DifferentialBitmap) -> None:
    """All that is left of it is the file as it is in the page cache."""
    assert bitmap._file is not None
    bitmap._file.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pairs" / "alpha.bitmap"


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
