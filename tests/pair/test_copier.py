"""Copying from one side to the other, with writes that a disk carries out late."""

from __future__ import annotations

import asyncio
from typing import cast

from daiko.backend.worker import Workers
from daiko.copy_manager.pacer import Pacer
from daiko.device.error import DeviceError
from daiko.pair.copier import Copier, Settler
from daiko.pair.side import Side
from daiko.pair.surroundings import Copies, Workshop
from daiko.pair.write_path import Way
from daiko.state.pair_record import PairRecord

from .pair_world import BLOCK, BLOCKS, GRANULARITY, QUICK, Disk, InlineWorkers, Volume


def side_of(name: str, disk: Disk) -> Side:
    record = PairRecord(name="p", primary="alpha", secondary="beta", granularity=GRANULARITY)
    return Side.open(
        record,
        Volume(name, disk),
        None,
        is_new=True,
        workers=cast(Workers, InlineWorkers()),
        lost=lambda loss: None,
    )


async def test_a_write_that_is_under_way_when_catching_up_begins_is_on_both_sides() -> None:
    here, there = Disk(bytes(BLOCKS)), Disk(bytes(BLOCKS))
    lead, other = side_of("alpha", here), side_of("beta", there)
    lead.layer.peer, other.layer.peer = other.layer, lead.layer
    lead.layer.go(Way.COPY)
    ended: list[DeviceError | None] = []
    here.is_slow = here.is_late = True
    lead.layer.write(3, b"w" * BLOCK, ended.append)
    # (so little is stale that there is no round)
    workshop = Workshop(cast(Copies, None), lambda place, times: lambda: None, QUICK)
    settler = Settler((lead, other))
    copier = Copier("p", lead, other, workshop, settler, Pacer(), lead.layer.go)
    running = asyncio.create_task(copier.run())
    for _ in range(10):
        await asyncio.sleep(0)
    here.release()
    await running
    assert ended == [None]
    assert here.now[3] == ord("w")
    assert there.now == here.now
    assert not lead.bitmap.regions.set_regions
