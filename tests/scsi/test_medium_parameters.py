"""Parameter lists of FORMAT UNIT and SANITIZE."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.medium_parameters import Format, Overwrite, parse_format, parse_overwrite
from daiko.scsi.sense import CheckCondition

patterns = st.binary(min_size=1, max_size=512)


@given(patterns, st.integers(1, 31), st.booleans())
def test_parse_of_packed_overwrite_returns_it(pattern: bytes, count: int, invert: bool) -> None:
    wanted = Overwrite(pattern, count, invert)
    assert parse_overwrite(wanted.pack(), 512) == wanted
    assert parse_overwrite(wanted.pack() + b"more", 512) == wanted


@given(patterns, st.integers(0, 30), st.booleans())
def test_block_is_the_pattern_from_its_start(pattern: bytes, passed: int, invert: bool) -> None:
    block = Overwrite(pattern, 31, invert).block(passed, 512)
    flip = 0xFF if invert and passed % 2 else 0
    assert block == bytes(pattern[at % len(pattern)] ^ flip for at in range(512))


@given(st.booleans(), patterns, st.booleans())
def test_parse_of_packed_format_returns_it(immediate: bool, pattern: bytes, long: bool) -> None:
    wanted = Format(immediate, pattern)
    assert parse_format(wanted.pack(long=long), 512, long=long) == wanted


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_are_read_or_refused(data: bytes, long: bool) -> None:
    for parse in (
        lambda: parse_overwrite(data, 512),
        lambda: parse_format(data, 512, long=long),
    ):
        assert outcome(parse) in (None, (0x1A, 0x00), (0x26, 0x00))


def outcome(parse: Callable[[], object]) -> tuple[int, int] | None:
    """Additional sense code of the refusal; None where it was read."""
    try:
        parse()
    except CheckCondition as refused:
        return refused.sense.asc, refused.sense.ascq
    return None


def test_lists_are_as_by_hand() -> None:
    assert Overwrite(b"\xaa\x55", 3, invert=True).pack().hex() == "83000002aa55"
    assert Format(immediate=True).pack().hex() == "00020000"
    assert Format(pattern=b"\x5a").pack(long=True).hex() == "0088000000000000" + "000100015a"


@pytest.mark.parametrize(
    ("data", "byte", "bit"),
    [
        pytest.param("00880000 20010001 5a", 4, 5, id="security initialize"),
        pytest.param("00880000 00020001 5a", 5, None, id="type"),
        pytest.param("00880000 00010000", 6, None, id="no pattern"),
        pytest.param("00880000 00000001 5a", 6, None, id="default pattern with bytes"),
        pytest.param("00810000", 1, 0, id="vendor specific"),
    ],
)
def test_fault_is_pointed_to(data: str, byte: int, bit: int | None) -> None:
    with pytest.raises(CheckCondition) as caught:
        parse_format(bytes.fromhex(data), 512, long=False)
    field = caught.value.sense.field
    assert field is not None
    assert (field.byte, field.bit) == (byte, bit)
