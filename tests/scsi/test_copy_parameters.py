"""EXTENDED COPY parameter lists: golden bytes, round trips, and every refusal with its pointer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.copy_parameters import ANY_LIMITS, ExtendedCopy, ListIdUsage, parse_extended_copy
from daiko.scsi.copy_results import OperatingParameters
from daiko.scsi.cscd import (
    AliasCscd,
    Cscd,
    IdentificationCscd,
    Ipv4Cscd,
    Ipv6Cscd,
)
from daiko.scsi.segment import BlockToBlock, Segment, VerifyCscd
from daiko.scsi.sense import CheckCondition, FieldPointer, SenseKey
from daiko.scsi.vpd import Association, Designator
from scsi.golden import golden

NAA_0 = Designator.naa(bytes.fromhex("6001405aabb000000000000000000000"))
NAA_1 = Designator.naa(bytes.fromhex("6001405aabb000010000000000000000"))

LIMITS = OperatingParameters(
    max_cscds=4,
    max_segments=3,
    max_list_bytes=400,
    max_inline_bytes=16,
    no_list_id=True,
    descriptor_types=(0x02, 0x07, 0xE4, 0xE5, 0xE6, 0xEA),
)

# --- strategies ----------------------------------------------------------------------------------

frames = st.fixed_dictionaries(
    {
        "device_type": st.sampled_from([0, 4, 5, 7, 14, 31]),
        "relative_port": st.integers(0, 0xFFFF),
        "block_length": st.integers(0, 0xFFFFFF),
        "pad": st.booleans(),
        "nul": st.booleans(),
    }
)
luns = st.integers(0, 2**64 - 1)
ports = st.integers(0, 0xFFFF)
designators = st.builds(
    Designator,
    st.integers(0, 15),
    st.just(Association.LOGICAL_UNIT),
    st.integers(0, 15),
    st.binary(min_size=1, max_size=20),
)


def cscd_of(kind: type[Cscd], **parts: st.SearchStrategy[object]) -> st.SearchStrategy[Cscd]:
    return st.builds(
        lambda frame, values: kind(**values, **frame), frames, st.fixed_dictionaries(parts)
    )


cscds = st.one_of(
    cscd_of(IdentificationCscd, designator=designators),
    cscd_of(AliasCscd, lun=luns, alias=luns),
    cscd_of(Ipv4Cscd, lun=luns, address=st.binary(min_size=4, max_size=4), port=ports),
    cscd_of(Ipv6Cscd, lun=luns, address=st.binary(min_size=16, max_size=16), port=ports),
)
ids = st.one_of(st.integers(0, 0x7FF), st.sampled_from([0xC000, 0xC001, 0xFFFF]))
segments: st.SearchStrategy[Segment] = st.one_of(
    st.builds(
        BlockToBlock, ids, ids, st.integers(0, 65535), luns, luns, st.booleans(), st.booleans()
    ),
    st.builds(VerifyCscd, ids, st.booleans()),
)
lists = st.builds(
    ExtendedCopy,
    st.integers(0, 255),
    st.sampled_from([ListIdUsage.HOLD, ListIdUsage.DISCARD]),
    st.lists(cscds, max_size=5).map(tuple),
    st.lists(segments, max_size=5).map(tuple),
    st.booleans(),
    st.integers(0, 7),
    st.binary(max_size=20),
)

# --- both directions -----------------------------------------------------------------------------


def test_golden_worked_list_is_read_and_written() -> None:
    data = golden("extended_copy_two_naa")
    expected = ExtendedCopy(
        0,
        ListIdUsage.DISABLE,
        (
            IdentificationCscd(NAA_0, block_length=512),
            IdentificationCscd(NAA_1, block_length=512),
        ),
        (BlockToBlock(0, 1, 2048, 0x1000, 0x2000),),
    )
    assert parse_extended_copy(data) == expected
    assert expected.pack() == data


def test_golden_list_of_sg_xcopy_is_read_and_written() -> None:
    data = golden("extended_copy_sg_xcopy")
    read = parse_extended_copy(data, LIMITS)
    assert (read.list_id, read.list_id_usage, read.priority) == (1, ListIdUsage.DISCARD, 1)
    assert read.segments == (BlockToBlock(0, 1, 100, 3, 7),)
    assert read.pack() == data
    assert replace(read, image=b"").pack() == data


@pytest.mark.parametrize("extra", [b"", b"\0", bytes(100), b"\xff" * 7])
@pytest.mark.parametrize("name", ["extended_copy_two_naa", "extended_copy_sg_xcopy"])
def test_bytes_after_the_last_part_are_ignored(name: str, extra: bytes) -> None:
    data = golden(name)
    assert parse_extended_copy(data + extra) == parse_extended_copy(data)


@pytest.mark.parametrize("name", ["extended_copy_two_naa", "extended_copy_sg_xcopy"])
def test_list_cut_at_any_byte_is_a_length_error(name: str) -> None:
    data = golden(name)
    for length in range(len(data)):
        assert refusal(data[:length])[:2] == (0x1A, 0x00)


@given(lists)
def test_parse_of_pack_returns_the_list(value: ExtendedCopy) -> None:
    assert parse_extended_copy(value.pack()) == value


@given(lists, st.data())
def test_reserved_bits_survive_an_exchange_of_identifiers(
    value: ExtendedCopy, data: st.DataObject
) -> None:
    image = bytearray(value.pack())
    reserved = [4, 5, 6, 7]
    for cscd_id, cscd in zip(value.cscd_ids, value.cscds, strict=True):
        at = value.cscd_offset(cscd_id)
        if isinstance(cscd, IdentificationCscd):
            reserved.append(at + 6)
    for index, segment in enumerate(value.segments):
        if isinstance(segment, BlockToBlock):
            reserved += [value.segment_offset(index) + 8, value.segment_offset(index) + 9]
    for at in reserved:
        image[at] = data.draw(st.integers(0, 255))
    read = parse_extended_copy(image)
    assert read.pack() == image
    other = replace(
        read,
        list_id=read.list_id ^ 0xFF,
        cscds=tuple(
            replace(cscd, designator=NAA_0) if isinstance(cscd, IdentificationCscd) else cscd
            for cscd in read.cscds
        ),
        segments=tuple(
            replace(segment, source_lba=7) if isinstance(segment, BlockToBlock) else segment
            for segment in read.segments
        ),
    ).pack()
    assert all(other[at] == image[at] for at in reserved)
    assert other[0] == image[0] ^ 0xFF


def test_bytes_behind_a_designator_stay_while_it_stays() -> None:
    image = bytearray(golden("extended_copy_sg_xcopy"))
    image[16 + 24 : 16 + 28] = b"tail"
    read = parse_extended_copy(image)
    assert read.pack() == image
    first = read.cscds[0]
    assert isinstance(first, IdentificationCscd)
    assert replace(first, designator=NAA_0).pack()[24:28] == bytes(4)


@given(lists)
def test_offsets_point_at_the_type_codes(value: ExtendedCopy) -> None:
    data = value.pack()
    for cscd_id, cscd in zip(value.cscd_ids, value.cscds, strict=True):
        assert data[value.cscd_offset(cscd_id)] == cscd.TYPE
        assert value.cscd(cscd_id) is cscd
    for index, segment in enumerate(value.segments):
        assert data[value.segment_offset(index)] == segment.TYPE
    assert value.cscd(0xFFFF) is None
    assert value.cscd(2 * len(value.cscds)) is None


def test_cscd_behind_a_long_one_has_an_id_two_higher() -> None:
    long, short = Ipv6Cscd(0, bytes(16)), AliasCscd(0, 5)
    value = ExtendedCopy(1, 0, (short, long, short), ())
    assert value.cscd_ids == (0, 1, 3)
    assert value.cscd(2) is None
    assert value.cscd(3) is short


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        value = parse_extended_copy(data, LIMITS)
    except CheckCondition as refused:
        sense = refused.sense
    else:
        assert value.pack() == data[: len(value.pack())]
        return
    assert sense.key == SenseKey.ILLEGAL_REQUEST
    assert sense.field is None or sense.field.byte < max(16, len(data))


# --- refusals ------------------------------------------------------------------------------------


def refusal(
    data: bytes, limits: OperatingParameters = ANY_LIMITS
) -> tuple[int, int, FieldPointer | None]:
    with pytest.raises(CheckCondition) as caught:
        parse_extended_copy(data, limits)
    sense = caught.value.sense
    assert sense.key == SenseKey.ILLEGAL_REQUEST
    return sense.asc, sense.ascq, sense.field


def at(byte: int, bit: int | None = None) -> FieldPointer:
    return FieldPointer(byte, bit)


CSCD = IdentificationCscd(NAA_0, block_length=512)
COPY = BlockToBlock(0, 0, 8, 0, 100)
GOOD = ExtendedCopy(1, ListIdUsage.HOLD, (CSCD, CSCD), (COPY,))
FIRST = 16
SEGMENT = 80


def patched(*changes: tuple[int, int], value: ExtendedCopy = GOOD) -> bytes:
    """A list with bytes set to other values."""
    data = bytearray(value.pack())
    for byte, new in changes:
        data[byte] = new
    return bytes(data)


EIGHT = ExtendedCopy(1, ListIdUsage.HOLD, (CSCD,) * 8, (COPY,))
TAPE = IdentificationCscd(NAA_0, device_type=1, block_length=512, fixed=True)

REFUSALS = {
    "no bytes": (b"", 0x1A, 0x00, None),
    "header cut": (GOOD.pack()[:15], 0x1A, 0x00, None),
    "cscd list not in units of 32": (patched((3, 63)), 0x1A, 0x00, None),
    "lengths beyond the end": (patched((11, 29)), 0x1A, 0x00, None),
    "inline data beyond the end": (patched((15, 1)), 0x1A, 0x00, None),
    "huge lengths": (patched((8, 0xFF), (12, 0xFF)), 0x1A, 0x00, None),
    "list longer than the limit": (
        ExtendedCopy(1, 0, (CSCD,) * 13, (COPY,)).pack(),
        0x1A,
        0x00,
        None,
    ),
    "too many cscds": (ExtendedCopy(1, 0, (CSCD,) * 5, (COPY,)).pack(), 0x26, 0x06, at(2)),
    "too many segments": (ExtendedCopy(1, 0, (CSCD,), (COPY,) * 4).pack(), 0x26, 0x08, at(8)),
    "too much inline data": (
        replace(GOOD, inline=bytes(17)).pack(),
        0x26,
        0x0B,
        at(12),
    ),
    "usage reserved": (patched((1, 0x08)), 0x26, 0x00, at(1, 4)),
    "usage 11b with an identifier": (patched((1, 0x18)), 0x26, 0x00, at(0)),
    "cscd type": (patched((FIRST + 32, 0xE0)), 0x26, 0x07, at(FIRST + 32)),
    "cscd type of a segment": (patched((FIRST, 0x02)), 0x26, 0x07, at(FIRST)),
    "lu id type": (
        patched((FIRST + 1, 0x80), value=ExtendedCopy(1, 0, (AliasCscd(0, 1), CSCD), (COPY,))),
        0x26,
        0x00,
        at(FIRST + 1, 7),
    ),
    "association of a port": (patched((FIRST + 5, 0x13)), 0x26, 0x00, at(FIRST + 5, 5)),
    "designator too long": (patched((FIRST + 7, 21)), 0x26, 0x00, at(FIRST + 7)),
    "designator empty": (patched((FIRST + 7, 0)), 0x26, 0x00, at(FIRST + 7)),
    "tape of fixed blocks without length": (
        ExtendedCopy(1, 0, (replace(TAPE, block_length=0),), ()).pack(),
        0x26,
        0x00,
        at(FIRST + 28),
    ),
    "tape of variable blocks with length": (
        ExtendedCopy(1, 0, (replace(TAPE, fixed=False),), ()).pack(),
        0x26,
        0x00,
        at(FIRST + 28),
    ),
    "ipv4 not over tcp": (
        ExtendedCopy(1, 0, (Ipv4Cscd(0, bytes(4), protocol=17),), ()).pack(),
        0x26,
        0x00,
        at(FIRST + 26),
    ),
    "ipv6 not over tcp": (
        ExtendedCopy(1, 0, (Ipv6Cscd(0, bytes(16), protocol=17),), ()).pack(),
        0x26,
        0x00,
        at(FIRST + 36),
    ),
    "ipv6 without extension": (
        patched((FIRST + 32, 0), value=ExtendedCopy(1, 0, (Ipv6Cscd(0, bytes(16)),), ())),
        0x26,
        0x00,
        at(FIRST + 32),
    ),
    "ipv6 in the last 32 bytes": (patched((FIRST + 32, 0xEA)), 0x1A, 0x00, None),
    "segment type": (patched((SEGMENT, 0x03)), 0x26, 0x09, at(SEGMENT)),
    "segment type reserved": (patched((SEGMENT, 0xBD)), 0x26, 0x09, at(SEGMENT)),
    "segment type of a cscd": (patched((SEGMENT, 0xE4)), 0x26, 0x09, at(SEGMENT)),
    "segment length short": (patched((SEGMENT + 3, 0x17)), 0x26, 0x00, at(SEGMENT + 2)),
    "segment length high byte": (patched((SEGMENT + 2, 0x01)), 0x26, 0x00, at(SEGMENT + 2)),
    "segment of a head with a wrong length": (
        patched((11, 4), (SEGMENT + 3, 0x17)),
        0x26,
        0x00,
        at(SEGMENT + 2),
    ),
    "segment of a head": (patched((11, 4)), 0x1A, 0x00, None),
    "four of the long type that we lack": (
        patched(*[(FIRST + 64 * index, 0xEB) for index in range(4)], value=EIGHT),
        0x26,
        0x07,
        at(FIRST),
    ),
    "segment length beyond the list": (patched((SEGMENT + 3, 0x19)), 0x26, 0x00, at(SEGMENT + 2)),
    "segment list cut in a descriptor": (patched((11, 27)), 0x1A, 0x00, None),
    "segment list cut in a descriptor's head": (patched((11, 3)), 0x1A, 0x00, None),
    "unknown type in a cut segment list": (
        patched((11, 3), (SEGMENT, 0x55)),
        0x26,
        0x09,
        at(SEGMENT),
    ),
    "source id reserved": (patched((SEGMENT + 4, 0x08)), 0x26, 0x00, at(SEGMENT + 4)),
    "source id of a token": (patched((SEGMENT + 4, 0xF8)), 0x26, 0x00, at(SEGMENT + 4)),
    "destination id reserved": (patched((SEGMENT + 6, 0xC0), (SEGMENT + 7, 2)), 0x26, 0, at(86)),
    "verify id reserved": (
        ExtendedCopy(1, 0, (CSCD, CSCD), (VerifyCscd(0x800),)).pack(),
        0x26,
        0x00,
        at(SEGMENT + 4),
    ),
}


@pytest.mark.parametrize(("data", "asc", "ascq", "field"), REFUSALS.values(), ids=REFUSALS)
def test_bad_list_is_refused_with_its_condition(
    data: bytes, asc: int, ascq: int, field: FieldPointer | None
) -> None:
    assert refusal(data, LIMITS) == (asc, ascq, field)


def test_list_at_all_its_limits_is_taken() -> None:
    value = ExtendedCopy(1, 0, (CSCD,) * 4, (COPY,) * 3, inline=bytes(16))
    limits = replace(LIMITS, max_list_bytes=4 * 32 + 3 * 28)
    assert parse_extended_copy(value.pack(), limits) == value
    assert refusal(value.pack(), replace(limits, max_list_bytes=211))[:2] == (0x1A, 0x00)


def test_usage_without_identifier_is_refused_where_it_is_not_supported() -> None:
    data = golden("extended_copy_two_naa")
    assert refusal(data, replace(LIMITS, no_list_id=False)) == (0x26, 0x00, at(1, 4))


@pytest.mark.parametrize("code", [0xE4, 0x02])
def test_descriptor_type_outside_the_limits_is_refused(code: int) -> None:
    types = tuple(known for known in LIMITS.descriptor_types if known != code)
    asc, ascq, field = refusal(GOOD.pack(), replace(LIMITS, descriptor_types=types))
    assert (asc, ascq) == (0x26, 0x07 if code == 0xE4 else 0x09)
    assert field == at(FIRST if code == 0xE4 else SEGMENT)


@pytest.mark.parametrize(
    ("data", "condition"),
    [
        (ExtendedCopy(1, 1, (CSCD,) * 13, (COPY,) * 9).pack(), (0x1A, 0x00)),
        (ExtendedCopy(1, 1, (CSCD,) * 5, (COPY,) * 4).pack(), (0x26, 0x06)),
        (ExtendedCopy(1, 1, (CSCD,), (COPY,) * 4, inline=bytes(17)).pack(), (0x26, 0x08)),
        (ExtendedCopy(1, 1, (CSCD,), (COPY,), inline=bytes(17)).pack(), (0x26, 0x0B)),
        (patched((1, 0x08), (FIRST, 0)), (0x26, 0x00)),
        (patched((FIRST, 0), (SEGMENT, 1)), (0x26, 0x07)),
    ],
    ids=[
        "list length before counts",
        "cscds before segments",
        "segments before inline data",
        "inline data before the identifier",
        "the identifier before cscds",
        "cscds before segment types",
    ],
)
def test_first_of_two_errors_in_the_order_of_checks_is_reported(
    data: bytes, condition: tuple[int, int]
) -> None:
    assert refusal(data, LIMITS)[:2] == condition


def test_lu_id_type_is_ignored_where_a_designator_names_the_unit() -> None:
    parsed = parse_extended_copy(patched((FIRST + 1, 0xC0)), LIMITS)
    assert parsed.cscds == GOOD.cscds


def test_ids_beyond_the_list_and_nul_devices_are_left_to_the_copy_manager() -> None:
    value = ExtendedCopy(1, 0, (replace(CSCD, nul=True),), (BlockToBlock(0x7FF, 0xFFFF, 0, 0, 0),))
    assert parse_extended_copy(value.pack(), LIMITS) == value


def test_empty_list_is_no_error() -> None:
    assert parse_extended_copy(bytes(16), LIMITS) == ExtendedCopy(0, 0, (), ())


@pytest.mark.parametrize(
    "value",
    [
        replace(GOOD, list_id=256),
        replace(GOOD, cscds=(CSCD,) * 2048),
        replace(GOOD, segments=(replace(COPY, blocks=65536),)),
        replace(GOOD, cscds=(replace(CSCD, designator=replace(NAA_0, data=bytes(21))),)),
    ],
    ids=["list id", "cscd list", "blocks", "designator"],
)
def test_value_that_does_not_fit_is_not_packed(value: ExtendedCopy) -> None:
    with pytest.raises(ValueError, match="fit"):
        value.pack()
