"""FORMAT UNIT and SANITIZE (SBC-4, 5.3 and 5.30): what the commands ask for. The work itself:
`target/medium.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daiko.device.block import Buffer
from daiko.scsi import sbc, sense
from daiko.scsi.medium_parameters import OVERWRITE_HEADER, Format, parse_format, parse_overwrite
from daiko.scsi.sense import CheckCondition
from daiko.target.commands.handler import serves
from daiko.target.kept import MediumWork, WorkKind

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

LONGEST_FORMAT_LIST = 8 + 4
"""Bytes of a parameter list without the initialization pattern, which is at most a block."""


@serves("FORMAT_UNIT")
def format_unit(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Give every block its initial contents. The format is the one that there is: no protection
    information, no list of defects, the block size as it is."""
    cdb = sbc.FormatUnit.unpack(task.cdb)
    if not cdb.fmtdata:
        if cdb.defect_list_format or cdb.cmplst or cdb.longlist:
            raise CheckCondition(sense.invalid_field_in_cdb(1, 5 if cdb.longlist else 3))
        _begin_format(unit, itl, task, Format())
        return

    def received(data: Buffer) -> None:
        wanted = parse_format(data, unit.block_size, long=bool(cdb.longlist))
        _begin_format(unit, itl, task, wanted)

    # The CDB does not say how long the list is: as much as came of what it can be.
    unit.receive(itl, task, LONGEST_FORMAT_LIST + unit.block_size, received)


def _begin_format(unit: LogicalUnit, itl: ItlNexus, task: Task, wanted: Format) -> None:
    work = MediumWork(WorkKind.FORMAT, pattern=wanted.pattern)
    unit.medium.begin(itl, task, work, immediate=wanted.immediate)


@serves("SANITIZE_OVERWRITE")
def sanitize_overwrite(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Write a pattern over all blocks, once or several times."""
    cdb = sbc.SanitizeOverwrite.unpack(task.cdb)
    length = cdb.parameter_list_length
    if not OVERWRITE_HEADER < length <= OVERWRITE_HEADER + unit.block_size:
        raise CheckCondition(sense.invalid_field_in_cdb(7))

    def received(data: Buffer) -> None:
        wanted = parse_overwrite(data, unit.block_size)
        work = MediumWork(
            WorkKind.OVERWRITE,
            pattern=wanted.pattern,
            count=wanted.count,
            invert=wanted.invert,
            is_restricted=not cdb.ause,
        )
        unit.medium.begin(itl, task, work, immediate=bool(cdb.immed))

    unit.receive(itl, task, length, received)


@serves("SANITIZE_BLOCK_ERASE")
def sanitize_block_erase(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Erase all blocks, and give their room back."""
    cdb = sbc.SanitizeBlockErase.unpack(task.cdb)
    if cdb.parameter_list_length:
        raise CheckCondition(sense.invalid_field_in_cdb(7))
    work = MediumWork(WorkKind.BLOCK_ERASE, is_restricted=not cdb.ause)
    unit.medium.begin(itl, task, work, immediate=bool(cdb.immed))


@serves("SANITIZE_EXIT_FAILURE_MODE")
def sanitize_exit_failure_mode(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Open the unit after a SANITIZE that failed, where that one allowed it."""
    cdb = sbc.SanitizeExitFailureMode.unpack(task.cdb)
    if cdb.parameter_list_length:
        raise CheckCondition(sense.invalid_field_in_cdb(7))
    unit.medium.exit_failure_mode(itl, task)
