"""Where a new volume's extents lie: automatically, by hand, or as an existing LU is [0060, 0067].

The allocator sees sizes and ranges only. What is in use on each device is a `RangeSet` that the
caller builds from all volumes with `used_by`; giving a volume back means leaving it out there.
All addresses and lengths are in blocks; devices that share a volume have blocks of one size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.range_set import RangeSet

_NOTHING = RangeSet()


class NoRoom(ValueError):
    """The candidate devices have fewer free blocks than asked for."""

    def __init__(self, message: str, *, wanted: int, free: int) -> None:
        super().__init__(message)
        self.wanted = wanted
        self.free = free


class Unfit(ValueError):
    """An extent given by hand reaches beyond its device or lies on blocks that are in use."""


def used_by(extents: Iterable[Extent]) -> dict[DeviceId, RangeSet]:
    """The ranges of each device that extents lie on. Raises Unfit where two share a block."""
    spans: dict[DeviceId, list[tuple[int, int]]] = {}
    for extent in extents:
        first = extent.device_lba
        spans.setdefault(extent.device, []).append((first, first + extent.blocks))
    for device, taken in spans.items():
        refuse_shared(device, taken)
    return {device: _set_of(taken) for device, taken in spans.items()}


def refuse_shared(device: DeviceId, spans: list[tuple[int, int]]) -> None:
    """Raises Unfit where two of these (first block, one past the last) share a block. Sorts
    them."""
    spans.sort()
    for (_, end), (first, upto) in pairwise(spans):
        if first < end:
            raise Unfit(f"{_said(Extent(0, upto - first, device, first))} are used twice")


def _set_of(spans: list[tuple[int, int]]) -> RangeSet:
    found = RangeSet()
    found.merge(spans)
    return found


def allocate(
    blocks: int,
    candidates: Sequence[tuple[DeviceId, int]],
    used: Mapping[DeviceId, RangeSet],
    alignment: int = 1,
) -> list[Extent]:
    """Find room for a volume of `blocks` blocks on devices given as (device, its blocks).

    A free run that holds the whole volume is taken before the volume is divided: the smallest
    that does, so that large ones stay whole; among equals the first candidate's. Else the
    candidates are filled in the order given, each from its start. Extents begin at multiples of
    `alignment` on their device, and all but the last are as long as a multiple of it. Raises
    NoRoom, and ValueError where `blocks` or `alignment` is less than 1.
    """
    if blocks < 1 or alignment < 1:
        raise ValueError(f"a volume of {blocks} blocks, aligned at {alignment}: give at least 1")
    free = [
        (device, first, length)
        for device, size in dict(candidates).items()
        for first, length in _aligned(used.get(device, _NOTHING).gaps(0, size), alignment)
    ]
    whole = min((run for run in free if run[2] >= blocks), key=lambda run: run[2], default=None)
    if whole is not None:
        return [Extent(0, blocks, whole[0], whole[1])]
    extents: list[Extent] = []
    at = 0
    for device, first, length in free:
        take = min(length // alignment * alignment, blocks - at)
        if take:
            extents.append(Extent(at, take, device, first))
            at += take
        if at == blocks:
            return extents
    raise NoRoom(f"no room for {blocks} blocks: the devices have {at} free", wanted=blocks, free=at)


def by_hand(
    parts: Iterable[tuple[DeviceId, int, int]],
    sizes: Mapping[DeviceId, int],
    used: Mapping[DeviceId, RangeSet],
) -> list[Extent]:
    """The extents of a volume made of (device, first block, blocks) end to end. Raises Unfit
    where a part is no part of its device, is in use, or shares blocks with another."""
    extents: list[Extent] = []
    taken: dict[DeviceId, list[tuple[int, int]]] = {}
    at = 0
    for device, first, blocks in parts:
        extent = Extent(at, blocks, device, first)
        if device not in sizes:
            raise Unfit(f"there is no device {device}")
        if first < 0 or blocks < 1 or first + blocks > sizes[device]:
            raise Unfit(f"{_said(extent)} are not part of it: it has {sizes[device]}")
        if used.get(device, _NOTHING).overlaps(first, blocks):
            raise Unfit(f"{_said(extent)} are in use by another volume")
        extents.append(extent)
        taken.setdefault(device, []).append((first, first + blocks))
        at += blocks
    if not extents:
        raise Unfit("a volume has at least one extent")
    for device, spans in taken.items():
        refuse_shared(device, spans)
    return extents


def image(device: DeviceId, blocks: int, used: Mapping[DeviceId, RangeSet]) -> list[Extent]:
    """The one extent of a volume that is an existing LU as it is, not a byte copied. Raises Unfit
    where any of the LU's blocks is in use."""
    return by_hand([(device, 0, blocks)], {device: blocks}, used)


def _aligned(runs: Iterable[tuple[int, int]], alignment: int) -> Iterable[tuple[int, int]]:
    for first, length in runs:
        start = -(-first // alignment) * alignment
        if start < first + length:
            yield start, first + length - start


def _said(extent: Extent) -> str:
    end = extent.device_lba + extent.blocks - 1
    return f"blocks {extent.device_lba} to {end} of {extent.device}"
