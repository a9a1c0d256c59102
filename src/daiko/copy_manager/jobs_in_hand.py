"""The jobs that this process has in hand: each waits for its turn, is carried out, and ends.

What is carried out was planned before (`copy_manager.py`). A job leaves here with its last record
in the store; where the store failed it is kept here as FAILED until the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from daiko.command_control.function_table import CopyLimits
from daiko.command_control.plan import Mode
from daiko.copy_manager.budget import TransferBudget
from daiko.copy_manager.checkpoint import Checkpoint
from daiko.copy_manager.devices import Devices
from daiko.copy_manager.error import CopyFailed
from daiko.copy_manager.execution import Execution, Workshop
from daiko.copy_manager.governor import Governor
from daiko.copy_manager.halt import HaltReason
from daiko.copy_manager.job import JobEvent
from daiko.copy_manager.lane import Lane
from daiko.copy_manager.learning import Learning
from daiko.copy_manager.request import CopyRequest, places_of
from daiko.copy_manager.running_job import RunningJob
from daiko.copy_manager.settings import CopySettings
from daiko.copy_manager.source_tracking import CopyWrites, SourceTracking
from daiko.copy_manager.ticker import tick
from daiko.state.record import JobRecord, JobState
from daiko.state.store import Store, StoreError

log = structlog.get_logger(__name__)


class JobsInHand:
    """Carries out jobs, as many at a time as the settings say."""

    def __init__(
        self,
        store: Store,
        devices: Devices,
        settings: CopySettings,
        *,
        mode_of: Callable[[CopyRequest], Mode],
        ended: Callable[[], None],
        wall_clock: Callable[[], float],
    ) -> None:
        """`ended` is told when a job is in hand no more."""
        self._store = store
        self._devices = devices
        self.settings = settings
        """For the jobs that begin from now on; how many run at a time stays."""
        self._mode_of = mode_of
        self._ended = ended
        self._wall_clock = wall_clock
        self.budget = TransferBudget(settings.buffer_bytes)
        self._lanes: dict[str, Lane] = {}
        self._learning = Learning(store, wall_clock)
        self._writes = CopyWrites()
        self._live: dict[int, RunningJob] = {}
        self._stranded: dict[int, JobRecord] = {}
        """Jobs whose end could not be kept in the store."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(settings.running_jobs)

    def find(self, job: int) -> RunningJob | None:
        """A job that is in hand."""
        return self._live.get(job)

    def stranded(self, job: int) -> JobRecord | None:
        """The record of a job whose end the store did not take."""
        return self._stranded.get(job)

    @property
    def asked_by_administrators(self) -> int:
        """How many of them no host asked for."""
        return sum(not job.request.by_host for job in self._live.values())

    async def stop(self) -> None:
        """Let each confirm what it did and stay unfinished in the store."""
        for job in self._live.values():
            job.halt.request(HaltReason.SHUTDOWN)
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=self.settings.stop_seconds)
            for task in late:
                task.cancel()
            if late:
                log.warning("jobs cut off at stop", jobs=len(late))
                await asyncio.wait(late)

    def launch(self, job: RunningJob) -> None:
        """Begin with it, or let it wait for its turn."""
        self._live[job.id] = job
        task = asyncio.create_task(self._live_out(job), name=f"job {job.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live_out(self, job: RunningJob) -> None:
        try:
            if job.request.by_host:
                await self._run(job)
            else:
                await self._in_turn(job)
        except StoreError as error:
            self._strand(job, error)
        except Exception:
            # The edge of the job: nobody above could do more than say that it failed.
            log.exception("job ended by a defect", job=job.id)
            job.failure = CopyFailed("a defect of this program ended the job; its log says more")
            try:
                await self._conclude(job)
            except StoreError as error:
                self._strand(job, error)
        finally:
            del self._live[job.id]
            job.ended.set()
            job.touch()
            self._ended()

    def _strand(self, job: RunningJob, error: StoreError) -> None:
        """Without the store no state can be kept: the record in it still says "unfinished", and
        the next start takes the job up from its last checkpoint. Until then it has failed."""
        log.error("job lost its store", job=job.id, error=str(error))
        job.failure = job.failure or CopyFailed(f"the store failed: {error}")
        # Past the table of states: an end that could not be recorded is none, whatever it was.
        # What was shown last stands: no more is in the store.
        end = {"state": JobState.FAILED, "error": str(job.failure), "finished": self._wall_clock()}
        self._stranded[job.id] = job.record.model_copy(update=end)
        job.show(self._stranded[job.id])

    async def _in_turn(self, job: RunningJob) -> None:
        turn = asyncio.ensure_future(self._turns.acquire())
        halted = asyncio.ensure_future(job.halt.wait())
        try:
            await asyncio.wait({turn, halted}, return_when=asyncio.FIRST_COMPLETED)
            if turn.done():
                await self._run(job)
            else:
                await self._conclude(job)
        finally:
            halted.cancel()
            if not turn.cancel():
                self._turns.release()

    async def _run(self, job: RunningJob) -> None:
        if job.halt.requested:
            await self._conclude(job)
            return
        retries = self.settings.host_retries if job.request.by_host else self.settings.retries
        if job.draft.state is JobState.QUEUED:
            # The store hears of it at the first checkpoint: until then there is nothing to keep,
            # and a crash would begin the job anew.
            started = job.draft.started or self._wall_clock()
            job.show(job.happen(JobEvent.START, started=started))
        tracking = SourceTracking(self._devices, job, self._writes)
        checkpoint = Checkpoint(job, self._devices, self.keeper(job), retries)
        workshop = Workshop(
            self._devices,
            self.settings,
            self.budget,
            self._lane,
            self._learning.learn,
            self._writes,
        )
        execution = Execution(job, workshop, checkpoint, self._mode_of(job.request), retries)
        governor = Governor(job.pacer, self._devices.time_commands, places_of(job.record))
        ticker = asyncio.create_task(
            tick(job, execution, checkpoint, tracking, governor, self.settings)
        )
        try:
            governor.look()  # nothing is copied before
            await execution.run()
        except CopyFailed as failure:
            job.failure = failure
        finally:
            ticker.cancel()
            await asyncio.wait({ticker})
            tracking.end()
            governor.end()
        await self._conclude(job)

    async def _conclude(self, job: RunningJob) -> None:
        """The job's last state; a job that stops with the controller stays as it is."""
        now = self._wall_clock()
        if job.failure is not None:
            job.happen(JobEvent.FAIL, error=str(job.failure), finished=now)
        elif all(work.is_copied for work in job.works):
            if job.draft.state is JobState.QUEUED:
                job.happen(JobEvent.START, started=job.draft.started or now)
            job.happen(JobEvent.FINISH, finished=now)
        elif job.halt.reason is HaltReason.CANCEL:
            job.happen(JobEvent.CANCEL, finished=now)
        elif job.request.by_host:
            job.happen(JobEvent.ABANDON, error="the controller was stopped", finished=now)
        await self.keep(job)
        log.info("job ended", job=job.id, state=str(job.record.state), error=job.record.error)

    def keeper(self, job: RunningJob) -> Callable[[RunningJob], Awaitable[None]]:
        """What puts the job's draft into the store, and shows it. A host's job is never resumed:
        what it confirms on its way need not be kept."""
        return _keep_nothing if job.request.by_host else self.keep

    async def keep(self, job: RunningJob) -> None:
        """Put the job as it is now into the store, then show it. Raises StoreError."""
        record = job.update()
        await self._store.put(record)
        job.show(record)

    def _lane(self, backend: str, limits: CopyLimits) -> Lane:
        port = self._devices.second_controller(backend)
        lane = self._lanes.get(backend)
        if lane is None or lane.port is not port:
            lane = self._lanes[backend] = Lane(port, limits, self.settings)
        return lane


async def _keep_nothing(job: RunningJob) -> None:
    job.show_unkept()
