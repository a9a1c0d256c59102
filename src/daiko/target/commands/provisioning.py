"""Logical block provisioning: UNMAP, WRITE SAME, GET LBA STATUS (SBC-4, 4.7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from daiko.device.block import Buffer, Done, Level, Run, StatusDone
from daiko.device.error import DeviceError
from daiko.scsi import sbc, sense
from daiko.scsi.block_data import (
    LbaRange,
    LbaStatus,
    ProvisioningStatus,
    pack_lba_status,
    parse_unmap,
)
from daiko.scsi.opcode import Opcode, Status
from daiko.scsi.sense import CheckCondition
from daiko.target.commands.handler import serves
from daiko.target.commands.sbc import flush_after

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

GOOD = int(Status.GOOD)

MAXIMUM_UNMAP_DESCRIPTORS = 256
"""In one UNMAP; stated in page B0h."""

MAXIMUM_UNMAP_BLOCKS = 0xFFFFFFFF
"""In one UNMAP, all descriptors together; stated in page B0h (no limit)."""

MAXIMUM_WRITE_SAME = 0x8000
"""Blocks that one WRITE SAME may cover; stated in page B0h."""

MAXIMUM_LBA_STATUS_DESCRIPTORS = 256
"""In one answer to GET LBA STATUS: it may always tell less than it was asked."""


# ---------------------------------------------------------------------- UNMAP


@serves("UNMAP")
def unmap(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Give up the contents of the ranges in the parameter list, after all have been checked."""
    cdb = sbc.Unmap.unpack(task.cdb)
    if cdb.anchor:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 0))
    length = cdb.parameter_list_length
    if not length:
        itl.finish(task, GOOD)
        return
    if length < UNMAP_HEADER:
        raise CheckCondition(sense.parameter_list_length_error())
    if length > UNMAP_HEADER + 16 * (MAXIMUM_UNMAP_DESCRIPTORS + 1):
        raise CheckCondition(sense.invalid_field_in_cdb(7))

    def received(data: Buffer) -> None:
        ranges = _unmap_ranges(unit, data, length)
        _UnmapInTurn(unit, itl, task, ranges).go_on()

    unit.receive(itl, task, length, received)


UNMAP_HEADER = 8


def _unmap_ranges(unit: LogicalUnit, data: Buffer, length: int) -> Sequence[LbaRange]:
    """The ranges of an UNMAP parameter list, checked. Raises CheckCondition."""
    if len(data) < length:
        raise CheckCondition(sense.parameter_list_length_error())
    ranges = parse_unmap(data, MAXIMUM_UNMAP_DESCRIPTORS)
    total = 0
    for index, (lba, blocks) in enumerate(ranges):
        if lba + blocks > unit.blocks:
            raise CheckCondition(sense.lba_out_of_range(lba))
        total += blocks
        if total > MAXIMUM_UNMAP_BLOCKS:
            at = UNMAP_HEADER + 16 * index + 8
            raise CheckCondition(sense.invalid_field_in_parameter_list(at))
    return [each for each in ranges if each.blocks]


class _UnmapInTurn:
    """One range after the other, so that one host's list does not fill the device's queue. A
    device that completes inline is called in a loop, not ever deeper."""

    __slots__ = (
        "_device",
        "_error",
        "_is_calling",
        "_is_pending",
        "_itl",
        "_ranges",
        "_task",
        "_unit",
    )

    def __init__(
        self, unit: LogicalUnit, itl: ItlNexus, task: Task, ranges: Sequence[LbaRange]
    ) -> None:
        self._unit = unit
        self._device = unit.device_for(task)
        self._itl = itl
        self._task = task
        self._ranges = list(reversed(ranges))
        self._error: DeviceError | None = None
        self._is_calling = False
        self._is_pending = False

    def go_on(self) -> None:
        while self._error is None and self._ranges and not self._itl.is_ending(self._task):
            lba, blocks = self._ranges.pop()
            self._is_calling = self._is_pending = True
            self._device.unmap(lba, blocks, self._done)
            self._is_calling = False
            if self._is_pending:
                return
        if self._error is not None:
            self._unit.fail(self._itl, self._task, self._error)
        else:
            self._itl.finish(self._task, GOOD)

    def _done(self, error: DeviceError | None) -> None:
        self._error = error
        self._is_pending = False
        if not self._is_calling:
            self.go_on()


# ---------------------------------------------------------------------- WRITE SAME

ANCHOR = 0x10
UNMAP_BIT = 0x08
NDOB = 0x01
"""No data-out buffer: the block is zeros. WRITE SAME(16) only."""


