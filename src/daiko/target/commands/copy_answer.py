"""What a host is told of a copy that failed: sense data of COPY ABORTED (SPC-4, 6.4.4).

However a host's segments were split, delegated and pumped, the host sees its own command: the
number of its segment, a pointer to the CSCD descriptor in its list that says which side failed, the
answer of that side forwarded, and as residual the destination blocks of that segment which were
not written. The number promises that all segments before it are done; so it is that of the first
segment that is not, and when that is not the one whose failure ended the job, nothing more is said
of the failure than that there was one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from daiko.command_control.decision import (
    InexactSegment,
    RangeOutsidePlace,
    RangesOverlap,
    Undecidable,
)
from daiko.copy_manager.error import CopyFailed, Side
from daiko.copy_manager.running_job import RunningJob
from daiko.copy_manager.step_work import StepWork
from daiko.device.error import DeviceError, Unreachable
from daiko.scsi.opcode import Status
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.sense import (
    FieldPointer,
    ForwardedSense,
    Sense,
    copy_aborted,
    copy_commands_cleared,
    copy_target_not_reachable,
    invalid_operation_for_copy,
    lba_out_of_range,
    third_party_device_failure,
    third_party_error,
    unexpected_inexact_segment,
)
from daiko.state.record import JobState
from daiko.target.commands.cscd_resolution import Resolved
from daiko.target.failure import answer_to

_DESTINATION_LBA = 20
"""Byte of segment descriptor 02h."""


@dataclass(frozen=True, slots=True)
class HostSegment:
    """A segment of the host's command that copies blocks, with what it names."""

    number: int
    descriptor: BlockToBlock
    source: Resolved
    destination: Resolved
    blocks: int
    """Source blocks."""

    @property
    def destination_blocks(self) -> int:
        return self.blocks * self.source.block_size // self.destination.block_size


def beyond_the_end(segment: int, at_fault: Resolved, *, at_source: bool) -> Sense:
    """The range of a segment reaches past the end of one side, which would refuse it."""
    refusal = ForwardedSense(Status.CHECK_CONDITION, lba_out_of_range(at_fault.blocks).fixed())
    byte = at_fault.cscd_byte
    return copy_aborted(
        0x0D,
        0x02,
        segment=segment,
        field=None if byte is None else FieldPointer(byte),
        source=refusal if at_source else None,
        destination=None if at_source else refusal,
    )


def overlap(segment: int) -> Sense:
    """Source and destination of a segment have blocks in common."""
    return invalid_operation_for_copy(segment, byte=_DESTINATION_LBA)


def refused(error: Undecidable, segments: Mapping[int, HostSegment]) -> Sense:
    """A copy that was not begun because no plan can be made for it."""
    match error:
        case RangesOverlap():
            return overlap(error.segment)
        case InexactSegment():
            return unexpected_inexact_segment(error.segment)
        case RangeOutsidePlace():
            segment = segments[error.segment]
            side = segment.source if error.at_source else segment.destination
            return beyond_the_end(error.segment, side, at_source=error.at_source)
        case _:
            return third_party_error(error.segment)


def answer(job: RunningJob, segments: Mapping[int, HostSegment]) -> tuple[int, Sense | None]:
    """Status and sense data for a job that has ended."""
    if is_whole(job):
        return Status.GOOD, None
    segment = first_unfinished(job)
    left = residual(job, segments.get(segment))
    failure = job.failure
    if failure is None:
        return Status.CHECK_CONDITION, copy_commands_cleared(segment, residual=left)
    if failure.segment != segment or segment not in segments:
        return Status.CHECK_CONDITION, third_party_error(segment, residual=left)
    return Status.CHECK_CONDITION, _failure_sense(failure, segments[segment], left)


def is_whole(job: RunningJob) -> bool:
    """Everything was copied."""
    return job.record.state is JobState.DONE


def first_unfinished(job: RunningJob) -> int:
    """Number of the first segment of which not all is copied."""
    return min((work.step.segment for work in job.works if not work.is_copied), default=0)


def _failure_sense(failure: CopyFailed, segment: HostSegment, residual: int | None) -> Sense:
    number, error, side = segment.number, failure.error, failure.side
    if error is None or side is None:
        return third_party_error(number, residual=residual)
    byte = (segment.source if side is Side.SOURCE else segment.destination).cscd_byte
    if isinstance(error, Unreachable):
        return copy_target_not_reachable(number, cscd_byte=byte, residual=residual)
    forwarded = _forwarded(error)
    return third_party_device_failure(
        number,
        cscd_byte=byte,
        residual=residual,
        source=forwarded if side is Side.SOURCE else None,
        destination=forwarded if side is Side.DESTINATION else None,
    )


def _forwarded(error: DeviceError) -> ForwardedSense:
    status, said = answer_to(error)
    if isinstance(said, Sense):
        said = said.fixed()
    return ForwardedSense(status, said or b"")


def residual(job: RunningJob, segment: HostSegment | None) -> int | None:
    """Destination blocks of the segment that were not written; None when none was."""
    if segment is None:
        return None
    written = sum(_written(work) for work in job.works if work.step.segment == segment.number)
    return segment.destination_blocks - written if written else None


def _written(work: StepWork) -> int:
    return work.copied_blocks * work.block_size // work.destination_block_size
