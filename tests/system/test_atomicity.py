"""COMPARE AND WRITE, ORWRITE and WRITE ATOMIC by several hosts at once, over second controllers
that have none of them (`tgt`), on blocks that lie in two of them; and through kill -9."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from daiko.backend.second_controller import SecondController
from daiko.device.error import DeviceError
from daiko.scsi import sbc
from daiko.scsi.opcode import Status
from processes import Daiko, Tgt, image

SIZE = 4 << 20
BLOCK = 512
EDGE = SIZE // BLOCK - 1
"""The last block on the one target; the next lies on the other."""
HOSTS = 3
TURNS = 8


async def host(daiko: Daiko, number: int) -> SecondController:
    """An initiator with a session of its own."""
    iqn = f"iqn.2026-11.com.example:host{number}"
    controller = SecondController("d", daiko.iqn, [daiko.portal], iqn)
    await controller.open()
    return controller


async def read(controller: SecondController, lba: int, blocks: int) -> bytes:
    cdb = sbc.Read16.pack(lba=lba, transfer_length=blocks)
    outcome = await controller.execute(0, cdb, b"", blocks * BLOCK)
    assert outcome.status == Status.GOOD
    return bytes(outcome.data)


def counted(value: int, bits: bytes) -> bytes:
    """Two blocks: a counter at the end of the first, and the start of the second, and bits that
    others set in between."""
    number = value.to_bytes(8, "big")
    return bits[: BLOCK - 8] + number + number + bits[BLOCK + 8 :]


async def count(controller: SecondController) -> None:
    """Add one, `TURNS` times, by COMPARE AND WRITE."""
    for _ in range(TURNS):
        while True:
            old = await read(controller, EDGE, 2)
            value = int.from_bytes(old[BLOCK - 8 : BLOCK], "big")
            data = old + counted(value + 1, old)
            outcome = await controller.execute(
                0, sbc.CompareAndWrite.pack(lba=EDGE, transfer_length=2), data
            )
            if outcome.status == Status.GOOD:
                break


async def set_bits(controller: SecondController, number: int) -> None:
    """Set one byte after the other, by ORWRITE over both blocks."""
    for turn in range(TURNS):
        data = bytearray(2 * BLOCK)
        data[16 * turn + number] = data[BLOCK + 64 + 16 * turn + number] = 0xFF
        cdb = sbc.Orwrite16.pack(lba=EDGE, transfer_length=2)
        outcome = await controller.execute(0, cdb, bytes(data))
        assert outcome.status == Status.GOOD


async def test_no_update_of_any_host_is_lost_across_two_targets_that_can_do_little(
    tmp_path: Path,
) -> None:
    files = [image(tmp_path / name, SIZE) for name in ("a", "b")]
    with (
        Tgt(tmp_path, files[0], name="tgt1") as one,
        Tgt(tmp_path, files[1], name="tgt2") as other,
        Daiko(tmp_path, one.url(), other.url(), name="first") as daiko,
    ):
        hosts = [await host(daiko, number) for number in range(2 * HOSTS)]
        work: list[Awaitable[None]] = [count(each) for each in hosts[:HOSTS]]
        work += [set_bits(each, number) for number, each in enumerate(hosts[HOSTS:])]
        await asyncio.gather(*work)
        found = await read(hosts[0], EDGE, 2)
        for each in hosts:
            await each.close()
    assert int.from_bytes(found[BLOCK - 8 : BLOCK], "big") == HOSTS * TURNS
    assert found[BLOCK : BLOCK + 8] == found[BLOCK - 8 : BLOCK]
    for turn in range(TURNS):
        for number in range(HOSTS):
            assert found[16 * turn + number] == 0xFF
            assert found[BLOCK + 64 + 16 * turn + number] == 0xFF


async def write_until_killed(
    controller: SecondController, value: int, has_begun: Callable[[], None]
) -> int:
    """Write 1 MiB of one value after the other, all or nothing; returns the last that was GOOD."""
    done = value
    cdb = sbc.WriteAtomic16.pack(lba=EDGE - 1000, transfer_length=2000)
    try:
        while True:
            value = value % 255 + 1
            outcome = await controller.execute(0, cdb, bytes([value]) * 2000 * BLOCK, timeout=20.0)
            if outcome.status == Status.GOOD:
                done = value
                has_begun()
    except DeviceError:
        return done


@pytest.mark.parametrize("over", ["tgt", "files"])
async def test_atomic_write_is_all_or_nothing_after_a_kill(tmp_path: Path, over: str) -> None:
    files = [image(tmp_path / name, SIZE) for name in ("a", "b")]
    with (
        Tgt(tmp_path, files[0], name="tgt1") as one,
        Tgt(tmp_path, files[1], name="tgt2") as other,
    ):
        sources = [one.url(), other.url()] if over == "tgt" else files
        daiko = Daiko(tmp_path, *sources, name="first", store=tmp_path / "store")
        with daiko:
            value = 0
            for _ in range(2):
                writer = await host(daiko, 1)
                begun = asyncio.Event()
                writing = asyncio.ensure_future(write_until_killed(writer, value, begun.set))
                await begun.wait()
                daiko.kill()
                await writer.close()
                value = await writing
                daiko.start()
                reader = await host(daiko, 2)
                found = await all_of(reader)
                await reader.close()
                assert len(set(found)) == 1
                assert found[0] in (value, value % 255 + 1)
                value = found[0]


async def all_of(controller: SecondController) -> bytes:
    """The blocks, once what the kill came into has been undone."""
    cdb = sbc.Read16.pack(lba=EDGE - 1000, transfer_length=2000)
    async with asyncio.timeout(60):
        while True:
            outcome = await controller.execute(0, cdb, b"", 2000 * BLOCK)
            if outcome.status == Status.GOOD:
                return bytes(outcome.data)
            await asyncio.sleep(0.05)
