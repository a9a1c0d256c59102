"""One step of a running job: what of it is done, and what is known to be safe.

A block of a step is in one of three states:

    missing    not copied, or nobody can say
    written    the destination has it, maybe in a volatile cache
    confirmed  it was written and the destination flushed since: it outlives a power cut

Only `confirmed` goes into the record. `written` may fall back to missing: when the flush fails,
or when the connection to the destination's controller was lost between the write and the flush
(that controller may have restarted and lost its cache, and a flush after that proves nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from daiko.command_control.plan import (
    THIS_CONTROLLER,
    Executor,
    ExecutorKind,
    Rejection,
    Step,
)
from daiko.mapping.extent import DeviceId, Piece
from daiko.mapping.range_set import RangeSet
from daiko.state.record import StepRecord


class StepWork:
    """The run-time side of a StepRecord. Ranges count source blocks from the step's start."""

    __slots__ = (
        "_record",
        "_recorded",
        "block_size",
        "bytes_in_kernel",
        "bytes_moved",
        "bytes_through",
        "confirmed",
        "destination_block_size",
        "error",
        "excluded",
        "generation",
        "losses",
        "seconds",
        "step",
        "written",
    )

    def __init__(self, step: Step, block_size: int, destination_block_size: int) -> None:
        self.step = step
        self.block_size = block_size
        """Bytes a source block."""
        self.destination_block_size = destination_block_size
        self.confirmed = RangeSet()
        self.written = RangeSet()
        self.generation = 0
        """Of the connection to the destination's controller over which all of `written` went."""
        self.bytes_through = 0
        self.bytes_in_kernel = 0
        """Of `bytes_through`: copied without passing through this program's memory."""
        self.bytes_moved = 0
        self.seconds = 0.0
        self.losses = 0
        """How often a command's outcome was unknown while the executor worked on it."""
        self.error = ""
        self._record: StepRecord | None = None
        self._recorded: tuple[int, int, int, float, str] | None = None
        self.excluded: dict[Executor, str] = {}
        """Executors that failed at these blocks, and why."""

    @property
    def blocks(self) -> int:
        """Source blocks of the whole step."""
        return self.step.source.blocks

    @property
    def copied_blocks(self) -> int:
        """Written or confirmed."""
        return self.confirmed.blocks + self.written.blocks

    @property
    def is_copied(self) -> bool:
        return self.copied_blocks >= self.blocks

    def missing(self) -> Iterator[tuple[int, int]]:
        """Ranges that are neither written nor confirmed, as they were when this was called."""
        done = self.confirmed.copy()
        done.update(self.written)
        return done.gaps(0, self.blocks)

    def part(self, first: int, blocks: int) -> Step:
        """The step that copies just this range."""
        step = self.step
        return step_part(step, first, blocks, self.block_size, self.destination_block_size)

    def note_written(self, first: int, blocks: int, generation: int) -> None:
        """The destination has these blocks; `generation` is that of the connection to its
        controller when they were sent. One flush proves only what went over one connection: when
        it changed, what went over the older one is missing again."""
        self.bytes_moved += blocks * self.block_size
        if not self.written or generation > self.generation:
            self.written = RangeSet()
            self.generation = generation
        if generation == self.generation:
            self.written.add(first, blocks)

    def give_up_written(self) -> None:
        """What is not confirmed counts as missing again."""
        self.written = RangeSet()

    def record(self) -> StepRecord:
        """What the job's record says of this step now. A step that has not changed since gives
        the same record again: a plan may have thousands, and only a few are at work."""
        state = (self.confirmed.blocks, self.bytes_through, self.bytes_moved, self.seconds)
        if self._record is None or self._recorded != (*state, self.error):
            self._record = self._make_record()
            self._recorded = (*state, self.error)
        return self._record

    def _make_record(self) -> StepRecord:
        step = self.step
        return StepRecord(
            source=str(step.source.device),
            source_lba=step.source.lba,
            destination=str(step.destination.device),
            destination_lba=step.destination.lba,
            blocks=step.source.blocks,
            block_size=self.block_size,
            destination_block_size=self.destination_block_size,
            segment=step.segment,
            executor=str(step.executor),
            delegated=step.executor.delegated,
            reason=step.reason,
            rejected=tuple((str(no.executor), no.reason) for no in step.rejected),
            confirmed=self.confirmed.ranges(),
            bytes_through_first_controller=self.bytes_through,
            bytes_in_kernel=self.bytes_in_kernel,
            bytes_moved=self.bytes_moved,
            seconds=round(self.seconds, 3),
            error=self.error,
        )

    @classmethod
    def from_record(cls, record: StepRecord) -> StepWork:
        """The step as a job's record has it: where a restarted controller goes on."""
        destination_block_size = record.destination_block_size or record.block_size
        step = Step(
            source=Piece(DeviceId.parse(record.source), record.source_lba, record.blocks),
            destination=Piece(
                DeviceId.parse(record.destination),
                record.destination_lba,
                record.blocks * record.block_size // destination_block_size,
            ),
            executor=parse_executor(record.executor),
            reason=record.reason,
            rejected=tuple(
                Rejection(parse_executor(executor), reason) for executor, reason in record.rejected
            ),
            segment=record.segment,
        )
        work = cls(step, record.block_size, destination_block_size)
        work.confirmed = RangeSet(record.confirmed)
        work.bytes_through = record.bytes_through_first_controller
        work.bytes_in_kernel = record.bytes_in_kernel
        work.bytes_moved = record.bytes_moved
        work.seconds = record.seconds
        work.error = record.error
        return work

    def cut(self) -> list[StepWork]:
        """This step as its executor leaves it: the confirmed run at its start with the account of
        what was moved and why it was dropped (maybe of 0 blocks), then each further confirmed run
        as a step of its own. What is not in these is for another executor.

        `written` must be empty: confirm or give up first.
        """
        runs = list(self.confirmed)
        head = runs.pop(0)[1] if runs and runs[0][0] == 0 else 0
        first = StepWork(self.part(0, head), self.block_size, self.destination_block_size)
        first.confirmed.add(0, head)
        first.bytes_through = self.bytes_through
        first.bytes_in_kernel = self.bytes_in_kernel
        first.bytes_moved = self.bytes_moved
        first.seconds = self.seconds
        first.error = self.error
        cut = [first]
        for start, blocks in runs:
            part = StepWork(self.part(start, blocks), self.block_size, self.destination_block_size)
            part.confirmed.add(0, blocks)
            part.bytes_moved = blocks * self.block_size
            first.bytes_moved -= part.bytes_moved
            if not self.step.executor.delegated:
                part.bytes_through = part.bytes_moved
                first.bytes_through -= part.bytes_through
            cut.append(part)
        return cut


