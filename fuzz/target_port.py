"""Invariant: any bytes at the target port are answered by well-formed PDUs, and nothing is left."""

from __future__ import annotations

import asyncio
from typing import Any

from daiko.backend.memory import MemoryDevice
from daiko.iscsi import pdu
from daiko.iscsi.login import InitiatorLogin
from daiko.scsi.sbc import Read16, Write16
from daiko.target.access import Access
from daiko.target.connection import TargetConnection
from daiko.target.logical_unit import Identity, LogicalUnit
from daiko.target.portal import Target
from port_rig import OFFER_WITHOUT_DIGESTS, Wire, pieces, raise_defect, stream

COST = 20

# A case: the first byte says what stands before the rest of it. 0 nothing, 1 a discovery login,
# 2 a normal login, 3 one after which the unit attentions have been fetched with three commands;
# then what the initiator sends, in pieces that follow from the bytes.
IQN = "iqn.2026-11.net.daiko:target"
INITIATOR = "iqn.2026-11.net.daiko:fuzz"
RESERVED_TAG = 0xFFFFFFFF
LONG_CDB = bytes.fromhex("0005010000000000")
"""An additional header segment with the rest of a CDB of 20 bytes."""
STATUS_OPCODES = {0x21, 0x22, 0x23, 0x24, 0x26, 0x32, 0x3F}
"""Of PDUs that always carry the next StatSN (NOP-In and Data-In do so sometimes)."""
ACCESS = Access()
ACCESS.publish(
    {
        "*": {
            lun: LogicalUnit(
                Identity(f"unit-{lun}", bytes((0x60, *bytes(14), lun))), MemoryDevice(64, size)
            )
            for lun, size in ((0, 512), (1, 4096))
        }
    }
)
PORTAL = "127.0.0.1:3260"
TARGET = Target(IQN, ACCESS)
TARGET._tags[PORTAL] = 1  # as if it listened there
LOOP = asyncio.new_event_loop()


class Port(Wire):
    """One connection to the target."""

    def __init__(self) -> None:
        super().__init__(TargetConnection(TARGET, PORTAL).connection)


async def _login(is_discovery: bool) -> bytes:
    """What our own initiator sends to log in."""
    login = InitiatorLogin(
        INITIATOR, None if is_discovery else IQN, b"\x80" + bytes(5), offer=OFFER_WITHOUT_DIGESTS
    )
    port, sent = Port(), b""
    request: pdu.LoginRequest | None = login.start()
    while request is not None:
        sent += stream(request)
        port.feed(stream(request))
        header, data = port.answers()[-1]
        request = login.receive(pdu.LoginResponse.parse(header, 0, data))
    port.connection.connection_lost(None)
    return sent


def _command(number: int, cdb: bytes, length: int, *, write: bool, **more: Any) -> pdu.ScsiCommand:
    return pdu.ScsiCommand(
        False, more.pop("final", True), not write, write, 1, more.pop("lun", 0), number, length,
        number, 0, cdb.ljust(16, b"\0"), **more,
    )  # fmt: skip


def _prefixes() -> tuple[bytes, ...]:
    discovery, normal = [LOOP.run_until_complete(_login(kind)) for kind in (True, False)]
    ready = stream(*[_command(number, bytes(6), 0, write=False, lun=lun) for number, lun in READY])
    return b"", discovery, normal, normal + ready


READY = ((1, 0), (2, 1 << 48), (3, 0))
FIRST = len(READY) + 1
"""CmdSN of the first command after those."""


def corpus() -> list[bytes]:
    block = bytes(range(256)) * 2
    inquiry = b"\x12\x00\x00\x00\xff\x00"
    write = Write16.pack(lba=2, transfer_length=2)
    login = InitiatorLogin(INITIATOR, IQN, b"\x80" + bytes(5), offer=OFFER_WITHOUT_DIGESTS).start()
    one, two, three = FIRST, FIRST + 1, FIRST + 2
    normal = [
        stream(
            _command(one, inquiry, 255, write=False),
            _command(two, Read16.pack(lba=1, transfer_length=4), 2048, write=False),
            _command(three, Read16.pack(lba=1, transfer_length=4), 1024, write=False, lun=1 << 48),
        ),
        stream(
            _command(one, write, 1024, write=True, data=block * 2),
            _command(two, write, 1024, write=True, data=block),
            pdu.NopOut(False, 0, 7, cmd_sn=three, data=b"ping"),
        ),
        stream(
            _command(one, write, 1024, write=True),
            pdu.DataOut(True, 0, one, 1, 0, 0, 0, block * 2),
            pdu.TaskManagementRequest(1, 0, 50, one, two),
        ),
        stream(
            _command(one, write, 1024, write=True, final=False, data=block),
            pdu.DataOut(True, 0, one, RESERVED_TAG, 0, 0, 512, block),
            pdu.TextRequest(initiator_task_tag=8, cmd_sn=two, data=b"SendTargets=\0"),
            pdu.LogoutRequest(0, 9, 0, three),
        ),
        stream(
            _command(two, inquiry, 255, write=False),
            _command(one, inquiry, 255, write=False),
            pdu.SnackRequest(0, 0, 1, 0, 0, 0, 0),
            _command(three, write, 8192, write=True, data=bytes(8192), ahs=LONG_CDB),
        ),
    ]  # fmt: skip
    discovery = stream(
        pdu.TextRequest(initiator_task_tag=8, cmd_sn=1, data=b"SendTargets=All\0"),
        pdu.LogoutRequest(0, 9, 0, 2),
    )
    return [
        b"\0" + stream(login),
        b"\0" + stream(login) + normal[0],
        b"\1" + discovery,
        b"\2" + stream(_command(1, inquiry, 255, write=False)),
        *[b"\3" + sent for sent in normal],
    ]


def _check_numbers(answers: list[tuple[bytes, bytes]]) -> None:
    """Every PDU with a status carries the next StatSN (RFC 7143, 4.2.2.2)."""
    expected: int | None = None
    for header, _ in answers:
        opcode = header[0] & 0x3F
        assert opcode >= 0x20, f"an initiator's opcode {opcode:02X}h"
        tag = int.from_bytes(header[16:20], "big")
        is_status = (
            opcode in STATUS_OPCODES
            or (opcode == 0x25 and header[1] & 1)
            or (opcode == 0x20 and tag != RESERVED_TAG)
        )
        if opcode == 0x23 and (header[36] or not expected):
            # A login that is refused takes no StatSN of its own.
            expected = None if header[36] else int.from_bytes(header[24:28], "big")
        if not is_status or expected is None:
            continue
        assert int.from_bytes(header[24:28], "big") == expected
        expected = expected + 1 & 0xFFFFFFFF


PREFIXES = _prefixes()


async def _case(data: bytes) -> bool:
    kind, data = data[0] & 3, data[1:]
    port = Port()
    if kind:
        port.feed(PREFIXES[kind])
    for piece in pieces(data):
        port.feed(piece)
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    raise_defect()
    _check_numbers(port.answers())
    went_well = not port.transport.is_closed
    port.connection.connection_lost(None)
    assert not TARGET.sessions
    assert not TARGET.connections
    assert not ACCESS.sessions()
    return went_well


def check(data: bytes) -> bool:
    return LOOP.run_until_complete(_case(data)) if data else False
