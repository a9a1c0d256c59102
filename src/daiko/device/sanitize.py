"""SANITIZE as something that a device does by its own means (SBC-4, 4.11).

It goes on for hours, without whoever asked for it, and survives the loss of everything between. So
the device tells a watcher what it hears of it, and who asks again says whether it has been begun.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from daiko.device.error import DeviceError
from daiko.scsi.medium_parameters import Overwrite


@dataclass(frozen=True, slots=True)
class Sanitization:
    """What is to become of all blocks of a device."""

    overwrite: Overwrite | None
    """The pattern that is written over them; None: they are erased (BLOCK ERASE)."""
    is_restricted: bool
    """AUSE 0: after a failure only another one of this kind opens the device."""
    blocks: int
    """How many the medium has as far as whoever asks knows: all that may be lost."""


class SanitizeWatcher(Protocol):
    """Who is told; called on the event loop, and never before `BlockDevice.sanitize` returns."""

    def taken_over(self) -> None:
        """The device is at it, and will go on whatever becomes of this controller."""

    def progressed(self, parts: int) -> None:
        """How far it is, in parts of 65,536; the device has answered."""

    def ended(self, error: DeviceError | None) -> None:
        """It is proved that the device has come to the end of it (None), or that it has failed.
        Unsupported: the device refuses it, and has begun nothing. Unreachable, Busy, Aborted: it is
        not known how far it is; whoever wants to know asks again. Called once, the last call."""
