"""The mode pages of a unit: one row for each page, and their values (SPC-4, 7.5; SBC-4, 6.5).

A row says which bits a host may change, the default, and what a value must be. MODE SENSE, MODE
SELECT and the mode page policy (VPD page 87h) go by the rows; a page without a row does not exist.
The pages are the unit's, for all hosts alike.

`ModeSettings` is the value of all pages at once, and what follows from it for the unit's work, in
attributes that cost nothing to look at. It is immutable, and units with the same pages share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from daiko.scsi.layout import Layout
from daiko.scsi.mode_page import (
    BlockProvisioningPage,
    CachingPage,
    ControlExtensionPage,
    ControlPage,
    InformationalExceptionsPage,
)
from daiko.scsi.sense import CheckCondition, invalid_field_in_parameter_list

PageKey = tuple[int, int]
"""(page code, subpage code); subpage 00h for a page without subpages."""

CACHING: PageKey = (0x08, 0x00)
CONTROL: PageKey = (0x0A, 0x00)
CONTROL_EXTENSION: PageKey = (0x0A, 0x01)
INFORMATIONAL_EXCEPTIONS: PageKey = (0x1C, 0x00)

BLOCK_PROVISIONING: PageKey = (0x1C, 0x02)

ARMED_DECREASING, ARMED_INCREASING = 0b000, 0b001
"""THRESHOLD ARMING."""

UNRESTRICTED_REORDERING = 1
"""QUEUE ALGORITHM MODIFIER (SPC-4, 7.5.8)."""

CLEARED_WHEN_REPORTED, KEPT_WHEN_REPORTED = 0b00, 0b10
"""UA_INTLCK_CTRL: what becomes of a unit attention that a CHECK CONDITION has reported."""

SHORTEST_SENSE = 18
"""Bytes: MAXIMUM SENSE DATA LENGTH below that is rounded up, so that key and codes always fit."""


class Unacceptable(Exception):
    """A value that a field of a page cannot have."""

    def __init__(self, byte: int, bit: int | None = None) -> None:
        super().__init__(f"byte {byte} of the page")
        self.byte = byte
        self.bit = bit


@dataclass(frozen=True, slots=True)
class ModePageRow:
    """A mode page. All columns are required."""

    key: PageKey
    layout: Layout
    default: bytes
    """The whole page, PS bit 0."""
    changeable: bytes
    """Ones where a host may change something; as PC = 01b shows it."""
    accept: Callable[[Any], dict[str, int]]
    """The page's new fields -> those that are rounded to another value (SPC-4, 5.10). Raises
    Unacceptable. What cannot be changed has not been changed when this is asked."""


def _as_it_is(fields: Any) -> dict[str, int]:
    return {}


def _accept_control(fields: Any) -> dict[str, int]:
    if fields.ua_intlck_ctrl not in (CLEARED_WHEN_REPORTED, KEPT_WHEN_REPORTED):
        raise Unacceptable(4, 5)
    return {}


def _accept_control_extension(fields: Any) -> dict[str, int]:
    if 0 < fields.maximum_sense_length < SHORTEST_SENSE:
        return {"maximum_sense_length": SHORTEST_SENSE}
    return {}


ROWS: tuple[ModePageRow, ...] = (
    ModePageRow(
        CACHING,
        CachingPage,
        CachingPage.pack(wce=1),
        CachingPage.pack(wce=1),
        _as_it_is,
    ),
    ModePageRow(
        CONTROL,
        ControlPage,
        ControlPage.pack(queue_algorithm_modifier=UNRESTRICTED_REORDERING, gltsd=1, tas=1),
        ControlPage.pack(d_sense=1, ua_intlck_ctrl=0b11, swp=1, tas=1),
        _accept_control,
    ),
    ModePageRow(
        CONTROL_EXTENSION,
        ControlExtensionPage,
        ControlExtensionPage.pack(tcmos=1, scsip=1, ialuae=1),
        ControlExtensionPage.pack(scsip=1, maximum_sense_length=0xFF),
        _accept_control_extension,
    ),
    ModePageRow(
        INFORMATIONAL_EXCEPTIONS,
        InformationalExceptionsPage,
        InformationalExceptionsPage.pack(dexcpt=1),
        InformationalExceptionsPage.pack(),
        _as_it_is,
    ),
    ModePageRow(
        BLOCK_PROVISIONING,
        BlockProvisioningPage,
        BlockProvisioningPage.pack(
            available_resource=0x01,
            available_arming=ARMED_DECREASING,
            used_resource=0x02,
            used_arming=ARMED_INCREASING,
        ),
        BlockProvisioningPage.pack(
            available_enabled=1,
            available_count=0xFFFFFFFF,
            used_enabled=1,
            used_count=0xFFFFFFFF,
        ),
        _as_it_is,
    ),
)
"""In ascending order of their keys. Of the control page: one task set for all hosts (TST 000b),
no host's error ends the tasks of others (QERR 00b), log parameters are never saved (GLTSD)."""

