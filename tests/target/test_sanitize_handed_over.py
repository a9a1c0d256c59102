"""A SANITIZE that the unit's device carries out by its own means: what hosts see of it, what is
kept of it, and what happens where the device does not do it after all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.device.block import BlockDevice, Done
from daiko.device.error import MediumFailure, Refused, Unreachable, Unsupported
from daiko.device.layer.layer import Layer
from daiko.device.sanitize import Sanitization, SanitizeWatcher
from daiko.scsi import sbc, sense
from daiko.scsi.medium_parameters import Overwrite
from daiko.scsi.opcode import Status
from daiko.target import medium
from daiko.target.kept import MediumWork, WorkKind
from target.fake import Host
from target.test_medium import (
    BLOCKS,
    INVALID_FIELD,
    SANITIZING,
    SIZE,
    UNCLEAN,
    Recorder,
    block,
    finished,
    overwrite,
    polled,
    rig,
    until,
)

OURS = MediumWork(WorkKind.OVERWRITE, b"x", is_restricted=True)
THEIRS = MediumWork(WorkKind.OVERWRITE, b"x", is_restricted=True, is_handed_over=True)


class Able(Layer):
    """A device that sanitizes itself; what it says of that a test says."""

    def __init__(self, below: BlockDevice) -> None:
        super().__init__(below)
        self.asked: list[tuple[Sanitization, bool]] = []
        self.watcher: SanitizeWatcher | None = None
        self.stopped = 0
        self.is_able = True
        self.exit_error: Refused | None = None
        self.exits = 0

    def sanitize(
        self, wanted: Sanitization, watcher: SanitizeWatcher, *, resume: bool = False
    ) -> Callable[[], None] | None:
        self.asked.append((wanted, resume))
        if not self.is_able:
            return None
        self.watcher = watcher
        return self.stop

    def stop(self) -> None:
        self.stopped += 1

    def exit_failure_mode(self, done: Done) -> None:
        self.exits += 1
        done(self.exit_error)

    @property
    def says(self) -> SanitizeWatcher:
        assert self.watcher is not None
        return self.watcher


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medium, "FIRST_RETRY", 0.0)


def able() -> tuple[Able, Recorder]:
    recorder = Recorder(MemoryDevice(BLOCKS))
    return Able(recorder), recorder


async def test_host_sees_the_device_s_progress_and_its_end() -> None:
    device, recorder = able()
    unit, host, memo = rig(device)
    other = Host(host.access, "iqn.2026-11.test:other", 2)
    task = overwrite(host, Overwrite(b"x", 2, invert=True), ause=1)
    assert device.asked == [(Sanitization(Overwrite(b"x", 2, True), False, BLOCKS), False)]
    assert memo.medium_work is not None
    assert not memo.medium_work.is_handed_over
    device.says.taken_over()
    assert memo.medium_work.is_handed_over
    for parts in (0, 1000, 65536):
        device.says.progressed(parts)
        assert polled(host).progress == min(parts, 65535)
    assert other.run(sbc.Read10.pack(transfer_length=1)).condition == SANITIZING
    assert not task.answers
    device.says.ended(None)
    assert (await finished(task)).status == Status.GOOD
    assert (memo.medium_work, unit.medium.work, recorder.seen) == (None, None, [])
    assert other.run("00 00 00 00 00 00").condition == (0x6, 0x28, 0x00)
    assert block(host, 0) == bytes(SIZE)  # it was the device's affair


async def test_block_erase_is_handed_over_and_format_is_not() -> None:
    device, recorder = able()
    _, host, _ = rig(device)
    host.start(sbc.SanitizeBlockErase.pack(immed=1))
    assert device.asked == [(Sanitization(None, True, BLOCKS), False)]
    device.says.ended(None)
    assert (await finished(host.start(sbc.FormatUnit.pack()))).status == Status.GOOD
    assert len(device.asked) == 1
    assert recorder.seen == ["write same 00", "flush", "unmap", "flush"]


@pytest.mark.parametrize("refuses", [False, True], ids=["has no such means", "refuses"])
async def test_what_the_device_does_not_do_is_written(refuses: bool) -> None:
    device, recorder = able()
    device.is_able = refuses
    _, host, memo = rig(device)
    task = overwrite(host, Overwrite(b"x"))
    if refuses:
        device.says.ended(Unsupported("no such parameters"))
    assert (await finished(task)).status == Status.GOOD
    assert recorder.seen == ["write 78", "flush"]
    assert block(host, BLOCKS - 1) == b"x" * SIZE
    assert memo.history == [OURS, None]


async def test_failure_of_the_device_closes_the_unit_until_one_succeeds() -> None:
    device, _ = able()
    _, host, memo = rig(device)
    task = overwrite(host, Overwrite(b"x"))
    device.says.taken_over()
    device.says.ended(MediumFailure("it says so", writing=True))
    assert (await finished(task)).condition == UNCLEAN
    assert memo.medium_work is not None
    assert (memo.medium_work.has_failed, memo.medium_work.is_handed_over) == (True, True)
    assert host.run(sbc.Read10.pack(transfer_length=1)).condition == UNCLEAN
    assert host.run(sbc.SanitizeExitFailureMode.pack()).condition == INVALID_FIELD
    assert device.exits == 0
    task = overwrite(host, Overwrite(b"x"))
    assert device.asked[-1][1] is False  # a new one
    device.says.ended(None)
    assert (await finished(task)).status == Status.GOOD
    assert host.run(sbc.Read10.pack(transfer_length=1)).status == Status.GOOD


async def test_failure_mode_is_left_at_the_device_too() -> None:
    device, _ = able()
    _, host, memo = rig(device)
    overwrite(host, Overwrite(b"x"), ause=1, immed=1)
    device.says.taken_over()
    device.says.ended(MediumFailure("it says so", writing=True))
    device.exit_error = Refused("no", status=2, sense=sense.invalid_field_in_cdb(1, 4).fixed())
    assert host.run(sbc.SanitizeExitFailureMode.pack()).condition == INVALID_FIELD
    assert host.run(sbc.Read10.pack(transfer_length=1)).condition == UNCLEAN
    device.exit_error = None
    assert host.run(sbc.SanitizeExitFailureMode.pack()).status == Status.GOOD
    assert (device.exits, memo.medium_work) == (2, None)
    assert host.run(sbc.Read10.pack(transfer_length=1)).status == Status.GOOD


async def test_device_that_is_away_is_asked_how_far_it_is_and_not_to_begin_again() -> None:
    device, _ = able()
    _, host, _ = rig(device)
    task = overwrite(host, Overwrite(b"x"))
    device.says.ended(Unreachable("away before it had begun"))
    await until(lambda: len(device.asked) == 2)
    device.says.taken_over()
    device.says.progressed(7)
    device.says.ended(Unreachable("away"))
    assert polled(host).progress == 7
    await until(lambda: len(device.asked) == 3)
    device.says.ended(None)
    assert (await finished(task)).status == Status.GOOD
    assert [resume for _, resume in device.asked] == [False, False, True]


async def test_device_that_stays_away_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medium, "MOST_RETRIES", 3)
    device, _ = able()
    _, host, _ = rig(device)
    task = overwrite(host, Overwrite(b"x"))
    for tries in (1, 2, 3, 4):
        await until(lambda tries=tries: len(device.asked) == tries)  # type: ignore[misc]
        device.says.ended(Unreachable("away"))
    assert (await finished(task)).condition == UNCLEAN


@pytest.mark.parametrize(
    ("kept", "resume"),
    [pytest.param(THEIRS, True, id="handed over"), pytest.param(OURS, False, id="not yet")],
)
async def test_after_a_restart_the_device_is_asked(kept: MediumWork, resume: bool) -> None:
    device, recorder = able()
    unit, host, memo = rig(device)
    memo.medium_work = kept
    unit.medium.take_up(kept)
    assert device.asked == [(Sanitization(Overwrite(b"x"), True, BLOCKS), resume)]
    assert host.run(sbc.Read10.pack(transfer_length=1)).condition == SANITIZING
    device.says.ended(None)
    assert (memo.medium_work, recorder.seen) == (None, [])
    assert host.run("00 00 00 00 00 00").condition == (0x6, 0x28, 0x00)


async def test_what_was_handed_over_and_is_refused_after_a_restart_is_written() -> None:
    device, recorder = able()
    unit, host, memo = rig(device)
    memo.medium_work = THEIRS
    unit.medium.take_up(THEIRS)
    device.says.ended(Unsupported("no such command any more"))
    assert memo.history == [OURS]
    await until(lambda: unit.medium.work is None)
    assert recorder.seen == ["write 78", "flush"]
    assert host.run("00 00 00 00 00 00").condition == (0x6, 0x28, 0x00)


def test_unit_that_goes_leaves_the_device_at_it() -> None:
    device, _ = able()
    unit, host, memo = rig(device)
    overwrite(host, Overwrite(b"x"), immed=1)
    device.says.taken_over()
    unit.medium.close()
    assert device.stopped == 1
    assert memo.medium_work == THEIRS
