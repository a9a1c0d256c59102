"""Connections without a network, for the targets that are whole ports.

The port logs an exception out of a handler and ends the connection; here such a log record is the
finding. The output is read back as PDUs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any, NoReturn
from zlib import crc32

import structlog

from daiko.iscsi import pdu
from daiko.iscsi.framing import Framer, dispatch_table, encode
from daiko.iscsi.negotiation import OFFER
from daiko.port.connection import Connection

OFFER_WITHOUT_DIGESTS = {**OFFER, "HeaderDigest": ("None",), "DataDigest": ("None",)}
OUTPUT_LIMIT = 8 << 20
"""Bytes that one case may bring a port to send."""


class Defect(Exception):
    """The port logged that it did what it must not do."""


DEFECTS = {"connection ended by a defect", "a task was completed twice"}
_found: list[BaseException] = []


def _judge(logger: object, method: str, event: dict[str, Any]) -> NoReturn:
    if event.get("event") in DEFECTS:
        _found.append(sys.exc_info()[1] or Defect(str(event)))
    raise structlog.DropEvent


structlog.configure(processors=[_judge], cache_logger_on_first_use=True)


def raise_defect() -> None:
    """Raise what the port logged as a defect, if it did."""
    if _found:
        error = _found[0]
        _found.clear()
        raise error


class OutTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.written += [bytes(part) for part in list_of_data]

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.is_closed

    def write_eof(self) -> None:
        # This peer closes its half at once.
        self.is_closed = True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True


class Wire:
    """A connection, and what its peer sends and gets."""

    def __init__(self, connection: Connection) -> None:
        self.transport = OutTransport()
        self.connection = connection
        connection.connection_made(self.transport)

    def feed(self, data: bytes) -> None:
        """What a transport does with bytes that come in; a closed one brings no more."""
        view = memoryview(data)
        while view and not self.transport.is_closed:
            room = self.connection.get_buffer(-1)
            count = min(len(room), len(view))
            room[:count] = view[:count]
            view = view[count:]
            self.connection.buffer_updated(count)

    def answers(self) -> list[tuple[bytes, bytes]]:
        """(header, data) of every PDU that was sent; raises when it is no sequence of PDUs."""
        sent = b"".join(self.transport.written)
        assert len(sent) <= OUTPUT_LIMIT
        found: list[tuple[bytes, bytes]] = []

        def on_pdu(header: bytes, at: int, ahs: bytes, data: bytes) -> None:
            found.append((bytes(header[at : at + 48]), bytes(data)))

        framer = Framer(dispatch_table({}, on_pdu), maximum_data_length=0xFFFFFF)
        framer.feed(sent)
        assert framer.is_between_pdus
        return found


def stream(*pdus: pdu.Pdu) -> bytes:
    """PDUs without digests, one after the other."""
    parts = []
    for item in pdus:
        data = getattr(item, "data", b"")
        parts += encode(item.pack(), data, ahs=getattr(item, "ahs", b""))
    return b"".join(map(bytes, parts))


def pieces(data: bytes) -> Iterator[bytes]:
    """The bytes whole or in pieces; which, follows from the bytes."""
    random = Random(crc32(data))
    if random.random() < 0.5:
        yield data
        return
    at = 0
    while at < len(data):
        length = 1 + int(random.random() * 200)
        yield data[at : at + length]
        at += length
