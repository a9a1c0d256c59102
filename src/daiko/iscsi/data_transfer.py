"""The data of a command: immediate, unsolicited, solicited (R2T), Data-In, residuals.

RFC 7143, 4.2.5 and 11.4.5, 11.7, 11.8. Both sides order data by offset (DataPDUInOrder and
DataSequenceInOrder are Yes), so each sequence is described by the next offset it expects.

Target: `DataOutTransfer` collects the data of one command. It exists only where the data did not
come whole with the command. Initiator: `first_burst` says what goes without being asked for,
`pieces` cuts a burst into PDUs, `DataInTransfer` puts a read together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from daiko.iscsi.bhs import OVERFLOW, RESERVED_TAG, UNDERFLOW, Buffer
from daiko.iscsi.error import LocalProtocolError, RemoteProtocolError
from daiko.iscsi.event import DataOutEvent
from daiko.iscsi.negotiation import Parameters


def residual(expected: int, actual: int) -> tuple[int, int]:
    """Residual flag and count (11.4.5.1) for a transfer of `actual` bytes where the initiator
    said `expected`."""
    if actual == expected:
        return 0, 0
    if actual < expected:
        return UNDERFLOW, expected - actual
    return OVERFLOW, actual - expected


def pieces(length: int, limit: int, start: int = 0) -> Iterator[tuple[int, int, bool]]:
    """Cut `length` bytes from `start` into PDUs of at most `limit`: (offset, length, final)."""
    end = start + length
    offset = start
    while offset < end:
        size = min(limit, end - offset)
        yield offset, size, offset + size == end
        offset += size


def first_burst(length: int, parameters: Parameters) -> tuple[int, int]:
    """Bytes that go with the command (immediate) and after it unasked (unsolicited)."""
    burst = min(length, parameters.first_burst_length)
    immediate = min(burst, parameters.send_limit) if parameters.immediate_data else 0
    unsolicited = 0 if parameters.initial_r2t else burst - immediate
    return immediate, unsolicited


def data_in_pieces(
    buffers: Sequence[Buffer], length: int, limit: int, burst: int
) -> Iterator[tuple[int, Buffer, bool]]:
    """Cut data-in to `length` bytes and into Data-In PDUs: (offset, data, ends a sequence).

    No PDU spans two buffers, so nothing is joined; a sequence is at most `burst` bytes."""
    offset = 0
    in_sequence = 0
    for buffer in buffers:
        size = min(len(buffer), length - offset)
        if not size:
            continue
        view = memoryview(buffer)
        at = 0
        while at < size:
            step = min(limit, size - at, burst - in_sequence)
            in_sequence += step
            ends = in_sequence == burst or offset + step == length
            yield offset, view[at : at + step], ends
            if ends:
                in_sequence = 0
            at += step
            offset += step


class Solicitation:
    """One outstanding R2T: which part of the data was asked for, how far it has come."""

    __slots__ = ("data_sn", "end", "next", "offset", "tag")

    def __init__(self, tag: int, offset: int, length: int) -> None:
        self.tag = tag
        self.offset = offset
        self.next = offset
        self.end = offset + length
        self.data_sn = 0


class DataOutTransfer:
    """The target's collection of one command's data.

    `expected` bytes are the initiator's; `wanted` of them are asked for (`want`), which may come
    before, amid or after the unsolicited data. What comes beyond `wanted` is dropped."""

    __slots__ = (
        "_buffer",
        "_solicitations",
        "_solicited_to",
        "_unsolicited",
        "expected",
        "is_broken",
        "parameters",
        "r2t_sn",
        "wanted",
    )

    def __init__(
        self, expected: int, immediate: Buffer, unsolicited_follows: bool, parameters: Parameters
    ) -> None:
        self.expected = expected
        self.parameters = parameters
        self.wanted: int | None = None
        self.is_broken = False
        """A sequence was not as it must be: the command cannot succeed any more."""
        self.r2t_sn = 0
        """R2Ts sent so far."""
        self._buffer = bytearray(immediate)
        # The unsolicited burst has a tag of its own kind, so it is one more solicitation.
        room = min(expected, parameters.first_burst_length)
        self._unsolicited: Solicitation | None = None
        if unsolicited_follows:
            self._unsolicited = Solicitation(
                RESERVED_TAG, len(immediate), max(room - len(immediate), 0)
            )
            self._extend(room)
        self._solicitations: dict[int, Solicitation] = {}
        self._solicited_to = len(immediate)

    def _extend(self, length: int) -> None:
        if length > len(self._buffer):
            grown = bytearray(length)
            grown[: len(self._buffer)] = self._buffer
            self._buffer = grown

    @property
    def received(self) -> int:
        """Bytes of the data asked for that have come."""
        missing = sum(each.end - each.next for each in self._solicitations.values())
        return self._solicited_to - missing

    @property
    def capacity(self) -> int:
        """Bytes of memory that it holds."""
        return len(self._buffer)

    def want(self, length: int) -> bool:
        """Ask for the first `length` bytes. True: they are all here already."""
        if self.wanted is not None or length > self.expected:
            raise LocalProtocolError("data are asked for once, and no more than there are")
        self.wanted = length
        self._extend(length)
        return self.is_complete

    @property
    def is_complete(self) -> bool:
        return (
            self.wanted is not None
            and self._unsolicited is None
            and not self._solicitations
            and self._solicited_to >= self.wanted
        )

    @property
    def is_receiving(self) -> bool:
        """Whether a sequence has not ended yet."""
        return self._unsolicited is not None or bool(self._solicitations)

    @property
    def data(self) -> memoryview:
        """The bytes asked for."""
        return memoryview(self._buffer)[: self.wanted]

    def solicit(self, take_tag: Callable[[], int]) -> Iterator[Solicitation]:
        """The R2Ts to be sent now, within MaxOutstandingR2T and MaxBurstLength."""
        if self.wanted is None or self._unsolicited is not None:
            return
        limit = self.parameters.max_outstanding_r2t
        burst = self.parameters.max_burst_length
        while self._solicited_to < self.wanted and len(self._solicitations) < limit:
            length = min(burst, self.wanted - self._solicited_to)
            made = Solicitation(take_tag(), self._solicited_to, length)
            self._solicitations[made.tag] = made
            self._solicited_to += length
            yield made
            self.r2t_sn += 1

    def place(self, tag: int, offset: int, length: int) -> memoryview | None:
        """Where the data of a Data-Out belongs; None where it does not fit its sequence (which
        `receive` will say)."""
        if self.wanted is None:
            return None  # The memory may still be exchanged for more (`want`).
        sequence = self._sequence(tag)
        if sequence is None or offset != sequence.next or offset + length > sequence.end:
            return None
        return memoryview(self._buffer)[offset : offset + length]

    def _sequence(self, tag: int) -> Solicitation | None:
        return self._unsolicited if tag == RESERVED_TAG else self._solicitations.get(tag)

    def receive(
        self, tag: int, data_sn: int, offset: int, data: Buffer, final: bool
    ) -> DataOutEvent:
        """A Data-Out PDU. `data` as a memoryview is in its place already.

        A sequence with a DataSN or an offset out of order, or with more data than was asked for,
        is broken: nothing of it can be sent again at ErrorRecoveryLevel 0 (7.9). It is followed
        to its end, so that the command can end after it."""
        sequence = self._sequence(tag)
        if sequence is None:
            if tag == RESERVED_TAG:
                return DataOutEvent.UNEXPECTED_UNSOLICITED
            return DataOutEvent.NO_SEQUENCE
        end = offset + len(data)
        if end > sequence.end and tag == RESERVED_TAG:
            return DataOutEvent.UNEXPECTED_UNSOLICITED
        if data_sn != sequence.data_sn or offset != sequence.next or end > sequence.end:
            self.is_broken = True
        elif not isinstance(data, memoryview):
            self._buffer[offset:end] = data
        sequence.next = end
        sequence.data_sn = data_sn + 1
        if not final:
            return DataOutEvent.MORE
        if tag == RESERVED_TAG:
            self._unsolicited = None
            self._solicited_to = end
        else:
            del self._solicitations[tag]
            if end < sequence.end and not self.is_broken:
                return DataOutEvent.NOT_ENOUGH
        return DataOutEvent.COMPLETE if self.is_complete else DataOutEvent.SEQUENCE_END


class DataInTransfer:
    """The initiator's collection of one read of at most `length` bytes."""

    __slots__ = ("_buffer", "_whole", "data_sn", "length", "received")

    def __init__(self, length: int) -> None:
        self.length = length
        self.received = 0
        """Bytes so far."""
        self.data_sn = 0
        self._buffer: bytearray | None = None
        self._whole: Buffer = b""

    def place(self, offset: int, length: int) -> memoryview | None:
        """Where the data of a Data-In belongs; None: the receiver of the PDU checks it."""
        if offset != self.received or offset + length > self.length:
            return None
        if self._buffer is None:
            self._buffer = bytearray(self.length)
            if self.received:
                self._buffer[: self.received] = self._whole
        return memoryview(self._buffer)[offset : offset + length]

    def receive(self, data_sn: int, offset: int, data: Buffer) -> None:
        """A Data-In PDU. Raises RemoteProtocolError where it is out of order or too long."""
        if data_sn != self.data_sn or offset != self.received:
            raise RemoteProtocolError("a Data-In is out of order")
        end = offset + len(data)
        if end > self.length:
            raise RemoteProtocolError("a target sent more data than there is room for")
        self.data_sn += 1
        self.received = end
        if isinstance(data, memoryview):
            return
        if self._buffer is None and offset == 0:
            self._whole = data
            return
        if self._buffer is None:
            self._buffer = bytearray(self.length)
            self._buffer[:offset] = self._whole
        self._buffer[offset:end] = data

    @property
    def data(self) -> Buffer:
        """What has come, without a copy."""
        if self._buffer is None:
            return self._whole
        if self.received == len(self._buffer):
            return self._buffer
        return memoryview(self._buffer)[: self.received]
