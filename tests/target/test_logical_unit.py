"""The gate: what stops a command before its handler, with the exact answer."""

from __future__ import annotations

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.command_control.command_table import ROWS, Addresses, Change, CommandRow, CommandSet
from daiko.device import error as device_error
from daiko.scsi import sbc, sense
from daiko.scsi.opcode import Status
from daiko.target.access import Access
from daiko.target.commands.handler import HANDLERS, serves
from daiko.target.event import Event
from daiko.target.failure import answer_to
from daiko.target.logical_unit import MAXIMUM_TRANSFER, LogicalUnit
from daiko.target.nexus import ItlNexus, Nexus
from daiko.target.task import Task
from target.fake import BareDevice, Host, MemoryKeeper, SlowDevice, host_of, unit_of

TEST_UNIT_READY = "00" * 6
LBA_OUT_OF_RANGE = (0x5, 0x21, 0x00)
INVALID_FIELD = (0x5, 0x24, 0x00)
INVALID_OPCODE = (0x5, 0x20, 0x00)
WRITE_PROTECTED = (0x7, 0x27, 0x00)


class CopyManager:
    """Stands where the copy manager stands, and takes note."""

    def __init__(self) -> None:
        self.executed: list[str] = []
        self.told_to_stop: list[Task] = []
        self.lost: list[Nexus] = []
        self.answer: sense.Sense | None = None
        self.keeps: tuple[ItlNexus, Task] | None = None

    def execute(self, unit: LogicalUnit, itl: ItlNexus, task: Task, row: CommandRow) -> None:
        self.executed.append(row.name)
        if self.answer is not None:
            raise sense.CheckCondition(self.answer)
        self.keeps = (itl, task)

    def aborted(self, task: Task) -> None:
        self.told_to_stop.append(task)

    def copies_at(self, unit: LogicalUnit) -> list[tuple[ItlNexus, Task]]:
        return []

    def reservations_changed(self, unit: LogicalUnit) -> None:
        pass

    def page(self, unit: LogicalUnit) -> bytes:
        return bytes.fromhex("008f0004 00000000")

    def nexus_lost(self, nexus: Nexus) -> None:
        self.lost.append(nexus)


AT_A_DISK = [row for row in ROWS if row.command_set is not CommandSet.SITE]
SERVED_HERE = [row for row in AT_A_DISK if row.command_set is not CommandSet.THIRD_PARTY_COPY]
RANGED = [row for row in ROWS if row.addresses in (Addresses.RANGE, Addresses.RANGE_OR_REST)]


def named(row: CommandRow) -> str:
    return row.name


def test_every_row_has_exactly_one_handler() -> None:
    assert sorted(HANDLERS) == sorted(row.name for row in SERVED_HERE)


@pytest.mark.parametrize("name", ["READ_10", "NO_SUCH_COMMAND"])
def test_handler_for_a_served_or_unknown_row_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        serves(name)(test_every_row_has_exactly_one_handler)


@pytest.mark.parametrize("row", AT_A_DISK, ids=named)
def test_each_bit_that_the_layout_does_not_have_is_refused_with_a_pointer_to_it(
    row: CommandRow,
) -> None:
    host = host_of(unit_of(third_party_copy=CopyManager(), keeper=MemoryKeeper()))
    mask = row.layout.mask
    whole = row.layout.pack()
    for byte in range(1, row.layout.length):
        for bit in range(8):
            is_service_action = row.service_action is not None and byte == 1 and bit < 5
            if mask[byte] >> bit & 1 or is_service_action:
                continue
            cdb = bytearray(whole)
            cdb[byte] |= 1 << bit
            task = host.run(bytes(cdb))
            assert task.condition == INVALID_FIELD, (byte, bit)
            assert task.sense is not None
            pointer = task.sense.field
            assert pointer is not None
            assert (pointer.in_cdb, pointer.byte, pointer.bit) == (True, byte, bit)


def test_bytes_behind_a_short_cdb_are_ignored() -> None:
    host = host_of(unit_of())
    assert host.run(bytes(6) + b"\xff" * 10).status == Status.GOOD


@pytest.mark.parametrize("opcode", [0x01, 0x05, 0x5D, 0x7F, 0xFF])
def test_unknown_opcode_is_invalid(opcode: int) -> None:
    assert host_of(unit_of()).run(bytes([opcode]) + bytes(15)).condition == INVALID_OPCODE


def test_unknown_service_action_is_an_invalid_field() -> None:
    task = host_of(unit_of()).run("9e1f" + "00" * 14)
    assert task.condition == INVALID_FIELD
    assert task.sense is not None
    assert task.sense.field is not None
    assert (task.sense.field.byte, task.sense.field.bit) == (1, 4)


