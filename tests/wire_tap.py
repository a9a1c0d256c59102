"""A tap on a TCP connection, and what tshark says of it.

`WireTap` stands between a host and a portal and notes every byte of both directions with its
order. `pcap` writes that as a capture file, with TCP/IPv4 headers made for the purpose: so nothing
is lost as a sniffer loses packets under load, and no privilege is needed. `dissect` has tshark read
it.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

_GLOBAL = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0x40000, 101)  # LINKTYPE_RAW
_SEGMENT = 60_000
_ISCSI_PORT = 3260
_WARNING = 0x600000
"""Wireshark's PI_WARN; errors and malformed packets are higher."""


@dataclass
class Conversation:
    """The bytes of one connection, each chunk with its direction (True: from the host)."""

    port: int
    chunks: list[tuple[int, bool, bytes]] = field(default_factory=list)
    """(order over all connections, direction, bytes)."""


class WireTap:
    """Relays connections to HOST:PORT and keeps what passes."""

    def __init__(self, portal: str) -> None:
        host, port = portal.rsplit(":", 1)
        self._to = (host, int(port))
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()
        self._order = 0
        self.conversations: list[Conversation] = []
        self.portal = ""
        """Where hosts connect instead."""

    async def __aenter__(self) -> WireTap:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.portal = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        await asyncio.gather(*self._tasks)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        made = Conversation(40_000 + len(self.conversations))
        self.conversations.append(made)
        to_reader, to_writer = await asyncio.open_connection(*self._to)
        await asyncio.gather(
            self._copy(made, True, reader, to_writer), self._copy(made, False, to_reader, writer)
        )
        self._tasks.discard(task)

    async def _copy(
        self,
        made: Conversation,
        from_host: bool,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            while data := await reader.read(_SEGMENT):
                self._order += 1
                made.chunks.append((self._order, from_host, data))
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # One side is gone: the other is told by the close below.
        finally:
            writer.close()

    def pcap(self, path: Path) -> Path:
        """Write what passed, in its order, with the host side on a port of each connection."""
        packets = []
        for talk in self.conversations:
            sent = {True: 1, False: 1}
            order = talk.chunks[0][0] if talk.chunks else 0
            packets.append((order, 0, _packet(talk.port, True, 0, 0, 0x02, b"")))
            packets.append((order, 1, _packet(talk.port, False, 0, 1, 0x12, b"")))
            for step, (order, from_host, data) in enumerate(talk.chunks):
                packet = _packet(
                    talk.port, from_host, sent[from_host], sent[not from_host], 0x18, data
                )
                packets.append((order, step + 2, packet))
                sent[from_host] += len(data)
        with path.open("wb") as file:
            file.write(_GLOBAL)
            for number, (_, _, packet) in enumerate(sorted(packets)):
                file.write(struct.pack("<IIII", number, 0, len(packet), len(packet)))
                file.write(packet)
        return path


def _packet(port: int, from_host: bool, seq: int, ack: int, flags: int, data: bytes) -> bytes:
    source, destination = (port, _ISCSI_PORT) if from_host else (_ISCSI_PORT, port)
    addresses = (b"\x7f\0\0\1", b"\x7f\0\0\2")
    ends = addresses if from_host else addresses[::-1]
    tcp = struct.pack(
        ">HHIIBBHHH", source, destination, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 0x50, flags,
        0xFFFF, 0, 0,
    )  # fmt: skip
    length = 20 + len(tcp) + len(data)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 0, 0, 64, 6, 0, *ends)
    return ip + tcp + data


@dataclass
class Dissection:
    pdus: int
    """iSCSI PDUs that tshark found."""
    complaints: list[str]
    """Malformed packets, errors and warnings of the dissectors above TCP."""
    summary: str
    """One line a frame."""


async def dissect(capture: Path) -> Dissection:
    """What tshark makes of a capture."""
    summary = await _tshark(capture, "-Y", "iscsi")
    opcodes = await _tshark(capture, "-Y", "iscsi", "-T", "fields", "-e", "iscsi.opcode")
    fields = await _tshark(
        capture, "-Y", f"_ws.malformed || (iscsi && _ws.expert.severity >= {_WARNING})",
        "-T", "fields", "-e", "tcp.payload", "-e", "frame.number", "-e", "_ws.col.Info",
        "-e", "_ws.expert.message",
    )  # fmt: skip
    complaints = []
    for line in fields.splitlines():
        payload, _, complaint = line.partition("\t")
        if not is_page_that_was_cut(bytes.fromhex(payload)):
            complaints.append(complaint)
    return Dissection(
        sum(line.count(",") + 1 for line in opcodes.splitlines() if line), complaints, summary
    )


def is_page_that_was_cut(payload: bytes) -> bool:
    """Whether a segment is one Data-In with a VPD page that is longer than the host had room for.

    Libiscsi asks for the first 64 bytes, then for as many as the page says it has; SPC-4, 6.6.2 has
    the target cut the page. tshark's dissector of VPD pages (not the one of standard INQUIRY data)
    reads on to the page's own end and calls the packet malformed."""
    if len(payload) < 52 or payload[0] != 0x25:
        return False
    length = int.from_bytes(payload[5:8], "big")
    page = payload[48 : 48 + length]
    return (
        len(payload) == 48 + length
        and page[1] in (0x80, 0x83, 0x8F)
        and 4 + int.from_bytes(page[2:4], "big") > length
    )


async def _tshark(capture: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "tshark", "-r", str(capture), "-d", f"tcp.port=={_ISCSI_PORT},iscsi", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()
