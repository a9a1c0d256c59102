"""FORMAT UNIT and SANITIZE: what they write, what they bar, and what becomes of them when they
fail, are aborted, or the controller is started anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.command_control.command_table import ROWS, CommandRow
from daiko.device.block import BlockDevice, Buffer, Capabilities, Done, Level
from daiko.device.error import MediumFailure, Unreachable
from daiko.device.layer.delay import Delay
from daiko.device.layer.fault import Fault, Operation
from daiko.device.layer.layer import Layer
from daiko.scsi import sbc, spc, vpd
from daiko.scsi.medium_parameters import Format, Overwrite
from daiko.scsi.opcode import Status
from daiko.scsi.sense import Sense, parse_sense
from daiko.target import medium
from daiko.target.kept import NOTHING_KEPT, Kept, MediumWork, WorkKind
from daiko.target.kept import Done as Kept_
from daiko.target.logical_unit import LogicalUnit
from daiko.target.registrations import Registrations
from target.fake import BareDevice, FakeTask, Host, host_of, unit_of

SIZE = 512
BLOCKS = 8192
SANITIZING = (0x2, 0x04, 0x1B)
FORMATTING = (0x2, 0x04, 0x04)
UNCLEAN = (0x3, 0x31, 0x03)
UNFORMATTED = (0x3, 0x31, 0x00)
INVALID_FIELD = (0x5, 0x24, 0x00)
BAD_LIST = (0x5, 0x26, 0x00)


class Memo:
    """Keeps what a unit keeps, in memory."""

    def __init__(self, work: MediumWork | None = None) -> None:
        self.medium_work = work
        self.fails = False
        self.kept: Kept = NOTHING_KEPT
        self.registrations = Registrations()
        self.is_lasting = True
        self.history: list[MediumWork | None] = []

    def keep(self, kept: Kept, done: Kept_) -> None:
        self.kept = kept
        done(True)

    def keep_registrations(self, state: Registrations, done: Kept_) -> None:
        done(True)

    def keep_medium_work(self, work: MediumWork | None, done: Kept_) -> None:
        if self.fails:
            done(False)
            return
        self.medium_work = work
        self.history.append(work)
        done(True)


def rig(device: BlockDevice | None = None) -> tuple[LogicalUnit, Host, Memo]:
    memo = Memo()
    unit = unit_of(device or MemoryDevice(BLOCKS), keeper=memo)
    host = host_of(unit)
    return unit, host, memo


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def finished(task: FakeTask) -> FakeTask:
    await until(lambda: bool(task.answers))
    return task


def overwrite(host: Host, wanted: Overwrite, **fields: int) -> FakeTask:
    data = wanted.pack()
    cdb = sbc.SanitizeOverwrite.pack(parameter_list_length=len(data), **fields)
    return host.start(cdb, data)


def block(host: Host, lba: int) -> bytes:
    return host.run(sbc.Read10.pack(lba=lba, transfer_length=1)).data_in


def polled(host: Host) -> Sense:
    return parse_sense(host.run(spc.RequestSense.pack(allocation_length=252)).data_in)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param(Overwrite(b"\xaa" * SIZE), b"\xaa" * SIZE, id="a whole block"),
        pytest.param(Overwrite(b"abc"), (b"abc" * SIZE)[:SIZE], id="a pattern that is repeated"),
        pytest.param(Overwrite(b"\x0f", 3), b"\x0f" * SIZE, id="three passes"),
        pytest.param(Overwrite(b"\x0f", 2, invert=True), b"\xf0" * SIZE, id="inverted twice"),
    ],
)
async def test_overwrite_leaves_its_pattern_in_every_block(
    wanted: Overwrite, expected: bytes
) -> None:
    _, host, memo = rig()
    task = await finished(overwrite(host, wanted))
    assert task.status == Status.GOOD
    assert {block(host, lba) for lba in (0, 1, 2047, 2048, BLOCKS - 1)} == {expected}
    assert memo.history[0] is not None
    assert memo.medium_work is None


class Recorder(Layer):
    """Notes what is done to the device."""

    def __init__(self, below: BlockDevice) -> None:
        super().__init__(below)
        self.seen: list[str] = []

    def _note(self, what: str) -> None:
        if self.seen[-1:] != [what]:
            self.seen.append(what)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        self._note(f"write {bytes(data[:1]).hex()}")
        self.below.write(lba, data, done, fua)

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        self._note(f"write same {bytes(pattern[:1]).hex()}")
        self.below.write_same(lba, blocks, pattern, done)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        self._note("unmap")
        self.below.unmap(lba, blocks, done)

    def flush(self, done: Done) -> None:
        self._note("flush")
        self.below.flush(done)


@pytest.mark.parametrize(
    ("begin", "seen"),
    [
        pytest.param(
            lambda host: overwrite(host, Overwrite(b"\x0f", 2, invert=True)),
            ["write 0f", "flush", "write f0", "flush"],
            id="overwrite",
        ),
        pytest.param(
            lambda host: host.start(sbc.SanitizeBlockErase.pack()),
            ["write 00", "flush", "unmap", "flush"],
            id="block erase",
        ),
        pytest.param(
            lambda host: host.start(sbc.FormatUnit.pack()),
            ["write same 00", "flush", "unmap", "flush"],
            id="format",
        ),
        pytest.param(
            lambda host: host.start(sbc.FormatUnit.pack(fmtdata=1), Format(pattern=b"\x5a").pack()),
            ["write same 5a", "flush"],
            id="format with a pattern",
        ),
    ],
)
async def test_passes_over_the_medium(begin: Callable[[Host], FakeTask], seen: list[str]) -> None:
    device = Recorder(MemoryDevice(BLOCKS))
    _, host, _ = rig(device)
    assert (await finished(begin(host))).status == Status.GOOD
    assert device.seen == seen


async def test_immediate_status_comes_before_the_work_and_progress_can_be_asked_for() -> None:
    delay = Delay(MemoryDevice(BLOCKS))
    unit, host, memo = rig(delay)
    other = Host(host.access, "iqn.2026-11.test:other", 2)
    task = overwrite(host, Overwrite(b"x"), immed=1)
    assert task.status == Status.GOOD
    assert memo.medium_work == MediumWork(WorkKind.OVERWRITE, b"x", is_restricted=True)
    seen = []
    while unit.medium.work is not None:
        await until(lambda: bool(delay.held) or unit.medium.work is None)
        seen.append(polled(host).progress)
        if unit.medium.work is not None:
            refused = other.run("00 00 00 00 00 00")
            assert refused.condition == SANITIZING
            assert refused.sense is not None
            assert refused.sense.progress == seen[-1]
        delay.release()
    progress = [each for each in seen if each is not None]
    assert progress == sorted(progress)
    assert len(set(progress)) == 5  # four chunks of 1 MiB, and the flush
    assert (polled(host).key, polled(host).asc) == (0, 0)
    assert other.run("00 00 00 00 00 00").condition == (0x6, 0x28, 0x00)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_command_meanwhile_is_carried_out_or_barred_as_its_row_says(
    row: CommandRow,
) -> None:
    unit, host, _ = rig(Delay(MemoryDevice(BLOCKS)))
    if row not in unit.rows:
        return
    overwrite(host, Overwrite(b"x"), immed=1)
    task = host.start(row.layout.pack())
    assert (task.answers == 1 and task.condition == SANITIZING) is not row.on_medium.in_progress


async def test_work_waits_for_what_is_at_the_device() -> None:
    delay = Delay(MemoryDevice(BLOCKS))
    _, host, _ = rig(delay)
    write = host.start(sbc.Write10.pack(transfer_length=1), b"w" * SIZE)
    late = host.start(sbc.Write10.pack(transfer_length=1), b"l" * SIZE, slow_data=True)
    task = overwrite(host, Overwrite(b"x"))
    assert delay.held == 1
    delay.release()
    assert write.status == Status.GOOD
    late.deliver()
    assert late.condition == SANITIZING
    while not task.answers:
        await asyncio.sleep(0)
        delay.release()
    read = host.start(sbc.Read10.pack(transfer_length=1))
    delay.release()
    assert read.data_in == b"x" * SIZE


@pytest.mark.parametrize("function", [1, 2, 5], ids=["abort task", "abort task set", "reset"])
async def test_task_management_ends_the_command_and_not_the_work(function: int) -> None:
    delay = Delay(MemoryDevice(BLOCKS))
    unit, host, memo = rig(delay)
    task = overwrite(host, Overwrite(b"x"))
    await until(lambda: bool(delay.held))
    assert host.manage(function, tag=task.tag) == [0]
    assert task.answers == 1
    assert unit.medium.work is not None
    assert memo.medium_work is not None
    while unit.medium.work is not None:
        await asyncio.sleep(0)
        delay.release()
    assert memo.medium_work is None


async def test_device_that_is_away_for_a_while_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(medium, "FIRST_RETRY", 0.0)
    fault = Fault(MemoryDevice(BLOCKS))
    fault.fail(Operation.WRITE, error=lambda: Unreachable("away"), after=2, times=3)
    _, host, _ = rig(fault)
    assert (await finished(overwrite(host, Overwrite(b"x")))).status == Status.GOOD
    assert block(host, BLOCKS - 1) == b"x" * SIZE


async def fail_sanitize(host: Host, fault: Fault, **fields: int) -> None:
    fault.fail(Operation.WRITE, error=lambda: MediumFailure("bad", writing=True), times=1)
    task = await finished(overwrite(host, Overwrite(b"x"), **fields))
    assert task.condition == UNCLEAN


async def test_failure_closes_the_unit_until_a_sanitize_succeeds() -> None:
    fault = Fault(MemoryDevice(BLOCKS))
    _, host, memo = rig(fault)
    await fail_sanitize(host, fault)
    assert memo.medium_work is not None
    assert memo.medium_work.has_failed
    assert host.run(sbc.Read10.pack(transfer_length=1)).condition == UNCLEAN
    assert host.run("00 00 00 00 00 00").condition == UNCLEAN
    assert host.run(sbc.FormatUnit.pack()).condition == UNCLEAN
    assert host.run(spc.Inquiry.pack(allocation_length=36)).status == Status.GOOD
    assert polled(host).asc == 0x31
    assert host.run(sbc.SanitizeExitFailureMode.pack()).condition == INVALID_FIELD
    data = Overwrite(b"y").pack()
    refused = host.start(sbc.SanitizeOverwrite.pack(ause=1, parameter_list_length=len(data)), data)
    assert refused.condition == INVALID_FIELD
    assert (await finished(overwrite(host, Overwrite(b"y")))).status == Status.GOOD
    assert block(host, 0) == b"y" * SIZE


async def test_exit_failure_mode_opens_the_unit_where_the_failed_sanitize_allowed_it() -> None:
    fault = Fault(MemoryDevice(BLOCKS))
    _, host, memo = rig(fault)
    assert host.run(sbc.SanitizeExitFailureMode.pack()).status == Status.GOOD  # nothing to leave
    await fail_sanitize(host, fault, ause=1)
    assert host.run(sbc.SanitizeExitFailureMode.pack()).status == Status.GOOD
    assert memo.medium_work is None
    assert host.run(sbc.Read10.pack(transfer_length=1)).status == Status.GOOD


async def test_format_that_fails_leaves_the_format_corrupted_until_one_succeeds() -> None:
    fault = Fault(MemoryDevice(BLOCKS))
    _, host, _ = rig(fault)
    fault.fail(Operation.WRITE_SAME, error=lambda: MediumFailure("bad", writing=True), times=1)
    task = await finished(host.start(sbc.FormatUnit.pack()))
    assert task.condition == (0x3, 0x31, 0x01)
    assert host.run(sbc.Read10.pack(transfer_length=1)).condition == UNFORMATTED
    assert host.run(sbc.ReadCapacity10.pack()).status == Status.GOOD
    assert (await finished(host.start(sbc.FormatUnit.pack()))).status == Status.GOOD
    assert block(host, 5) == bytes(SIZE)


async def test_sanitize_goes_on_after_a_restart() -> None:
    unit, host, memo = rig()
    host.run(sbc.Write10.pack(lba=7, transfer_length=1), b"s" * SIZE)
    memo.medium_work = MediumWork(WorkKind.OVERWRITE, b"x")
    unit.medium.take_up(memo.medium_work)
    assert host.run(sbc.Read10.pack(transfer_length=1)).condition == SANITIZING
    await until(lambda: unit.medium.work is None)
    assert host.run("00 00 00 00 00 00").condition == (0x6, 0x28, 0x00)
    assert block(host, 7) == b"x" * SIZE
    assert memo.medium_work is None


@pytest.mark.parametrize(
    ("work", "condition"),
    [
        pytest.param(MediumWork(WorkKind.FORMAT), UNFORMATTED, id="format was at work"),
        pytest.param(MediumWork(WorkKind.FORMAT, has_failed=True), UNFORMATTED, id="format failed"),
        pytest.param(
            MediumWork(WorkKind.BLOCK_ERASE, has_failed=True), UNCLEAN, id="sanitize failed"
        ),
    ],
)
def test_failure_outlives_a_restart(work: MediumWork, condition: tuple[int, int, int]) -> None:
    unit, host, memo = rig()
    unit.medium.take_up(work)
    assert host.run(sbc.Read10.pack(transfer_length=1)).condition == condition
    assert memo.medium_work is None or memo.medium_work.has_failed


async def test_work_that_cannot_be_kept_is_not_begun() -> None:
    unit, host, memo = rig()
    host.run(sbc.Write10.pack(lba=7, transfer_length=1), b"s" * SIZE)
    memo.fails = True
    assert overwrite(host, Overwrite(b"x")).condition == (0x4, 0x44, 0x00)
    assert unit.medium.work is None
    assert block(host, 7) == b"s" * SIZE


async def test_end_that_cannot_be_kept_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then the store says that the work goes on, and a restart would wipe the blocks."""
    monkeypatch.setattr(medium, "FIRST_RETRY", 0.0)
    unit, host, memo = rig()
    task = overwrite(host, Overwrite(b"x"))
    memo.fails = True
    for _ in range(50):
        await asyncio.sleep(0)
    assert task.answers == 0
    assert host.run(sbc.Read10.pack(transfer_length=1)).condition == SANITIZING
    memo.fails = False
    assert (await finished(task)).status == Status.GOOD
    assert unit.medium.work is None


