"""The full feature phase at the target port: one handler per request PDU (RFC 7143, 4.2, 11).

Every handler begins with the number: an immediate request is served at once, another only when
its CmdSN is the next one. One that comes early is held until the gap before it is filled; a
duplicate or one outside the window is dropped silently (4.2.2.1). `ScsiCommand` has that judgment
in line, because it is the hot path; the others use `_is_next`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from daiko.device.block import Buffer
from daiko.iscsi.bhs import (
    ATTRIBUTE_MASK,
    BHS_LENGTH,
    DATA_OUT,
    FINAL,
    IMMEDIATE,
    LENGTHS,
    OPCODE_MASK,
    READ,
    RESERVED_TAG,
    SCSI_COMMAND,
    WRITE,
    LogoutReason,
    LogoutResponseCode,
    Opcode,
    TaskManagementFunction,
    TaskManagementResponseCode,
)
from daiko.iscsi.error import RejectReason, RemoteProtocolError
from daiko.iscsi.event import Arrival
from daiko.iscsi.framing import Handler, dispatch_table
from daiko.iscsi.pdu import (
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    TaskManagementRequest,
    TaskManagementResponse,
    TextRequest,
)
from daiko.iscsi.session import MASK, serial_difference
from daiko.scsi import sense as condition
from daiko.target.port_task import ATTRIBUTES, PortTask, port_task
from daiko.target.session import TargetAccess, TargetSession
from daiko.target.text_exchange import TextExchange

_Fields = tuple[int, int, int, int, int, int, bytes]
_fields: Final[Callable[[Buffer, int], _Fields]] = struct.Struct(">BB6xQIII4x16s").unpack_from
"""What the data path looks at of `bhs.SCSI_COMMAND`: opcode, flags, lun, ITT, expected length,
CmdSN, cdb."""
_AHS: Final = struct.Struct(">HB")
_EXTENDED_CDB: Final = 1
_BIDIRECTIONAL_READ_LENGTH: Final = 2
_CMD_SN: Final = struct.Struct(">I")
_CMD_SN_AT: Final = 24
_HELD_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of immediate data of commands that came early; more is hostile."""

_WHOLE_TARGET: Final = frozenset(
    {TaskManagementFunction.TARGET_WARM_RESET, TaskManagementFunction.TARGET_COLD_RESET}
)
_RFC_7144: Final = frozenset(
    {
        TaskManagementFunction.QUERY_TASK,
        TaskManagementFunction.QUERY_TASK_SET,
        TaskManagementFunction.I_T_NEXUS_RESET,
        TaskManagementFunction.QUERY_ASYNCHRONOUS_EVENT,
    }
)
"""What needs iSCSIProtocolLevel 2 (RFC 7144, 4.1)."""
_WHOLE_UNIT: Final = frozenset(
    {
        TaskManagementFunction.ABORT_TASK_SET,
        TaskManagementFunction.CLEAR_TASK_SET,
        TaskManagementFunction.LOGICAL_UNIT_RESET,
    }
)


