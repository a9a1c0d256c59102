"""Layouts: both directions from one table, against a naive bit-by-bit model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.layout import (
    Field,
    Layout,
    MalformedData,
    bit,
    bits,
    constant,
    number,
    octets,
    span,
)

SAMPLE = Layout(
    "Sample",
    24,
    constant("opcode", 0, 0x8A),
    bits("protect", 1, 7, 5, legal=False),
    bit("fua", 1, 3),
    number("lba", 2, 8),
    number("length", 10, 3),
    span("wide", 13, 4, 21),
    bit("valid", 16, 7),
    span("alignment", 16, 6, 31),
    octets("name", 20, 3),
)


def naive(fields: tuple[Field, ...], image: bytes) -> dict[str, int | bytes]:
    """Each field taken out of the whole image as a string of bits."""
    text = "".join(f"{byte:08b}" for byte in image)
    found: dict[str, int | bytes] = {}
    for field in fields:
        start = 8 * field.byte + 7 - field.high
        value = int(text[start : start + field.width], 2)
        found[field.name] = value.to_bytes(field.width // 8, "big") if field.is_octets else value
    return found


@given(st.binary(min_size=24, max_size=40), st.integers(0, 16))
def test_unpack_any_bytes_equals_the_naive_model(data: bytes, offset: int) -> None:
    buffer = bytes(offset) + data
    assert SAMPLE.unpack(buffer, offset)._asdict() == naive(SAMPLE.fields, data)


@given(st.data())
def test_unpack_of_pack_returns_the_values(data: st.DataObject) -> None:
    values: dict[str, Any] = {
        field.name: data.draw(
            st.binary(min_size=field.width // 8, max_size=field.width // 8)
            if field.is_octets
            else st.integers(0, (1 << field.width) - 1)
        )
        for field in SAMPLE.fields
    }
    assert SAMPLE.unpack(SAMPLE.pack(**values))._asdict() == values


@given(st.binary(min_size=24, max_size=24), st.integers(0, 2**64 - 1), st.integers(0, 1))
def test_repack_changes_only_the_named_fields(image: bytes, lba: int, fua: int) -> None:
    new = SAMPLE.repack(image, lba=lba, fua=fua)
    changed = SAMPLE.legal_bits(refused=("protect",))
    only = Layout("Only", 24, bit("fua", 1, 3), number("lba", 2, 8)).mask
    assert all((old ^ now) & ~mask == 0 for old, now, mask in zip(image, new, only, strict=True))
    assert len(changed) == 24
    assert SAMPLE.unpack(new) == SAMPLE.unpack(image)._replace(lba=lba, fua=fua)


def test_pack_without_values_writes_the_defaults() -> None:
    assert SAMPLE.pack() == b"\x8a" + bytes(23)


@pytest.mark.parametrize(
    "values",
    [
        {"lba": 1 << 64},
        {"fua": 2},
        {"fua": -1},
        {"wide": 1 << 21},
        {"name": b"four"},
        {"name": b""},
    ],
    ids=["number", "bit", "negative", "span", "octets long", "octets short"],
)
def test_value_that_does_not_fit_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        SAMPLE.pack(**values)
    with pytest.raises(ValueError, match="does not fit"):
        SAMPLE.repack(bytes(24), **values)


def test_pack_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(TypeError):
        SAMPLE.pack(nonsense=1)


@pytest.mark.parametrize("length", [0, 1, 23])
def test_unpack_of_a_short_buffer_says_so(length: int) -> None:
    with pytest.raises(MalformedData, match=f"Sample: 24 bytes needed, {length} present"):
        SAMPLE.unpack(bytes(length))


def test_mask_shows_fixed_values_and_legal_fields() -> None:
    assert SAMPLE.mask == bytes.fromhex("8a08ffffffffffffffffffffff1fffffffffffff ffffff00")


@pytest.mark.parametrize(
    ("byte", "value", "expected"),
    [
        (0, 0x8A, None),
        (1, 0x08, None),
        (1, 0x20, (1, 5)),
        (1, 0xE0, (1, 7)),
        (13, 0xE0, (13, 7)),
        (23, 0x01, (23, 0)),
    ],
)
def test_stray_bit_is_the_first_illegal_one(
    byte: int, value: int, expected: tuple[int, int] | None
) -> None:
    image = bytearray(24)
    image[byte] = value
    assert SAMPLE.stray_bit(image) == expected


def test_stray_bit_with_a_mask_of_the_caller_uses_that() -> None:
    image = SAMPLE.pack(fua=1)
    assert SAMPLE.stray_bit(image, SAMPLE.legal_bits(refused=("fua",))) == (1, 3)


@pytest.mark.parametrize(
    "fields",
    [
        (number("a", 0, 2), number("b", 1, 1)),
        (bits("a", 0, 4, 2), bit("b", 0, 3)),
        (number("a", 3, 2),),
    ],
    ids=["bytes overlap", "bits overlap", "outside"],
)
def test_impossible_table_is_refused_at_import(fields: tuple[Field, ...]) -> None:
    with pytest.raises(ValueError, match=r"overlaps|outside"):
        Layout("Wrong", 4, *fields)