def test_unit_that_goes_begins_nothing_more() -> None:
    delay = Delay(MemoryDevice(BLOCKS))
    unit, host, memo = rig(delay)
    overwrite(host, Overwrite(b"x"), immed=1)
    unit.medium.close()
    delay.release()
    assert delay.held == 0
    assert memo.medium_work is not None


@pytest.mark.parametrize(
    ("cdb", "data", "condition"),
    [
        pytest.param(sbc.SanitizeOverwrite.pack(), b"", INVALID_FIELD, id="no list"),
        pytest.param(
            sbc.SanitizeOverwrite.pack(parameter_list_length=4), bytes(4), INVALID_FIELD, id="4"
        ),
        pytest.param(
            sbc.SanitizeOverwrite.pack(parameter_list_length=517),
            bytes(517),
            INVALID_FIELD,
            id="more than a block",
        ),
        pytest.param(
            sbc.SanitizeOverwrite.pack(parameter_list_length=8),
            bytes.fromhex("0000000400000000"),
            BAD_LIST,
            id="count 0",
        ),
        pytest.param(
            sbc.SanitizeOverwrite.pack(parameter_list_length=8),
            bytes.fromhex("2100000400000000"),
            BAD_LIST,
            id="test",
        ),
        pytest.param(
            sbc.SanitizeOverwrite.pack(parameter_list_length=8),
            bytes.fromhex("0100000000000000"),
            BAD_LIST,
            id="pattern of no byte",
        ),
        pytest.param(
            sbc.SanitizeOverwrite.pack(parameter_list_length=8),
            bytes.fromhex("0100000500000000"),
            (0x5, 0x1A, 0x00),
            id="pattern cut short",
        ),
        pytest.param(
            sbc.SanitizeBlockErase.pack(parameter_list_length=8), bytes(8), INVALID_FIELD, id="be"
        ),
        pytest.param(
            sbc.SanitizeExitFailureMode.pack(parameter_list_length=8),
            bytes(8),
            INVALID_FIELD,
            id="efm",
        ),
        pytest.param("48 03 00 00 00 00 00 00 00 00", b"", INVALID_FIELD, id="crypto"),
        pytest.param(sbc.FormatUnit.pack(fmtpinfo=2), b"", INVALID_FIELD, id="protection"),
        pytest.param(sbc.FormatUnit.pack(defect_list_format=4), b"", INVALID_FIELD, id="format"),
        pytest.param(sbc.FormatUnit.pack(longlist=1), b"", INVALID_FIELD, id="long, no data"),
        pytest.param(sbc.FormatUnit.pack(fmtdata=1), b"", (0x5, 0x1A, 0x00), id="data, none"),
        pytest.param(
            sbc.FormatUnit.pack(fmtdata=1), bytes.fromhex("01800000"), BAD_LIST, id="protected"
        ),
        pytest.param(
            sbc.FormatUnit.pack(fmtdata=1), bytes.fromhex("00200000"), BAD_LIST, id="DCRT, no FOV"
        ),
        pytest.param(
            sbc.FormatUnit.pack(fmtdata=1), bytes.fromhex("0080000800000000"), BAD_LIST, id="list"
        ),
    ],
)
def test_request_that_cannot_be_is_refused(
    cdb: bytes | str, data: bytes, condition: tuple[int, int, int]
) -> None:
    _, host, memo = rig()
    assert host.run(cdb, data).condition == condition
    assert memo.history == []


