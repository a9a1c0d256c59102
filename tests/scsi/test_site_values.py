"""What the descriptors of SITE IN and SITE OUT say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.layout import MalformedData
from daiko.scsi.opcode import SiteIn
from daiko.scsi.site_parameters import Descriptor, Page
from daiko.scsi.site_values import (
    LARGEST_ADDRESS,
    LARGEST_LUN,
    LONGEST_ENVELOPE,
    Answer,
    Envelope,
    Greeting,
    KnownCode,
    Limits,
    MappedDevice,
    MappedExtent,
    OfferedVolume,
    PeerCell,
    PeerReach,
    PeerValue,
    shortened,
    values_of,
)

from .golden import golden

NAA = bytes.fromhex("602da100000000000000000000000001")
DESIGNATOR = bytes.fromhex("01030010") + NAA
LIMITS = Limits(64, 64, 4096, 1 << 28, 0xFFFF, 16, True, False, False, (0x02,), (0xE4, 0xE6))
GREETING = Greeting(
    bytes(range(0xA0, 0xB0)), "iqn.2026-11.com.example:tokyo", "0.1.0", 1793000000000, 1, 0x1F, 0
)
VOLUME = OfferedVolume(1, "alpha", 512, 4096, NAA, "primary")
DEVICE = MappedDevice(
    0, "sd1/0", "iqn.2026-11.com.example:sd1", 0, 1, 512, ("192.0.2.1:3260",), (DESIGNATOR,), True
)
OWN = MappedDevice(1, "disk/0", "", 0, 0, 4096)
EXTENT = MappedExtent(0, 0, 4096, 2048)
CELL = PeerCell(
    "sd1", 1, Answer.CAN, KnownCode.PROBED, 1793000000, "it said so", "DAIKO VIRTUAL LU 0001",
    LIMITS,
)  # fmt: skip
REACH = PeerReach("sd1", "sd2/0", Answer.CANNOT, KnownCode.BY_HAND, 1793000001, "another network")
ENVELOPE = Envelope(1, 2, b"whatever")

printable = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=60)
octet = st.integers(0, 255)
word = st.integers(0, 2**32 - 1)
lun = st.integers(0, LARGEST_LUN)
address = st.integers(0, LARGEST_ADDRESS)
long = st.integers(0, 2**64 - 1)
types = st.lists(octet, max_size=8).map(tuple)
naa = st.binary(min_size=15, max_size=15).map(b"\x60".__add__)
designator = st.binary(min_size=1, max_size=20).map(lambda d: bytes((1, 3, 0, len(d))) + d)
limits = st.builds(
    Limits, word, word, word, long, word, word, st.booleans(), st.booleans(), st.booleans(),
    types, types,
)  # fmt: skip
known = st.sampled_from(KnownCode)
answer = st.sampled_from(Answer)
values = st.one_of(
    st.builds(
        Greeting, st.binary(min_size=16, max_size=16), printable, printable, long, octet, word, word
    ),
    st.builds(
        OfferedVolume, st.integers(1, LARGEST_LUN), printable, st.sampled_from([512, 4096]),
        st.integers(1, LARGEST_ADDRESS), naa, printable,
    ),
    st.builds(
        MappedDevice, st.integers(0, 0xFFFF), printable, printable.filter(bool), lun,
        st.integers(0, 0xFFFF), st.sampled_from([512, 4096]),
        st.lists(printable, min_size=1, max_size=4).map(tuple),
        st.lists(designator, max_size=4).map(tuple), st.booleans(),
    ),
    st.builds(MappedExtent, st.integers(0, 0xFFFF), address, st.integers(1, 2**59), address),
    st.builds(
        PeerCell, printable, octet, answer, known, long, printable, printable,
        st.one_of(st.none(), limits),
    ),
    st.builds(PeerReach, printable, printable, answer, known, long, printable),
    st.builds(Envelope, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=99)),
)  # fmt: skip


@given(st.lists(values, max_size=5))
def test_values_come_back_from_their_page(given_: list[PeerValue]) -> None:
    page = Page.parse(Page.of(SiteIn.VOLUMES, given_).pack())
    assert values_of(page.descriptors) == given_


@given(values, st.binary(max_size=20))
def test_fields_of_a_later_minor_version_are_ignored(value: PeerValue, more: bytes) -> None:
    assert values_of([Descriptor(value.kind_code, value.body() + more)]) == [value]


@given(values, st.data())
def test_body_that_is_cut_short_is_malformed(value: PeerValue, data: st.DataObject) -> None:
    body = value.body()
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(MalformedData):
        values_of([Descriptor(value.kind_code, body[:cut])])


@given(st.integers(1, 7), st.binary(max_size=120))
def test_any_body_is_a_value_or_malformed(kind: int, body: bytes) -> None:
    try:
        (value,) = values_of([Descriptor(kind, body)])
    except MalformedData:
        return
    assert values_of([Descriptor(kind, value.body())]) == [value]


def test_kinds_of_a_later_minor_version_are_skipped() -> None:
    unknown = Descriptor(0x7F, b"\xff")
    assert values_of([unknown, Descriptor(EXTENT.kind_code, EXTENT.body()), unknown]) == [EXTENT]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("site_greet", [GREETING], id="greet"),
        pytest.param("site_volume_mapping", [DEVICE, EXTENT], id="volume mapping"),
        pytest.param("site_function_table", [CELL, REACH], id="function table"),
    ],
)
def test_golden_page_says_what_it_was_made_from(name: str, expected: list[PeerValue]) -> None:
    assert values_of(Page.parse(golden(name)).descriptors) == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param(replace(VOLUME, lun=0), "at LUN 0", id="management unit as a volume"),
        pytest.param(replace(VOLUME, lun=0x4000), "at LUN 16384", id="no such LUN"),
        pytest.param(replace(VOLUME, block_size=520), "520 bytes", id="block size"),
        pytest.param(replace(VOLUME, blocks=0), "0 blocks", id="empty"),
        pytest.param(replace(VOLUME, blocks=2**61), "blocks", id="larger than anything"),
        pytest.param(replace(VOLUME, naa=bytes(16)), "no NAA 6", id="no identity"),
        pytest.param(replace(VOLUME, name="a\nb"), "control characters", id="control characters"),
        pytest.param(replace(DEVICE, lun=0x4000), "is LUN 16384", id="LUN of a device"),
        pytest.param(replace(DEVICE, block_size=0), "0 bytes", id="block size of a device"),
        pytest.param(replace(DEVICE, portals=()), "belong together", id="a target nowhere"),
        pytest.param(replace(OWN, portals=("a:1",)), "belong together", id="nothing somewhere"),
        pytest.param(replace(DEVICE, designators=(NAA,)), "that is none", id="designator"),
        pytest.param(replace(DEVICE, designators=(b"",)), "that is none", id="no designator"),
        pytest.param(replace(DEVICE, portals=("a:1",) * 33), "more than 32 names", id="portals"),
        pytest.param(
            replace(DEVICE, designators=(DESIGNATOR,) * 33), "more than 32 names", id="designators"
        ),
        pytest.param(EXTENT._replace(blocks=0), "0 blocks", id="empty extent"),
        pytest.param(EXTENT._replace(lba=2**63), "extent", id="extent outside everything"),
        pytest.param(EXTENT._replace(device_lba=2**63), "extent", id="outside every device"),
        pytest.param(replace(CELL, answer=3), "answer", id="answer"),
        pytest.param(replace(CELL, known=4), "origin", id="origin"),
        pytest.param(replace(REACH, answer=255), "answer", id="answer of reach"),
        pytest.param(replace(REACH, known=255), "origin", id="origin of reach"),
    ],
)
def test_what_cannot_be_is_malformed(value: Any, words: str) -> None:
    with pytest.raises(MalformedData, match=words):
        values_of([Descriptor(value.kind_code, value.body())])


def test_text_that_is_no_utf_8_is_malformed() -> None:
    body = VOLUME.body().replace(b"alpha", b"\xff\xff\xff\xff\xff")
    with pytest.raises(MalformedData, match="UTF-8"):
        values_of([Descriptor(VOLUME.kind_code, body)])


def test_envelope_has_a_bound_on_both_ends() -> None:
    largest = Envelope(1, 1, bytes(LONGEST_ENVELOPE))
    assert Envelope.of(largest.body()) == largest
    with pytest.raises(ValueError, match="bytes"):
        replace(largest, contents=bytes(LONGEST_ENVELOPE + 1)).body()
    body = bytearray(largest.body() + b"\0")
    body[4:8] = (LONGEST_ENVELOPE + 1).to_bytes(4, "big")
    with pytest.raises(MalformedData, match="envelope of"):
        Envelope.of(bytes(body))


def test_text_for_people_is_cut_to_what_fits() -> None:
    assert shortened("ab\ncd") == "ab cd"
    assert shortened("ä" * 200) == "ä" * 127
    with pytest.raises(ValueError, match="255"):
        replace(VOLUME, state="ä" * 200).body()
    replace(VOLUME, state=shortened("ä" * 200)).body()
