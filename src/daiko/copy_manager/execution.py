"""Carrying out the plan of one job.

Steps go in the order of the request. Those that touch different blocks run side by side, some at
a time; a step that reads or writes what an earlier one writes waits for it (`Step.must_follow`).
Steps of one second controller that follow one another are one batch, so that its copy manager
gets as many segments a command as it takes; so are steps of this controller from one device to one
other, so that they share one flow of transfers.

An executor that drops its steps is not the end. What it did is confirmed; the step is cut there,
with the reason on record; what is missing is planned again without that executor (the decision
names the next one) and goes on at once. The plan says who is fit, so this ends: every round has
one executor less, and this controller is the last. Three ways to drop a step (`failure.py`):

- it cannot (FALL_BACK): it is left out for this pair of devices, or altogether when it turned out
  not to copy at all; the function table learns that;
- nobody knows what was done (UNKNOWN, the connection was lost): nobody could go on without that
  controller, so it is waited for and gets another chance; after some losses it is left out. The
  lost command may still be at work there for the seconds that it takes; it writes the blocks that
  are written again, with what the source held after the job began, so either outcome is right;
- a reservation (HOSTS_BUSINESS): the job fails with it, for whoever holds the reservation to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from daiko.command_control.decision import NoExecutorLeft, Place, RequestedSegment, decide
from daiko.command_control.function_table import LEAST_LIMITS, CopyLimits
from daiko.command_control.plan import Executor, Function, Mode
from daiko.copy_manager.budget import TransferBudget
from daiko.copy_manager.checkpoint import Checkpoint, connection_generation
from daiko.copy_manager.delegated_copy import DelegatedCopy, Dropped
from daiko.copy_manager.device_copy import DeviceCopy
from daiko.copy_manager.devices import Devices
from daiko.copy_manager.error import CopyFailed, Side
from daiko.copy_manager.failure import Failure, Lesson, Verdict
from daiko.copy_manager.halt import Halt, HaltReason
from daiko.copy_manager.lane import Lane
from daiko.copy_manager.local_copy import LocalCopy
from daiko.copy_manager.running_job import RunningJob
from daiko.copy_manager.settings import CopySettings, Retries
from daiko.copy_manager.source_tracking import CopyWrites
from daiko.copy_manager.step_work import StepWork
from daiko.device.error import DeviceError, ReservationConflict
from daiko.mapping.extent import DeviceId, Piece

_BATCH = 64
"""Steps that one executor gets together."""

_TEST_UNIT_READY = bytes(6)

Pair = tuple[DeviceId, DeviceId]


@dataclass(frozen=True, slots=True)
class Workshop:
    """What the executions of all jobs share."""

    devices: Devices
    settings: CopySettings
    budget: TransferBudget
    lane: Callable[[str, CopyLimits], Lane]
    learn: Callable[[str, Function, DeviceId, Failure], Awaitable[None]]
    """(controller, function, the other device, failure)."""
    writes: CopyWrites


class Execution:
    """One job's steps, from where they are to the end."""

    def __init__(
        self,
        job: RunningJob,
        workshop: Workshop,
        checkpoint: Checkpoint,
        mode: Mode,
        retries: Retries,
    ) -> None:
        self._job = job
        self._workshop = workshop
        self._devices = workshop.devices
        self._checkpoint = checkpoint
        self._mode = mode
        self._retries = retries
        self._running: dict[asyncio.Task[None], list[StepWork]] = {}
        self._left_out: dict[tuple[Executor, Pair | None], str] = {}
        self._halt = Halt()
        """Of this execution: asked for with the job's, or by a failure."""
        job.halt.listen(self._job_halted)
        self._failure: CopyFailed | None = None
        self._head = 0
        """Place of the first step that is not copied; those before it need no second look."""

    async def run(self) -> None:
        """Carry out all steps; return early, with nothing in flight, when a halt was asked for.
        Raises CopyFailed. Either way nothing is left written but not confirmed."""
        try:
            while self._failure is None and not self._halt.requested:
                await self._round()
                if self._failure is None:
                    await self._checkpoint.settle()
                if all(work.is_copied for work in self._job.works):
                    break
        finally:
            await self._drain()
            self._job.halt.unlisten(self._job_halted)
        if self._failure is not None:
            await self._keep_what_is_done()
            raise self._failure

    def fail(self, failure: CopyFailed) -> None:
        """End the job with this failure. Of several the one of the first segment counts.

        An administrator's job stops where it is. In a host's the segments that were begun come to
        their end: the segment number in the sense data promises that those before it are done."""
        if self._failure is None or failure.segment < self._failure.segment:
            self._failure = failure
        if not self._job.request.by_host:
            self._halt.request(HaltReason.FAILURE)

    def _job_halted(self) -> None:
        assert self._job.halt.reason is not None
        self._halt.request(self._job.halt.reason)

    async def _keep_what_is_done(self) -> None:
        """After a failure: confirm what can be, so that the report is true."""
        try:
            await self._checkpoint.attempt()
        except CopyFailed:
            return  # the job's own failure is the one to report

    async def _round(self) -> None:
        """Every step once, and once more what was dropped meanwhile."""
        self._head = 0
        while True:
            while (
                self._failure is None
                and not self._halt.requested
                and len(self._running) < self._workshop.settings.batches_in_flight
            ):
                batch = self._next_batch()
                if not batch:
                    break
                self._running[asyncio.create_task(self._carry_out(batch))] = batch
            if not self._running:
                return
            done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                batch = self._running.pop(task)
                await self._conclude(task, batch)

    async def _drain(self) -> None:
        """Only when something unforeseen was raised: leave no task behind."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
            self._running.clear()

    def _next_batch(self) -> list[StepWork]:
        """The next steps that may begin now; empty when none may."""
        busy = [work for works in self._running.values() for work in works]
        begun = {id(work) for work in busy}
        batch: list[StepWork] = []
        works = self._job.works
        while self._head < len(works) and works[self._head].is_copied:
            self._head += 1
        for place in range(self._head, len(works)):
            work = works[place]
            if work.is_copied or id(work) in begun:
                continue
            if batch and (len(batch) == _BATCH or not _go_together(work, batch[0])):
                break
            if any(work.step.must_follow(other.step) for other in (*busy, *batch)):
                break
            batch.append(work)
        return batch

    # --- one batch ------------------------------------------------------------------------------

    async def _carry_out(self, batch: list[StepWork]) -> None:
        with self._workshop.writes.under_way(self._job.id, batch):
            if batch[0].step.executor.delegated:
                await self._delegate(batch)
            else:
                await self._copy_here(batch)

    async def _delegate(self, batch: list[StepWork]) -> None:
        executor = batch[0].step.executor
        for work in batch:
            reason = self._why_left_out(work)
            if reason:
                raise Dropped(Failure(Verdict.FALL_BACK, reason), work)
        limits = self._limits(executor.name)
        try:
            lane = self._workshop.lane(executor.name, limits)
        except KeyError:
            gone = Failure(Verdict.FALL_BACK, "it is not attached any more")
            raise Dropped(gone, batch[0]) from None
        await DelegatedCopy(
            batch,
            lane,
            limits,
            directory=self._devices.directory(),
            writing=self._devices.writing,
            template=self._job.template,
            pacer=self._job.pacer,
            retries=self._retries,
            halt=self._halt,
            generation=self._generation,
            moved=self._job.tick,
        ).run()

    async def _copy_here(self, batch: list[StepWork]) -> None:
        step = batch[0].step
        try:
            source = self._devices.block_device(step.source.device)
            destination = self._devices.destination(_hull(batch))
        except LookupError as gone:
            raise CopyFailed(str(gone), segment=step.segment) from gone
        await DeviceCopy(
            batch,
            source,
            destination,
            pacer=self._job.pacer,
            settings=self._workshop.settings,
            halt=self._halt,
            generation=self._generation,
        ).run()
        if all(work.is_copied for work in batch):
            return
        await LocalCopy(
            batch,
            source,
            destination,
            budget=self._workshop.budget,
            pacer=self._job.pacer,
            settings=self._workshop.settings,
            retries=self._retries,
            halt=self._halt,
            generation=self._generation,
            moved=lambda: None,
        ).run()

    def _generation(self, work: StepWork) -> int:
        return connection_generation(self._devices, work.step.destination.device)

    def _limits(self, backend: str) -> CopyLimits:
        cell = self._devices.function_table().function(backend, self._job.request.function)
        return LEAST_LIMITS if cell is None or cell.limits is None else cell.limits

    # --- what became of it ----------------------------------------------------------------------

    async def _conclude(self, task: asyncio.Task[None], batch: list[StepWork]) -> None:
        try:
            task.result()
        except CopyFailed as failure:
            self.fail(failure)
        except Dropped as dropped:
            try:
                await self._dropped(dropped, batch)
            except CopyFailed as failure:
                self.fail(failure)

    async def _dropped(self, dropped: Dropped, batch: list[StepWork]) -> None:
        """The executor gave up at a step of the batch. Steps that it is left out for now are
        confirmed, cut and planned again; others of the batch stay with it."""
        failure, at = dropped.failure, dropped.at
        executor = at.step.executor
        if failure.verdict is Verdict.HOSTS_BUSINESS:
            raise CopyFailed(
                f"{executor}: {failure.reason}",
                segment=at.step.segment,
                side=Side.DESTINATION,
                error=ReservationConflict(failure.reason),
            )
        if self._halt.requested:
            return
        unfinished = [work for work in batch if not work.is_copied]
        if failure.verdict is Verdict.UNKNOWN and await self._gets_another_chance(unfinished):
            return
        everywhere = failure.lesson is Lesson.CANNOT_COPY or failure.verdict is Verdict.UNKNOWN
        self._left_out.setdefault((executor, None if everywhere else _pair(at)), failure.reason)
        if failure.lesson is not Lesson.NOTHING:
            await self._workshop.learn(
                executor.name, self._job.request.function, _other(at), failure
            )
        await self._checkpoint.settle()
        for work in batch:
            reason = self._why_left_out(work)
            if reason and not work.is_copied:
                self._job.replace(work, self._planned_again(work, reason))

    async def _gets_another_chance(self, works: list[StepWork]) -> bool:
        """Whether steps whose executor was lost stay with it: then the loop sends what is missing
        of them again."""
        if any(work.losses >= self._workshop.settings.lost_tries for work in works):
            return False
        for work in works:
            work.losses += 1
        is_back = await self._is_back(works[0].step.executor.name, works[0])
        return is_back or self._halt.requested

    async def _is_back(self, backend: str, work: StepWork) -> bool:
        """Wait until a second controller that was lost answers again, within bounds. Whoever goes
        on needs it, since it owns one side of the copy."""
        own = work.step.source.device
        if own.backend != backend:
            own = work.step.destination.device
        tries = self._retries.begin(asyncio.get_running_loop().time)
        while not self._halt.requested:
            try:
                await self._devices.second_controller(backend).execute(own.lun, _TEST_UNIT_READY)
            except KeyError:
                return False
            except DeviceError:
                delay = tries.failed()
                if delay is None:
                    return False
                await self._halt.pause(delay)
            else:
                return True
        return False

    def _why_left_out(self, work: StepWork) -> str:
        executor = work.step.executor
        return self._left_out.get((executor, None)) or self._left_out.get(
            (executor, _pair(work)), ""
        )

    def _planned_again(self, work: StepWork, reason: str) -> list[StepWork]:
        """The step cut at what is confirmed, and new steps by other executors for the rest."""
        excluded = {**work.excluded, work.step.executor: reason}
        work.error = reason
        missing = list(work.missing())
        try:
            plan = decide(
                self._job.request.function,
                [self._segment(work, first, blocks) for first, blocks in missing],
                self._devices.function_table(),
                self._mode,
                directory=self._devices.directory(),
                excluded=excluded,
            )
        except NoExecutorLeft as nobody:
            raise CopyFailed(str(nobody), segment=work.step.segment) from nobody
        except KeyError as gone:
            raise CopyFailed(
                f"{gone} is not attached any more", segment=work.step.segment
            ) from gone
        cut = work.cut()
        for step in plan.steps:
            again = StepWork(step, work.block_size, work.destination_block_size)
            again.excluded = excluded
            cut.append(again)
        return cut

    def _segment(self, work: StepWork, first: int, blocks: int) -> RequestedSegment:
        part = work.part(first, blocks)
        return RequestedSegment(
            source=self._whole_device(part.source.device, part.source.lba + part.source.blocks),
            source_lba=part.source.lba,
            destination=self._whole_device(
                part.destination.device, part.destination.lba + part.destination.blocks
            ),
            destination_lba=part.destination.lba,
            blocks=blocks,
            number=part.segment,
        )

    def _whole_device(self, device: DeviceId, blocks: int) -> Place:
        """The device as far as this step needs it."""
        return Place.of_device(self._devices.directory()[device], blocks)


def _go_together(work: StepWork, other: StepWork) -> bool:
    """Whether two steps can be one batch: of one executor, and here of one pair of devices."""
    executor = work.step.executor
    return executor == other.step.executor and (executor.delegated or _pair(work) == _pair(other))


def _hull(batch: list[StepWork]) -> Piece:
    """The shortest run of the destination with all blocks that the steps write."""
    pieces = [work.step.destination for work in batch]
    first = min(piece.lba for piece in pieces)
    end = max(piece.lba + piece.blocks for piece in pieces)
    return Piece(pieces[0].device, first, end - first)


def _pair(work: StepWork) -> Pair:
    return work.step.source.device, work.step.destination.device


def _other(work: StepWork) -> DeviceId:
    """Of the two devices of a step, the one that its executor does not own."""
    source, destination = _pair(work)
    return destination if source.backend == work.step.executor.name else source
