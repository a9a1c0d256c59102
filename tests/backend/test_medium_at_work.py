"""A second controller's LU while its medium is at work: it says who it is, but not how large."""

from __future__ import annotations

import pytest

from daiko.backend.second_controller import SecondController
from daiko.device import awaitable
from daiko.device.error import MediumFailure, Refused, Unreachable
from daiko.scsi.block_data import Capacity
from daiko.scsi.opcode import Status
from daiko.scsi.sbc import SanitizeBlockErase
from working_backend import BLOCKS, SIZE, BackEnd, until


async def erase(backend: BackEnd, by: SecondController, lun: int = 0) -> None:
    """Another initiator sanitizes the unit, and it does not come to an end."""
    backend.hold(lun)
    outcome = await by.execute(lun, SanitizeBlockErase.pack(immed=1, ause=1))
    assert outcome.status == Status.GOOD


async def test_unit_stays_in_use_over_a_new_session_and_works_again_at_the_end() -> None:
    async with BackEnd() as backend:
        controller = await backend.connect()
        device = controller.device(0)
        told: list[tuple[int, str]] = []
        controller.on_lu_changed = lambda _, lun, reason: told.append((lun, reason))
        before = controller.units[0]
        await erase(backend, controller)
        await backend.stop()
        await backend.start()
        await until(lambda: controller.is_connected)
        assert (device.absence, told) == ("", [])
        with pytest.raises(Refused, match="SANITIZE IN PROGRESS"):
            await awaitable.read(device, 0, 1)
        backend.let_go()
        await until(lambda: backend.units[0].medium.work is None)
        assert bytes(await awaitable.read(device, 0, 1)) == bytes(SIZE)
        await until(lambda: not controller.units[0].is_at_work)  # it was looked at again
        assert (controller.units[0], told) == (before, [])


async def test_unit_that_is_another_one_is_withdrawn_whatever_it_does() -> None:
    async with BackEnd(1) as backend, BackEnd(2) as other:
        controller = await backend.connect()
        device = controller.device(0)
        told: list[str] = []
        controller.on_lu_changed = lambda _, lun, reason: told.append(reason)
        await erase(other, await other.connect())
        await backend.stop()
        await other.stop()
        other.portal = backend.portal
        await other.start()
        await until(lambda: bool(told))
        assert told == ["it shows another identity than before: it is another LU"]
        with pytest.raises(Unreachable, match="another LU"):
            await awaitable.read(device, 0, 1)
        other.let_go()


@pytest.mark.parametrize("has_failed", [False, True], ids=["at work", "failed"])
async def test_controller_that_comes_up_meanwhile_takes_it_as_large_as_it_was(
    has_failed: bool,
) -> None:
    async with BackEnd(1, 2) as backend:
        first = await backend.connect()
        if has_failed:
            backend.faults[0].fail(error=lambda: MediumFailure("bad", writing=True), times=1)
        await erase(backend, first)
        if has_failed:
            backend.let_go()
            await until(lambda: bool(backend.units[0].medium.bars & 1 << 8))
        await first.close()
        controller = await backend.connect(sizes={0: Capacity(BLOCKS, SIZE)})
        assert controller.units[0].is_at_work
        assert (controller.device(0).blocks, controller.device(0).absence) == (BLOCKS, "")
        with pytest.raises(MediumFailure if has_failed else Refused, match="SANITIZE"):
            await awaitable.read(controller.device(0), 0, 1)
        assert bytes(await awaitable.read(controller.device(1), 0, 1)) == bytes(SIZE)
        backend.let_go()


async def test_unit_whose_size_nobody_knows_keeps_no_other_one_from_use() -> None:
    async with BackEnd(1, 2) as backend:
        await erase(backend, await backend.connect())
        controller = await backend.connect()
        assert not controller.units[0].is_disk
        with pytest.raises(Unreachable, match="no disk that is ready"):
            await awaitable.read(controller.device(0), 0, 1)
        assert bytes(await awaitable.read(controller.device(1), 0, 1)) == bytes(SIZE)
        backend.let_go()
        await until(lambda: controller.device(0).absence == "")
        assert controller.device(0).blocks == BLOCKS