# ---------------------------------------------------------------------- ranges


def ranged(row: CommandRow, lba: int, blocks: int) -> tuple[bytes, bytes]:
    """A CDB, and data of the right length where it takes some."""
    factor = {sbc.CompareAndWrite: 2}.get(row.layout, 1)
    if row.layout in (sbc.WriteSame10, sbc.WriteSame16):
        size = 512
    elif row.layout.name.startswith(("Verify", "Read", "Synchronize")):
        size = 0
    else:
        size = factor * blocks * 512
    return row.layout.pack(lba=lba, transfer_length=blocks), bytes(size)


@pytest.mark.parametrize("row", RANGED, ids=named)
@pytest.mark.parametrize(
    ("lba", "blocks", "condition"),
    [
        pytest.param(1023, 1, None, id="last block"),
        pytest.param(0, 255, None, id="many blocks"),
        pytest.param(1024, 1, LBA_OUT_OF_RANGE, id="one past the end"),
        pytest.param(1023, 2, LBA_OUT_OF_RANGE, id="over the end"),
        pytest.param(0x1FFFFF, 1, LBA_OUT_OF_RANGE, id="far out"),
    ],
)
def test_range_is_held_against_the_capacity(
    row: CommandRow, lba: int, blocks: int, condition: tuple[int, int, int] | None
) -> None:
    cdb, data = ranged(row, lba, blocks)
    task = host_of(unit_of()).run(cdb, data)
    assert task.condition == condition
    assert (task.status == Status.GOOD) is (condition is None)


@pytest.mark.parametrize("row", [row for row in RANGED if row.layout.length > 6], ids=named)
@pytest.mark.parametrize(
    ("lba", "condition"),
    [
        pytest.param(0, None, id="first block"),
        pytest.param(1023, None, id="last block"),
        pytest.param(1024, LBA_OUT_OF_RANGE, id="one past the end"),
        pytest.param(0xFFFFFFFF, LBA_OUT_OF_RANGE, id="largest 32-bit LBA"),
    ],
)
def test_length_0_still_needs_a_block_to_start_from(
    row: CommandRow, lba: int, condition: tuple[int, int, int] | None
) -> None:
    cdb, data = ranged(row, lba, 0)
    unit = unit_of()
    assert host_of(unit).run(cdb, data).condition == condition


@pytest.mark.parametrize("row", [row for row in RANGED if row.layout.length == 16], ids=named)
def test_lba_whose_sum_with_the_length_passes_64_bits_is_out_of_range(row: CommandRow) -> None:
    cdb, data = ranged(row, 0xFFFFFFFFFFFFFFFF, 2)
    assert host_of(unit_of()).run(cdb, data).condition == LBA_OUT_OF_RANGE


LONG = [
    row
    for row in RANGED
    if row.addresses is Addresses.RANGE
    and {field.name: field.width for field in row.layout.fields}["transfer_length"] >= 32
]


@pytest.mark.parametrize("block_size", [512, 4096])
@pytest.mark.parametrize("row", LONG, ids=named)
def test_transfer_over_the_stated_maximum_is_an_invalid_field(
    row: CommandRow, block_size: int
) -> None:
    most = MAXIMUM_TRANSFER // block_size
    unit = unit_of(MemoryDevice(3 * most, block_size))
    host = host_of(unit)
    assert unit.maximum_transfer == most
    task = host.run(row.layout.pack(transfer_length=most + 1))
    assert task.condition == INVALID_FIELD
    assert task.sense is not None
    assert task.sense.field is not None
    assert task.sense.field.byte == (10 if row.layout.length == 16 else 6)
    data = bytes(most * block_size) if "WRITE" in row.name else b""
    assert host.run(row.layout.pack(transfer_length=most), data).status == Status.GOOD


def test_maximum_transfer_is_not_more_than_the_device_takes() -> None:
    device = MemoryDevice(1024)
    device.capabilities = type(device.capabilities)(
        unmap=device.capabilities.unmap,
        write_same=device.capabilities.write_same,
        compare_and_write=device.capabilities.compare_and_write,
        fua=device.capabilities.fua,
        maximum_blocks=64,
    )
    host = host_of(unit_of(device))
    assert host.run(sbc.Read10.pack(transfer_length=64)).status == Status.GOOD
    assert host.run(sbc.Read10.pack(transfer_length=65)).condition == INVALID_FIELD


# ---------------------------------------------------------------------- protection, attention


