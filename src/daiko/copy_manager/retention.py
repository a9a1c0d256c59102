"""Which records of ended jobs are kept, and for how long.

Of the jobs of administrators and of those of hosts, each for itself, the ones that ended last are
kept, as many as a bound of jobs and one of steps allow (a record takes its memory for its steps).
The others are dropped, but for two:

- a backup of an administrator that can be restored. It is kept for as long as it can be: no two
  such lie on the same blocks, so the backup devices are their bound. (A host's copy from LU to LU
  counts as a backup too, but hosts may send thousands an hour, and know themselves what they
  copied: of theirs only the bound counts.)
- a job that wrote to the blocks of a backup that has not ended yet.

That a job wrote over a backup is known from its record. Before that one goes, the backups that it
wrote over are marked with its name, so that none of them ever becomes restorable again.

All records are looked through only when a tenth too many has come together, in pieces, between
which hosts are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

import structlog

from daiko.copy_manager.overwriting import Writes, holds_a_backup, written_by
from daiko.copy_manager.request import BACKUP
from daiko.mapping.range_set import RangeSet
from daiko.state.index import EndedJobs
from daiko.state.record import TERMINAL, JobRecord
from daiko.state.store import Store, StoreError

log = structlog.get_logger(__name__)

PIECE: Final = 200
"""Steps looked at in one go: about a millisecond's work."""
TOGETHER: Final = 50
"""Records changed in one transaction."""

T = TypeVar("T")


class Bound(NamedTuple):
    """How much is kept of ended jobs. The last that ended always is, however many steps it has,
    until the next one ends."""

    jobs: int
    steps: int


class Retention:
    """Drops the records of old jobs."""

    def __init__(self, store: Store, bound: Callable[[bool], Bound]) -> None:
        """`bound(by_host)` is asked anew for every look."""
        self._store = store
        self._bound = bound
        self._left: dict[bool, tuple[Bound, Bound]] = {}
        """By whose jobs: the bound at the last look, and what it left."""
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def wake(self) -> None:
        """A job has ended, or the bound was changed: there may be something to drop."""
        self._again = True
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="job retention")

    async def stop(self, seconds: float) -> None:
        """Let what is under way come to its end, in so many seconds at most."""
        task = self._task
        if task is not None:
            await asyncio.wait({task}, timeout=seconds)
            task.cancel()

    async def _run(self) -> None:
        try:
            while self._again:
                self._again = False
                for by_host in (False, True):
                    if self._is_due(by_host):
                        await self._look(by_host)
        except StoreError as error:
            log.error("old jobs stay until the next one ends", error=str(error))
        except Exception:
            # The edge of this task: the next job that ends tries again.
            log.exception("old jobs stay because of a defect")
        finally:
            self._task = None

    def _is_due(self, by_host: bool) -> bool:
        bound = self._bound(by_host)
        then, left = self._left.get(by_host, (bound, Bound(0, 0)))
        if then != bound:
            left = Bound(0, 0)
        return any(
            have > limit and have >= max(limit, kept) + max(limit // 10, 1)
            for have, limit, kept in zip(
                self._store.index(EndedJobs).of(by_host), bound, left, strict=True
            )
        )

    async def _look(self, by_host: bool) -> None:
        bound = self._bound(by_host)
        jobs = self._store.list(JobRecord)
        dropped = _too_old(jobs, by_host, bound)
        good = await _not_written_over(jobs) if dropped else set[int]()
        if not by_host:
            dropped = [job for job in dropped if not (holds_a_backup(job) and job.id in good)]
        going = {job.id for job in dropped}
        writes = Writes()
        for job in sorted(dropped, key=lambda job: job.id):
            writes.add(job)
            await _pause()
        marked: list[JobRecord] = []
        for job in jobs:
            if job.id in going or job.type != BACKUP or job.id in good:
                continue
            if job.state not in TERMINAL:
                going -= writes.all_over(job)
            elif holds_a_backup(job) and (over := writes.first_over(job)) is not None:
                mark = {"overwritten_by": f"job {over.id} ({over.type})"}
                marked.append(job.model_copy(update=mark))
            await _pause()
        await self._carry_out(marked, [job for job in dropped if job.id in going])
        left = self._store.index(EndedJobs).of(by_host)
        self._left[by_host] = (bound, Bound(*left))

    async def _carry_out(self, marked: Sequence[JobRecord], dropped: Sequence[JobRecord]) -> None:
        """The marks first: whatever ends this half way, nothing is forgotten."""
        for some in _in_pieces(marked, TOGETHER):
            async with self._store.transaction() as change:
                for job in some:
                    change.put(job)
        for some in _in_pieces(dropped, TOGETHER):
            async with self._store.transaction() as change:
                for job in some:
                    change.delete(JobRecord, job.key)


def _too_old(jobs: Iterable[JobRecord], by_host: bool, bound: Bound) -> list[JobRecord]:
    """What the bound does not allow, from the job back that ended last. One with too many steps
    goes by itself: it does not take with it what ended before."""
    ended = [job for job in jobs if job.by_host is by_host and job.state in TERMINAL]
    ended.sort(key=lambda job: (job.finished, job.id), reverse=True)
    dropped = ended[bound.jobs :]
    steps = 0
    for job in ended[1 : bound.jobs]:
        if steps + len(job.steps) > bound.steps:
            dropped.append(job)
        else:
            steps += len(job.steps)
    return dropped


async def _not_written_over(jobs: Sequence[JobRecord]) -> set[int]:
    """The numbers of the jobs to whose blocks no later one wrote. From the last job back, with the
    blocks that those after it wrote: however many there are, each step is looked at once."""
    later: dict[str, RangeSet] = {}
    good: set[int] = set()
    for job in reversed(jobs):
        if not job.started:
            continue
        is_good = True
        for steps in _in_pieces(job.steps, PIECE):
            for device, at, length in map(written_by, steps):
                is_good = is_good and not (device in later and later[device].overlaps(at, length))
            await _pause()
        for steps in _in_pieces(job.steps, PIECE):
            for device, at, length in map(written_by, steps):
                later.setdefault(device, RangeSet()).add(at, length)
            await _pause()
        if is_good:
            good.add(job.id)
    return good


def _in_pieces(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


async def _pause() -> None:
    """Let others in."""
    await asyncio.sleep(0)
