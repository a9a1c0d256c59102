"""Reads and writes over a socket of the target port: how data is cut, asked for and counted."""

from __future__ import annotations

import struct

import pytest

from daiko.iscsi.bhs import (
    FINAL,
    OVERFLOW,
    RESERVED_TAG,
    STATUS,
    UNDERFLOW,
)
from daiko.iscsi.pdu import (
    DataIn,
    ReadyToTransfer,
    ScsiResponse,
)
from daiko.scsi.sense import parse_sense
from daiko.target import session as session_module
from target.memory_access import BLOCK, MemoryAccess
from target.raw_initiator import (
    RawInitiator,
    alive,
    logged_in,
    read_10,
    write_10,
)


@pytest.mark.parametrize("digests", ["None", "CRC32C"])
async def test_read_comes_as_one_data_in_with_status(
    portal: str, access: MemoryAccess, digests: str
) -> None:
    access.store[BLOCK : 3 * BLOCK] = bytes(range(256)) * 4
    async with await logged_in(portal, HeaderDigest=digests, DataDigest=digests) as host:
        host.command(read_10(1, 2), read=2 * BLOCK, tag=5)
        answer: DataIn = await host.receive()
        assert answer == DataIn(
            FINAL | STATUS, 0, 0, 5, RESERVED_TAG, answer.stat_sn, 2, 1 + session_module.WINDOW,
            0, 0, 0, bytes(range(256)) * 4,
        )  # fmt: skip


async def test_long_read_is_cut_by_segment_and_burst(portal: str, access: MemoryAccess) -> None:
    access.store[: 40 * BLOCK] = bytes(index % 251 for index in range(40 * BLOCK))
    async with await logged_in(
        portal, MaxRecvDataSegmentLength="4096", MaxBurstLength="8192"
    ) as host:
        host.command(read_10(0, 40), read=40 * BLOCK)
        data = b""
        for number in range(5):
            pdu: DataIn = await host.receive()
            assert (pdu.data_sn, pdu.buffer_offset) == (number, number * 4096)
            assert bool(pdu.flags & FINAL) is (number in (1, 3, 4))
            assert bool(pdu.flags & STATUS) is (number == 4)
            data += pdu.data
        assert data == access.store[: 40 * BLOCK]


@pytest.mark.parametrize(
    ("expected", "flags", "count"),
    [
        pytest.param(BLOCK, 0, 0, id="exact"),
        pytest.param(3 * BLOCK, UNDERFLOW, 2 * BLOCK, id="underflow"),
        pytest.param(100, OVERFLOW, BLOCK - 100, id="overflow"),
    ],
)
async def test_read_residual(host: RawInitiator, expected: int, flags: int, count: int) -> None:
    host.command(read_10(0, 1), read=expected)
    pdu: DataIn = await host.receive()
    assert pdu.flags == FINAL | STATUS | flags
    assert pdu.residual == count
    assert len(pdu.data) == min(expected, BLOCK)


async def test_read_without_the_r_bit_overflows(host: RawInitiator) -> None:
    host.command(read_10(0, 1))
    pdu: ScsiResponse = await host.receive()
    assert (pdu.status, pdu.flags, pdu.residual) == (0, OVERFLOW, BLOCK)


async def test_failed_read_carries_sense(host: RawInitiator) -> None:
    host.command(read_10(0xFFFFFF, 1), read=BLOCK)
    pdu: ScsiResponse = await host.receive()
    assert (pdu.status, pdu.flags, pdu.residual) == (2, UNDERFLOW, BLOCK)
    sense = parse_sense(pdu.sense)
    assert (sense.key, sense.asc, sense.ascq) == (5, 0x21, 0)


@pytest.mark.parametrize(
    ("sizes", "pdus"),
    [
        pytest.param([100, 0, 300, 624], [1024], id="small-are-joined"),
        pytest.param([9000, 3, 5000], [9000, 3, 5000], id="large-are-not"),
    ],
)
async def test_data_in_several_buffers_comes_without_a_gap(
    host: RawInitiator, access: MemoryAccess, sizes: list[int], pdus: list[int]
) -> None:
    access.hold = True
    host.command(read_10(0, 1), read=sum(sizes))
    assert await alive(host)
    (task,) = access.submitted
    buffers = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    task.complete(0, buffers)
    answers = [await host.receive() for _ in pdus]
    assert [len(answer.data) for answer in answers] == pdus
    assert b"".join(answer.data for answer in answers) == b"".join(buffers)
    assert [bool(answer.flags & STATUS) for answer in answers][-1]


async def test_data_before_a_check_condition_is_sent_with_its_count(
    host: RawInitiator, access: MemoryAccess
) -> None:
    access.hold = True
    host.command(read_10(0, 1), read=BLOCK)
    assert await alive(host)
    access.submitted[0].complete(2, (bytes(100),), b"sense data")
    data: DataIn = await host.receive()
    assert (data.flags, len(data.data)) == (FINAL, 100)
    response: ScsiResponse = await host.receive()
    assert (response.status, response.sense, response.exp_data_sn) == (2, b"sense data", 1)
    assert (response.flags, response.residual) == (UNDERFLOW, BLOCK - 100)


async def test_task_completed_twice_is_answered_once(
    host: RawInitiator, access: MemoryAccess
) -> None:
    host.command(read_10(0, 1), read=BLOCK)
    assert (await host.receive()).status == 0
    access.submitted[0].complete(0, (bytes(BLOCK),))
    assert await alive(host)


