"""Parameter lists of FORMAT UNIT and SANITIZE (SBC-4, 5.3 and 5.30)."""

from __future__ import annotations

from dataclasses import dataclass

from daiko.scsi.layout import Buffer, Layout, bit, bits, number
from daiko.scsi.sense import (
    CheckCondition,
    invalid_field_in_parameter_list,
    parameter_list_length_error,
)

# --- SANITIZE, service action OVERWRITE ----------------------------------------------------------

_OVERWRITE = Layout(
    "SanitizeOverwriteParameters",
    4,
    bit("invert", 0, 7),
    bits("test", 0, 6, 5),
    bits("count", 0, 4, 0),
    number("pattern_length", 2, 2),
)

OVERWRITE_HEADER = _OVERWRITE.length


@dataclass(frozen=True, slots=True)
class Overwrite:
    """How the blocks are to be overwritten."""

    pattern: bytes
    """At least 1 byte; repeated from the start of each block."""
    count: int = 1
    """Passes, 1 to 31."""
    invert: bool = False
    """Each pass writes the inverse of what the one before wrote."""

    def pack(self) -> bytes:
        """The parameter list. Raises ValueError when a value does not fit its field."""
        head = _OVERWRITE.pack(
            invert=self.invert, count=self.count, pattern_length=len(self.pattern)
        )
        return head + self.pattern

    def block(self, passed: int, block_size: int) -> bytes:
        """What a block holds after pass `passed` (from 0)."""
        repeated = self.pattern * -(-block_size // len(self.pattern))
        whole = repeated[:block_size]
        if self.invert and passed % 2:
            return bytes(byte ^ 0xFF for byte in whole)
        return whole


def parse_overwrite(data: Buffer, block_size: int) -> Overwrite:
    """Read the list. Raises CheckCondition: 1A/00 when it is cut short, 26/00 with a pointer for a
    value that cannot be."""
    if len(data) < _OVERWRITE.length:
        raise CheckCondition(parameter_list_length_error())
    fields = _OVERWRITE.unpack(data)
    if not fields.count:
        raise CheckCondition(invalid_field_in_parameter_list(0, 4))
    if fields.test:
        raise CheckCondition(invalid_field_in_parameter_list(0, 6))
    if not 0 < fields.pattern_length <= block_size:
        raise CheckCondition(invalid_field_in_parameter_list(2))
    end = _OVERWRITE.length + fields.pattern_length
    if end > len(data):
        raise CheckCondition(parameter_list_length_error())
    return Overwrite(bytes(data[_OVERWRITE.length : end]), fields.count, bool(fields.invert))


# --- FORMAT UNIT ---------------------------------------------------------------------------------

_FLAGS = (
    bits("protection_fields_usage", 0, 2, 0),
    bit("fov", 1, 7),
    bit("dpry", 1, 6),
    bit("dcrt", 1, 5),
    bit("stpf", 1, 4),
    bit("ip", 1, 3),
    bit("immed", 1, 1),
    bit("vendor_specific", 1, 0),
)
_SHORT = Layout("ShortFormatParameters", 4, *_FLAGS, number("defect_list_length", 2, 2))
_LONG = Layout(
    "LongFormatParameters",
    8,
    *_FLAGS,
    bits("p_i_information", 3, 7, 4),
    bits("protection_interval_exponent", 3, 3, 0),
    number("defect_list_length", 4, 4),
)
_PATTERN = Layout(
    "InitializationPattern",
    4,
    bit("security_initialize", 0, 5),
    number("type", 1, 1),
    number("length", 2, 2),
)
DEFAULT_PATTERN, REPEATED_PATTERN = 0x00, 0x01
"""INITIALIZATION PATTERN TYPE."""


@dataclass(frozen=True, slots=True)
class Format:
    """What FORMAT UNIT asks for beyond the format itself."""

    immediate: bool = False
    """The status comes before the work."""
    pattern: bytes = b"\0"
    """What each block is filled with."""

    def pack(self, *, long: bool = False) -> bytes:
        """The parameter list, with an initialization pattern where that is not zeros."""
        has_pattern = self.pattern != b"\0"
        head = (_LONG if long else _SHORT).pack(
            fov=has_pattern, ip=has_pattern, immed=self.immediate
        )
        if not has_pattern:
            return head
        return head + _PATTERN.pack(type=REPEATED_PATTERN, length=len(self.pattern)) + self.pattern


def parse_format(data: Buffer, block_size: int, *, long: bool) -> Format:
    """Read the list; what comes behind it is ignored. Raises CheckCondition with a pointer: there
    is no protection information, there are no defects to be told of, and options are set only with
    FOV."""
    layout = _LONG if long else _SHORT
    if len(data) < layout.length:
        raise CheckCondition(parameter_list_length_error())
    fields = layout.unpack(data)
    if fields.protection_fields_usage:
        raise CheckCondition(invalid_field_in_parameter_list(0, 2))
    for name, place in (("dpry", 6), ("dcrt", 5), ("stpf", 4), ("ip", 3)):
        if not fields.fov and getattr(fields, name):
            raise CheckCondition(invalid_field_in_parameter_list(1, place))
    if fields.vendor_specific:
        raise CheckCondition(invalid_field_in_parameter_list(1, 0))
    if long and (fields.p_i_information or fields.protection_interval_exponent):
        raise CheckCondition(invalid_field_in_parameter_list(3))
    if fields.defect_list_length:
        raise CheckCondition(invalid_field_in_parameter_list(4 if long else 2))
    if not fields.ip:
        return Format(bool(fields.immed))
    return Format(bool(fields.immed), _pattern(data, layout.length, block_size))


def _pattern(data: Buffer, at: int, block_size: int) -> bytes:
    if len(data) < at + _PATTERN.length:
        raise CheckCondition(parameter_list_length_error())
    fields = _PATTERN.unpack(data, at)
    if fields.security_initialize:
        raise CheckCondition(invalid_field_in_parameter_list(at, 5))
    if fields.type == DEFAULT_PATTERN:
        if fields.length:
            raise CheckCondition(invalid_field_in_parameter_list(at + 2))
        return b"\0"
    if fields.type != REPEATED_PATTERN:
        raise CheckCondition(invalid_field_in_parameter_list(at + 1))
    if not 0 < fields.length <= block_size:
        raise CheckCondition(invalid_field_in_parameter_list(at + 2))
    start = at + _PATTERN.length
    if len(data) < start + fields.length:
        raise CheckCondition(parameter_list_length_error())
    return bytes(data[start : start + fields.length])
