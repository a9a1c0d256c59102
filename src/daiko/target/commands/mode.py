"""MODE SENSE and MODE SELECT (SPC-4, 6.11 to 6.14): what a host can see and set of how the unit
works. Which pages there are, and what of them can be changed: `target/mode_settings.py`.

A host that changes a page is the cause of a unit attention for the others. What is saved (SP) is
on stable storage before the status, and holds after a reset and after a restart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from daiko.device.block import Buffer
from daiko.scsi import mode_page, sense, spc
from daiko.scsi.mode_page import (
    ALL_PAGES,
    ALL_SUBPAGES,
    DPOFUA,
    PAGE_SAVABLE,
    WRITE_PROTECTED,
    ModePage,
    PageControl,
)
from daiko.scsi.opcode import Opcode, Status
from daiko.scsi.sense import CheckCondition
from daiko.target.commands.handler import serves
from daiko.target.event import Event
from daiko.target.mode_settings import BY_KEY, DEFAULT, ModePageRow, ModeSettings, rounded

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

GOOD = int(Status.GOOD)


# ---------------------------------------------------------------------- MODE SENSE


@serves("MODE_SENSE_6", "MODE_SENSE_10")
def mode_sense(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """The pages asked for, with current, changeable, default or saved values."""
    is_ten = task.cdb[0] == Opcode.MODE_SENSE_10
    cdb = (spc.ModeSense10 if is_ten else spc.ModeSense6).unpack(task.cdb)
    if cdb.pc == PageControl.SAVED and not unit.saves:
        raise CheckCondition(sense.saving_parameters_not_supported())
    descriptor = b""
    if not cdb.dbd:
        descriptor = mode_page.pack_block_descriptor(
            unit.blocks, unit.block_size, long_lba=is_ten and bool(cdb.llbaa)
        )
    pages = [_page(unit, row, cdb.pc) for row in _asked_for(unit, cdb)]
    if not is_ten and 3 + len(descriptor) + sum(map(len, pages)) > LONGEST_OF_SIX:
        raise CheckCondition(sense.invalid_field_in_cdb(2, 5))
    data = mode_page.pack_mode_parameters(
        pages,
        ten=is_ten,
        device_specific=(WRITE_PROTECTED if unit.is_write_protected else 0) | DPOFUA,
        block_descriptor=descriptor,
    )
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


LONGEST_OF_SIX = 255
"""MODE DATA LENGTH of MODE SENSE(6) has one byte: what is longer needs MODE SENSE(10)."""


def _asked_for(unit: LogicalUnit, cdb: Any) -> list[ModePageRow]:
    """The rows of the pages that a MODE SENSE asks for (SPC-4, table of 6.11). Raises
    CheckCondition for one that there is not."""
    code, subpage = cdb.page_code, cdb.subpage_code
    if code == ALL_PAGES and subpage not in (0, ALL_SUBPAGES):
        raise CheckCondition(sense.invalid_field_in_cdb(3))
    found = [
        row
        for row in unit.mode_pages
        if code in (row.key[0], ALL_PAGES) and subpage in (row.key[1], ALL_SUBPAGES)
    ]
    if found:
        return found
    if any(row.key[0] == code for row in unit.mode_pages):
        raise CheckCondition(sense.invalid_field_in_cdb(3))
    raise CheckCondition(sense.invalid_field_in_cdb(2, 5))


def _page(unit: LogicalUnit, row: ModePageRow, control: int) -> bytes:
    """The page with the values asked for, and PS where it can be saved."""
    if control == PageControl.CHANGEABLE:
        page = row.changeable
    elif control == PageControl.DEFAULT:
        page = row.default
    elif control == PageControl.SAVED:
        page = unit.saved_mode().pages[row.key]
    else:
        page = unit.mode.pages[row.key]
    if not unit.saves:
        return page
    return bytes((page[0] | PAGE_SAVABLE,)) + page[1:]


# ---------------------------------------------------------------------- MODE SELECT


@serves("MODE_SELECT_6", "MODE_SELECT_10")
def mode_select(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Change what can be changed; all of the list is checked before any of it holds."""
    is_ten = task.cdb[0] == Opcode.MODE_SELECT_10
    cdb = (spc.ModeSelect10 if is_ten else spc.ModeSelect6).unpack(task.cdb)
    if cdb.sp and not unit.saves:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 0))
    length = cdb.parameter_list_length
    if not length:
        _hold(unit, itl, task, unit.mode, saves=bool(cdb.sp))
        return
    if not cdb.pf:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 4))

    def received(data: Buffer) -> None:
        if len(data) < length:
            raise CheckCondition(sense.parameter_list_length_error())
        settings, is_rounded = _settings(unit, mode_page.parse_mode_select(data, ten=is_ten))
        _hold(unit, itl, task, settings, saves=bool(cdb.sp), is_rounded=is_rounded)

    unit.receive(itl, task, length, received)


