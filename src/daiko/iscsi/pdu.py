"""The PDUs of RFC 7143, section 11: one class each, `parse` and `pack` side by side.

Every PDU begins with a basic header segment (BHS) of 48 bytes. `pack` returns the BHS with the
length fields set from `data`; framing adds the data segment, padding and digests. `parse` takes
the BHS in place: the buffer and the offset at which it stands.

Words: `lun` is the 8-byte field as an unsigned integer; tags are unsigned 32-bit integers;
`RESERVED_TAG` (FFFF_FFFFh) means none. The PDUs of a SCSI command are in `scsi_pdu.py`, and can
be had from here too.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

from daiko.iscsi.bhs import (
    CONTINUE,
    FINAL,
    IMMEDIATE,
    RESERVED_TAG,
    Buffer,
    Opcode,
)
from daiko.iscsi.scsi_pdu import (
    DataIn,
    DataOut,
    ReadyToTransfer,
    ScsiCommand,
    ScsiResponse,
    sense_of,
)

__all__ = [
    "PDU_CLASSES",
    "AsyncMessage",
    "DataIn",
    "DataOut",
    "LoginRequest",
    "LoginResponse",
    "LogoutRequest",
    "LogoutResponse",
    "NopIn",
    "NopOut",
    "Pdu",
    "ReadyToTransfer",
    "Reject",
    "ScsiCommand",
    "ScsiResponse",
    "SnackRequest",
    "TaskManagementRequest",
    "TaskManagementResponse",
    "TextRequest",
    "TextResponse",
    "sense_of",
]

_TASK_MANAGEMENT_REQUEST = struct.Struct(">BBHIQIIIIII8x")
_TASK_MANAGEMENT_RESPONSE = struct.Struct(">BBBxI8xI4xIII12x")
_LOGIN_REQUEST = struct.Struct(">BBBBI6sHIHxxII16x")
_LOGIN_RESPONSE = struct.Struct(">BBBBI6sHI4xIIIH10x")
_TEXT = struct.Struct(">BBHIQIIII16x")
_TEXT_RESPONSE = struct.Struct(">BBHIQIIIII12x")
_LOGOUT_REQUEST = struct.Struct(">BBHI8xIHxxII16x")
_LOGOUT_RESPONSE = struct.Struct(">BBBxI8xI4xIII4xHH4x")
_SNACK = struct.Struct(">BBHIQII4xI8xII")
_REJECT = struct.Struct(">BBBxI8xI4xIIII8x")
_ASYNC = struct.Struct(">BBHIQI4xIIIBBHHH4x")


@dataclass(slots=True)
class NopOut:
    """11.18."""

    opcode: ClassVar[Opcode] = Opcode.NOP_OUT
    immediate: bool = True
    lun: int = 0
    initiator_task_tag: int = RESERVED_TAG
    target_transfer_tag: int = RESERVED_TAG
    cmd_sn: int = 0
    exp_stat_sn: int = 0
    data: Buffer = b""

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> NopOut:
        byte0, _, _, _, lun, itt, ttt, cmd_sn, exp = _TEXT.unpack_from(header, at)
        return cls(bool(byte0 & IMMEDIATE), lun, itt, ttt, cmd_sn, exp, data)

    def pack(self) -> bytes:
        return _TEXT.pack(
            IMMEDIATE if self.immediate else 0, FINAL, 0, len(self.data), self.lun,
            self.initiator_task_tag, self.target_transfer_tag, self.cmd_sn, self.exp_stat_sn,
        )  # fmt: skip


@dataclass(slots=True)
class NopIn:
    """11.19."""

    opcode: ClassVar[Opcode] = Opcode.NOP_IN
    lun: int = 0
    initiator_task_tag: int = RESERVED_TAG
    target_transfer_tag: int = RESERVED_TAG
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    data: Buffer = b""

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> NopIn:
        fields = _TEXT_RESPONSE.unpack_from(header, at)
        return cls(*(*fields[4:10], data))

    def pack(self) -> bytes:
        return _TEXT_RESPONSE.pack(
            Opcode.NOP_IN, FINAL, 0, len(self.data), self.lun, self.initiator_task_tag,
            self.target_transfer_tag, self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn,
        )  # fmt: skip


@dataclass(slots=True)
class TaskManagementRequest:
    """11.5."""

    opcode: ClassVar[Opcode] = Opcode.TASK_MANAGEMENT_REQUEST
    function: int
    lun: int = 0
    initiator_task_tag: int = RESERVED_TAG
    referenced_task_tag: int = RESERVED_TAG
    cmd_sn: int = 0
    exp_stat_sn: int = 0
    ref_cmd_sn: int = 0
    exp_data_sn: int = 0
    immediate: bool = True

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> TaskManagementRequest:
        byte0, flags, _, _, *rest = _TASK_MANAGEMENT_REQUEST.unpack_from(header, at)
        return cls(flags & 0x7F, *(*rest, bool(byte0 & IMMEDIATE)))

    def pack(self) -> bytes:
        return _TASK_MANAGEMENT_REQUEST.pack(
            Opcode.TASK_MANAGEMENT_REQUEST | (IMMEDIATE if self.immediate else 0),
            FINAL | self.function, 0, 0, self.lun, self.initiator_task_tag,
            self.referenced_task_tag, self.cmd_sn, self.exp_stat_sn, self.ref_cmd_sn,
            self.exp_data_sn,
        )  # fmt: skip


@dataclass(slots=True)
class TaskManagementResponse:
    """11.6."""

    opcode: ClassVar[Opcode] = Opcode.TASK_MANAGEMENT_RESPONSE
    response: int
    initiator_task_tag: int = RESERVED_TAG
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> TaskManagementResponse:
        _, _, response, _, *rest = _TASK_MANAGEMENT_RESPONSE.unpack_from(header, at)
        return cls(response, *rest)

    def pack(self) -> bytes:
        return _TASK_MANAGEMENT_RESPONSE.pack(
            Opcode.TASK_MANAGEMENT_RESPONSE, FINAL, self.response, 0, self.initiator_task_tag,
            self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn,
        )  # fmt: skip


@dataclass(slots=True)
class LoginRequest:
    """11.12. The I bit is always set."""

    opcode: ClassVar[Opcode] = Opcode.LOGIN_REQUEST
    transit: bool
    continued: bool
    current_stage: int
    next_stage: int
    isid: bytes
    tsih: int = 0
    initiator_task_tag: int = 0
    cid: int = 0
    cmd_sn: int = 0
    exp_stat_sn: int = 0
    version_max: int = 0
    version_min: int = 0
    data: Buffer = b""

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> LoginRequest:
        _, flags, high, low, _, *rest = _LOGIN_REQUEST.unpack_from(header, at)
        return cls(
            bool(flags & FINAL),
            bool(flags & CONTINUE),
            flags >> 2 & 3,
            flags & 3,
            *(*rest, high, low, data),
        )

    def pack(self) -> bytes:
        return _LOGIN_REQUEST.pack(
            Opcode.LOGIN_REQUEST | IMMEDIATE, _login_flags(self), self.version_max,
            self.version_min, len(self.data), self.isid, self.tsih, self.initiator_task_tag,
            self.cid, self.cmd_sn, self.exp_stat_sn,
        )  # fmt: skip


@dataclass(slots=True)
class LoginResponse:
    """11.13. `status`: class in the high byte, detail in the low one (`error.LoginStatus`)."""

    opcode: ClassVar[Opcode] = Opcode.LOGIN_RESPONSE
    transit: bool
    continued: bool
    current_stage: int
    next_stage: int
    isid: bytes
    tsih: int = 0
    initiator_task_tag: int = 0
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    status: int = 0
    version_max: int = 0
    version_active: int = 0
    data: Buffer = b""

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> LoginResponse:
        _, flags, high, active, _, *rest = _LOGIN_RESPONSE.unpack_from(header, at)
        return cls(
            bool(flags & FINAL),
            bool(flags & CONTINUE),
            flags >> 2 & 3,
            flags & 3,
            *(*rest, high, active, data),
        )

    def pack(self) -> bytes:
        return _LOGIN_RESPONSE.pack(
            Opcode.LOGIN_RESPONSE, _login_flags(self), self.version_max, self.version_active,
            len(self.data), self.isid, self.tsih, self.initiator_task_tag, self.stat_sn,
            self.exp_cmd_sn, self.max_cmd_sn, self.status,
        )  # fmt: skip


def _login_flags(pdu: LoginRequest | LoginResponse) -> int:
    # NSG is reserved, and sent as 0, where T is 0 (11.12.3).
    return (
        (FINAL | pdu.next_stage if pdu.transit else 0)
        | (CONTINUE if pdu.continued else 0)
        | pdu.current_stage << 2
    )


@dataclass(slots=True)
class TextRequest:
    """11.10."""

    opcode: ClassVar[Opcode] = Opcode.TEXT_REQUEST
    final: bool = True
    continued: bool = False
    lun: int = 0
    initiator_task_tag: int = RESERVED_TAG
    target_transfer_tag: int = RESERVED_TAG
    cmd_sn: int = 0
    exp_stat_sn: int = 0
    immediate: bool = False
    data: Buffer = b""

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> TextRequest:
        byte0, flags, _, _, *rest = _TEXT.unpack_from(header, at)
        return cls(
            bool(flags & FINAL),
            bool(flags & CONTINUE),
            *(*rest, bool(byte0 & IMMEDIATE), data),
        )

    def pack(self) -> bytes:
        return _TEXT.pack(
            Opcode.TEXT_REQUEST | (IMMEDIATE if self.immediate else 0),
            (FINAL if self.final else 0) | (CONTINUE if self.continued else 0), 0,
            len(self.data), self.lun, self.initiator_task_tag, self.target_transfer_tag,
            self.cmd_sn, self.exp_stat_sn,
        )  # fmt: skip


@dataclass(slots=True)
class TextResponse:
    """11.11."""

    opcode: ClassVar[Opcode] = Opcode.TEXT_RESPONSE
    final: bool = True
    continued: bool = False
    lun: int = 0
    initiator_task_tag: int = RESERVED_TAG
    target_transfer_tag: int = RESERVED_TAG
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    data: Buffer = b""

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> TextResponse:
        _, flags, _, _, *rest = _TEXT_RESPONSE.unpack_from(header, at)
        return cls(bool(flags & FINAL), bool(flags & CONTINUE), *(*rest, data))

    def pack(self) -> bytes:
        return _TEXT_RESPONSE.pack(
            Opcode.TEXT_RESPONSE,
            (FINAL if self.final else 0) | (CONTINUE if self.continued else 0), 0,
            len(self.data), self.lun, self.initiator_task_tag, self.target_transfer_tag,
            self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn,
        )  # fmt: skip


@dataclass(slots=True)
class LogoutRequest:
    """11.14."""

    opcode: ClassVar[Opcode] = Opcode.LOGOUT_REQUEST
    reason: int
    initiator_task_tag: int = RESERVED_TAG
    cid: int = 0
    cmd_sn: int = 0
    exp_stat_sn: int = 0
    immediate: bool = True

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> LogoutRequest:
        byte0, flags, _, _, *rest = _LOGOUT_REQUEST.unpack_from(header, at)
        return cls(flags & 0x7F, *(*rest, bool(byte0 & IMMEDIATE)))

    def pack(self) -> bytes:
        return _LOGOUT_REQUEST.pack(
            Opcode.LOGOUT_REQUEST | (IMMEDIATE if self.immediate else 0), FINAL | self.reason, 0,
            0, self.initiator_task_tag, self.cid, self.cmd_sn, self.exp_stat_sn,
        )  # fmt: skip


@dataclass(slots=True)
class LogoutResponse:
    """11.15."""

    opcode: ClassVar[Opcode] = Opcode.LOGOUT_RESPONSE
    response: int
    initiator_task_tag: int = RESERVED_TAG
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    time2wait: int = 0
    """Seconds."""
    time2retain: int = 0
    """Seconds."""

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> LogoutResponse:
        _, _, response, _, *rest = _LOGOUT_RESPONSE.unpack_from(header, at)
        return cls(response, *rest)

    def pack(self) -> bytes:
        return _LOGOUT_RESPONSE.pack(
            Opcode.LOGOUT_RESPONSE, FINAL, self.response, 0, self.initiator_task_tag,
            self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn, self.time2wait, self.time2retain,
        )  # fmt: skip


@dataclass(slots=True)
class SnackRequest:
    """11.16: a request to send again, of no use at ErrorRecoveryLevel 0."""

    opcode: ClassVar[Opcode] = Opcode.SNACK_REQUEST
    type: int
    lun: int = 0
    initiator_task_tag: int = RESERVED_TAG
    target_transfer_tag: int = RESERVED_TAG
    exp_stat_sn: int = 0
    begin_run: int = 0
    run_length: int = 0

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> SnackRequest:
        _, flags, _, _, *rest = _SNACK.unpack_from(header, at)
        return cls(flags & 0x0F, *rest)

    def pack(self) -> bytes:
        return _SNACK.pack(
            Opcode.SNACK_REQUEST, FINAL | self.type, 0, 0, self.lun, self.initiator_task_tag,
            self.target_transfer_tag, self.exp_stat_sn, self.begin_run, self.run_length,
        )  # fmt: skip


@dataclass(slots=True)
class Reject:
    """11.17. `data` is the header of the PDU that was rejected."""

    opcode: ClassVar[Opcode] = Opcode.REJECT
    reason: int
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    data_sn: int = 0
    data: Buffer = b""

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> Reject:
        _, _, reason, _, _, *rest = _REJECT.unpack_from(header, at)
        return cls(reason, *(*rest, data))

    def pack(self) -> bytes:
        return _REJECT.pack(
            Opcode.REJECT, FINAL, self.reason, len(self.data), RESERVED_TAG, self.stat_sn,
            self.exp_cmd_sn, self.max_cmd_sn, self.data_sn,
        )  # fmt: skip


@dataclass(slots=True)
class AsyncMessage:
    """11.9."""

    opcode: ClassVar[Opcode] = Opcode.ASYNC_MESSAGE
    event: int
    lun: int = 0
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    vendor_code: int = 0
    parameter1: int = 0
    parameter2: int = 0
    parameter3: int = 0
    data: Buffer = b""

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> AsyncMessage:
        _, _, _, _, lun, _, stat, exp, maximum, event, *rest = _ASYNC.unpack_from(header, at)
        return cls(event, lun, stat, exp, maximum, *(*rest, data))

    def pack(self) -> bytes:
        return _ASYNC.pack(
            Opcode.ASYNC_MESSAGE, FINAL, 0, len(self.data), self.lun, RESERVED_TAG, self.stat_sn,
            self.exp_cmd_sn, self.max_cmd_sn, self.event, self.vendor_code, self.parameter1,
            self.parameter2, self.parameter3,
        )  # fmt: skip


Pdu = (
    NopOut | NopIn | ScsiCommand | ScsiResponse | TaskManagementRequest | TaskManagementResponse
    | LoginRequest | LoginResponse | TextRequest | TextResponse | DataOut | DataIn
    | ReadyToTransfer | LogoutRequest | LogoutResponse | SnackRequest | Reject | AsyncMessage
)  # fmt: skip

_CLASSES: tuple[type[Pdu], ...] = (
    NopOut, NopIn, ScsiCommand, ScsiResponse, TaskManagementRequest, TaskManagementResponse,
    LoginRequest, LoginResponse, TextRequest, TextResponse, DataOut, DataIn, ReadyToTransfer,
    LogoutRequest, LogoutResponse, SnackRequest, Reject, AsyncMessage,
)  # fmt: skip
PDU_CLASSES: dict[int, type[Pdu]] = {cls.opcode: cls for cls in _CLASSES}
"""Opcode -> class."""
