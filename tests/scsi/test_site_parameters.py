"""Pages of SITE IN and SITE OUT: header, versions, bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.layout import MalformedData
from daiko.scsi.opcode import SiteIn
from daiko.scsi.site_parameters import (
    HEADER_LENGTH,
    LONGEST_PAGE,
    Descriptor,
    OtherVersion,
    Page,
)

from .golden import golden

descriptors = st.lists(
    st.builds(Descriptor, st.integers(0, 0xFFFF), st.binary(max_size=40)), max_size=6
).map(tuple)
numbers = st.integers(0, 2**31)


@st.composite
def pages(draw: st.DrawFn) -> Page:
    inside = draw(descriptors)
    first = draw(numbers)
    total = first + len(inside) + draw(st.integers(0, 1000))
    return Page(
        draw(st.integers(0, 255)),
        inside,
        total,
        first,
        draw(st.integers(0, 2**64 - 1)),
        (1, draw(st.integers(0, 255))),
    )


@given(pages())
def test_parse_of_pack_returns_the_page(page: Page) -> None:
    assert Page.parse(page.pack()) == page


@given(pages(), st.binary(max_size=20))
def test_bytes_behind_the_page_are_ignored(page: Page, rest: bytes) -> None:
    assert Page.parse(page.pack() + rest) == page


@given(pages(), st.data())
def test_page_that_is_cut_short_is_malformed(page: Page, data: st.DataObject) -> None:
    packed = page.pack()
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(MalformedData):
        Page.parse(packed[:cut])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_page_or_malformed(data: bytes) -> None:
    for start in (b"", b"DAIK", b"DAIK\0\0\0\x18\1\0\x20\0"):
        try:
            page = Page.parse(start + data)
        except MalformedData:
            continue
        assert page.first + len(page.descriptors) <= page.total


@pytest.mark.parametrize("name", ["site_greet", "site_volume_mapping", "site_function_table"])
def test_golden_page_is_read_and_written(name: str) -> None:
    data = golden(name)
    page = Page.parse(data)
    assert page.pack() == data
    assert page.total == len(page.descriptors) > 0


GREET = golden("site_greet")


def changed(at: int, to: str) -> bytes:
    """The greeting with some bytes replaced."""
    value = bytes.fromhex(to)
    return GREET[:at] + value + GREET[at + len(value) :]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "no parameter data", id="empty"),
        pytest.param(GREET[:11], "no parameter data", id="shorter than what never changes"),
        pytest.param(changed(0, "00"), "no parameter data", id="another magic"),
        pytest.param(GREET[:31], "31 present", id="shorter than a header"),
        pytest.param(changed(4, "ffffffff"), "are allowed", id="endless"),
        pytest.param(changed(4, "00000100"), "264 bytes", id="longer than what is there"),
        pytest.param(changed(10, "1f"), "header of 31 bytes", id="short header"),
        pytest.param(changed(10, "ff"), "header of 255 bytes", id="header longer than the page"),
        pytest.param(changed(20, "00000000"), "descriptors 0 to 1 of 0", id="more than there are"),
        pytest.param(changed(24, "00000001"), "descriptors 1 to 2 of 1", id="behind the end"),
        pytest.param(changed(20, "00000009 00000000 0009"), "cut short", id="more than fit"),
        pytest.param(changed(36, "000000ff"), "runs past the end", id="long descriptor"),
    ],
)
def test_malformed_page_is_refused_with_the_reason(data: bytes, words: str) -> None:
    with pytest.raises(MalformedData, match=words):
        Page.parse(data)


@pytest.mark.parametrize(("major", "minor"), [(0, 9), (2, 0), (255, 255)])
def test_other_major_version_is_told_whatever_follows(major: int, minor: int) -> None:
    for rest in (b"", b"\xff" * 40):
        with pytest.raises(OtherVersion, match=rf"version {major}\.{minor}") as caught:
            Page.parse(b"DAIK\xff\xff\xff\xff" + bytes((major, minor)) + b"\0\0" + rest)
        assert (caught.value.major, caught.value.minor) == (major, minor)


def test_longer_header_of_a_newer_minor_version_is_skipped() -> None:
    page = Page.parse(GREET)
    longer = (
        b"DAIK" + (len(GREET) - 8 + 4).to_bytes(4, "big") + bytes((1, 7, HEADER_LENGTH + 4))
        + GREET[11:HEADER_LENGTH] + b"\xff\xff\xff\xff" + GREET[HEADER_LENGTH:]
    )  # fmt: skip
    newer = Page.parse(longer)
    assert newer.version == (1, 7)
    assert newer.descriptors == page.descriptors


def test_longest_page_is_taken() -> None:
    body = bytes(LONGEST_PAGE - HEADER_LENGTH - 8)
    page = Page(SiteIn.GREET, (Descriptor(99, body),), 1)
    assert Page.parse(page.pack()) == page
    over = Page(SiteIn.GREET, (Descriptor(99, body + b"\0"),), 1)
    with pytest.raises(MalformedData, match="are allowed"):
        Page.parse(over.pack())
