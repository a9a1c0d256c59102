"""Malformed and hostile PDUs at the target port, each with the exact answer expected.

A row is: what is sent after (or instead of) a login, and what comes back: a Reject with a reason,
a status with sense data, a login status, silence with the session alive, or the end of the
connection. After every row the target serves another host as if nothing had happened, and no
byte of the medium has changed unless the row says so.
"""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from daiko.iscsi.bhs import RESERVED_TAG, Opcode
from daiko.iscsi.error import RejectReason
from daiko.iscsi.framing import encode
from daiko.iscsi.negotiation import OFFER
from daiko.iscsi.pdu import (
    DataOut,
    LogoutRequest,
    NopIn,
    NopOut,
    ReadyToTransfer,
    Reject,
    ScsiCommand,
    ScsiResponse,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
)
from daiko.scsi.sense import parse_sense
from target.memory_access import BLOCK, IQN, MemoryAccess, serving
from target.raw_initiator import RawInitiator, read_10, serves_others, write_10

# --- what may come back


@dataclass(frozen=True)
class Rejected:
    """A Reject with this reason and the header that was sent; the session goes on."""

    reason: RejectReason
    closes: bool = False


@dataclass(frozen=True)
class Sense:
    """CHECK CONDITION with this key and code; the session goes on."""

    key: int
    asc: int
    ascq: int


class Closed:
    """The connection ends without another PDU."""


class Ignored:
    """Nothing comes back; the session goes on."""


@dataclass(frozen=True)
class TaskManagementAnswer:
    response: int


Outcome = Rejected | Sense | Closed | Ignored | TaskManagementAnswer

UNEXPECTED_DATA = Sense(0xB, 0x0C, 0x0C)
NOT_ENOUGH_DATA = Sense(0xB, 0x0C, 0x0D)
CRC_ERROR = Sense(0xB, 0x47, 0x05)
DATA_PHASE_ERROR = Sense(0xB, 0x4B, 0x00)


async def judge(host: RawInitiator, outcome: Outcome) -> None:
    if isinstance(outcome, Closed):
        assert await host.is_closed()
        return
    if isinstance(outcome, Rejected):
        reject: Reject = await host.receive()
        assert isinstance(reject, Reject)
        assert reject.reason == outcome.reason
        assert len(reject.data) == 48
        if outcome.closes:
            assert await host.is_closed()
            return
    elif isinstance(outcome, Sense):
        response: ScsiResponse = await host.receive()
        assert response.status == 2
        sense = parse_sense(response.sense)
        assert (sense.key, sense.asc, sense.ascq) == (outcome.key, outcome.asc, outcome.ascq)
    elif isinstance(outcome, TaskManagementAnswer):
        assert (await host.receive()).response == outcome.response
    host.send(NopOut(initiator_task_tag=0x7777, cmd_sn=host.cmd_sn, data=b"alive"))
    ping: NopIn = await host.receive()
    assert isinstance(ping, NopIn)
    assert ping.data == b"alive"


# --- full feature phase

Attack = Callable[[RawInitiator], Any]


def header(opcode: int, flags: int = 0x80, *, length: int = 0, ahs: int = 0, tag: int = 9) -> bytes:
    return struct.pack(">BBHIQI28x", opcode, flags, 0, ahs << 24 | length, 0, tag)


def command(host: RawInitiator, **fields: Any) -> None:
    values: dict[str, Any] = {
        "immediate": False, "final": True, "read": False, "write": False, "attribute": 1,
        "lun": 0, "initiator_task_tag": 9, "expected_data_transfer_length": 0,
        "cmd_sn": host.take_cmd_sn(), "exp_stat_sn": 0, "cdb": bytes(16),
    }  # fmt: skip
    host.send(ScsiCommand(**{**values, **fields}))


async def solicited(host: RawInitiator, blocks: int = 2) -> ReadyToTransfer:
    host.command(write_10(0, blocks), write=blocks * BLOCK, tag=9)
    r2t: ReadyToTransfer = await host.receive()
    assert isinstance(r2t, ReadyToTransfer)
    return r2t