@serves("WRITE_SAME_10", "WRITE_SAME_16")
def write_same(
    unit: LogicalUnit, itl: ItlNexus, task: Task, flags: int, lba: int, blocks: int
) -> None:
    """Write one block to every block of the range. With UNMAP the range may be unmapped instead,
    where it then reads as what would have been written (SBC-4, WRITE SAME command and unmap
    operations)."""
    if blocks > MAXIMUM_WRITE_SAME:
        raise CheckCondition(
            sense.invalid_field_in_cdb(7 if task.cdb[0] == Opcode.WRITE_SAME_10 else 10)
        )
    may_unmap = bool(flags & UNMAP_BIT)
    if may_unmap and unit.device.capabilities.unmap is Level.NONE:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 3))
    if flags & ANCHOR:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 4))

    def done(error: DeviceError | None) -> None:
        if error is None:
            itl.finish(task, GOOD)
        else:
            unit.fail(itl, task, error)

    def received(data: Buffer) -> None:
        completion: Done = done
        if unit.write_through:
            completion = flush_after(unit, done)
        reads_as_written = unit.device.capabilities.unmapped_reads_zero and not any(data)
        if may_unmap and reads_as_written:
            unit.device.unmap(lba, blocks, completion)
        else:
            unit.device.write_same(lba, blocks, data, completion)

    if flags & NDOB:
        received(bytes(unit.block_size))
    else:
        unit.receive_exactly(itl, task, unit.block_size, received)


# ---------------------------------------------------------------------- GET LBA STATUS


@serves("GET_LBA_STATUS")
def get_lba_status(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Which blocks from an LBA on hold data of their own."""
    cdb = sbc.GetLbaStatus.unpack(task.cdb)
    first = cdb.lba
    if first >= unit.blocks:
        raise CheckCondition(sense.lba_out_of_range(first))
    room = max(1, (cdb.allocation_length - 8) // 16)
    room = min(room, MAXIMUM_LBA_STATUS_DESCRIPTORS)

    def done(error: DeviceError | None, runs: Sequence[Run]) -> None:
        if error is None:
            data = _lba_status_data(first, runs[:room])
            itl.finish(task, GOOD, (data[: cdb.allocation_length],))
        else:
            unit.fail(itl, task, error)

    _LbaStatuses(unit, itl, task, room, done).ask(first)


class _LbaStatuses:
    """What GET LBA STATUS reports. A device says no more than it knows at once (of one extent, of
    as many runs as one answer has room for), so it is asked on from there; at most `_QUESTIONS`."""

    __slots__ = ("_asked", "_done", "_itl", "_room", "_runs", "_task", "_unit")

    def __init__(
        self, unit: LogicalUnit, itl: ItlNexus, task: Task, room: int, done: StatusDone
    ) -> None:
        self._unit = unit
        self._itl = itl
        self._task = task
        self._room = room
        self._done = done
        self._runs: list[Run] = []
        self._asked = 0

    def ask(self, lba: int) -> None:
        """How is it from this block on?"""
        self._asked += 1
        left = min(self._unit.blocks - lba, _MOST_BLOCKS)

        def answered(error: DeviceError | None, runs: Sequence[Run]) -> None:
            if error is not None and not self._runs:
                self._done(error, ())
                return
            told = 0 if error is not None else self._take(runs)
            next_lba = lba + told
            if (
                told
                and next_lba < self._unit.blocks
                and len(self._runs) <= self._room
                and self._asked < _QUESTIONS
                and not self._itl.is_ending(self._task)
            ):
                self.ask(next_lba)
            else:
                self._done(None, self._runs)

        self._unit.device.lba_status(lba, left, answered)

    def _take(self, runs: Sequence[Run]) -> int:
        """Add an answer to what is known; how many blocks it tells of."""
        told = 0
        for blocks, is_mapped in runs:
            told += blocks
            if self._runs and self._runs[-1][1] == is_mapped:
                joined = self._runs[-1][0] + blocks
                if joined <= _MOST_BLOCKS:
                    self._runs[-1] = (joined, is_mapped)
                    continue
            self._runs.append((blocks, is_mapped))
        return told


_QUESTIONS = 64
_MOST_BLOCKS = 0xFFFFFFFF
"""Blocks that one LBA status descriptor can tell of."""


def _lba_status_data(first: int, runs: Sequence[Run]) -> bytes:
    descriptors = []
    for blocks, is_mapped in runs:
        status = ProvisioningStatus.MAPPED if is_mapped else ProvisioningStatus.DEALLOCATED
        descriptors.append(LbaStatus(first, blocks, status))
        first += blocks
    return pack_lba_status(descriptors)
