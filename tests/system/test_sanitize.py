"""SANITIZE of a volume of a first controller that is a process of its own: handed to the second
controller that owns the LU, over restarts of the one and losses of the way to the other; and
written where the second one has it not, or the volume is not the whole LU."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from daiko.backend.second_controller import Outcome, SecondController
from daiko.device.error import DeviceError, MediumFailure
from daiko.scsi import sbc, spc
from daiko.scsi.medium_parameters import Overwrite
from daiko.scsi.opcode import Opcode, Status
from daiko.scsi.sense import Sense, parse_sense
from network_path import NetworkPath
from processes import Daiko, Tgt, image
from working_backend import BLOCKS, IQN, SIZE, BackEnd, until

MIB = 1 << 20
SANITIZING = (0x2, 0x04, 0x1B)
UNCLEAN = (0x3, 0x31, 0x03)
READY = (0, 0, 0)


@asynccontextmanager
async def host_of(daiko: Daiko, number: int = 1) -> AsyncIterator[SecondController]:
    """An initiator with a session of its own."""
    iqn = f"iqn.2026-11.com.example:host{number}"
    controller = SecondController("d", daiko.iqn, [daiko.portal], iqn)
    await controller.open()
    try:
        yield controller
    finally:
        await controller.close()


async def overwrite(host: SecondController, wanted: Overwrite, **fields: int) -> Outcome:
    data = wanted.pack()
    cdb = sbc.SanitizeOverwrite.pack(parameter_list_length=len(data), **fields)
    return await host.execute(0, cdb, data, timeout=60.0)


async def condition(host: SecondController) -> tuple[int, int, int]:
    """What TEST UNIT READY says."""
    outcome = await host.execute(0, spc.TestUnitReady.pack())
    if not outcome.status:
        return READY
    said = parse_sense(outcome.sense)
    return said.key, said.asc, said.ascq


async def polled(host: SecondController) -> Sense:
    cdb = spc.RequestSense.pack(allocation_length=252)
    return parse_sense((await host.execute(0, cdb, b"", 252)).data)


async def until_it_says(host: SecondController, wanted: tuple[int, int, int]) -> None:
    """Ask, as a host does, until it says that. Nothing tells a host of it."""
    async with asyncio.timeout(60):
        while True:
            try:
                if await condition(host) == wanted:
                    return
            except DeviceError:
                pass  # it is being restarted
            await asyncio.sleep(0.02)


async def until_progress(host: SecondController, least: int) -> None:
    async with asyncio.timeout(60):
        while ((await polled(host)).progress or 0) < least:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def content(host: SecondController, lba: int = 0) -> bytes:
    cdb = sbc.Read10.pack(lba=lba, transfer_length=1)
    outcome = await host.execute(0, cdb, b"", SIZE)
    assert outcome.status == Status.GOOD
    return bytes(outcome.data)


def first_over(tmp_path: Path, *sources: str | Path) -> Daiko:
    return Daiko(tmp_path, *sources, name="first", store=tmp_path / "store")


@pytest.mark.parametrize("action", ["overwrite", "block erase"])
async def test_second_daiko_does_it_and_no_data_passes_the_way_to_it(
    tmp_path: Path, action: str
) -> None:
    disk = image(tmp_path / "disk", 16 * MIB, seed=1)
    with Daiko(tmp_path, disk, name="second", store=tmp_path / "second") as second:
        async with NetworkPath(second.port) as path:
            url = f"iscsi://{path.portal}/{second.iqn}/0"
            async with running(first_over(tmp_path, url)) as first, host_of(first) as host:
                before = path.passed
                if action == "overwrite":
                    outcome = await overwrite(host, Overwrite(b"\x5a\xa5", 2, invert=True))
                else:
                    cdb = sbc.SanitizeBlockErase.pack()
                    outcome = await host.execute(0, cdb, timeout=60.0)
                assert outcome.status == Status.GOOD
                assert path.passed - before < 16 * 1024
                wanted = b"\xa5\x5a" if action == "overwrite" else b"\0\0"
                assert await content(host, 32767) == wanted * (SIZE // 2)
        assert second.log.read_text().count("medium work done") == 1
    assert set(disk.read_bytes()) == set(wanted)


async def test_target_without_sanitize_is_written(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", 4 * MIB, seed=1)
    with Tgt(tmp_path, disk) as tgt, first_over(tmp_path, tgt.url()) as first:
        async with host_of(first) as host:
            assert (await overwrite(host, Overwrite(b"\x5a"))).status == Status.GOOD
            assert await content(host) == b"\x5a" * SIZE
    assert set(disk.read_bytes()) == {0x5A}


@pytest.mark.parametrize("last", [BLOCKS - 1, BLOCKS], ids=["part of an LU", "and of another"])
async def test_volume_that_is_not_one_whole_lu_is_written_and_what_is_beside_it_stays(
    tmp_path: Path, last: int
) -> None:
    async with BackEnd(1, 2) as backend:
        for memory in backend.memory:
            memory.write(0, b"old!" * (BLOCKS * SIZE // 4), _expect_done)
        async with running(first_over(tmp_path)) as first:
            extents = ["--extent", f"sd/0:0:{last}"]
            if last == BLOCKS:
                extents += ["--extent", f"sd/1:0:{BLOCKS // 2}"]
            await cli(first, "backend", "add", "sd", f"iscsi://{backend.portal}/{IQN}")
            await cli(first, "volume", "add", "v", *extents)
            await cli(first, "host", "add", "h", "-i", "*", "--lun", "0=v")
            async with host_of(first) as host:
                assert (await overwrite(host, Overwrite(b"\x5a"))).status == Status.GOOD
                assert await content(host, last - 1) == b"\x5a" * SIZE
        assert backend.access.count(Opcode.SANITIZE) == 0
        number, beside = (0, BLOCKS - 1) if last < BLOCKS else (1, BLOCKS // 2)
        assert block_of(backend, number, beside) == b"old!" * (SIZE // 4)
        assert block_of(backend, number, beside - 1) == b"\x5a" * SIZE


async def test_progress_is_that_of_the_second_controller(tmp_path: Path) -> None:
    async with BackEnd() as backend, running(first_over(tmp_path, url_of(backend))) as first:
        async with host_of(first) as host:
            backend.hold()
            outcome = await overwrite(host, Overwrite(b"x"), immed=1)
            assert outcome.status == Status.GOOD
            assert await condition(host) == SANITIZING
            for chunk in (1, 2, 3):
                await until(lambda: backend.devices[0].held > 0)
                backend.devices[0].release()
                await until_progress(host, chunk * 0x4000)
            backend.let_go()
            await until_it_says(host, READY)
            assert await content(host) == b"x" * SIZE
        assert backend.access.count(Opcode.SANITIZE) == 1


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_first_controller_that_is_started_anew_goes_on_to_follow_it(
    tmp_path: Path, how: str
) -> None:
    async with BackEnd(1, 2) as backend, running(first_over(tmp_path, url_of(backend))) as first:
        backend.hold()
        async with host_of(first) as host:
            naa = await identity(host)
            await overwrite(host, Overwrite(b"x"), immed=1)
            await until(lambda: backend.devices[0].held > 0)
            backend.devices[0].release()
            await until_progress(host, 0x4000)
        await asyncio.to_thread(first.stop if how == "stop" else first.kill)
        await asyncio.to_thread(first.start)
        async with host_of(first) as host:
            assert await condition(host) == SANITIZING
            await until_progress(host, 0x4000)
            assert not backend.access.count(Opcode.WRITE_10)
            backend.let_go()
            await until_it_says(host, READY)
            assert backend.access.count(Opcode.SANITIZE) == 1
            assert await content(host) == b"x" * SIZE
            assert await identity(host) == naa


async def test_end_while_the_first_controller_was_away_is_not_believed(tmp_path: Path) -> None:
    async with BackEnd() as backend, running(first_over(tmp_path, url_of(backend))) as first:
        backend.hold()
        async with host_of(first) as host:
            await overwrite(host, Overwrite(b"x"), immed=1)
            await until(lambda: backend.devices[0].held > 0)
        await asyncio.to_thread(first.kill)
        backend.let_go()
        await until(lambda: backend.units[0].medium.work is None)
        await asyncio.to_thread(first.start)
        async with host_of(first) as host:
            await until_it_says(host, READY)
            assert await content(host) == b"x" * SIZE
        assert backend.access.count(Opcode.SANITIZE) == 2


async def test_failure_at_the_second_controller_while_the_first_was_away_is_reported(
    tmp_path: Path,
) -> None:
    async with BackEnd() as backend, running(first_over(tmp_path, url_of(backend))) as first:
        backend.hold()
        async with host_of(first) as host:
            await overwrite(host, Overwrite(b"x"), immed=1, ause=1)
            await until(lambda: backend.devices[0].held > 0)
            backend.devices[0].release()
            await until_progress(host, 0x4000)  # the first controller knows that it was taken over
        await asyncio.to_thread(first.kill)
        backend.faults[0].fail(error=lambda: MediumFailure("bad", writing=True), times=1)
        backend.let_go()
        await until(lambda: has_failed(backend))
        await asyncio.to_thread(first.start)
        async with host_of(first) as host:
            await until_it_says(host, UNCLEAN)
            cdb = sbc.SanitizeExitFailureMode.pack()
            assert (await host.execute(0, cdb)).status == Status.GOOD
            assert await condition(host) == READY
            await content(host)
        assert backend.access.count(Opcode.SANITIZE) == 2


async def test_lost_connection_does_not_end_it_and_the_device_is_as_before(tmp_path: Path) -> None:
    async with BackEnd() as backend, running(first_over(tmp_path, url_of(backend))) as first:
        async with host_of(first) as host:
            backend.hold()
            await overwrite(host, Overwrite(b"x"), immed=1)
            await until(lambda: backend.devices[0].held > 0)
            before = backend.access.count(Opcode.TEST_UNIT_READY)
            await backend.stop()
            assert await condition(host) == SANITIZING
            await backend.start()
            await until(lambda: backend.access.count(Opcode.TEST_UNIT_READY) > before)
            backend.let_go()
            await until_it_says(host, READY)
            assert await content(host) == b"x" * SIZE
            (status,) = (await asyncio.to_thread(first.rest, "GET", "/v1/backends")).json()
            assert (status["connected"], "LU 0" in status["detail"]) == (True, False)
        assert backend.access.count(Opcode.SANITIZE) == 1


def has_failed(backend: BackEnd) -> bool:
    work = backend.units[0].medium.work
    return work is not None and work.has_failed


def url_of(backend: BackEnd, lun: int = 0) -> str:
    return f"iscsi://{backend.portal}/{IQN}/{lun}"


def block_of(backend: BackEnd, lun: int, lba: int) -> bytes:
    found: list[bytes] = []
    backend.memory[lun].read(lba, 1, lambda error, data: found.append(bytes(data)))
    return found[0]


def _expect_done(error: DeviceError | None) -> None:
    assert error is None


async def identity(host: SecondController) -> bytes:
    """Page 83h."""
    cdb = spc.Inquiry.pack(evpd=1, page_code=0x83, allocation_length=255)
    return bytes((await host.execute(0, cdb, b"", 255)).data)


async def cli(daiko: Daiko, *arguments: str) -> None:
    await asyncio.to_thread(daiko.cli, *arguments)


@asynccontextmanager
async def running(daiko: Daiko) -> AsyncIterator[Daiko]:
    """`with daiko`, but for threads that wait for it: its second controller lives in this event
    loop, and must go on meanwhile."""
    await asyncio.to_thread(daiko.start)
    try:
        yield daiko
    except Exception:
        print(daiko.log_end())
        raise
    finally:
        await asyncio.to_thread(daiko.stop)
