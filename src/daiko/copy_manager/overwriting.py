"""Which jobs wrote over which backups.

A backup is the job that made it, and lies in the blocks that its steps wrote. It is good for a
restore until another job that was asked for later writes to one of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice

from daiko.copy_manager.request import BACKUP
from daiko.mapping.range_set import RangeSet
from daiko.state.record import JobRecord, JobState, StepRecord


def holds_a_backup(job: JobRecord) -> bool:
    """A backup that was completed, and that no job whose record is gone wrote over."""
    return job.type == BACKUP and job.state is JobState.DONE and not job.overwritten_by


def written_by(step: StepRecord) -> tuple[str, int, int]:
    """(device, first byte, bytes) that a step writes to."""
    start = step.destination_lba * (step.destination_block_size or step.block_size)
    return step.destination, start, step.blocks * step.block_size


class Writes:
    """What jobs wrote, by device: each job's steps are gone through once, for however many
    backups they are compared with."""

    def __init__(self, jobs: Iterable[JobRecord] = ()) -> None:
        """`jobs` by number."""
        self._by_device: dict[str, list[tuple[JobRecord, RangeSet]]] = {}
        for job in jobs:
            self.add(job)

    def add(self, job: JobRecord) -> None:
        """Take in one more; those that were taken in have lower numbers."""
        if job.started:
            for device, ranges in _written(job).items():
                self._by_device.setdefault(device, []).append((job, ranges))

    def first_over(self, backup: JobRecord) -> JobRecord | None:
        """The first later job that wrote to a block that holds the backup."""
        firsts = [next(found, None) for found in self._over(backup)]
        return min((job for job in firsts if job), key=lambda job: job.id, default=None)

    def all_over(self, backup: JobRecord) -> set[int]:
        """The numbers of all later jobs that did."""
        return {job.id for found in self._over(backup) for job in found}

    def _over(self, backup: JobRecord) -> Iterator[Iterator[JobRecord]]:
        """Of each device that holds the backup, those jobs by number."""
        for device, held in _written(backup).items():
            writes = self._by_device.get(device, [])
            later = islice(writes, bisect_right(writes, backup.id, key=lambda w: w[0].id), None)
            yield _overlapping(held, later)


def _overlapping(
    held: RangeSet, writes: Iterable[tuple[JobRecord, RangeSet]]
) -> Iterator[JobRecord]:
    for job, ranges in writes:
        if any(held.overlaps(at, length) for at, length in ranges):
            yield job


def _written(job: JobRecord) -> dict[str, RangeSet]:
    """For each device, the bytes that a job writes to."""
    written: dict[str, RangeSet] = {}
    for step in job.steps:
        device, start, length = written_by(step)
        written.setdefault(device, RangeSet()).add(start, length)
    return written
