"""Invariant: a byte stream gives the same PDUs, or the same error, whole and in any pieces."""

from __future__ import annotations

from random import Random
from zlib import crc32

from daiko.iscsi import pdu
from daiko.iscsi.error import RemoteProtocolError
from daiko.iscsi.framing import SMALL, Framer, ReceiveBuffer, dispatch_table, encode

BUFFER = 2 * SMALL + 2048
LIMIT = 8_500
"""Bytes of a data segment: above SMALL, so that some segments are placed."""

PIECES = (1, 8, *(60,) * 7, *(400,) * 7)
"""Bytes of the longest piece; byte by byte is dear, so it is rare."""

Event = tuple[str, bytes, bytes, bytes]


def corpus() -> list[bytes]:
    """The first byte says which digests are in use: bit 0 header, bit 1 data."""
    pdus: list[pdu.Pdu] = [
        pdu.NopOut(data=b"ping"),
        pdu.NopIn(),
        pdu.TextRequest(initiator_task_tag=1, data=b"SendTargets=All\0"),
        pdu.LoginRequest(True, False, 1, 3, bytes(6), data=b"InitiatorName=iqn.a\0"),
    ]
    large: list[pdu.Pdu] = [pdu.NopOut(data=bytes(LIMIT)), pdu.NopIn()]
    streams = []
    for digests in range(4):
        streams.append(bytes((digests,)) + _stream(pdus, digests))
        streams.append(bytes((digests,)) + _stream(pdus[::-1], digests)[:-1])
    return [*streams, b"\0" + _stream(large, 0), b"\3" + _stream(large, 3)]


def _stream(pdus: list[pdu.Pdu], digests: int) -> bytes:
    header_digest, data_digest = bool(digests & 1), bool(digests & 2)
    return b"".join(
        bytes(part)
        for item in pdus
        for part in encode(
            item.pack(),
            getattr(item, "data", b""),
            header_digest=header_digest,
            data_digest=data_digest,
        )
    )


def _read(data: bytes, pieces: list[int], digests: int) -> tuple[list[Event], str, bool]:
    """The PDUs of a stream that comes in pieces of these lengths, the error that ends it, and
    whether it ends between two PDUs."""
    events: list[Event] = []

    def on_pdu(header: bytes, at: int, ahs: bytes, payload: bytes) -> None:
        events.append(("pdu", bytes(header[at : at + 48]), ahs, bytes(payload)))

    def on_digest_error(header: bytes, at: int, ahs: bytes, payload: bytes) -> None:
        events.append(("digest", bytes(header[at : at + 48]), ahs, bytes(payload)))

    framer = Framer(
        dispatch_table({}, on_pdu),
        maximum_data_length=LIMIT,
        on_data_digest_error=on_digest_error,
        buffer=ReceiveBuffer(BUFFER),
    )
    framer.header_digest = bool(digests & 1)
    framer.data_digest = bool(digests & 2)
    at, error = 0, ""
    try:
        for length in pieces:
            framer.feed(data[at : at + length])
            at += length
    except RemoteProtocolError as refused:
        return events, f"{type(refused).__name__}: {refused}", False
    return events, error, framer.is_between_pdus


def check(data: bytes) -> bool:
    if not data:
        return False
    digests, data = data[0] & 3, data[1:]
    whole = _read(data, [len(data)], digests)
    random = Random(crc32(data))
    longest = random.choice(PIECES) if len(data) < 1000 else 3000
    pieces, left = [], len(data)
    while left > 0:
        length = min(left, 1 + int(random.random() * longest))
        pieces.append(length)
        left -= length
    assert _read(data, pieces, digests) == whole
    return not whole[1]
