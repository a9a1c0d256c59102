"""Hosts that write to several primaries, and an oracle of what their secondaries may hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from daiko.device.block import BlockDevice
from daiko.device.error import DeviceError

from .pair_world import BLOCK, BLOCKS, World, failure_of

HISTORIES = int(os.environ.get("DAIKO_PAIR_ASYNC_HISTORIES", "0"))
"""Random ones of asynchronous pairs, of one system and of two sites; 0: as many as `make test`
has time for."""


@dataclass
class Written:
    """One block that a host wrote."""

    block: int
    value: int
    asked: int
    """When, in events."""
    acknowledged: int | None = None


class Hosts:
    """What hosts wrote to the primaries, and what they heard."""

    def __init__(
        self,
        world: World,
        primary_of: Mapping[str, str],
        front: Callable[[str], BlockDevice],
        call: Callable[[Callable[[], None]], None],
    ) -> None:
        """`primary_of`: secondary -> primary. `front(primary)` is what hosts use now; `call` as
        `World.call`."""
        self.world = world
        self.primary_of = primary_of
        self.front = front
        self.call = call
        self.events = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        """The sides are the same."""
        self.first = {name: bytes(disk.now) for name, disk in self.world.disks.items()}
        self.log: dict[str, list[Written]] = {name: [] for name in self.primary_of.values()}
        self.under_way: list[tuple[str, Written]] = []

    def write(self, volume: str, block: int, count: int = 1) -> None:
        count = min(count, BLOCKS - block)
        self.events += 1
        parts = []
        for at in range(block, block + count):
            if any(name == volume and part.block == at for name, part in self.under_way):
                return  # hosts do not write to one block twice at a time
            before = [part.value for part in self.log[volume] if part.block == at]
            value = ((before[-1] if before else self.first[volume][at]) + 1) % 256
            parts.append(Written(at, value, self.events))
        self.log[volume] += parts
        self.under_way += [(volume, part) for part in parts]

        def done(error: DeviceError | None) -> None:
            assert error is None, failure_of(error)
            self.events += 1
            for part in parts:
                part.acknowledged = self.events
                self.under_way.remove((volume, part))

        data = b"".join(bytes([part.value]) * BLOCK for part in parts)
        front = self.front(volume)
        self.call(lambda: front.write(block, data, done))

    def forget_under_way(self) -> None:
        """Who would answer is dead."""
        self.under_way.clear()

    def check(self) -> None:
        """The secondaries are an earlier state of the group: of each write that is there, all that
        was acknowledged before it was asked for is there as well."""
        latest = 0
        positions = {}
        for secondary, primary in self.primary_of.items():
            image = self.world.disks[secondary].now
            for block in range(BLOCKS):
                writes = [part for part in self.log[primary] if part.block == block]
                values = [self.first[primary][block], *(part.value for part in writes)]
                at = len(values) - 1 - values[::-1].index(image[block])
                positions[primary, block] = at
                if at:
                    latest = max(latest, writes[at - 1].asked)
        for primary, log in self.log.items():
            seen: dict[int, int] = {}
            for part in log:
                seen[part.block] = seen.get(part.block, 0) + 1
                if part.acknowledged is not None and part.acknowledged < latest:
                    assert positions[primary, part.block] >= seen[part.block], (primary, part)
