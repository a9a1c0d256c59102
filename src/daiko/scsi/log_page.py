"""Log pages: the frame of LOG SENSE and LOG SELECT, and the pages of a disk (SPC-4, 7.3).

A page is a list of parameters, each with a code, a control byte and a value. Two kinds occur: a
data counter, which counts events from a reset on, and a binary list parameter, which describes
something. The values of the pages of ours are layouts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from daiko.scsi.layout import Buffer, Layout, bit, bits, constant, number
from daiko.scsi.sense import (
    CheckCondition,
    invalid_field_in_parameter_list,
    parameter_list_length_error,
)

ALL_SUBPAGES = 0xFF


class LogPageCode(IntEnum):
    SUPPORTED_LOG_PAGES = 0x00
    NON_MEDIUM_ERROR = 0x06
    LOGICAL_BLOCK_PROVISIONING = 0x0C
    SELF_TEST_RESULTS = 0x10
    INFORMATIONAL_EXCEPTIONS = 0x2F


class LogPageControl(IntEnum):
    """PC of LOG SENSE and LOG SELECT."""

    THRESHOLD = 0
    CUMULATIVE = 1
    DEFAULT_THRESHOLD = 2
    DEFAULT_CUMULATIVE = 3


class ParameterFormat(IntEnum):
    """FORMAT AND LINKING (SPC-4, table of 7.3.2.2.2)."""

    BOUNDED_COUNTER = 0
    ASCII_LIST = 1
    UNBOUNDED_COUNTER = 2
    BINARY_LIST = 3


_HEADER = Layout(
    "LogPageHeader",
    4,
    bit("ds", 0, 7),
    bit("spf", 0, 6),
    bits("page_code", 0, 5, 0),
    number("subpage_code", 1, 1),
    number("page_length", 2, 2),
)

_PARAMETER = Layout(
    "LogParameterHeader",
    4,
    number("code", 0, 2),
    bit("du", 2, 7),
    bit("tsd", 2, 5),
    bit("etc", 2, 4),
    bits("tmc", 2, 3, 2),
    bits("format", 2, 1, 0),
    number("length", 3, 1),
)


@dataclass(frozen=True, slots=True)
class LogParameter:
    """One log parameter."""

    code: int
    value: bytes
    format: int = ParameterFormat.BINARY_LIST

    @classmethod
    def counter(cls, code: int, value: int) -> LogParameter:
        """A data counter of 4 bytes; it stays at its largest value."""
        least = min(value, 0xFFFFFFFF)
        return cls(code, least.to_bytes(4, "big"), ParameterFormat.BOUNDED_COUNTER)

    @property
    def is_counter(self) -> bool:
        return self.format in (ParameterFormat.BOUNDED_COUNTER, ParameterFormat.UNBOUNDED_COUNTER)

    def pack(self) -> bytes:
        """With its header. TSD is set: it is never saved by itself."""
        head = _PARAMETER.pack(code=self.code, tsd=1, format=self.format, length=len(self.value))
        return head + self.value


@dataclass(frozen=True, slots=True)
class LogPage:
    """A page as it was received; offsets count from the start of the parameter list."""

    code: int
    subpage: int
    parameters: tuple[tuple[int, LogParameter], ...]
    """(offset, parameter)."""
    offset: int = 0


def pack_log_page(code: int, subpage: int, parameters: Iterable[LogParameter]) -> bytes:
    """A page of parameters. DS is set: nothing of it can be saved."""
    return _frame(code, subpage, b"".join([each.pack() for each in parameters]))


def pack_supported_pages(keys: Sequence[tuple[int, int]], *, with_subpages: bool) -> bytes:
    """Page 00h, or 00h/FFh: the pages that there are, in ascending order."""
    if with_subpages:
        return _frame(0, ALL_SUBPAGES, b"".join([bytes(key) for key in sorted(keys)]))
    return _frame(0, 0, bytes(sorted({code for code, subpage in keys if not subpage})))


def _frame(code: int, subpage: int, body: bytes) -> bytes:
    head = _HEADER.pack(
        ds=bool(code),
        spf=bool(subpage),
        page_code=code,
        subpage_code=subpage,
        page_length=len(body),
    )
    return head + body


def parse_log_pages(data: Buffer) -> tuple[LogPage, ...]:
    """The parameter list of LOG SELECT. Raises CheckCondition: 1A/00 where it is cut short, 26/00
    where a page says SPF without a subpage or the other way."""
    data = bytes(data)
    pages, at = [], 0
    while at < len(data):
        if len(data) - at < _HEADER.length:
            raise CheckCondition(parameter_list_length_error())
        head = _HEADER.unpack(data, at)
        if bool(head.subpage_code) != bool(head.spf):
            raise CheckCondition(invalid_field_in_parameter_list(at, 6))
        start, end = at + _HEADER.length, at + _HEADER.length + head.page_length
        if end > len(data):
            raise CheckCondition(parameter_list_length_error())
        parameters = tuple(_parameters(data, start, end))
        pages.append(LogPage(head.page_code, head.subpage_code, parameters, at))
        at = end
    return tuple(pages)


def _parameters(data: bytes, at: int, end: int) -> Iterable[tuple[int, LogParameter]]:
    while at < end:
        if end - at < _PARAMETER.length:
            raise CheckCondition(parameter_list_length_error())
        head = _PARAMETER.unpack(data, at)
        start, after = at + _PARAMETER.length, at + _PARAMETER.length + head.length
        if after > end:
            raise CheckCondition(parameter_list_length_error())
        yield at, LogParameter(head.code, data[start:after], head.format)
        at = after


# --- the values of the pages ---------------------------------------------------------------------

SelfTestResult = Layout(
    "SelfTestResult",
    16,
    bits("self_test_code", 0, 7, 5),
    bits("result", 0, 3, 0),
    number("number", 1, 1),
    number("power_on_hours", 2, 2),
    number("first_failure", 4, 8),
    bits("sense_key", 12, 3, 0),
    number("asc", 13, 1),
    number("ascq", 14, 1),
)
"""A parameter of page 10h (SPC-4, 7.3.18); parameter codes 0001h (the newest) to 0014h."""

SELF_TEST_RESULTS = 20
"""Parameters that page 10h always has; those of tests that were not made are zeros."""

NO_ADDRESS = (1 << 64) - 1
"""ADDRESS OF FIRST FAILURE of a test that did not fail, or not at a block."""

InformationalExceptions = Layout(
    "InformationalExceptionsGeneral",
    4,
    number("asc", 0, 1),
    number("ascq", 1, 1),
    number("temperature", 2, 1, default=0xFF),
)
"""Parameter 0000h of page 2Fh (SPC-4, 7.3.8); temperature FFh = not known."""

ProvisioningResource = Layout(
    "ProvisioningResource",
    8,
    number("count", 0, 4),
    bits("scope", 4, 1, 0),
)
"""A parameter of page 0Ch (SBC-4, 6.4.5): threshold sets available (0001h) or used (0002h)."""

SupportedDiagnosticPages = Layout(
    "SupportedDiagnosticPages",
    5,
    constant("page_code", 0, 0),
    number("page_length", 2, 2, default=1),
    number("first", 4, 1),
)
"""Diagnostic page 00h (SPC-4, 7.2.2), where it is the only one."""
