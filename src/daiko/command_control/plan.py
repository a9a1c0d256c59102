"""A plan is a value: what is to be copied, by whom, and why by them.

`decision.py` makes plans, `generation.py` turns delegated steps into second commands, the copy
manager carries plans out, jobs store them, `daiko explain` prints them. All are in blocks; a step
is one run of blocks of one device on either side, so whoever carries it out needs no mapping table.

Steps stand in the order of the request. Those that touch different blocks may run side by side;
`Step.must_follow` says of two which may not, since EXTENDED COPY promises that a segment sees what
the segments before it wrote (SPC-4 6.4.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from daiko.mapping.extent import Piece


class Function(StrEnum):
    """What a controller can be asked to do beyond reading and writing."""

    DIRECT_BACKUP = "direct-backup"
    VOLUME_COPY = "volume-copy"


class Mode(StrEnum):
    """How a system works [0034]; per system, overridable per volume and per job."""

    DELEGATE = "delegate"
    """Mode 1: virtual LUs, and what a second controller can do is handed to it."""
    DIRECT = "direct"
    """Mode 2: virtual LUs, and the first controller does everything itself."""
    LOCAL = "local"
    """Mode 3: an ordinary controller for its own disks; a full copy manager."""


FUNCTION_WORDS = {Function.DIRECT_BACKUP: "direct backup", Function.VOLUME_COPY: "volume copy"}
"""Functions as sentences name them."""


class ExecutorKind(StrEnum):
    SECOND_CONTROLLER = "second-controller"
    THIS_CONTROLLER = "this-controller"


class Executor(NamedTuple):
    """Who carries out a step."""

    kind: ExecutorKind
    name: str
    """The second controller's name; "" for this controller."""

    @property
    def delegated(self) -> bool:
        return self.kind is ExecutorKind.SECOND_CONTROLLER

    def __str__(self) -> str:
        return f"second controller {self.name}" if self.delegated else "this controller"


THIS_CONTROLLER = Executor(ExecutorKind.THIS_CONTROLLER, "")


class Rejection(NamedTuple):
    """An executor that was considered and not chosen."""

    executor: Executor
    reason: str
    """One sentence for the administrator, without a full stop."""


def overlapping(one: Piece, other: Piece) -> bool:
    """Have two pieces a block in common?"""
    return (
        one.device == other.device
        and one.lba < other.lba + other.blocks
        and other.lba < one.lba + one.blocks
    )


@dataclass(frozen=True, slots=True)
class Step:
    """One run of blocks, from one device to one device, by one executor."""

    source: Piece
    destination: Piece
    """As many bytes as the source; in blocks of the destination device."""
    executor: Executor
    reason: str
    rejected: tuple[Rejection, ...] = ()
    segment: int = 0
    """Number (from 0) of the requested segment that this step is a part of."""

    def must_follow(self, earlier: Step) -> bool:
        """May this step begin only when `earlier`, which stands before it, is done? So it is when
        one of them writes blocks that the other reads or writes."""
        return (
            overlapping(earlier.destination, self.source)
            or overlapping(earlier.destination, self.destination)
            or overlapping(earlier.source, self.destination)
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of one request, in the order of the request's segments."""

    function: Function
    steps: tuple[Step, ...] = field(default=())

    @property
    def blocks(self) -> int:
        """Source blocks of all steps."""
        return sum(step.source.blocks for step in self.steps)

    @property
    def delegated_blocks(self) -> int:
        """Source blocks of the steps that second controllers carry out."""
        return sum(step.source.blocks for step in self.steps if step.executor.delegated)
