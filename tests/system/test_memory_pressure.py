"""Hostile hosts cost bounded memory, as the kernel counts it (VmRSS), and others go on working."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from daiko.daemon import FILES
from daiko.iscsi.error import LoginStatus
from daiko.iscsi.pdu import ReadyToTransfer
from processes import READY, Daiko, Process, image
from target.raw_initiator import RawInitiator, read_10, write_10

MIB = 1 << 20
IQN = "iqn.2026-11.test.daiko:conformance"
BUDGET = 64 * MIB
UNIT = 16 * MIB


class FileServer(Process):
    """The target layer alone, with this much memory for data."""

    portal = ""

    def command(self) -> Sequence[str]:
        script = Path(__file__).parents[1] / "conformance" / "serve_file.py"
        disk = image(self.folder / "disk.img", UNIT)
        return [sys.executable, str(script), "--memory", str(BUDGET), str(disk)]

    def wait_ready(self) -> None:
        self.portal = self.lines_until(READY)[0]


def resident(process: Process) -> int:
    """Bytes."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise LookupError("VmRSS")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    with FileServer(tmp_path, "serve-file") as made:
        yield made


async def logged_in(portal: str, number: int, **keys: str) -> RawInitiator:
    host = await RawInitiator.connect(portal)
    isid = b"\x80" + number.to_bytes(5, "big")
    response = await host.login(IQN, isid=isid, keys=keys)
    assert response.status == 0
    return host


