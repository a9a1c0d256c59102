"""READ, WRITE, VERIFY and their relatives (SBC-4).

The range has been decoded and checked by the gate; `flags` is byte 1 of the CDB, whose bits lie in
the same places in all of these commands. READ and WRITE are the data path: the device completes
them by a method of the task, and nothing is made for it.

Where the initiator announced less data than the command moves, the whole blocks that there are are
written (RFC 7143, 11.4.5: the residual says how much was not); part of a block cannot be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from daiko.device import emulate
from daiko.device.block import Atomic, BlockDevice, Buffer, Done, Level
from daiko.device.emulate import first_difference
from daiko.device.error import DeviceError
from daiko.scsi import sbc, sense
from daiko.scsi.block_data import Capacity, pack_capacity_10
from daiko.scsi.opcode import Status
from daiko.scsi.sense import CheckCondition
from daiko.target import atomic_write
from daiko.target.commands.durable import write_through
from daiko.target.commands.handler import serves
from daiko.target.task import Omitted

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

FUA: Final = 0x08
"""Byte 1 of READ, WRITE and COMPARE AND WRITE: to and from the medium, not a volatile cache."""

EXCESS: Final = 8192
"""Bytes that a READ may have to give beyond what the initiator has room for, and that are read."""

GOOD: Final = int(Status.GOOD)
CONDITION_MET: Final = int(Status.CONDITION_MET)


@serves("READ_6", "READ_10", "READ_12", "READ_16")
def read(unit: LogicalUnit, itl: ItlNexus, task: Task, flags: int, lba: int, blocks: int) -> None:
    """Data from the device to the initiator."""
    if blocks * unit.block_size > task.expected_in + EXCESS:
        _read_in_part(unit, itl, task, flags, lba, blocks)
    elif flags & FUA:
        _flush_and_read(unit, itl, task, lba, blocks)
    else:
        unit.device.read(lba, blocks, task.read_done)


def _flush_and_read(unit: LogicalUnit, itl: ItlNexus, task: Task, lba: int, blocks: int) -> None:
    """A READ that wants what is on the medium."""
    device = unit.device_for(task)

    def flushed(error: DeviceError | None) -> None:
        if error is None:
            device.read(lba, blocks, task.read_done)
        else:
            unit.fail(itl, task, error)

    device.flush(flushed)


def _read_in_part(
    unit: LogicalUnit, itl: ItlNexus, task: Task, flags: int, lba: int, blocks: int
) -> None:
    """A READ of far more than the initiator has room for: only that much is read. What is announced
    is what the port counts the memory of a command by."""
    wanted = -(-task.expected_in // unit.block_size)
    omitted = cast("Buffer", Omitted((blocks - wanted) * unit.block_size))
    device = unit.device_for(task)

    def done(error: DeviceError | None, data: Buffer) -> None:
        if error is None:
            itl.finish(task, GOOD, (data, omitted))
        else:
            unit.fail(itl, task, error)

    def begin(error: DeviceError | None) -> None:
        if error is not None:
            unit.fail(itl, task, error)
        elif wanted:
            device.read(lba, wanted, done)
        else:
            itl.finish(task, GOOD, (omitted,))

    if flags & FUA:
        device.flush(begin)
    else:
        begin(None)


@serves("WRITE_6", "WRITE_10", "WRITE_12", "WRITE_16")
def write(unit: LogicalUnit, itl: ItlNexus, task: Task, flags: int, lba: int, blocks: int) -> None:
    """Data from the initiator to the device."""
    data = task.data_at_once(blocks * unit.block_size)
    if data and not flags & FUA and not unit.write_through:
        unit.device.write(lba, data, task.write_done)
    else:
        _fetch_and_write(unit, itl, task, flags, lba, blocks)


def _fetch_and_write(
    unit: LogicalUnit, itl: ItlNexus, task: Task, flags: int, lba: int, blocks: int
) -> None:
    """A WRITE whose data has to be asked for, or has to reach stable storage."""

    def received(data: Buffer) -> None:
        if len(data) != length:
            cut = _whole_blocks(unit, itl, task, data)
            if cut is None:
                return
            data = cut
        if flags & FUA or unit.write_through:
            write_through(unit.device, lba, data, task.write_done)
        else:
            unit.device.write(lba, data, task.write_done)

    length = blocks * unit.block_size
    if length:
        task.fetch(length, received)
    else:
        itl.finish(task, GOOD)


def _whole_blocks(unit: LogicalUnit, itl: ItlNexus, task: Task, data: Buffer) -> Buffer | None:
    """What of too little data can be written; None when the task has been ended for it."""
    if len(data) % unit.block_size:
        itl.refuse(task, sense.invalid_field_in_command_information_unit())
        return None
    if not data:
        itl.finish(task, GOOD)
        return None
    return data


def flush_after(unit: LogicalUnit, done: Done) -> Done:
    """A completion that flushes before it reports success to `done`."""

    def written(error: DeviceError | None) -> None:
        if error is None:
            unit.device.flush(done)
        else:
            done(error)

    return written


# ---------------------------------------------------------------------- verification


class ByteCheck:
    """BYTCHK, bits 2 and 1 of byte 1 (SBC-4, 5.36)."""

    NONE: Final = 0
    """The medium can be read."""
    ALL: Final = 1
    """It holds the data that came."""
    EACH_BLOCK: Final = 3
    """Each block holds the one block that came."""


def _byte_check(flags: int) -> int:
    return flags >> 1 & 3


@serves("VERIFY_10", "VERIFY_12", "VERIFY_16")
def verify(unit: LogicalUnit, itl: ItlNexus, task: Task, flags: int, lba: int, blocks: int) -> None:
    """Compare the medium with data from the initiator, or see that it can be read."""
    check = _byte_check(flags)
    if check == 2:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 2))
    if not blocks:
        itl.finish(task, GOOD)
        return
    if check == ByteCheck.NONE:
        _compare(unit, itl, task, unit.device, lba, blocks, None)
        return

    def received(data: Buffer) -> None:
        if len(data) != length:
            raise CheckCondition(sense.invalid_field_in_command_information_unit())
        expected = bytes(data) * (blocks if check == ByteCheck.EACH_BLOCK else 1)
        _compare(unit, itl, task, unit.device, lba, blocks, expected)

    length = unit.block_size * (1 if check == ByteCheck.EACH_BLOCK else blocks)
    unit.receive(itl, task, length, received)


def _compare(
    unit: LogicalUnit,
    itl: ItlNexus,
    task: Task,
    device: BlockDevice,
    lba: int,
    blocks: int,
    expected: bytes | None,
) -> None:
    def done(error: DeviceError | None, data: Buffer) -> None:
        if error is not None:
            unit.fail(itl, task, error)
        elif expected is not None and expected != data:
            itl.refuse(task, sense.miscompare(first_difference(expected, data)))
        else:
            itl.finish(task, GOOD)

    device.read(lba, blocks, done)


@serves("WRITE_AND_VERIFY_10", "WRITE_AND_VERIFY_12", "WRITE_AND_VERIFY_16")
def write_and_verify(
    unit: LogicalUnit, itl: ItlNexus, task: Task, flags: int, lba: int, blocks: int
) -> None:
    """Write to the medium, then see that it can be read or, with BYTCHK, that it holds the data."""
    check = _byte_check(flags)
    if check > ByteCheck.ALL:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 2))
    if not blocks:
        itl.finish(task, GOOD)
        return

    def received(data: Buffer) -> None:
        cut: Buffer | None = data
        if len(data) != length:
            cut = _whole_blocks(unit, itl, task, data)
        if cut is None:
            return
        kept = bytes(cut) if check == ByteCheck.ALL else None
        count = len(cut) // unit.block_size
        device = unit.device_for(task)

        def written(error: DeviceError | None) -> None:
            if error is None:
                _compare(unit, itl, task, device, lba, count, kept)
            else:
                unit.fail(itl, task, error)

        write_through(device, lba, cut, written)

    length = blocks * unit.block_size
    unit.receive(itl, task, length, received)


@serves("COMPARE_AND_WRITE")
def compare_and_write(
    unit: LogicalUnit, itl: ItlNexus, task: Task, flags: int, lba: int, blocks: int
) -> None:
    """The data is what must be there, then what is to be there; nothing comes between."""
    if task.expected_out != 2 * blocks * unit.block_size:
        raise CheckCondition(sense.invalid_field_in_cdb(13))
    if not blocks:
        itl.finish(task, GOOD)
        return

    def done(error: DeviceError | None) -> None:
        if error is None:
            itl.finish(task, GOOD)
        else:
            unit.fail(itl, task, error)

    def received(data: Buffer) -> None:
        both = memoryview(data)
        compare, new = both[:length], both[length:]
        completion: Done = done
        if flags & FUA or unit.write_through:
            completion = flush_after(unit, done)
        device = unit.device
        if device.is_native(Atomic.COMPARE_AND_WRITE, lba, blocks):
            device.compare_and_write(lba, compare, new, completion)
            return

        def alone(device: BlockDevice, finished: Done) -> None:
            emulate.compare_and_write(device, lba, compare, new, finished)

        unit.alone.run_alone(task, lba, blocks, alone, completion)

    length = blocks * unit.block_size
    unit.receive(itl, task, 2 * length, received)


@serves("ORWRITE_16")
def orwrite(
    unit: LogicalUnit, itl: ItlNexus, task: Task, flags: int, lba: int, blocks: int
) -> None:
    """Set the bits that the data has; nothing comes between the read and the write."""

    def done(error: DeviceError | None) -> None:
        if error is None:
            itl.finish(task, GOOD)
        else:
            unit.fail(itl, task, error)

    def received(data: Buffer) -> None:
        completion: Done = done
        if flags & FUA or unit.write_through:
            completion = flush_after(unit, done)
        device = unit.device
        if device.is_native(Atomic.OR_WRITE, lba, blocks):
            device.or_write(lba, data, completion)
            return

        def alone(device: BlockDevice, finished: Done) -> None:
            emulate.or_write(device, lba, data, finished)

        unit.alone.run_alone(task, lba, blocks, alone, completion)

    if blocks:
        unit.receive_exactly(itl, task, blocks * unit.block_size, received)
    else:
        itl.finish(task, GOOD)


@serves("WRITE_ATOMIC_16")
def write_atomic(
    unit: LogicalUnit, itl: ItlNexus, task: Task, flags: int, lba: int, blocks: int
) -> None:
    """All of the blocks or none, whatever happens; see `target/atomic_write.py`."""
    if blocks > atomic_write.most_blocks(unit):
        raise CheckCondition(sense.invalid_field_in_cdb(12))
    if not blocks:
        itl.finish(task, GOOD)
        return

    def done(error: DeviceError | None) -> None:
        if error is None:
            itl.finish(task, GOOD)
        else:
            unit.fail(itl, task, error)

    def received(data: Buffer) -> None:
        completion: Done = done
        if flags & FUA or unit.write_through:
            completion = flush_after(unit, done)
        atomic_write.write(unit, task, lba, data, completion)

    unit.receive_exactly(itl, task, blocks * unit.block_size, received)


# ---------------------------------------------------------------------- the rest


@serves("PREFETCH_10", "PREFETCH_16")
def prefetch(
    unit: LogicalUnit, itl: ItlNexus, task: Task, flags: int, lba: int, blocks: int
) -> None:
    """Bring blocks into the device's cache: CONDITION MET where all of them have room there, GOOD
    where not (SBC-4, 5.14). With IMMED the status comes before that is known. A block that cannot
    be read then is reported to the READ that wants it."""

    def done(error: DeviceError | None, fits: bool) -> None:
        if error is None:
            itl.finish(task, CONDITION_MET if fits else GOOD)
        else:
            unit.fail(itl, task, error)

    def done_later(error: DeviceError | None, fits: bool) -> None:
        """The host has its status."""

    if flags & IMMED:
        itl.finish(task, GOOD)
        unit.device.prefetch(lba, blocks, done_later)
    else:
        unit.device.prefetch(lba, blocks, done)


@serves("SYNCHRONIZE_CACHE_10", "SYNCHRONIZE_CACHE_16")
def synchronize_cache(
    unit: LogicalUnit, itl: ItlNexus, task: Task, flags: int, lba: int, blocks: int
) -> None:
    """Bring what has been written to stable storage; a device flushes all of it or nothing. With
    IMMED the status comes first, and a failure later as a deferred error (SPC-4, 4.5.7)."""

    def flushed(error: DeviceError | None) -> None:
        if error is None:
            itl.finish(task, GOOD)
        else:
            unit.fail(itl, task, error)

    def flushed_late(error: DeviceError | None) -> None:
        if error is not None:
            itl.attentions.establish(sense.deferred_write_error())

    if flags & IMMED:
        itl.finish(task, GOOD)
        unit.device.flush(flushed_late)
    else:
        unit.device.flush(flushed)


IMMED: Final = 0x02
"""Byte 1 of SYNCHRONIZE CACHE."""


@serves("READ_CAPACITY_10")
def read_capacity_10(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Last LBA, as far as 32 bits go, and block size."""
    cdb = sbc.ReadCapacity10.unpack(task.cdb)
    if cdb.lba and not cdb.pmi:
        raise CheckCondition(sense.invalid_field_in_cdb(2))
    itl.finish(task, GOOD, (pack_capacity_10(unit.blocks, unit.block_size),))


