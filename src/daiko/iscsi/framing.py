"""The byte stream <-> PDUs: additional headers, padding, digests (RFC 7143, 11.1, 11.2).

Theory of operation. The transport asks `get_buffer` where to put what it receives and reports
with `received` how much came. Bytes go to one receive buffer; complete PDUs are dispatched from
it in place: the handler of the opcode gets the buffer and the offset of the header, so that a
PDU without data (a READ command) is unpacked without being copied.

A data segment comes to the handler in one of three forms:

- b"" where there is none;
- up to `SMALL` bytes: a `bytes` object of its own, copied once out of the receive buffer;
- more: the framer asks the role (`place`) for the memory the data belongs in. What has arrived
  already is copied there, the rest is received there directly by the transport. The handler is
  given that very memoryview. Where `place` answers None the framer provides a bytearray.

So a memoryview means "already in its place", `bytes` and `bytearray` mean "the handler's now".

Errors: an impossible layout or a wrong header digest raises (`FormatError`); the stream cannot be
read any further. A wrong data digest concerns one PDU only: the handler `on_data_digest_error`
gets it in the place of the opcode's handler.

`stop` makes the framer drop what follows, also out of a batch it is working on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from daiko.iscsi.bhs import BHS_LENGTH, LENGTHS, OPCODE_MASK, Buffer
from daiko.iscsi.digest import DIGEST_LENGTH, checksum, digest, stored
from daiko.iscsi.error import FormatError, HeaderDigestError

SMALL = 8192
"""Bytes of the largest data segment that is copied out instead of placed."""
RECEIVE_BUFFER = 128 * 1024
"""Bytes. Every PDU without a placed data segment fits many times."""
PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
"""Padding after a data segment, by its length modulo 4."""

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


class Framer:
    """Received bytes -> calls of the handlers in `dispatch` (indexed by opcode)."""

    __slots__ = (
        "_ahs",
        "_buffer",
        "_destination",
        "_end",
        "_filled",
        "_header",
        "_trailer",
        "_view",
        "data_digest",
        "dispatch",
        "header_digest",
        "maximum_data_length",
        "on_data_digest_error",
        "place",
    )

    def __init__(
        self,
        dispatch: Sequence[Handler],
        *,
        maximum_data_length: int = 8192,
        on_data_digest_error: Handler = _ignore,
        place: Place = _nowhere,
        buffer_size: int = RECEIVE_BUFFER,
    ) -> None:
        if buffer_size < 2 * SMALL + 2048:
            raise ValueError("the receive buffer must hold a PDU that is not placed")
        self.dispatch = dispatch
        self.place = place
        self.on_data_digest_error = on_data_digest_error
        self.maximum_data_length = maximum_data_length
        """Bytes: the MaxRecvDataSegmentLength this side declared."""
        self.header_digest = False
        self.data_digest = False
        self._buffer = bytearray(buffer_size)
        self._view = memoryview(self._buffer)
        self._end = 0
        self._destination: memoryview | bytearray | None = None
        # Memory of the data segment being received; None between data segments.
        self._filled = 0
        self._trailer = 0
        self._header = b""
        self._ahs = b""

    def get_buffer(self) -> memoryview:
        """Where the next received bytes go; never empty."""
        destination = self._destination
        if destination is not None and self._filled < len(destination):
            return memoryview(destination)[self._filled :]
        end = self._end
        return self._view[end:] if end else self._view

    def received(self, count: int) -> None:
        """`count` bytes have come into what `get_buffer` gave. Calls handlers."""
        start = 0
        if self._destination is not None:
            if self._filled < len(self._destination):
                self._filled += count
                if self._filled < len(self._destination):
                    return
                count = 0
            end = self._end = self._end + count
            if end < self._trailer:
                return
            start = self._trailer
            self._placed()
        else:
            end = self._end = self._end + count
        start = self._scan(start, end)
        if start != end:
            if start:
                self._view[: end - start] = self._view[start:end]
            self._end = end - start
        else:
            self._end = 0

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
        self.dispatch = [_ignore] * 64
        self.on_data_digest_error = _ignore
        self.place = _nowhere

    @property
    def is_between_pdus(self) -> bool:
        """Whether no part of a PDU waits for its rest: the peer may close without loss."""
        return self._end == 0 and self._destination is None

    def _scan(self, start: int, end: int) -> int:
        """Dispatch the complete PDUs in buffer[start:end]; where the first incomplete begins."""
        buffer = self._buffer
        lengths = LENGTHS.unpack_from
        while end - start >= BHS_LENGTH:
            word: int = lengths(buffer, start + 4)[0]
            if not word and not self.header_digest:
                self.dispatch[buffer[start] & OPCODE_MASK](buffer, start, b"", b"")
                start += BHS_LENGTH
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
                if checksum(self._view[start:body]) != stored(buffer, body):
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
                destination[:arrived] = self._view[body : body + arrived]
                self._filled = arrived
                if end < stop:
                    # The rest of the data goes to its place; what came of the trailer stays.
                    return body + arrived
                self._view[:trailer] = self._view[body + length : stop]
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
        self._destination = bytearray(length) if place is None else place
        if len(self._destination) != length:
            raise ValueError("the place of a data segment must have its length")
        self._trailer = trailer

    def _placed(self) -> None:
        """A placed data segment is complete; its trailer stands at 0 of the receive buffer."""
        data = self._destination
        assert data is not None
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
