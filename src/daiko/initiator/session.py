"""A session of one connection in its full feature phase: commands out, answers in.

Theory of operation. `submit` sends a command at once when the command window (CmdSN, MaxCmdSN) and
the queue depth have room, else it waits in a queue. Commands in flight stand in a table by their
initiator task tag; an answer finds its command there and completes it in the same call. There is
no task, future or exception per command. What is sent in one turn of the event loop goes out in
one `writelines` (`port/connection.py`).

Data read is placed: for a large Data-In PDU the framer asks `_place` for memory, which is the
command's own buffer, and the transport receives into it. A small read that comes whole in one PDU
is handed on as it came. Data of a write is referred to, never copied: immediate data, unsolicited
Data-Out, then what the target asks for by R2T.

Order of data is negotiated (DataPDUInOrder, DataSequenceInOrder = Yes), so each Data-In must begin
where the last one ended; one that does not ends the connection.

Time. One timer a session looks at the commands in flight every `settings.tick` seconds. A command
past its deadline is aborted (ABORT TASK); if that is not answered, the logical unit is reset; if
that is not answered either, the connection is dropped. A silent target is pinged by NOP-Out.

A session ends once, with `owner.lost`, and is not used again; `multipath.py` makes the next one.
Error recovery level is 0 throughout: whatever is wrong with the connection ends it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import structlog

from daiko.device.block import Buffer
from daiko.initiator.command import Command, Failure, Stage
from daiko.initiator.login import LoggedIn
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.bhs import (
    DATA_IN,
    DATA_OUT,
    FINAL,
    OVERFLOW,
    R2T,
    READ,
    RESERVED_TAG,
    SCSI_COMMAND,
    SCSI_RESPONSE,
    STATUS,
    WRITE,
    AsyncEvent,
    LogoutReason,
    Opcode,
    TaskManagementFunction,
    TaskManagementResponseCode,
)
from daiko.iscsi.error import RemoteProtocolError
from daiko.iscsi.framing import Handler, dispatch_table
from daiko.iscsi.pdu import (
    AsyncMessage,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Reject,
    TaskManagementRequest,
    TaskManagementResponse,
    sense_of,
)
from daiko.port.connection import Connection

log = structlog.get_logger(__name__)

_MASK = 0xFFFFFFFF
_SIMPLE = 1
"""Task attribute SIMPLE (11.3.1)."""
_READ_FLAGS = FINAL | READ | _SIMPLE
_NO_DATA_FLAGS = FINAL | _SIMPLE


class SessionOwner(Protocol):
    """Who is told how commands and the session end."""

    def completed(self, command: Command, status: int, sense: bytes) -> None:
        """The target answered, or `status` is a `Failure`."""

    def lost(self, session: Session, error: str) -> None:
        """The connection is gone; `session.unfinished` gives what was not answered."""


class Session:
    """One I_T nexus while its connection lasts."""

    __slots__ = (
        "_cmd_sn",
        "_connection",
        "_credit",
        "_depth",
        "_draining",
        "_error",
        "_exp_stat_sn",
        "_heard",
        "_is_ended",
        "_logout",
        "_loop",
        "_management",
        "_max_cmd_sn",
        "_next_tag",
        "_owner",
        "_pinged_at",
        "_queue",
        "_quiet_since",
        "_settings",
        "_tasks",
        "_timer",
        "_unsolicited",
        "immediate_length",
        "name",
        "negotiated",
    )

    def __init__(
        self,
        connection: Connection,
        login: LoggedIn,
        owner: SessionOwner,
        settings: InitiatorSettings,
        name: str,
    ) -> None:
        self.name = name
        """For the log: the target and the portal."""
        negotiated = self.negotiated = login.parameters
        self._connection = connection
        self._owner = owner
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[int, Command] = {}
        self._queue: deque[Command] = deque()
        self._management: dict[int, tuple[TaskManagementFunction, Command]] = {}
        self._next_tag = 1
        self._cmd_sn = login.cmd_sn
        self._max_cmd_sn = login.max_cmd_sn
        self._exp_stat_sn = login.exp_stat_sn
        self._depth = settings.queue_depth
        self._credit = 0
        self._draining = False
        self._is_ended = False
        self._error = ""
        self._heard = True
        now = self._loop.time()
        self._quiet_since = now
        self._pinged_at = 0.0
        self._logout: asyncio.Future[None] | None = None
        immediate = 0
        if negotiated.immediate_data:
            immediate = min(negotiated.first_burst_length, negotiated.send_limit)
        self.immediate_length = immediate
        """Bytes of a write that go with its command."""
        self._unsolicited = 0 if negotiated.initial_r2t else negotiated.first_burst_length
        self._grant()
        self._timer = self._loop.call_later(settings.tick, self._tick)

    # --- commands

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def unfinished(self) -> list[Command]:
        """Commands not answered, in the order in which they were submitted."""
        sent = sorted(self._tasks.values(), key=lambda task: (task.cmd_sn - self._cmd_sn) & _MASK)
        return [*sent, *self._queue]

    def submit(self, command: Command) -> None:
        """Send `command`, now or when there is room for it. It ends by `owner.completed`, or is
        among `unfinished` when the session ends."""
        if (
            self._credit > 0
            and len(self._tasks) < self._depth
            and not self._queue
            and not self._connection.is_congested
        ):
            self._send(command)
        else:
            self._queue.append(command)

    def withdraw_queued(self) -> list[Command]:
        """Take back what was not sent yet."""
        withdrawn = list(self._queue)
        self._queue.clear()
        return withdrawn

    def limit_depth(self) -> None:
        """The target has no room for as many commands as it was sent (TASK SET FULL)."""
        self._depth = max(1, len(self._tasks) // 2)

    def _grant(self) -> None:
        """How many commands the window allows now (4.2.2.1)."""
        window = (self._max_cmd_sn - self._cmd_sn + 1) & _MASK
        self._credit = 0 if window > 0x7FFFFFFF or self._draining or self._is_ended else window

    def _pump(self) -> None:
        queue = self._queue
        while (
            queue
            and self._credit > 0
            and len(self._tasks) < self._depth
            and not self._connection.is_congested
        ):
            self._send(queue.popleft())

    def _send(self, command: Command) -> None:
        tag = self._next_tag
        while tag in self._tasks:
            tag = (tag + 1) & 0x7FFFFFFF
        self._next_tag = (tag + 1) & 0x7FFFFFFF
        cmd_sn = self._cmd_sn
        self._cmd_sn = (cmd_sn + 1) & _MASK
        self._credit -= 1
        self._tasks[tag] = command
        command.tag = tag
        command.cmd_sn = cmd_sn
        command.attempts += 1
        command.received = 0
        command.stage = Stage.WAITING
        now = self._loop.time()
        command.deadline = now + command.timeout
        if not command.begun:
            command.begun = now
        data = command.data_out
        if not data:
            length = command.read_length
            self._connection.send(
                SCSI_COMMAND.pack(
                    Opcode.SCSI_COMMAND, _READ_FLAGS if length else _NO_DATA_FLAGS, 0, 0,
                    command.lun, tag, length, cmd_sn, self._exp_stat_sn, command.cdb,
                )
            )  # fmt: skip
            return
        length = len(data)
        immediate = min(self.immediate_length, length)
        unsolicited = min(self._unsolicited, length)
        final = FINAL if unsolicited <= immediate else 0
        self._connection.send(
            SCSI_COMMAND.pack(
                Opcode.SCSI_COMMAND, final | WRITE | _SIMPLE, 0, immediate, command.lun, tag,
                length, cmd_sn, self._exp_stat_sn, command.cdb,
            ),
            memoryview(data)[:immediate] if immediate < length else data,
        )  # fmt: skip
        if not final:
            self._send_data(command, immediate, unsolicited, RESERVED_TAG)

    def _send_data(self, command: Command, start: int, end: int, transfer_tag: int) -> None:
        """One sequence of Data-Out PDUs: bytes start..end of the command's data."""
        view = memoryview(command.data_out)
        limit = self.negotiated.send_limit
        number = 0
        while start < end:
            stop = min(start + limit, end)
            self._connection.send(
                DATA_OUT.pack(
                    Opcode.DATA_OUT, FINAL if stop == end else 0, 0, stop - start, command.lun,
                    command.tag, transfer_tag, 0, self._exp_stat_sn, 0, number, start, 0,
                ),
                view[start:stop],
            )  # fmt: skip
            number += 1
            start = stop

    # --- answers: the data path

    def dispatch(self) -> Sequence[Handler]:
        """The framer's table from the first PDU after the login on."""
        return dispatch_table(
            {
                Opcode.DATA_IN: self._data_in,
                Opcode.SCSI_RESPONSE: self._scsi_response,
                Opcode.R2T: self._ready_to_transfer,
                Opcode.NOP_IN: self._nop_in,
                Opcode.TASK_MANAGEMENT_RESPONSE: self._task_management_response,
                Opcode.LOGOUT_RESPONSE: self._logout_response,
                Opcode.ASYNC_MESSAGE: self._async_message,
                Opcode.REJECT: self._reject,
            },
            _unexpected,
        )

    def place(self, header: Buffer, at: int, length: int) -> memoryview | None:
        """Where a large data segment belongs."""
        if header[at] & 0x3F != Opcode.DATA_IN:
            return None
        fields = DATA_IN.unpack_from(header, at)
        command = self._tasks.get(fields[6])
        if command is None:
            return None
        offset = fields[12]
        _check_placement(command, offset, length)
        buffer = command.buffer
        if buffer is None:
            buffer = command.buffer = bytearray(command.read_length)
        return memoryview(buffer)[offset : offset + length]

    def _data_in(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        (_, flags, _, status, _, _, tag, _, stat_sn, _, max_cmd_sn, _, offset, _) = (
            DATA_IN.unpack_from(header, at)
        )
        self._heard = True
        command = self._tasks.get(tag)
        if command is not None:
            length = len(data)
            if type(data) is not memoryview:  # not in its place yet
                _check_placement(command, offset, length)
                buffer = command.buffer
                if buffer is None and length == command.read_length:
                    command.data = data
                else:
                    if buffer is None:
                        buffer = command.buffer = bytearray(command.read_length)
                    memoryview(buffer)[offset : offset + length] = data
            command.received = offset + length
        if max_cmd_sn != self._max_cmd_sn:
            self._window(max_cmd_sn)
        if flags & STATUS:
            self._exp_stat_sn = (stat_sn + 1) & _MASK
            if command is not None:
                self._finish(command, status, b"")

    def _scsi_response(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        (_, flags, response, status, _, _, tag, _, stat_sn, _, max_cmd_sn, _, _, residual) = (
            SCSI_RESPONSE.unpack_from(header, at)
        )
        self._heard = True
        self._exp_stat_sn = (stat_sn + 1) & _MASK
        if max_cmd_sn != self._max_cmd_sn:
            self._window(max_cmd_sn)
        command = self._tasks.get(tag)
        if command is None:
            return  # of a task that was aborted meanwhile
        if response:
            status = Failure.TARGET_FAILURE
        elif flags & OVERFLOW and command.data_out:
            # The unit wanted more data than the command had: its CDB and its data do not fit.
            log.warning("target wanted more data", target=self.name, residual=residual)
        self._finish(command, status, sense_of(data) if data else b"")

    def _ready_to_transfer(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        (_, _, _, _, _, tag, transfer_tag, _, _, max_cmd_sn, _, offset, length) = R2T.unpack_from(
            header, at
        )
        self._heard = True
        if max_cmd_sn != self._max_cmd_sn:
            self._window(max_cmd_sn)
        command = self._tasks.get(tag)
        if command is None:
            return
        if not length or offset + length > len(command.data_out):
            raise RemoteProtocolError(
                f"R2T asks for bytes {offset}..{offset + length} of {len(command.data_out)}"
            )
        self._send_data(command, offset, offset + length, transfer_tag)

    def _finish(self, command: Command, status: int, sense: bytes) -> None:
        del self._tasks[command.tag]
        self._owner.completed(command, status, sense)
        if self._queue:
            self._pump()
        elif self._draining and not self._tasks:
            self._log_out()

    def _window(self, max_cmd_sn: int) -> None:
        """MaxCmdSN only grows (4.2.2.1); an older value is of a PDU that was overtaken."""
        if 0 < (max_cmd_sn - self._max_cmd_sn) & _MASK < 0x80000000:
            self._max_cmd_sn = max_cmd_sn
            self._grant()
            if self._queue:
                self._pump()

    def congestion_ended(self) -> None:
        """The target reads again."""
        self._pump()

    # --- answers: the rest

    def _acknowledge(self, stat_sn: int, max_cmd_sn: int) -> None:
        self._heard = True
        self._exp_stat_sn = (stat_sn + 1) & _MASK
        self._window(max_cmd_sn)

    def _nop_in(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        pdu = NopIn.parse(header, at, data)
        self._heard = True
        if pdu.initiator_task_tag != RESERVED_TAG:
            self._acknowledge(pdu.stat_sn, pdu.max_cmd_sn)
            return
        self._window(pdu.max_cmd_sn)
        if pdu.target_transfer_tag != RESERVED_TAG:
            self._connection.send(
                NopOut(
                    lun=pdu.lun,
                    target_transfer_tag=pdu.target_transfer_tag,
                    cmd_sn=self._cmd_sn,
                    exp_stat_sn=self._exp_stat_sn,
                    data=pdu.data,
                ).pack(),
                pdu.data,
            )

    def _task_management_response(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        pdu = TaskManagementResponse.parse(header, at)
        self._acknowledge(pdu.stat_sn, pdu.max_cmd_sn)
        request = self._management.pop(pdu.initiator_task_tag, None)
        if request is None:
            raise RemoteProtocolError("a task management response to no request")
        function, command = request
        log.warning(
            "task management answered", target=self.name, function=function.name,
            response=pdu.response,
        )  # fmt: skip
        is_done = pdu.response == TaskManagementResponseCode.FUNCTION_COMPLETE
        if function is TaskManagementFunction.LOGICAL_UNIT_RESET:
            if not is_done:
                self.drop(f"LOGICAL UNIT RESET was refused (response {pdu.response})")
                return
            for other in [task for task in self._tasks.values() if task.lun == command.lun]:
                late = other.stage is not Stage.WAITING
                self._finish(other, Failure.TIMED_OUT if late else Failure.RESET, b"")
        elif self._tasks.get(command.tag) is not command:
            return  # its answer came before that of the abort
        elif is_done or pdu.response == TaskManagementResponseCode.TASK_DOES_NOT_EXIST:
            self._finish(command, Failure.TIMED_OUT, b"")
        else:
            self._escalate(command)

    def _async_message(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        pdu = AsyncMessage.parse(header, at, data)
        self._acknowledge(pdu.stat_sn, pdu.max_cmd_sn)
        log.info("asynchronous message", target=self.name, code=pdu.event)
        if pdu.event in (AsyncEvent.LOGOUT_REQUESTED, AsyncEvent.NEGOTIATION_REQUESTED):
            # Nothing new is sent; what is in flight is waited for, then the session logs out.
            self._draining = True
            self._grant()
            if not self._tasks:
                self._log_out()
        elif pdu.event in (AsyncEvent.CONNECTION_DROPPED, AsyncEvent.ALL_CONNECTIONS_DROPPED):
            self.drop("the target drops the connection")
        elif pdu.event == AsyncEvent.ALL_TASKS_TERMINATED:
            self.drop("the target ended all tasks")

    def _reject(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        pdu = Reject.parse(header, at, data)
        raise RemoteProtocolError(f"the target rejected a PDU, reason {pdu.reason:02x}h")

    # --- time

    def _tick(self) -> None:
        if self._is_ended:
            return
        now = self._loop.time()
        self._timer = self._loop.call_later(self._settings.tick, self._tick)
        if self._depth < self._settings.queue_depth:
            self._depth += 1
        self._pump()
        for command in [task for task in self._tasks.values() if task.deadline < now]:
            self._escalate(command)
            if self._connection.is_closing:
                return
        if self._heard:
            self._heard = False
            self._quiet_since = now
            self._pinged_at = 0.0
        elif self._pinged_at:
            if now - self._pinged_at > self._settings.ping_timeout:
                self.drop(f"no answer to a ping in {self._settings.ping_timeout:g} s")
        elif now - self._quiet_since >= self._settings.ping_interval:
            self._pinged_at = now
            tag = self._take_tag()
            self._connection.send(
                NopOut(
                    initiator_task_tag=tag, cmd_sn=self._cmd_sn, exp_stat_sn=self._exp_stat_sn
                ).pack()
            )

    def _take_tag(self) -> int:
        tag = self._next_tag
        while tag in self._tasks or tag in self._management:
            tag = (tag + 1) & 0x7FFFFFFF
        self._next_tag = (tag + 1) & 0x7FFFFFFF
        return tag

    def _escalate(self, command: Command) -> None:
        """The next harder way to get an overdue command out of the target."""
        if command.stage is Stage.LOGICAL_UNIT_RESET:
            self.drop("no answer to task management")
            return
        if command.stage is Stage.WAITING:
            command.stage = Stage.ABORT_TASK
            function = TaskManagementFunction.ABORT_TASK
        else:
            command.stage = Stage.LOGICAL_UNIT_RESET
            function = TaskManagementFunction.LOGICAL_UNIT_RESET
        command.deadline = self._loop.time() + self._settings.task_management_timeout
        tag = self._take_tag()
        self._management[tag] = (function, command)
        log.warning(
            "command overdue", target=self.name, opcode=f"{command.cdb[0]:02x}h",
            function=function.name,
        )  # fmt: skip
        is_abort = function is TaskManagementFunction.ABORT_TASK
        self._connection.send(
            TaskManagementRequest(
                function=function,
                lun=command.lun,
                initiator_task_tag=tag,
                referenced_task_tag=command.tag if is_abort else RESERVED_TAG,
                cmd_sn=self._cmd_sn,
                exp_stat_sn=self._exp_stat_sn,
                ref_cmd_sn=command.cmd_sn if is_abort else 0,
            ).pack()
        )

    # --- the end

    async def log_out(self) -> None:
        """Leave in order: returns when the target has answered or the connection is gone."""
        if self._is_ended:
            return
        if self._logout is None:
            self._log_out()
        assert self._logout is not None
        try:
            async with asyncio.timeout(self._settings.task_management_timeout):
                await asyncio.shield(self._logout)
        except TimeoutError:
            self.drop("no answer to the logout")
            await self._logout

    def _log_out(self) -> None:
        if self._logout is not None or self._is_ended:
            return
        self._logout = self._loop.create_future()
        self._draining = True
        self._grant()
        self._connection.send(
            LogoutRequest(
                LogoutReason.CLOSE_SESSION,
                self._take_tag(),
                cmd_sn=self._cmd_sn,
                exp_stat_sn=self._exp_stat_sn,
            ).pack()
        )

    def _logout_response(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        pdu = LogoutResponse.parse(header, at)
        if pdu.response:
            log.warning("logout refused", target=self.name, response=pdu.response)
        self._error = "logged out"
        self._connection.close()

    def drop(self, reason: str) -> None:
        """End the connection at once."""
        if not self._is_ended:
            self._error = reason
            self._connection.abort()

    def refused(self, error: RemoteProtocolError) -> None:
        """The target broke the protocol; the connection is about to be closed."""
        self._error = str(error)

    def ended(self, error: Exception | None) -> None:
        """The connection is gone."""
        if self._is_ended:
            return
        self._is_ended = True
        self._credit = 0
        self._timer.cancel()
        if self._logout is not None and not self._logout.done():
            self._logout.set_result(None)
        self._owner.lost(
            self, self._error or str(error or "") or "the target closed the connection"
        )


def _check_placement(command: Command, offset: int, length: int) -> None:
    """Data comes in order and no more of it than was asked for."""
    if offset != command.received or offset + length > command.read_length:
        raise RemoteProtocolError(
            f"Data-In of {length} bytes at {offset}: {command.received} of "
            f"{command.read_length} have come"
        )


def _unexpected(header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
    raise RemoteProtocolError(f"a PDU of opcode {header[at] & 0x3F:02x}h in the full feature phase")
