"""The file of a bitmap: its bytes, and what it is worth after anything that may happen to it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from daiko.mapping.region_bitmap import RegionBitmap
from daiko.pair.bitmap_file import AREA, BitmapFile, Condition, Found, Geometry, State
from simulated_disk import PAGE, PowerCut, SimulatedDisk

GEOMETRY = Geometry(
    identity=bytes(range(16)), blocks=(3 * 4080 * 8 + 100) * 16, block_size=4096, granularity=65536
)
"""Three full pages of bits and a bit of a fourth."""
REGIONS = GEOMETRY.blocks // 16
PAGE_REGIONS = 4080 * 8
BOOT, OTHER_BOOT = b"B" * 16, b"O" * 16
MARKED = [(0, 3), (PAGE_REGIONS - 2, 4), (REGIONS - 1, 1)]
"""Runs."""
HOT = (0, 2, 381, 382)
"""Areas; the last but one is cut short, the last lies beyond the end."""


def opened(
    disk: SimulatedDisk,
    geometry: Geometry = GEOMETRY,
    *,
    boot: bytes = BOOT,
    power_safe: bool = True,
) -> tuple[BitmapFile, RegionBitmap, Found]:
    bitmap = RegionBitmap(geometry.blocks, geometry.shift)
    file = BitmapFile(disk, geometry, bitmap, boot_id=boot, power_safe=power_safe)
    return file, bitmap, file.load()


def written(
    state: State = State.OPEN, areas: tuple[int, ...] = HOT, *, power_safe: bool = True
) -> SimulatedDisk:
    """A file with some bits, as it is on stable storage."""
    disk = SimulatedDisk()
    file, bitmap, _ = opened(disk, power_safe=power_safe)
    for first, regions in MARKED:
        bitmap.mark(first, first + regions - 1)
        file.write_regions(first, first + regions - 1)
    file.sync()
    file.write_log(state, areas)
    file.sync()
    return disk.opened()


def whole(bitmap: RegionBitmap) -> bool:
    return bitmap.set_regions == bitmap.regions


# --- its bytes


def test_header_in_bytes() -> None:
    body = (
        b"DAIKODBM"  # magic
        + bytes.fromhex("00000001")  # version
        + bytes.fromhex("00001000")  # block size
        + bytes.fromhex("000000000017ee40")  # blocks
        + bytes.fromhex("00010000")  # granularity
        + bytes.fromhex("000102030405060708090a0b0c0d0e0f")  # identity
    )
    # The CRC is of the fields with zeros in its own place.
    crc = zlib.crc32(body + bytes(4))
    assert written().page(0) == (body + struct.pack(">I", crc)).ljust(PAGE, b"\0")


def test_log_pages_in_bytes() -> None:
    disk = written()
    stamp = struct.unpack(">I", disk.page(0)[44:48])[0]

    def page(head: str, areas: str) -> bytes:
        fields = b"DAIKOLOG" + bytes.fromhex(head[:16]) + BOOT + bytes.fromhex(head[16:])
        crc = zlib.crc32(fields + bytes(4) + bytes.fromhex(areas), stamp)
        return (fields + struct.pack(">I", crc) + bytes.fromhex(areas)).ljust(PAGE, b"\0")

    # sequence, (boot id,) state, power-safe, number of areas
    assert disk.page(2) == page("000000000000000101010000", "")
    assert disk.page(1) == page("000000000000000201010004", "00000000000000020000017d0000017e")


def test_pages_of_bits_in_bytes() -> None:
    disk = written()
    stamp = disk.page(0)[44:48]
    pages = {
        0: (b"\x07" + bytes(4078) + b"\xc0"),
        1: (b"\x03" + bytes(4079)),
        2: bytes(4080),
        3: (bytes(12) + b"\x08" + bytes(4067)),
    }
    for number, bits in pages.items():
        assert disk.page(3 + number) == b"DBMP" + stamp + struct.pack(">Q", number) + bits
    assert disk.size() == 7 * PAGE


def test_log_pages_are_written_by_turns() -> None:
    disk = SimulatedDisk()
    file, _, _ = opened(disk)
    before = disk.page(1), disk.page(2)
    file.write_log(State.OPEN, (1,))
    assert disk.page(2) == before[1]
    assert disk.page(1) != before[0]
    first = disk.page(1)
    file.write_log(State.OPEN, (2,))
    assert disk.page(1) == first
    assert disk.page(2) != before[1]


# --- what is found


def test_new_file_has_no_bit_and_is_there_after_a_power_cut() -> None:
    disk = SimulatedDisk()
    _, bitmap, found = opened(disk)
    assert (found, str(found), bitmap.set_regions) == (Found(Condition.NEW), "new", 0)
    disk.cut_power(lambda versions: 0)
    _, bitmap, found = opened(disk, boot=OTHER_BOOT)
    assert (found.condition, found.marked_bytes) == (Condition.AFTER_POWER_CUT, 0)
    assert bitmap.set_regions == 0


@pytest.mark.parametrize(
    ("state", "boot"),
    [(State.OPEN, BOOT), (State.CLOSED, BOOT), (State.CLOSED, OTHER_BOOT)],
    ids=["process ended", "closed", "closed before the machine stopped"],
)
@pytest.mark.parametrize("power_safe", [True, False])
def test_file_is_exact(state: State, boot: bytes, power_safe: bool) -> None:
    _, bitmap, found = opened(written(state, power_safe=power_safe), boot=boot)
    assert (found, str(found)) == (Found(Condition.EXACT), "exact")
    assert list(bitmap.runs()) == MARKED


@pytest.mark.parametrize(
    ("state", "boot", "reason"),
    [
        (State.OPEN, OTHER_BOOT, "the machine stopped while it was in use"),
        (State.FAILED, BOOT, "it could not be written"),
        (State.FAILED, OTHER_BOOT, "it could not be written"),
    ],
    ids=["power cut", "failed", "failed before a power cut"],
)
def test_hot_areas_are_marked_whole(state: State, boot: bytes, reason: str) -> None:
    disk = written(state)
    _, bitmap, found = opened(disk, boot=boot)
    expected = [(0, 256), (512, 256), (PAGE_REGIONS - 2, 4), (381 * 256, REGIONS - 381 * 256)]
    assert list(bitmap.runs()) == expected
    marked = (sum(regions for _, regions in expected) - 8) * 65536
    assert found == Found(Condition.AFTER_POWER_CUT, marked, reason)
    assert str(found) == f"after a power cut: {reason}; {marked} bytes marked"
    # And it stays so, by the bits alone.
    _, bitmap, found = opened(disk, boot=b"3" * 16)
    assert (found.condition, found.marked_bytes) == (Condition.AFTER_POWER_CUT, 0)
    assert list(bitmap.runs()) == expected


@pytest.mark.parametrize(
    ("state", "boot"), [(State.OPEN, OTHER_BOOT), (State.FAILED, BOOT)], ids=["power cut", "failed"]
)
def test_everything_is_marked_where_there_was_no_activity_log(state: State, boot: bytes) -> None:
    disk = written(state, (), power_safe=False)
    _, bitmap, found = opened(disk, boot=boot)
    assert (found.condition, whole(bitmap)) == (Condition.LOST, True)
    assert found.marked_bytes == (REGIONS - 8) * 65536
    assert found.reason.endswith("it had no activity log")


def test_lost_page_is_marked_and_written_again() -> None:
    disk = written()
    disk.damage(4, bytes(PAGE))
    _, bitmap, found = opened(disk)
    assert found == Found(
        Condition.PARTLY_LOST, PAGE_REGIONS * 65536, "1 of 4 pages of bits are lost"
    )
    assert list(bitmap.runs()) == [(0, 3), (PAGE_REGIONS - 2, PAGE_REGIONS + 2), (REGIONS - 1, 1)]
    _, again, found = opened(disk.opened())
    assert found == Found(Condition.EXACT)
    assert again == bitmap


@pytest.mark.parametrize(
    "other",
    [
        lambda disk: bytes(PAGE),
        lambda disk: b"\xff" * PAGE,
        lambda disk: disk.page(5),
        lambda disk: disk.page(0),
        lambda disk: another_bitmap().page(4),
    ],
    ids=["zeros", "ones", "another page", "the header", "another bitmap's page"],
)
def test_page_with_something_else_in_it_is_lost(other: Callable[[SimulatedDisk], bytes]) -> None:
    disk = written()
    disk.damage(4, other(disk))
    _, bitmap, found = opened(disk)
    assert found.condition is Condition.PARTLY_LOST
    assert bitmap.all_in(PAGE_REGIONS, 2 * PAGE_REGIONS - 1)


def another_bitmap() -> SimulatedDisk:
    disk = SimulatedDisk()
    opened(disk, replace(GEOMETRY, identity=b"another pair's !"))
    return disk


def test_page_lost_in_a_power_cut_and_hot_areas_are_both_marked() -> None:
    disk = written()
    disk.damage(6, bytes(PAGE))
    _, bitmap, found = opened(disk, boot=OTHER_BOOT)
    assert found.condition is Condition.PARTLY_LOST
    assert found.reason == (
        "1 of 4 pages of bits are lost; the machine stopped while it was in use"
    )
    marked = [(0, 256), (512, 256), (PAGE_REGIONS - 2, 4), (381 * 256, REGIONS - 381 * 256)]
    assert list(bitmap.runs()) == marked
    # The one bit that was set in the lost page cannot be known.
    assert found.marked_bytes == (sum(regions for _, regions in marked) - 7) * 65536


@pytest.mark.parametrize(
    ("length", "condition", "reason"),
    [
        (6 * PAGE, Condition.PARTLY_LOST, "1 of 4 pages of bits are lost"),
        (3 * PAGE, Condition.PARTLY_LOST, "4 of 4 pages of bits are lost"),
        (PAGE, Condition.LOST, "neither page of the activity log is whole"),
        (0, Condition.LOST, "the file is cut short"),
    ],
)
def test_file_cut_short_is_marked_from_there_on_and_made_whole(
    length: int, condition: Condition, reason: str
) -> None:
    disk = written()
    disk.cut_short(length)
    _, bitmap, found = opened(disk)
    assert (found.condition, found.reason) == (condition, reason)
    first = max(0, length // PAGE - 3) * PAGE_REGIONS
    assert bitmap.all_in(first, REGIONS - 1)
    assert disk.size() == 7 * PAGE
    _, again, found = opened(disk.opened())
    assert found == Found(Condition.EXACT)
    assert again == bitmap


def test_file_that_is_too_long_is_cut() -> None:
    disk = written()
    disk.allocate(9 * PAGE)
    _, _, found = opened(disk)
    assert (found, disk.size()) == (Found(Condition.EXACT), 7 * PAGE)


def other_version(disk: SimulatedDisk) -> None:
    disk.damage(0, disk.page(0)[:8] + b"\0\0\0\2" + disk.page(0)[12:])


def torn_header(disk: SimulatedDisk) -> None:
    disk.damage(0, disk.page(0)[:30])


def no_header(disk: SimulatedDisk) -> None:
    disk.damage(0, b"")


def torn_logs(disk: SimulatedDisk) -> None:
    disk.damage(1, disk.page(1)[:42])
    disk.damage(2, disk.page(2)[:12])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (no_header, "there is no header of a bitmap"),
        (torn_header, "the header is damaged"),
        (other_version, "it is of version 2, not 1"),
        (torn_logs, "neither page of the activity log is whole"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_file_that_vouches_for_nothing_is_all_marked(
    damage: Callable[[SimulatedDisk], None], reason: str
) -> None:
    disk = written()
    damage(disk)
    _, bitmap, found = opened(disk)
    assert whole(bitmap)
    assert found == Found(Condition.LOST, REGIONS * 65536, reason)
    _, bitmap, found = opened(disk.opened())
    assert (found, whole(bitmap)) == (Found(Condition.EXACT), True)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (
            {"identity": b"\xee" * 16},
            "it belongs to 000102030405060708090a0b0c0d0e0f, not to " + "ee" * 16,
        ),
        (
            {"blocks": GEOMETRY.blocks + 1},
            "it is for 1568320 blocks of 4096 bytes in regions of 65536, "
            "not 1568321 blocks of 4096 bytes in regions of 65536",
        ),
        (
            {"block_size": 512},
            "it is for 1568320 blocks of 4096 bytes in regions of 65536, "
            "not 1568320 blocks of 512 bytes in regions of 65536",
        ),
        (
            {"granularity": 131072},
            "it is for 1568320 blocks of 4096 bytes in regions of 65536, "
            "not 1568320 blocks of 4096 bytes in regions of 131072",
        ),
    ],
    ids=["identity", "blocks", "block size", "granularity"],
)
def test_file_of_another_volume_is_all_marked_and_becomes_ours(
    other: dict[str, object], reason: str
) -> None:
    disk = written()
    geometry = replace(GEOMETRY, **other)  # type: ignore[arg-type]
    _, bitmap, found = opened(disk, geometry)
    assert (found.condition, found.reason, whole(bitmap)) == (Condition.LOST, reason, True)
    assert found.marked_bytes == geometry.blocks * geometry.block_size
    _, bitmap, found = opened(disk.opened(), geometry)
    assert (found, whole(bitmap)) == (Found(Condition.EXACT), True)


@pytest.mark.parametrize("torn_at", [0, 7, 16, 33, 40, 44, 52])
def test_torn_log_page_leaves_the_older_one(torn_at: int) -> None:
    disk = written(areas=(7,))
    file, _, _ = opened(disk)
    file.write_log(State.OPEN, (1, 2, 3, 4))
    disk.sync()
    file.write_log(State.OPEN, (2, 3, 4, 5))
    page = 1 if disk.page(1)[15] == 5 else 2
    new = disk.page(page)
    disk.damage(page, new[:torn_at] + b"?" + new[torn_at + 1 :])
    _, bitmap, found = opened(disk, boot=OTHER_BOOT)
    assert found.condition is Condition.AFTER_POWER_CUT
    assert bitmap.all_in(256, 5 * 256 - 1)
    assert not bitmap.any_in(5 * 256, 6 * 256 - 1)


def test_log_page_of_another_bitmap_does_not_count() -> None:
    disk = written()
    other = another_bitmap()
    disk.damage(1, other.page(1))
    disk.damage(2, other.page(2))
    assert opened(disk)[2].reason == "neither page of the activity log is whole"


# --- power cuts while it is opened


def at_every_moment(
    begin: Callable[[], SimulatedDisk],
    check: Callable[[SimulatedDisk, bytes], None],
    boot: bytes = BOOT,
) -> int:
    """Open what `begin` gives, cut the power after each number of calls, and check each state that
    the disk may be left in. How many those were."""
    states = 0
    for calls in range(100):
        disk = begin()
        disk.calls_left = calls
        try:
            opened(disk, boot=boot)
        except PowerCut:
            for left in disk.after_a_power_cut():
                states += 1
                check(left, b"3" * 16)
            continue
        assert calls > 3
        return states
    raise AssertionError("it is never opened")


@pytest.mark.parametrize(
    "damage", [no_header, torn_header, other_version, torn_logs], ids=lambda each: each.__name__
)
def test_power_cut_while_a_damaged_file_is_written_anew_loses_no_bit(
    damage: Callable[[SimulatedDisk], None],
) -> None:
    def begin() -> SimulatedDisk:
        disk = written()
        damage(disk)
        return disk

    def check(disk: SimulatedDisk, boot: bytes) -> None:
        _, bitmap, found = opened(disk, boot=boot)
        # The disk may have everything already; the bits alone are all that it says then.
        assert whole(bitmap)
        assert found.condition in (Condition.LOST, Condition.AFTER_POWER_CUT)

    assert at_every_moment(begin, check) > 20


def test_power_cut_while_a_new_file_is_made_leaves_nothing_or_everything() -> None:
    def check(disk: SimulatedDisk, boot: bytes) -> None:
        _, bitmap, _ = opened(disk, boot=boot)
        assert whole(bitmap) or bitmap.set_regions == 0

    assert at_every_moment(SimulatedDisk, check) > 10


def test_power_cut_while_lost_pages_are_written_again_loses_no_bit() -> None:
    def begin() -> SimulatedDisk:
        disk = written()
        disk.damage(4, bytes(PAGE))
        return disk

    def check(disk: SimulatedDisk, boot: bytes) -> None:
        _, bitmap, _ = opened(disk, boot=boot)
        assert bitmap.all_in(PAGE_REGIONS - 2, 2 * PAGE_REGIONS - 1)
        assert bitmap.all_in(0, 255)
        assert bitmap.all_in(512, 767)
        assert bitmap.any_in(REGIONS - 1, REGIONS - 1)

    assert at_every_moment(begin, check, OTHER_BOOT) > 10


# --- what the operating system refuses


@pytest.mark.parametrize("call", ["read", "write", "sync", "allocate"])
def test_refusal_of_the_operating_system_is_raised(call: str) -> None:
    disk = SimulatedDisk() if call == "allocate" else written()
    disk.broken.add(call)
    with pytest.raises(OSError, match="simulated"):
        opened(disk)


def test_file_whose_sync_failed_when_it_was_opened_is_not_exact_the_next_time() -> None:
    """The kernel tells of pages that it could not write only once."""
    disk = written()
    disk.broken.add("sync")
    with pytest.raises(OSError, match="simulated"):
        opened(disk)
    disk.broken.clear()
    _, bitmap, found = opened(disk.opened())
    assert (found.condition, found.reason) == (
        Condition.AFTER_POWER_CUT,
        "it could not be written",
    )
    assert bitmap.all_in(0, 255)


def test_file_without_a_log_whose_sync_failed_when_it_was_opened_vouches_for_nothing() -> None:
    disk = written(areas=(), power_safe=False)
    disk.broken.add("sync")
    with pytest.raises(OSError, match="simulated"):
        opened(disk, power_safe=True)
    disk.broken.clear()
    _, bitmap, found = opened(disk.opened(), power_safe=True)
    assert (found.condition, whole(bitmap)) == (Condition.LOST, True)
    assert found.reason == "it could not be written; it had no activity log"


@pytest.mark.parametrize("granularity", [4096, 65536, 1 << 20])
@pytest.mark.parametrize("block_size", [512, 4096])
def test_area_is_of_one_size_whatever_the_granularity(granularity: int, block_size: int) -> None:
    geometry = Geometry(bytes(16), 1 << 20, block_size, granularity)
    assert geometry.block_size << geometry.shift == granularity
    assert granularity << geometry.area_shift == AREA
