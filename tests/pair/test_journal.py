"""The journal: what stands in its file, and that what is read of it is always a prefix."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daiko.backend.worker import Finished, Work
from daiko.pair.journal import FULL, Journal
from daiko.pair.journal_file import PAGE, RING, Kind
from daiko.pair.raw_file import RawFile

IDENTITY = bytes(range(16))
BOOT = b"b" * 16
OTHER_BOOT = b"o" * 16
STREAM = b"stream-1"
CAPACITY = 4096


class File:
    """A `RawFile` in memory. After a power cut it has, of each page, any version of it since the
    last sync, or one torn."""

    def __init__(self, data: bytes | None = None) -> None:
        self.is_new = data is None
        self.data = bytearray(data or b"")
        self.pages: dict[int, list[bytes]] = {}
        self.broken = False

    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        if self.broken:
            raise OSError(errno.EIO, "broken")
        for page in range(offset // PAGE, -(-(offset + len(data)) // PAGE)):
            was = bytes(self.data[page * PAGE : (page + 1) * PAGE])
            self.pages.setdefault(page, [was])
        self.data[offset : offset + len(data)] = data
        for page in range(offset // PAGE, -(-(offset + len(data)) // PAGE)):
            self.pages[page].append(bytes(self.data[page * PAGE : (page + 1) * PAGE]))

    def allocate(self, length: int) -> None:
        self.data = self.data[:length].ljust(length, b"\0")

    def sync(self) -> None:
        self.pages.clear()

    def close(self) -> None:
        pass

    def remove(self) -> None:
        pass

    def after_a_power_cut(self, choose: Callable[[int], int]) -> File:
        data = bytearray(self.data)
        for page, versions in self.pages.items():
            old = versions[choose(len(versions))]
            new = versions[choose(len(versions))]
            at = choose(9) * 512
            data[page * PAGE : (page + 1) * PAGE] = new[:at] + old[at:]
        return File(bytes(data))


class InlineWorkers:
    """Threads whose work is done at once."""

    def run(self, work: Work, finished: Finished) -> None:
        finished(work())

    def stop(self, then: Callable[[], None]) -> None:
        then()


def _open(
    file: RawFile, boot: bytes = BOOT, capacity: int = CAPACITY, epoch: int | None = 1
) -> Journal:
    return Journal.open(
        Path("none"),
        identity=IDENTITY,
        capacity=capacity,
        workers=InlineWorkers(),  # type: ignore[arg-type]
        boot_id=boot,
        first_epoch=epoch,
        clock=lambda: 1.5,
        open_file=lambda path: file,
    )


def _again(file: File, boot: bytes = BOOT) -> Journal:
    file.is_new = False
    return _open(file, boot)


def _enter(journal: Journal, number: int, length: int = 512, after: int = 0) -> bool:
    return journal.enter(STREAM, Kind.DATA, number, length // 512, bytes([number]) * length, after)


def _numbers(journal: Journal) -> list[int]:
    """What was entered, by the first block."""
    return [entry.lba for entry in journal.waiting]


def test_bytes_of_the_file() -> None:
    file = File()
    journal = _open(file)
    journal.enter(STREAM, Kind.SAME, 0x1234, 16, b"\xab" * 64, 0)
    assert bytes(file.data[:40]).hex() == (
        "4441494b4f4a4e4c"  # magic
        "00000001"  # version
        "0000000000001000"  # bytes of the ring
        "000102030405060708090a0b0c0d0e0f"  # identity
        "66c9f34e"
    )
    assert bytes(file.data[2 * PAGE : 2 * PAGE + 76]).hex() == (
        "4441494b4f43484b"  # magic
        "0000000000000001"  # serial number
        "00000001"  # epoch
        "01010000"  # open, power-safe
        f"{BOOT.hex()}"
        "0000000000000000"  # applied
        "0000000000000000"  # offset
        "0000000000000000"  # whole from
        "0000000000000000"  # ended at
        "5ad6b1c5"
    )
    entry = bytes(file.data[RING : RING + 64])
    assert entry.hex() == (
        "444a454e"  # magic
        "02000000"  # kind
        "00000001"  # epoch
        "0000000000000001"  # sequence
        "0000000000000000"  # after
        "3ff8000000000000"  # time
        "73747265616d2d31"  # stream
        "0000000000001234"  # first block
        "00000010"  # blocks
        "00000040"  # bytes of data
        "1b2eafa4"
    )
    assert bytes(file.data[RING + 64 : RING + 128]) == b"\xab" * 64


async def test_after_closing_all_is_there() -> None:
    file = File()
    journal = _open(file)
    for number in range(1, 5):
        assert _enter(journal, number)
    await journal.close()
    again = _again(file, OTHER_BOOT)
    assert again.is_exact
    assert _numbers(again) == [1, 2, 3, 4]
    assert not again.ended
    assert _enter(again, 5)
    assert again.last == 5


async def test_after_the_end_of_the_process_all_is_there_and_it_has_ended() -> None:
    file = File()
    journal = _open(file)
    for number in range(1, 4):
        _enter(journal, number)
    batch = journal.batch(8, None)
    assert [entry.lba for entry in batch] == [1, 2, 3]
    assert await journal.fetch(batch[:1]) == [b"\x01" * 512]
    journal.has_applied(batch[:1])
    again = _again(file)
    assert not again.is_exact
    assert again.ended
    assert again.applied == 1
    assert _numbers(again) == [2, 3]
    assert not _enter(again, 9)


async def test_full_it_ends_once_and_begins_anew_when_it_is_drained() -> None:
    file = File()
    journal = _open(file)
    told: list[str] = []
    journal.when_ended = told.append
    taken = [number for number in range(20) if _enter(journal, number)]
    assert taken == [0, 1, 2, 3, 4, 5, 6]
    assert told == [FULL]
    journal.has_applied(journal.batch(8, None))
    assert not _enter(journal, 30), "there is room, but something is missing before it"
    journal.begin_anew()
    assert _enter(journal, 31)
    assert _numbers(journal) == [31]
    again = _again(file)
    assert _numbers(again) == [31]


def test_entries_asked_for_after_others_were_good_are_no_batch() -> None:
    journal = _open(File())
    for number, after in ((1, 0), (2, 0), (3, 1), (4, 2), (5, 4)):
        _enter(journal, number, after=after)
    batches = []
    while batch := journal.batch(8, None):
        batches.append([entry.lba for entry in batch])
        journal.has_applied(batch)
    assert batches == [[1, 2], [3, 4], [5]]


def test_a_batch_has_no_more_than_asked_for_and_nothing_beyond_the_limit() -> None:
    journal = _open(File())
    for number in range(1, 6):
        _enter(journal, number)
    assert len(journal.batch(2, None)) == 2
    assert [entry.sequence for entry in journal.batch(8, 3)] == [1, 2, 3]


async def test_hosts_that_are_slowed_down_hear_of_one_write_for_two_that_are_applied() -> None:
    journal = _open(File(), capacity=64 << 10)
    heard: list[int] = []

    def enter(number: int) -> None:
        assert _enter(journal, number)
        journal.entered(lambda: heard.append(number))

    async def apply(count: int) -> None:
        await journal.fetch(batch := list(journal.waiting)[:count])
        journal.has_applied(batch)

    for number in range(8):
        enter(number)
    assert heard == [*range(8)]
    journal.slow_down()
    for number in range(8, 12):
        enter(number)
    assert heard == [*range(8)]
    await apply(1)
    assert heard == [*range(8)]
    await apply(4)
    assert heard == [*range(10)], "the fifth one is credit"
    await apply(1)
    assert heard == [*range(11)]
    await apply(6)
    assert journal.is_drained
    assert heard == [*range(12)]
    enter(12)
    await apply(1)
    assert heard == [*range(13)], "nothing is left that it could wait for"


@pytest.mark.parametrize("end", ["full speed", "end", "give up", "full"])
async def test_hosts_that_are_slowed_down_hear_of_all_in_the_end(end: str) -> None:
    journal = _open(File(), capacity=64 << 10)
    heard: list[int] = []
    journal.slow_down()
    assert _enter(journal, 0)
    journal.entered(lambda: heard.append(0))
    assert heard == []
    if end == "full":
        while _enter(journal, 1):
            pass
    else:
        {
            "full speed": journal.full_speed,
            "end": lambda: journal.end("asked for"),
            "give up": journal.give_up,
        }[end]()
    assert heard == [0]
    journal.entered(lambda: heard.append(2))
    assert heard == [0, 2]
    if journal.ended:
        journal.slow_down()
        journal.entered(lambda: heard.append(3))
        assert heard == [0, 2, 3], "nothing will be applied that it could wait for"


def test_a_disk_that_fails_ends_it() -> None:
    file = File()
    journal = _open(file)
    _enter(journal, 1)
    file.broken = True
    assert not _enter(journal, 2)
    assert "cannot be written" in journal.ended
    file.broken = False
    assert not _enter(journal, 3)


def test_another_file_is_laid_out_anew() -> None:
    for data in (b"", b"garbage" * 5000, bytes(RING + CAPACITY)):
        journal = _open(File(data))
        assert not journal.is_exact
        assert _numbers(journal) == []
        assert _enter(journal, 1)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.integers(1, 3)),
        st.tuples(st.just("apply"), st.integers(1, 4)),
        st.tuples(st.just("anew"), st.just(0)),
    ),
    max_size=40,
)


def _run(file: File, steps: list[tuple[str, int]]) -> tuple[Journal, list[int]]:
    """The journal after these steps, and what it had taken."""
    journal = _open(file)
    entered = []
    for number, (what, count) in enumerate(steps, 1):
        if what == "enter" and _enter(journal, number, 512 * count):
            entered.append(number)
        elif what == "apply" and (batch := journal.batch(count, None)):
            asyncio.run(journal.fetch(batch))
            journal.has_applied(batch)
        elif what == "anew" and journal.ended and journal.is_drained:
            asyncio.run(journal.fetch([]))  # as the applier does when there is nothing to do
            journal.begin_anew()
    return journal, entered


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_the_end_of_the_process_loses_nothing(steps: list[tuple[str, int]]) -> None:
    file = File()
    journal, _ = _run(file, steps)
    again = _again(File(bytes(file.data)))
    assert _numbers(again) == _numbers(journal)
    assert again.applied == journal.applied
    assert again.used <= again.capacity


@given(STEPS, st.data())
@settings(max_examples=200, deadline=None)
def test_a_power_cut_leaves_a_prefix_and_all_that_was_synced(
    steps: list[tuple[str, int]], data: st.DataObject
) -> None:
    file = File()
    journal, entered = _run(file, steps)
    cut = file.after_a_power_cut(lambda count: data.draw(st.integers(0, count - 1)))
    again = _again(cut, OTHER_BOOT)
    found = _numbers(again)
    if found:
        at = entered.index(found[0])
        assert found == entered[at : at + len(found)]
    # What was applied was on stable storage before, and so was the checkpoint before that batch.
    assert again.last >= journal.applied or again.applied >= journal.applied
    assert again.applied <= journal.applied


@given(st.integers(0, 4096), st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_a_torn_or_overwritten_ring_gives_a_prefix(at: int, garbage: bytes) -> None:
    file = File()
    journal = _open(file)
    for number in range(1, 7):
        _enter(journal, number)
    whole = _numbers(journal)
    cut = File(bytes(file.data))
    cut.data[RING + at : RING + at + len(garbage)] = garbage
    found = _numbers(_again(cut))
    assert found == whole[: len(found)]
    assert len(found) >= min(at // 576, 6)


@pytest.mark.parametrize("length", range(0, RING + 4096, 611))
def test_a_file_cut_short_gives_a_prefix(length: int) -> None:
    file = File()
    journal = _open(file)
    for number in range(1, 7):
        _enter(journal, number)
    again = _again(File(bytes(file.data[:length])))
    found = _numbers(again)
    assert found == _numbers(journal)[: len(found)]


def test_entries_of_a_journal_whose_checkpoints_are_lost_do_not_come_back() -> None:
    file = File()
    journal = _open(file, epoch=None)
    for number in range(1, 4):
        _enter(journal, number)
    file.data[PAGE:RING] = bytes(RING - PAGE)
    again = _open(File(bytes(file.data)), epoch=None)
    _enter(again, 9)
    assert _numbers(_again(File(bytes(again._file._raw.data)))) == [9]  # type: ignore[attr-defined]
