"""LIO, which nobody here wrote, carries out a backup for the first controller.

What passes through the first controller is counted by the kernel on its sockets, and what LIO
receives is read from a capture of its guest's packets.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daiko.scsi.copy_parameters import parse_extended_copy
from daiko.scsi.copy_results import OperatingParameters
from daiko.scsi.segment import BlockToBlock
from kernel_counters import cpu_seconds, traffic_with
from lab_peers import Lio
from processes import Daiko, image, qemu_io, run

MIB = 1 << 20
SIZE = 384
"""MiB: so much that the fixed cost of asking for a job is little beside moving the data."""

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lio() -> Iterator[Lio]:
    with Lio(luns=3, mib=SIZE) as target:
        yield target


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, lio: Lio) -> Iterator[Daiko]:
    folder = tmp_path_factory.mktemp("first")
    with Daiko(folder, name="first", store=folder / "store") as daiko:
        daiko.cli("backend", "add", "lio", f"iscsi://{lio.portal}/{lio.iqn}")
        daiko.cli("volume", "add", "alpha", "--image", "lio/0")
        daiko.cli("host", "add", "any", "--initiator", "*")
        daiko.cli("host", "map", "any", "alpha", "--lun", "0")
        yield daiko


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory, first: Daiko) -> Path:
    """What lies on the volume: written by a foreign host through the first controller."""
    path = image(tmp_path_factory.mktemp("content") / "image", SIZE * MIB, seed=1)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", path, first.url(0))
    return path


def backup(first: Daiko, *words: str) -> dict[str, Any]:
    done = first.cli("backup", "run", "alpha", *words, "--json")
    job: dict[str, Any] = json.loads(done.stdout)
    return job


def same(content: Path, url: str) -> bool:
    done = run("qemu-img", "compare", "-f", "raw", "-F", "raw", content, url, check=False)
    return done.returncode == 0


def test_probe_finds_what_lio_can_do_and_its_limits(first: Daiko) -> None:
    cells = json.loads(first.cli("function", "ls", "--json").stdout)
    cell = next(
        cell for cell in cells if cell["backend"] == "lio" and cell["function"] == "direct-backup"
    )
    assert cell["can"] is True
    assert cell["limits"]["max_cscds"] == 2
    assert cell["limits"]["max_segments"] == 1
    assert cell["limits"]["segment_types"] == [0x02]
    assert cell["limits"]["cscd_types"] == [0xE4]


def test_delegated_backup_passes_no_payload_through_the_first_controller(
    first: Daiko, lio: Lio, content: Path
) -> None:
    before = traffic_with(first.pid, [lio.port])[lio.port]
    job = backup(first, "--to", "lio/1")
    passed = traffic_with(first.pid, [lio.port])[lio.port] - before
    assert all(step["delegated"] for step in job["steps"])
    assert sum(step["bytes_through_first_controller"] for step in job["steps"]) == 0
    # Commands, their parameter lists and pings: some hundred bytes for each of the few commands.
    assert passed.total < 64 * 1024
    assert same(content, lio.url(1))


def test_delegated_backup_costs_the_first_controller_next_to_no_cpu_time(
    first: Daiko, lio: Lio, content: Path
) -> None:
    def cost(mode: str) -> float:
        before = cpu_seconds(first.pid)
        backup(first, "--to", "lio/2", "--mode", mode)
        return cpu_seconds(first.pid) - before

    own = cost("direct")
    # The least of several, which are cheap: what else the machine does comes on top of each. (One
    # part in a hundred where it does nothing else; beside a second worker it was 1.1.)
    delegated = cost("delegate")
    for _ in range(9):
        if delegated < own / 50:
            break
        delegated = min(delegated, cost("delegate"))
    assert same(content, lio.url(2))
    print(f"CPU of the first controller: {own:.3f} s by itself, {delegated:.4f} s delegated")
    assert delegated < own / 50


def test_back_end_that_refuses_half_way_has_its_part_finished_by_the_first_controller(
    first: Daiko, lio: Lio, content: Path, tmp_path: Path
) -> None:
    # The second half of the destination lies on an LU that LIO, since the probe, no longer
    # copies to: it answers the first half's commands GOOD and the others with a bare 0D/02.
    # A part of alpha will do, that no test before has copied to where it goes now.
    half = 48 * MIB // 512
    part = ("--range", f"{2 * half}:{2 * half}", "--at", "0")
    halves = ("--extent", f"lio/1:0:{half}", "--extent", f"lio/2:0:{half}")
    first.cli("volume", "add", "beta", *halves)
    attribute = "/sys/kernel/config/target/core/rd_mcp_0/lun2/attrib/emulate_3pc"
    lio.run(f"echo 0 > {attribute}")
    try:
        done = first.cli("copy", "run", "alpha", "beta", *part, "--json")
    finally:
        lio.run(f"echo 1 > {attribute}")
    job = json.loads(done.stdout)
    assert job["state"] == "done"
    delegated = sum(step["blocks"] for step in job["steps"] if step["delegated"])
    own = [step for step in job["steps"] if not step["delegated"]]
    assert delegated >= half
    assert sum(step["blocks"] for step in own) == half
    for step in own:
        assert any("0D/02" in rejected["reason"] for rejected in step["rejected"]), step
    first.cli("host", "map", "any", "beta", "--lun", "1")
    expected = tmp_path / "part"
    with content.open("rb") as whole:
        whole.seek(2 * half * 512)
        expected.write_bytes(whole.read(2 * half * 512))
    assert same(expected, first.url(1))


def test_pair_on_lio_is_copied_at_first_by_lio_and_kept_the_same_over_it(
    first: Daiko, lio: Lio, content: Path, tmp_path: Path
) -> None:
    size, places = 96 * MIB, {"gamma": "lio/1:262144", "delta": "lio/2:524288"}
    expected = tmp_path / "expected"
    with content.open("rb") as whole:
        whole.seek(262144 * 512)
        expected.write_bytes(whole.read(size))
    backup(first, "--to", "lio/1", "--range", f"262144:{size // 512}")
    for lun, (volume, place) in enumerate(places.items(), 4):
        first.cli("volume", "add", volume, "--extent", f"{place}:{size // 512}")
        first.cli("host", "map", "any", volume, "--lun", str(lun))
    assert not same(expected, first.url(5))

    before = traffic_with(first.pid, [lio.port])[lio.port]
    first.cli("pair", "create", "on-lio", "gamma", "delta", "--yes")
    first.cli("pair", "wait", "on-lio")
    passed = traffic_with(first.pid, [lio.port])[lio.port] - before
    (job,) = (job for job in first.rest("GET", "/v1/jobs").json() if job["type"] == "pair")
    assert (job["bytes_delegated"], job["bytes_through_first_controller"]) == (size, 0)
    assert passed.total < 256 * 1024
    assert same(expected, first.url(5))

    qemu_io(first.url(4), "write -P 7 1M 256k", "write -P 8 90M 4k", "write -z 2M 1M")
    assert not same(expected, first.url(5))
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", first.url(4), first.url(5))
    first.cli("pair", "split", "on-lio")
    qemu_io(first.url(4), "write -P 9 4M 64k")
    qemu_io(first.url(5), "write -P 10 8M 128k")
    asked = first.cli("pair", "resync", "on-lio", check=False)
    assert "192 KiB of delta will be overwritten, 128 KiB of it written" in asked.stderr
    first.cli("pair", "resync", "on-lio", "--yes")
    first.cli("pair", "wait", "on-lio", "--timeout", "60")
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", first.url(4), first.url(5))
    qemu_io(first.url(4), "read -P 9 4M 64k", "read -P 7 1M 256k", "read -P 0 2M 1M")
    first.cli("pair", "rm", "on-lio")


def test_incapable_lio_receives_no_copy_command_at_all(tmp_path: Path) -> None:
    job, commands = copy_on_the_wire(tmp_path, 16, "--no-xcopy")
    assert not any(step["delegated"] for step in job["steps"])
    assert commands == []


def test_capable_lio_receives_no_copy_command_that_its_limits_forbid(tmp_path: Path) -> None:
    mib = 72
    job, commands = copy_on_the_wire(tmp_path, mib)
    assert all(step["delegated"] for step in job["steps"])
    lists = [parse_extended_copy(data, LIO_LIMITS) for data in commands if data]
    moved = 0
    for parameters in lists:
        assert len(parameters.cscds) <= 2
        assert len(parameters.segments) == 1
        (segment,) = parameters.segments
        assert isinstance(segment, BlockToBlock)
        moved += segment.blocks
    # 65,535 blocks a command, so three commands; the probe of reachability moves no block.
    assert moved == mib * MIB // 512
    assert len(lists) >= 3


LIO_LIMITS = OperatingParameters(
    max_cscds=2, max_segments=1, max_list_bytes=1024, max_segment_bytes=256 * MIB
)


def copy_on_the_wire(folder: Path, mib: int, *options: str) -> tuple[dict[str, Any], list[bytes]]:
    """Back up an LU of LIO to another one; returns the report, and of each EXTENDED COPY and
    RECEIVE COPY RESULTS that LIO received after the probe the parameter list."""
    capture = folder / "lio.pcap"
    with Lio(luns=2, mib=mib, options=(*options, "--pcap", str(capture))) as lio:
        with Daiko(folder, name="first", store=folder / "store") as first:
            first.cli("backend", "add", "lio", f"iscsi://{lio.portal}/{lio.iqn}")
            first.cli("volume", "add", "alpha", "--image", "lio/0")
            job = backup(first, "--to", "lio/1")
        assert job["state"] == "done"
        return job, third_party_copies(capture, lio.port)


def third_party_copies(capture: Path, port: int) -> list[bytes]:
    """The data of each EXTENDED COPY (b"" for RECEIVE COPY RESULTS) command in a capture."""
    done = subprocess.run(
        [
            *("tshark", "-r", str(capture), "-d", f"tcp.port=={port},iscsi"),
            *("-Y", f"tcp.dstport == {port} and scsi_sbc.opcode in {{0x83, 0x84}}"),
            *("-T", "fields", "-e", "tcp.payload"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = []
    for line in done.stdout.split():
        payload = bytes.fromhex(line)
        while payload:
            length = int.from_bytes(payload[5:8], "big")
            if payload[0] & 0x3F == 1 and payload[32] in (0x83, 0x84):
                found.append(payload[48 : 48 + length] if payload[32] == 0x83 else b"")
            payload = payload[48 + (length + 3) // 4 * 4 :]
    return found
