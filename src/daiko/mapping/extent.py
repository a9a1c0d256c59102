"""The words in which mapping, decision and copies speak of places: devices, extents, pieces."""

from __future__ import annotations

from typing import NamedTuple


class DeviceId(NamedTuple):
    """A real LU: which controller owns it, and its number there. Written `sd1/0`."""

    backend: str
    """Name of the second controller (or of the INTERNAL device) as attached."""
    lun: int

    def __str__(self) -> str:
        return f"{self.backend}/{self.lun}"

    @classmethod
    def parse(cls, text: str) -> DeviceId:
        """The inverse of `str`. Raises ValueError for anything but `NAME/LUN`."""
        backend, slash, lun = text.rpartition("/")
        if not slash or not backend or not (lun.isascii() and lun.isdigit()):
            raise ValueError(f"{text!r} is not a device: write it as BACKEND/LUN, as in sd1/0")
        return cls(backend, int(lun))


class Extent(NamedTuple):
    """A run of a volume's blocks that lies in one run of a device's blocks [0060, Fig 9]."""

    lba: int
    """First block in the volume."""
    blocks: int
    device: DeviceId
    device_lba: int
    """First block in the device. The block sizes of volume and device are the same."""


class Piece(NamedTuple):
    """A run of blocks of one device: what a lookup in the mapping table answers with."""

    device: DeviceId
    lba: int
    blocks: int