class FullFeaturePhase:
    """What an initiator may ask for once it is logged in to the target."""

    __slots__ = (
        "_access",
        "_connection",
        "_end",
        "_held",
        "_held_bytes",
        "_reset",
        "_session",
        "_text",
        "_window",
        "cid",
    )

    def __init__(
        self,
        session: TargetSession,
        access: TargetAccess,
        text: TextExchange,
        cid: int,
        end: Callable[[str], None],
        reset: Callable[[str], None],
    ) -> None:
        self._session = session
        self._access = access
        self._connection = session.connection
        self._window = session.window
        self._text = text
        self._end = end
        self._reset = reset
        self.cid = cid
        self._held: dict[int, tuple[Handler, bytes, bytes, Buffer]] = {}
        self._held_bytes = 0

    def dispatch(self) -> list[Handler]:
        return dispatch_table(
            {
                Opcode.SCSI_COMMAND: self.scsi_command,
                Opcode.DATA_OUT: self.data_out,
                Opcode.NOP_OUT: self.nop_out,
                Opcode.TASK_MANAGEMENT_REQUEST: self.task_management,
                Opcode.TEXT_REQUEST: self.text_request,
                Opcode.LOGOUT_REQUEST: self.logout,
                Opcode.SNACK_REQUEST: self.snack,
            },
            self.unsupported,
        )

    # --- SCSI commands and their data

    def scsi_command(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        byte0, flags, lun, tag, length, cmd_sn, cdb = _fields(header, at)
        session = self._session
        is_immediate = byte0 & IMMEDIATE
        if not is_immediate:
            window = self._window
            if cmd_sn != window.exp_cmd_sn or cmd_sn == window.max_cmd_sn + 1 & MASK:
                self._out_of_order(self.scsi_command, cmd_sn, header, at, ahs, data)
                return
            window.exp_cmd_sn = cmd_sn + 1 & MASK
        if flags & WRITE:
            expected_out, expected_in = length, 0
        else:
            expected_out, expected_in = 0, length if flags & READ else 0
        attribute = ATTRIBUTES[flags & ATTRIBUTE_MASK]
        if tag in session.tasks or tag == RESERVED_TAG or is_immediate or ahs or not flags & FINAL:
            self._unusual_command(
                header, at, ahs, data, expected_out, expected_in,
            )  # fmt: skip
        elif data and not self._may_carry(data, expected_out):
            self._refuse_data(
                port_task(session, tag, lun, cdb, attribute, expected_out, expected_in, b"", False)
            )
        else:
            session.submit(
                port_task(session, tag, lun, cdb, attribute, expected_out, expected_in, data, False)
            )
        if self._held:
            self._serve_held()

    def _unusual_command(
        self, header: Buffer, at: int, ahs: bytes, data: Buffer, expected_out: int, expected_in: int
    ) -> None:
        """Immediate commands, additional headers, unsolicited data, and what is wrong."""
        byte0, flags, _, _, lun, tag, _, _, _, cdb = SCSI_COMMAND.unpack_from(header, at)
        session = self._session
        is_immediate = bool(byte0 & IMMEDIATE)
        reason = None
        if tag == RESERVED_TAG:
            reason = RejectReason.INVALID_PDU_FIELD
        elif tag in session.tasks:
            reason = RejectReason.TASK_IN_PROGRESS
        elif not flags & FINAL and not flags & WRITE:
            reason = RejectReason.INVALID_PDU_FIELD  # 11.3.1
        elif is_immediate and not session.immediate_room.is_left:
            reason = RejectReason.TOO_MANY_IMMEDIATE_COMMANDS
        if reason is None and ahs:
            try:
                cdb, read_length = _additional_headers(ahs, cdb)
            except RemoteProtocolError as error:
                reason = error.reject
            else:
                if flags & READ and flags & WRITE:
                    expected_in = read_length
        if reason is not None:
            self._reject_request(header, at, reason, is_immediate)
            return
        attribute = ATTRIBUTES[flags & ATTRIBUTE_MASK]
        task = port_task(
            session, tag, lun, cdb, attribute, expected_out, expected_in, data, is_immediate
        )
        if (not flags & FINAL and session.parameters.initial_r2t) or (
            data and not self._may_carry(data, expected_out)
        ):
            self._refuse_data(task)
        else:
            if not flags & FINAL:
                task.expect_unsolicited()
            session.submit(task)

    def _may_carry(self, data: Buffer, expected_out: int) -> bool:
        """Whether a command may carry this much immediate data (4.2.5.2, 13.11, 13.14)."""
        length = len(data)
        return length <= expected_out and length <= self._session.immediate_limit

    def _refuse_data(self, task: PortTask) -> None:
        self._session.answer_unsubmitted(task, condition.unexpected_unsolicited_data())

    def data_out(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        self._data_out(header, at, data, damaged=False)

    def _data_out(self, header: Buffer, at: int, data: Buffer, *, damaged: bool) -> None:
        _, flags, _, _, _, tag, transfer_tag, _, _, _, data_sn, offset, _ = DATA_OUT.unpack_from(
            header, at
        )
        task = self._session.tasks.get(tag)
        if task is None:
            return  # Of a command that has ended: its data is dropped.
        if not task.receive(transfer_tag, data_sn, offset, data, bool(flags & FINAL), damaged):
            image = bytes(header[at : at + BHS_LENGTH])
            self._session.reject(image, RejectReason.INVALID_PDU_FIELD)

    def place(self, header: Buffer, at: int, length: int) -> memoryview | None:
        """Where a large data segment belongs (`framing.Place`)."""
        if header[at] & OPCODE_MASK != Opcode.DATA_OUT:
            return None
        fields = DATA_OUT.unpack_from(header, at)
        task = self._session.tasks.get(fields[5])
        return None if task is None else task.place(fields[6], fields[11], length)

    def data_digest_error(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        """7.8 at ErrorRecoveryLevel 0: Reject; a Data-Out ends its command, a request that holds
        a place in the order of CmdSN ends the session, since nobody may send it again."""
        image = bytes(header[at : at + BHS_LENGTH])
        self._session.reject(image, RejectReason.DATA_DIGEST_ERROR)
        if image[0] & OPCODE_MASK == Opcode.DATA_OUT:
            self._data_out(header, at, data, damaged=True)
        elif not image[0] & IMMEDIATE:
            self._end("a data digest of a numbered request is wrong")

    # --- numbering

    def _is_next(self, handler: Handler, header: Buffer, at: int, ahs: bytes, data: Buffer) -> bool:
        """Whether the request is to be served now."""
        if header[at] & IMMEDIATE:
            return True
        cmd_sn: int = _CMD_SN.unpack_from(header, at + _CMD_SN_AT)[0]
        if self._window.arrive(cmd_sn) is Arrival.NEXT:
            return True
        self._out_of_order(handler, cmd_sn, header, at, ahs, data)
        return False

    def _out_of_order(
        self, handler: Handler, cmd_sn: int, header: Buffer, at: int, ahs: bytes, data: Buffer
    ) -> None:
        if cmd_sn == self._window.exp_cmd_sn or cmd_sn in self._held:
            return  # The window is closed, or a duplicate.
        if self._window.arrive(cmd_sn) is not Arrival.EARLY:
            return
        self._held_bytes += len(data)
        if self._held_bytes > _HELD_LIMIT:
            raise RemoteProtocolError("too much data came out of order")
        self._held[cmd_sn] = (handler, bytes(header[at : at + BHS_LENGTH]), ahs, data)

    def _serve_held(self) -> None:
        while (held := self._held.pop(self._window.exp_cmd_sn, None)) is not None:
            handler, header, ahs, data = held
            self._held_bytes -= len(data)
            handler(header, 0, ahs, data)

    def _reject_request(
        self, header: Buffer, at: int, reason: RejectReason, is_immediate: bool
    ) -> None:
        if not is_immediate:
            self._window.answered()
        self._session.reject(bytes(header[at : at + BHS_LENGTH]), reason)

    # --- other requests

    def nop_out(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        if not self._is_next(self.nop_out, header, at, ahs, data):
            return
        request = NopOut.parse(header, at, data)
        if request.initiator_task_tag == RESERVED_TAG:
            # An answer to our ping, which must be immediate (11.18.1).
            if not request.immediate:
                self._reject_request(header, at, RejectReason.PROTOCOL_ERROR, False)
            return
        session = self._session
        if not request.immediate:
            self._window.answered()
        payload = request.data[: session.parameters.send_limit]
        self._connection.send(
            NopIn(
                0, request.initiator_task_tag, RESERVED_TAG, session.take_stat_sn(),
                self._window.exp_cmd_sn, self._window.max_cmd_sn, payload,
            ).pack(),
            payload,
        )  # fmt: skip
        if self._held:
            self._serve_held()

    def task_management(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        if not self._is_next(self.task_management, header, at, ahs, data):
            return
        request = TaskManagementRequest.parse(header, at)
        session = self._session
        is_immediate = bool(header[at] & IMMEDIATE)
        reason = None
        if request.initiator_task_tag in session.tasks:
            reason = RejectReason.TASK_IN_PROGRESS
        elif is_immediate and not session.immediate_room.is_left:
            # A function waits for the tasks that it ends, which may be long at the device.
            reason = RejectReason.TOO_MANY_IMMEDIATE_COMMANDS
        if reason is not None:
            self._reject_request(header, at, reason, is_immediate)
            return
        if is_immediate:
            session.immediate_room.take()

        def done(response: int) -> None:
            if is_immediate:
                session.immediate_room.give_back()
            else:
                self._window.answered()
            self._task_management_response(request, response)

        response = self._judge_task_management(request)
        if response is None:
            self._access.task_management(
                session.nexus, request.function, request.lun,
                request.referenced_task_tag, done,
            )  # fmt: skip
        else:
            done(response)
        if self._held:
            self._serve_held()

    def _judge_task_management(self, request: TaskManagementRequest) -> int | None:
        """The response where the port knows it itself, else None. Deferred commands, of which
        the logical units know nothing yet, are aborted here."""
        session = self._session
        function = request.function
        if function == TaskManagementFunction.TASK_REASSIGN:
            return TaskManagementResponseCode.REASSIGN_NOT_SUPPORTED
        if function == TaskManagementFunction.ABORT_TASK:
            tag = request.referenced_task_tag
            if session.abort_deferred(lambda task: task.tag == tag and task.lun == request.lun):
                return TaskManagementResponseCode.FUNCTION_COMPLETE
            if tag not in session.tasks and self._forestall(request):
                return TaskManagementResponseCode.FUNCTION_COMPLETE
        elif function in _WHOLE_UNIT:
            session.abort_deferred(lambda task: task.lun == request.lun)
            self._drop_held(request.cmd_sn, request.lun)
        elif function in _WHOLE_TARGET:
            session.abort_deferred(lambda task: True)
            self._drop_held(request.cmd_sn)
        elif function in _RFC_7144 and session.parameters.protocol_level >= 2:
            if function == TaskManagementFunction.I_T_NEXUS_RESET:
                session.abort_deferred(lambda task: True)
                self._drop_held(request.cmd_sn)
            elif function == TaskManagementFunction.QUERY_TASK:
                task = session.tasks.get(request.referenced_task_tag)
                if task is not None and task.lun == request.lun:
                    return TaskManagementResponseCode.FUNCTION_SUCCEEDED
        elif function != TaskManagementFunction.CLEAR_ACA:
            return TaskManagementResponseCode.FUNCTION_NOT_SUPPORTED
        return None

    def _forestall(self, request: TaskManagementRequest) -> bool:
        """An ABORT TASK for a command that has not come, whose number has its turn yet: the number
        counts as received, so that the command is a duplicate when it comes (11.6.1, case b)."""
        cmd_sn, window = request.ref_cmd_sn, self._window
        if (
            serial_difference(cmd_sn, window.exp_cmd_sn) < 0
            or serial_difference(cmd_sn, window.max_cmd_sn) > 0
            or serial_difference(cmd_sn, request.cmd_sn) >= 0
        ):
            return False
        known = self._held.get(cmd_sn)
        if known is not None:
            self._held_bytes -= len(known[3])
        self._held[cmd_sn] = (self._nothing, bytes(BHS_LENGTH), b"", b"")
        return True

    def _drop_held(self, before: int, lun: int | None = None) -> None:
        """Of commands that came early, those that are older than a function end with it."""
        for cmd_sn, (handler, header, _, data) in self._held.items():
            if handler == self.scsi_command and serial_difference(cmd_sn, before) < 0:
                if lun is not None and SCSI_COMMAND.unpack_from(header)[4] != lun:
                    continue
                self._held_bytes -= len(data)
                self._held[cmd_sn] = (self._nothing, header, b"", b"")

    def _nothing(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        """In the place of a command that was aborted before its turn."""
        window = self._window
        window.exp_cmd_sn = window.exp_cmd_sn + 1 & MASK
        window.answered()

    def _task_management_response(self, request: TaskManagementRequest, response: int) -> None:
        session = self._session
        if session.is_lost:
            return
        self._connection.send(
            TaskManagementResponse(
                response, request.initiator_task_tag, session.take_stat_sn(),
                self._window.exp_cmd_sn, self._window.max_cmd_sn,
            ).pack()
        )  # fmt: skip
        if request.function == TaskManagementFunction.TARGET_COLD_RESET and response == 0:
            self._reset("target cold reset")

    def text_request(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        if not self._is_next(self.text_request, header, at, ahs, data):
            return
        request = TextRequest.parse(header, at, data)
        if not request.immediate:
            self._window.answered()
        try:
            response = self._text.receive(request)
        except RemoteProtocolError as error:
            image = bytes(header[at : at + BHS_LENGTH])
            self._session.reject(image, error.reject or RejectReason.PROTOCOL_ERROR)
        else:
            self._session.follow_parameters()
            response.stat_sn = self._session.take_stat_sn()
            response.exp_cmd_sn = self._window.exp_cmd_sn
            response.max_cmd_sn = self._window.max_cmd_sn
            self._connection.send(response.pack(), response.data)
        if self._held:
            self._serve_held()

    def logout(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        if not self._is_next(self.logout, header, at, ahs, data):
            return
        request = LogoutRequest.parse(header, at)
        session = self._session
        response = LogoutResponseCode.CLOSED
        if request.reason == LogoutReason.REMOVE_FOR_RECOVERY:
            response = LogoutResponseCode.RECOVERY_NOT_SUPPORTED
        elif request.reason == LogoutReason.CLOSE_CONNECTION and request.cid != self.cid:
            response = LogoutResponseCode.CID_NOT_FOUND
        elif request.reason > LogoutReason.REMOVE_FOR_RECOVERY:
            self._reject_request(header, at, RejectReason.INVALID_PDU_FIELD, request.immediate)
            return
        if not request.immediate:
            self._window.answered()
        self._connection.send(
            LogoutResponse(
                response, request.initiator_task_tag, session.take_stat_sn(),
                self._window.exp_cmd_sn, self._window.max_cmd_sn,
                session.parameters.default_time2wait, session.parameters.default_time2retain,
            ).pack()
        )  # fmt: skip
        if response is LogoutResponseCode.CLOSED:
            self._end("logout")
        elif self._held:
            self._serve_held()

    def snack(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        """Nothing is sent again at ErrorRecoveryLevel 0 (11.16)."""
        image = bytes(header[at : at + BHS_LENGTH])
        self._session.reject(image, RejectReason.SNACK_REJECT)

    def unsupported(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        """Opcodes of a target, reserved ones, and a login amid the full feature phase."""
        opcode = header[at] & OPCODE_MASK
        is_login = opcode == Opcode.LOGIN_REQUEST
        reason = RejectReason.PROTOCOL_ERROR if is_login else RejectReason.COMMAND_NOT_SUPPORTED
        self._session.reject(bytes(header[at : at + BHS_LENGTH]), reason)


def _additional_headers(ahs: bytes, cdb: bytes) -> tuple[bytes, int]:
    """The whole CDB and the bidirectional read length out of additional headers (11.2.2).

    Raises RemoteProtocolError where they do not fit into their own lengths."""
    read_length = 0
    at = 0
    while at < len(ahs):
        if len(ahs) - at < 4:
            raise _malformed("an additional header is cut short")
        length, kind = _AHS.unpack_from(ahs, at)
        end = at + 3 + length
        if not length or end > len(ahs):
            raise _malformed("an additional header has an impossible length")
        if kind == _EXTENDED_CDB:
            cdb += ahs[at + 4 : end]
        elif kind == _BIDIRECTIONAL_READ_LENGTH and length == 5:
            read_length = LENGTHS.unpack_from(ahs, at + 4)[0]
        else:
            raise _malformed("an additional header of no known type")
        at = end + (-end & 3)
    return cdb, read_length


def _malformed(message: str) -> RemoteProtocolError:
    return RemoteProtocolError(message, reject=RejectReason.INVALID_PDU_FIELD)
