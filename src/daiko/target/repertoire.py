"""What a logical unit can do: the rows of the command table that it has, each with its handler and
all that the gate needs of it, laid out by opcode.

Which rows those are depends on the device and on what else the unit was given; what a unit lacks
does not exist for its hosts. Thousands of units share the few repertoires that there are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from daiko.command_control import command_table
from daiko.command_control.command_table import Attention, CommandRow, Order
from daiko.device.block import Capabilities, Level
from daiko.scsi import sbc as cdbs
from daiko.scsi import spc as spc_cdbs
from daiko.scsi.opcode import Opcode
from daiko.target.bar import barred_by
from daiko.target.commands import (
    defects,
    diagnostic,
    identification,
    inquiry,
    log,
    medium,
    mode,
    provisioning,
    reservation,
    sbc,
    spc,
    supported,
    target_port_groups,
)
from daiko.target.commands.handler import HANDLERS, Handler

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

COMMAND_MODULES: Final = (
    defects,
    diagnostic,
    identification,
    inquiry,
    log,
    medium,
    mode,
    provisioning,
    reservation,
    sbc,
    spc,
    supported,
    target_port_groups,
)
"""Imported for the handlers that they mark."""


class Served:
    """A row with all that `execute` needs of it, ready for use."""

    __slots__ = (
        "bars",
        "decode",
        "forbidden",
        "handler",
        "has_task_order",
        "reports_attention",
        "row",
    )

    def __init__(self, row: CommandRow, handler: Handler) -> None:
        self.row = row
        self.handler = handler
        evaluated = int.from_bytes(row.layout.mask, "little")
        self.forbidden = ~evaluated & ((1 << 8 * row.layout.length) - 1)
        """Bits of the CDB, read as a little-endian number, that must be 0."""
        self.decode = command_table.range_decoder(row)
        self.has_task_order = row.order is Order.BY_ATTRIBUTE
        self.reports_attention = row.attention is Attention.REPORTED
        self.bars = barred_by(row)


def _hand_to_copy_manager(row: CommandRow) -> Handler:
    def hand_over(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
        assert unit.third_party_copy is not None
        unit.third_party_copy.execute(unit, itl, task, row)

    return hand_over


def _hand_to_site(row: CommandRow) -> Handler:
    def hand_over(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
        assert unit.site is not None
        unit.site.execute(unit, itl, task, row)

    return hand_over


def _serve(row: CommandRow) -> Served:
    if row.command_set is command_table.CommandSet.SITE:
        return Served(row, _hand_to_site(row))
    if row.command_set is command_table.CommandSet.THIRD_PARTY_COPY:
        return Served(row, _hand_to_copy_manager(row))
    return Served(row, HANDLERS[row.name])


_SERVED: Final = tuple(_serve(row) for row in command_table.ROWS)

Place = Served | dict[int, Served] | None

Repertoire = tuple[tuple[CommandRow, ...], list[Place]]
"""The rows that a unit has, and what serves them, by opcode and then by service action."""


class Means(NamedTuple):
    """What a unit was given beside its device."""

    copies: bool
    """A copy manager."""
    intents: bool
    """A log for atomic writes."""
    keeper: bool
    """A place that keeps something over restarts."""
    states: bool
    """Leave for hosts to set the states of target port groups."""
    site: bool
    """Another site to answer: it is a management unit."""


def _offers(row: CommandRow, has: Means, device: Capabilities) -> bool:
    if has.site or row.command_set is command_table.CommandSet.SITE:
        return has.site and (
            row.command_set is command_table.CommandSet.SITE or row.name in _OF_MANAGEMENT_UNIT
        )
    if row.name in _NEED_A_KEEPER:
        return has.keeper
    if row.command_set is command_table.CommandSet.THIRD_PARTY_COPY:
        return has.copies
    if row.layout is spc_cdbs.SetTargetPortGroups:
        return has.states
    if row.layout is cdbs.SanitizeBlockErase:
        return device.can_erase
    if row.opcode is Opcode.WRITE_ATOMIC_16:
        return has.intents or device.atomic_blocks > 0
    level = {
        Opcode.UNMAP: device.unmap,
        Opcode.WRITE_SAME_10: device.write_same,
        Opcode.WRITE_SAME_16: device.write_same,
    }.get(row.opcode, Level.NATIVE)
    return level is not Level.NONE


_OF_MANAGEMENT_UNIT: Final = frozenset(
    {
        "TEST_UNIT_READY",
        "REQUEST_SENSE",
        "INQUIRY",
        "REPORT_LUNS",
        "REPORT_SUPPORTED_OPERATION_CODES",
    }
)
"""What a management unit has beside SITE IN and SITE OUT."""

_NEED_A_KEEPER: Final = frozenset({"REPORT_IDENTIFYING_INFORMATION", "SET_IDENTIFYING_INFORMATION"})
"""Commands of a unit that keeps something over restarts."""


@lru_cache(maxsize=64)
def repertoire(has: Means, device: Capabilities) -> Repertoire:
    """The rows of a unit over such a device, and the same laid out by opcode. Thousands of units
    share the few that there are."""
    offered = [served for served in _SERVED if _offers(served.row, has, device)]
    places: list[Place] = [None] * 256
    for served in offered:
        row = served.row
        if row.service_action is None:
            places[row.opcode] = served
            continue
        place = places[row.opcode]
        if not isinstance(place, dict):
            place = places[row.opcode] = {}
        place[row.service_action] = served
    return tuple(served.row for served in offered), places


def repertoire_of(unit: LogicalUnit) -> Repertoire:
    """The commands that a unit has with the device that it has now."""
    means = Means(
        copies=unit.third_party_copy is not None,
        intents=unit.open_intents is not None,
        keeper=unit.saves,
        states=unit.asymmetric_access.groups.hosts_set_states,
        site=unit.site is not None,
    )
    return repertoire(means, unit.bare_device.capabilities)
