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

What is no command (time limits, pings, messages of the target, the logout) is in `upkeep.py`.

A session ends once, with `owner.lost`, and is not used again; `multipath.py` makes the next one.
Error recovery level is 0 throughout: whatever is wrong with the connection ends it.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from daiko.device.block import Buffer
from daiko.initiator.command import Command, Failure, Stage
from daiko.initiator.login import LoggedIn
from daiko.initiator.settings import InitiatorSettings
from daiko.initiator.upkeep import Upkeep
from daiko.iscsi.bhs import (
    DATA_IN,
    DATA_OUT,
    FINAL,
    OVERFLOW,
    R2T,
    READ,
    RESERVED_TAG,
    SCSI_COMMAND,
    STATUS,
    WRITE,
    Opcode,
)
from daiko.iscsi.error import RemoteProtocolError
from daiko.iscsi.framing import Handler, dispatch_table
from daiko.iscsi.pdu import (
    sense_of,
)
from daiko.port.connection import Connection

log = structlog.get_logger(__name__)

_MASK: Final = 0xFFFFFFFF
_CLOSED: Final = -1 << 62
"""Credit of a session that sends no more commands, whatever the window."""
_SIMPLE: Final = 1
"""Task attribute SIMPLE (11.3.1)."""
_READ_FLAGS: Final = FINAL | READ | _SIMPLE
_NO_DATA_FLAGS: Final = FINAL | _SIMPLE
_WRITE_FLAGS: Final = WRITE | _SIMPLE
_COMMAND: Final = int(Opcode.SCSI_COMMAND)
_WAITING: Final = Stage.WAITING

# What the data path looks at of the layouts in bhs.py.
_pack_command: Final[Callable[..., bytes]] = SCSI_COMMAND.pack
_DataInFields = tuple[int, int, int, int, int, int]
_data_in_fields: Final[Callable[[Buffer, int], _DataInFields]] = struct.Struct(
    ">xBxB12xI4xI4xI4xI"
).unpack_from
"""flags, status, ITT, StatSN, MaxCmdSN, buffer offset."""
_ResponseFields = tuple[int, int, int, int, int, int, int]
_response_fields: Final[Callable[[Buffer, int], _ResponseFields]] = struct.Struct(
    ">xBBB12xI4xI4xI8xI"
).unpack_from
"""flags, response, status, ITT, StatSN, MaxCmdSN, residual."""


class SessionOwner(Protocol):
    """Who is told how commands and the session end."""

    def completed(self, command: Command, status: int, sense: bytes) -> None:
        """The target answered with another status than GOOD, or `status` is a `Failure`. A
        command with the status GOOD is ended here without asking (`Command.end`)."""

    def reported(self, lun: int, asc: int, ascq: int) -> None:
        """The target told of a unit attention without being asked."""

    def lost(self, session: Session, error: str) -> None:
        """The connection is gone; `session.unfinished` gives what was not answered."""


