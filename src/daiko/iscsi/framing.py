"""The byte stream <-> PDUs: additional headers, padding, digests (RFC 7143, 11.1, 11.2).

Theory of operation. The transport asks `get_buffer` where to put what it receives and reports
with `received` how much came. Bytes go to a receive buffer; complete PDUs are dispatched from
it in place: the handler of the opcode gets the buffer and the offset of the header, so that a
PDU without data (a READ command) is unpacked without being copied.

The receive buffer is not the connection's own. Between `get_buffer` and `received` an event loop
does nothing else, so one buffer serves all of its connections; a framer keeps of it only the bytes
of a PDU that has not come whole, until the next read. An idle connection keeps nothing.

A data segment comes to the handler in one of three forms:

- b"" where there is none;
- up to `SMALL` bytes: a `bytes` object of its own, copied once out of the receive buffer;
- more: the framer asks the role (`place`) for the memory the data belongs in. What has arrived
  already is copied there, the rest is received there directly by the transport. The handler is
  given that very memoryview. Where `place` answers None the framer provides a bytearray.

So a memoryview means "already in its place", `bytes` and `bytearray` mean "the handler's now".

After a large data segment the next PDU is likely to have one too. So the next read asks for little
more than a header (`SHORT_READ`): what it brings of the data has to be copied, the rest has not.

Errors: an impossible layout or a wrong header digest raises (`FormatError`); the stream cannot be
read any further. A wrong data digest concerns one PDU only: the handler `on_data_digest_error`
gets it in the place of the opcode's handler.

`stop` makes the framer drop what follows, also out of a batch it is working on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from daiko.iscsi.bhs import BHS_LENGTH, LENGTHS, OPCODE_MASK, Buffer
from daiko.iscsi.digest import DIGEST_LENGTH, checksum, digest, stored
from daiko.iscsi.error import FormatError, HeaderDigestError

SMALL: Final = 8192
"""Bytes of the largest data segment that is copied out instead of placed."""
RECEIVE_BUFFER: Final = 128 * 1024
"""Bytes. Every PDU without a placed data segment fits many times."""
LARGE: Final = 64 * 1024
"""Bytes of a data segment from which on copying the first of it costs more than one read more."""
SHORT_READ: Final = 1024
"""Bytes that are read after a large data segment: a header with all that may stand beside it."""
PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")
"""Padding after a data segment, by its length modulo 4."""

_lengths: Final[Callable[[Buffer, int], tuple[int]]] = LENGTHS.unpack_from

Handler = Callable[[Buffer, int, bytes, Buffer], None]
"""(buffer, offset of the header in it, additional header segments, data segment). The buffer is
the handler's only until it returns."""
Place = Callable[[Buffer, int, int], "memoryview | None"]
"""(buffer, offset of the header, length of the data segment) -> where its data belongs."""


