"""The way to one second controller for the copy commands of all jobs.

All jobs share our one session to a back end, and the back end's limits are for all of them
together. A lane lets so many second commands through at a time, in the order in which they came
(a job has only a few of them waiting, so jobs take turns), gives each a list identifier where it
needs one, sets the aliases that it names, and repeats it while the answer is "not now".

An alias lives as long as the I_T nexus. The lane remembers what it set and over which nexus
(`generation`), sets what is missing before the command, and when the nexus changed while the
command was on its way it takes a refusal for the lost aliases' doing and starts over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from daiko.command_control.function_table import CopyLimits
from daiko.command_control.generation import SecondCommand
from daiko.copy_manager.devices import CommandPort
from daiko.copy_manager.failure import Failure, Lesson, Verdict, classify_answer, classify_error
from daiko.copy_manager.halt import Halt
from daiko.copy_manager.list_id_pool import ListIdPool
from daiko.copy_manager.settings import CopySettings, Retries
from daiko.device.error import DeviceError
from daiko.scsi.alias import Alias, pack_change_aliases
from daiko.scsi.opcode import MaintenanceOut, Opcode, Status

GOOD_TO_WIDEN = 8
"""Commands that have to end GOOD before one more is let to a back end that had no room."""

_CHANGE_ALIASES = bytes((Opcode.MAINTENANCE_OUT, MaintenanceOut.CHANGE_ALIASES, 0, 0, 0, 0))


class CommandFailed(Exception):
    """A second command did not end GOOD, and trying again is no use."""

    def __init__(self, failure: Failure, sense: bytes = b"") -> None:
        super().__init__(failure.reason)
        self.failure = failure
        self.sense = sense
        """Of a CHECK CONDITION; b"" otherwise."""


class Halted(Exception):
    """A halt was asked for while the command was not at the back end: nothing of it was done."""


class Lane:
    """The copy commands of all jobs to one second controller."""

    def __init__(self, port: CommandPort, limits: CopyLimits, settings: CopySettings) -> None:
        self.port = port
        self._settings = settings
        self.width = min(
            max(limits.concurrent, settings.commands_in_flight),
            settings.maximum_commands_in_flight,
        )
        """Commands at the back end at a time."""
        self._widest = self.width
        self._good = 0
        """Commands that ended GOOD since one last met "not now"."""
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._list_ids = ListIdPool()
        self._aliases: dict[int, set[Alias]] = {}
        self._alias_generation = port.generation
        self._alias_lock = asyncio.Lock()

    async def carry_out(self, command: SecondCommand, retries: Retries, halt: Halt) -> None:
        """Send a second command; return when it ended GOOD. Raises CommandFailed or Halted."""
        await self._enter()
        list_id = 0
        try:
            if command.needs_list_id:
                list_id = await self._list_ids.take()
            await self._try(command, command.with_list_id(list_id), retries, halt)
        finally:
            if list_id:
                self._list_ids.give(list_id)
            self._leave()

    async def _try(
        self, command: SecondCommand, parameter_list: bytes, retries: Retries, halt: Halt
    ) -> None:
        tries = retries.begin(asyncio.get_running_loop().time)
        while True:
            if halt.requested:
                raise Halted
            generation = self.port.generation
            failure, said = await self._send(command, parameter_list)
            if failure is None:
                self._widen()
                return
            delay = tries.failed()
            lost_aliases = bool(command.aliases) and self.port.generation != generation
            again = failure.verdict is Verdict.TRY_AGAIN or (
                lost_aliases and failure.verdict is Verdict.FALL_BACK
            )
            if not again or delay is None:
                raise CommandFailed(failure, said)
            self._good = 0
            if self._inside > 1:
                self.width = 1  # it has no room for more than one at a time, for now
            await halt.pause(delay)

    def _widen(self) -> None:
        """What kept commands out may have passed: after so many good ones one more is let in."""
        self._good += 1
        if self._good >= GOOD_TO_WIDEN and self.width < self._widest:
            self._good = 0
            self.width += 1

    async def _send(
        self, command: SecondCommand, parameter_list: bytes
    ) -> tuple[Failure | None, bytes]:
        """One try; None is GOOD. The second value is sense data."""
        try:
            failure = await self._set_aliases(command.lun, command.aliases)
            if failure is not None:
                return failure, b""
            answer = await self.port.execute(
                command.lun,
                command.cdb,
                parameter_list,
                timeout=self._settings.seconds_for(command.size, self.width),
            )
        except DeviceError as error:
            return classify_error(error), b""
        if answer.status == Status.GOOD:
            return None, b""
        return classify_answer(answer.status, answer.sense), answer.sense

    async def _set_aliases(self, lun: int, aliases: Sequence[Alias]) -> Failure | None:
        """See that the LU knows the aliases that a command names."""
        if all(alias in self._known_aliases(lun) for alias in aliases):
            return None
        async with self._alias_lock:
            known = self._known_aliases(lun)
            missing = [alias for alias in aliases if alias not in known]
            if not missing:
                return None
            data = pack_change_aliases(missing)
            cdb = _CHANGE_ALIASES + len(data).to_bytes(4, "big") + bytes(2)
            answer = await self.port.execute(lun, cdb, data)
            if answer.status == Status.GOOD:
                if self.port.generation == self._alias_generation:
                    known.update(missing)
                return None
            failure = classify_answer(answer.status, answer.sense)
            return failure._replace(
                reason=f"CHANGE ALIASES: {failure.reason}", lesson=Lesson.NOTHING
            )

    def _known_aliases(self, lun: int) -> set[Alias]:
        """Those that the LU has been told over the nexus as it is now."""
        if self.port.generation != self._alias_generation:
            self._aliases.clear()
            self._alias_generation = self.port.generation
        return self._aliases.setdefault(lun, set())

    # --- taking turns ---------------------------------------------------------------------------

    async def _enter(self) -> None:
        if self._inside < self.width and not self._waiting:
            self._inside += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._leave()
            else:
                self._waiting.remove(waiter)
            raise

    def _leave(self) -> None:
        self._inside -= 1
        while self._waiting and self._inside < self.width:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._inside += 1
                waiter.set_result(None)