async def wrong_transfer_tag(host: RawInitiator) -> None:
    r2t = await solicited(host)
    host.data_out(9, r2t.target_transfer_tag + 1, 0, bytes(2 * BLOCK), final=True)


async def wrong_data_sn(host: RawInitiator) -> None:
    r2t = await solicited(host)
    host.data_out(9, r2t.target_transfer_tag, 0, bytes(2 * BLOCK), final=True, data_sn=1)


async def wrong_offset(host: RawInitiator) -> None:
    r2t = await solicited(host)
    host.data_out(9, r2t.target_transfer_tag, BLOCK, bytes(BLOCK), final=True)


async def offset_at_the_end_of_all_numbers(host: RawInitiator) -> None:
    r2t = await solicited(host)
    host.data_out(9, r2t.target_transfer_tag, 0xFFFFFFFF, bytes(4), final=True)


async def data_beyond_the_r2t(host: RawInitiator) -> None:
    r2t = await solicited(host)
    host.data_out(9, r2t.target_transfer_tag, 0, bytes(3 * BLOCK), final=True)


async def large_data_beyond_the_r2t(host: RawInitiator) -> None:
    r2t = await solicited(host)
    host.data_out(9, r2t.target_transfer_tag, 0, bytes(100_000), final=True)


async def sequence_ends_early(host: RawInitiator) -> None:
    r2t = await solicited(host)
    host.data_out(9, r2t.target_transfer_tag, 0, bytes(BLOCK), final=True)


async def unsolicited_amid_solicited(host: RawInitiator) -> None:
    await solicited(host)
    host.data_out(9, RESERVED_TAG, 0, bytes(BLOCK), final=True)


async def unsolicited_for_a_read(host: RawInitiator) -> None:
    host.send(DataOut(True, 0, 0x33, RESERVED_TAG, 0, 0, 0, bytes(8)))


async def tag_in_use(host: RawInitiator) -> None:
    await solicited(host)
    host.command(read_10(0, 1), read=BLOCK, tag=9)


async def task_management_with_a_tag_in_use(host: RawInitiator) -> None:
    await solicited(host)
    host.send(TaskManagementRequest(1, 0, 9, 9, host.cmd_sn))


def text(data: bytes, **fields: Any) -> Attack:
    def attack(host: RawInitiator) -> None:
        values: dict[str, Any] = {"initiator_task_tag": 9, "cmd_sn": host.take_cmd_sn()}
        host.send(TextRequest(**{**values, **fields}, data=data))

    return attack


def additional_header(ahs: bytes) -> Attack:
    return lambda host: host.command(read_10(0, 1), read=BLOCK, ahs=ahs)


def raw(data: bytes) -> Attack:
    return lambda host: host.send_bytes(data)


