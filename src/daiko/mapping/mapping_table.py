"""The mapping table TM: where the blocks of a virtual LU lie [0060, Fig 9].

Theory of operation. A volume is a run of extents, one after another from block 0 without gaps.
The table keeps no row per block: a lookup finds the extent and then calculates,
`device_lba + (lba - first)`, as [0060] wants it so that the table stays small.

The columns lie in arrays, not in objects: 8 bytes for an extent's first block in the volume, 8 for
its first block in the device, 4 for the number of the device in `devices`. A million extents are
read and searched without a million objects. The column of first blocks has one entry more than
there are extents, the end of the volume, so that the length of the last extent is calculated like
every other.

To find an extent is a calculation first, too: the volume is ruled into equal zones of 2**shift
blocks, about one for four extents, and a zone's number says between which two extents to search.
Where extents are of like size that leaves a few to look at; where they are not, the binary search
takes more steps, at worst as many as without zones. Zones cost a byte or two an extent; 22 in all.

A table is a value: it never changes. A volume that grows or moves gets a new table.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, compress
from operator import add, sub

from daiko.mapping.extent import DeviceId, Extent, Piece


class OutsideTable(ValueError):
    """The range asked for does not lie inside the volume."""


class MappingTable:
    """Where each block of one volume lies. All addresses and lengths are in blocks.

    Raises ValueError, in a sentence for the administrator, where the extents do not follow one
    another from block 0 without gap or overlap, or an extent is empty or has a negative address.
    That no two extents lie on the same blocks of a device is for the allocator to see to: only it
    knows the other volumes too.
    """

    __slots__ = (
        "_device_lbas",
        "_devices",
        "_ends",
        "_firsts",
        "_index",
        "_shift",
        "_zones",
        "blocks",
    )

    def __init__(self, extents: Iterable[Extent]) -> None:
        firsts = array("Q")
        device_lbas = array("Q")
        index = array("I")
        numbers: dict[DeviceId, int] = {}
        end = 0
        for lba, blocks, device, device_lba in extents:
            if lba != end or blocks < 1 or device_lba < 0:
                raise ValueError(_complaint(Extent(lba, blocks, device, device_lba), end))
            number = numbers.get(device)
            if number is None:
                number = numbers[device] = len(numbers)
            firsts.append(lba)
            device_lbas.append(device_lba)
            index.append(number)
            end += blocks
        firsts.append(end)
        self._take(tuple(numbers), firsts, device_lbas, index)

    def _take(
        self,
        devices: tuple[DeviceId, ...],
        firsts: array[int],
        device_lbas: array[int],
        index: array[int],
    ) -> None:
        self._firsts = firsts
        self._device_lbas = device_lbas
        self._index = index
        self._devices = devices
        self._ends: tuple[int, ...] | None = None
        self.blocks = firsts[-1]
        """Length of the volume."""
        self._shift = max(0, (4 * self.blocks // max(1, len(index))).bit_length() - 1)
        self._zones = _zones(firsts, self._shift)

    @classmethod
    def of_columns(
        cls,
        devices: Sequence[DeviceId],
        blocks: array[int],
        device_lbas: array[int],
        index: array[int],
    ) -> MappingTable:
        """The table whose extents stand in columns: for each extent its blocks ("Q"), its first
        block in the device ("Q") and its device as a position in `devices` ("I"), which are in the
        order of their first extents. The arrays become the table's own. `columns` is the inverse.

        Raises ValueError where the columns are no table. No loop here runs in Python, except one
        step for each zone."""
        is_whole = len(blocks) == len(device_lbas) == len(index)
        if not is_whole or (len(blocks) and min(blocks) < 1):
            raise ValueError("the columns of a mapping table do not fit one another")
        if list(dict.fromkeys(index)) != list(range(len(devices))):
            raise ValueError("the devices of a mapping table are not those of its extents")
        table = cls(())
        firsts = array("Q", accumulate(blocks, initial=0))
        table._take(tuple(devices), firsts, device_lbas, index)
        return table

    def columns(self) -> tuple[tuple[DeviceId, ...], array[int], array[int], array[int]]:
        """Devices, blocks, first blocks in the devices, and devices by position: `of_columns` is
        the inverse."""
        firsts = self._firsts
        blocks = array("Q", map(sub, firsts[1:], firsts))
        return self._devices, blocks, self._device_lbas, self._index

    @classmethod
    def identity(cls, device: DeviceId, blocks: int) -> MappingTable:
        """The table of a volume that is one whole device, block for block (image mode)."""
        return cls([Extent(0, blocks, device, 0)] if blocks else [])

    @property
    def devices(self) -> tuple[DeviceId, ...]:
        """Every device that holds blocks of the volume, in the order of its first extent."""
        return self._devices

    def __len__(self) -> int:
        """The number of extents."""
        return len(self._index)

    def __iter__(self) -> Iterator[Extent]:
        """The extents as they were given, in order."""
        firsts = self._firsts
        for position, device_lba in enumerate(self._device_lbas):
            first = firsts[position]
            device = self._devices[self._index[position]]
            yield Extent(first, firsts[position + 1] - first, device, device_lba)

    def __getitem__(self, position: int) -> Extent:
        """One extent by its position. Raises IndexError."""
        number = self._index[position]
        if position < 0:
            position += len(self)
        first = self._firsts[position]
        blocks = self._firsts[position + 1] - first
        return Extent(first, blocks, self._devices[number], self._device_lbas[position])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MappingTable) and (
            self is other
            or (
                self._devices == other._devices
                and self._firsts == other._firsts
                and self._device_lbas == other._device_lbas
                and self._index == other._index
            )
        )

    __hash__ = None  # type: ignore[assignment]  # large: to be found by its volume's name

    def __deepcopy__(self, memo: dict[int, object]) -> MappingTable:
        """A value is its own copy."""
        return self

    def __repr__(self) -> str:
        return f"<MappingTable of {len(self)} extents, {self.blocks} blocks>"

    def find(self, lba: int) -> tuple[int, int, int]:
        """Where block `lba` lies: (position of its device in `devices`, block in the device,
        blocks from there to the end of the extent).

        For the data path: nothing is checked. 0 <= `lba` <= `blocks`, and at the end of the
        volume the third is 0.
        """
        firsts = self._firsts
        zone = lba >> self._shift
        # Not later than the last extent that begins in the zone, not before the one that is
        # under way where the zone begins.
        zones = self._zones
        position = bisect_right(firsts, lba, zones[zone] + 1, zones[zone + 1] + 1) - 1
        return (
            self._index[position],
            self._device_lbas[position] + lba - firsts[position],
            firsts[position + 1] - lba,
        )

    def locate(self, lba: int) -> tuple[DeviceId, int, int]:
        """Where block `lba` lies: (device, block in it, blocks from there to the end of the
        extent). Raises OutsideTable."""
        if not 0 <= lba < self.blocks:
            raise OutsideTable(f"block {lba} is outside a volume of {self.blocks} blocks")
        number, device_lba, left = self.find(lba)
        return self._devices[number], device_lba, left

    def lookup(self, lba: int, blocks: int) -> Sequence[Piece]:
        """The pieces of devices that hold the range, in the order of the volume; none where
        `blocks` is 0. Raises OutsideTable."""
        if lba < 0 or not 0 <= blocks <= self.blocks - lba:
            raise OutsideTable(
                f"{blocks} blocks from block {lba} reach outside a volume of {self.blocks} blocks"
            )
        if blocks == 0:
            return ()
        number, device_lba, left = self.find(lba)
        if blocks <= left:
            return (Piece(self._devices[number], device_lba, blocks),)
        return self._crossing(lba, blocks)

    def _crossing(self, lba: int, blocks: int) -> list[Piece]:
        firsts = self._firsts
        end = lba + blocks
        position = bisect_right(firsts, lba) - 1
        pieces: list[Piece] = []
        while lba < end:
            upto = min(end, firsts[position + 1])
            pieces.append(
                Piece(
                    self._devices[self._index[position]],
                    self._device_lbas[position] + lba - firsts[position],
                    upto - lba,
                )
            )
            lba = upto
            position += 1
        return pieces

    def ranges_on(self, device: DeviceId) -> list[tuple[int, int]]:
        """The parts of the volume that lie on a device: (first block in the volume, blocks)."""
        if device not in self._devices:
            return []
        wanted = self._devices.index(device)
        firsts = self._firsts
        return [
            (firsts[position], firsts[position + 1] - firsts[position])
            for position, number in enumerate(self._index)
            if number == wanted
        ]

    @property
    def ends(self) -> tuple[int, ...]:
        """How far the volume reaches on each of `devices`: one past its last block there.
        Calculated when it is first asked for."""
        if self._ends is None:
            self._ends = self._furthest()
        return self._ends

    def _furthest(self) -> tuple[int, ...]:
        _, blocks, lbas, index = self.columns()
        upto = list(map(add, lbas, blocks))
        if len(self._devices) == 1:
            return (max(upto),)
        return tuple(
            max(compress(upto, map(number.__eq__, index))) for number in range(len(self._devices))
        )

    def keeps_alignment(self, unit: int) -> bool:
        """Do addresses in the volume and in its devices differ by multiples of `unit` (a power of
        two) everywhere, so that what is aligned in the one is aligned in the other?"""
        # (one first block more than extents: the end of the volume)
        distances = map(sub, self._device_lbas, self._firsts)
        return unit == 1 or not any(map((unit - 1).__and__, distances))

    def taken_on(self, device: DeviceId) -> list[tuple[int, int]]:
        """The ranges of a device that the volume lies on, by where they begin there: (first block
        in the device, one past the last)."""
        if device not in self._devices:
            return []
        wanted = self._devices.index(device)
        firsts, device_lbas = self._firsts, self._device_lbas
        return sorted(
            (device_lbas[at], device_lbas[at] + firsts[at + 1] - firsts[at])
            for at, number in enumerate(self._index)
            if number == wanted
        )


def _zones(firsts: array[int], shift: int) -> array[int]:
    """For the first block of each zone, the position of the extent that holds it; and, for the
    end of the last, the position of the last extent."""
    last = len(firsts) - 2
    zones = array("I")
    position = 0
    for edge in range(0, firsts[-1] + 1, 1 << shift):
        while position < last and firsts[position + 1] <= edge:
            position += 1
        zones.append(position)
    zones.append(max(0, last))
    return zones


def joined(extents: Iterable[Extent]) -> Iterator[Extent]:
    """The same mapping in as few extents as it can be written: neighbours that lie one after
    the other on one device become one extent."""
    held: Extent | None = None
    for extent in extents:
        if (
            held is not None
            and held.device == extent.device
            and held.lba + held.blocks == extent.lba
            and held.device_lba + held.blocks == extent.device_lba
        ):
            held = held._replace(blocks=held.blocks + extent.blocks)
            continue
        if held is not None:
            yield held
        held = extent
    if held is not None:
        yield held


def _complaint(extent: Extent, end: int) -> str:
    lba, blocks, device, device_lba = extent
    if blocks < 1:
        return f"the extent at block {lba} on {device} has {blocks} blocks: give at least 1"
    if device_lba < 0:
        return f"the extent at block {lba} begins before the start of {device}"
    if lba > end:
        return (
            f"blocks {end} to {lba - 1} of the volume lie nowhere: the next extent begins at {lba}"
        )
    return f"the extent at block {lba} on {device} overlaps the one before, which ends at {end}"


def begins_with(longer: MappingTable, shorter: MappingTable) -> bool:
    """Whether all blocks of the one volume lie, in this order, where the first blocks of the other
    do. (An extent that was made longer in its place is one extent in both.)"""
    last = len(shorter) - 1
    if len(longer) <= last or longer.blocks < shorter.blocks:
        return False
    for position in range(last + 1):
        here, there = shorter[position], longer[position]
        if (here.device, here.device_lba) != (there.device, there.device_lba):
            return False
        if here.blocks != there.blocks and (position < last or here.blocks > there.blocks):
            return False
    return True
