"""One SCSI command on its way to a target and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import IntEnum

from daiko.device.block import Buffer
from daiko.device.error import DeviceError
from daiko.device.memory import unfilled

CommandDone = Callable[[DeviceError | None, int, Buffer, bytes], None]
"""(error, status, data, sense). `error` is set, and the rest means nothing, when no status came
from the target (Unreachable, Aborted). Otherwise `status` is the target's, `data` what it sent
(as many bytes as came), `sense` its sense data without length field."""


class Failure(IntEnum):
    """How a command may end without a SCSI status; beyond the range of statuses."""

    TARGET_FAILURE = 0x101
    """The target answered that it could not carry the command out (RFC 7143, 11.4.3)."""
    TIMED_OUT = 0x102
    """No answer in time; the task was aborted."""
    RESET = 0x103
    """A LOGICAL UNIT RESET of this session, meant for another command, ended the task."""


class Stage(IntEnum):
    """How far the escalation for a command without an answer has gone."""

    WAITING = 0
    ABORT_TASK = 1
    LOGICAL_UNIT_RESET = 2


class Command(ABC):
    """What is to be sent, and what is known of it: in progress until `end` is called.

    It has no constructor: on the data path its fields are set where it is made, which costs half
    of what a call with arguments does. A kind of command that knows itself what its answer means
    is a subclass with an `end` of its own; all others are an `AskedCommand`."""

    __slots__ = (
        "attempts",
        "begun",
        "buffer",
        "cdb",
        "cmd_sn",
        "data",
        "data_out",
        "deadline",
        "lun",
        "portal_group_tag",
        "read_length",
        "received",
        "replay",
        "stage",
        "tag",
        "timeout",
        "urgent",
    )

    lun: int
    """The 8-byte field."""
    cdb: bytes
    """At most 16 bytes."""
    data_out: Buffer
    read_length: int
    """Bytes that there is room for."""
    timeout: float
    """Seconds."""
    replay: bool
    """Whether it may be sent again after the connection was lost while it was in flight."""
    urgent: bool
    """Whether it goes out in a session that was not released yet, and waits for no other."""
    buffer: Buffer | None
    """Where data read goes: `read_length` bytes of the caller's, or made when data comes."""
    data: Buffer
    """Data read, when it came in one small PDU and there is no `buffer`."""
    attempts: int
    begun: float
    """When it was sent for the first time."""
    portal_group_tag: int
    """Of the session in which it was in flight last."""

    # Set whenever it is sent:
    tag: int
    cmd_sn: int
    deadline: float
    stage: Stage
    received: int
    """Bytes of data read."""

    @abstractmethod
    def end(self, error: DeviceError | None, status: int, data: Buffer, sense: bytes) -> None:
        """The answer, or the error that takes its place; as `CommandDone`. Called once."""

    def memory(self) -> Buffer:
        """Where data read goes. Of a read that ends before its length, `data_in` gives what has
        come."""
        buffer = self.buffer
        if buffer is None:
            buffer = self.buffer = unfilled(self.read_length)
        return buffer

    @property
    def data_in(self) -> Buffer:
        """The data read so far."""
        buffer = self.buffer
        if buffer is None:
            return self.data
        if self.received == len(buffer):
            return buffer
        return memoryview(buffer)[: self.received]


class AskedCommand(Command):
    """A command whose answer goes to `done`."""

    __slots__ = ("done",)

    def __init__(
        self,
        lun: int,
        cdb: bytes,
        done: CommandDone,
        data_out: Buffer = b"",
        read_length: int = 0,
        timeout: float = 30.0,
        replay: bool = False,
        *,
        urgent: bool = False,
        buffer: memoryview | None = None,
    ) -> None:
        if len(cdb) > 16:
            raise ValueError(f"a CDB of {len(cdb)} bytes")
        if data_out and read_length:
            raise ValueError("a command moves data one way")
        self.lun = lun
        self.cdb = cdb
        self.done = done
        self.data_out = data_out
        self.read_length = read_length
        self.timeout = timeout
        self.replay = replay
        self.urgent = urgent
        self.buffer = buffer
        self.data = b""
        self.attempts = 0
        self.begun = 0.0
        self.portal_group_tag = 0

    def end(self, error: DeviceError | None, status: int, data: Buffer, sense: bytes) -> None:
        self.done(error, status, data, sense)