BY_KEY = {row.key: row for row in ROWS}


class ModeSettings:
    """The values of all mode pages."""

    __slots__ = (
        "descriptor_sense",
        "keeps_attentions",
        "maximum_sense_length",
        "pages",
        "reports_abortion",
        "software_write_protect",
        "takes_timestamp",
        "write_cache",
    )

    def __init__(self, pages: Iterable[bytes] = ()) -> None:
        """`pages`: whole pages that are not at their defaults. Raises ValueError for a page that
        has no row or another length."""
        values = {row.key: row.default for row in ROWS}
        for page in pages:
            key = key_of(page)
            if key not in values or len(page) != len(values[key]):
                raise ValueError(f"mode page {page.hex()} is none of this release")
            values[key] = page
        self.pages = values
        """Key -> whole page, in ascending order."""
        caching = CachingPage.unpack(values[CACHING])
        control = ControlPage.unpack(values[CONTROL])
        extension = ControlExtensionPage.unpack(values[CONTROL_EXTENSION])
        self.write_cache = bool(caching.wce)
        """WCE: a write may have its status before it is on stable storage."""
        self.descriptor_sense = bool(control.d_sense)
        """D_SENSE."""
        self.software_write_protect = bool(control.swp)
        """SWP."""
        self.reports_abortion = bool(control.tas)
        """TAS: a task that another host ended has the status TASK ABORTED."""
        self.keeps_attentions = control.ua_intlck_ctrl == KEPT_WHEN_REPORTED
        """Only REQUEST SENSE clears a unit attention."""
        self.takes_timestamp = bool(extension.scsip)
        """SCSIP: SET TIMESTAMP is legal."""
        self.maximum_sense_length = extension.maximum_sense_length
        """Bytes of sense data with a status; 0 = no limit."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModeSettings) and self.pages == other.pages

    __hash__ = None  # type: ignore[assignment]

    def changed(self, page: bytes) -> ModeSettings:
        """The settings with one page replaced. Raises ValueError as `__init__` does."""
        return ModeSettings([*self.pages.values(), page])

    def with_fields(self, key: PageKey, **fields: int) -> ModeSettings:
        """The settings with fields of one page set, whether or not a host may do so."""
        return self.changed(BY_KEY[key].layout.repack(self.pages[key], **fields))


def key_of(page: bytes) -> PageKey:
    """The key of a whole page."""
    return page[0] & 0x3F, page[1] if page[0] & 0x40 else 0


DEFAULT = ModeSettings()


def rounded(row: ModePageRow, page: bytes, offset: int) -> bytes:
    """The page as it will hold. `offset`: where the page lies in the parameter list. Raises
    CheckCondition for a value that a field cannot have."""
    try:
        other = row.accept(row.layout.unpack(page))
    except Unacceptable as wrong:
        raise CheckCondition(
            invalid_field_in_parameter_list(offset + wrong.byte, wrong.bit)
        ) from wrong
    return row.layout.repack(page, **other) if other else page


def mode_pages(*, is_thin: bool) -> tuple[ModePageRow, ...]:
    """The mode pages that a unit has. `is_thin`: it can run out of room."""
    return ROWS if is_thin else tuple(row for row in ROWS if row.key != BLOCK_PROVISIONING)


def from_kept(pages: Iterable[bytes]) -> ModeSettings:
    """Settings from saved pages. A page that this release does not have, or has in another form,
    keeps its default: an older or newer release saved it."""
    usable = [
        page
        for page in pages
        if (row := BY_KEY.get(key_of(page))) is not None and len(page) == len(row.default)
    ]
    return ModeSettings(usable)
