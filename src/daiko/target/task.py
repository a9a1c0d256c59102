"""What passes between the target port and a logical unit: one SCSI command.

The port makes a `Task` when a SCSI Command PDU arrives (RFC 7143, 11.3) and submits it to the
logical unit. The unit looks at the CDB first and asks for the data only when it wants it:
`fetch` collects immediate, unsolicited and solicited (R2T) data, so a command that is refused
never has its data transferred. It answers with `complete`, exactly once, now or later.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from mypy_extensions import mypyc_attr

from daiko.device.block import Buffer
from daiko.device.error import DeviceError
from daiko.scsi.opcode import Status

if TYPE_CHECKING:
    from daiko.target.nexus import ItlNexus, Nexus


_GOOD: Final = int(Status.GOOD)


class TaskAttribute(IntEnum):
    """RFC 7143, 11.3.1 ATTR."""

    UNTAGGED = 0
    SIMPLE = 1
    ORDERED = 2
    HEAD_OF_QUEUE = 3
    ACA = 4


class Omitted:
    """Stands behind the data of a command for bytes that the unit had to give, that the initiator
    has no room for, and that were not read therefore: they count as residual."""

    __slots__ = ("_length",)

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length


@mypyc_attr(allow_interpreted_subclasses=True)
class Task(ABC):
    """One SCSI command between its arrival and its status."""

    __slots__ = (
        "aborted",
        "attribute",
        "cdb",
        "expected_in",
        "expected_out",
        "fetching",
        "itl",
        "lun",
        "nexus",
        "tag",
    )

    nexus: Nexus
    itl: ItlNexus
    """Set by the logical unit when it takes the task up."""
    lun: int
    """The 8-byte LUN field as an unsigned integer (SAM-5, 4.7)."""
    tag: int
    """Initiator task tag: unique in the session while the task lives."""
    cdb: bytes
    """16 bytes, or more where an additional header segment extends the CDB."""
    attribute: TaskAttribute
    expected_out: int
    """Bytes that the initiator means to send (0 when the W bit is 0)."""
    expected_in: int
    """Bytes that the initiator has room for (0 when the R bit is 0)."""
    aborted: bool
    """Set by task management when the task's own initiator no longer waits for it; the unit still
    calls `complete`, when the device has let go of the task's buffers."""
    fetching: bool
    """`fetch` waits for data from the initiator. Kept by the port: true from a `fetch` that could
    not call `then` at once until just before it calls it."""

    @abstractmethod
    def fetch(self, length: int, then: Callable[[Buffer], None]) -> None:
        """Collect the first `length` bytes of data-out and pass them to `then`, inline when they
        are already here. Where `length` is more than `expected_out`, `then` gets the
        `expected_out` bytes that there are, and the port reports the rest as residual overflow
        (RFC 7143, 11.4.5.1); what was expected and not fetched is residual underflow. The data is
        the receiver's until the task completes. `then` is not called when the task is aborted or
        the connection lost. At most once for each task."""

    def data_at_once(self, length: int) -> Buffer | None:
        """The data-out, where `length` bytes were announced and all of them came with the command:
        then this takes the place of `fetch`. None, or b"", where it takes a `fetch`."""
        return None

    def read_done(self, error: DeviceError | None, data: Buffer) -> None:
        """Completion of a READ (`device.block.ReadDone`)."""
        if error is None:
            self.itl.finish(self, _GOOD, (data,))
        else:
            self.itl.unit.fail(self.itl, self, error)

    def write_done(self, error: DeviceError | None) -> None:
        """Completion of a WRITE, or of anything else that has no data-in."""
        if error is None:
            self.itl.finish(self, _GOOD)
        else:
            self.itl.unit.fail(self.itl, self, error)

    @abstractmethod
    def complete(self, status: int, data: Sequence[Buffer] = (), sense: bytes = b"") -> None:
        """Answer: status (SAM-5, 5.3), data-in as a sequence of buffers sent one after the other
        (cut to `expected_in`; the port computes residuals), sense data without length field.
        Called exactly once for every task, aborted ones included: the answer of an aborted task
        (or of a lost connection) is dropped silently and only its buffers are let go of."""