@pytest.mark.parametrize("row", SERVED_HERE, ids=named)
def test_write_protected_unit_refuses_exactly_what_writes(row: CommandRow) -> None:
    task = host_of(unit_of(read_only=True)).start(row.layout.pack())
    assert (task.condition == WRITE_PROTECTED) is (row.change is Change.WRITES)


@pytest.mark.parametrize("row", SERVED_HERE, ids=named)
def test_unit_attention_is_reported_once_by_what_reports_it(row: CommandRow) -> None:
    unit = unit_of(keeper=MemoryKeeper())
    host = host_of(unit)
    unit.announce(Event.CAPACITY_CHANGED)
    first = host.start(row.layout.pack())
    is_reported = row.attention.name == "REPORTED"
    assert (first.condition == (0x6, 0x2A, 0x09)) is is_reported
    if row.name == "REQUEST_SENSE":
        assert host.run(TEST_UNIT_READY).status == Status.GOOD
    elif not is_reported:
        assert host.run(TEST_UNIT_READY).condition == (0x6, 0x2A, 0x09)
    assert host.run(TEST_UNIT_READY).status == Status.GOOD


def test_alert_spares_the_host_that_caused_it() -> None:
    unit = unit_of()
    host = host_of(unit)
    cause = next(iter(unit.nexuses))
    unit.announce(Event.MODE_PARAMETERS_CHANGED, by=cause)
    assert host.run(TEST_UNIT_READY).status == Status.GOOD


# ---------------------------------------------------------------------- what the device offers


@pytest.mark.parametrize("name", ["UNMAP", "WRITE_SAME_10", "WRITE_SAME_16"])
def test_command_that_the_device_has_no_means_for_does_not_exist(name: str) -> None:
    row = next(row for row in ROWS if row.name == name)
    unit = unit_of(BareDevice())
    assert row not in unit.rows
    assert row in unit_of().rows
    assert host_of(unit).run(row.layout.pack()).condition == INVALID_OPCODE


COPY_ROWS = [row for row in ROWS if row.command_set is CommandSet.THIRD_PARTY_COPY]


@pytest.mark.parametrize("row", COPY_ROWS, ids=named)
def test_copy_command_goes_to_the_copy_manager_or_does_not_exist(row: CommandRow) -> None:
    manager = CopyManager()
    host_of(unit_of(third_party_copy=manager)).start(row.layout.pack())
    assert manager.executed == [row.name]
    task = host_of(unit_of()).run(row.layout.pack())
    unknown_action = row.opcode in (0xA3, 0xA4)
    assert task.condition == (INVALID_FIELD if unknown_action else INVALID_OPCODE)


def test_refusal_of_the_copy_manager_is_the_answer() -> None:
    manager = CopyManager()
    manager.answer = sense.parameter_list_length_error()
    task = host_of(unit_of(third_party_copy=manager)).run("83" + "00" * 15)
    assert task.condition == (0x5, 0x1A, 0x00)


def test_abort_of_a_copy_reaches_the_copy_manager_and_is_answered_when_it_has_stopped() -> None:
    manager = CopyManager()
    host = host_of(unit_of(third_party_copy=manager))
    task = host.start("83" + "00" * 15)
    response = host.manage(1, tag=task.tag)
    assert manager.told_to_stop == [task]
    assert response == []
    assert manager.keeps is not None
    itl, kept = manager.keeps
    assert itl.is_ending(kept)
    itl.finish(kept, Status.GOOD)
    assert response == [0]
    assert task.status is None


def test_loss_of_the_session_is_told_to_the_copy_manager_once() -> None:
    manager = CopyManager()
    unit, other = unit_of(third_party_copy=manager), unit_of(third_party_copy=manager)
    host = host_of(unit)
    host.access.publish({"*": {0: unit, 1: other}})
    host.access.nexus_lost(host.nexus)
    assert manager.lost == [host.nexus]


# ---------------------------------------------------------------------- the device is exchanged


def test_replaced_device_serves_the_next_command_while_the_old_ends_its_own() -> None:
    old, new = SlowDevice(), MemoryDevice(1024)
    unit = unit_of(old)
    host = host_of(unit)
    under_way = host.start(sbc.Read10.pack(transfer_length=1))
    unit.replace_device(new)
    assert host.run(sbc.Read10.pack(transfer_length=1)).status == Status.GOOD
    old.step()
    assert under_way.status == Status.GOOD


@pytest.mark.parametrize(
    "device",
    [MemoryDevice(1023), MemoryDevice(1024, 4096)],
    ids=["one block short", "larger blocks"],
)
def test_device_of_another_size_cannot_replace_silently(device: MemoryDevice) -> None:
    with pytest.raises(ValueError, match="another size"):
        unit_of().replace_device(device)


