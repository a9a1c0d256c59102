"""The way of a change by the journal: to the primary, then into the journal, then its host hears.

Two changes of the same blocks exclude each other, so the journal has them in the order in which the
primary had them. A change that the primary fails leaves blocks that nobody knows; then the journal
ends, and what differs is copied. So it does where it cannot take an entry; the host's write is good
all the same, and its regions are marked.
"""

from __future__ import annotations

from typing import Final

from daiko.device.block import Buffer, Done
from daiko.device.error import DeviceError, Miscompare, Unsupported
from daiko.pair.journal import Journal
from daiko.pair.journal_file import Kind
from daiko.pair.operation import Change
from daiko.pair.write_path import Flight, PairedDevice, Way

_WAY: Final = int(Way.JOURNAL)


class JournalPath:
    """Of the primary of a pair, since it joined."""

    def __init__(self, layer: PairedDevice, journal: Journal, stream: bytes, volume: str) -> None:
        """`stream` is 8 bytes that its entries carry; `volume` is what messages call it."""
        self.layer = layer
        self.journal = journal
        self.stream = stream
        self.volume = volume

    def __call__(self, lba: int, change: Change, done: Done) -> None:
        """Carry out a change (`PairedDevice.journaled`)."""
        self.layer.lock.wait_exclusive(
            lba, change.blocks, lambda ticket: self._begin(ticket, lba, change, done)
        )

    def _begin(self, ticket: int, lba: int, change: Change, done: Done) -> None:
        """With the blocks for itself alone."""
        layer = self.layer
        if layer.way != _WAY or not layer.is_marked(lba, change, done):
            layer.lock.leave(ticket)
            if layer.way != _WAY:
                layer.change(lba, change, done)
            return
        layer.unproved.touched(lba, change.blocks)
        flight = layer.flights.now
        flight.requests += 1
        _Journaled(self, flight, ticket, lba, change, done).begin()


class _Journaled:
    """One change under way."""

    __slots__ = ("_after", "_change", "_done", "_flight", "_lba", "_path", "_ticket")

    def __init__(
        self, path: JournalPath, flight: Flight, ticket: int, lba: int, change: Change, done: Done
    ) -> None:
        self._path = path
        self._flight = flight
        self._ticket = ticket
        self._lba = lba
        self._change = change
        self._done = done
        self._after = path.journal.last

    def begin(self) -> None:
        self._change.lead(self._path.layer.below, self._lba, self._led)

    def _led(self, error: DeviceError | None) -> None:
        if error is not None:
            if not isinstance(error, (Miscompare, Unsupported)):  # then nothing was done
                self._give_up(error)
            self._end(error)
            return
        outcome = self._change.outcome
        if outcome is None:
            self._path.layer.below.read(self._lba, self._change.blocks, self._has_read)
        else:
            self._enter(Kind.SAME if outcome.is_same else Kind.DATA, outcome.data)

    def _has_read(self, error: DeviceError | None, data: Buffer) -> None:
        if error is None:
            self._enter(Kind.DATA, data)
        else:
            # The primary has done it; what it has made of the blocks is for copying.
            self._give_up(error)
            self._end(None)

    def _enter(self, kind: Kind, data: Buffer) -> None:
        path, blocks = self._path, self._change.blocks
        if path.journal.enter(path.stream, kind, self._lba, blocks, data, self._after):
            path.layer.unproved.entered(self._lba, blocks)
            path.journal.entered(lambda: self._end(None))
        else:
            path.layer.differ(self._lba, blocks)
            self._end(None)

    def _give_up(self, error: DeviceError) -> None:
        self._path.layer.differ(self._lba, self._change.blocks)
        self._path.journal.end(f"{self._path.volume}: {error}")

    def _end(self, error: DeviceError | None) -> None:
        self._done(error)
        self._path.layer.lock.leave(self._ticket)
        self._flight.leave()