@serves("READ_CAPACITY_16")
def read_capacity_16(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Last LBA, block size and provisioning."""
    cdb = sbc.ReadCapacity16.unpack(task.cdb)
    if cdb.lba and not cdb.pmi:
        raise CheckCondition(sense.invalid_field_in_cdb(2))
    can_unmap = unit.device.capabilities.unmap is not Level.NONE
    data = Capacity(
        unit.blocks,
        unit.block_size,
        physical_exponent=unit.device.capabilities.physical_exponent,
        lbpme=can_unmap,
        lbprz=can_unmap and unit.device.capabilities.unmapped_reads_zero,
    ).pack()
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


@serves("START_STOP_UNIT")
def start_stop_unit(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """The unit is started and stays so: stopping a disk that other hosts use would take it from
    them, and there is no medium to load or eject and no other power condition."""
    cdb = sbc.StartStopUnit.unpack(task.cdb)
    if cdb.power_condition not in (POWER_CONDITION_START_VALID, POWER_CONDITION_ACTIVE):
        raise CheckCondition(sense.invalid_field_in_cdb(4, 7))
    if cdb.loej:
        raise CheckCondition(sense.invalid_field_in_cdb(4, 1))
    if cdb.power_condition == POWER_CONDITION_START_VALID and not cdb.start:
        raise CheckCondition(sense.invalid_field_in_cdb(4, 0))
    itl.finish(task, GOOD)


POWER_CONDITION_START_VALID: Final = 0
POWER_CONDITION_ACTIVE: Final = 1
