"""Log pages: the frame both ways, golden bytes, hostile bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.log_page import (
    InformationalExceptions,
    LogParameter,
    ParameterFormat,
    ProvisioningResource,
    SelfTestResult,
    SupportedDiagnosticPages,
    pack_log_page,
    pack_supported_pages,
    parse_log_pages,
)
from daiko.scsi.sense import CheckCondition

parameters = st.lists(
    st.builds(
        LogParameter, st.integers(0, 0xFFFF), st.binary(max_size=255), st.sampled_from(range(4))
    ),
    max_size=6,
)


@given(st.integers(0, 63), st.integers(0, 0xFE), parameters)
def test_parse_of_pack_returns_the_page(code: int, subpage: int, value: list[LogParameter]) -> None:
    data = pack_log_page(code, subpage, value)
    (page,) = parse_log_pages(data)
    assert (page.code, page.subpage) == (code, subpage)
    assert [each for _, each in page.parameters] == value
    assert int.from_bytes(data[2:4], "big") == len(data) - 4


@given(parameters, parameters)
def test_offsets_of_pages_and_parameters_count_from_the_start_of_the_list(
    first: list[LogParameter], second: list[LogParameter]
) -> None:
    data = pack_log_page(6, 0, first) + pack_log_page(12, 1, second)
    pages = parse_log_pages(data)
    assert [(page.code, page.subpage) for page in pages] == [(6, 0), (12, 1)]
    assert data[pages[1].offset] & 0x3F == 12
    for page in pages:
        for offset, parameter in page.parameters:
            assert int.from_bytes(data[offset : offset + 2], "big") == parameter.code


@given(st.binary(max_size=64))
def test_whatever_bytes_come_they_are_pages_or_refused(data: bytes) -> None:
    try:
        pages = parse_log_pages(data)
    except CheckCondition:
        return
    sizes = [4 + sum(4 + len(each.value) for _, each in page.parameters) for page in pages]
    assert sum(sizes) == len(data)


def test_golden_counter_page() -> None:
    data = pack_log_page(0x06, 0, [LogParameter.counter(0, 7)])
    assert data.hex(" ", 4) == "86000008 00002004 00000007"


def test_counter_stays_at_its_largest_value() -> None:
    assert LogParameter.counter(0, 1 << 40).value == b"\xff" * 4


@pytest.mark.parametrize(
    ("kind", "is_counter"),
    [
        (ParameterFormat.BOUNDED_COUNTER, True),
        (ParameterFormat.UNBOUNDED_COUNTER, True),
        (ParameterFormat.ASCII_LIST, False),
        (ParameterFormat.BINARY_LIST, False),
    ],
)
def test_counters_are_told_from_lists(kind: ParameterFormat, is_counter: bool) -> None:
    assert LogParameter(0, b"", kind).is_counter is is_counter


def test_lists_of_pages_are_ascending_and_without_doubles() -> None:
    keys = [(0x10, 0), (0, 0), (0, 0xFF), (6, 0), (6, 1)]
    assert pack_supported_pages(keys, with_subpages=False).hex(" ") == "00 00 00 03 00 06 10"
    assert pack_supported_pages(keys, with_subpages=True).hex(" ") == (
        "40 ff 00 0a 00 00 00 ff 06 00 06 01 10 00"
    )


@pytest.mark.parametrize(
    "data",
    ["860000", "86000004 000000", "86000004 00000001", "86000003 000000", "c6000000", "86010000"],
    ids=["header", "parameter", "value", "parameter header", "SPF without", "subpage without SPF"],
)
def test_list_cut_short_or_contradicting_itself_is_refused(data: str) -> None:
    with pytest.raises(CheckCondition):
        parse_log_pages(bytes.fromhex(data))


def test_golden_values() -> None:
    result = SelfTestResult.pack(
        self_test_code=5,
        result=6,
        number=2,
        power_on_hours=300,
        first_failure=0x1000,
        sense_key=3,
        asc=0x11,
    )
    assert result.hex(" ", 4) == "a602012c 00000000 00001000 03110000"
    assert InformationalExceptions.pack().hex() == "0000ff00"
    assert ProvisioningResource.pack(count=9, scope=1).hex() == "0000000901000000"
    assert SupportedDiagnosticPages.pack().hex() == "0000000100"
