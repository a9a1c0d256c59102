"""Rounds of pairs over two sites.

Towards the other site a round is a job of the copy manager, as within one system: the other site's
volume is a place that it plans for while the round lasts (`Lender`), and second controllers of ours
copy straight to those of the other site where they can [0101-0119].

In reverse the first controller leads: it reads the other site's virtual LU and writes to its own
volume, a fixed amount at a time, until the last block [0092-0100].
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final, Protocol

from daiko.copy_manager.governor import Governor, Measure
from daiko.copy_manager.pace import Pace
from daiko.copy_manager.pacer import Pacer
from daiko.device.awaitable import flush
from daiko.device.error import DeviceError
from daiko.mapping.range_set import RangeSet
from daiko.pair.in_flight import InFlight
from daiko.pair.operation import copy_blocks
from daiko.pair.surroundings import Copies, PairVolume, RoundFailed, is_elsewhere

PIECE_BYTES: Final = 1 << 20
"""Of one read and write."""
IN_FLIGHT: Final = 8
FLUSH_BYTES: Final = 64 << 20
"""After so much the other side is flushed, and what was copied is confirmed."""


class Lender(Protocol):
    """Makes another site's volume a place of the copy manager (`control/lent_volumes.py`)."""

    def place(
        self, pair: str, ranges: Sequence[tuple[int, int]]
    ) -> AbstractAsyncContextManager[None]:
        """For copies of these runs of blocks to the secondary of this pair, until it is left.
        Raises RoundFailed."""
        ...


class SiteCopies:
    """`surroundings.Copies` for pairs of which one volume is at another site; the others go to
    `own`."""

    def __init__(
        self,
        own: Copies,
        volume: Callable[[str, str], PairVolume | None],
        lender: Lender,
        measure: Measure,
    ) -> None:
        """`volume(pair, name)`: a volume of a pair over two sites, None where it is none."""
        self._own = own
        self._volume = volume
        self._lender = lender
        self._measure = measure
        self._pacers: dict[str, Pacer] = {}

    def job_of(self, pair: str) -> int | None:
        """`Copies.job_of`."""
        return self._own.job_of(pair)

    async def set_pace(self, pair: str, pace: Pace) -> None:
        """`Copies.set_pace`."""
        if pair in self._pacers:
            self._pacers[pair].use(pace)
        else:
            await self._own.set_pace(pair, pace)

    def copy(
        self,
        pair: str,
        source: str,
        destination: str,
        ranges: Sequence[tuple[int, int]],
        pace: Pace,
    ) -> AsyncGenerator[RangeSet, None]:
        """`Copies.copy`."""
        one, other = self._volume(pair, source), self._volume(pair, destination)
        if one is None or other is None:
            return self._own.copy(pair, source, destination, ranges, pace)
        if is_elsewhere(other):
            return self._copy_there(pair, source, destination, ranges, pace)
        return self._copy(pair, one, other, ranges, pace)

    async def _copy_there(
        self,
        pair: str,
        source: str,
        destination: str,
        ranges: Sequence[tuple[int, int]],
        pace: Pace,
    ) -> AsyncGenerator[RangeSet, None]:
        async with self._lender.place(pair, ranges):
            confirmed = self._own.copy(pair, source, destination, ranges, pace)
            try:
                async for blocks in confirmed:
                    yield blocks
            finally:
                await confirmed.aclose()

    async def _copy(
        self,
        pair: str,
        source: PairVolume,
        destination: PairVolume,
        ranges: Sequence[tuple[int, int]],
        pace: Pace,
    ) -> AsyncGenerator[RangeSet, None]:
        pacer = self._pacers[pair] = Pacer(pace)
        own = [volume.name for volume in (source, destination) if not is_elsewhere(volume)]
        governor = Governor(pacer, self._measure, own)
        governing = asyncio.create_task(governor.run(), name=f"pace of round of {pair}")
        confirmed = RangeSet()
        try:
            for portion in _portions(ranges, FLUSH_BYTES // source.block_size):
                generations = destination.generations
                await _copy_all(source, destination, portion, pacer)
                await flush(destination.device)
                if destination.generations != generations:
                    raise RoundFailed(f"the link to {destination.name} was lost and came back")
                for first, blocks in portion:
                    confirmed.add(first, blocks)
                yield confirmed
        except DeviceError as error:
            raise RoundFailed(str(error)) from error
        finally:
            self._pacers.pop(pair, None)
            governing.cancel()


def _portions(ranges: Sequence[tuple[int, int]], most: int) -> list[list[tuple[int, int]]]:
    """The ranges (first block, blocks), cut so that each portion has no more than `most` blocks."""
    portions: list[list[tuple[int, int]]] = [[]]
    room = most
    for first, blocks in ranges:
        while blocks:
            if not room:
                portions.append([])
                room = most
            taken = min(blocks, room)
            portions[-1].append((first, taken))
            first, blocks, room = first + taken, blocks - taken, room - taken
    return portions if portions[0] else []


async def _copy_all(
    source: PairVolume, destination: PairVolume, ranges: Sequence[tuple[int, int]], pacer: Pacer
) -> None:
    """Copy the ranges, several pieces at a time; nothing is in flight when it ends, however it
    does. Raises DeviceError."""
    size = source.block_size
    async with InFlight(IN_FLIGHT) as pieces:
        for first, blocks in ranges:
            for lba in range(first, first + blocks, PIECE_BYTES // size):
                count = min(PIECE_BYTES // size, first + blocks - lba)
                await pacer.wait(count * size)
                copy = partial(copy_blocks, source.device, destination.device)
                await pieces.send(partial(copy, lba, count))
