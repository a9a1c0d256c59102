"""Invariant: what a peer sends as the mapping of a volume covers it exactly, or is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from daiko.backend.site_reading import MappingPages, OwnDevice, PeerRefused
from daiko.scsi.layout import MalformedData
from daiko.scsi.site_parameters import Page
from daiko.scsi.site_values import MappedDevice, MappedExtent, OfferedVolume, values_of
from golden import golden

NAA = bytes.fromhex("602da100000000000000000000000001")
VOLUME = OfferedVolume(1, "alpha", 512, 4096, NAA)
OWN = MappedDevice(1, "disk/0", "", 0, 0, 512)


class Nothing:
    def at(self, iqn: str, lun: int) -> OwnDevice | None:
        return None

    def with_naa(self, designator: bytes) -> OwnDevice | None:
        return None


def corpus() -> list[bytes]:
    first = replace(OWN, number=0, name="other/0")
    halves = [first, OWN, MappedExtent(0, 0, 2048, 7), MappedExtent(1, 2048, 2048, 7)]
    return [*golden("site_volume_mapping"), Page.of(2, halves).pack()]


def check(data: bytes) -> bool:
    try:
        pages = MappingPages("osaka")
        pages.take(values_of(Page.parse(data).descriptors))
        found = pages.mapping(VOLUME, Nothing(), 0)
    except (MalformedData, PeerRefused):
        return False
    assert found.table.blocks == VOLUME.blocks
    assert set(found.table.devices) == set(found.directory)
    assert all(device.backend.startswith("osaka:") for device in found.directory)
    for device in found.table.devices:
        taken = found.table.taken_on(device)
        assert all(end <= first for (_, end), (first, _) in pairwise(taken))
    return True
