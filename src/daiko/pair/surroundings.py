"""What pairs need of the system around them. `control/paired_volumes.py` provides it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from daiko.copy_manager.governor import Measure
from daiko.copy_manager.pace import Pace
from daiko.device.block import BlockDevice
from daiko.mapping.range_set import RangeSet
from daiko.mapping.region_bitmap import RegionBitmap
from daiko.pair.settings import PairSettings
from daiko.pair.write_path import PairedDevice
from daiko.state.pair_record import PairRecord


class PairVolume(Protocol):
    """A volume that is a side of a pair."""

    @property
    def name(self) -> str: ...

    @property
    def naa(self) -> str:
        """Its identity: 16 bytes in hex. The bitmap of another volume of that name is not ours."""
        ...

    @property
    def block_size(self) -> int:
        """Bytes."""
        ...

    @property
    def blocks(self) -> int: ...

    @property
    def device(self) -> BlockDevice:
        """The volume over its devices as they are now, below every layer."""
        ...

    @property
    def generations(self) -> tuple[int, ...]:
        """Changes when the connection to a controller of its devices was another in between: what
        was written over the older one and not flushed is not proved by a flush over the new."""
        ...

    def put(self, layer: PairedDevice) -> None:
        """Put the layer into the volume's write path, below all others."""
        ...

    def take(self, layer: PairedDevice) -> None:
        """Take it out again."""
        ...

    def protect(self, protected: bool) -> None:
        """Tell hosts whether the volume takes writes."""
        ...


def is_elsewhere(volume: PairVolume) -> bool:
    """Whether a volume is another site's, which is called `SITE:VOLUME`."""
    return ":" in volume.name


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all pairs work with."""

    copies: Copies
    measure: Measure
    """Times the commands of hosts to a volume."""
    settings: PairSettings
    sites: OtherSites | None = None
    """None: there are no other sites, and no pairs with them."""


class SiteRefused(Exception):
    """The other site does not answer, or does not agree; the message says which and why."""


class OtherSites(Protocol):
    """The first controllers that follow where this one leads. A record given here has a site."""

    def volume(self, record: PairRecord) -> PairVolume:
        """The volume of the other site."""
        ...

    async def tell(self, record: PairRecord) -> None:
        """Let the other site act by a state that is in the store, where it can be reached; it does
        when this returns, but for asynchronous pairs, whose hosts do not wait for that. What it did
        not hear it is told when it is there again."""
        ...

    async def enter(self, record: PairRecord) -> RegionBitmap:
        """The other site has to act by this state, in which one side is copied to the other, before
        that begins: see that it does. Returns its marks. Raises SiteRefused, after tries; of an
        asynchronous pair after one."""
        ...

    async def leave(self, record: PairRecord) -> None:
        """The pair is no more: tell the other site, where it can be reached."""
        ...

    def marked_bytes(self, record: PairRecord) -> int:
        """Bytes that the other site has marked and this one not, as it said last."""
        ...

    def has_taken_over(self, record: PairRecord) -> bool:
        """Whether the other site said last that its hosts use its volume, without us."""
        ...

    def notes(self, record: PairRecord) -> tuple[str, ...]:
        """What an administrator should know of the other site."""
        ...


class RoundFailed(Exception):
    """A round of copying ended before all was copied; what was yielded before is confirmed."""


class Copies(Protocol):
    """Copies by the copy manager: planned, handed over where they can be."""

    def copy(
        self,
        pair: str,
        source: str,
        destination: str,
        ranges: Sequence[tuple[int, int]],
        pace: Pace,
    ) -> AsyncGenerator[RangeSet, None]:
        """Copy these runs of blocks (first, blocks) from one volume to the same place of another.
        Yields, each time that more is on the destination's stable storage, all blocks that are;
        at the end all of them. Ends early, with nothing in flight, when it is closed. Raises
        RoundFailed."""
        ...

    async def set_pace(self, pair: str, pace: Pace) -> None:
        """Let the job that copies for a pair now, if any, go at another pace."""
        ...

    def job_of(self, pair: str) -> int | None:
        """The number of the job that copies for a pair now."""
        ...
