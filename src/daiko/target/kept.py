"""What a logical unit keeps over restarts because a host told it to: saved mode pages (MODE SELECT
with the SP bit, SPC-4, 5.9) and identifying information (SPC-4, 5.7).

The unit knows no store. Who builds it gives it a `Keeper`; without one it keeps nothing and says
so: saving is refused, and the commands of identifying information do not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


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
