"""Standard INQUIRY data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.inquiry import StandardInquiry, VersionDescriptor
from daiko.scsi.layout import MalformedData
from daiko.scsi.opcode import PeripheralQualifier

# Standard INQUIRY data of the Linux kernel target's style, by hand: SPC-4, 3PC, TPGS 3.
OTHER = bytes.fromhex("00 00 06 02 1f 38 00 02") + b"LIO-ORG " + b"IBLOCK          " + b"4.0 "


def text(size: int) -> st.SearchStrategy[str]:
    alphabet = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
    return st.text(alphabet, max_size=size).map(lambda value: value.rstrip(" "))


@given(
    st.builds(
        StandardInquiry,
        text(8),
        text(16),
        text(4),
        st.integers(0, 7),
        st.integers(0, 31),
        st.booleans(),
        st.integers(0, 255),
        st.booleans(),
        st.integers(0, 3),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.lists(st.integers(1, 0xFFFF), max_size=8).map(tuple),
    )
)
def test_parse_of_pack_returns_the_value(value: StandardInquiry) -> None:
    data = value.pack()
    assert len(data) == 96 == data[4] + 5
    assert StandardInquiry.parse(data) == value
    assert StandardInquiry.parse(data + b"more") == value


def test_answer_of_another_unit_is_read() -> None:
    read = StandardInquiry.parse(OTHER)
    assert read == StandardInquiry(
        "LIO-ORG", "IBLOCK", "4.0", hisup=False, tpgs=3, third_party_copy=True
    )


def test_answer_has_its_fields_where_the_standard_puts_them() -> None:
    data = StandardInquiry(
        "DAIKO",
        "VIRTUAL LU",
        "0001",
        qualifier=PeripheralQualifier.NOT_CAPABLE,
        device_type=0x1F,
        third_party_copy=True,
        version_descriptors=(VersionDescriptor.SAM_5, VersionDescriptor.ISCSI),
    ).pack()
    assert data[:8] == bytes.fromhex("7f 00 06 12 5b 08 00 02")
    assert data[8:36] == b"DAIKO   VIRTUAL LU      0001"
    assert data[58:62] == bytes.fromhex("00a0 0960")


@pytest.mark.parametrize("length", [0, 5, 35])
def test_answer_cut_short_is_malformed(length: int) -> None:
    with pytest.raises(MalformedData):
        StandardInquiry.parse(OTHER[:length])


def test_bytes_beyond_the_additional_length_are_not_read() -> None:
    assert StandardInquiry.parse(OTHER + b"\xff" * 60).version_descriptors == ()


@pytest.mark.parametrize(
    "value",
    [StandardInquiry("NINECHARS"), StandardInquiry(product="x" * 17), StandardInquiry("大光")],
    ids=["vendor", "product", "not ascii"],
)
def test_text_that_does_not_fit_is_not_packed(value: StandardInquiry) -> None:
    with pytest.raises(ValueError, match=r"fit|ascii"):
        value.pack()


def test_answer_that_claims_less_than_the_least_is_read_to_the_least() -> None:
    data = bytearray(OTHER)
    data[4] = 0
    assert StandardInquiry.parse(bytes(data)) == StandardInquiry.parse(OTHER)
