"""Malformed and hostile bytes before the full feature phase, each with the exact answer expected: a
login status, or the end of the connection. Afterwards the target serves another host as if nothing
had happened."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from daiko.iscsi.error import LoginStatus
from daiko.iscsi.framing import encode
from daiko.iscsi.pdu import (
    LoginRequest,
    LoginResponse,
    NopOut,
    ScsiCommand,
)
from daiko.iscsi.text_key import format_text
from target.memory_access import IQN, MemoryAccess, serving
from target.raw_initiator import INITIATOR, RawInitiator, serves_others


def names(**keys: str) -> bytes:
    return format_text({"InitiatorName": INITIATOR, "TargetName": IQN, **keys}.items())


def login(data: bytes = b"", **fields: Any) -> LoginRequest:
    values: dict[str, Any] = {
        "transit": True, "continued": False, "current_stage": 1, "next_stage": 3,
        "isid": bytes(6), "cmd_sn": 1,
    }  # fmt: skip
    return LoginRequest(**{**values, **fields}, data=data)


def wire(pdu: Any) -> bytes:
    return b"".join(encode(pdu.pack(), pdu.data))


WRONG = LoginStatus.INITIATOR_ERROR
LOGIN: dict[str, tuple[bytes, LoginStatus | None]] = {
    # bytes, status of the refusal; None: closed without a word
    "command-before-the-login": (
        wire(ScsiCommand(False, True, False, False, 1, 0, 1, 0, 1, 0, bytes(16))), None,
    ),
    "ping-before-the-login": (wire(NopOut(initiator_task_tag=1)), None),
    "http": (b"GET /index.html HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\r\n", None),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)), None),
    "command-amid-the-login": (
        wire(login(names(), transit=False, next_stage=0))
        + wire(ScsiCommand(False, True, False, False, 1, 0, 1, 0, 1, 0, bytes(16))),
        LoginStatus.INVALID_DURING_LOGIN,
    ),
    "text-longer-than-a-login-pdu": (
        struct.pack(">BB2xI40x", 0x43, 0x87, 8193), None,
    ),
    "no-names": (wire(login()), LoginStatus.MISSING_PARAMETER),
    "no-target": (
        wire(login(format_text({"InitiatorName": "iqn.x"}.items()))),
        LoginStatus.MISSING_PARAMETER,
    ),
    "session-type": (
        wire(login(names(SessionType="Party"))), LoginStatus.SESSION_TYPE_NOT_SUPPORTED,
    ),
    "version": (
        wire(login(names(), version_min=9, version_max=9)), LoginStatus.UNSUPPORTED_VERSION,
    ),
    "stage-2": (wire(login(names(), current_stage=2)), WRONG),
    "stage-full-feature": (wire(login(names(), current_stage=3)), WRONG),
    "transit-to-stage-2": (wire(login(names(), next_stage=2)), WRONG),
    "transit-nowhere": (wire(login(names(), next_stage=1)), WRONG),
    "transit-and-continue": (wire(login(names(), continued=True)), WRONG),
    "text-not-ended": (wire(login(names()[:-1])), WRONG),
    "text-not-utf-8": (wire(login(b"InitiatorName=\xff\0")), WRONG),
    "key-twice": (wire(login(names() + b"InitiatorName=iqn.y\0")), WRONG),
    "key-without-name": (wire(login(names() + b"=x\0")), WRONG),
    "key-of-300-bytes": (wire(login(names() + b"K" * 300 + b"=x\0")), WRONG),
    "value-of-300-bytes": (wire(login(names(InitiatorAlias="v" * 300))), WRONG),
    "operational-key-in-security": (
        wire(login(names(MaxBurstLength="1024"), current_stage=0)), WRONG,
    ),
    "unknown-authentication": (
        wire(login(names(AuthMethod="KRB5,SRP"), current_stage=0)),
        LoginStatus.AUTHENTICATION_FAILURE,
    ),
    "session-that-is-not": (wire(login(names(), tsih=0xBEEF)), LoginStatus.SESSION_DOES_NOT_EXIST),
    "other-target": (
        wire(login(format_text({"InitiatorName": "i", "TargetName": "../etc"}.items()))),
        LoginStatus.NOT_FOUND,
    ),
    "null-bytes-only": (wire(login(bytes(64))), LoginStatus.MISSING_PARAMETER),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "status"), LOGIN.values(), ids=LOGIN.keys())
async def test_hostile_login(sent: bytes, status: LoginStatus | None) -> None:
    access = MemoryAccess()
    async with serving(access) as (target, portal):
        async with await RawInitiator.connect(portal) as host:
            host.send_bytes(sent)
            if status is not None:
                response: LoginResponse = await host.receive()
                if response.status == 0:
                    response = await host.receive()
                assert response.status == status
                assert not response.transit
            assert await host.is_closed()
        assert access.started == []
        await serves_others(portal)
        assert len(target.connections) <= 1


async def test_endless_login_text_is_refused() -> None:
    """Continued for ever: the target holds no more than a bounded text."""
    async with (
        serving(MemoryAccess()) as (_, portal),
        await RawInitiator.connect(portal) as host,
    ):
        for _ in range(8):
            host.send(login(b"x" * 8192, transit=False, next_stage=0, continued=True))
            assert (await host.receive()).status == 0
        host.send(login(b"x" * 8192, transit=False, next_stage=0, continued=True))
        assert (await host.receive()).status == LoginStatus.OUT_OF_RESOURCES
        assert await host.is_closed()
