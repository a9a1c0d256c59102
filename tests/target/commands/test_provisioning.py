"""UNMAP, WRITE SAME, GET LBA STATUS."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.device.block import Done, Run, StatusDone
from daiko.device.error import DeviceError, MediumFailure
from daiko.scsi import sbc
from daiko.scsi.block_data import LbaRange, LbaStatus, pack_unmap, parse_lba_status
from daiko.scsi.layout import Layout
from daiko.scsi.opcode import Status
from daiko.target.commands.provisioning import MAXIMUM_UNMAP_DESCRIPTORS, MAXIMUM_WRITE_SAME
from daiko.target.mode_settings import CACHING, DEFAULT
from target.fake import BareDevice, FakeTask, Host, SlowDevice, host_of, unit_of

INVALID_FIELD = (0x5, 0x24, 0x00)
BAD_LIST = (0x5, 0x26, 0x00)
BAD_LENGTH = (0x5, 0x1A, 0x00)
OUT_OF_RANGE = (0x5, 0x21, 0x00)
WRONG_AMOUNT = (0x5, 0x0E, 0x03)


def full_of(fill: bytes, device: MemoryDevice | None = None) -> Host:
    host = host_of(unit_of(device or MemoryDevice(32)))
    host.run(sbc.Write10.pack(transfer_length=32), fill * (32 * 512))
    return host


def contents(host: Host) -> str:
    """One character a block: what it is filled with, `.` for zeros."""
    data = host.run(sbc.Read10.pack(transfer_length=32)).data_in
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    assert all(len(set(block)) == 1 for block in blocks)
    return "".join(chr(block[0]) if block[0] else "." for block in blocks)


def unmap(host: Host, *ranges: tuple[int, int]) -> FakeTask:
    data = pack_unmap([LbaRange(*each) for each in ranges])
    return host.start(sbc.Unmap.pack(parameter_list_length=len(data)), data)


def test_unmap_gives_up_exactly_the_ranges() -> None:
    host = full_of(b"x")
    assert unmap(host, (0, 2), (5, 1), (30, 2)).status == Status.GOOD
    assert contents(host) == "..xxx.xxxxxxxxxxxxxxxxxxxxxxxxxx.."[:30] + ".."


@pytest.mark.parametrize(
    ("ranges", "condition"),
    [
        pytest.param([], None, id="no range"),
        pytest.param([(0, 0)], None, id="empty range"),
        pytest.param([(32, 0)], None, id="empty range at the end"),
        pytest.param([(31, 1)], None, id="last block"),
        pytest.param([(31, 2)], OUT_OF_RANGE, id="over the end"),
        pytest.param([(32, 1)], OUT_OF_RANGE, id="behind the end"),
        pytest.param([(0, 4), (40, 1)], OUT_OF_RANGE, id="second range behind the end"),
        pytest.param([(0, 0xFFFFFFFF)], OUT_OF_RANGE, id="longest range"),
        pytest.param([(0, 1)] * MAXIMUM_UNMAP_DESCRIPTORS, None, id="most ranges"),
        pytest.param([(0, 1)] * (MAXIMUM_UNMAP_DESCRIPTORS + 1), BAD_LIST, id="too many ranges"),
    ],
)
def test_unmap_checks_every_range_before_it_unmaps_any(
    ranges: list[tuple[int, int]], condition: tuple[int, int, int] | None
) -> None:
    host = full_of(b"x")
    assert unmap(host, *ranges).condition == condition
    if condition is not None:
        assert contents(host) == "x" * 32


@pytest.mark.parametrize(
    ("length", "data", "condition"),
    [
        pytest.param(0, "", None, id="no list"),
        pytest.param(7, "00" * 7, BAD_LENGTH, id="header cut"),
        pytest.param(24, "0016001000000000", BAD_LENGTH, id="fewer bytes than the CDB says"),
        pytest.param(8, "0016001000000000", BAD_LENGTH, id="descriptors cut"),
        pytest.param(0xFFFF, "0016001000000000", INVALID_FIELD, id="longer than any list"),
    ],
)
def test_unmap_list_that_is_cut_unmaps_nothing(
    length: int, data: str, condition: tuple[int, int, int] | None
) -> None:
    host = full_of(b"x")
    task = host.run(sbc.Unmap.pack(parameter_list_length=length), bytes.fromhex(data))
    assert task.condition == condition
    assert contents(host) == "x" * 32


def test_unmap_with_anchor_is_refused() -> None:
    task = host_of(unit_of()).run(sbc.Unmap.pack(anchor=1))
    assert task.condition == INVALID_FIELD


def test_unmap_takes_one_range_after_the_other() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    task = unmap(host, (0, 1), (2, 1), (4, 1))
    for _ in range(3):
        assert (device.waiting, task.answers) == (["unmap"], 0)
        device.step()
    assert task.status == Status.GOOD


def test_unmap_stops_at_the_first_range_that_fails() -> None:
    device = SlowDevice()
    task = unmap(host_of(unit_of(device)), (0, 1), (2, 1))
    device.fail(MediumFailure("x", writing=True))
    assert device.waiting == []
    assert task.condition == (0x3, 0x0C, 0x00)


def test_unmap_that_is_aborted_goes_no_further() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    task = unmap(host, (0, 1), (2, 1))
    response = host.manage(1, tag=task.tag)
    device.step()
    assert (device.waiting, response) == ([], [0])


class FailsInline(MemoryDevice):
    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        done(MediumFailure("x", writing=True))


def test_unmap_that_fails_inline_is_answered_once() -> None:
    task = unmap(host_of(unit_of(FailsInline(32))), (0, 1), (1, 1))
    assert (task.answers, task.condition) == (1, (0x3, 0x0C, 0x00))


class Huge(MemoryDevice):
    """Says that it is large; nothing may reach it."""

    def __init__(self) -> None:
        super().__init__(1)
        self.blocks = 1 << 40


def test_unmap_of_more_blocks_than_stated_is_refused_with_a_pointer_to_the_range() -> None:
    task = unmap(host_of(unit_of(Huge())), (0, 0xFFFFFFFF), (1 << 33, 1))
    assert task.condition == BAD_LIST
    assert task.sense is not None
    assert task.sense.field is not None
    assert (task.sense.field.in_cdb, task.sense.field.byte) == (False, 8 + 16 + 8)


# ---------------------------------------------------------------------- WRITE SAME

BOTH = pytest.mark.parametrize(
    "layout", [sbc.WriteSame10, sbc.WriteSame16], ids=lambda layout: layout.name
)


@BOTH
def test_write_same_fills_the_range(layout: Layout) -> None:
    host = full_of(b"x")
    assert host.run(layout.pack(lba=4, transfer_length=3), b"s" * 512).status == Status.GOOD
    assert contents(host) == "xxxxsss" + "x" * 25


@BOTH
def test_write_same_of_length_0_goes_to_the_end(layout: Layout) -> None:
    host = full_of(b"x")
    assert host.run(layout.pack(lba=29), b"s" * 512).status == Status.GOOD
    assert contents(host) == "x" * 29 + "sss"


@BOTH
@pytest.mark.parametrize("size", [0, 256, 511, 513, 1024])
def test_write_same_with_other_than_one_block_is_refused(layout: Layout, size: int) -> None:
    host = full_of(b"x")
    assert host.run(layout.pack(transfer_length=1), bytes(size)).condition == WRONG_AMOUNT
    assert contents(host) == "x" * 32


@pytest.mark.parametrize(
    ("fields", "size", "condition"),
    [
        pytest.param({"transfer_length": MAXIMUM_WRITE_SAME}, 512, None, id="longest"),
        pytest.param({"transfer_length": MAXIMUM_WRITE_SAME + 1}, 512, INVALID_FIELD, id="longer"),
        pytest.param({"transfer_length": 0}, 512, INVALID_FIELD, id="to the end, too long"),
        pytest.param({"transfer_length": 1, "anchor": 1}, 512, INVALID_FIELD, id="anchor"),
        pytest.param(
            {"transfer_length": 1, "anchor": 1, "unmap": 1}, 512, INVALID_FIELD, id="anchor, unmap"
        ),
    ],
)
def test_write_same_16_limits(
    fields: dict[str, int], size: int, condition: tuple[int, int, int] | None
) -> None:
    host = host_of(unit_of(MemoryDevice(MAXIMUM_WRITE_SAME + 8)))
    assert host.run(sbc.WriteSame16.pack(**fields), bytes(size)).condition == condition


@pytest.mark.parametrize(
    ("data", "asked", "expected"),
    [
        pytest.param(bytes(512), 1, "unmap", id="zeros may be unmapped"),
        pytest.param(b"s" * 512, 1, "write same", id="other data is written"),
        pytest.param(bytes(512), 0, "write same", id="without UNMAP zeros are written"),
    ],
)
def test_write_same_16_unmaps_only_what_then_reads_as_asked(
    data: bytes, asked: int, expected: str
) -> None:
    device = SlowDevice()
    host_of(unit_of(device)).start(sbc.WriteSame16.pack(unmap=asked, transfer_length=1), data)
    assert device.waiting == [expected]


def test_write_same_16_without_data_out_writes_zeros() -> None:
    host = full_of(b"x")
    task = host.run(sbc.WriteSame16.pack(ndob=1, lba=1, transfer_length=2))
    assert (task.status, task.fetched) == (Status.GOOD, None)
    assert contents(host) == "x.." + "x" * 29


def test_write_same_10_unmaps_what_then_reads_as_asked() -> None:
    device = SlowDevice()
    host_of(unit_of(device)).start(sbc.WriteSame10.pack(unmap=1, transfer_length=1), bytes(512))
    assert device.waiting == ["unmap"]


class NoUnmap(MemoryDevice):
    def __init__(self) -> None:
        super().__init__(32)
        self.capabilities = type(self.capabilities)(
            unmap=BareDevice().capabilities.unmap,
            write_same=self.capabilities.write_same,
            compare_and_write=self.capabilities.compare_and_write,
            fua=self.capabilities.fua,
        )


def test_write_same_16_with_unmap_on_a_device_that_cannot_is_refused() -> None:
    host = host_of(unit_of(NoUnmap()))
    task = host.run(sbc.WriteSame16.pack(unmap=1, transfer_length=1), bytes(512))
    assert task.condition == INVALID_FIELD


@pytest.mark.parametrize("fails", [False, True], ids=["written", "failed"])
def test_write_same_without_write_cache_is_followed_by_a_flush(fails: bool) -> None:
    device = SlowDevice()
    unit = unit_of(device)
    unit.set_mode(DEFAULT.with_fields(CACHING, wce=0))
    task = host_of(unit).start(sbc.WriteSame16.pack(transfer_length=1), bytes(512))
    if fails:
        device.fail(MediumFailure("x", writing=True))
        assert (device.waiting, task.condition) == ([], (0x3, 0x0C, 0x00))
    else:
        device.step()
        assert (device.waiting, task.answers) == (["flush"], 0)
        device.step()
        assert task.status == Status.GOOD


def test_write_same_reports_the_failure_of_the_device() -> None:
    device = SlowDevice()
    task = host_of(unit_of(device)).start(sbc.WriteSame16.pack(transfer_length=1), bytes(512))
    device.fail(MediumFailure("x", writing=True))
    assert task.condition == (0x3, 0x0C, 0x00)


# ---------------------------------------------------------------------- GET LBA STATUS


class Thin(MemoryDevice):
    """A device of 32 blocks in these runs, that tells at most `at_once` of them in one answer."""

    def __init__(self, runs: Sequence[Run], at_once: int = 8) -> None:
        super().__init__(32)
        self.runs = runs
        self.at_once = at_once
        self.asked: list[tuple[int, int]] = []
        self.error: DeviceError | None = None

    def lba_status(self, lba: int, blocks: int, done: StatusDone) -> None:
        self.asked.append((lba, blocks))
        told: list[Run] = []
        start = 0
        for length, is_mapped in self.runs:
            end = min(start + length, lba + blocks)
            if end > max(start, lba):
                told.append((end - max(start, lba), is_mapped))
            start += length
        done(self.error, () if self.error else told[: self.at_once])


def status_of(host: Host, lba: int, room: int = 1024) -> FakeTask:
    return host.run(sbc.GetLbaStatus.pack(lba=lba, allocation_length=room))


def test_get_lba_status_reports_the_runs_of_the_device() -> None:
    device = Thin([(14, True), (2, False), (16, True)])
    task = status_of(host_of(unit_of(device)), 10)
    assert device.asked == [(10, 22)]
    expected = (LbaStatus(10, 4, 0), LbaStatus(14, 2, 1), LbaStatus(16, 16, 0))
    assert parse_lba_status(task.data_in) == expected
    assert int.from_bytes(task.data_in[:4], "big") == 4 + 3 * 16


def test_get_lba_status_asks_on_where_the_device_tells_of_a_part() -> None:
    device = Thin([(4, False), (4, False), (8, True), (16, False)], at_once=1)
    task = status_of(host_of(unit_of(device)), 0)
    assert device.asked == [(0, 32), (4, 28), (8, 24), (16, 16)]
    expected = (LbaStatus(0, 8, 1), LbaStatus(8, 8, 0), LbaStatus(16, 16, 1))
    assert parse_lba_status(task.data_in) == expected


def test_get_lba_status_asks_no_further_than_the_host_has_room() -> None:
    device = Thin([(1, number % 2 == 0) for number in range(32)], at_once=1)
    task = status_of(host_of(unit_of(device)), 0, 8 + 2 * 16)
    assert parse_lba_status(task.data_in) == (LbaStatus(0, 1, 0), LbaStatus(1, 1, 1))
    assert len(device.asked) == 3


def test_get_lba_status_reports_what_is_known_when_a_later_extent_fails() -> None:
    device = Thin([(4, False), (28, True)], at_once=1)
    tell = device.lba_status

    def fail_behind(lba: int, blocks: int, done: StatusDone) -> None:
        if lba:
            done(MediumFailure("x", writing=False), ())
        else:
            tell(lba, blocks, done)

    device.lba_status = fail_behind  # type: ignore[method-assign]
    task = status_of(host_of(unit_of(device)), 0)
    assert parse_lba_status(task.data_in) == (LbaStatus(0, 4, 1),)


@pytest.mark.parametrize(("room", "descriptors"), [(24, 1), (39, 1), (40, 2), (8, 0), (0, 0)])
def test_get_lba_status_fits_the_allocation_length(room: int, descriptors: int) -> None:
    device = Thin([(1, True), (1, False), (30, True)])
    task = status_of(host_of(unit_of(device)), 0, room)
    assert len(task.data_in) <= room
    if room >= 8:
        assert len(parse_lba_status(task.data_in)) == descriptors


def test_get_lba_status_of_a_device_that_cannot_tell_is_all_mapped() -> None:
    task = status_of(host_of(unit_of(BareDevice(32))), 30)
    assert parse_lba_status(task.data_in) == (LbaStatus(30, 2, 0),)


def test_get_lba_status_behind_the_end_is_out_of_range() -> None:
    assert status_of(host_of(unit_of(MemoryDevice(32))), 32).condition == OUT_OF_RANGE


def test_get_lba_status_reports_the_failure_of_the_device() -> None:
    device = Thin([])
    device.error = MediumFailure("x", writing=False)
    assert status_of(host_of(unit_of(device)), 0).condition == (0x3, 0x11, 0x00)
