"""The basic header segment of RFC 7143, 11.2: opcodes, flag bits, codes, and hot layouts.

The PDUs of a READ or a WRITE (SCSI Command, SCSI Response, Data-In, Data-Out, R2T) pass by the
thousand: the data path packs and unpacks them with the compiled layouts of this module directly,
without an object per PDU. The classes in `pdu.py` use the same layouts.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

Buffer = bytes | bytearray | memoryview
"""Bytes-like data, C-contiguous, of format 'B'."""

BHS_LENGTH: Final = 48
"""Bytes of a basic header segment."""
RESERVED_TAG: Final = 0xFFFFFFFF
IMMEDIATE: Final = 0x40
"""The I bit of byte 0."""
OPCODE_MASK: Final = 0x3F
FINAL: Final = 0x80
"""The F bit of byte 1 (T, transit, in a login PDU)."""
CONTINUE: Final = 0x40
"""The C bit of byte 1 of text and login PDUs."""


class Opcode(IntEnum):
    """RFC 7143, 11.2.1.2."""

    NOP_OUT = 0x00
    SCSI_COMMAND = 0x01
    TASK_MANAGEMENT_REQUEST = 0x02
    LOGIN_REQUEST = 0x03
    TEXT_REQUEST = 0x04
    DATA_OUT = 0x05
    LOGOUT_REQUEST = 0x06
    SNACK_REQUEST = 0x10
    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    TASK_MANAGEMENT_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    ASYNC_MESSAGE = 0x32
    REJECT = 0x3F


# Layouts. The word at byte 4 is TotalAHSLength (4-byte words) << 24 | DataSegmentLength (bytes).
SCSI_COMMAND: Final = struct.Struct(">BBHIQIIII16s")
"""opcode, flags, 0, lengths, lun, ITT, expected length, CmdSN, ExpStatSN, cdb."""
SCSI_RESPONSE: Final = struct.Struct(">BBBBIQIIIIIIII")
"""opcode, flags, response, status, lengths, 0, ITT, SNACK tag, StatSN, ExpCmdSN, MaxCmdSN,
ExpDataSN, bidirectional read residual, residual."""
DATA_IN: Final = struct.Struct(">BBBBIQIIIIIIII")
"""opcode, flags, 0, status, lengths, lun, ITT, TTT, StatSN, ExpCmdSN, MaxCmdSN, DataSN, buffer
offset, residual."""
DATA_OUT: Final = struct.Struct(">BBHIQIIIIIIII")
"""opcode, flags, 0, lengths, lun, ITT, TTT, 0, ExpStatSN, 0, DataSN, buffer offset, 0."""
R2T: Final = struct.Struct(">BBHIQIIIIIIII")
"""opcode, flags, 0, lengths, lun, ITT, TTT, StatSN, ExpCmdSN, MaxCmdSN, R2TSN, buffer offset,
desired length."""
LENGTHS: Final = struct.Struct(">I")
"""The length word alone, at byte 4."""

# Bits of byte 1.
READ: Final = 0x40
WRITE: Final = 0x20
ATTRIBUTE_MASK: Final = 0x07
STATUS: Final = 0x01
"""S bit of Data-In: the PDU carries the status (phase collapse)."""
ACKNOWLEDGE: Final = 0x40
"""A bit of Data-In."""
UNDERFLOW: Final = 0x02
OVERFLOW: Final = 0x04
BIDIRECTIONAL_UNDERFLOW: Final = 0x08
BIDIRECTIONAL_OVERFLOW: Final = 0x10


class ResponseCode(IntEnum):
    """iSCSI service response of a SCSI Response, 11.4.3."""

    COMPLETED_AT_TARGET = 0x00
    TARGET_FAILURE = 0x01


class TaskManagementFunction(IntEnum):
    """11.5.1, and RFC 7144, 4.1 from QUERY_TASK on."""

    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7
    TASK_REASSIGN = 8
    QUERY_TASK = 9
    QUERY_TASK_SET = 10
    I_T_NEXUS_RESET = 11
    QUERY_ASYNCHRONOUS_EVENT = 12


class TaskManagementResponseCode(IntEnum):
    """11.6.1, and RFC 7144, 4.2 for FUNCTION_SUCCEEDED."""

    FUNCTION_COMPLETE = 0
    TASK_DOES_NOT_EXIST = 1
    LUN_DOES_NOT_EXIST = 2
    TASK_STILL_ALLEGIANT = 3
    REASSIGN_NOT_SUPPORTED = 4
    FUNCTION_NOT_SUPPORTED = 5
    AUTHORIZATION_FAILED = 6
    FUNCTION_SUCCEEDED = 7
    FUNCTION_REJECTED = 255


class LogoutReason(IntEnum):
    """11.14.1."""

    CLOSE_SESSION = 0
    CLOSE_CONNECTION = 1
    REMOVE_FOR_RECOVERY = 2


class LogoutResponseCode(IntEnum):
    """11.15.1."""

    CLOSED = 0
    CID_NOT_FOUND = 1
    RECOVERY_NOT_SUPPORTED = 2
    CLEANUP_FAILED = 3


class AsyncEvent(IntEnum):
    """11.9.1."""

    SCSI_EVENT = 0
    LOGOUT_REQUESTED = 1
    CONNECTION_DROPPED = 2
    ALL_CONNECTIONS_DROPPED = 3
    NEGOTIATION_REQUESTED = 4
    ALL_TASKS_TERMINATED = 5
    VENDOR_SPECIFIC = 255


class Stage(IntEnum):
    """Stages of a login, 11.12.3."""

    SECURITY_NEGOTIATION = 0
    OPERATIONAL_NEGOTIATION = 1
    FULL_FEATURE_PHASE = 3
