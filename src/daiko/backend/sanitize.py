"""SANITIZE carried out by the second controller that owns the LU: begun there, and followed.

The command is sent with IMMED, so that it ends at once and no time limit of ours meets hours of
work. From then on the LU is asked by TEST UNIT READY, after pauses that double up to
`LONGEST_POLL`. NOT READY, SANITIZE IN PROGRESS (04/1B) carries how far it is (where it does not,
REQUEST SENSE does); MEDIUM ERROR, SANITIZE COMMAND FAILED (31/03) is a bad end, GOOD a good one.

**What proves that it is done.** An LU that is ready shows that nothing is at work, not what was.
It counts only if, in the same I_T nexus, the LU has taken the command or was seen at work. After
the loss of a session, a reset, or a restart of this controller an LU that is ready gets the command
again: done twice it leaves what it leaves when done once. One that is still at work is followed.

**What is checked before it is sent.** All blocks of the LU go, so they must be all that this
controller knows of: an LU that has grown unnoticed is not sanitized but, in the blocks that are
known, written (`Unsupported`). One that was withdrawn, as it may be another LU, is sent nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import structlog

from daiko.backend.lu_facts import read_capacity
from daiko.backend.refusal import device_error, is_of_medium
from daiko.device.block import Buffer, Done
from daiko.device.error import Busy, DeviceError, MediumFailure, Refused, Unreachable, Unsupported
from daiko.device.sanitize import Sanitization, SanitizeWatcher
from daiko.initiator.command import AskedCommand, Command
from daiko.scsi.layout import MalformedData
from daiko.scsi.opcode import Sanitize, Status
from daiko.scsi.report import lun_field
from daiko.scsi.sbc import SanitizeBlockErase, SanitizeExitFailureMode, SanitizeOverwrite
from daiko.scsi.sense import SenseKey, parse_sense
from daiko.scsi.spc import RequestSense, TestUnitReady

if TYPE_CHECKING:
    from daiko.backend.remote_lu import RemoteLu

log = structlog.get_logger(__name__)

FIRST_POLL, LONGEST_POLL = 0.1, 10.0
"""Seconds between two questions: the end is noticed after at most twice the time that it took, and
never more than 10 s late."""
_SENSE_LENGTH = 252


class State(Enum):
    """What an LU says of its medium."""

    READY = "ready"
    AT_WORK = "sanitize in progress"
    FAILED = "sanitize command failed"


STATES: dict[tuple[int, int, int], State] = {
    (SenseKey.NOT_READY, 0x04, 0x1B): State.AT_WORK,
    (SenseKey.MEDIUM_ERROR, 0x31, 0x03): State.FAILED,
}
"""By sense key, ASC and ASCQ."""

REFUSALS = frozenset(
    {
        (SenseKey.ILLEGAL_REQUEST, 0x1A, 0x00),
        (SenseKey.ILLEGAL_REQUEST, 0x20, 0x00),
        (SenseKey.ILLEGAL_REQUEST, 0x24, 0x00),
        (SenseKey.ILLEGAL_REQUEST, 0x26, 0x00),
    }
)
"""What an LU answers that has no such command, or not with these parameters: nothing has begun."""


class Port(Protocol):
    """Where commands go."""

    command_timeout: float

    @property
    def generation(self) -> int:
        """Grows whenever an I_T nexus ended."""

    def send(self, command: Command) -> None:
        """Send it; its `done` is called exactly once."""

    def unit_attention(self, lun: int, asc: int, ascq: int) -> None:
        """The logical unit (8-byte field) reported one that reached nobody else."""


def action_of(wanted: Sanitization) -> Sanitize:
    """The service action."""
    erases = wanted.overwrite is None
    return Sanitize.SANITIZE_BLOCK_ERASE if erases else Sanitize.SANITIZE_OVERWRITE


def command_of(wanted: Sanitization) -> tuple[bytes, bytes]:
    """The CDB and the parameter list."""
    ause = not wanted.is_restricted
    if wanted.overwrite is None:
        return SanitizeBlockErase.pack(immed=1, ause=ause), b""
    data = wanted.overwrite.pack()
    cdb = SanitizeOverwrite.pack(immed=1, ause=ause, parameter_list_length=len(data))
    return cdb, data


def follow(
    unit: RemoteLu, port: Port, wanted: Sanitization, watcher: SanitizeWatcher, *, resume: bool
) -> Callable[[], None]:
    """Have the unit sanitized, or go on with that (`resume`); returns what stops to follow it."""
    following = _Following(unit, port, wanted, watcher)
    task = asyncio.get_running_loop().create_task(following.run(resume))

    def stop() -> None:
        task.cancel()

    return stop


def exit_failure_mode(unit: RemoteLu, port: Port, done: Done) -> None:
    """SANITIZE, EXIT FAILURE MODE."""

    def completed(error: DeviceError | None, status: int, _: Buffer, sense: bytes) -> None:
        what = f"{unit.name}: SANITIZE, EXIT FAILURE MODE"
        done(error or device_error(status, sense, what, writing=True))

    cdb = SanitizeExitFailureMode.pack()
    port.send(AskedCommand(lun_field(unit.lun), cdb, completed, timeout=port.command_timeout))


class _Following:
    """One SANITIZE of one LU."""

    def __init__(
        self, unit: RemoteLu, port: Port, wanted: Sanitization, watcher: SanitizeWatcher
    ) -> None:
        self._unit = unit
        self._port = port
        self._wanted = wanted
        self._watcher = watcher
        self._known_in = -1
        """The generation of the nexus in which the LU was at work last."""

    async def run(self, resume: bool) -> None:
        """To the end, and tell the watcher of it."""
        error: DeviceError | None = None
        try:
            await self._carry_out(resume)
        except DeviceError as failure:
            error = failure
        except MalformedData as nonsense:
            error = Refused(f"{self._unit.name}: SANITIZE: {nonsense}", status=0, sense=b"")
        self._watcher.ended(error)

    async def _carry_out(self, resume: bool) -> None:
        """Return when it is proved that the LU has been sanitized. Raises DeviceError."""
        is_ours = resume and await self._is_still_at_it()
        while True:
            if not is_ours:
                is_ours = await self._start()
            if is_ours:
                self._watcher.taken_over()
            is_proved = await self._until_ready(is_ours)
            if is_ours and is_proved:
                return
            log.info("sanitize is asked for again", device=self._unit.name, was_ours=is_ours)
            is_ours = False

    async def _is_still_at_it(self) -> bool:
        """Is what was begun before at work? Raises MediumFailure where it has failed."""
        state, progress = await self._look()
        if state is State.FAILED:
            raise self._failure()
        if state is State.AT_WORK:
            self._watcher.progressed(progress)
        return state is State.AT_WORK

    async def _start(self) -> bool:
        """Send the command; False where another one is at work, which was not ours."""
        await self._check_that_all_is_known()
        cdb, data = command_of(self._wanted)
        status, _, sense = await self._send(cdb, data, replay=False)
        what = f"{self._unit.name}: SANITIZE"
        error = device_error(status, sense, what, writing=True)
        self._known_in = self._port.generation
        if error is None:
            log.info("sanitize handed over", device=self._unit.name)
            return True
        code = _code(status, sense)
        if code in REFUSALS:
            raise Unsupported(str(error))
        if STATES.get(code) is State.AT_WORK:
            return False
        raise _passing(error, code)

    async def _check_that_all_is_known(self) -> None:
        unit = self._unit
        try:
            capacity = await read_capacity(self, unit.lun)
        except DeviceError as error:
            if not is_of_medium(error):
                raise
            return  # at work, or failed: another one has been over all blocks already
        known = self._wanted.blocks
        if (capacity.blocks, capacity.block_size) != (known, unit.block_size):
            raise Unsupported(f"{unit.name} has {capacity.blocks} blocks, not {known}")

    async def _until_ready(self, is_ours: bool) -> bool:
        """Return when nothing is at work any more: whether that was seen to come to its end."""
        pause = FIRST_POLL
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL)
            state, progress = await self._look()
            if state is State.READY:
                return self._known_in == self._port.generation
            if state is State.FAILED:
                if is_ours:
                    raise self._failure()
                return False
            self._watcher.progressed(progress)

    async def _look(self) -> tuple[State, int]:
        """What the LU says of its medium, and how far it is."""
        status, _, sense = await self._send(TestUnitReady.pack())
        error = device_error(status, sense, f"{self._unit.name}: TEST UNIT READY", writing=False)
        if error is None:
            return State.READY, 0
        code = _code(status, sense)
        state = STATES.get(code)
        if state is None:
            raise _passing(error, code)
        if state is State.FAILED:
            return state, 0
        self._known_in = self._port.generation
        progress = parse_sense(sense).progress
        return state, await self._progress() if progress is None else progress

    async def _progress(self) -> int:
        """From REQUEST SENSE; 0 where that does not tell either."""
        cdb = RequestSense.pack(allocation_length=_SENSE_LENGTH)
        status, data, _ = await self._send(cdb, read_length=_SENSE_LENGTH)
        if status:
            return 0
        said = parse_sense(data)
        if said.key == SenseKey.UNIT_ATTENTION:
            # It is reported once, and this command is no one that others look for it in.
            self._port.unit_attention(lun_field(self._unit.lun), said.asc, said.ascq)
            self._known_in = -1
        return said.progress or 0

    def _failure(self) -> MediumFailure:
        return MediumFailure(f"{self._unit.name} says that SANITIZE failed", writing=True)

    async def ask(self, lun: int, cdb: bytes, length: int, *, optional: bool = False) -> Buffer:
        """`lu_facts.Asks`."""
        status, data, sense = await self._send(cdb, read_length=length)
        what = f"{self._unit.name}: command {cdb[0]:02x}h"
        error = device_error(status, sense, what, writing=False, optional=optional)
        if error is not None:
            raise error
        return data

    async def _send(
        self, cdb: bytes, data: bytes = b"", *, read_length: int = 0, replay: bool = True
    ) -> tuple[int, Buffer, bytes]:
        """(status, data, sense). Raises DeviceError where there is no status."""
        if self._unit.absence:
            raise Unreachable(f"{self._unit.name}: {self._unit.absence}")
        answer: asyncio.Future[tuple[int, Buffer, bytes]]
        answer = asyncio.get_running_loop().create_future()

        def completed(error: DeviceError | None, status: int, data: Buffer, sense: bytes) -> None:
            if answer.cancelled():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result((status, data, sense))

        field, timeout = lun_field(self._unit.lun), self._port.command_timeout
        self._port.send(
            AskedCommand(field, cdb, completed, data, read_length, timeout=timeout, replay=replay)
        )
        return await answer


def _passing(error: DeviceError, code: tuple[int, int, int]) -> DeviceError:
    """NOT READY for any other reason says nothing of SANITIZE: it is asked again."""
    return Busy(str(error)) if code[0] == SenseKey.NOT_READY else error


def _code(status: int, sense: bytes) -> tuple[int, int, int]:
    """Sense key, ASC and ASCQ; zeros where the status says all. Raises MalformedData."""
    if status != Status.CHECK_CONDITION:
        return 0, 0, 0
    said = parse_sense(sense)
    return said.key, said.asc, said.ascq
