"""The copy manager: every copy is a job, whoever asks for it.

An administrator's job is recorded first, then waits for its turn, is planned, carried out and
reported; a restart of the controller takes it up where it was confirmed. A host's EXTENDED COPY is
the same kind of job and gives the same report, with two differences: it starts at once, since a
host waits for its status; and when this controller's process ends before it does, nobody is left
to answer, so at the next start it is INTERRUPTED and not resumed (the host copies again). So is a
round of a pair: what is left to copy is known from the pair's bitmap.

While a job runs its source is tracked: a backup of a volume that hosts wrote to is not of one
instant, and the report says how many blocks they changed. After a restart of this controller that
can no longer be known for the time before, so the report says "not of one instant" then as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import structlog

from daiko.command_control.decision import (
    Place,
    RangeOutsidePlace,
    RangesOverlap,
    RequestedSegment,
    Undecidable,
    decide,
)
from daiko.command_control.naming import DeviceAddress
from daiko.command_control.plan import Mode, Plan
from daiko.copy_manager.connections import Connections
from daiko.copy_manager.devices import Devices
from daiko.copy_manager.error import CopyRefused, JobNotRunning, NoSuchJob
from daiko.copy_manager.halt import HaltReason
from daiko.copy_manager.job import JobEvent
from daiko.copy_manager.jobs_in_hand import JobsInHand
from daiko.copy_manager.other_machines import ConnectionMaker, OtherMachines, WithOtherMachines
from daiko.copy_manager.pace import Pace
from daiko.copy_manager.progress import Progress
from daiko.copy_manager.request import CopyRequest, names_of, pace_of
from daiko.copy_manager.retention import Bound, Retention
from daiko.copy_manager.running_job import RunningJob
from daiko.copy_manager.settings import CopySettings
from daiko.copy_manager.step_work import StepWork
from daiko.mapping.extent import DeviceId
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.state.record import TERMINAL, JobRecord, JobState, SystemRecord, VolumeRecord
from daiko.state.store import Store, StoreError

log = structlog.get_logger(__name__)


class CopyManager:
    """Plans, runs, resumes, cancels and reports jobs."""

    def __init__(
        self,
        store: Store,
        devices: Devices,
        *,
        settings: CopySettings | None = None,
        connections: ConnectionMaker | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`connections` makes the sessions to LUs on other machines that a host names."""
        self._store = store
        self.other_machines = OtherMachines(devices, connections or Connections(store))
        self._devices: Devices = WithOtherMachines(devices, self.other_machines)
        self._wall_clock = wall_clock
        self.retention = Retention(store, self._bound)
        self._in_hand = JobsInHand(
            store,
            self._devices,
            settings or CopySettings(),
            mode_of=self.mode_of,
            ended=self.retention.wake,
            wall_clock=wall_clock,
        )
        self._stopping = False

    @property
    def settings(self) -> CopySettings:
        """Of jobs; new ones hold for the jobs that begin from then on."""
        return self._in_hand.settings

    @settings.setter
    def settings(self, settings: CopySettings) -> None:
        self._in_hand.settings = settings

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what the last process left: administrators' jobs go on from their last
        confirmed block, hosts' jobs are INTERRUPTED."""
        for record in self._store.list(JobRecord):
            if record.state in TERMINAL:
                continue
            request = request_of(record)
            works = [StepWork.from_record(step) for step in record.steps]
            job = RunningJob(record, request, works)
            if request.by_host or request.by_pair:
                job.happen(
                    JobEvent.ABANDON,
                    error="the controller was restarted"
                    + (" while the host's command was carried out" if request.by_host else ""),
                    finished=self._wall_clock(),
                )
                await self._in_hand.keep(job)
                continue
            began = record.confirmed_blocks > 0
            job.happen(JobEvent.RESTART, one_instant=record.one_instant and not began)
            await self._in_hand.keep(job)
            log.info("job resumed", job=job.id, confirmed=job.record.confirmed_blocks)
            self._in_hand.launch(job)
        self.retention.wake()

    async def stop(self) -> None:
        """End in an orderly way: jobs confirm what they did and stay unfinished in the store."""
        self._stopping = True
        await self._in_hand.stop()
        await self.retention.stop(self.settings.stop_seconds)
        await self.other_machines.close()

    # --- asking ---------------------------------------------------------------------------------

    def plan(self, request: CopyRequest) -> Plan:
        """Who would carry out what, and why; nothing is recorded or sent. Raises CopyRefused."""
        try:
            return self._decide(request)
        except Undecidable as refusal:
            raise _refused(refusal) from refusal

    def _decide(self, request: CopyRequest) -> Plan:
        return decide(
            request.function,
            self._segments(request),
            self._devices.function_table(),
            self.mode_of(request),
            directory=self._devices.directory(),
        )

    async def submit(self, request: CopyRequest) -> JobRecord:
        """Begin a job; it is in the store when this returns. Raises CopyRefused, StoreError."""
        try:
            return (await self.begin(request)).record
        except Undecidable as refusal:
            raise _refused(refusal) from refusal

    async def begin(
        self, request: CopyRequest, *, template: ExtendedCopy | None = None
    ) -> RunningJob:
        """As `submit`, for a caller that follows the job itself. `template` is the host's
        parameter list when a host asks. Raises Undecidable as well."""
        if self._stopping:
            raise CopyRefused("the controller is stopping")
        if not request.by_host:
            self._check_room()
        while True:
            places = self._places(request)
            plan = self._decide(request)
            works = works_of(plan, self._devices.directory())
            record = await self._record(request, places, plan, works)
            if record is not None:
                break
        job = RunningJob(record, request, works, template=template)
        self._in_hand.launch(job)
        return job

    async def _record(
        self, request: CopyRequest, places: list[Place | None], plan: Plan, works: list[StepWork]
    ) -> JobRecord | None:
        """Put a job into the store. None: what was planned with does not lie any more where it
        did, since a volume has moved. From here on none does: it waits for the job."""
        now = self._wall_clock()
        async with self._store.transaction() as change:
            if self._places(request) != places:
                return None
            record = JobRecord(
                id=change.next_number("job"),
                type=request.type,
                asked_by=request.asked_by,
                source=request.source,
                destination=request.destination,
                request=request.as_json(),
                steps=tuple(work.record() for work in works),
                blocks=plan.blocks,
                block_size=self._devices.place(request.source).block_size,
                created=now,
            )
            if request.by_host:  # it does not wait for a turn: one transaction less
                record = record.model_copy(update={"state": JobState.RUNNING, "started": now})
            change.put(record)
        return record

    def _places(self, request: CopyRequest) -> list[Place | None]:
        """What a request names, as it lies now. Tables are compared by what they are first: nothing
        is walked through while none has changed."""
        found: list[Place | None] = []
        for name in sorted(names_of(request)):
            try:
                found.append(self._devices.place(name))
            except LookupError:
                found.append(None)
        return found

    def _check_room(self) -> None:
        unfinished = self._in_hand.asked_by_administrators
        if unfinished >= self.settings.unfinished_jobs:
            raise CopyRefused(
                f"{unfinished:,} jobs run or wait already, as many as may",
                next_step="wait until some have ended, or cancel some (daiko job cancel)",
            )

    async def cancel(self, job: int) -> JobRecord:
        """Take a job back: what is in flight comes to its end, nothing more is copied. Returns
        when it has ended. Raises NoSuchJob, JobNotRunning."""
        live = self._in_hand.find(job)
        if live is None:
            raise JobNotRunning(f"job {job} is {self.job(job).state} already")
        live.halt.request(HaltReason.CANCEL)
        await live.ended.wait()
        return live.record

    async def set_pace(self, job: int, pace: Pace) -> JobRecord:
        """Let a job that waits or runs go at another pace from now on, also after a restart.
        Raises NoSuchJob, JobNotRunning, StoreError."""
        live = self._in_hand.find(job)
        if live is None or live.draft.state in TERMINAL:
            state = self.job(job).state if live is None else live.draft.state
            raise JobNotRunning(f"job {job} is {state} already")
        live.ask_pace(pace)
        try:
            await self._in_hand.keeper(live)(live)
        except StoreError:
            live.ask_pace(live.pacer.pace)  # the next checkpoint must not keep it after all
            raise
        live.pacer.use(pace)
        live.touch()
        return live.record

    # --- looking --------------------------------------------------------------------------------

    def job(self, job: int) -> JobRecord:
        """The record as of now. Raises NoSuchJob."""
        live = self._in_hand.find(job)
        if live is not None:
            return live.record
        record = self._in_hand.stranded(job) or self._store.get(JobRecord, f"{job:012d}")
        if record is None:
            raise NoSuchJob(job)
        return record

    def jobs(self) -> tuple[JobRecord, ...]:
        """All jobs, by number."""
        return tuple(self.job(record.id) for record in self._store.list(JobRecord))

    def progress(self, job: int) -> Progress:
        """How far a job is. Raises NoSuchJob."""
        live = self._in_hand.find(job)
        if live is not None:
            return live.progress()
        record = self.job(job)
        return Progress(
            job=record.id,
            state=record.state,
            confirmed_blocks=record.confirmed_blocks,
            copied_blocks=record.confirmed_blocks,
            blocks=record.blocks,
            block_size=record.block_size,
            blocks_per_second=0.0,
            eta_seconds=None,
            version=_ENDED,
            pace=pace_of(record),
        )

    async def changed(self, job: int, since: int) -> Progress:
        """Wait for news: returns as soon as the version is above `since`, at once for a job that
        has ended. Raises NoSuchJob."""
        live = self._in_hand.find(job)
        if live is not None and live.record.state not in TERMINAL:
            await live.changed(since)
            if live.record.state not in TERMINAL:
                return live.progress()
        return self.progress(job)

    async def wait(self, job: int) -> JobRecord:
        """The record of a job when it has ended. Raises NoSuchJob."""
        live = self._in_hand.find(job)
        if live is not None:
            await live.ended.wait()
            return live.record
        return self.job(job)

    @property
    def devices(self) -> Devices:
        """The devices of the system, and those on other machines that copies hold."""
        return self._devices

    def has_room_for_host(self, copies: int) -> bool:
        """Whether one more copy of a host may begin beside the `copies` that have."""
        return not self._stopping and copies < self.settings.running_host_jobs

    def mode_of(self, request: CopyRequest) -> Mode:
        """The mode that holds for a request: its own, its volume's, the system's."""
        if request.mode is not None:
            return request.mode
        for name in (request.source, request.destination):
            volume = self._store.get(VolumeRecord, name)
            if volume is not None and volume.mode is not None:
                return volume.mode
        system = self._store.get(SystemRecord, "system")
        return Mode.DELEGATE if system is None else system.mode

    def _bound(self, by_host: bool) -> Bound:
        if by_host:
            return Bound(self.settings.host_jobs_kept, self.settings.steps_kept)
        system = self._store.get(SystemRecord, "system")
        jobs = (
            SystemRecord.model_fields["jobs_kept"].default if system is None else system.jobs_kept
        )
        return Bound(jobs, self.settings.steps_kept)

    def _segments(self, request: CopyRequest) -> list[RequestedSegment]:
        segments = []
        for span in request.ranges:
            try:
                source = self._devices.place(span.source or request.source)
                destination = self._devices.place(span.destination or request.destination)
            except LookupError as missing:
                raise CopyRefused(str(missing)) from missing
            segments.append(
                RequestedSegment(
                    source, span.lba, destination, span.destination_lba, span.blocks, span.number
                )
            )
        return segments


_ENDED = 1 << 62
"""The version of a job that will not change any more."""


def works_of(plan: Plan, directory: Mapping[DeviceId, DeviceAddress]) -> list[StepWork]:
    """The steps of a plan, with nothing of them done."""
    return [
        StepWork(
            step,
            directory[step.source.device].block_size,
            directory[step.destination.device].block_size,
        )
        for step in plan.steps
    ]


def request_of(record: JobRecord) -> CopyRequest:
    """The request that a record was made from."""
    return CopyRequest.from_json(
        record.type, record.source, record.destination, record.asked_by, record.request
    )


_NEXT_STEPS: dict[type[Undecidable], str] = {
    RangesOverlap: "choose another destination, or another place on it",
    RangeOutsidePlace: "choose a shorter range, or a larger destination",
}


def _refused(refusal: Undecidable) -> CopyRefused:
    return CopyRefused(str(refusal), next_step=_NEXT_STEPS.get(type(refusal), ""))