def test_resized_unit_tells_every_host_and_serves_the_new_blocks() -> None:
    unit = unit_of()
    host = host_of(unit)
    unit.resize(MemoryDevice(2048))
    assert host.run(TEST_UNIT_READY).condition == (0x6, 0x2A, 0x09)
    assert host.run(TEST_UNIT_READY).status == Status.GOOD
    assert host.run(sbc.Read10.pack(lba=2047, transfer_length=1)).status == Status.GOOD
    with pytest.raises(ValueError, match="block size"):
        unit.resize(MemoryDevice(2048, 4096))
    with pytest.raises(ValueError, match="only grows"):
        unit.resize(MemoryDevice(2047))


# ---------------------------------------------------------------------- failures of the device

FAILURES = [
    (device_error.OutOfRange("x"), Status.CHECK_CONDITION, (0x5, 0x21, 0x00)),
    (device_error.MediumFailure("x", writing=False), Status.CHECK_CONDITION, (0x3, 0x11, 0x00)),
    (device_error.MediumFailure("x", writing=True), Status.CHECK_CONDITION, (0x3, 0x0C, 0x00)),
    (device_error.SpaceExhausted("x"), Status.CHECK_CONDITION, (0x7, 0x27, 0x07)),
    (device_error.WriteProtected("x"), Status.CHECK_CONDITION, (0x7, 0x27, 0x00)),
    (device_error.Miscompare("x", offset=7), Status.CHECK_CONDITION, (0xE, 0x1D, 0x00)),
    (device_error.Unsupported("x"), Status.CHECK_CONDITION, (0x5, 0x20, 0x00)),
    (device_error.Unreachable("x"), Status.CHECK_CONDITION, None),
    (device_error.Busy("x"), Status.BUSY, None),
    (device_error.ReservationConflict("x"), Status.RESERVATION_CONFLICT, None),
    (device_error.Aborted("x"), Status.BUSY, None),
    (
        device_error.Refused("x", status=2, sense=sense.write_error(5).fixed()),
        Status.CHECK_CONDITION,
        (0x3, 0x0C, 0x00),
    ),
    (device_error.DeviceError("x"), Status.CHECK_CONDITION, (0x4, 0x44, 0x00)),
]


@pytest.mark.parametrize(
    ("error", "status", "condition"), FAILURES, ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize("command", ["read", "write", "flush", "verify", "unmap"])
def test_failure_of_the_device_is_reported_by_its_class(
    command: str,
    error: device_error.DeviceError,
    status: Status,
    condition: tuple[int, int, int] | None,
) -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    unmap_list = bytes.fromhex("0016001000000000" + "00" * 8 + "00000001" + "00000000")
    task = {
        "read": lambda: host.start(sbc.Read16.pack(transfer_length=1)),
        "write": lambda: host.start(sbc.Write16.pack(transfer_length=1), bytes(512)),
        "flush": lambda: host.start(sbc.SynchronizeCache10.pack()),
        "verify": lambda: host.start(sbc.Verify10.pack(transfer_length=1)),
        "unmap": lambda: host.start(sbc.Unmap.pack(parameter_list_length=24), unmap_list),
    }[command]()
    device.fail(error)
    assert task.status == status
    if condition is not None:
        assert task.condition == condition


def test_every_class_of_device_error_has_an_answer_of_its_own() -> None:
    seen = {type(error) for error, _, _ in FAILURES}
    classes = {
        value
        for value in vars(device_error).values()
        if isinstance(value, type) and issubclass(value, device_error.DeviceError)
    }
    assert seen == classes


def test_medium_failure_carries_the_lba() -> None:
    status, reported = answer_to(device_error.MediumFailure("x", writing=False, lba=12))
    assert isinstance(reported, sense.Sense)
    assert (status, reported.information) == (Status.CHECK_CONDITION, 12)


def test_miscompare_carries_the_offset() -> None:
    _, reported = answer_to(device_error.Miscompare("x", offset=513))
    assert isinstance(reported, sense.Sense)
    assert reported.information == 513


def test_two_hosts_with_a_unit_each_under_lun_0_do_not_meet() -> None:
    access = Access()
    one, two = unit_of(), unit_of()
    access.publish({"iqn.a:1": {0: one}, "iqn.a:2": {0: two}})
    first, second = Host(access, "iqn.a:1"), Host(access, "iqn.a:2")
    first.run(sbc.Write10.pack(transfer_length=1), b"1" * 512)
    second.run(sbc.Write10.pack(transfer_length=1), b"2" * 512)
    assert first.run(sbc.Read10.pack(transfer_length=1)).data_in == b"1" * 512
