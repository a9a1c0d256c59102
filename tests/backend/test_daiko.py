"""Daiko as second controller of Daiko: the two ports against each other, with every optional
command, and the probe of a controller that copies to other machines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from daiko.backend.probe import probe, probe_reach
from daiko.backend.remote_lu import RemoteLu
from daiko.backend.second_controller import SecondController
from daiko.command_control.naming import DeviceAddress
from daiko.command_control.plan import Function
from daiko.device.block import Level
from daiko.initiator.settings import InitiatorSettings
from daiko.mapping.extent import DeviceId
from device.suite import BlockDeviceSuite
from processes import Daiko, Tgt, free_port, image

INITIATOR = "iqn.2026-11.com.example:first"


@pytest.fixture(scope="module")
def daiko(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daiko]:
    folder = tmp_path_factory.mktemp("daiko")
    disks = [image(folder / name, 8 << 20) for name in ("a", "b")]
    with Daiko(folder, disks[0], lun={1: [disks[1]]}, name="sd1") as daiko:
        yield daiko


@pytest.fixture
async def controller(daiko: Daiko) -> AsyncIterator[SecondController]:
    controller = SecondController("sd1", daiko.iqn, [daiko.portal], INITIATOR)
    await controller.open()
    yield controller
    await controller.close()


class TestDaikoLu(BlockDeviceSuite):
    @pytest.fixture
    def device(self, controller: SecondController) -> RemoteLu:
        return controller.device(0)


class TestDaikoLuWithDigests(BlockDeviceSuite):
    """Header and data digests both ways, and all data solicited."""

    @pytest.fixture
    async def device(self, daiko: Daiko) -> AsyncIterator[RemoteLu]:
        settings = InitiatorSettings(
            header_digest=True, data_digest=True, immediate_data=False, initial_r2t=True
        )
        controller = SecondController(
            "sd1", daiko.iqn, [daiko.portal], INITIATOR, settings=settings
        )
        await controller.open()
        assert controller.nexus is not None
        assert (controller.nexus.header_digest, controller.nexus.data_digest) == (True, True)
        yield controller.device(0)
        await controller.close()


async def test_every_optional_operation_is_native(controller: SecondController) -> None:
    has = controller.device(0).capabilities
    assert {has.unmap, has.write_same, has.compare_and_write, has.fua} == {Level.NATIVE}
    assert has.unmapped_reads_zero
    assert not has.read_only


def directory(controller: SecondController, daiko: Daiko) -> dict[DeviceId, DeviceAddress]:
    found = {}
    for lun, unit in controller.units.items():
        device = DeviceId(controller.name, lun)
        found[device] = DeviceAddress(
            device,
            512,
            tuple(designator.pack() for designator in unit.identity),
            daiko.iqn,
            (daiko.portal,),
            lun,
            unit.inquiry.third_party_copy,
        )
    return found


def allow(daiko: Daiko, portal: str) -> None:
    """Let the one host name LUs behind this portal in its copy commands."""
    (host,) = daiko.rest("GET", "/v1/hosts").raise_for_status().json()
    daiko.rest(
        "POST", f"/v1/hosts/{host['name']}/remote-copy", json={"portals": [portal]}
    ).raise_for_status()


class TestProbe:
    async def test_it_copies_also_to_other_machines(self, controller: SecondController) -> None:
        result = await probe(controller)
        assert [(facts.lun, facts.blocks) for facts in result.devices] == [(0, 16384), (1, 16384)]
        cell = result.cells[Function.DIRECT_BACKUP]
        assert cell.can
        assert cell.limits is not None
        assert {0x02, 0x07} <= set(cell.limits.segment_types)
        assert {0xE4, 0xE6} <= set(cell.limits.cscd_types)
        assert cell.limits.aliases

    async def test_it_reaches_its_own_logical_units(
        self, controller: SecondController, daiko: Daiko
    ) -> None:
        limits = (await probe(controller)).cells[Function.DIRECT_BACKUP].limits
        assert limits is not None
        known = directory(controller, daiko)
        for address in known.values():
            assert (await probe_reach(controller, address, limits, known)).can

    async def test_reach_of_another_machine_follows_its_rights_and_the_network(
        self, controller: SecondController, daiko: Daiko, tmp_path: Path
    ) -> None:
        limits = (await probe(controller)).cells[Function.DIRECT_BACKUP].limits
        assert limits is not None
        known = directory(controller, daiko)
        with Tgt(tmp_path, image(tmp_path / "disk", 4 << 20)) as vault:
            address = DeviceAddress(
                DeviceId("vault", 1), 512, (), vault.iqn, (vault.portal,), 1, False
            )
            refused = await probe_reach(controller, address, limits, known)
            assert (refused.can, "26/15" in refused.reason) == (False, True)
            allow(daiko, vault.portal)
            cell = await probe_reach(controller, address, limits, known)
            assert cell.can, cell.reason
        nowhere = f"127.0.0.1:{free_port()}"
        allow(daiko, nowhere)
        address = replace(address, portals=(nowhere,))
        cell = await probe_reach(controller, address, limits, known)
        assert (cell.can, "26/15" in cell.reason) == (False, False)
