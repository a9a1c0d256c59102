"""Which blocks of its source hosts write while a job runs.

Tracking stands in the write path of every volume that the job reads. A source that is no volume
(a device of a back end, used directly) has no write path here: nobody can say what others wrote to
it, so a job with such a source is not reported as of one instant.
"""

from __future__ import annotations

from daiko.copy_manager.devices import Devices, Tracking
from daiko.copy_manager.running_job import RunningJob
from daiko.mapping.range_set import RangeSet


class SourceTracking:
    """The tracking of one running job; begins when it is made."""

    def __init__(self, devices: Devices, job: RunningJob) -> None:
        self._devices = devices
        self._job = job
        self._before = job.record.changed_blocks
        """Changed before a restart of the controller, as far as was noted."""
        self._ranges: dict[str, RangeSet] = {}
        self._tracked: dict[str, Tracking] = {}
        self._unseen = False
        for span in job.request.ranges:
            name = span.source or job.request.source
            self._ranges.setdefault(name, RangeSet()).add(span.lba, span.blocks)
        for name in self._ranges:
            try:
                self._tracked[name] = devices.track(name)
            except LookupError:
                self._unseen = True

    @property
    def changed_blocks(self) -> int:
        """Blocks of the job's ranges that hosts wrote since it began."""
        changed = 0
        for name, tracking in self._tracked.items():
            changed += sum(tracking.changed_in(*span) for span in self._ranges[name])
        return self._before + changed

    def note(self) -> None:
        """Put what is known now into the job's record."""
        changed = self.changed_blocks
        record = self._job.record
        self._job.record = record.model_copy(
            update={
                "changed_blocks": changed,
                "one_instant": record.one_instant and changed == 0 and not self._unseen,
            }
        )

    def end(self) -> None:
        """Take the tracking out of the write path, with its result in the record."""
        self.note()
        for name, tracking in self._tracked.items():
            self._devices.untrack(name, tracking)
        self._tracked.clear()
        self._before = self._job.record.changed_blocks
