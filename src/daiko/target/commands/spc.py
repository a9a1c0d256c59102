"""The commands that every device type has (SPC-4): what the unit is, and what it can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daiko.scsi import sense, spc
from daiko.scsi.opcode import Status
from daiko.target.commands.absent import pack_luns
from daiko.target.commands.handler import serves
from daiko.target.event import Event

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

GOOD = int(Status.GOOD)


@serves("TEST_UNIT_READY")
def test_unit_ready(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """The unit is always ready; that its device cannot be reached shows with the first block."""
    itl.finish(task, GOOD)


@serves("REQUEST_SENSE")
def request_sense(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """A pending unit attention as data, else what the unit is busy with, else NO SENSE."""
    cdb = spc.RequestSense.unpack(task.cdb)
    if itl.attentions:
        condition = itl.report_attention(by_request_sense=True)
    elif unit.self_test is not None:
        condition = sense.self_test_in_progress(unit.self_test.progress)
    else:
        condition = unit.pollable_sense()
    data = condition.pack(descriptor_format=bool(cdb.desc))
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


@serves("PREVENT_ALLOW_MEDIUM_REMOVAL")
def prevent_allow_medium_removal(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """The medium cannot be removed, so preventing it is granted and allowing it changes
    nothing."""
    itl.finish(task, GOOD)


@serves("REPORT_LUNS")
def report_luns(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """The units that this host sees. Having learnt of them it need not be told again that they
    have changed."""
    data = pack_luns(task.cdb, sorted(itl.nexus.view))
    for each in itl.nexus.units.values():
        each.attentions.clear(Event.REPORTED_LUNS_CHANGED)
    itl.finish(task, GOOD, (data,))