def _settings(unit: LogicalUnit, parameters: mode_page.ModeParameters) -> tuple[ModeSettings, bool]:
    """The unit's settings with the list's changes; and whether one was rounded. Raises
    CheckCondition."""
    if parameters.blocks_and_size is not None:
        blocks, block_size = parameters.blocks_and_size
        is_long = len(parameters.block_descriptor) > SHORT_DESCRIPTOR
        if block_size != unit.block_size:
            raise CheckCondition(
                sense.invalid_field_in_parameter_list(
                    parameters.descriptor_offset + (12 if is_long else 5)
                )
            )
        if blocks not in (0, min(unit.blocks, 0xFFFFFFFF), unit.blocks):
            raise CheckCondition(
                sense.invalid_field_in_parameter_list(parameters.descriptor_offset)
            )
    settings, is_rounded = unit.mode, False
    for page in parameters.pages:
        wanted = _checked(unit, settings, page)
        held = rounded(BY_KEY[page.code, page.subpage], wanted, page.offset)
        is_rounded = is_rounded or held != wanted
        settings = settings.changed(held)
    return settings, is_rounded


SHORT_DESCRIPTOR = 8
"""Bytes of the short block descriptor."""


def _checked(unit: LogicalUnit, settings: ModeSettings, page: ModePage) -> bytes:
    """The page without its PS bit, once it changes nothing but what may be changed."""
    row = BY_KEY.get((page.code, page.subpage))
    if row is None or row not in unit.mode_pages:
        has_code = any(each.key[0] == page.code for each in unit.mode_pages)
        raise CheckCondition(
            sense.invalid_field_in_parameter_list(page.offset + 1)
            if has_code and page.subpage
            else sense.invalid_field_in_parameter_list(page.offset, 5)
        )
    if len(page.data) != len(row.default):
        raise CheckCondition(
            sense.invalid_field_in_parameter_list(page.offset + (2 if page.subpage else 1))
        )
    wrong = mode_page.first_unchangeable(page.data, settings.pages[row.key], row.changeable)
    if wrong is not None:
        raise CheckCondition(
            sense.invalid_field_in_parameter_list(page.offset + wrong[0], wrong[1])
        )
    return bytes((page.data[0] & ~PAGE_SAVABLE,)) + page.data[1:]


def _hold(
    unit: LogicalUnit,
    itl: ItlNexus,
    task: Task,
    settings: ModeSettings,
    *,
    saves: bool,
    is_rounded: bool = False,
) -> None:
    """Let the settings hold, save them where that is asked for, tell the others, answer."""

    def end() -> None:
        if is_rounded:
            itl.refuse(task, sense.rounded_parameter())
        else:
            itl.finish(task, GOOD)

    def saved(is_kept: bool) -> None:
        if is_kept:
            end()
        else:
            itl.refuse(task, sense.internal_target_failure())

    if settings != unit.mode:
        unit.set_mode(settings)
        unit.announce(Event.MODE_PARAMETERS_CHANGED, by=itl)
    if saves:
        assert unit.keeper is not None
        pages = tuple(page for key, page in settings.pages.items() if page != DEFAULT.pages[key])
        unit.keeper.keep(replace(unit.keeper.kept, mode_pages=pages), saved)
    else:
        end()
