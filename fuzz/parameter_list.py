"""Invariant: a MODE SELECT or UNMAP list is refused with a pointer inside it, or taken as it is."""

from __future__ import annotations

from daiko.scsi.block_data import LbaRange, pack_unmap, parse_unmap
from daiko.scsi.mode_page import (
    CachingPage,
    ControlPage,
    pack_block_descriptor,
    pack_mode_parameters,
    parse_mode_select,
)
from daiko.scsi.sense import CheckCondition, SenseKey

MAX_RANGES = 64


def corpus() -> list[bytes]:
    """The first byte chooses: 0 UNMAP, 1 MODE SELECT(6), 2 MODE SELECT(10)."""
    pages = [CachingPage.pack(wce=1), ControlPage.pack()]
    short = pack_block_descriptor(100, 512)
    long = pack_block_descriptor(100, 512, long_lba=True)
    return [
        b"\0" + pack_unmap([LbaRange(0, 8), LbaRange(64, 8)]),
        b"\1" + pack_mode_parameters(pages, ten=False, block_descriptor=short),
        b"\2" + pack_mode_parameters(pages, ten=True, block_descriptor=long),
    ]


def check(data: bytes) -> bool:
    if not data:
        return False
    kind, data = data[0] % 3, data[1:]
    try:
        if kind == 0:
            assert len(parse_unmap(data, MAX_RANGES)) <= MAX_RANGES
            return True
        value = parse_mode_select(data, ten=kind == 2)
    except CheckCondition as refusal:
        sense = refusal.sense
        assert sense.key == SenseKey.ILLEGAL_REQUEST
        assert sense.field is None or sense.field.byte < len(data)
        return False
    start = value.descriptor_offset + len(value.block_descriptor)
    assert b"".join([page.data for page in value.pages]) == data[start:]
    return True