async def test_write_with_immediate_data(host: RawInitiator, access: MemoryAccess) -> None:
    host.command(write_10(2, 2), write=2 * BLOCK, data=b"i" * 2 * BLOCK)
    pdu: ScsiResponse = await host.receive()
    assert (pdu.status, pdu.flags, pdu.residual, pdu.exp_data_sn) == (0, 0, 0, 0)
    assert access.store[2 * BLOCK : 4 * BLOCK] == b"i" * 2 * BLOCK
    assert not access.store[4 * BLOCK]


async def test_write_with_unsolicited_data_and_r2ts(portal: str, access: MemoryAccess) -> None:
    data = bytes(index % 253 for index in range(64 * BLOCK))
    async with await logged_in(
        portal, InitialR2T="No", FirstBurstLength="8192", MaxBurstLength="8192",
        MaxOutstandingR2T="2",
    ) as host:  # fmt: skip
        host.command(write_10(0, 64), write=len(data), data=data[:1024], final=False, tag=9)
        host.data_out(9, RESERVED_TAG, 1024, data[1024:4096], final=False)
        host.data_out(9, RESERVED_TAG, 4096, data[4096:8192], final=True, data_sn=1)
        asked: list[ReadyToTransfer] = [await host.receive(), await host.receive()]
        at = 8192
        stat_sn = asked[0].stat_sn
        for number in range(3):
            r2t = asked.pop(0)
            assert (r2t.r2t_sn, r2t.buffer_offset, r2t.desired_length) == (number, at, 8192)
            assert r2t.stat_sn == stat_sn
            middle = at + 5000
            host.data_out(9, r2t.target_transfer_tag, at, data[at:middle], final=False)
            at += 8192
            host.data_out(
                9, r2t.target_transfer_tag, middle, data[middle:at], final=True, data_sn=1
            )
            if number == 0:
                asked.append(await host.receive())
        pdu: ScsiResponse = await host.receive()
        assert (pdu.status, pdu.exp_data_sn, pdu.stat_sn) == (0, 3, stat_sn)
        assert access.store[: len(data)] == data


async def test_large_write_is_received_in_place_with_digests(
    portal: str, access: MemoryAccess
) -> None:
    size = 200_192
    data = bytes(index % 241 for index in range(size))
    async with await logged_in(
        portal, HeaderDigest="CRC32C", DataDigest="CRC32C", ImmediateData="No"
    ) as host:
        host.command(write_10(0, size // BLOCK), write=size)
        r2t: ReadyToTransfer = await host.receive()
        assert r2t.desired_length == size
        host.data_out(0x10, r2t.target_transfer_tag, 0, data[:99_999], final=False)
        host.data_out(0x10, r2t.target_transfer_tag, 99_999, data[99_999:], final=True, data_sn=1)
        assert (await host.receive()).status == 0
        assert access.store[:size] == data


@pytest.mark.parametrize(
    ("blocks", "expected", "flags", "count"),
    [
        pytest.param(1, 3 * BLOCK, UNDERFLOW, 2 * BLOCK, id="unit-wants-less"),
        pytest.param(3, BLOCK, OVERFLOW, 2 * BLOCK, id="unit-wants-more"),
        pytest.param(0, BLOCK, UNDERFLOW, BLOCK, id="unit-wants-nothing"),
    ],
)
async def test_write_residual(
    host: RawInitiator, access: MemoryAccess, blocks: int, expected: int, flags: int, count: int
) -> None:
    data = b"w" * expected
    host.command(write_10(8, blocks), write=expected, data=data)
    pdu: ScsiResponse = await host.receive()
    assert (pdu.status, pdu.flags, pdu.residual) == (0, flags, count)
    written = min(blocks * BLOCK, expected)
    assert access.store[8 * BLOCK : 12 * BLOCK] == data[:written].ljust(4 * BLOCK, b"\0")


async def test_refused_write_asks_for_no_data(host: RawInitiator) -> None:
    host.command(write_10(0xFFFFFF, 1), write=BLOCK)
    pdu: ScsiResponse = await host.receive()
    assert (pdu.status, pdu.flags, pdu.residual) == (2, UNDERFLOW, BLOCK)


async def test_unsolicited_data_of_a_refused_write_is_dropped(
    portal: str, access: MemoryAccess
) -> None:
    async with await logged_in(portal, InitialR2T="No") as host:
        host.command(write_10(0xFFFFFF, 1), write=BLOCK, final=False)
        assert (await host.receive()).status == 2
        host.data_out(0x10, RESERVED_TAG, 0, bytes(BLOCK), final=True)
        assert await alive(host)


async def test_extended_cdb_arrives_whole(host: RawInitiator, access: MemoryAccess) -> None:
    tail = bytes(range(16))
    ahs = struct.pack(">HBx", 1 + len(tail), 1) + tail
    host.command(b"\0" * 16, ahs=ahs)
    assert (await host.receive()).status == 0
    assert access.submitted[0].cdb == bytes(16) + tail


async def test_bidirectional_read_length_arrives(host: RawInitiator, access: MemoryAccess) -> None:
    ahs = struct.pack(">HBxI", 5, 2, 4096)
    host.command(b"\x53", ahs=ahs, write=BLOCK, read=1)
    answer: ScsiResponse = await host.receive()
    (task,) = access.submitted
    assert (task.expected_out, task.expected_in) == (BLOCK, 4096)
    assert (answer.flags, answer.residual, answer.bidirectional_residual) == (
        UNDERFLOW | UNDERFLOW << 2, BLOCK, 4096,
    )  # fmt: skip
