"""Where volumes are put: never twice on one block, never outside, never beyond what is free."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.mapping.allocator import NoRoom, Unfit, allocate, by_hand, image, used_by
from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.mapping_table import MappingTable
from daiko.mapping.range_set import RangeSet

SD1, SD2, SD3 = DeviceId("sd1", 0), DeviceId("sd2", 0), DeviceId("sd3", 0)

sizes = st.lists(st.integers(0, 64), min_size=1, max_size=4).map(
    lambda found: [(DeviceId(f"sd{number}", 0), size) for number, size in enumerate(found)]
)


@st.composite
def situations(
    draw: st.DrawFn,
) -> tuple[list[tuple[DeviceId, int]], dict[DeviceId, RangeSet], int]:
    """Candidates, what is in use on them, alignment."""
    candidates = draw(sizes)
    used = {
        device: RangeSet(
            (first, length)
            for first, length in draw(
                st.lists(st.tuples(st.integers(0, size), st.integers(0, 20)), max_size=4)
            )
        )
        for device, size in candidates
    }
    return candidates, used, draw(st.sampled_from([1, 1, 2, 8]))


def allocated_or_none(
    blocks: int,
    candidates: list[tuple[DeviceId, int]],
    used: dict[DeviceId, RangeSet],
    alignment: int,
) -> list[Extent] | None:
    try:
        return allocate(blocks, candidates, used, alignment)
    except NoRoom:
        return None


@given(situations(), st.integers(1, 200))
def test_allocated_extents_are_free_disjoint_and_as_many_as_asked_for(
    situation: tuple[list[tuple[DeviceId, int]], dict[DeviceId, RangeSet], int], blocks: int
) -> None:
    candidates, used, alignment = situation
    size = dict(candidates)
    extents = allocated_or_none(blocks, candidates, used, alignment)
    free = sum(
        length
        for device in size
        for first, end in (
            (first + -first % alignment, first + length)
            for first, length in used[device].gaps(0, size[device])
        )
        for length in [max(0, end - first) // alignment * alignment]
    )
    if extents is None:
        assert free < blocks
        return
    assert MappingTable(extents).blocks == blocks
    used_by(extents)
    for extent in extents:
        assert not used[extent.device].overlaps(extent.device_lba, extent.blocks)
        assert extent.device_lba + extent.blocks <= size[extent.device]
        assert extent.device_lba % alignment == 0
    assert all(extent.blocks % alignment == 0 for extent in extents[:-1])


@given(situations(), st.integers(1, 64))
def test_volume_stays_whole_where_a_free_run_holds_it(
    situation: tuple[list[tuple[DeviceId, int]], dict[DeviceId, RangeSet], int], blocks: int
) -> None:
    candidates, used, _ = situation
    fits = any(
        length >= blocks for device, size in candidates for _, length in used[device].gaps(0, size)
    )
    extents = allocated_or_none(blocks, candidates, used, 1)
    assert (extents is not None and len(extents) == 1) == fits


def test_smallest_run_that_fits_is_taken_so_that_large_ones_stay_whole() -> None:
    extents = allocate(10, [(SD1, 100), (SD2, 12)], {})
    assert extents == [Extent(0, 10, SD2, 0)]


def test_divided_volume_fills_the_candidates_in_their_order() -> None:
    extents = allocate(25, [(SD2, 10), (SD1, 10), (SD3, 10)], {SD2: RangeSet([(0, 2)])})
    assert extents == [Extent(0, 8, SD2, 2), Extent(8, 10, SD1, 0), Extent(18, 7, SD3, 0)]


def test_candidate_named_twice_counts_once() -> None:
    with pytest.raises(NoRoom) as refusal:
        allocate(15, [(SD1, 10), (SD1, 10)], {})
    assert refusal.value.free == 10


def test_no_room_says_how_much_there_is() -> None:
    with pytest.raises(NoRoom, match="no room for 30 blocks: the devices have 20 free"):
        allocate(30, [(SD1, 10), (SD2, 10)], {})


@pytest.mark.parametrize(("blocks", "alignment"), [(0, 1), (-1, 1), (1, 0)])
def test_nothing_is_not_allocated(blocks: int, alignment: int) -> None:
    with pytest.raises(ValueError, match="give at least 1"):
        allocate(blocks, [(SD1, 10)], {}, alignment)


def test_by_hand_puts_parts_end_to_end() -> None:
    parts = [(SD1, 4, 2), (SD2, 0, 10), (SD1, 6, 4)]
    assert by_hand(parts, {SD1: 10, SD2: 10}, {SD1: RangeSet([(0, 4)])}) == [
        Extent(0, 2, SD1, 4),
        Extent(2, 10, SD2, 0),
        Extent(12, 4, SD1, 6),
    ]


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        pytest.param([], "at least one extent", id="none"),
        pytest.param([(SD3, 0, 1)], "there is no device sd3/0", id="unknown device"),
        pytest.param([(SD1, 9, 2)], "blocks 9 to 10 of sd1/0 are not part of it", id="beyond"),
        pytest.param([(SD1, -1, 2)], "are not part of it", id="before"),
        pytest.param([(SD1, 0, 0)], "are not part of it", id="empty"),
        pytest.param([(SD2, 3, 3)], "blocks 3 to 5 of sd2/0 are in use", id="in use"),
        pytest.param(
            [(SD1, 0, 5), (SD1, 4, 2)], "blocks 4 to 5 of sd1/0 are used twice", id="twice"
        ),
    ],
)
def test_by_hand_refuses_what_is_not_there_or_taken(
    parts: list[tuple[DeviceId, int, int]], complaint: str
) -> None:
    with pytest.raises(Unfit, match=complaint):
        by_hand(parts, {SD1: 10, SD2: 10}, {SD2: RangeSet([(5, 1)])})


def test_image_is_the_whole_device_as_it_is() -> None:
    assert image(SD1, 99, {}) == [Extent(0, 99, SD1, 0)]


def test_image_of_a_device_in_use_is_refused() -> None:
    with pytest.raises(Unfit, match="in use by another volume"):
        image(SD1, 99, {SD1: RangeSet([(50, 1)])})


def test_image_given_back_is_free_again() -> None:
    used = used_by(image(SD1, 10, {}))
    assert allocated_or_none(10, [(SD1, 10)], used, 1) is None
    assert allocated_or_none(10, [(SD1, 10)], used_by([]), 1) == [Extent(0, 10, SD1, 0)]
