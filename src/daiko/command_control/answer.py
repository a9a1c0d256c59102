"""The way back: what the answer to a second command means in the host's own terms.

A second controller counts segments and bytes in the list that it was sent. The host knows only its
own list: one of its segments may have become several commands to several executors. So the number
of the failed segment, the residual and the field pointer are mapped back; a pointer that means
nothing in the host's list is left out rather than passed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from daiko.command_control.generation import Cover, SecondCommand
from daiko.command_control.plan import Step
from daiko.mapping.range_set import RangeSet
from daiko.scsi.copy_parameters import ExtendedCopy, parse_extended_copy
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.sense import Sense, SenseKey


class Side(Enum):
    """Which LU of a segment."""

    SOURCE = "source"
    DESTINATION = "destination"


def confirmed(command: SecondCommand, sense: Sense) -> tuple[Cover, ...]:
    """What a command that ended with this sense data has surely copied: the segments before the
    one that failed (SPC-4, 6.4.6: they are processed in order). Of that one nothing is counted: a
    residual says how much is missing, not where. A copy manager that gives no segment number
    (LIO) reads as 0, and confirms nothing."""
    if sense.key != SenseKey.COPY_ABORTED or sense.segment is None:
        return ()
    return command.covers[: sense.segment] if sense.segment < len(command.covers) else ()


def failed_cover(command: SecondCommand, sense: Sense) -> Cover:
    """The part of the steps at which the command failed, as far as the sense data tells."""
    return command.covers[len(confirmed(command, sense))]


def failed_side(command: SecondCommand, sense: Sense) -> Side | None:
    """Which LU of the failed segment it was, where the sense data tells: it forwards the answer
    of one of them, or its field pointer points at a CSCD descriptor of the list that was sent."""
    if (sense.source is None) != (sense.destination is None):
        return Side.SOURCE if sense.source is not None else Side.DESTINATION
    if sense.field is None or sense.field.in_cdb or sense.field.segment_relative:
        return None
    sent = parse_extended_copy(command.parameter_list)
    segment = sent.segments[len(confirmed(command, sense))]
    if not isinstance(segment, BlockToBlock) or segment.source == segment.destination:
        return None
    for side, cscd_id in ((Side.SOURCE, segment.source), (Side.DESTINATION, segment.destination)):
        cscd = sent.cscd(cscd_id)
        start = sent.cscd_offset(cscd_id)
        if cscd is not None and start <= sense.field.byte < start + cscd.size:
            return side
    return None


def host_pointer(host: ExtendedCopy, segment: int, side: Side) -> int | None:
    """The first byte, in the host's parameter list, of the CSCD descriptor of one side of a
    segment; None where the list has none (the LU that received the command, FFFFh)."""
    asked = host.segments[segment]
    if not isinstance(asked, BlockToBlock):
        return None
    cscd_id = asked.source if side is Side.SOURCE else asked.destination
    return host.cscd_offset(cscd_id) if host.cscd(cscd_id) is not None else None


def residual(steps: Sequence[Step], segment: int, done: Mapping[int, RangeSet]) -> int:
    """Destination blocks of a host's segment that are not known to be written. `steps` are all
    steps of the plan; `done` has, by the position of a step, its confirmed source blocks counted
    from the step's start."""
    missing = 0
    for position, step in enumerate(steps):
        if step.segment == segment:
            ranges = done.get(position, RangeSet())
            left = sum(blocks for _, blocks in ranges.gaps(0, step.source.blocks))
            # Rounded up: a destination block of which a part is missing is not written.
            missing += -(-left * step.destination.blocks // step.source.blocks)
    return missing
