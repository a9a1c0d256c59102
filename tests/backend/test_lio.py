"""The Linux kernel's own target as second controller: a peer that nobody here wrote and that does
answer EXTENDED COPY. One guest for the whole module."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from daiko.backend.probe import probe, probe_reach
from daiko.backend.remote_lu import RemoteLu
from daiko.backend.second_controller import SecondController
from daiko.command_control.function_table import CopyLimits
from daiko.command_control.naming import DeviceAddress
from daiko.command_control.plan import Function
from daiko.device import awaitable
from daiko.device.block import Level
from daiko.initiator.settings import InitiatorSettings
from daiko.mapping.extent import DeviceId
from daiko.scsi.copy_parameters import ExtendedCopy, ListIdUsage
from daiko.scsi.cscd import IdentificationCscd
from daiko.scsi.opcode import Status
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.spc import ExtendedCopyLid1
from daiko.scsi.vpd import parse_designators
from device.suite import BlockDeviceSuite, pattern
from processes import free_port

pytestmark = pytest.mark.lab

LAB = Path(__file__).parents[1] / "lab"
INITIATOR = "iqn.2026-11.com.example:daiko"
QUICK = InitiatorSettings(tick=0.05, reconnect_first=0.02, grace=60.0)


def lab(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(LAB / "lio-target"), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def lio() -> Iterator[dict[str, Any]]:
    name = f"backend{free_port()}"
    ports = [str(free_port()), str(free_port())]
    started = lab(
        *("start", "--name", name, "--luns", "3", "--size", "16"),
        *("--port", ports[0], "--port", ports[1]),
    )
    try:
        lab(
            "run",
            "--name",
            name,
            "echo 0 > $(dirname /sys/kernel/config/target/core/*/lun2/attrib/emulate_3pc)"
            "/emulate_3pc",
        )
        yield json.loads(started)
    finally:
        lab("stop", "--name", name)


def portals(lio: dict[str, Any]) -> list[str]:
    return [f"127.0.0.1:{port}" for port in lio["ports"]]


@pytest.fixture
async def controller(lio: dict[str, Any]) -> AsyncIterator[SecondController]:
    controller = SecondController("lio", lio["iqn"], portals(lio), INITIATOR, settings=QUICK)
    await controller.open()
    yield controller
    await controller.close()


class TestLioLu(BlockDeviceSuite):
    """An LU of the kernel's target behaves as any device."""

    @pytest.fixture
    def device(self, controller: SecondController) -> RemoteLu:
        return controller.device(0)


async def addresses(controller: SecondController) -> dict[DeviceId, DeviceAddress]:
    """The directory that the probe's own findings make."""
    found = {}
    for facts in (await probe(controller)).devices:
        device = DeviceId(controller.name, facts.lun)
        found[device] = DeviceAddress(
            device,
            facts.block_size,
            tuple(bytes.fromhex(text) for text in facts.designators),
            controller.iqn,
            ("127.0.0.1:1",),
            facts.lun,
            facts.third_party_copy,
        )
    return found


async def limits_of(controller: SecondController) -> CopyLimits:
    limits = (await probe(controller)).cells[Function.DIRECT_BACKUP].limits
    assert limits is not None
    return limits


class TestProbe:
    async def test_capable_controller_says_what_it_takes(
        self, controller: SecondController
    ) -> None:
        result = await probe(controller)
        cell = result.cells[Function.DIRECT_BACKUP]
        assert cell.can
        assert cell.on.startswith("LIO-ORG")
        assert cell.limits == CopyLimits(
            max_cscds=2,
            max_segments=1,
            max_list_bytes=1024,
            max_segment_bytes=256 << 20,
            concurrent=1,
            no_list_id=True,
            segment_types=(0x02,),
            cscd_types=(0xE4,),
        )
        assert [facts.third_party_copy for facts in result.devices] == [True, True, False]

    async def test_identity_is_what_page_83h_says(
        self, controller: SecondController, lio: dict[str, Any]
    ) -> None:
        for facts, lu in zip((await probe(controller)).devices, lio["luns"], strict=True):
            assert facts.designators[0] == "01030010" + lu["naa"]
            assert facts.serial == lu["serial"]

    async def test_own_logical_units_are_reached_and_others_are_not(
        self, controller: SecondController
    ) -> None:
        directory = await addresses(controller)
        limits = await limits_of(controller)
        own = directory[DeviceId("lio", 1)]
        assert (await probe_reach(controller, own, limits, directory)).can
        elsewhere = DeviceAddress(
            DeviceId("vault", 0),
            512,
            (bytes.fromhex("0103001060014050000000000000000000000099"),),
            "iqn.2026-11.com.example:vault",
            ("127.0.0.1:1",),
            0,
        )
        cell = await probe_reach(controller, elsewhere, limits, directory)
        assert not cell.can
        assert "0D/02" in cell.reason


class TestCopy:
    async def test_extended_copy_moves_the_blocks(self, controller: SecondController) -> None:
        directory = await addresses(controller)
        source, destination = (directory[DeviceId("lio", lun)] for lun in (0, 1))
        data = pattern(2048, 512, 7)
        await awaitable.write(controller.device(0), 100, data)
        cscds = tuple(
            IdentificationCscd(parse_designators(lu.designators[0])[0], block_length=512)
            for lu in (source, destination)
        )
        segment = BlockToBlock(0, 1, 2048, 100, 5000)
        parameters = ExtendedCopy(0, ListIdUsage.DISABLE, cscds, (segment,)).pack()
        cdb = ExtendedCopyLid1.pack(parameter_list_length=len(parameters))
        answer = await controller.execute(0, cdb, parameters)
        assert (answer.status, answer.sense) == (Status.GOOD, b"")
        assert bytes(await awaitable.read(controller.device(1), 5000, 2048)) == data


class TestPaths:
    async def test_second_portal_takes_over_with_commands_in_flight(
        self, controller: SecondController, lio: dict[str, Any]
    ) -> None:
        device = controller.device(0)
        first = controller.nexus
        assert first is not None
        data = pattern(4096, 512, 9)
        generation = controller.generation
        write = awaitable.write(device, 0, data)
        assert controller._paths.session is not None
        controller._paths.session.drop("pulled by the test")
        await write
        second = controller.nexus
        assert second is not None
        assert first.portal != second.portal
        assert controller.generation > generation
        assert bytes(await awaitable.read(device, 0, 4096)) == data

    async def test_optional_operations_are_those_that_it_has(
        self, controller: SecondController
    ) -> None:
        has = controller.device(0).capabilities
        assert has.compare_and_write is Level.NATIVE
        assert has.fua in (Level.NATIVE, Level.EMULATED)
