"""The function table TF: for each second controller and function, can it or can it not [0082].

Its cells are found by asking (probed), set by hand, or learned from a failure; by hand always
wins, and of what was found the newest. Reachability is part of it: which devices a controller can
reach by itself is a column, not an assumption. All are values; the store keeps the cells as they
are, and a `FunctionTable` is built from them whenever one of them changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from daiko.command_control.plan import Function
from daiko.mapping.extent import DeviceId


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
    only_no_list_id: bool = False
    """It takes usage 11b and no other (tcmu-runner)."""
    segment_types: tuple[int, ...] = (0x02,)
    cscd_types: tuple[int, ...] = (0xE4,)
    aliases: bool = False
    """It takes CHANGE ALIASES, so that LUs on other machines can be named by E6h."""


LEAST_LIMITS = CopyLimits(
    max_cscds=2,
    max_segments=1,
    max_list_bytes=92,
    max_segment_bytes=16 << 20,
    no_list_id=True,
)
"""The one form that every known copy manager takes: for a controller that was declared able by
hand and never said what it takes."""


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


Cell = TypeVar("Cell", FunctionCell, ReachCell)


@dataclass(frozen=True, slots=True)
class FunctionTable:
    """The whole table: one cell a (controller, function), one a (controller, device reached)."""

    functions: Mapping[tuple[str, Function], FunctionCell] = field(default_factory=dict)
    reach: Mapping[tuple[str, str], ReachCell] = field(default_factory=dict)
    """By (controller, `BACKEND/LUN` of one device or `BACKEND` for all devices of a back end)."""

    @classmethod
    def of(
        cls,
        functions: Iterable[tuple[str, Function, FunctionCell]] = (),
        reach: Iterable[tuple[str, str, ReachCell]] = (),
    ) -> FunctionTable:
        """Build the table from all cells there are: of several for one place by hand wins, then
        the newest. A cell by hand that says "can" without limits has those that were found."""
        chosen: dict[tuple[str, Function], FunctionCell] = {}
        found: dict[tuple[str, Function], FunctionCell] = {}
        for backend, function, cell in functions:
            place = (backend, function)
            chosen[place] = _stronger(chosen.get(place), cell)
            if cell.limits is not None:
                found[place] = _stronger(found.get(place), cell)
        for place, cell in chosen.items():
            if cell.can and cell.limits is None:
                source = found.get(place)
                limits = source.limits if source is not None else LEAST_LIMITS
                chosen[place] = replace(cell, limits=limits)
        reached: dict[tuple[str, str], ReachCell] = {}
        for backend, device, reach_cell in reach:
            reached[backend, device] = _stronger(reached.get((backend, device)), reach_cell)
        return cls(MappingProxyType(chosen), MappingProxyType(reached))

    def function(self, backend: str, function: Function) -> FunctionCell | None:
        """What is known of a controller and a function; None when nothing is."""
        return self.functions.get((backend, function))

    def reaches(self, backend: str, device: DeviceId) -> ReachCell | None:
        """What is known of a controller and a device; None when nothing is. A cell for the device
        stands before one for its whole back end, unless only the latter was set by hand."""
        one = self.reach.get((backend, str(device)))
        whole = self.reach.get((backend, device.backend))
        if one is None or whole is None:
            return one or whole
        if whole.known is Known.DECLARED and one.known is not Known.DECLARED:
            return whole
        return one


def _stronger(old: Cell | None, new: Cell) -> Cell:
    if old is None:
        return new
    by_hand = (new.known is Known.DECLARED) - (old.known is Known.DECLARED)
    return new if by_hand > 0 or (by_hand == 0 and new.at >= old.at) else old
