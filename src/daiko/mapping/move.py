"""A volume of which runs of blocks move to another place: where they lie then.

The runs and the room that is theirs are each taken end to end: the first block of the first run
moves to the first block of the room, and so on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.mapping_table import MappingTable


def leaving(table: MappingTable, leaves: Callable[[DeviceId], bool]) -> list[tuple[int, int]]:
    """(first block, blocks) of each run of a volume that lies on devices which it is to leave."""
    runs: list[tuple[int, int]] = []
    for lba, blocks, device, _ in table:
        if not leaves(device):
            continue
        if runs and sum(runs[-1]) == lba:
            runs[-1] = (runs[-1][0], runs[-1][1] + blocks)
        else:
            runs.append((lba, blocks))
    return runs


class Move:
    """The runs that move, and their room. Raises ValueError where these are not of one length."""

    def __init__(self, runs: Sequence[tuple[int, int]], room: MappingTable) -> None:
        self.runs = tuple(runs)
        self.room = room
        self.blocks = sum(blocks for _, blocks in runs)
        """That move."""
        if self.blocks != room.blocks:
            raise ValueError(f"{self.blocks} blocks move to a room of {room.blocks}")

    def new(self, first: int, blocks: int) -> Iterator[Extent]:
        """Of these blocks of the volume those that move, as they will lie."""
        end = first + blocks
        before = 0
        for run, length in self.runs:
            begin, until = max(first, run), min(end, run + length)
            if begin < until:
                at = begin
                for piece in self.room.lookup(before + begin - run, until - begin):
                    yield Extent(at, piece.blocks, piece.device, piece.lba)
                    at += piece.blocks
            before += length

    def staying(self, blocks: int) -> Iterator[tuple[int, int]]:
        """Of a volume of so many blocks: (first block, blocks) of each run that stays."""
        at = 0
        for run, length in (*self.runs, (blocks, 0)):
            if run > at:
                yield at, run - at
            at = run + length

    def after(self, table: MappingTable) -> MappingTable:
        """Where the volume lies when it has moved, that lies as `table` says now."""
        stay = (
            piece
            for first, length in self.staying(table.blocks)
            for piece in _extents(table, first, length)
        )
        return MappingTable(sorted((*stay, *self.new(0, table.blocks))))

    def beside(self, blocks: int, elsewhere: DeviceId) -> MappingTable:
        """The new place by itself: a volume of so many blocks, of which those that stay lie at the
        same addresses of the device `elsewhere`."""
        stay = (Extent(first, length, elsewhere, first) for first, length in self.staying(blocks))
        return MappingTable(sorted((*stay, *self.new(0, blocks))))


def _extents(table: MappingTable, first: int, blocks: int) -> Iterator[Extent]:
    at = first
    for piece in table.lookup(first, blocks):
        yield Extent(at, piece.blocks, piece.device, piece.lba)
        at += piece.blocks
