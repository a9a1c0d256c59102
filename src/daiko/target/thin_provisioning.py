"""How much room a thin unit has and uses, and thresholds at which hosts are told (SBC-4, 4.7.3).

The numbers are counted in threshold sets of 1 MiB (page B2h, THRESHOLD EXPONENT). A host, or an
administrator through one, sets the thresholds by mode page 1Ch/02h; LOG SENSE page 0Ch tells the
numbers (`commands/log.py`).

While a threshold is enabled the numbers are looked at every few seconds, and never on the way of a
WRITE. When a threshold is crossed the hosts are told once (THIN PROVISIONING SOFT THRESHOLD
REACHED), and again only when the number has been on its other side since. When there is no room at
all a WRITE ends with SPACE ALLOCATION FAILED WRITE PROTECT (`failure.py`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from daiko.scsi.mode_page import BlockProvisioningPage
from daiko.target.event import Event
from daiko.target.mode_settings import BLOCK_PROVISIONING

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit

THRESHOLD_SET = 1 << 20
"""Bytes."""

LOOK_SECONDS = 5.0
"""Between two looks at the numbers while a threshold is enabled."""

AVAILABLE, USED = 0x0001, 0x0002
"""Log parameters of page 0Ch, and THRESHOLD RESOURCE of mode page 1Ch/02h."""


class Resources(NamedTuple):
    """LBA mapping resources, in threshold sets."""

    available: int
    """Left of what this unit shares with others."""
    used: int | None
    """By this unit; None = it cannot be told."""


def is_thin(unit: LogicalUnit) -> bool:
    """Can the unit run out of room, and tell how near it is to that?"""
    return unit.bare_device.capabilities.tells_room


def threshold_exponent(unit: LogicalUnit) -> int:
    """Log2 of the blocks of a threshold set; 0 = the unit has no thresholds."""
    if not is_thin(unit):
        return 0
    return (THRESHOLD_SET // unit.block_size).bit_length() - 1


def resource_counters(unit: LogicalUnit) -> Resources | None:
    """The numbers as they are now; None where nothing can be told."""
    room = unit.bare_device.room()
    if room is None:
        return None
    blocks = THRESHOLD_SET // unit.block_size
    used = None if room.used is None else -(-room.used // blocks)
    return Resources(room.available // blocks, used)


class Thresholds:
    """The thresholds of one unit, while any is enabled."""

    __slots__ = ("_reached", "_timer", "_unit")

    def __init__(self, unit: LogicalUnit) -> None:
        self._unit = unit
        self._reached: set[int] = set()
        """Resources whose threshold was reached, and is so still."""
        self._timer: asyncio.TimerHandle | None = None

    def follow(self) -> None:
        """The mode page is another one, or the unit begins: look now and then, or not at all."""
        self.stop()
        if is_thin(self._unit) and has_thresholds(self._unit):
            self.look()
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self.follow)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look(self) -> None:
        """Compare the numbers with the thresholds, and tell the hosts of one that is crossed."""
        found = resource_counters(self._unit)
        if found is None:
            return
        available, used = _enabled(self._unit)
        now = set()
        if available is not None and found.available <= available:
            now.add(AVAILABLE)
        if used is not None and found.used is not None and found.used >= used:
            now.add(USED)
        if now - self._reached:
            self._unit.announce(Event.SOFT_THRESHOLD_REACHED)
        self._reached = now


def _enabled(unit: LogicalUnit) -> tuple[int | None, int | None]:
    """The thresholds (available, used) in threshold sets; None = not enabled."""
    fields = BlockProvisioningPage.unpack(unit.mode.pages[BLOCK_PROVISIONING])
    return (
        fields.available_count if fields.available_enabled else None,
        fields.used_count if fields.used_enabled else None,
    )


def has_thresholds(unit: LogicalUnit) -> bool:
    """Is any enabled?"""
    return any(each is not None for each in _enabled(unit))
