"""Which blocks of its source hosts write while a job runs.

Tracking stands in the write path of every volume that the job reads. Other jobs write to devices
past that path, by this controller or a second one: each says what it is about to write to
(`CopyWrites`), and that counts as changed from the moment when it begins. A source that is no
volume (a device of a back end, used directly) has no write path here: nobody can say what others
wrote to it, so a job with such a source is not reported as of one instant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from daiko.copy_manager.devices import Devices, Tracking
from daiko.copy_manager.running_job import RunningJob
from daiko.copy_manager.step_work import StepWork
from daiko.mapping.extent import DeviceId, Piece
from daiko.mapping.range_set import RangeSet


class CopyWrites:
    """What running jobs write to, for those that read there."""

    def __init__(self) -> None:
        self._readers: dict[int, SourceTracking] = {}
        self._under_way: dict[int, tuple[int, list[Piece]]] = {}
        """By the identity of the batch: (job, where it writes)."""

    def begin(self, job: int, reader: SourceTracking) -> None:
        """Tell `reader` what other jobs are writing now, and will write until `end`."""
        self._readers[job] = reader
        for writer, pieces in self._under_way.values():
            if writer != job:
                reader.copied_over(pieces)

    def end(self, job: int) -> None:
        """That job reads no more."""
        self._readers.pop(job, None)

    @contextmanager
    def under_way(self, job: int, works: Sequence[StepWork]) -> Iterator[None]:
        """While what is missing of these steps is being written. A job's own writes are none of
        its changes: a later segment may read what an earlier one wrote."""
        pieces = [work.part(*run).destination for work in works for run in work.missing()]
        for reader, tracking in self._readers.items():
            if reader != job:
                tracking.copied_over(pieces)
        self._under_way[id(works)] = (job, pieces)
        try:
            yield
        finally:
            del self._under_way[id(works)]


class SourceTracking:
    """The tracking of one running job; begins when it is made."""

    def __init__(self, devices: Devices, job: RunningJob, writes: CopyWrites) -> None:
        self._devices = devices
        self._writes = writes
        self._job = job
        self._before = job.draft.changed_blocks
        """Changed before a restart of the controller, as far as was noted."""
        self._ranges: dict[str, RangeSet] = {}
        self._tracked: dict[str, Tracking] = {}
        self._unseen = False
        self._lies_on: dict[DeviceId, RangeSet] = {}
        self._copied_over: dict[DeviceId, RangeSet] = {}
        for work in job.works:
            source = work.step.source
            self._lies_on.setdefault(source.device, RangeSet()).add(source.lba, source.blocks)
        for span in job.request.ranges:
            name = span.source or job.request.source
            self._ranges.setdefault(name, RangeSet()).add(span.lba, span.blocks)
        # What hosts write meanwhile is known to a pair, which needs no count of it.
        for name in () if job.request.by_pair else self._ranges:
            try:
                self._tracked[name] = devices.track(name)
            except LookupError:
                self._unseen = True
        writes.begin(job.id, self)

    def copied_over(self, pieces: Sequence[Piece]) -> None:
        """Another job writes to these places."""
        for device, lba, blocks in pieces:
            if device in self._lies_on:
                inside = self._lies_on[device].within(lba, blocks)
                self._copied_over.setdefault(device, RangeSet()).update(inside)

    @property
    def changed_blocks(self) -> int:
        """Blocks of the job's ranges that hosts or other jobs wrote since it began; one that both
        wrote counts twice."""
        changed = sum(copied.blocks for copied in self._copied_over.values())
        for name, tracking in self._tracked.items():
            changed += sum(tracking.changed_in(*span) for span in self._ranges[name])
        return self._before + changed

    def note(self) -> None:
        """Put what is known now into the job's draft."""
        changed = self.changed_blocks
        record = self._job.draft
        self._job.draft = record.model_copy(
            update={
                "changed_blocks": changed,
                "one_instant": record.one_instant and changed == 0 and not self._unseen,
            }
        )

    def end(self) -> None:
        """Take the tracking out of the write path, with its result in the draft."""
        self.note()
        self._writes.end(self._job.id)
        for name, tracking in self._tracked.items():
            self._devices.untrack(name, tracking)
        self._tracked.clear()
        self._copied_over.clear()
        self._before = self._job.draft.changed_blocks