FULL_FEATURE: dict[str, tuple[Attack, Outcome]] = {
    "opcode-reserved": (raw(header(0x0A)), Rejected(RejectReason.COMMAND_NOT_SUPPORTED)),
    "opcode-vendor": (raw(header(0x1C)), Rejected(RejectReason.COMMAND_NOT_SUPPORTED)),
    "opcode-of-a-target": (
        raw(header(Opcode.SCSI_RESPONSE)), Rejected(RejectReason.COMMAND_NOT_SUPPORTED),
    ),
    "opcode-reject": (raw(header(Opcode.REJECT)), Rejected(RejectReason.COMMAND_NOT_SUPPORTED)),
    "login-amid-the-session": (
        raw(header(Opcode.LOGIN_REQUEST | 0x40)), Rejected(RejectReason.PROTOCOL_ERROR),
    ),
    "snack": (
        lambda host: host.send(SnackRequest(0, 0, 9)), Rejected(RejectReason.SNACK_REJECT),
    ),
    "data-segment-beyond-the-limit": (
        raw(header(Opcode.NOP_OUT | 0x40, length=262145)), Closed(),
    ),
    "data-segment-of-16-mib": (raw(header(Opcode.DATA_OUT, length=0xFFFFFF)), Closed()),
    "random-bytes": (raw(bytes(range(1, 241))), Closed()),
    "http": (raw(b"GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: x\r\n\r\n"), Closed()),
    "command-without-a-tag": (
        lambda host: command(host, initiator_task_tag=RESERVED_TAG),
        Rejected(RejectReason.INVALID_PDU_FIELD),
    ),
    "command-tag-in-use": (tag_in_use, Rejected(RejectReason.TASK_IN_PROGRESS)),
    "command-neither-final-nor-write": (
        lambda host: command(host, final=False), Rejected(RejectReason.INVALID_PDU_FIELD),
    ),
    "command-number-of-the-past": (
        lambda host: command(host, cmd_sn=host.cmd_sn - 1), Ignored(),
    ),
    "command-number-beyond-the-window": (
        lambda host: command(host, cmd_sn=host.cmd_sn + 100_000), Ignored(),
    ),
    "immediate-data-of-a-read": (
        lambda host: command(
            host, read=True, expected_data_transfer_length=BLOCK, cdb=pad(read_10(0, 1)),
            data=bytes(BLOCK),
        ),
        UNEXPECTED_DATA,
    ),
    "immediate-data-beyond-the-expected-length": (
        lambda host: command(
            host, write=True, expected_data_transfer_length=BLOCK, cdb=pad(write_10(0, 2)),
            data=b"x" * 2 * BLOCK,
        ),
        UNEXPECTED_DATA,
    ),
    "unsolicited-data-announced-against-initial-r2t": (
        lambda host: command(
            host, write=True, final=False, expected_data_transfer_length=BLOCK,
            cdb=pad(write_10(0, 1)),
        ),
        UNEXPECTED_DATA,
    ),
    "expected-length-of-4-gib": (
        lambda host: command(
            host, write=True, expected_data_transfer_length=0xFFFFFFFF,
            cdb=pad(write_10(0xFFFFFF, 1)),
        ),
        Sense(5, 0x21, 0),
    ),
    "ahs-cut-short": (additional_header(b"\0\0\0\0"), Rejected(RejectReason.INVALID_PDU_FIELD)),
    "ahs-longer-than-all": (
        additional_header(b"\xff\xff\x01\0"), Rejected(RejectReason.INVALID_PDU_FIELD),
    ),
    "ahs-of-unknown-type": (
        additional_header(b"\0\x05\x3f\0\0\0\0\0"), Rejected(RejectReason.INVALID_PDU_FIELD),
    ),
    "ahs-read-length-of-a-wrong-size": (
        additional_header(b"\0\x09\x02\0" + bytes(8)), Rejected(RejectReason.INVALID_PDU_FIELD),
    ),
    "ahs-of-1020-bytes": (
        additional_header(b"\0\x01\x01\0" * 254 + b"\0\0\x01\0"),
        Rejected(RejectReason.INVALID_PDU_FIELD),
    ),
    "data-out-of-no-task": (unsolicited_for_a_read, Ignored()),
    "data-out-of-no-task-large": (
        lambda host: host.send(DataOut(True, 0, 0x33, 5, 0, 0, 0, bytes(100_000))), Ignored(),
    ),
    "data-out-with-a-wrong-transfer-tag": (
        wrong_transfer_tag, Rejected(RejectReason.INVALID_PDU_FIELD),
    ),
    "data-out-with-a-wrong-data-sn": (wrong_data_sn, DATA_PHASE_ERROR),
    "data-out-with-a-gap": (wrong_offset, DATA_PHASE_ERROR),
    "data-out-with-a-monstrous-offset": (offset_at_the_end_of_all_numbers, DATA_PHASE_ERROR),
    "data-out-beyond-its-r2t": (data_beyond_the_r2t, DATA_PHASE_ERROR),
    "data-out-far-beyond-its-r2t": (large_data_beyond_the_r2t, DATA_PHASE_ERROR),
    "data-out-sequence-too-short": (sequence_ends_early, NOT_ENOUGH_DATA),
    "data-out-unsolicited-amid-solicited": (unsolicited_amid_solicited, UNEXPECTED_DATA),
    "ping-answer-to-no-ping": (
        lambda host: host.send(NopOut(target_transfer_tag=0x1234, cmd_sn=host.cmd_sn)), Ignored(),
    ),
    "ping-answer-with-a-command-number": (
        lambda host: host.send(NopOut(immediate=False, cmd_sn=host.take_cmd_sn())),
        Rejected(RejectReason.PROTOCOL_ERROR),
    ),
    "text-without-a-tag": (
        text(b"SendTargets=\0", initiator_task_tag=RESERVED_TAG),
        Rejected(RejectReason.PROTOCOL_ERROR),
    ),
    "text-final-and-continued": (
        text(b"SendTargets=\0", continued=True), Rejected(RejectReason.PROTOCOL_ERROR),
    ),
    "text-of-no-exchange": (
        text(b"", target_transfer_tag=5), Rejected(RejectReason.PROTOCOL_ERROR),
    ),
    "text-without-an-end": (text(b"SendTargets=All"), Rejected(RejectReason.PROTOCOL_ERROR)),
    "text-without-equals": (text(b"SendTargets\0"), Rejected(RejectReason.PROTOCOL_ERROR)),
    "text-not-utf-8": (text(b"SendTargets=\xff\xfe\0"), Rejected(RejectReason.PROTOCOL_ERROR)),
    "text-negotiates-a-login-key": (
        text(b"MaxConnections=4\0"), Rejected(RejectReason.PROTOCOL_ERROR),
    ),
    "text-declares-an-impossible-length": (
        text(b"MaxRecvDataSegmentLength=1\0"), Rejected(RejectReason.PROTOCOL_ERROR),
    ),
    "text-with-a-key-twice": (
        text(b"SendTargets=\0SendTargets=\0"), Rejected(RejectReason.PROTOCOL_ERROR),
    ),
    "task-management-function-unknown": (
        lambda host: host.send(TaskManagementRequest(99, 0, 9, 9, host.cmd_sn)),
        TaskManagementAnswer(5),
    ),
    "task-management-tag-in-use": (
        task_management_with_a_tag_in_use, Rejected(RejectReason.TASK_IN_PROGRESS),
    ),
    "logout-for-no-known-reason": (
        lambda host: host.send(LogoutRequest(77, 9, 0, host.cmd_sn)),
        Rejected(RejectReason.INVALID_PDU_FIELD),
    ),
}  # fmt: skip


