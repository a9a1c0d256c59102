"""Mode parameters: headers, block descriptors, and the pages of a disk (SPC-4, 7.5; SBC-4, 6.5).

The answer of MODE SENSE and the list of MODE SELECT have the same form: a header (4 bytes in the
6-byte commands, 8 in the 10-byte ones), an optional block descriptor, then pages. A page is made
with its layout, e.g. `CachingPage.pack(wce=1)`; its first two bytes are part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from daiko.scsi.layout import Buffer, Layout, MalformedData, bit, bits, constant, number
from daiko.scsi.sense import (
    CheckCondition,
    invalid_field_in_parameter_list,
    parameter_list_length_error,
)

ALL_PAGES = 0x3F
ALL_SUBPAGES = 0xFF

WRITE_PROTECTED = 0x80
"""WP, in the DEVICE-SPECIFIC PARAMETER of a disk."""
DPOFUA = 0x10
"""DPO and FUA are supported."""


PAGE_SAVABLE = 0x80
"""PS, in byte 0 of a page."""


class PageControl(IntEnum):
    """PC of MODE SENSE: which values."""

    CURRENT = 0
    CHANGEABLE = 1
    DEFAULT = 2
    SAVED = 3


CachingPage = Layout(
    "CachingPage",
    20,
    bit("ps", 0, 7),
    constant("page_code", 0, 0x08, high=5, width=6),
    constant("page_length", 1, 0x12),
    bit("ic", 2, 7),
    bit("abpf", 2, 6),
    bit("cap", 2, 5),
    bit("disc", 2, 4),
    bit("size", 2, 3),
    bit("wce", 2, 2),
    bit("mf", 2, 1),
    bit("rcd", 2, 0),
    bits("demand_read_retention", 3, 7, 4),
    bits("write_retention", 3, 3, 0),
    number("disable_prefetch_length", 4, 2),
    number("minimum_prefetch", 6, 2),
    number("maximum_prefetch", 8, 2),
    number("maximum_prefetch_ceiling", 10, 2),
    bit("fsw", 12, 7),
    bit("lbcss", 12, 6),
    bit("dra", 12, 5),
    bit("nv_dis", 12, 0),
    number("cache_segments", 13, 1),
    number("cache_segment_size", 14, 2),
)

ControlPage = Layout(
    "ControlPage",
    12,
    bit("ps", 0, 7),
    constant("page_code", 0, 0x0A, high=5, width=6),
    constant("page_length", 1, 0x0A),
    bits("tst", 2, 7, 5),
    bit("tmf_only", 2, 4),
    bit("dpicz", 2, 3),
    bit("d_sense", 2, 2),
    bit("gltsd", 2, 1),
    bit("rlec", 2, 0),
    bits("queue_algorithm_modifier", 3, 7, 4),
    bit("nuar", 3, 3),
    bits("qerr", 3, 2, 1),
    bit("vs", 4, 7),
    bit("rac", 4, 6),
    bits("ua_intlck_ctrl", 4, 5, 4),
    bit("swp", 4, 3),
    bit("ato", 5, 7),
    bit("tas", 5, 6),
    bit("atmpe", 5, 5),
    bit("rwwp", 5, 4),
    bits("autoload_mode", 5, 2, 0),
    number("busy_timeout", 8, 2),
    number("self_test_time", 10, 2),
)

ControlExtensionPage = Layout(
    "ControlExtensionPage",
    32,
    bit("ps", 0, 7),
    constant("spf", 0, 1, high=6, width=1),
    constant("page_code", 0, 0x0A, high=5, width=6),
    constant("subpage_code", 1, 0x01),
    constant("page_length", 2, 0x1C, width=16),
    bit("tcmos", 4, 2),
    bit("scsip", 4, 1),
    bit("ialuae", 4, 0),
    bits("initial_command_priority", 5, 3, 0),
    number("maximum_sense_length", 6, 1),
)

InformationalExceptionsPage = Layout(
    "InformationalExceptionsPage",
    12,
    bit("ps", 0, 7),
    constant("page_code", 0, 0x1C, high=5, width=6),
    constant("page_length", 1, 0x0A),
    bit("perf", 2, 7),
    bit("ebf", 2, 5),
    bit("ewasc", 2, 4),
    bit("dexcpt", 2, 3),
    bit("test", 2, 2),
    bit("ebackerr", 2, 1),
    bit("logerr", 2, 0),
    bits("mrie", 3, 3, 0),
    number("interval_timer", 4, 4),
    number("report_count", 8, 4),
)

BlockProvisioningPage = Layout(
    "BlockProvisioningPage",
    32,
    bit("ps", 0, 7),
    constant("spf", 0, 1, high=6, width=1),
    constant("page_code", 0, 0x1C, high=5, width=6),
    constant("subpage_code", 1, 0x02),
    constant("page_length", 2, 0x1C, width=16),
    bit("situa", 4, 0),
    bit("available_enabled", 16, 7),
    bits("available_type", 16, 5, 3),
    bits("available_arming", 16, 2, 0),
    number("available_resource", 17, 1),
    number("available_count", 20, 4),
    bit("used_enabled", 24, 7),
    bits("used_type", 24, 5, 3),
    bits("used_arming", 24, 2, 0),
    number("used_resource", 25, 1),
    number("used_count", 28, 4),
)
"""Mode page 1Ch/02h (SBC-4, 6.5.9) with two threshold descriptors: available resources becoming
fewer, used ones becoming more."""

_HEADER_6 = Layout(
    "ModeParameterHeader6",
    4,
    number("data_length", 0, 1),
    number("medium_type", 1, 1),
    number("device_specific", 2, 1),
    number("descriptor_length", 3, 1),
)

_HEADER_10 = Layout(
    "ModeParameterHeader10",
    8,
    number("data_length", 0, 2),
    number("medium_type", 2, 1),
    number("device_specific", 3, 1),
    bit("longlba", 4, 0),
    number("descriptor_length", 6, 2),
)

_SHORT_DESCRIPTOR = Layout(
    "ShortBlockDescriptor", 8, number("blocks", 0, 4), number("block_size", 5, 3)
)
_LONG_DESCRIPTOR = Layout(
    "LongBlockDescriptor", 16, number("blocks", 0, 8), number("block_size", 12, 4)
)


def pack_block_descriptor(blocks: int, block_size: int, *, long_lba: bool = False) -> bytes:
    """Mode parameter block descriptor; the short form says FFFFFFFFh for more blocks than fit."""
    if long_lba:
        return _LONG_DESCRIPTOR.pack(blocks=blocks, block_size=block_size)
    return _SHORT_DESCRIPTOR.pack(blocks=min(blocks, 0xFFFFFFFF), block_size=block_size)


def pack_mode_parameters(
    pages: Sequence[bytes],
    *,
    ten: bool,
    device_specific: int = 0,
    block_descriptor: bytes = b"",
) -> bytes:
    """Answer of MODE SENSE, (10) when `ten`. Raises ValueError when it is too long for (6)."""
    rest = block_descriptor + b"".join(pages)
    if ten:
        head = _HEADER_10.pack(
            data_length=6 + len(rest),
            device_specific=device_specific,
            longlba=len(block_descriptor) == _LONG_DESCRIPTOR.length,
            descriptor_length=len(block_descriptor),
        )
    else:
        head = _HEADER_6.pack(
            data_length=3 + len(rest),
            device_specific=device_specific,
            descriptor_length=len(block_descriptor),
        )
    return head + rest


@dataclass(frozen=True, slots=True)
class ModePage:
    """One page as it was received."""

    code: int
    subpage: int
    data: bytes
    """The whole page with its header."""
    offset: int
    """Where it lies in the parameter list."""


@dataclass(frozen=True, slots=True)
class ModeParameters:
    """Header, block descriptor and pages."""

    device_specific: int
    block_descriptor: bytes
    pages: tuple[ModePage, ...]
    medium_type: int = 0
    descriptor_offset: int = 4

    @property
    def write_protected(self) -> bool:
        return bool(self.device_specific & WRITE_PROTECTED)

    @property
    def blocks_and_size(self) -> tuple[int, int] | None:
        """(number of blocks, block size in bytes) of the block descriptor, if there is one."""
        if not self.block_descriptor:
            return None
        long = len(self.block_descriptor) == _LONG_DESCRIPTOR.length
        fields = (_LONG_DESCRIPTOR if long else _SHORT_DESCRIPTOR).unpack(self.block_descriptor)
        return fields.blocks, fields.block_size

    def page(self, code: int, subpage: int = 0) -> ModePage | None:
        """The first page with this code."""
        for page in self.pages:
            if (page.code, page.subpage) == (code, subpage):
                return page
        return None


def parse_mode_select(data: Buffer, *, ten: bool) -> ModeParameters:
    """Parameter list of MODE SELECT, (10) when `ten`. An empty list is no error for the command;
    the caller answers GOOD without coming here. Raises CheckCondition: 1A/00 where it is cut
    short, 26/00 with a pointer for a descriptor length that is none."""
    header = _HEADER_10 if ten else _HEADER_6
    if len(data) < header.length:
        raise CheckCondition(parameter_list_length_error())
    fields = header.unpack(data)
    size = _LONG_DESCRIPTOR.length if ten and fields.longlba else _SHORT_DESCRIPTOR.length
    if fields.descriptor_length not in (0, size):
        raise CheckCondition(invalid_field_in_parameter_list(header.length - (2 if ten else 1)))
    start = header.length + fields.descriptor_length
    if start > len(data):
        raise CheckCondition(parameter_list_length_error())
    pages, at = [], start
    while at < len(data):
        page = _page(bytes(data), at)
        if page is None:
            raise CheckCondition(parameter_list_length_error())
        pages.append(page)
        at += len(page.data)
    descriptor = bytes(data[header.length : start])
    return ModeParameters(
        fields.device_specific, descriptor, tuple(pages), fields.medium_type, header.length
    )


def parse_mode_sense(data: Buffer, *, ten: bool) -> ModeParameters:
    """Answer of MODE SENSE, (10) when `ten`. Pages that the allocation length cut off are left
    out. Raises MalformedData when header or block descriptor are not all there."""
    header = _HEADER_10 if ten else _HEADER_6
    fields = header.unpack(data)
    data = bytes(data[: fields.data_length + (2 if ten else 1)])
    start = header.length + fields.descriptor_length
    # Several block descriptors do not occur with disks: the first is read.
    size = _LONG_DESCRIPTOR.length if ten and fields.longlba else _SHORT_DESCRIPTOR.length
    if start > len(data) or fields.descriptor_length % size:
        raise MalformedData(f"MODE SENSE data of {len(data)} bytes, pages at byte {start}")
    descriptor = data[header.length : start][:size]
    pages, at = [], start
    while at < len(data):
        page = _page(data, at)
        if page is None:
            break
        pages.append(page)
        at += len(page.data)
    return ModeParameters(
        fields.device_specific, descriptor, tuple(pages), fields.medium_type, header.length
    )


def _page(data: bytes, at: int) -> ModePage | None:
    """The page at `at`; None when it is cut short."""
    has_subpage = bool(data[at] & 0x40)
    head = data[at : at + (4 if has_subpage else 2)]
    if len(head) < (4 if has_subpage else 2):
        return None
    length = len(head) + (int.from_bytes(head[2:4], "big") if has_subpage else head[1])
    page = data[at : at + length]
    if len(page) < length:
        return None
    return ModePage(page[0] & 0x3F, page[1] if has_subpage else 0, page, at)


def first_unchangeable(new: bytes, current: bytes, changeable: bytes) -> tuple[int, int] | None:
    """(byte, bit) of the first bit of a page that a MODE SELECT would change and may not; None
    when all is well. The PS bit, which is reserved in MODE SELECT, is passed over. The three must
    be of one length."""
    for byte, (wanted, present, may) in enumerate(zip(new, current, changeable, strict=True)):
        wrong = (wanted ^ present) & ~may & (0x7F if byte == 0 else 0xFF)
        if wrong:
            return byte, wrong.bit_length() - 1
    return None