@pytest.mark.parametrize(
    "data",
    ["00000000", "00820000", "00e20000", "00f20000"],
    ids=["no option", "FOV, IMMED", "FOV, DPRY, DCRT", "FOV, DPRY, DCRT, STPF"],
)
async def test_format_options_that_mean_nothing_here_are_taken(data: str) -> None:
    _, host, _ = rig()
    task = host.start(sbc.FormatUnit.pack(fmtdata=1), bytes.fromhex(data))
    assert (await finished(task)).status == Status.GOOD


class Thick(Layer):
    def __init__(self) -> None:
        super().__init__(MemoryDevice(BLOCKS))
        self.capabilities = Capabilities(Level.NONE, Level.NATIVE, Level.NONE, Level.NATIVE)


class Preallocated(Layer):
    def __init__(self) -> None:
        super().__init__(MemoryDevice(BLOCKS))
        self.capabilities = replace(self.capabilities, keeps_room=True)


def test_unit_that_keeps_its_room_is_resource_provisioned_and_has_no_block_erase() -> None:
    _, host, _ = rig(Preallocated())
    page = vpd.LogicalBlockProvisioning.parse(host.run(bytes.fromhex("1201b2ff0000")).data_in)
    assert (page.lbpu, page.provisioning_type) == (1, vpd.ProvisioningType.RESOURCE)
    assert host.run(sbc.SanitizeBlockErase.pack()).condition == INVALID_FIELD


def test_block_erase_is_there_only_where_blocks_can_be_unmapped() -> None:
    page = bytes.fromhex("1201b100ff00")
    _, thin, _ = rig()
    _, thick, _ = rig(Thick())
    assert vpd.BlockDeviceCharacteristics.parse(thin.run(page).data_in).wabereq == 1
    assert vpd.BlockDeviceCharacteristics.parse(thick.run(page).data_in).wabereq == 0
    assert thick.run(sbc.SanitizeBlockErase.pack()).condition == INVALID_FIELD


async def test_work_over_a_device_that_can_do_little() -> None:
    _, host, _ = rig(BareDevice(BLOCKS))
    assert (await finished(overwrite(host, Overwrite(b"x")))).status == Status.GOOD
    assert block(host, 9) == b"x" * SIZE


def test_write_protected_unit_refuses_them() -> None:
    host = host_of(unit_of(MemoryDevice(BLOCKS), read_only=True))
    for cdb in (sbc.FormatUnit.pack(), sbc.SanitizeBlockErase.pack()):
        assert host.run(cdb).condition == (0x7, 0x27, 0x00)
