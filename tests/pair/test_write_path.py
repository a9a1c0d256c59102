"""Which marks are taken away, and which stay."""

from __future__ import annotations

import pytest

from daiko.device.error import DeviceError
from daiko.pair.write_path import Way

from .pair_world import BLOCK, BLOCKS, REGION_BLOCKS, Disk
from .test_copier import side_of

REGIONS = -(-BLOCKS // REGION_BLOCKS)
LAST = REGIONS - 1


def _written(ended: list[DeviceError | None]) -> None:
    assert ended.pop() is None


@pytest.mark.parametrize("written", [(), (0,), (3,), (LAST,), (2, 3), (0, 4, LAST), (1, 2, 5)])
async def test_a_proof_takes_all_marks_but_those_of_regions_written_since(
    written: tuple[int, ...],
) -> None:
    side = side_of("alpha", Disk(bytes(BLOCKS)))
    side.bitmap.mark_all()
    layer = side.layer
    layer.begin(is_equal=False)
    layer.go(Way.COPY)
    taken, _ = layer.begin_round()
    ended: list[DeviceError | None] = []
    for region in written:
        layer.write(region * REGION_BLOCKS, bytes(BLOCK), ended.append)
        _written(ended)
    layer.prove(taken, 1, 4)
    for region in range(REGIONS):
        is_proved = 1 <= region <= 4
        assert taken.any_in(region, region) is not is_proved
        kept = not is_proved or region in written
        assert side.bitmap.regions.any_in(region, region) is kept
    layer.prove(taken, 0, LAST)
    assert not taken.set_regions
    assert {at for at in range(REGIONS) if side.bitmap.regions.any_in(at, at)} == set(written)


async def test_what_was_not_proved_is_stale_again() -> None:
    side = side_of("alpha", Disk(bytes(BLOCKS)))
    side.bitmap.mark_all()
    side.layer.begin(is_equal=False)
    taken, _ = side.layer.begin_round()
    side.layer.prove(taken, 0, 2)
    side.layer.end_round(taken)
    assert list(side.layer.stale.runs()) == [(3, REGIONS - 3)]


async def test_a_flight_goes_with_all_that_were_sent_before_and_have_not_come_back() -> None:
    """Also those that somebody before began to wait for, and gave up."""
    disk = Disk(bytes(BLOCKS))
    side = side_of("alpha", disk)
    side.layer.go(Way.TRACK)
    disk.is_slow = True
    ended: list[DeviceError | None] = []
    side.layer.write(0, bytes(BLOCK), ended.append)
    (first,) = side.layer.flights.begin()
    side.layer.write(1, bytes(BLOCK), ended.append)
    both = side.layer.flights.begin()
    assert both[0] is first
    assert [flight.requests for flight in both] == [1, 1]
    disk.release()
    assert side.layer.flights.begin() == ()