async def drop(hosts: list[RawInitiator]) -> None:
    """End their connections as a power failure does."""
    for host in hosts:
        host.writer.transport.abort()
    await asyncio.sleep(0)
    hosts.clear()


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """Let the test itself have as many connections."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, files[1]), files[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)


async def peak(process: Process, work: asyncio.Task[None]) -> int:
    """The most that the process takes while `work` goes on, and a moment after."""
    most = 0
    while not work.done():
        most = max(most, resident(process))
        await asyncio.sleep(0.01)
    await work
    return max(most, resident(process))


async def works(portal: str) -> None:
    """Another host writes and reads a block of its own."""
    async with await logged_in(portal, 9999) as host:
        block = b"mine" * 128
        for _ in range(3):
            host.command(write_10(7, 1), write=512, data=block, tag=1)
            while (answer := await host.receive()).initiator_task_tag != 1:
                pass
            if answer.status == 2:  # POWER ON of a new nexus
                continue
            assert answer.status == 0
            break
        host.command(read_10(7, 1), read=512, tag=2)
        while (read := await host.receive()).initiator_task_tag != 2:
            pass
        assert read.data == block


async def test_hosts_that_do_not_read_cost_bounded_memory(server: FileServer) -> None:
    """40 hosts ask for 96 times 1 MiB each, 3.75 GiB, and read nothing."""
    begin = resident(server)

    async def ask(hosts: list[RawInitiator]) -> None:
        for number in range(40):
            host = await logged_in(server.portal, number)
            hosts.append(host)
            host.command(bytes(6), tag=500)  # takes the unit attention
            await host.receive()
            # The test must not read either.
            host.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for tag in range(96):
                host.command(read_10(0, 2048), read=MIB, tag=tag)
            await host.writer.drain()
        await works(server.portal)

    hosts: list[RawInitiator] = []
    most = await peak(server, asyncio.ensure_future(ask(hosts)))
    await drop(hosts)
    assert most - begin < 2 * BUDGET + 64 * MIB


async def test_hosts_that_hold_back_the_end_of_their_data_cost_bounded_memory(
    server: FileServer,
) -> None:
    """40 hosts send all but the last PDU of as many large writes as are asked for."""
    begin = resident(server)
    piece = bytes(range(256)) * 1024

    async def hold(hosts: list[RawInitiator]) -> None:
        for number in range(40):
            host = await logged_in(server.portal, number, InitialR2T="Yes", MaxBurstLength=str(MIB))
            hosts.append(host)
            host.command(bytes(6), tag=500)
            await host.receive()
            for tag in range(8):
                host.command(write_10(0, 8192), write=4 * MIB, tag=tag)
            with contextlib.suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(0.1):
                        asked = await host.receive()
                    if isinstance(asked, ReadyToTransfer):
                        for at in range(0, asked.desired_length - len(piece), len(piece)):
                            host.data_out(
                                asked.initiator_task_tag, asked.target_transfer_tag,
                                asked.buffer_offset + at, piece, final=False,
                                data_sn=at // len(piece),
                            )  # fmt: skip
                        await host.writer.drain()
        await works(server.portal)

    hosts: list[RawInitiator] = []
    most = await peak(server, asyncio.ensure_future(hold(hosts)))
    await drop(hosts)
    assert most - begin < BUDGET + 64 * MIB


async def test_reads_that_say_less_than_they_ask_for_cost_what_they_say(
    server: FileServer,
) -> None:
    """32,000 blocks asked for in each of 4,000 commands that announce one."""
    begin = resident(server)

    async def ask() -> None:
        async with await logged_in(server.portal, 1) as host:
            host.command(bytes(6), tag=500)
            await host.receive()
            for _ in range(40):
                for tag in range(100):
                    host.command(read_10(0, 16000), read=512, tag=tag)
                await host.writer.drain()
                for _ in range(100):
                    answer = await host.receive()
                    assert (answer.residual, len(answer.data)) == (15999 * 512, 512)

    assert await peak(server, asyncio.ensure_future(ask())) - begin < 32 * MIB


async def test_connections_without_login_cost_bounded_memory(server: FileServer) -> None:
    """2,500 of them, each in the middle of a text as long as one may be: 140 MiB of texts alone.
    Kept are 256 of them, and for a moment as many more as come in one turn of the event loop."""
    begin = resident(server)

    async def connect(hosts: list[RawInitiator]) -> None:
        for _ in range(2500):
            host = await RawInitiator.connect(server.portal)
            hosts.append(host)
            for _ in range(7):
                host.send(
                    host.login_request(
                        {}, data=b"x" * 8192, continued=True, transit=False, next_stage=0
                    )
                )
            with contextlib.suppress(ConnectionError):
                await host.writer.drain()
        await works(server.portal)

    hosts: list[RawInitiator] = []
    with many_files():
        most = await peak(server, asyncio.ensure_future(connect(hosts)))
        await drop(hosts)
    assert most - begin < 96 * MIB


async def test_1024_sessions_at_a_time_and_the_next_is_told_that_there_is_no_room(
    tmp_path: Path,
) -> None:
    hosts: list[RawInitiator] = []

    async def log_in(number: int) -> int:
        host = await RawInitiator.connect(daiko.portal)
        hosts.append(host)
        return (await host.login(daiko.iqn, isid=b"\x80" + number.to_bytes(5, "big"))).status

    with (
        many_files(),
        Daiko(tmp_path, image(tmp_path / "disk.img", MIB), mode="local") as daiko,
    ):
        for first in range(0, 1024, 64):
            statuses = await asyncio.gather(*map(log_in, range(first, first + 64)))
            assert set(statuses) == {LoginStatus.SUCCESS}
        assert await log_in(1024) == LoginStatus.OUT_OF_RESOURCES
        assert await log_in(5) == LoginStatus.SUCCESS, "in the place of its own"
        assert daiko.rest("GET", "/v1/system").json()["sessions"] == 1024
        await drop(hosts)


def test_start_raises_the_limit_of_open_files(tmp_path: Path) -> None:
    with Daiko(tmp_path, image(tmp_path / "disk.img", MIB), mode="local") as daiko:
        limits = Path(f"/proc/{daiko.pid}/limits").read_text()
        (line,) = [each for each in limits.splitlines() if each.startswith("Max open files")]
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert int(line.split()[3]) >= min(FILES, hard)
