"""What must be in the blocks that one writer owns, and what may be, where that is in doubt.

A *cell* is 4 KiB. What is written to it says whose it is: the address, the writer, a sequence
number, over and over, so that a block which is anywhere but in its place, torn or old is seen at
once. A write that ended with an error may have been done or not: then both what was there and what
was written are candidates, until a later write to the cell has ended well. Zero blocks (WRITE SAME,
and a fresh volume) are sequence number 0.
"""

from __future__ import annotations

import random
import struct

CELL = 4096
_RECORD = struct.Struct(">QIIQII")
_MAGIC = 0x6461696B


def pattern(lba: int, writer: int, sequence: int) -> bytes:
    """The content of the cell at `lba` (in cells); zeros for sequence number 0."""
    if not sequence:
        return bytes(CELL)
    check = (lba * 0x9E3779B1 ^ writer * 0x85EBCA6B ^ sequence * 0xC2B2AE35) & 0xFFFFFFFF
    return _RECORD.pack(lba, writer, _MAGIC, sequence, check, ~check & 0xFFFFFFFF) * (CELL // 32)


class Mismatch(Exception):
    """A cell holds what it cannot hold."""


class Model:
    """The cells first .. first + count of one writer."""

    def __init__(self, writer: int, first: int, count: int) -> None:
        self.writer = writer
        self.first = first
        self.count = count
        self._candidates: dict[int, set[int]] = {}
        """Only of cells that were written, or are in doubt."""
        self._busy: set[int] = set()
        self._sequence = 0

    def take(self, chance: random.Random, longest: int) -> tuple[int, int] | None:
        """A run of cells (first, how many) that nothing is at; None where that is not found at
        once. `give` frees it."""
        count = min(longest, max(1, int(chance.paretovariate(1.0))))
        at = self.first + chance.randrange(self.count - count + 1)
        run = range(at, at + count)
        if any(cell in self._busy for cell in run):
            return None
        self._busy.update(run)
        return at, count

    def give(self, at: int, count: int) -> None:
        self._busy.difference_update(range(at, at + count))

    def begin_write(self, at: int, count: int) -> tuple[int, bytes]:
        """(sequence number, data) of a write that is about to be sent."""
        self._sequence += 1
        sequence = self._sequence
        data = b"".join(pattern(cell, self.writer, sequence) for cell in range(at, at + count))
        return sequence, data

    def written(self, at: int, count: int, sequence: int, *, is_certain: bool) -> None:
        """A write has ended: well, or in doubt."""
        for cell in range(at, at + count):
            if is_certain:
                self._candidates[cell] = {sequence}
            else:
                self._candidates.setdefault(cell, {0}).add(sequence)

    def check(self, at: int, data: memoryview) -> None:
        """What was read must be there. Raises Mismatch, which says what was found instead."""
        for offset in range(0, len(data), CELL):
            cell = at + offset // CELL
            found = data[offset : offset + CELL]
            allowed = self._candidates.get(cell, {0})
            if not any(found == pattern(cell, self.writer, each) for each in allowed):
                raise Mismatch(f"cell {cell}: {described(found)}; it may hold {sorted(allowed)}")

    def certain(self, at: int, count: int) -> bytes | None:
        """The content of cells, where none is in doubt."""
        parts = []
        for cell in range(at, at + count):
            candidates = self._candidates.get(cell, {0})
            if len(candidates) != 1:
                return None
            parts.append(pattern(cell, self.writer, next(iter(candidates))))
        return b"".join(parts)


def described(found: memoryview) -> str:
    """What a cell holds, in words: each run of like records."""
    runs: list[list[object]] = []
    for at in range(0, CELL, 512):
        lba, writer, magic, sequence, _, _ = _RECORD.unpack_from(found, at)
        if magic == _MAGIC:
            words = f"cell {lba} of writer {writer}, sequence {sequence}"
        elif not any(found[at : at + 512]):
            words = "zeros"
        else:
            words = f"foreign data {bytes(found[at : at + 16]).hex()}"
        if runs and runs[-1][1] == words:
            runs[-1][0] = int(str(runs[-1][0])) + 1
        else:
            runs.append([1, words])
    return "; ".join(f"{count} blocks of {words}" for count, words in runs)
