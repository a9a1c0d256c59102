"""The mapping table against a list that has one entry a block."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.mapping.extent import DeviceId, Extent, Piece
from daiko.mapping.mapping_table import MappingTable, OutsideTable, begins_with, joined

DEVICES = [DeviceId("sd1", 0), DeviceId("sd1", 1), DeviceId("sd2", 0), DeviceId("internal", 0)]
FAR = 1 << 62


def end_to_end(runs: list[tuple[int, DeviceId, int]]) -> list[Extent]:
    extents, at = [], 0
    for blocks, device, device_lba in runs:
        extents.append(Extent(at, blocks, device, device_lba))
        at += blocks
    return extents


extents_of_any_size = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from(DEVICES), st.integers(0, 200)),
    min_size=1,
    max_size=60,
).map(end_to_end)


def block_by_block(extents: list[Extent]) -> list[tuple[DeviceId, int]]:
    return [
        (extent.device, extent.device_lba + offset)
        for extent in extents
        for offset in range(extent.blocks)
    ]


@given(extents_of_any_size, st.data())
def test_lookup_equals_a_list_of_blocks(extents: list[Extent], data: st.DataObject) -> None:
    table, model = MappingTable(extents), block_by_block(extents)
    assert table.blocks == len(model)
    lba = data.draw(st.integers(0, len(model)))
    blocks = data.draw(st.integers(0, len(model) - lba))
    pieces = table.lookup(lba, blocks)
    assert [
        (piece.device, piece.lba + offset) for piece in pieces for offset in range(piece.blocks)
    ] == model[lba : lba + blocks]
    assert all(piece.blocks for piece in pieces)


@given(extents_of_any_size)
def test_locate_finds_every_block_and_the_rest_of_its_extent(extents: list[Extent]) -> None:
    table = MappingTable(extents)
    for extent in extents:
        for offset in range(extent.blocks):
            assert table.locate(extent.lba + offset) == (
                extent.device,
                extent.device_lba + offset,
                extent.blocks - offset,
            )
    assert table.find(table.blocks)[2] == 0


@given(extents_of_any_size)
def test_extents_come_out_as_they_went_in(extents: list[Extent]) -> None:
    table = MappingTable(extents)
    assert list(table) == extents
    assert len(table) == len(extents)
    assert table.devices == tuple(dict.fromkeys(extent.device for extent in extents))
    assert table == MappingTable(iter(extents))


@given(extents_of_any_size)
def test_pieces_never_cross_the_edge_of_an_extent(extents: list[Extent]) -> None:
    table = MappingTable(extents)
    assert (
        table.lookup(0, table.blocks)
        == [Piece(extent.device, extent.device_lba, extent.blocks) for extent in extents]
        or len(extents) == 1
    )


@given(extents_of_any_size)
def test_ranges_on_the_devices_make_up_the_volume(extents: list[Extent]) -> None:
    table = MappingTable(extents)
    ranges = [run for device in table.devices for run in table.ranges_on(device)]
    assert sorted(ranges) == [(extent.lba, extent.blocks) for extent in extents]


@given(extents_of_any_size)
def test_joined_extents_map_the_same_blocks_in_no_more_extents(extents: list[Extent]) -> None:
    short = list(joined(extents))
    assert block_by_block(short) == block_by_block(extents)
    assert len(short) <= len(extents)
    assert list(joined(short)) == short
    MappingTable(short)


def test_joined_makes_one_extent_of_a_run_cut_in_pieces() -> None:
    pieces = end_to_end([(3, DEVICES[0], 7), (5, DEVICES[0], 10), (1, DEVICES[0], 15)])
    assert list(joined(pieces)) == [Extent(0, 9, DEVICES[0], 7)]


@pytest.mark.parametrize(
    ("lba", "blocks"),
    [
        pytest.param(-1, 1, id="before the start"),
        pytest.param(10, 1, id="just beyond the end"),
        pytest.param(9, 2, id="across the end"),
        pytest.param(11, 0, id="nothing, but beyond the end"),
        pytest.param(0, 11, id="more than everything"),
        pytest.param(3, -1, id="a negative length"),
        pytest.param(1 << 64, 1, id="far away"),
    ],
)
def test_lookup_outside_the_volume_is_refused(lba: int, blocks: int) -> None:
    table = MappingTable(end_to_end([(4, DEVICES[0], 0), (6, DEVICES[1], 0)]))
    with pytest.raises(OutsideTable):
        table.lookup(lba, blocks)


@pytest.mark.parametrize("lba", [-1, 10, 1 << 64])
def test_locate_outside_the_volume_is_refused(lba: int) -> None:
    with pytest.raises(OutsideTable):
        MappingTable(end_to_end([(10, DEVICES[0], 0)])).locate(lba)


def test_nothing_at_the_end_is_nothing() -> None:
    table = MappingTable(end_to_end([(10, DEVICES[0], 0)]))
    assert list(table.lookup(10, 0)) == []


def test_empty_table_has_no_blocks() -> None:
    table = MappingTable([])
    assert (table.blocks, len(table), list(table), table.devices) == (0, 0, [], ())
    assert list(table.lookup(0, 0)) == []
    with pytest.raises(OutsideTable):
        table.lookup(0, 1)


def test_identity_maps_a_device_to_itself() -> None:
    table = MappingTable.identity(DEVICES[2], 1000)
    assert list(table.lookup(7, 993)) == [Piece(DEVICES[2], 7, 993)]
    assert len(MappingTable.identity(DEVICES[2], 0)) == 0


def test_very_large_and_very_small_extents_live_in_one_table() -> None:
    extents = end_to_end([(1, DEVICES[0], 5), (FAR, DEVICES[1], 9), (1, DEVICES[0], 6)])
    table = MappingTable(extents)
    assert table.locate(FAR) == (DEVICES[1], 9 + FAR - 1, 1)
    assert table.locate(FAR + 1) == (DEVICES[0], 6, 1)
    assert table.locate(0) == (DEVICES[0], 5, 1)


@pytest.mark.parametrize(
    ("extents", "complaint"),
    [
        pytest.param(
            [Extent(1, 4, DEVICES[0], 0)], "blocks 0 to 0 of the volume lie nowhere", id="gap at 0"
        ),
        pytest.param(
            [Extent(0, 4, DEVICES[0], 0), Extent(5, 1, DEVICES[0], 9)],
            "blocks 4 to 4 of the volume lie nowhere: the next extent begins at 5",
            id="gap",
        ),
        pytest.param(
            [Extent(0, 4, DEVICES[0], 0), Extent(3, 1, DEVICES[0], 9)],
            "the extent at block 3 on sd1/0 overlaps the one before, which ends at 4",
            id="overlap",
        ),
        pytest.param([Extent(0, 0, DEVICES[0], 0)], "has 0 blocks: give at least 1", id="empty"),
        pytest.param(
            [Extent(0, 4, DEVICES[0], -1)], "begins before the start of sd1/0", id="negative"
        ),
    ],
)
def test_table_with_a_hole_is_refused(extents: list[Extent], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        MappingTable(extents)


@given(extents_of_any_size)
def test_columns_are_the_table_and_extents_are_found_by_position(extents: list[Extent]) -> None:
    table = MappingTable(extents)
    again = MappingTable.of_columns(*table.columns())
    assert again == table
    assert list(again) == extents
    assert [table[position] for position in range(len(extents))] == extents
    assert table.ends == tuple(
        max(e.device_lba + e.blocks for e in extents if e.device == device)
        for device in table.devices
    )
    for unit in (1, 2, 8):
        assert table.keeps_alignment(unit) == all(
            (e.device_lba - e.lba) % unit == 0 for e in extents
        )
    for device in table.devices:
        assert table.ranges_on(device) == [(e.lba, e.blocks) for e in extents if e.device == device]
        assert table.taken_on(device) == sorted(
            (e.device_lba, e.device_lba + e.blocks) for e in extents if e.device == device
        )


@pytest.mark.parametrize(
    ("devices", "blocks", "lbas", "index"),
    [
        pytest.param(1, [1, 2], [0], [0, 0], id="columns of unlike length"),
        pytest.param(1, [1, 0], [0, 1], [0, 0], id="an extent without blocks"),
        pytest.param(1, [1, 1], [0, 1], [0, 1], id="a device that is not there"),
        pytest.param(2, [1, 1], [0, 1], [0, 0], id="a device without extents"),
        pytest.param(2, [1, 1], [0, 1], [1, 0], id="devices out of order"),
    ],
)
def test_columns_that_are_no_table_are_refused(
    devices: int, blocks: list[int], lbas: list[int], index: list[int]
) -> None:
    with pytest.raises(ValueError, match="mapping table"):
        MappingTable.of_columns(
            [DeviceId("sd1", number) for number in range(devices)],
            array("Q", blocks),
            array("Q", lbas),
            array("I", index),
        )


# --- growth

PARTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=4
)


def table_of(parts: list[tuple[str, int, int]]) -> MappingTable:
    lba = 0
    extents = []
    for name, first, blocks in parts:
        extents.append(Extent(lba, blocks, DeviceId(name, 0), first))
        lba += blocks
    return MappingTable(extents)


@given(PARTS, PARTS, st.integers(0, 3))
def test_table_begins_with_what_it_has_grown_from(
    parts: list[tuple[str, int, int]], more: list[tuple[str, int, int]], longer: int
) -> None:
    name, first, blocks = parts[-1]
    grown = [*parts[:-1], (name, first, blocks + longer), *more]
    assert begins_with(table_of(grown), table_of(parts))
    assert begins_with(table_of(parts), table_of(parts))
    assert not begins_with(table_of(parts), table_of(grown))


@given(PARTS, PARTS)
def test_table_begins_with_another_only_where_every_block_lies_in_the_same_place(
    longer: list[tuple[str, int, int]], shorter: list[tuple[str, int, int]]
) -> None:
    if begins_with(table_of(longer), table_of(shorter)):
        a, b = table_of(longer), table_of(shorter)
        assert all(a.locate(lba)[:2] == b.locate(lba)[:2] for lba in range(b.blocks))
