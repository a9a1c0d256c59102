"""What a logical unit keeps over restarts because a host told it to: saved mode pages (MODE SELECT
with the SP bit, SPC-4, 5.9), identifying information (SPC-4, 5.7), and with the APTPL bit the
registrations and the reservation (SPC-4, 5.13.5).

The unit knows no store. Who builds it gives it a `Keeper`; without one it keeps nothing and says
so: saving is refused, and the commands of identifying information do not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from daiko.target.registrations import Registrations


@dataclass(frozen=True, slots=True)
class Kept:
    """All that is kept for one unit."""

    mode_pages: tuple[bytes, ...] | None = None
    """Whole pages, PS bit 0; None = no host has saved any."""
    identifying_information: bytes = b""
    """Of type 0000000b, binary."""
    identifying_text: bytes = b""
    """Of type 0000010b: UTF-8, without the NUL."""


NOTHING_KEPT = Kept()

Done = Callable[[bool], None]
"""Called with whether it is on stable storage."""


class Keeper(Protocol):
    """Keeps it for one unit."""

    @property
    def kept(self) -> Kept:
        """As last kept."""

    def keep(self, kept: Kept, done: Done) -> None:
        """Keep this from now on, instead of what was; `done` is called later, once."""

    @property
    def is_lasting(self) -> bool:
        """What is kept is there after a restart: the controller has no store for once only."""

    @property
    def registrations(self) -> Registrations:
        """As last kept, with the generation 0 of a start."""

    def keep_registrations(self, state: Registrations, done: Done) -> None:
        """Keep this state from now on, or nothing where it is not to be kept; `done` is called
        once, and where it is called with False nothing has changed."""
