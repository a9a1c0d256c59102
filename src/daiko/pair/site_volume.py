"""A volume of another site as the side of a pair that is copied to.

The link may not be up when the pair needs the volume first (this controller has just started), and
the volume may be at another LUN later. So the pair has a device of its own that stays the same, and
what it is sent goes to the device of the link, once that is found. Until then requests wait, as
they do in a session that was lost, and for as long; then they end with Unreachable, and the pair is
split by error. Of an asynchronous pair they end so at once: it tries again by itself, as soon as
the volume is found, and nobody else has to wait for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from daiko.backend.site_link import SiteLink
from daiko.backend.site_reading import PeerRefused
from daiko.backend.site_session import NotOffered, SiteUnavailable
from daiko.device.awaitable import read
from daiko.device.block import BlockDevice, Buffer, Capabilities, Done, Level, ReadDone
from daiko.device.emulate import Emulate
from daiko.device.error import DeviceError, Unreachable
from daiko.pair.write_path import PairedDevice
from daiko.scsi.site_values import OfferedVolume
from daiko.state.pair_record import PairRecord

PATIENCE: Final = 30.0
"""Seconds that requests wait for a volume that was not found yet."""

_CAPABILITIES: Final = Capabilities(
    unmap=Level.NONE,
    write_same=Level.EMULATED,
    compare_and_write=Level.NONE,
    fua=Level.EMULATED,
)
"""What the write path of pairs sends to the side that follows."""


class SiteDevice(BlockDevice):
    """The volume's device at the link, once it is found."""

    def __init__(self, name: str, blocks: int, block_size: int, patience: float = PATIENCE) -> None:
        """`patience`: seconds that requests wait."""
        self.blocks = blocks
        self.block_size = block_size
        self.capabilities = _CAPABILITIES
        self._name = name
        self._patience = patience
        self._below: BlockDevice | None = None
        self._waiting: list[tuple[Callable[[BlockDevice], None], Callable[[DeviceError], None]]]
        self._waiting = []
        self._timer: asyncio.TimerHandle | None = None

    def use(self, below: BlockDevice) -> None:
        """The device is this one from now on; who waited for it goes on."""
        self._below = below
        for go_on, _ in self._take_waiting():
            go_on(below)

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        self._with(lambda below: below.read(lba, blocks, done), lambda error: done(error, b""))

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        if self._below is not None:
            self._below.write(lba, data, done, fua)
        else:
            self._with(lambda below: below.write(lba, data, done, fua), done)

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        self._with(lambda below: below.write_same(lba, blocks, pattern, done), done)

    def flush(self, done: Done) -> None:
        """Also reads a block: a reset that the volume met while it was flushed is told with the
        next command only, and whoever takes the flush for proof has to know of it."""

        def flushed(error: DeviceError | None) -> None:
            if error is not None:
                done(error)
            else:
                self.read(0, 1, lambda error, data: done(error))

        self._with(lambda below: below.flush(flushed), done)

    def close(self) -> None:
        """Nobody uses it any more; who still waits is told."""
        self._give_up("the pair is no more, or the controller stops")

    def _with(
        self, go_on: Callable[[BlockDevice], None], fail: Callable[[DeviceError], None]
    ) -> None:
        if self._below is not None:
            go_on(self._below)
            return
        if not self._patience:
            fail(Unreachable(f"{self._name}: its site has not shown it yet"))
            return
        self._waiting.append((go_on, fail))
        if self._timer is None:
            loop = asyncio.get_running_loop()
            why = f"its site did not show it within {self._patience:g} s"
            self._timer = loop.call_later(self._patience, self._give_up, why)

    def _give_up(self, why: str) -> None:
        for _, fail in self._take_waiting():
            fail(Unreachable(f"{self._name}: {why}"))

    def _take_waiting(
        self,
    ) -> list[tuple[Callable[[BlockDevice], None], Callable[[DeviceError], None]]]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        return waiting


class SiteVolume:
    """The secondary of a pair, at another site (`surroundings.PairVolume`)."""

    def __init__(
        self, record: PairRecord, blocks: int, block_size: int, link: Callable[[], SiteLink]
    ) -> None:
        """`link` raises KeyError where the site is not known any more."""
        self.name = record.secondary
        self.naa = record.peer_naa
        self.blocks = blocks
        self.block_size = block_size
        patience = 0.0 if record.is_async else PATIENCE
        self.device = SiteDevice(self.name, blocks, block_size, patience)
        self._link = link
        self._used: SiteLink | None = None
        """The link by which it was found."""
        self._begun = 0
        """The generation of that link when it was first used."""
        self._lost = 0
        """How often connections to it were lost that are used no more."""

    @property
    def generations(self) -> tuple[int, ...]:
        """`PairVolume.generations`. As long as it was not found nothing has been written, so
        finding it changes nothing: what waited for it goes over the connection that a flush goes
        over as well."""
        if self._used is None:
            return (0,)
        return (self._lost + self._used.generation - self._begun,)

    def put(self, layer: PairedDevice) -> None:
        """No host of ours writes to it."""

    def take(self, layer: PairedDevice) -> None:
        self.device.close()

    def protect(self, protected: bool) -> None:
        """Its site sees to that."""

    async def find(self) -> None:
        """Find the volume at the link as it is now, and use it. Raises SiteUnavailable, NotOffered,
        DeviceError."""
        link = self._link()
        offered = next(
            (each for each in (await link.volumes()).values() if each.naa.hex() == self.naa), None
        )
        if offered is None:
            raise NotOffered(f"{self.name} is not offered to us any more")
        self._check(offered)
        device = await link.device(offered.lun)
        # What the volume has to tell first (unit attentions) is heard before anything depends on
        # it.
        await read(device, 0, 1)
        if self._used is not link:
            if self._used is not None:
                self._lost += self._used.generation - self._begun + 1
            self._used, self._begun = link, link.generation
        self.device.use(Emulate(device))

    def _check(self, offered: OfferedVolume) -> None:
        if (offered.blocks, offered.block_size) != (self.blocks, self.block_size):
            raise NotOffered(
                f"{self.name} has {offered.blocks} blocks of {offered.block_size} bytes now"
            )


FAILURES: Final = (SiteUnavailable, NotOffered, DeviceError, PeerRefused, KeyError)
"""What `find` and questions over the link may raise."""
