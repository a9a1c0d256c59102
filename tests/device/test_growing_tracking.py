"""Change tracking over a device that grows: nothing noted is lost, nothing new is missed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daiko.backend.memory import MemoryDevice
from daiko.device.layer.change_tracking import ChangeTracking

WRITES = st.lists(st.tuples(st.integers(0, 99), st.integers(1, 20)), max_size=8)


@given(WRITES, WRITES, st.integers(0, 50), st.sampled_from([1, 4, 1 << 20]))
def test_what_was_written_before_and_after_the_growth_is_known(
    before: list[tuple[int, int]], after: list[tuple[int, int]], more: int, bitmap: int
) -> None:
    tracking = ChangeTracking(MemoryDevice(120), maximum_bitmap_bytes=bitmap)
    written: set[int] = set()

    def write(lba: int, blocks: int) -> None:
        tracking.write(lba, bytes(512 * blocks), lambda error: None)
        written.update(range(lba, lba + blocks))

    for lba, blocks in before:
        write(lba, blocks)
    tracking.below = MemoryDevice(120 + more)
    tracking.grow(tracking.below.capabilities)
    for lba, blocks in after:
        write(lba + more, blocks)
    region = tracking.granularity
    regions = {lba // region for lba in written}
    told = {lba for first, blocks in tracking.ranges() for lba in range(first, first + blocks)}
    assert told == {lba for lba in range(120 + more) if lba // region in regions}
    assert tracking.changed_blocks == len(told)
    assert tracking.changed_in(0, 120 + more) == len(told)
