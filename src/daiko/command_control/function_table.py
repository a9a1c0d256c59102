"""The function table TF: for each second controller and function, can it or can it not [0082].

Its cells are found by asking (probed), set by hand, or learned from a failure; by hand always
wins. Reachability is part of it: which devices a controller can reach by itself is a column,
not an assumption. The classes are values without behaviour; the store keeps them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Known(StrEnum):
    """How a cell is known."""

    DECLARED = "by hand"
    PROBED = "probed"
    LEARNED = "learned from a failure"


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """What one EXTENDED COPY to a controller may contain (SPC-4 6.18, 7.8.17; 84h/03h)."""

    max_cscds: int
    max_segments: int
    max_list_bytes: int
    """CSCD and segment descriptors together."""
    max_segment_bytes: int = 0
    """0 = no limit said."""
    max_segment_blocks: int = 65535
    concurrent: int = 1
    no_list_id: bool = False
    """SNLID: list identifier usage 11b is allowed."""
    segment_types: tuple[int, ...] = (0x02,)
    cscd_types: tuple[int, ...] = (0xE4,)
    aliases: bool = False
    """It takes CHANGE ALIASES, so that LUs on other machines can be named by E6h."""


@dataclass(frozen=True, slots=True)
class FunctionCell:
    """Can this controller do this function?"""

    can: bool
    known: Known
    at: float
    """Seconds since the epoch."""
    reason: str
    limits: CopyLimits | None = None
    on: str = ""
    """Vendor, product and revision that it was found on."""


@dataclass(frozen=True, slots=True)
class ReachCell:
    """Can this controller reach that device by itself?"""

    can: bool
    known: Known
    at: float
    reason: str
