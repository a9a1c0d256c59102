"""REPORT TARGET PORT GROUPS and SET TARGET PORT GROUPS (SPC-4, 6.37 and 6.45)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daiko.device.block import Buffer
from daiko.scsi import sense, spc
from daiko.scsi.opcode import Status
from daiko.scsi.sense import CheckCondition
from daiko.scsi.target_port_groups import (
    DESCRIPTOR_LENGTH,
    HEADER_LENGTH,
    SETTABLE,
    AccessState,
    pack_target_port_groups,
    parse_set_target_port_groups,
)
from daiko.target.asymmetric_access import TRANSITION_SECONDS
from daiko.target.commands.handler import serves

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

GOOD = int(Status.GOOD)

LENGTH_ONLY, EXTENDED_HEADER = 0, 1
"""PARAMETER DATA FORMAT."""

LONGEST_LIST = HEADER_LENGTH + 256 * DESCRIPTOR_LENGTH
"""Bytes of a parameter list that is looked at; a target has fewer groups."""


@serves("REPORT_TARGET_PORT_GROUPS")
def report_target_port_groups(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """All groups with their ports and states, as they are for this unit."""
    cdb = spc.ReportTargetPortGroups.unpack(task.cdb)
    if cdb.parameter_data_format > EXTENDED_HEADER:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 7))
    data = pack_target_port_groups(
        unit.asymmetric_access.report(),
        extended_header=cdb.parameter_data_format == EXTENDED_HEADER,
        transition_seconds=TRANSITION_SECONDS,
    )
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


@serves("SET_TARGET_PORT_GROUPS")
def set_target_port_groups(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Explicit change of states, for this unit alone. A list without a descriptor is no error."""
    length = spc.SetTargetPortGroups.unpack(task.cdb).parameter_list_length
    if not length:
        itl.finish(task, GOOD)
        return
    if length < HEADER_LENGTH or (length - HEADER_LENGTH) % DESCRIPTOR_LENGTH:
        raise CheckCondition(sense.parameter_list_length_error())
    if length > LONGEST_LIST:
        raise CheckCondition(sense.invalid_field_in_cdb(6))

    def received(data: Buffer) -> None:
        if len(data) < length:
            raise CheckCondition(sense.parameter_list_length_error())
        _set(unit, itl, task, data)

    unit.receive(itl, task, length, received)


def _set(unit: LogicalUnit, itl: ItlNexus, task: Task, data: Buffer) -> None:
    access = unit.asymmetric_access
    wanted = _wanted(unit, data)
    if access.is_changing:
        raise CheckCondition(sense.target_port_in_transition())
    if not any(wanted[group] is not access.state(group) for group in wanted):
        itl.finish(task, GOOD)
        return

    def done(ok: bool) -> None:
        if ok:
            itl.finish(task, GOOD)
        else:
            itl.refuse(task, sense.set_target_port_groups_failed())

    access.change(wanted, itl, task, done)


def _wanted(unit: LogicalUnit, data: Buffer) -> dict[int, AccessState]:
    """Group -> state, as the list asks for. Raises CheckCondition for a state that cannot be set, a
    group that is not there or is offline, two states for one group, and for a list after which no
    group would be active: no host could use the unit."""
    access = unit.asymmetric_access
    groups = access.groups.groups
    wanted: dict[int, AccessState] = {}
    for number, each in enumerate(parse_set_target_port_groups(data)):
        at = HEADER_LENGTH + number * DESCRIPTOR_LENGTH
        if each.state not in SETTABLE:
            raise CheckCondition(sense.invalid_field_in_parameter_list(at, 3))
        is_away = each.group not in groups or access.state(each.group) is AccessState.OFFLINE
        if is_away or wanted.get(each.group, each.state) != each.state:
            raise CheckCondition(sense.invalid_field_in_parameter_list(at + 2))
        wanted[each.group] = AccessState(each.state)
    if wanted and not any(wanted.get(group, access.state(group)).is_active for group in groups):
        raise CheckCondition(sense.invalid_field_in_parameter_list(HEADER_LENGTH, 3))
    return wanted
