"""What reservations say of a copy: its host must be able to do it himself.

The copy manager reads and writes for a host, and it may do at each logical unit what that host's
I_T nexus may: a source is read as by READ, a destination written as by WRITE. What a reservation
excludes ends the copy as a failure of that CSCD, with the status RESERVATION CONFLICT forwarded
(SPC-4, 5.17.7.4), whether it was there before the copy or came while it ran. What an administrator
copies is not a host's, and passes.
"""

from __future__ import annotations

from collections.abc import Iterable

from daiko.command_control.command_table import BY_NAME
from daiko.copy_manager.error import Side
from daiko.scsi.opcode import Status
from daiko.scsi.sense import ForwardedSense, Sense, third_party_device_failure
from daiko.target.bar import BY_RESERVATION, barred_by
from daiko.target.commands.copy_answer import HostSegment
from daiko.target.logical_unit import LogicalUnit
from daiko.target.nexus import Nexus

_READ = barred_by(BY_NAME["READ_16"]) & BY_RESERVATION
_WRITE = barred_by(BY_NAME["WRITE_16"]) & BY_RESERVATION


def reserved_sides(segments: Iterable[HostSegment], nexus: Nexus) -> dict[int, Side]:
    """Number of a segment -> the side that a reservation keeps this host from."""
    found = {}
    for segment in segments:
        if _excludes(segment.source.unit, nexus, _READ):
            found[segment.number] = Side.SOURCE
        elif _excludes(segment.destination.unit, nexus, _WRITE):
            found[segment.number] = Side.DESTINATION
    return found


def _excludes(unit: LogicalUnit | None, nexus: Nexus, bars: int) -> bool:
    return unit is not None and bool(unit.reservations.bars_for(nexus) & bars)


def conflict(segment: HostSegment, side: Side, *, residual: int | None = None) -> Sense:
    """What the host is told."""
    at_fault = segment.source if side is Side.SOURCE else segment.destination
    forwarded = ForwardedSense(Status.RESERVATION_CONFLICT, b"")
    return third_party_device_failure(
        segment.number,
        cscd_byte=at_fault.cscd_byte,
        residual=residual,
        source=forwarded if side is Side.SOURCE else None,
        destination=forwarded if side is Side.DESTINATION else None,
    )
