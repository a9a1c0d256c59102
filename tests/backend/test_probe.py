"""The probe against tgt, which can do nothing, and against the kernel's target (lab), which can."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from daiko.backend.probe import probe, probe_reach
from daiko.backend.second_controller import SecondController
from daiko.command_control.function_table import CopyLimits, Known
from daiko.command_control.naming import DeviceAddress
from daiko.command_control.plan import Function
from daiko.initiator.command import Command
from daiko.mapping.extent import DeviceId
from processes import Tgt, image

INITIATOR = "iqn.2026-11.com.example:daiko"
COPY_OPCODES = {0x83, 0x84}


@pytest.fixture
def tgt(tmp_path: Path) -> Iterator[Tgt]:
    with Tgt(tmp_path, image(tmp_path / "a", 4 << 20), image(tmp_path / "b", 8 << 20)) as tgt:
        yield tgt


class Recorder(SecondController):
    """Keeps the operation codes that go out."""

    def __init__(self, tgt: Tgt) -> None:
        super().__init__("sd3", tgt.iqn, [tgt.portal], INITIATOR)
        self.sent: list[int] = []
        submit = self._paths.submit

        def record(command: Command) -> None:
            self.sent.append(command.cdb[0])
            submit(command)

        self._paths.submit = record  # type: ignore[method-assign]


@pytest.fixture
async def controller(tgt: Tgt) -> AsyncIterator[Recorder]:
    controller = Recorder(tgt)
    await controller.open()
    yield controller
    await controller.close()


class TestIncapable:
    async def test_disks_are_found_and_the_controller_lun_is_not(
        self, controller: Recorder
    ) -> None:
        result = await probe(controller)
        assert [(facts.lun, facts.blocks) for facts in result.devices] == [(1, 8192), (2, 16384)]
        first = result.devices[0]
        assert (first.vendor, first.product, first.block_size) == ("IET", "VIRTUAL-DISK", 512)
        assert first.serial
        assert first.designators
        assert first.designators != result.devices[1].designators
        assert not first.third_party_copy

    async def test_it_cannot_and_is_sent_no_copy_command(self, controller: Recorder) -> None:
        result = await probe(controller)
        for function in Function:
            cell = result.cells[function]
            assert (cell.can, cell.known) == (False, Known.PROBED)
            assert "3PC 0" in cell.reason
            assert cell.on.startswith("IET VIRTUAL-DISK")
        assert controller.sent
        assert not COPY_OPCODES & set(controller.sent)

    async def test_designators_stand_best_first(self, controller: Recorder) -> None:
        kinds = [
            int(text[2:4], 16) & 0x0F for text in (await probe(controller)).devices[0].designators
        ]
        assert kinds == sorted(kinds, key=lambda kind: {3: 0, 2: 1, 1: 2}.get(kind, 3))

    async def test_reach_is_not_tried_without_an_able_unit(self, controller: Recorder) -> None:
        await probe(controller)
        address = DeviceAddress(
            DeviceId("vault", 0), 512, (), "iqn.2026-11.com.example:vault", ("127.0.0.1:1",), 0
        )
        cell = await probe_reach(controller, address, CopyLimits(2, 1, 92), {})
        assert not cell.can
        assert "takes copy commands" in cell.reason
        assert not COPY_OPCODES & set(controller.sent)
