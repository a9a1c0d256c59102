"""Copying by a second controller: the steps become second commands, sent one behind the other.

The commands of a batch of steps are made while they are sent, a few ahead, so that a terabyte
needs no more memory than a megabyte. GOOD means that the blocks a command covers are at the
destination; of a command that failed at a segment only those before it are, by the number in its
sense data; all other blocks stay missing. No byte of payload passes through this controller.

So a pace can only govern how much is asked for. Below full pace one command is in flight at a time,
waits for its pace first, and copies no more than a second of the rate; what the second controller
makes of that second is its own affair. When the pace changes, what is not sent yet is cut anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from daiko.command_control.answer import confirmed
from daiko.command_control.function_table import CopyLimits
from daiko.command_control.generation import (
    GRANULE,
    MOST_COMMAND_BYTES,
    SecondCommand,
    Unnameable,
    command_bytes_for,
    generate,
)
from daiko.command_control.naming import DeviceAddress
from daiko.command_control.plan import Step
from daiko.copy_manager.failure import Failure, Verdict
from daiko.copy_manager.halt import Halt
from daiko.copy_manager.lane import CommandFailed, Halted, Lane
from daiko.copy_manager.pacer import Pacer
from daiko.copy_manager.settings import Retries
from daiko.copy_manager.step_work import Run, StepWork, share_out
from daiko.mapping.extent import DeviceId, Piece
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.layout import MalformedData
from daiko.scsi.sense import parse_sense

_COMMAND_SECONDS: Final = 1.0
"""Below full pace a command copies what the rate allows for in this time. Shorter ones cost the
second controller more, longer ones come in lumps that hosts feel."""


class Dropped(Exception):
    """The second controller does not go on with these steps."""

    def __init__(self, failure: Failure, at: StepWork) -> None:
        super().__init__(failure.reason)
        self.failure = failure
        self.at = at
        """The step at which it failed, as far as the sense data tells."""


class DelegatedCopy:
    """Steps of one second controller that may run side by side."""

    def __init__(
        self,
        works: Sequence[StepWork],
        lane: Lane,
        limits: CopyLimits,
        *,
        directory: Mapping[DeviceId, DeviceAddress],
        writing: Callable[[Sequence[Piece]], AbstractAsyncContextManager[None]],
        template: ExtendedCopy | None,
        pacer: Pacer,
        retries: Retries,
        halt: Halt,
        generation: Callable[[StepWork], int],
        moved: Callable[[], None],
    ) -> None:
        """`template` is the host's command where one asked for the copy: second commands keep its
        structure. `writing` is entered while a command writes. `generation` says over which
        connection the destination of a step is reached by this controller now (its flush will have
        to prove the blocks)."""
        self.works = works
        self._lane = lane
        self._limits = limits
        self._directory = directory
        self._writing = writing
        self._template = template
        self._pacer = pacer
        self._retries = retries
        self._halt = halt
        self._generation = generation
        self._moved = moved
        self._in_flight = 0
        self._has_ended = asyncio.Event()
        """Set whenever a command has."""
        self._dropped: Dropped | None = None

    async def run(self) -> None:
        """Copy what is missing; return early when a halt was asked for. Raises Dropped when the
        executor gave up, with nothing in flight."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        before = [work.copied_blocks for work in self.works]
        async with asyncio.TaskGroup() as group:
            try:
                while await self._send(group):
                    await self._fewer_than(1)
            except (KeyError, Unnameable) as gone:
                # A device was detached, or names itself no more, since the plan was made.
                reason = f"it cannot be told of the devices any more: {gone}"
                self._drop(Failure(Verdict.FALL_BACK, reason), self.works[0])
        share_out(self.works, loop.time() - started, before)
        if self._dropped is not None:
            raise self._dropped

    # --- in pace --------------------------------------------------------------------------------

    async def _send(self, group: asyncio.TaskGroup) -> bool:
        """Send commands for what is missing. True: the pace has changed, and some are to be cut
        anew when none is in flight."""
        most = self._most_bytes
        for command, covers in self._commands(most):
            await self._fewer_than(self._lane.width if self._most_bytes is None else 1)
            if self._is_ending:
                return False
            if self._most_bytes != most:
                return True
            if not await self._pacer.wait(command.size, self._halt):
                return False
            if self._is_too_large(command):
                self._pacer.give(command.size)
                return True
            self._in_flight += 1
            group.create_task(self._carry_out(command, covers))
        return False

    @property
    def _most_bytes(self) -> int | None:
        """What one command may copy at the pace as it is now; None: as much as one does."""
        if self._pacer.rate is None:
            return None
        return self._pacer.portion(MOST_COMMAND_BYTES, least=GRANULE, seconds=_COMMAND_SECONDS)

    def _is_too_large(self, command: SecondCommand) -> bool:
        """Whether the pace fell so far while the command waited for it that it should be cut
        anew. Not for a little: what hosts bear changes all the time."""
        most = self._most_bytes
        return most is not None and command.size > 2 * most

    async def _fewer_than(self, commands: int) -> None:
        while self._in_flight >= commands:
            self._has_ended.clear()
            await self._has_ended.wait()

    @property
    def _is_ending(self) -> bool:
        return self._dropped is not None or self._halt.requested

    # --- commands -------------------------------------------------------------------------------

    def _commands(self, most_bytes: int | None) -> Iterator[tuple[SecondCommand, list[Run]]]:
        """The second commands for all that is missing, each with the blocks that it covers."""
        origins: dict[int, tuple[StepWork, int]] = {}
        parts: list[Step] = []
        for work in self.works:
            for first, blocks in work.missing():
                origins[len(parts)] = (work, first)
                parts.append(work.part(first, blocks))
        size = sum(part.source.blocks for part in parts) * self.works[0].block_size
        for command in generate(
            parts,
            self._directory,
            self._limits,
            self._template,
            command_bytes=command_bytes_for(size),
            most_bytes=most_bytes,
        ):
            covers = []
            for cover in command.covers:
                work, first = origins[cover.step]
                covers.append((work, first + cover.offset, cover.blocks))
            yield command, covers

    async def _carry_out(
        self,
        command: SecondCommand,
        covers: list[Run],
    ) -> None:
        generations = [self._generation(work) for work, _, _ in covers]
        try:
            written = [work.part(first, blocks).destination for work, first, blocks in covers]
            async with self._writing(written):
                await self._lane.carry_out(command, self._retries, self._halt)
        except CommandFailed as failed:
            done = _done_before(command, failed.sense)
            self._note(covers[:done], generations[:done])
            self._drop(failed.failure, covers[done][0])
        except Halted:
            return
        else:
            self._note(covers, generations)
        finally:
            self._in_flight -= 1
            self._has_ended.set()

    def _drop(self, failure: Failure, at: StepWork) -> None:
        """Of several failures the first counts."""
        if self._dropped is None:
            self._dropped = Dropped(failure, at)

    def _note(self, covers: Sequence[Run], generations: Sequence[int]) -> None:
        for (work, first, blocks), generation in zip(covers, generations, strict=True):
            work.note_written(first, blocks, generation)
        self._moved()


def _done_before(command: SecondCommand, sense: bytes) -> int:
    """How many of the command's segments were surely copied before it failed."""
    if not sense:
        return 0
    try:
        return len(confirmed(command, parse_sense(sense)))
    except MalformedData:
        return 0
