"""One job while it runs: its steps, its progress, and those who watch it.

It has two records. The *draft* is what the next commit will say; it follows the steps. `record` is
what others see, and says no more than the store does: what it calls confirmed, or ended, is still
so after this process was killed. Between the two lies a commit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from daiko.copy_manager.error import CopyFailed
from daiko.copy_manager.halt import Halt
from daiko.copy_manager.job import JobEvent, next_state
from daiko.copy_manager.pace import Pace
from daiko.copy_manager.pacer import Limit, Pacer
from daiko.copy_manager.progress import Progress, RateMeter
from daiko.copy_manager.request import CopyRequest
from daiko.copy_manager.step_work import StepWork
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.state.record import JobRecord


class RunningJob:
    """The live side of a JobRecord."""

    def __init__(
        self,
        record: JobRecord,
        request: CopyRequest,
        works: list[StepWork],
        *,
        template: ExtendedCopy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.record = record
        """As it is shown: as the store has it, and whether it runs."""
        self.draft = record
        """As it will be put into the store next."""
        self.request = request
        self.works = works
        """Every step, in the order of the request's ranges; dropped ones stay in the list."""
        self.template = template
        self.pacer = Pacer(request.pace)
        self.halt = Halt()
        self.failure: CopyFailed | None = None
        self.version = 0
        self._clock = clock
        self._meter = RateMeter()
        self._changed = asyncio.Event()
        self._noted: tuple[int, Limit | None] = (-1, None)
        self.ended = asyncio.Event()
        """Set when the last record is in the store."""

    @property
    def id(self) -> int:
        return self.record.id

    @property
    def copied_blocks(self) -> int:
        return sum(work.copied_blocks for work in self.works)

    def replace(self, work: StepWork, others: Iterable[StepWork]) -> None:
        """Put other steps in the place of one."""
        place = next(place for place, other in enumerate(self.works) if other is work)
        self.works[place : place + 1] = others

    def happen(self, event: JobEvent, **changes: Any) -> JobRecord:
        """Change the draft's state by its table, and other fields of it too. Raises
        IllegalTransition."""
        state = next_state(self.draft.state, event)
        return self.update(state=state, **changes)

    def update(self, **changes: Any) -> JobRecord:
        """The draft as of now, with the steps as they are."""
        steps = tuple(work.record() for work in self.works)
        self.draft = self.draft.model_copy(update={"steps": steps, **changes})
        return self.draft

    def ask_pace(self, pace: Pace) -> None:
        """Put another pace into the request and the draft. The store leads: the pacer follows once
        it is kept."""
        self.request = replace(self.request, pace=pace)
        self.draft = self.draft.model_copy(update={"request": self.request.as_json()})

    def show(self, record: JobRecord) -> None:
        """Make this the record that others see; watchers hear of it. The store has it, but for a
        state that a restart takes back by itself."""
        self.record = record
        self.touch()

    def show_unkept(self) -> None:
        """Show how the steps stand of a job whose checkpoints are not kept: a restart would find
        nothing of it confirmed."""
        steps = tuple(step.model_copy(update={"confirmed": ()}) for step in self.update().steps)
        self.show(self.draft.model_copy(update={"steps": steps}))

    def touch(self) -> None:
        """Something changed: whoever waits for that goes on."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def tick(self) -> None:
        """Take a sample for the rate; tell watchers when blocks were copied since the last, or
        what holds the copy back has changed."""
        copied = self.copied_blocks
        self._meter.sample(self._clock(), copied)
        now = copied, self.pacer.limited_by
        if now != self._noted:
            self._noted = now
            self.touch()

    async def changed(self, since: int) -> None:
        """Wait until `version` is above `since`."""
        while self.version <= since:
            await self._changed.wait()

    def progress(self) -> Progress:
        """How far it is now."""
        record = self.record
        copied = self.copied_blocks
        return Progress(
            job=record.id,
            state=record.state,
            confirmed_blocks=record.confirmed_blocks,
            copied_blocks=copied,
            blocks=record.blocks,
            block_size=record.block_size,
            blocks_per_second=self._meter.rate,
            eta_seconds=self._meter.eta(max(record.blocks - copied, 0)),
            version=self.version,
            pace=self.pacer.pace,
            limited_by=self.pacer.limited_by,
            paced_rate=self.pacer.rate,
        )
