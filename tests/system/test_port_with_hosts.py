"""The target port with hosts that nobody here wrote: libiscsi's tools, QEMU, and tshark's eye.

The target runs in the test's own event loop over a memory device, the hosts are processes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.device.emulate import Emulate
from daiko.target.access import Access
from daiko.target.logical_unit import Identity, LogicalUnit
from daiko.target.portal import Target
from target.raw_initiator import RawInitiator
from wire_tap import WireTap, dissect

IQN = "iqn.2026-11.example:hosts"
NAA = bytes.fromhex("60014050000000000000000000000042")
BLOCKS = 64 * 1024


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    access = Access()
    unit = LogicalUnit(Identity("hosts", NAA), Emulate(MemoryDevice(BLOCKS, 512)))
    access.publish({"*": {0: unit}})
    target = Target(IQN, access)
    portal = await target.listen("127.0.0.1:0")
    try:
        yield portal
    finally:
        await target.stop()


async def run(*command: str) -> str:
    """Run a host; its output. It must end well."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = out.decode(errors="replace")
    assert process.returncode == 0, text
    return text


def url(portal: str) -> str:
    return f"iscsi://{portal}/{IQN}/0"


async def test_iscsi_ls_finds_the_target_and_its_lu() -> None:
    async with serving() as portal:
        listed = await run("iscsi-ls", "-s", f"iscsi://{portal}")
    assert f"Target:{IQN} Portal:{portal},1" in listed
    assert re.search(r"Lun:0 +Type:DIRECT_ACCESS \(Size:3[12]M\)", listed)


@pytest.mark.parametrize("digest", ["none", "crc32c"])
async def test_iscsi_inq_reads_the_identity(digest: str) -> None:
    async with serving() as portal:
        said = await run("iscsi-inq", f"{url(portal)}?header_digest={digest}")
    assert "DAIKO" in said


@pytest.mark.parametrize("digest", ["none", "crc32c"])
async def test_qemu_io_reads_what_it_wrote(digest: str) -> None:
    pairs = [("512", "1024"), ("4k", "8k"), ("64k", "100k"), ("3M", "2M"), ("12M", "8M")]
    commands = []
    for pattern, (length, offset) in enumerate(pairs, 1):
        commands += ["-c", f"write -P {pattern} {offset} {length}"]
    for pattern, (length, offset) in enumerate(pairs, 1):
        commands += ["-c", f"read -P {pattern} {offset} {length}"]
    commands += ["-c", "aio_write -P 9 24M 1M", "-c", "aio_write -P 8 25M 1M", "-c", "aio_flush"]
    commands += ["-c", "read -P 9 24M 1M", "-c", "read -P 8 25M 1M"]
    image = f"driver=iscsi,transport=tcp,portal=%s,target={IQN},lun=0,header-digest={digest}"
    async with serving() as portal:
        said = await run("qemu-io", "--image-opts", image % portal, *commands)
    assert "failed" not in said.lower(), said
    assert said.count("bytes at offset") == 2 * len(pairs) + 4


@pytest.mark.parametrize("digest", ["none", "crc32c"])
async def test_iscsi_perf_runs_with_a_deep_queue(digest: str) -> None:
    async with serving() as portal:
        said = await run(
            "iscsi-perf", "-m", "64", "-b", "16", "-t", "1", "-r",
            f"{url(portal)}?header_digest={digest}",
        )  # fmt: skip
    average = re.search(r"iops average (\d+)", said)
    assert average is not None, said
    assert int(average[1]) > 0


async def test_libiscsi_conformance_of_iscsi() -> None:
    """CmdSN, DataSN, residuals, task management."""
    async with serving() as portal:
        said = await run("iscsi-test-cu", "-d", "-t", "iSCSI", url(portal))
    summary = re.search(r"tests\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", said)
    assert summary is not None, said
    total, ran, passed, failed = map(int, summary.groups())
    assert (ran, passed, failed) == (total, total, 0), said
    assert total >= 15


async def test_tshark_has_no_complaint_about_our_traffic(tmp_path: Path) -> None:
    """Discovery, login, INQUIRY and its pages, reads and writes with R2Ts, sense, logout."""
    async with serving() as portal, WireTap(portal) as tap:
        await run("iscsi-ls", "-s", f"iscsi://{tap.portal}")
        async with await RawInitiator.connect(tap.portal) as host:
            await host.login(IQN)
            for page in (0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2):
                host.command(bytes([0x12, 1, page, 4, 0, 0]), read=1024)
                assert (await host.receive()).status == 0
            host.command(bytes([0x12, 1, 0x7F, 4, 0, 0]), read=1024)
            assert (await host.receive()).status == 2
        await run(
            "qemu-io", "-f", "raw", "-c", "write -P 1 0 4k", "-c", "write -P 2 1M 3M",
            "-c", "read -P 2 1M 3M", "-c", "discard 0 64k", "-c", "flush", url(tap.portal),
        )  # fmt: skip
    found = await dissect(tap.pcap(tmp_path / "port.pcap"))
    assert found.pdus > 50
    for name in ("Login Response (Success)", "Text Response", "Ready To Transfer", "Inquiry",
                 "Write(1", "Data In", "Logout Response"):  # fmt: skip
        assert name in found.summary, name
    assert found.complaints == []


async def test_tshark_checks_our_header_digests(tmp_path: Path) -> None:
    async with serving() as portal, WireTap(portal) as tap:
        await run("iscsi-inq", f"{url(tap.portal)}?header_digest=crc32c")
    found = await dissect(tap.pcap(tmp_path / "digest.pcap"))
    assert "Inquiry" in found.summary
    assert found.complaints == []
