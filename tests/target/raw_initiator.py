"""An initiator that sends exactly the PDUs a test makes, and shows exactly what comes back.

It knows framing and digests and nothing else: no numbering, no negotiation rules. So a test can
break every rule, and what it expects stands in the test.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Any

from daiko.iscsi.bhs import LENGTHS, OPCODE_MASK, Buffer
from daiko.iscsi.digest import digest
from daiko.iscsi.framing import encode
from daiko.iscsi.pdu import (
    PDU_CLASSES,
    DataOut,
    LoginRequest,
    LoginResponse,
    NopIn,
    NopOut,
    Pdu,
    ScsiCommand,
    TextRequest,
)
from daiko.iscsi.text_key import format_text, parse_text
from target.memory_access import BLOCK, IQN

ISID = bytes.fromhex("800000000001")
INITIATOR = "iqn.2026-11.example:raw"
SECONDS = 10
"""A test hangs no longer than this."""


class RawInitiator:
    def __init__(self) -> None:
        self.header_digest = False
        self.data_digest = False
        self.cmd_sn = 1
        self.keys: dict[str, str] = {}
        """What the target answered in the login."""
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, portal: str) -> RawInitiator:
        made = cls()
        host, port = portal.rsplit(":", 1)
        made.reader, made.writer = await asyncio.open_connection(host.strip("[]"), int(port))
        return made

    async def __aenter__(self) -> RawInitiator:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):  # The target was quicker.
            await self.writer.wait_closed()

    # --- out

    def send_bytes(self, data: Buffer) -> None:
        self.writer.write(data)

    def send(self, pdu: Any, data: Buffer | None = None) -> None:
        data = getattr(pdu, "data", b"") if data is None else data
        self.send_header(pdu.pack(), data, getattr(pdu, "ahs", b""))

    def send_header(self, header: bytes, data: Buffer = b"", ahs: bytes = b"") -> None:
        parts = encode(
            header, data, ahs=ahs, header_digest=self.header_digest, data_digest=self.data_digest
        )
        self.writer.write(b"".join(parts))

    # --- in

    async def receive(self) -> Any:
        """The next PDU. Raises IncompleteReadError or ConnectionError when there is none."""
        async with asyncio.timeout(SECONDS):
            return await self._receive()

    async def _receive(self) -> Pdu:
        header = await self.reader.readexactly(48)
        if self.header_digest:
            assert await self.reader.readexactly(4) == digest(header)
        (word,) = LENGTHS.unpack_from(header, 4)
        assert word >> 24 == 0
        length = word & 0xFFFFFF
        data = b""
        if length:
            padded = await self.reader.readexactly(length + (-length & 3))
            assert not any(padded[length:])
            if self.data_digest:
                assert await self.reader.readexactly(4) == digest(padded)
            data = padded[:length]
        parse: Any = PDU_CLASSES[header[0] & OPCODE_MASK].parse
        parsed: Pdu = parse(header, 0, data)
        return parsed

    async def is_closed(self) -> bool:
        """Whether the target closes, without another PDU."""
        async with asyncio.timeout(SECONDS):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    # --- usual ways

    def login_request(self, keys: dict[str, str], **fields: Any) -> LoginRequest:
        values: dict[str, Any] = {
            "transit": True,
            "continued": False,
            "current_stage": 1,
            "next_stage": 3,
            "isid": ISID,
            "cmd_sn": self.cmd_sn,
            "data": format_text(keys.items()),
        }
        return LoginRequest(**{**values, **fields})

    async def login(
        self,
        target: str | None,
        *,
        name: str = INITIATOR,
        keys: dict[str, str] | None = None,
        **fields: Any,
    ) -> LoginResponse:
        """One request that leads to the full feature phase; `target` None: discovery."""
        own = {"InitiatorName": name}
        if target is None:
            own["SessionType"] = "Discovery"
        else:
            own["TargetName"] = target
        own["MaxRecvDataSegmentLength"] = "262144"
        own |= keys or {}
        self.send(self.login_request(own, **fields))
        response: LoginResponse = await self.receive()
        self.keys = dict(parse_text(response.data))
        if response.transit and response.next_stage == 3:
            self.header_digest = self.keys.get("HeaderDigest") == "CRC32C"
            self.data_digest = self.keys.get("DataDigest") == "CRC32C"
        return response

    def take_cmd_sn(self) -> int:
        self.cmd_sn += 1
        return self.cmd_sn - 1

    def command(
        self,
        cdb: bytes,
        *,
        tag: int = 0x10,
        read: int = 0,
        write: int = 0,
        data: bytes = b"",
        final: bool = True,
        immediate: bool = False,
        cmd_sn: int | None = None,
        lun: int = 0,
        ahs: bytes = b"",
    ) -> ScsiCommand:
        """A SCSI Command with the next CmdSN, sent."""
        if cmd_sn is None:
            cmd_sn = self.cmd_sn if immediate else self.take_cmd_sn()
        pdu = ScsiCommand(
            immediate, final, bool(read), bool(write), 1, lun, tag, write or read, cmd_sn, 0,
            cdb.ljust(16, b"\0"), data, ahs,
        )  # fmt: skip
        self.send(pdu)
        return pdu

    def data_out(
        self,
        tag: int,
        transfer_tag: int,
        offset: int,
        data: bytes,
        *,
        final: bool,
        data_sn: int = 0,
    ) -> None:
        self.send(DataOut(final, 0, tag, transfer_tag, 0, data_sn, offset, data))

    def text(self, pairs: dict[str, str], *, tag: int = 0x20) -> None:
        data = format_text(pairs.items())
        self.send(TextRequest(initiator_task_tag=tag, cmd_sn=self.take_cmd_sn(), data=data))


def read_10(lba: int, blocks: int) -> bytes:
    return bytes([0x28, 0]) + lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big") + b"\0"


def write_10(lba: int, blocks: int) -> bytes:
    return bytes([0x2A]) + read_10(lba, blocks)[1:]


async def serves_others(portal: str) -> None:
    """The target is as good as before, and the medium as empty."""
    async with await RawInitiator.connect(portal) as other:
        response = await other.login(IQN, name="iqn.other", isid=bytes(6))
        assert response.status == 0
        other.command(read_10(0, 4), read=4 * BLOCK)
        assert (await other.receive()).data == bytes(4 * BLOCK)


async def logged_in(portal: str, isid: bytes = ISID, **keys: str) -> RawInitiator:
    made = await RawInitiator.connect(portal)
    assert (await made.login(IQN, keys=keys, isid=isid)).status == 0
    return made


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def alive(host: RawInitiator) -> bool:
    """A ping comes back."""
    host.send(NopOut(initiator_task_tag=0x7777, cmd_sn=host.cmd_sn, data=b"still there?"))
    answer = await host.receive()
    return isinstance(answer, NopIn) and answer.data == b"still there?"
