"""What a logical unit keeps over restarts because a host told it to: saved mode pages (MODE SELECT
with the SP bit, SPC-4, 5.9), identifying information (SPC-4, 5.7), and with the APTPL bit the
registrations and the reservation (SPC-4, 5.13.5).

The unit knows no store. Who builds it gives it a `Keeper`; without one, or with one that does not
outlive the process, it saves nothing and says so: saving is refused, and the commands of
identifying information do not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
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


class WorkKind(StrEnum):
    """What is done with all blocks of a medium."""

    FORMAT = "format"
    OVERWRITE = "overwrite"
    BLOCK_ERASE = "block erase"


@dataclass(frozen=True, slots=True)
class MediumWork:
    """A FORMAT UNIT or SANITIZE that is at work, or has failed (`target/medium.py`)."""

    kind: WorkKind
    pattern: bytes = b"\0"
    """At least 1 byte; repeated from the start of each block."""
    count: int = 1
    """Passes."""
    invert: bool = False
    """Each pass writes the inverse of what the one before wrote."""
    is_restricted: bool = False
    """SANITIZE with AUSE 0: after a failure only another such SANITIZE opens the unit."""
    has_failed: bool = False
    is_handed_over: bool = False
    """The device itself is at it, or was: it is asked how far it is, and how it ended."""


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
    def medium_work(self) -> MediumWork | None:
        """As last kept."""

    def keep_medium_work(self, work: MediumWork | None, done: Done) -> None:
        """Keep what is at work on the medium from now on (None: nothing); `done` is called once."""

    @property
    def registrations(self) -> Registrations:
        """As last kept, with the generation 0 of a start."""

    def keep_registrations(self, state: Registrations, done: Done) -> None:
        """Keep this state from now on, or nothing where it is not to be kept; `done` is called
        once, and where it is called with False nothing has changed."""
