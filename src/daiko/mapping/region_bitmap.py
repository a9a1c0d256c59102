"""A bit for each region of a volume: what changed, what may differ, what is still to be copied.

A region is `1 << shift` blocks; the last one may be cut short by the end of the volume. Region r is
bit `r & 7` of byte `r >> 3`; the bits of the last byte that belong to no region are always clear.
How many bits are set is counted as they change, never by walking.

`mark` and `clear` of one region, which is what most requests of hosts come to, look at one byte.
Longer ranges are integer operations over the bytes that hold them. Searching goes over what is all
clear, or all set, by comparing 4 KiB at a time: a bitmap has up to thousands of millions of bits.

Ranges of regions are given as `first..last`, both in; `last == first - 1` is an empty range. One
that is none, or reaches out of the bitmap, raises ValueError in every method.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_SOME_SET: Final = re.compile(rb"[^\x00]")
_SOME_CLEAR: Final = re.compile(rb"[^\xff]")
_PIECE: Final = 4096
_ALL_CLEAR: Final = bytes(_PIECE)
_ALL_SET: Final = b"\xff" * _PIECE


class RegionBitmap:
    """One bit for each region of `1 << shift` blocks of a volume of `blocks` blocks; all clear when
    it is made. Raises ValueError where either is negative."""

    __slots__ = ("_bytes", "blocks", "regions", "set_regions", "shift")

    def __init__(self, blocks: int, shift: int) -> None:
        if blocks < 0 or shift < 0:
            raise ValueError(f"{blocks} blocks in regions of 2**{shift} make no bitmap")
        self.blocks = blocks
        """Of the volume."""
        self.shift = shift
        """A region has `1 << shift` blocks."""
        self.regions = -(-blocks >> shift)
        """How many there are."""
        self.set_regions = 0
        """How many bits are set."""
        self._bytes = bytearray((self.regions + 7) // 8)

    # --- changing bits

    def mark(self, first: int, last: int) -> bool:
        """Set the bits of regions first..last. True when any of them was clear."""
        if first == last and 0 <= first < self.regions:
            at = first >> 3
            byte = self._bytes[at]
            bit = 1 << (first & 7)
            if byte & bit:
                return False
            self._bytes[at] = byte | bit
            self.set_regions += 1
            return True
        self._check(first, last)
        start, end = first >> 3, (last >> 3) + 1
        old = int.from_bytes(self._bytes[start:end], "little")
        new = old | _mask(first, last)
        return self._replace(start, end, old, new)

    def clear(self, first: int, last: int) -> bool:
        """Clear the bits of regions first..last. True when any of them was set."""
        self._check(first, last)
        start, end = first >> 3, (last >> 3) + 1
        old = int.from_bytes(self._bytes[start:end], "little")
        new = old & ~_mask(first, last)
        return self._replace(start, end, old, new)

    def mark_all(self) -> None:
        """Set every bit."""
        self._bytes = bytearray(b"\xff") * len(self._bytes)
        self._cut()
        self.set_regions = self.regions

    def clear_all(self) -> None:
        """Clear every bit."""
        self._bytes = bytearray(len(self._bytes))
        self.set_regions = 0

    def update(self, other: RegionBitmap) -> None:
        """Set what is set in `other`. Raises ValueError where that is of another volume's size or
        other regions; so does `remove`."""
        for start, end, mine, theirs in self._pieces(other):
            self._replace(start, end, mine, mine | theirs)

    def remove(self, other: RegionBitmap) -> None:
        """Clear what is set in `other`."""
        for start, end, mine, theirs in self._pieces(other):
            self._replace(start, end, mine, mine & ~theirs)

    def grow(self, blocks: int) -> None:
        """The volume has `blocks` blocks now; new regions are clear, and a region that was cut
        short keeps its bit. Raises ValueError where that is less than before."""
        if blocks < self.blocks:
            raise ValueError(f"a bitmap of {self.blocks} blocks does not shrink to {blocks}")
        self.blocks = blocks
        self.regions = -(-blocks >> self.shift)
        self._bytes.extend(bytes((self.regions + 7) // 8 - len(self._bytes)))

    # --- asking

    def any_in(self, first: int, last: int) -> bool:
        """Is the bit of any region of the range set? Of an empty range: no."""
        if first == last and 0 <= first < self.regions:
            return bool(self._bytes[first >> 3] >> (first & 7) & 1)
        self._check(first, last)
        return first <= last and self._among(first, last) != 0

    def all_in(self, first: int, last: int) -> bool:
        """Are the bits of all regions of the range set? Of an empty range: yes."""
        if first == last and 0 <= first < self.regions:
            return bool(self._bytes[first >> 3] >> (first & 7) & 1)
        self._check(first, last)
        return first > last or self._among(first, last) == _mask(first, last)

    @property
    def changed_blocks(self) -> int:
        """Blocks in the regions whose bits are set; the last region has only those that there
        are."""
        blocks = self.set_regions << self.shift
        if blocks and self.any_in(self.regions - 1, self.regions - 1):
            blocks -= (self.regions << self.shift) - self.blocks
        return blocks

    def blocks_in(self, lba: int, blocks: int) -> int:
        """How many of `blocks` blocks from `lba` on lie in regions whose bits are set. By counting
        bits: as quick for a volume that is marked all over as for one that is not. Raises
        ValueError where the range is not part of the volume."""
        if lba < 0 or blocks < 0 or lba + blocks > self.blocks:
            raise ValueError(f"{blocks} blocks from block {lba} are not part of {self.blocks}")
        if not blocks or not self.set_regions:
            return 0
        shift, last_block = self.shift, lba + blocks - 1
        first, last = lba >> shift, last_block >> shift
        field = int.from_bytes(self._bytes[first >> 3 : (last >> 3) + 1], "little")
        field = field >> (first & 7) & (1 << last - first + 1) - 1
        found = field.bit_count() << shift
        # The regions at both ends may reach out of the range.
        if field & 1:
            found -= lba - (first << shift)
        if field >> last - first & 1:
            found -= (last + 1 << shift) - 1 - last_block
        return found

    def runs(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """(first region, regions) of each run of set bits from region `start` on, ascending. Bits
        may change between two of them: each is told as it is when the walk comes to it."""
        self._check(start, self.regions - 1)
        region = start
        while region < self.regions:
            first = _next_set(self._bytes, region, self.regions)
            if first >= self.regions:
                break
            region = _next_clear(self._bytes, first, self.regions)
            yield first, region - first

    def ranges(self) -> Iterator[tuple[int, int]]:
        """(first block, blocks) of each run of set bits, ascending."""
        for first, regions in self.runs():
            lba = first << self.shift
            yield lba, min(first + regions << self.shift, self.blocks) - lba

    def copy(self) -> RegionBitmap:
        """A bitmap of its own with the same bits."""
        twin = RegionBitmap(self.blocks, self.shift)
        twin._bytes[:] = self._bytes
        twin.set_regions = self.set_regions
        return twin

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RegionBitmap)
            and (self.blocks, self.shift) == (other.blocks, other.shift)
            and self._bytes == other._bytes
        )

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"RegionBitmap({self.blocks}, {self.shift}, {self.set_regions} set)"

    # --- the bits as bytes, for a file

    @property
    def size(self) -> int:
        """Bytes of the bitmap."""
        return len(self._bytes)

    def bytes_at(self, offset: int, length: int) -> bytes:
        """`length` bytes from byte `offset` on, or as many as there are."""
        return bytes(self._bytes[offset : offset + length])

    def load(self, offset: int, data: bytes) -> None:
        """Put bytes that `bytes_at` gave in the place of those from byte `offset` on; bits that
        belong to no region are left out. Raises ValueError where they reach out of the bitmap."""
        end = offset + len(data)
        if offset < 0 or end > len(self._bytes):
            raise ValueError(f"bytes {offset}..{end - 1} of a bitmap of {len(self._bytes)}")
        self.set_regions -= int.from_bytes(self._bytes[offset:end], "little").bit_count()
        self._bytes[offset:end] = data
        self._cut()
        self.set_regions += int.from_bytes(self._bytes[offset:end], "little").bit_count()

    # --- within

    def _check(self, first: int, last: int) -> None:
        if not 0 <= first <= last + 1 <= self.regions:
            raise ValueError(f"regions {first}..{last} are not a range of {self.regions}")

    def _among(self, first: int, last: int) -> int:
        """The bits first..last, which are not none, and no others, as they lie in their bytes. What
        lies behind them is not looked at: a write of hosts that touches two regions asks this."""
        bits = int.from_bytes(self._bytes[first >> 3 : (last >> 3) + 1], "little")
        return bits & _mask(first, last)

    def _replace(self, start: int, end: int, old: int, new: int) -> bool:
        """Put `new` in the place of the bytes start..end-1, which held `old`."""
        if new == old:
            return False
        self.set_regions += new.bit_count() - old.bit_count()
        self._bytes[start:end] = new.to_bytes(end - start, "little")
        return True

    def _cut(self) -> None:
        """Clear the bits of the last byte that belong to no region."""
        if self.regions & 7:
            self._bytes[-1] &= (1 << (self.regions & 7)) - 1

    def _pieces(self, other: RegionBitmap) -> Iterator[tuple[int, int, int, int]]:
        """(start, end, the bits here, the bits there) of the bytes where `other` has any."""
        if (self.blocks, self.shift) != (other.blocks, other.shift):
            raise ValueError(f"{self} and {other} do not speak of the same regions")
        for start in range(0, len(self._bytes), _PIECE):
            end = min(start + _PIECE, len(self._bytes))
            theirs = int.from_bytes(other._bytes[start:end], "little")
            if theirs:
                yield start, end, int.from_bytes(self._bytes[start:end], "little"), theirs


def _next_set(bits: bytearray, region: int, end: int) -> int:
    """The first region from this one on whose bit is set; `end` where there is none."""
    at = region >> 3
    rest = bits[at] >> (region & 7)
    if rest:
        return region + _lowest(rest)
    at = _find(bits, at + 1, _SOME_SET, _ALL_CLEAR)
    return end if at < 0 else (at << 3) + _lowest(bits[at])


def _next_clear(bits: bytearray, region: int, end: int) -> int:
    """The first region from this one on whose bit is clear; `end` where there is none."""
    at = region >> 3
    rest = (bits[at] ^ 0xFF) >> (region & 7)
    if not rest:
        at = _find(bits, at + 1, _SOME_CLEAR, _ALL_SET)
        if at < 0:
            return end
        region, rest = at << 3, bits[at] ^ 0xFF
    return min(region + _lowest(rest), end)


def _find(bits: bytearray, at: int, wanted: re.Pattern[bytes], dull: bytes) -> int:
    """The first byte from `at` on that is wanted, or -1; pieces that are `dull` are passed."""
    while True:
        found = wanted.search(bits, at, at + _PIECE)
        if found is not None:
            return found.start()
        at += _PIECE
        if at >= len(bits):
            return -1
        while bits[at : at + _PIECE] == dull:
            at += _PIECE


def _mask(first: int, last: int) -> int:
    """The bits first..last as they lie in the bytes that hold them."""
    return (1 << last - first + 1) - 1 << (first & 7)


def _lowest(bits: int) -> int:
    """The number of the lowest bit set."""
    return (bits & -bits).bit_length() - 1
