"""What a session does beside its commands: time limits, pings, the logout.

One timer a session looks at the commands in flight every `settings.tick` seconds. A command past
its deadline is aborted (ABORT TASK); if that is not answered in its time, or refused, the logical
unit is reset, once for all of its commands that are as late; if that is not answered either, the
connection is dropped. No target is reset as a whole: it is not ours alone. A silent target is
pinged by NOP-Out, and the connection dropped when that stays without an answer too. What the
target says of itself is in `announcement.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from daiko.device.block import Buffer
from daiko.initiator.announcement import Announcements
from daiko.initiator.command import Command, Failure, Stage
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.bhs import (
    RESERVED_TAG,
    LogoutReason,
    Opcode,
    TaskManagementFunction,
    TaskManagementResponseCode,
)
from daiko.iscsi.error import RemoteProtocolError
from daiko.iscsi.framing import Handler
from daiko.iscsi.pdu import (
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Reject,
    TaskManagementRequest,
    TaskManagementResponse,
)

if TYPE_CHECKING:
    from daiko.initiator.session import Session

log = structlog.get_logger(__name__)


class Upkeep:
    """Of one session."""

    __slots__ = (
        "_announcements",
        "_logout",
        "_loop",
        "_management",
        "_pinged_at",
        "_quiet_since",
        "_session",
        "_timer",
        "settings",
    )

    def __init__(self, session: Session, settings: InitiatorSettings) -> None:
        self._session = session
        self.settings = settings
        """May be exchanged at any time; for commands sent from then on."""
        self._announcements = Announcements(session, settings.max_recv_data_segment_length)
        self._loop = asyncio.get_running_loop()
        # Task management requests without an answer, by their tag.
        self._management: dict[int, tuple[TaskManagementFunction, Command]] = {}
        self._quiet_since = self._loop.time()
        self._pinged_at = 0.0
        self._logout: asyncio.Future[None] | None = None
        self._timer = self._loop.call_later(settings.tick, self._tick)

    def handlers(self) -> dict[int, Handler]:
        """For the PDUs that are dealt with here."""
        return {
            Opcode.NOP_IN: self._nop_in,
            Opcode.TASK_MANAGEMENT_RESPONSE: self._task_management_response,
            Opcode.LOGOUT_RESPONSE: self._logout_response,
            Opcode.REJECT: self._reject,
            **self._announcements.handlers(),
        }

    def uses(self, tag: int) -> bool:
        """Whether a request made here has this initiator task tag."""
        return tag in self._management or self._announcements.uses(tag)

    def ended(self) -> None:
        """The session is over."""
        self._timer.cancel()
        self._announcements.ended()
        if self._logout is not None and not self._logout.done():
            self._logout.set_result(None)

    # --- messages of the target

    def _nop_in(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        session = self._session
        pdu = NopIn.parse(header, at, data)
        session.heard = True
        if pdu.initiator_task_tag != RESERVED_TAG:
            session.acknowledge(pdu.stat_sn, pdu.max_cmd_sn)
            return
        session.window_moved(pdu.max_cmd_sn)
        if pdu.target_transfer_tag != RESERVED_TAG:
            session.connection.send(
                NopOut(
                    lun=pdu.lun,
                    target_transfer_tag=pdu.target_transfer_tag,
                    cmd_sn=session.cmd_sn,
                    exp_stat_sn=session.exp_stat_sn,
                    data=pdu.data,
                ).pack(),
                pdu.data,
            )

    def _reject(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        pdu = Reject.parse(header, at, data)
        raise RemoteProtocolError(f"the target rejected a PDU, reason {pdu.reason:02x}h")

    # --- time

    def _tick(self) -> None:
        session = self._session
        if session.is_ended:
            return
        now = self._loop.time()
        session.now = now + self.settings.tick
        self._timer = self._loop.call_later(self.settings.tick, self._tick)
        session.regain_depth()
        for command in [task for task in session.tasks.values() if task.deadline < now]:
            self._escalate(command)
            if session.connection.is_closing:
                return
        if session.heard:
            session.heard = False
            self._quiet_since = now
            self._pinged_at = 0.0
        elif self._pinged_at:
            if now - self._pinged_at > self.settings.ping_timeout:
                session.drop(f"no answer to a ping in {self.settings.ping_timeout:g} s")
        elif now - self._quiet_since >= self.settings.ping_interval:
            self._pinged_at = now
            tag = session.take_tag()
            session.connection.send(
                NopOut(
                    initiator_task_tag=tag, cmd_sn=session.cmd_sn, exp_stat_sn=session.exp_stat_sn
                ).pack()
            )

    def _escalate(self, command: Command) -> None:
        """The next harder way to get an overdue command out of the target."""
        session = self._session
        if command.stage is Stage.LOGICAL_UNIT_RESET:
            session.drop("no answer to task management")
            return
        if command.stage is Stage.WAITING:
            command.stage = Stage.ABORT_TASK
            command.deadline = self._loop.time() + self.settings.abort_timeout
            function = TaskManagementFunction.ABORT_TASK
        else:
            command.stage = Stage.LOGICAL_UNIT_RESET
            function = TaskManagementFunction.LOGICAL_UNIT_RESET
            for asked, other in self._management.values():
                if asked is function and other.lun == command.lun:
                    command.deadline = other.deadline  # That reset ends this one as well.
                    return
            command.deadline = self._loop.time() + self.settings.reset_timeout
        tag = session.take_tag()
        self._management[tag] = (function, command)
        log.warning(
            "command overdue", target=session.name, opcode=f"{command.cdb[0]:02x}h",
            function=function.name,
        )  # fmt: skip
        is_abort = function is TaskManagementFunction.ABORT_TASK
        session.connection.send(
            TaskManagementRequest(
                function=function,
                lun=command.lun,
                initiator_task_tag=tag,
                referenced_task_tag=command.tag if is_abort else RESERVED_TAG,
                cmd_sn=session.cmd_sn,
                exp_stat_sn=session.exp_stat_sn,
                ref_cmd_sn=command.cmd_sn if is_abort else 0,
            ).pack()
        )

    def _task_management_response(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        session = self._session
        pdu = TaskManagementResponse.parse(header, at)
        session.acknowledge(pdu.stat_sn, pdu.max_cmd_sn)
        request = self._management.pop(pdu.initiator_task_tag, None)
        if request is None:
            raise RemoteProtocolError("a task management response to no request")
        function, command = request
        log.warning(
            "task management answered", target=session.name, function=function.name,
            response=pdu.response,
        )  # fmt: skip
        is_done = pdu.response == TaskManagementResponseCode.FUNCTION_COMPLETE
        if function is TaskManagementFunction.LOGICAL_UNIT_RESET:
            if not is_done:
                session.drop(f"LOGICAL UNIT RESET was refused (response {pdu.response})")
                return
            for other in [task for task in session.tasks.values() if task.lun == command.lun]:
                late = other.stage is not Stage.WAITING
                session.finish(other, Failure.TIMED_OUT if late else Failure.RESET, b"")
        elif session.tasks.get(command.tag) is not command:
            return  # its answer came before that of the abort
        elif is_done or pdu.response == TaskManagementResponseCode.TASK_DOES_NOT_EXIST:
            session.finish(command, Failure.TIMED_OUT, b"")
        else:
            self._escalate(command)

    # --- logout

    async def log_out(self) -> None:
        """Leave in order: returns when the target has answered or the connection is gone."""
        session = self._session
        if session.is_ended:
            return
        if self._logout is None:
            self.request_logout()
        assert self._logout is not None
        try:
            async with asyncio.timeout(self.settings.logout_timeout):
                await asyncio.shield(self._logout)
        except TimeoutError:
            session.drop("no answer to the logout")
            await self._logout

    def request_logout(self) -> None:
        """Log out now, whatever is in flight."""
        session = self._session
        if self._logout is not None or session.is_ended:
            return
        self._logout = self._loop.create_future()
        session.drain()
        session.connection.send(
            LogoutRequest(
                LogoutReason.CLOSE_SESSION,
                session.take_tag(),
                cmd_sn=session.cmd_sn,
                exp_stat_sn=session.exp_stat_sn,
            ).pack()
        )

    def _logout_response(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        session = self._session
        pdu = LogoutResponse.parse(header, at)
        if pdu.response:
            log.warning("logout refused", target=session.name, response=pdu.response)
        session.close("logged out")
