"""MODE SENSE and MODE SELECT (SPC-4, 6.11 to 6.14): what a host can see and set of how the unit
works.

A unit has three pages: caching, control and informational exceptions. Three bits of them can be
changed: WCE (off = every write goes to stable storage before its status), D_SENSE (the format of
sense data) and SWP (no writes). They are the unit's, for all hosts alike; a host that changes them
is the cause of a unit attention for the others. They are not saved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from daiko.device.block import Buffer
from daiko.scsi import mode_page, sense, spc
from daiko.scsi.mode_page import (
    ALL_PAGES,
    ALL_SUBPAGES,
    DPOFUA,
    WRITE_PROTECTED,
    CachingPage,
    ControlPage,
    InformationalExceptionsPage,
    ModePage,
    PageControl,
)
from daiko.scsi.opcode import Opcode, Status
from daiko.scsi.sense import CheckCondition
from daiko.target.commands.handler import serves
from daiko.target.event import Event

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

GOOD = int(Status.GOOD)

UNRESTRICTED_REORDERING = 1
"""QUEUE ALGORITHM MODIFIER (SPC-4, 7.5.8)."""


@dataclass(frozen=True, slots=True)
class ModeSettings:
    """What of the mode pages can be set."""

    write_cache: bool = True
    """WCE: a write may have its status before it is on stable storage."""
    descriptor_sense: bool = False
    """D_SENSE."""
    software_write_protect: bool = False
    """SWP."""

    def page(self, code: int) -> bytes:
        """A mode page with these settings."""
        if code == CACHING:
            return CachingPage.pack(wce=self.write_cache)
        if code == CONTROL:
            return ControlPage.pack(
                d_sense=self.descriptor_sense,
                swp=self.software_write_protect,
                queue_algorithm_modifier=UNRESTRICTED_REORDERING,
                tas=1,
            )
        return InformationalExceptionsPage.pack(dexcpt=1)


CACHING, CONTROL, INFORMATIONAL_EXCEPTIONS = 0x08, 0x0A, 0x1C

DEFAULT = ModeSettings()

_CHANGEABLE = {
    CACHING: CachingPage.pack(wce=1),
    CONTROL: ControlPage.pack(d_sense=1, swp=1),
    INFORMATIONAL_EXCEPTIONS: InformationalExceptionsPage.pack(),
}


# ---------------------------------------------------------------------- MODE SENSE


@serves("MODE_SENSE_6", "MODE_SENSE_10")
def mode_sense(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """The pages asked for, with current, changeable or default values."""
    is_ten = task.cdb[0] == Opcode.MODE_SENSE_10
    cdb = (spc.ModeSense10 if is_ten else spc.ModeSense6).unpack(task.cdb)
    if cdb.pc == PageControl.SAVED:
        raise CheckCondition(sense.saving_parameters_not_supported())
    descriptor = b""
    if not cdb.dbd:
        descriptor = mode_page.pack_block_descriptor(
            unit.blocks, unit.block_size, long_lba=is_ten and bool(cdb.llbaa)
        )
    data = mode_page.pack_mode_parameters(
        [_page(unit, code, cdb.pc) for code in _codes(cdb)],
        ten=is_ten,
        device_specific=(WRITE_PROTECTED if unit.is_write_protected else 0) | DPOFUA,
        block_descriptor=descriptor,
    )
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


def _codes(cdb: Any) -> tuple[int, ...]:
    """The pages that a MODE SENSE asks for. Raises CheckCondition for one that there is not."""
    if cdb.subpage_code not in (0, ALL_SUBPAGES):
        raise CheckCondition(sense.invalid_field_in_cdb(3))
    if cdb.page_code == ALL_PAGES:
        return tuple(_CHANGEABLE)
    if cdb.page_code not in _CHANGEABLE:
        raise CheckCondition(sense.invalid_field_in_cdb(2, 5))
    return (cdb.page_code,)


def _page(unit: LogicalUnit, code: int, control: int) -> bytes:
    if control == PageControl.CHANGEABLE:
        return _CHANGEABLE[code]
    return (DEFAULT if control == PageControl.DEFAULT else unit.mode).page(code)


# ---------------------------------------------------------------------- MODE SELECT


@serves("MODE_SELECT_6", "MODE_SELECT_10")
def mode_select(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Change what can be changed; all of the list is checked before any of it holds."""
    is_ten = task.cdb[0] == Opcode.MODE_SELECT_10
    cdb = (spc.ModeSelect10 if is_ten else spc.ModeSelect6).unpack(task.cdb)
    if cdb.sp:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 0))
    length = cdb.parameter_list_length
    if not length:
        itl.finish(task, GOOD)
        return
    if not cdb.pf:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 4))

    def received(data: Buffer) -> None:
        if len(data) < length:
            raise CheckCondition(sense.parameter_list_length_error())
        settings = _settings(unit, mode_page.parse_mode_select(data, ten=is_ten))
        if settings != unit.mode:
            unit.set_mode(settings)
            unit.announce(Event.MODE_PARAMETERS_CHANGED, by=itl)
        itl.finish(task, GOOD)

    unit.receive(itl, task, length, received)


def _settings(unit: LogicalUnit, parameters: mode_page.ModeParameters) -> ModeSettings:
    """The unit's settings with the list's changes. Raises CheckCondition."""
    if parameters.blocks_and_size is not None:
        blocks, block_size = parameters.blocks_and_size
        if block_size != unit.block_size:
            raise CheckCondition(
                sense.invalid_field_in_parameter_list(parameters.descriptor_offset + 5)
            )
        if blocks not in (0, min(unit.blocks, 0xFFFFFFFF), unit.blocks):
            raise CheckCondition(
                sense.invalid_field_in_parameter_list(parameters.descriptor_offset)
            )
    settings = unit.mode
    for page in parameters.pages:
        settings = _changed(settings, page)
    return settings


def _changed(settings: ModeSettings, page: ModePage) -> ModeSettings:
    changeable = _CHANGEABLE.get(page.code)
    if changeable is None or page.subpage:
        raise CheckCondition(sense.invalid_field_in_parameter_list(page.offset, 5))
    if len(page.data) != len(changeable):
        raise CheckCondition(sense.invalid_field_in_parameter_list(page.offset + 1))
    wrong = mode_page.first_unchangeable(page.data, settings.page(page.code), changeable)
    if wrong is not None:
        raise CheckCondition(
            sense.invalid_field_in_parameter_list(page.offset + wrong[0], wrong[1])
        )
    if page.code == CACHING:
        return replace(settings, write_cache=bool(CachingPage.unpack(page.data).wce))
    if page.code == CONTROL:
        fields = ControlPage.unpack(page.data)
        return replace(
            settings,
            descriptor_sense=bool(fields.d_sense),
            software_write_protect=bool(fields.swp),
        )
    return settings