def pad(cdb: bytes) -> bytes:
    return cdb.ljust(16, b"\0")


async def carry_out(attack: Attack, host: RawInitiator) -> None:
    sending = attack(host)
    if inspect.isawaitable(sending):
        await sending


@pytest.mark.parametrize(("attack", "outcome"), FULL_FEATURE.values(), ids=FULL_FEATURE.keys())
async def test_hostile_pdu_in_the_full_feature_phase(attack: Attack, outcome: Outcome) -> None:
    access = MemoryAccess()
    async with serving(access) as (_, portal):
        async with await RawInitiator.connect(portal) as host:
            await host.login(IQN)
            await carry_out(attack, host)
            await judge(host, outcome)
        await serves_others(portal)
    assert not any(access.store)


# --- digests

Damage = Callable[[RawInitiator], Any]


def damaged(pdu: Any, position: int) -> Damage:
    """A PDU with one bit wrong, counted in bytes of the wire (negative: from the end)."""

    def attack(host: RawInitiator) -> None:
        made = pdu(host)
        parts = encode(made.pack(), made.data, header_digest=True, data_digest=True)
        wire = bytearray(b"".join(parts))
        wire[position] ^= 1
        host.send_bytes(bytes(wire))

    return attack


def write_of_a_block(host: RawInitiator) -> ScsiCommand:
    return ScsiCommand(
        False, True, False, True, 1, 0, 9, BLOCK, host.take_cmd_sn(), 0, pad(write_10(0, 1)),
        b"x" * BLOCK,
    )  # fmt: skip