Run = tuple[StepWork, int, int]
"""A run of a step: (step, first block, blocks)."""


def cut(ranges: Iterable[tuple[int, int]], size: Callable[[], int]) -> Iterator[tuple[int, int]]:
    """Ranges in pieces of at most `size()` blocks, asked for each piece anew, on a grid from block
    0."""
    for first, blocks in ranges:
        end = first + blocks
        while first < end:
            most = size()
            edge = min(end, (first // most + 1) * most)
            yield first, edge - first
            first = edge


def share_out(works: Sequence[StepWork], seconds: float, before: Sequence[int]) -> None:
    """Time that was spent on some steps together, by what each has copied beyond `before`."""
    copied = [max(w.copied_blocks - then, 0) for w, then in zip(works, before, strict=True)]
    total = sum(copied)
    for work, blocks in zip(works, copied, strict=True):
        work.seconds += seconds * blocks / total if total else seconds / len(works)


def step_part(
    step: Step, first: int, blocks: int, block_size: int, destination_block_size: int
) -> Step:
    """The part of `step` that copies `blocks` source blocks from its `first` on. The bytes before
    and in it must fill whole destination blocks."""
    source, destination = step.source, step.destination
    skipped = first * block_size // destination_block_size
    return Step(
        source=Piece(source.device, source.lba + first, blocks),
        destination=Piece(
            destination.device,
            destination.lba + skipped,
            blocks * block_size // destination_block_size,
        ),
        executor=step.executor,
        reason=step.reason,
        rejected=step.rejected,
        segment=step.segment,
    )


def parse_executor(text: str) -> Executor:
    """The inverse of `str(Executor)`."""
    prefix = "second controller "
    if text.startswith(prefix):
        return Executor(ExecutorKind.SECOND_CONTROLLER, text.removeprefix(prefix))
    if text == str(THIS_CONTROLLER):
        return THIS_CONTROLLER
    raise ValueError(f"{text!r} is no executor")
