"""The commands that every device type has (SPC-4): what the unit is, and what it can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daiko.scsi import sense, spc
from daiko.scsi.opcode import Status
from daiko.scsi.report import TargetPortGroup, pack_target_port_groups
from daiko.scsi.sense import CheckCondition
from daiko.target.commands.absent import pack_luns
from daiko.target.commands.handler import serves
from daiko.target.commands.inquiry import RELATIVE_TARGET_PORT, TARGET_PORT_GROUP
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
    """A pending unit attention as data, or NO SENSE."""
    cdb = spc.RequestSense.unpack(task.cdb)
    condition = itl.report_attention() if itl.attentions else sense.no_sense()
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
    luns = sorted({each.lun for each in itl.nexus.units.values()})
    data = pack_luns(task.cdb, luns)
    for each in itl.nexus.units.values():
        each.attentions.clear(Event.REPORTED_LUNS_CHANGED)
    itl.finish(task, GOOD, (data,))


@serves("REPORT_TARGET_PORT_GROUPS")
def report_target_port_groups(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """One group with the one target port, active/optimized."""
    cdb = spc.ReportTargetPortGroups.unpack(task.cdb)
    if cdb.parameter_data_format > EXTENDED_HEADER:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 7))
    data = pack_target_port_groups(
        [TargetPortGroup(TARGET_PORT_GROUP, ports=(RELATIVE_TARGET_PORT,))],
        extended_header=cdb.parameter_data_format == EXTENDED_HEADER,
    )
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


EXTENDED_HEADER = 1
"""PARAMETER DATA FORMAT of REPORT TARGET PORT GROUPS (SPC-4, 6.36)."""