async def damaged_data_out(host: RawInitiator) -> None:
    r2t = await solicited(host)
    tag = r2t.target_transfer_tag
    damaged(lambda _: DataOut(False, 0, 9, tag, 0, 0, 0, b"x" * BLOCK), 60)(host)
    host.data_out(9, tag, BLOCK, b"y" * BLOCK, final=True, data_sn=1)


async def damaged_large_data_out(host: RawInitiator) -> None:
    r2t = await solicited(host, 64)
    tag = r2t.target_transfer_tag
    damaged(lambda _: DataOut(True, 0, 9, tag, 0, 0, 0, b"x" * 64 * BLOCK), -1)(host)


PING = NopOut(initiator_task_tag=9, data=b"ping")
DIGESTS: dict[str, tuple[Damage, list[Outcome]]] = {
    "header-of-a-ping": (damaged(lambda _: PING, 20), [Closed()]),
    "header-digest-of-a-ping": (damaged(lambda _: PING, 50), [Closed()]),
    "opcode-of-a-write": (damaged(write_of_a_block, 0), [Closed()]),
    "length-of-a-write": (damaged(write_of_a_block, 6), [Closed()]),
    "data-of-a-ping": (
        damaged(lambda _: PING, 52), [Rejected(RejectReason.DATA_DIGEST_ERROR)],
    ),
    "immediate-data-of-a-write": (
        damaged(write_of_a_block, 60), [Rejected(RejectReason.DATA_DIGEST_ERROR, closes=True)],
    ),
    "data-digest-of-a-write": (
        damaged(write_of_a_block, -1), [Rejected(RejectReason.DATA_DIGEST_ERROR, closes=True)],
    ),
    "data-out": (damaged_data_out, [Rejected(RejectReason.DATA_DIGEST_ERROR), CRC_ERROR]),
    "data-out-received-in-place": (
        damaged_large_data_out, [Rejected(RejectReason.DATA_DIGEST_ERROR), CRC_ERROR],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("attack", "outcomes"), DIGESTS.values(), ids=DIGESTS.keys())
async def test_wrong_digest(attack: Damage, outcomes: list[Outcome]) -> None:
    access = MemoryAccess()
    async with serving(access) as (_, portal):
        async with await RawInitiator.connect(portal) as host:
            await host.login(IQN, keys={"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"})
            await carry_out(attack, host)
            if len(outcomes) == 2:
                # The Reject comes at once, the status when the sequence has ended.
                reject: Reject = await host.receive()
                assert (reject.reason, reject.data[0]) == (0x02, Opcode.DATA_OUT)
            await judge(host, outcomes[-1])
        await serves_others(portal)
    assert not any(access.store)


# --- unsolicited data, negotiated


UNSOLICITED: dict[str, tuple[dict[str, Any], list[tuple[int, int, int, bool]], Outcome]] = {
    # command, [(offset, length, DataSN, final)], outcome
    "more-than-the-first-burst": (
        {"write": 4096, "final": False}, [(0, 1024, 0, False), (1024, 1024, 1, True)],
        UNEXPECTED_DATA,
    ),
    "more-than-expected": (
        {"write": 512, "final": False}, [(0, 1024, 0, True)], UNEXPECTED_DATA,
    ),
    "immediate-beyond-the-first-burst": (
        {"write": 4096, "final": True, "data": bytes(2048)}, [], UNEXPECTED_DATA,
    ),
    "data-sn-does-not-begin-at-0": (
        {"write": 1024, "final": False}, [(0, 1024, 5, True)], DATA_PHASE_ERROR,
    ),
    "begins-with-a-gap": (
        {"write": 1024, "final": False}, [(512, 512, 0, True)], DATA_PHASE_ERROR,
    ),
    "goes-on-after-its-end": (
        {"write": 1024, "final": False}, [(0, 512, 0, True), (512, 512, 1, True)],
        UNEXPECTED_DATA,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "sent", "outcome"), UNSOLICITED.values(), ids=UNSOLICITED.keys()
)
async def test_unsolicited_data_that_was_not_agreed_on(
    fields: dict[str, Any], sent: list[tuple[int, int, int, bool]], outcome: Outcome
) -> None:
    access = MemoryAccess()
    async with serving(access) as (_, portal):
        async with await RawInitiator.connect(portal) as host:
            await host.login(IQN, keys={"InitialR2T": "No", "FirstBurstLength": "1024"})
            host.command(write_10(0, 8), tag=9, **fields)
            for offset, length, data_sn, final in sent:
                host.data_out(9, RESERVED_TAG, offset, bytes(length), final=final, data_sn=data_sn)
            answer = await host.receive()
            while isinstance(answer, ReadyToTransfer):
                answer = await host.receive()
            assert isinstance(outcome, Sense)
            sense = parse_sense(answer.sense)
            assert (sense.key, sense.asc, sense.ascq) == (outcome.key, outcome.asc, outcome.ascq)
            await judge(host, Ignored())
        await serves_others(portal)


# --- floods


async def test_flood_of_immediate_commands_is_bounded() -> None:
    access = MemoryAccess()
    access.hold = True
    async with serving(access) as (_, portal), await RawInitiator.connect(portal) as host:
        await host.login(IQN)
        for tag in range(33):
            host.command(read_10(0, 1), read=BLOCK, tag=tag, immediate=True)
        reject: Reject = await host.receive()
        assert reject.reason == RejectReason.TOO_MANY_IMMEDIATE_COMMANDS
        assert len(access.submitted) == 32
        access.release()
        for _ in range(32):
            assert (await host.receive()).status == 0


async def test_flood_of_task_management_that_waits_for_the_device_is_bounded() -> None:
    access = MemoryAccess()
    access.management_waits = True
    async with serving(access) as (_, portal), await RawInitiator.connect(portal) as host:
        await host.login(IQN)
        for tag in range(33):
            host.send(TaskManagementRequest(5, 1, tag, cmd_sn=host.cmd_sn))
        reject: Reject = await host.receive()
        assert reject.reason == RejectReason.TOO_MANY_IMMEDIATE_COMMANDS
        assert len(access.managed) == 32
        access.release()
        for _ in range(32):
            assert (await host.receive()).response == 0
        host.send(TaskManagementRequest(5, 1, 40, cmd_sn=host.cmd_sn))
        assert (await host.receive()).response == 0


async def test_flood_of_early_commands_with_data_ends_the_session() -> None:
    """A gap in CmdSN that is never filled, and 4 MiB of immediate data behind it."""
    async with (
        serving(MemoryAccess()) as (_, portal),
        await RawInitiator.connect(portal) as host,
    ):
        await host.login(IQN, keys={"FirstBurstLength": str(OFFER["FirstBurstLength"])})
        first = host.take_cmd_sn()
        data = bytes(256 * 1024)
        for step in range(17):
            host.command(write_10(0, 512), write=len(data), data=data, cmd_sn=first + 1 + step)
        assert await host.is_closed()


async def test_connection_closed_amid_a_pdu_leaves_nothing_behind() -> None:
    access = MemoryAccess()
    async with serving(access) as (_, portal):
        for cut in (1, 47, 48, 60, 48 + 8192, 48 + 65536):
            async with await RawInitiator.connect(portal) as host:
                await host.login(IQN)
                data = bytes(100_000)
                pdu = ScsiCommand(
                    False, True, False, True, 1, 0, 9, len(data), host.take_cmd_sn(), 0,
                    pad(write_10(0, 195)), data,
                )  # fmt: skip
                host.send_bytes((pdu.pack() + data)[:cut])
        await serves_others(portal)
    assert access.submitted[:-1] == []
