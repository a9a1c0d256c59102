"""Invariant: a page of SITE IN is malformed, or packs to what reads the same; so do its values."""

from __future__ import annotations

from daiko.scsi.layout import MalformedData
from daiko.scsi.site_parameters import LONGEST_PAGE, Descriptor, Page
from daiko.scsi.site_values import LARGEST_ADDRESS, Envelope, MappedExtent, OfferedVolume, values_of
from golden import golden

NAA = bytes.fromhex("602da100000000000000000000000001")


def corpus() -> list[bytes]:
    volumes = [OfferedVolume(lun, f"v{lun}", 512, 4096, NAA, "") for lun in (1, 2)]
    extents = [MappedExtent(0, n, 1, 2 * n) for n in range(8)]
    return [
        *golden("site_*"),
        Page.of(1, volumes).pack(),
        Page.of(2, extents).pack(),
        Page.of(16, [Envelope(1, 1, b"contents")]).pack(),
    ]


def check(data: bytes) -> bool:
    try:
        page = Page.parse(data)
    except MalformedData:
        return False
    assert page.first + len(page.descriptors) <= page.total
    assert Page.parse(page.pack()) == page
    assert len(data) <= LONGEST_PAGE
    try:
        values = values_of(page.descriptors)
    except MalformedData:
        return False
    for value in values:
        assert values_of([Descriptor(value.kind_code, value.body())]) == [value]
        if isinstance(value, MappedExtent):
            assert 0 < value.blocks <= LARGEST_ADDRESS
    return True
