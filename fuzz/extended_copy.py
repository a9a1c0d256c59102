"""Invariant: an EXTENDED COPY list is refused with a pointer into it, or packs to its bytes."""

from __future__ import annotations

from dataclasses import replace

from daiko.scsi.copy_parameters import ExtendedCopy, parse_extended_copy
from daiko.scsi.copy_results import OperatingParameters
from daiko.scsi.cscd import AliasCscd, IdentificationCscd, Ipv4Cscd, Ipv6Cscd
from daiko.scsi.segment import BlockToBlock, VerifyCscd
from daiko.scsi.sense import CheckCondition, SenseKey
from daiko.scsi.vpd import Designator
from golden import golden

LIMITS = OperatingParameters(
    max_cscds=8,
    max_segments=16,
    max_list_bytes=1024,
    max_inline_bytes=64,
    descriptor_types=(0x02, 0x07, 0xE4, 0xE5, 0xE6, 0xEA),
)


def corpus() -> list[bytes]:
    lun = IdentificationCscd(Designator.eui_64(b"eui-64.."), block_length=4096)
    segments = (BlockToBlock(0, 1, 8, 0, 64), VerifyCscd(3, True))
    cscds = (lun, AliasCscd(1 << 48, 7), Ipv4Cscd(0, bytes(4)), Ipv6Cscd(0, bytes(16)))
    every = ExtendedCopy(9, 0, cscds, segments, inline=b"inline")
    return [*golden("extended_copy_*"), every.pack(), replace(every, list_id_usage=2).pack()]


def check(data: bytes) -> bool:
    try:
        value = parse_extended_copy(data, LIMITS)
    except CheckCondition as refusal:
        sense = refusal.sense
        assert sense.key == SenseKey.ILLEGAL_REQUEST
        assert sense.field is None or sense.field.byte < max(16, len(data))
        assert len(sense.fixed()) == 18
        return False
    packed = value.pack()
    assert packed == data[: len(packed)]
    assert len(value.cscds) <= LIMITS.max_cscds
    assert len(value.segments) <= LIMITS.max_segments
    return True