class Session:
    """One I_T nexus while its connection lasts."""

    __slots__ = (
        "_credit",
        "_depth",
        "_draining",
        "_error",
        "_loop",
        "_max_cmd_sn",
        "_next_tag",
        "_queue",
        "_unsolicited",
        "cmd_sn",
        "connection",
        "exp_stat_sn",
        "heard",
        "immediate_length",
        "is_ended",
        "name",
        "negotiated",
        "now",
        "owner",
        "tasks",
        "time2wait",
        "upkeep",
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
        self.connection = connection
        self.owner = owner
        self._loop = asyncio.get_running_loop()
        self.tasks: dict[int, Command] = {}
        self._queue: deque[Command] = deque()
        self._next_tag = 1
        self.cmd_sn = login.cmd_sn
        self._max_cmd_sn = login.max_cmd_sn
        self.exp_stat_sn = login.exp_stat_sn
        self._depth = settings.queue_depth
        self._credit = 0
        self._draining = False
        self.now = self._loop.time() + settings.tick
        """Loop time of the next tick of `Upkeep`, which is as exact as time limits are."""
        self.is_ended = False
        self.time2wait = 0
        """Seconds for which the target wants no other login at this portal."""
        self._error = ""
        self.heard = True
        """Whether anything came in since `Upkeep` looked last."""
        immediate = 0
        if negotiated.immediate_data:
            immediate = min(negotiated.first_burst_length, negotiated.send_limit)
        self.immediate_length = immediate
        """Bytes of a write that go with its command."""
        self._unsolicited = 0 if negotiated.initial_r2t else negotiated.first_burst_length
        self._grant()
        self.upkeep = Upkeep(self, settings)

    # --- commands

    @property
    def in_flight(self) -> int:
        return len(self.tasks)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def unfinished(self) -> list[Command]:
        """Commands not answered, in the order in which they were submitted."""
        sent = sorted(self.tasks.values(), key=lambda task: (task.cmd_sn - self.cmd_sn) & _MASK)
        return [*sent, *self._queue]

    def submit(self, command: Command) -> None:
        """Send `command`, now or when there is room for it. It ends by `owner.completed`, or is
        among `unfinished` when the session ends."""
        if (
            self._credit > 0
            and len(self.tasks) < self._depth
            and not self._queue
            and not self.connection.is_congested
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
        self._depth = max(1, len(self.tasks) // 2)

    def _grant(self) -> None:
        """How many commands the window allows now (4.2.2.1)."""
        window = (self._max_cmd_sn - self.cmd_sn + 1) & _MASK
        self._credit = _CLOSED if self._draining or self.is_ended else window
        if window > 0x7FFFFFFF:
            self._credit -= 1 << 32

    def _pump(self) -> None:
        queue = self._queue
        while (
            queue
            and self._credit > 0
            and len(self.tasks) < self._depth
            and not self.connection.is_congested
        ):
            self._send(queue.popleft())

    def _send(self, command: Command) -> None:
        tasks = self.tasks
        tag = self._next_tag
        while tag in tasks:
            tag = (tag + 1) & 0x7FFFFFFF
        self._next_tag = (tag + 1) & 0x7FFFFFFF
        cmd_sn = self.cmd_sn
        self.cmd_sn = (cmd_sn + 1) & _MASK
        self._credit -= 1
        tasks[tag] = command
        command.tag = tag
        command.cmd_sn = cmd_sn
        command.attempts += 1
        command.received = 0
        command.stage = _WAITING
        now = self.now
        command.deadline = now + command.timeout
        if not command.begun:
            command.begun = now
        data = command.data_out
        if not data:
            length = command.read_length
            self.connection.send(
                _pack_command(
                    _COMMAND, _READ_FLAGS if length else _NO_DATA_FLAGS, 0, 0,
                    command.lun, tag, length, cmd_sn, self.exp_stat_sn, command.cdb,
                )
            )  # fmt: skip
            return
        length = len(data)
        immediate = self.immediate_length
        if length <= immediate:
            self.connection.send(
                _pack_command(
                    _COMMAND, FINAL | _WRITE_FLAGS, 0, length, command.lun, tag,
                    length, cmd_sn, self.exp_stat_sn, command.cdb,
                ),
                data,
            )  # fmt: skip
            return
        unsolicited = min(self._unsolicited, length)
        final = FINAL if unsolicited <= immediate else 0
        self.connection.send(
            _pack_command(
                _COMMAND, final | _WRITE_FLAGS, 0, immediate, command.lun, tag,
                length, cmd_sn, self.exp_stat_sn, command.cdb,
            ),
            memoryview(data)[:immediate],
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
            self.connection.send(
                DATA_OUT.pack(
                    Opcode.DATA_OUT, FINAL if stop == end else 0, 0, stop - start, command.lun,
                    command.tag, transfer_tag, 0, self.exp_stat_sn, 0, number, start, 0,
                ),
                view[start:stop],
            )  # fmt: skip
            number += 1
            start = stop

    # --- answers: the data path

    def dispatch(self) -> list[Handler]:
        """The framer's table from the first PDU after the login on."""
        return dispatch_table(
            {
                Opcode.DATA_IN: self._data_in,
                Opcode.SCSI_RESPONSE: self._scsi_response,
                Opcode.R2T: self._ready_to_transfer,
                **self.upkeep.handlers(),
            },
            _unexpected,
        )

    def place(self, header: Buffer, at: int, length: int) -> memoryview | None:
        """Where a large data segment belongs."""
        if header[at] & 0x3F != Opcode.DATA_IN:
            return None
        fields = DATA_IN.unpack_from(header, at)
        command = self.tasks.get(fields[6])
        if command is None:
            return None
        offset = fields[12]
        if offset != command.received or offset + length > command.read_length:
            raise _misplaced(command, offset, length)
        return memoryview(command.memory())[offset : offset + length]

    def _data_in(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        flags, status, tag, stat_sn, max_cmd_sn, offset = _data_in_fields(header, at)
        self.heard = True
        if max_cmd_sn != self._max_cmd_sn:
            self.window_moved(max_cmd_sn)
        command = self.tasks.get(tag)
        if command is None:  # of a task that was aborted meanwhile
            if flags & STATUS:
                self.exp_stat_sn = (stat_sn + 1) & _MASK
            return
        length = len(data)
        if offset != command.received or offset + length > command.read_length:
            raise _misplaced(command, offset, length)
        command.received = offset + length
        if length != command.read_length or type(data) is memoryview or command.buffer is not None:
            if type(data) is not memoryview:  # that is in its place already
                memoryview(command.memory())[offset : offset + length] = data
            data = b""
        else:
            command.data = data
        if not flags & STATUS:
            return
        self.exp_stat_sn = (stat_sn + 1) & _MASK
        if status:
            self.finish(command, status, b"")
            return
        del self.tasks[tag]
        command.end(None, 0, data or command.data_in, b"")
        if self._queue or self._draining:
            self._go_on()

    def _scsi_response(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        flags, response, status, tag, stat_sn, max_cmd_sn, residual = _response_fields(header, at)
        self.heard = True
        self.exp_stat_sn = (stat_sn + 1) & _MASK
        if max_cmd_sn != self._max_cmd_sn:
            self.window_moved(max_cmd_sn)
        command = self.tasks.get(tag)
        if command is None:
            return  # of a task that was aborted meanwhile
        if flags & OVERFLOW and command.data_out and not response:
            # The unit wanted more data than the command had: its CDB and its data do not fit.
            log.warning("target wanted more data", target=self.name, residual=residual)
        if status or response:
            failed = Failure.TARGET_FAILURE if response else status
            self.finish(command, failed, sense_of(data) if data else b"")
            return
        del self.tasks[tag]
        command.end(None, 0, command.data_in, sense_of(data) if data else b"")
        if self._queue or self._draining:
            self._go_on()

    def _ready_to_transfer(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        (_, _, _, _, _, tag, transfer_tag, _, _, max_cmd_sn, _, offset, length) = R2T.unpack_from(
            header, at
        )
        self.heard = True
        if max_cmd_sn != self._max_cmd_sn:
            self.window_moved(max_cmd_sn)
        command = self.tasks.get(tag)
        if command is None:
            return
        if not length or offset + length > len(command.data_out):
            raise RemoteProtocolError(
                f"R2T asks for bytes {offset}..{offset + length} of {len(command.data_out)}"
            )
        self._send_data(command, offset, offset + length, transfer_tag)

    def finish(self, command: Command, status: int, sense: bytes) -> None:
        """End a command otherwise than well."""
        del self.tasks[command.tag]
        self.owner.completed(command, status, sense)
        self._go_on()

    def _go_on(self) -> None:
        """A command has ended."""
        if self._queue:
            self._pump()
        elif self._draining and not self.tasks:
            self.upkeep.request_logout()

    def window_moved(self, max_cmd_sn: int) -> None:
        """MaxCmdSN only grows (4.2.2.1); an older value is of a PDU that was overtaken."""
        moved = (max_cmd_sn - self._max_cmd_sn) & _MASK
        if moved < 0x80000000:
            self._max_cmd_sn = max_cmd_sn
            self._credit += moved
            if self._queue:
                self._pump()

    def congestion_ended(self) -> None:
        """The target reads again."""
        self._pump()

    # --- for upkeep.py

    def acknowledge(self, stat_sn: int, max_cmd_sn: int) -> None:
        """The numbers of a PDU that is no answer to a command."""
        self.heard = True
        self.exp_stat_sn = (stat_sn + 1) & _MASK
        self.window_moved(max_cmd_sn)

    def take_tag(self) -> int:
        """An initiator task tag that is free."""
        tag = self._next_tag
        while tag in self.tasks or self.upkeep.uses(tag):
            tag = (tag + 1) & 0x7FFFFFFF
        self._next_tag = (tag + 1) & 0x7FFFFFFF
        return tag

    def regain_depth(self) -> None:
        """Let one more command be in flight, up to the depth that was set."""
        if self._depth < self.upkeep.settings.queue_depth:
            self._depth += 1
        self._pump()

    def drain(self) -> None:
        """Send nothing new; log out when the last answer is there."""
        self._draining = True
        self._grant()
        if not self.tasks:
            self.upkeep.request_logout()

    def use_send_limit(self, limit: int) -> None:
        """The target takes data segments of up to `limit` bytes from now on."""
        self.negotiated.send_limit = limit
        if self.negotiated.immediate_data:
            self.immediate_length = min(self.negotiated.first_burst_length, limit)

    # --- the end

    def drop(self, reason: str) -> None:
        """End the connection at once."""
        if not self.is_ended:
            self._error = reason
            self.connection.abort()

    def close(self, reason: str) -> None:
        """End the connection in order."""
        self._error = reason
        self.connection.close()

    def refused(self, error: RemoteProtocolError) -> None:
        """The target broke the protocol; the connection is about to be closed."""
        self._error = str(error)

    def ended(self, error: Exception | None) -> None:
        """The connection is gone."""
        if self.is_ended:
            return
        self.is_ended = True
        self._credit = _CLOSED
        self.upkeep.ended()
        self.owner.lost(self, self._error or str(error or "") or "the target closed the connection")


def _misplaced(command: Command, offset: int, length: int) -> RemoteProtocolError:
    """Data comes in order and no more of it than was asked for."""
    return RemoteProtocolError(
        f"Data-In of {length} bytes at {offset}: {command.received} of "
        f"{command.read_length} have come"
    )


def _unexpected(header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
    raise RemoteProtocolError(f"a PDU of opcode {header[at] & 0x3F:02x}h in the full feature phase")
