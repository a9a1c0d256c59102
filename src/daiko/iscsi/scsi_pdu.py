"""The PDUs of a SCSI command: command, response, data, R2T (RFC 7143, 11.3, 11.4, 11.7, 11.8).

`pdu.py` has all others, and the rules that hold for every class of both modules. The data path
does not use these classes but the layouts in `bhs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from daiko.iscsi.bhs import (
    ATTRIBUTE_MASK,
    DATA_IN,
    DATA_OUT,
    FINAL,
    IMMEDIATE,
    R2T,
    READ,
    RESERVED_TAG,
    SCSI_COMMAND,
    SCSI_RESPONSE,
    WRITE,
    Buffer,
    Opcode,
    ResponseCode,
)


@dataclass(slots=True)
class ScsiCommand:
    """11.3. `cdb` is 16 bytes; a longer one stands in `ahs` (11.2.2.3)."""

    opcode: ClassVar[Opcode] = Opcode.SCSI_COMMAND
    immediate: bool
    final: bool
    read: bool
    write: bool
    attribute: int
    lun: int
    initiator_task_tag: int
    expected_data_transfer_length: int
    """Bytes."""
    cmd_sn: int
    exp_stat_sn: int
    cdb: bytes
    data: Buffer = b""
    ahs: bytes = b""

    @classmethod
    def parse(
        cls, header: Buffer, at: int = 0, data: Buffer = b"", ahs: bytes = b""
    ) -> ScsiCommand:
        byte0, flags, _, _, lun, itt, length, cmd_sn, exp, cdb = SCSI_COMMAND.unpack_from(
            header, at
        )
        return cls(
            bool(byte0 & IMMEDIATE), bool(flags & FINAL), bool(flags & READ), bool(flags & WRITE),
            flags & ATTRIBUTE_MASK, lun, itt, length, cmd_sn, exp, cdb, data, ahs,
        )  # fmt: skip

    def pack(self) -> bytes:
        flags = (
            (FINAL if self.final else 0)
            | (READ if self.read else 0)
            | (WRITE if self.write else 0)
            | self.attribute
        )
        return SCSI_COMMAND.pack(
            Opcode.SCSI_COMMAND | (IMMEDIATE if self.immediate else 0), flags, 0,
            len(self.ahs) // 4 << 24 | len(self.data), self.lun, self.initiator_task_tag,
            self.expected_data_transfer_length, self.cmd_sn, self.exp_stat_sn, self.cdb,
        )  # fmt: skip


@dataclass(slots=True)
class ScsiResponse:
    """11.4. `flags` holds the residual bits; `data` is sense length, sense and response data."""

    opcode: ClassVar[Opcode] = Opcode.SCSI_RESPONSE
    flags: int = 0
    response: int = ResponseCode.COMPLETED_AT_TARGET
    status: int = 0
    initiator_task_tag: int = RESERVED_TAG
    snack_tag: int = 0
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    exp_data_sn: int = 0
    bidirectional_residual: int = 0
    residual: int = 0
    """Bytes."""
    data: Buffer = b""

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> ScsiResponse:
        _, flags, response, status, _, _, *rest = SCSI_RESPONSE.unpack_from(header, at)
        return cls(flags & ~FINAL, response, status, *(*rest, data))

    def pack(self) -> bytes:
        return SCSI_RESPONSE.pack(
            Opcode.SCSI_RESPONSE, FINAL | self.flags, self.response, self.status, len(self.data),
            0, self.initiator_task_tag, self.snack_tag, self.stat_sn, self.exp_cmd_sn,
            self.max_cmd_sn, self.exp_data_sn, self.bidirectional_residual, self.residual,
        )  # fmt: skip

    @property
    def sense(self) -> bytes:
        """The sense data (11.4.7.2), b"" where there is none."""
        return sense_of(self.data)


def sense_of(data: Buffer) -> bytes:
    """Sense data out of the data segment of a SCSI Response (11.4.7)."""
    if len(data) < 2:
        return b""
    length = int.from_bytes(data[:2], "big")
    return bytes(data[2 : 2 + length])


@dataclass(slots=True)
class DataOut:
    """11.7."""

    opcode: ClassVar[Opcode] = Opcode.DATA_OUT
    final: bool
    lun: int
    initiator_task_tag: int
    target_transfer_tag: int
    exp_stat_sn: int
    data_sn: int
    buffer_offset: int
    """Bytes."""
    data: Buffer = b""

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> DataOut:
        _, flags, _, _, lun, itt, ttt, _, exp, _, sn, offset, _ = DATA_OUT.unpack_from(header, at)
        return cls(bool(flags & FINAL), lun, itt, ttt, exp, sn, offset, data)

    def pack(self) -> bytes:
        return DATA_OUT.pack(
            Opcode.DATA_OUT, FINAL if self.final else 0, 0, len(self.data), self.lun,
            self.initiator_task_tag, self.target_transfer_tag, 0, self.exp_stat_sn, 0,
            self.data_sn, self.buffer_offset, 0,
        )  # fmt: skip


@dataclass(slots=True)
class DataIn:
    """11.7. `flags`: FINAL, ACKNOWLEDGE, OVERFLOW, UNDERFLOW, STATUS."""

    opcode: ClassVar[Opcode] = Opcode.DATA_IN
    flags: int
    status: int = 0
    lun: int = 0
    initiator_task_tag: int = RESERVED_TAG
    target_transfer_tag: int = RESERVED_TAG
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    data_sn: int = 0
    buffer_offset: int = 0
    """Bytes."""
    residual: int = 0
    """Bytes."""
    data: Buffer = b""

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> DataIn:
        _, flags, _, status, _, *rest = DATA_IN.unpack_from(header, at)
        return cls(flags, status, *(*rest, data))

    def pack(self) -> bytes:
        return DATA_IN.pack(
            Opcode.DATA_IN, self.flags, 0, self.status, len(self.data), self.lun,
            self.initiator_task_tag, self.target_transfer_tag, self.stat_sn, self.exp_cmd_sn,
            self.max_cmd_sn, self.data_sn, self.buffer_offset, self.residual,
        )  # fmt: skip


@dataclass(slots=True)
class ReadyToTransfer:
    """R2T, 11.8."""

    opcode: ClassVar[Opcode] = Opcode.R2T
    lun: int
    initiator_task_tag: int
    target_transfer_tag: int
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    r2t_sn: int = 0
    buffer_offset: int = 0
    """Bytes."""
    desired_length: int = 0
    """Bytes."""

    @classmethod
    def parse(cls, header: Buffer, at: int = 0, data: Buffer = b"") -> ReadyToTransfer:
        return cls(*R2T.unpack_from(header, at)[4:])

    def pack(self) -> bytes:
        return R2T.pack(
            Opcode.R2T, FINAL, 0, 0, self.lun, self.initiator_task_tag, self.target_transfer_tag,
            self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn, self.r2t_sn, self.buffer_offset,
            self.desired_length,
        )  # fmt: skip