def _ignore(header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
    """What comes after the end of a connection is not looked at."""


def _nowhere(header: Buffer, at: int, length: int) -> memoryview | None:
    return None


def dispatch_table(handlers: dict[int, Handler], default: Handler) -> list[Handler]:
    """One handler for each of the 64 values of the opcode field."""
    return [handlers.get(opcode, default) for opcode in range(64)]


class ReceiveBuffer:
    """Where the connections of one event loop receive, one at a time."""

    __slots__ = ("data", "short", "view")

    def __init__(self, size: int = RECEIVE_BUFFER) -> None:
        if size < 2 * SMALL + 2048:
            raise ValueError("the receive buffer must hold a PDU that is not placed")
        self.data = bytearray(size)
        self.view = memoryview(self.data)
        self.short = self.view[:SHORT_READ]


class Framer:
    """Received bytes -> calls of the handlers in `dispatch` (indexed by opcode)."""

    __slots__ = (
        "_ahs",
        "_allocate",
        "_buffer",
        "_destination",
        "_filled",
        "_header",
        "_is_stopped",
        "_rest",
        "_segment",
        "_shared",
        "_trailer",
        "_view",
        "_window",
        "data_digest",
        "dispatch",
        "header_digest",
        "maximum_data_length",
        "on_data_digest_error",
        "place",
    )

    def __init__(
        self,
        dispatch: list[Handler],
        *,
        maximum_data_length: int = 8192,
        on_data_digest_error: Handler = _ignore,
        place: Place = _nowhere,
        buffer: ReceiveBuffer | None = None,
        allocate: Callable[[int], bytearray] = bytearray,
    ) -> None:
        """`buffer`: shared with the other framers of the event loop. `allocate` makes memory for
        large data segments that have no place; it need not be filled."""
        self.dispatch = dispatch
        self.place = place
        self.on_data_digest_error = on_data_digest_error
        self.maximum_data_length = maximum_data_length
        """Bytes: the MaxRecvDataSegmentLength this side declared."""
        self.header_digest = False
        self.data_digest = False
        self._shared = buffer or ReceiveBuffer()
        self._buffer = self._shared.data
        self._view = self._shared.view
        self._window = self._view
        # What the next read may fill, where nothing waits for its rest.
        self._allocate = allocate
        self._rest = b""
        # Of a PDU that has not come whole, between two reads.
        self._destination: memoryview | None = None
        # Memory of the data segment being received; None between data segments.
        self._segment: Buffer = b""
        # The same, as it will be handed over.
        self._filled = 0
        self._trailer = 0
        self._header = b""
        self._ahs = b""
        self._is_stopped = False

    def get_buffer(self) -> memoryview:
        """Where the next received bytes go; never empty."""
        destination = self._destination
        if destination is not None and self._filled < len(destination):
            return destination[self._filled :]
        rest = self._rest
        if not rest:
            return self._window
        self._view[: len(rest)] = rest
        return self._view[len(rest) :]

    def received(self, count: int) -> None:
        """`count` bytes have come into what `get_buffer` gave. Calls handlers."""
        if self._is_stopped:
            return
        start = 0
        end = len(self._rest) + count
        if self._destination is not None:
            if self._filled < len(self._destination):
                self._filled += count
                if self._filled < len(self._destination):
                    return
                end = 0
            if end < self._trailer:
                self._rest = bytes(self._view[:end])
                return
            start = self._trailer
            self._placed()
        else:
            self._window = self._view
        start = self._scan(start, end)
        self._rest = bytes(self._view[start:end]) if start != end else b""

    def feed(self, data: Buffer) -> None:
        """Take received bytes from elsewhere than `get_buffer` (tests, captures)."""
        view = memoryview(data)
        while view:
            room = self.get_buffer()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            view = view[count:]
            self.received(count)

    def stop(self) -> None:
        """Drop everything that comes from now on."""
        self._is_stopped = True
        self._destination = None
        self._rest = b""
        self.dispatch = [_ignore] * 64
        self.on_data_digest_error = _ignore
        self.place = _nowhere

    @property
    def is_between_pdus(self) -> bool:
        """Whether no part of a PDU waits for its rest: the peer may close without loss."""
        return not self._rest and self._destination is None

    def _scan(self, start: int, end: int) -> int:
        """Dispatch the complete PDUs in buffer[start:end]; where the first incomplete begins."""
        buffer = self._buffer
        view = self._view
        while end - start >= BHS_LENGTH:
            (word,) = _lengths(buffer, start + 4)
            if word <= SMALL and not self.header_digest and not self.data_digest:
                # No additional headers, a data segment that is not placed: nearly every PDU.
                if not word:
                    self.dispatch[buffer[start] & OPCODE_MASK](buffer, start, b"", b"")
                    start += BHS_LENGTH
                    continue
                body = start + BHS_LENGTH
                stop = body + (word + 3 & ~3)
                if end < stop:
                    break
                data = view[body : body + word].tobytes()
                self.dispatch[buffer[start] & OPCODE_MASK](buffer, start, b"", data)
                start = stop
                continue
            ahs_length = word >> 24 << 2
            length = word & 0xFFFFFF
            if length > self.maximum_data_length:
                raise FormatError(
                    f"a data segment of {length} bytes exceeds the {self.maximum_data_length} "
                    "bytes declared with MaxRecvDataSegmentLength"
                )
            body = start + BHS_LENGTH + ahs_length
            if self.header_digest:
                if end < body + DIGEST_LENGTH:
                    break
                if checksum(view[start:body]) != stored(buffer, body):
                    raise HeaderDigestError("a header digest is wrong")
                body += DIGEST_LENGTH
            elif end < body:
                break
            trailer = (-length & 3) + (DIGEST_LENGTH if self.data_digest and length else 0)
            stop = body + length + trailer
            if length > SMALL:
                self._begin_placing(start, ahs_length, length, trailer)
                arrived = min(length, end - body)
                destination = self._destination
                assert destination is not None
                destination[:arrived] = view[body : body + arrived]
                self._filled = arrived
                if end < stop:
                    # The rest of the data goes to its place; what came of the trailer stays.
                    return body + arrived
                view[:trailer] = view[body + length : stop]
                self._placed()
            elif end < stop:
                break
            else:
                self._deliver(start, ahs_length, body, length)
            start = stop
        return start

    def _deliver(self, start: int, ahs_length: int, body: int, length: int) -> None:
        """Dispatch a PDU that lies wholly in the receive buffer."""
        buffer = self._buffer
        at = start + BHS_LENGTH
        ahs = bytes(self._view[at : at + ahs_length]) if ahs_length else b""
        data = bytes(self._view[body : body + length]) if length else b""
        handler = self.dispatch[buffer[start] & OPCODE_MASK]
        if self.data_digest and length:
            stop = body + length + (-length & 3)
            if checksum(self._view[body:stop]) != stored(buffer, stop):
                handler = self.on_data_digest_error
        handler(buffer, start, ahs, data)

    def _begin_placing(self, start: int, ahs_length: int, length: int, trailer: int) -> None:
        at = start + BHS_LENGTH
        self._header = bytes(self._view[start:at])
        self._ahs = bytes(self._view[at : at + ahs_length])
        place = self.place(self._buffer, start, length)
        if place is None:
            self._segment = self._allocate(length)
            self._destination = memoryview(self._segment)
        elif len(place) == length:
            self._segment = self._destination = place
        else:
            raise ValueError("the place of a data segment must have its length")
        if length >= LARGE:
            self._window = self._shared.short
        self._trailer = trailer

    def _placed(self) -> None:
        """A placed data segment is complete; its trailer stands at 0 of the receive buffer."""
        data = self._segment
        header = self._header
        handler = self.dispatch[header[0] & OPCODE_MASK]
        if self.data_digest:
            padding = self._trailer - DIGEST_LENGTH
            crc = checksum(data)
            if padding:
                crc = checksum(self._view[:padding], crc)
            if crc != stored(self._buffer, padding):
                handler = self.on_data_digest_error
        self._destination = None
        self._segment = b""
        self._filled = 0
        handler(header, 0, self._ahs, data)


def encode(
    header: bytes,
    data: Buffer = b"",
    *,
    ahs: bytes = b"",
    header_digest: bool = False,
    data_digest: bool = False,
) -> list[Buffer]:
    """The parts of a PDU in the order of the wire; `data` is referred to, not copied."""
    parts: list[Buffer] = [header]
    if ahs:
        parts.append(ahs)
    if header_digest:
        parts.append(digest(header + ahs))
    if data:
        parts.append(data)
        padding = PADDING[len(data) & 3]
        if padding:
            parts.append(padding)
        if data_digest:
            parts.append(digest(data, padding))
    return parts
