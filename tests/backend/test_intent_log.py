"""The intent log: what is in it after any crash."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.backend import intent_log
from daiko.backend.intent_log import SLOTS, Intent, IntentLog
from daiko.device.error import Aborted, DeviceError

OLD, NEW = b"o" * 1024, b"n" * 1024


async def begun(log: IntentLog, lba: int, old: bytes = OLD, new: bytes = NEW) -> Intent:
    future: asyncio.Future[Intent] = asyncio.get_running_loop().create_future()

    def done(error: DeviceError | None, intent: Intent | None) -> None:
        if intent is None:
            assert error is not None
            future.set_exception(error)
        else:
            future.set_result(intent)

    log.begin(lba, old, new, done)
    return await future


async def ended(log: IntentLog, intent: Intent) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: DeviceError | None) -> None:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    log.end(intent, done)
    await future


def found(path: Path) -> list[tuple[int, bytes]]:
    """What a controller that starts now would find."""
    log = IntentLog(path, 512)
    entries = [(intent.lba, intent.data) for intent in log.read()]
    log.close()
    return sorted(entries)


def exists(path: Path) -> bool:
    return path.exists()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def full(path: Path) -> None:
    """Put a device without room in the log's place."""
    path.parent.mkdir()
    path.symlink_to("/dev/full")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "intents" / "v.undo"


async def test_entry_is_found_until_it_is_struck_out(path: Path) -> None:
    log = IntentLog(path, 512)
    assert log.read() == ()
    assert not exists(path)
    first = await begun(log, 7)
    second = await begun(log, 1 << 40, OLD * 1024, NEW * 1024)
    assert found(path) == [(7, OLD), (1 << 40, OLD * 1024)]
    await ended(log, first)
    assert found(path) == [(1 << 40, OLD * 1024)]
    await ended(log, second)
    assert found(path) == []
    assert mode(path) == 0o600
    log.close()


async def test_entries_beyond_the_slots_wait(path: Path) -> None:
    log = IntentLog(path, 512)
    waiting = [asyncio.ensure_future(begun(log, lba)) for lba in range(SLOTS + 2)]
    done, rest = await asyncio.wait(waiting[:SLOTS])
    assert not rest
    assert not any(each.done() for each in waiting[SLOTS:])
    await ended(log, done.pop().result())
    await asyncio.wait(waiting[SLOTS:], return_when=asyncio.FIRST_COMPLETED)
    assert len(found(path)) == SLOTS
    log.close()
    with pytest.raises(Aborted):
        await waiting[-1]


async def test_entries_that_are_found_keep_their_slots(path: Path) -> None:
    log = IntentLog(path, 512)
    for lba in range(SLOTS):
        await begun(log, lba)
    log.close()
    again = IntentLog(path, 512)
    (first, *_) = again.read()
    late = asyncio.ensure_future(begun(again, 99))
    await asyncio.sleep(0)
    await ended(again, first)
    await late
    assert 99 in [lba for lba, _ in found(path)]
    again.close()


@given(st.data())
def test_entry_that_was_not_written_whole_does_not_count(data: st.DataObject) -> None:
    intent = Intent(0, 5, OLD, intent_log._crcs(OLD), intent_log._crcs(NEW))
    image = intent_log._pack(intent, 512)
    parsed = intent_log._parse(0, image + bytes(100))
    assert parsed is not None
    assert (parsed.lba, parsed.data) == (5, OLD)
    cut = data.draw(st.integers(0, len(image) - 1))
    before = data.draw(st.sampled_from([b"", bytes(len(image)), b"x" * len(image)]))
    assert intent_log._parse(0, image[:cut] + before[cut:]) is None
    flipped = bytearray(image)
    flipped[data.draw(st.integers(0, len(image) - 1))] ^= data.draw(st.integers(1, 255))
    assert intent_log._parse(0, bytes(flipped)) is None


@given(st.binary(max_size=200))
def test_rubbish_is_no_entry(image: bytes) -> None:
    assert intent_log._parse(0, image) is None


@pytest.mark.parametrize(
    ("now", "ours"),
    [
        pytest.param(OLD, True, id="nothing written"),
        pytest.param(NEW, True, id="all written"),
        pytest.param(NEW[:512] + OLD[512:], True, id="one of two written"),
        pytest.param(NEW[:512] + b"z" * 512, False, id="somebody else's"),
    ],
)
def test_blocks_that_are_neither_old_nor_new_are_somebody_else_s(now: bytes, ours: bool) -> None:
    intent = Intent(0, 5, OLD, intent_log._crcs(OLD), intent_log._crcs(NEW))
    assert intent.is_ours(now) is ours


async def test_no_room_is_said_and_leaves_the_slot_free(path: Path) -> None:
    log = IntentLog(path, 512)
    full(path)
    for lba in range(SLOTS + 1):
        with pytest.raises(DeviceError):
            await begun(log, lba)
    log.close()
