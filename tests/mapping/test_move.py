"""Where a volume lies when runs of its blocks have moved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.mapping_table import MappingTable
from daiko.mapping.move import Move, leaving

OLD, NEW, THIRD, ELSEWHERE = (DeviceId(name, 0) for name in ("old", "new", "third", "else"))


def _table(*extents: tuple[int, DeviceId, int]) -> MappingTable:
    found, lba = [], 0
    for blocks, device, at in extents:
        found.append(Extent(lba, blocks, device, at))
        lba += blocks
    return MappingTable(found)


TABLE = _table((10, OLD, 100), (5, OLD, 500), (20, THIRD, 0), (7, OLD, 0))


def test_runs_that_leave_are_joined_where_they_touch() -> None:
    assert leaving(TABLE, lambda device: device == OLD) == [(0, 15), (35, 7)]
    assert leaving(TABLE, lambda device: device != NEW) == [(0, 42)]
    assert leaving(TABLE, lambda device: device == NEW) == []


def test_the_table_after_a_move_names_the_room_and_leaves_the_rest() -> None:
    move = Move([(0, 15), (35, 7)], _table((12, NEW, 1000), (10, NEW, 50)))
    assert move.blocks == 22
    assert list(move.after(TABLE)) == [
        Extent(0, 12, NEW, 1000),
        Extent(12, 3, NEW, 50),
        Extent(15, 20, THIRD, 0),
        Extent(35, 7, NEW, 53),
    ]
    assert list(move.beside(42, ELSEWHERE)) == [
        Extent(0, 12, NEW, 1000),
        Extent(12, 3, NEW, 50),
        Extent(15, 20, ELSEWHERE, 15),
        Extent(35, 7, NEW, 53),
    ]
    assert list(move.new(13, 24)) == [Extent(13, 2, NEW, 51), Extent(35, 2, NEW, 53)]


def test_room_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="22 blocks move to a room of 21"):
        Move([(0, 15), (35, 7)], _table((21, NEW, 0)))


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12), st.data())
def test_every_block_lies_where_it_did_or_in_its_room(
    extents: list[tuple[int, bool]], data: st.DataObject
) -> None:
    table = _table(
        *((n, OLD if moves else THIRD, 100 * at) for at, (n, moves) in enumerate(extents))
    )
    runs = leaving(table, lambda device: device == OLD)
    blocks = sum(length for _, length in runs)
    if not blocks:
        return
    cut = data.draw(st.integers(0, blocks))
    parts = [(n, NEW, at) for n, at in ((cut, 5000), (blocks - cut, 9000)) if n]
    room = _table(*parts)
    move = Move(runs, room)
    after = move.after(table)
    moved = iter(range(blocks))
    for lba in range(table.blocks):
        device, at, _ = table.locate(lba)
        expected = room.locate(next(moved))[:2] if device == OLD else (device, at)
        assert after.locate(lba)[:2] == expected
    assert list(move.new(0, table.blocks)) == [each for each in after if each.device == NEW]
