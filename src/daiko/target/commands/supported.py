"""REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS (SPC-4, 6.35 and 6.37).

Both are answered from the command table, so that a host hears exactly what the gate lets through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daiko.command_control.command_table import CommandRow
from daiko.scsi import sense, spc
from daiko.scsi.opcode import Status
from daiko.scsi.report import (
    ReportingOptions,
    Support,
    SupportedCommand,
    TaskManagementTimeouts,
    pack_all_commands,
    pack_one_command,
    pack_task_management_functions,
)
from daiko.scsi.sense import CheckCondition
from daiko.target.commands.handler import serves

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

GOOD = int(Status.GOOD)

TASK_MANAGEMENT_FUNCTIONS = (
    "abort_task",
    "abort_task_set",
    "clear_aca",
    "clear_task_set",
    "logical_unit_reset",
    "query_task",
    "target_reset",
    "query_async_event",
    "query_task_set",
    "it_nexus_reset",
)
"""What `Access.task_management` carries out."""

TASK_MANAGEMENT_TIMEOUTS = TaskManagementTimeouts(
    long=600,
    short=50,
    quick=frozenset({"clear_aca", "query_task", "query_task_set", "query_async_event"}),
)
"""Tenths of a second. A function that ends tasks is answered when they have ended, and the storage
under the unit takes the time that it takes (`SOME_BLOCKS` in the command table)."""


@serves("REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS")
def report_supported_task_management_functions(
    unit: LogicalUnit, itl: ItlNexus, task: Task
) -> None:
    """The functions, one bit each; with REPD, how long they take."""
    cdb = spc.ReportSupportedTaskManagementFunctions.unpack(task.cdb)
    if cdb.allocation_length < 4:
        raise CheckCondition(sense.invalid_field_in_cdb(6))
    timeouts = TASK_MANAGEMENT_TIMEOUTS if cdb.repd else None
    data = pack_task_management_functions(*TASK_MANAGEMENT_FUNCTIONS, timeouts=timeouts)
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


@serves("REPORT_SUPPORTED_OPERATION_CODES")
def report_supported_operation_codes(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """All commands, or one with its CDB usage data; with their timeouts where a host asks."""
    cdb = spc.ReportSupportedOperationCodes.unpack(task.cdb)
    if cdb.reporting_options == ReportingOptions.ALL:
        commands = sorted(unit.rows, key=lambda row: (row.opcode, row.service_action or 0))
        data = pack_all_commands(_described(row, cdb.rctd) for row in commands)
    else:
        row = _asked_for(unit, cdb)
        if row is None:
            data = pack_one_command(Support.NOT_SUPPORTED)
        else:
            timeouts = row.timeouts if cdb.rctd else None
            data = pack_one_command(Support.STANDARD, row.layout.mask, timeouts)
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


def _described(row: CommandRow, with_timeouts: int) -> SupportedCommand:
    timeouts = row.timeouts if with_timeouts else None
    return SupportedCommand(row.opcode, row.service_action, row.layout.length, timeouts)


def _asked_for(unit: LogicalUnit, cdb: Any) -> CommandRow | None:
    """The row of the command that the CDB asks about. Raises CheckCondition where the reporting
    option does not fit an opcode that the unit has."""
    rows = [row for row in unit.rows if row.opcode == cdb.requested_opcode]
    has_actions = any(row.service_action is not None for row in rows)
    option = cdb.reporting_options
    if option > ReportingOptions.ONE:
        raise CheckCondition(sense.invalid_field_in_cdb(2, 2))
    if option == ReportingOptions.ONE_OPCODE and has_actions:
        raise CheckCondition(sense.invalid_field_in_cdb(2, 2))
    if option == ReportingOptions.ONE_SERVICE_ACTION and rows and not has_actions:
        raise CheckCondition(sense.invalid_field_in_cdb(2, 2))
    if not has_actions and option == ReportingOptions.ONE and cdb.requested_service_action:
        return None
    for row in rows:
        if row.service_action in (None, cdb.requested_service_action):
            return row
    return None
