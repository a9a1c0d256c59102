"""A second controller, tried on tgt: a target that nobody here wrote."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from daiko.backend import lu_facts, unit_looks
from daiko.backend.lu_facts import LuFacts
from daiko.backend.remote_lu import RemoteLu
from daiko.backend.second_controller import SecondController
from daiko.device import awaitable
from daiko.device.error import Aborted, Busy, Refused, Unreachable
from daiko.initiator.settings import InitiatorSettings
from daiko.scsi.opcode import Status
from daiko.scsi.sbc import Read10
from daiko.scsi.sense import SenseKey, parse_sense
from daiko.scsi.spc import TestUnitReady as TestUnitReadyCdb
from device.suite import BlockDeviceSuite, Outcomes, pattern
from processes import Tgt, image

INITIATOR = "iqn.2026-11.com.example:daiko"
QUICK = InitiatorSettings(
    tick=0.05,
    grace=60.0,
    reconnect_first=0.02,
    reconnect_longest=0.2,
    login_timeout=10.0,
)


@pytest.fixture(scope="module")
def tgt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tgt]:
    folder = tmp_path_factory.mktemp("tgt")
    with Tgt(folder, image(folder / "a", 16 << 20), image(folder / "b", 8 << 20, seed=1)) as tgt:
        yield tgt


def controller_of(tgt: Tgt, *, settings: InitiatorSettings = QUICK) -> SecondController:
    return SecondController("sd1", tgt.iqn, [tgt.portal], INITIATOR, settings=settings)


@pytest.fixture
async def controller(tgt: Tgt) -> AsyncIterator[SecondController]:
    controller = controller_of(tgt)
    await controller.open()
    yield controller
    await controller.close()


class TestRemoteLu(BlockDeviceSuite):
    """An LU of tgt behaves as any device."""

    @pytest.fixture
    def device(self, controller: SecondController) -> RemoteLu:
        return controller.device(1)


@pytest.fixture(scope="module")
def strict_tgt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tgt]:
    folder = tmp_path_factory.mktemp("tgt")
    with Tgt(folder, image(folder / "a", 16 << 20), name="strict") as tgt:
        for name in ("HeaderDigest", "DataDigest"):
            tgt.admin(
                *("--mode", "target", "--op", "update", "--tid", "1"),
                *("--name", name, "--value", "CRC32C"),
            )
        yield tgt


class TestRemoteLuWithDigests(BlockDeviceSuite):
    """The same with header and data digests and without immediate data."""

    @pytest.fixture
    async def device(self, strict_tgt: Tgt) -> AsyncIterator[RemoteLu]:
        settings = InitiatorSettings(
            header_digest=True, data_digest=True, immediate_data=False, initial_r2t=True
        )
        controller = controller_of(strict_tgt, settings=settings)
        await controller.open()
        assert controller.nexus is not None
        assert (controller.nexus.header_digest, controller.nexus.data_digest) == (True, True)
        yield controller.device(1)
        await controller.close()


class TestOpen:
    async def test_units_are_known_after_open(self, controller: SecondController) -> None:
        assert sorted(controller.units) == [0, 1, 2]
        assert not controller.units[0].is_disk  # the controller device of tgt
        capacity = controller.units[2].capacity
        assert capacity is not None
        assert (capacity.blocks, capacity.block_size) == (16384, 512)
        assert controller.units[1].inquiry.vendor == "IET"
        assert controller.units[1].identity != controller.units[2].identity
        assert controller.is_connected

    async def test_nexus_says_who_is_in_session(
        self, controller: SecondController, tgt: Tgt
    ) -> None:
        nexus = controller.nexus
        assert nexus is not None
        assert (nexus.initiator_name, nexus.target_name) == (INITIATOR, tgt.iqn)
        assert str(nexus.portal) == tgt.portal
        assert nexus.in_flight == 0

    async def test_portal_that_nobody_listens_on_is_unreachable(self, tgt: Tgt) -> None:
        controller = SecondController("sd1", tgt.iqn, ["127.0.0.1:1"], INITIATOR, settings=QUICK)
        for _ in range(2):
            with pytest.raises(Unreachable, match="refused"):
                await controller.open()
        assert not controller.is_connected
        assert "127.0.0.1:1: Connection refused" in controller.last_error

    async def test_target_that_is_not_there_is_unreachable(self, tgt: Tgt) -> None:
        controller = SecondController(
            "sd1", "iqn.2026-11.com.example:other", [tgt.portal], INITIATOR, settings=QUICK
        )
        with pytest.raises(Unreachable, match="not found"):
            await controller.open()

    async def test_first_portal_that_answers_is_taken(self, tgt: Tgt) -> None:
        controller = SecondController(
            "sd1", tgt.iqn, ["127.0.0.1:1", tgt.portal], INITIATOR, settings=QUICK
        )
        await controller.open()
        assert controller.nexus is not None
        assert str(controller.nexus.portal) == tgt.portal
        await controller.close()

    @pytest.mark.parametrize("portals", [[], ["host:port"], ["[::1"], ["h:0"], ["h:"]])
    def test_impossible_portals_are_refused(self, portals: list[str]) -> None:
        with pytest.raises(ValueError, match="portal"):
            SecondController("sd1", "iqn.2026-11.com.example:t", portals, INITIATOR)


class TestExecute:
    async def test_status_and_sense_are_given_as_they_came(
        self, controller: SecondController
    ) -> None:
        good = await controller.execute(1, TestUnitReadyCdb.pack())
        assert (good.status, good.sense) == (Status.GOOD, b"")
        bad = await controller.execute(1, b"\x83" + bytes(15), b"")
        assert bad.status == Status.CHECK_CONDITION
        assert bad.sense[2] & 0x0F == 5

    async def test_lun_that_is_not_there_answers_for_itself(
        self, controller: SecondController
    ) -> None:
        answer = await controller.execute(77, TestUnitReadyCdb.pack())
        assert answer.status == Status.CHECK_CONDITION

    async def test_answer_shorter_than_asked_is_cut(self, controller: SecondController) -> None:
        answer = await controller.execute(1, bytes.fromhex("12000000ff00"), b"", 255)
        assert answer.status == Status.GOOD
        assert len(answer.data) == 5 + answer.data[4]

    async def test_after_close_commands_are_aborted(self, tgt: Tgt) -> None:
        controller = controller_of(tgt)
        await controller.open()
        device = controller.device(1)
        await controller.close()
        with pytest.raises(Aborted):
            await controller.execute(1, TestUnitReadyCdb.pack())
        with pytest.raises(Aborted):
            await awaitable.read(device, 0, 1)

    async def test_device_that_was_never_seen_is_unreachable(
        self, controller: SecondController
    ) -> None:
        for lun in (0, 9):  # no disk; not there
            with pytest.raises(Unreachable):
                await awaitable.read(controller.device(lun), 0, 1)


class TestManyInFlight:
    async def test_more_commands_than_the_window_complete_in_full(
        self, controller: SecondController
    ) -> None:
        device = controller.device(2)
        expected = random.Random(1).randbytes(8 << 20)
        found: dict[int, bytes] = {}
        outcomes = Outcomes()
        order = list(range(0, 16384, 16))
        random.Random(2).shuffle(order)
        for lba in order:

            def keep(error: object, data: object, lba: int = lba) -> None:
                found[lba] = bytes(data)  # type: ignore[call-overload]
                outcomes.note(error)  # type: ignore[arg-type]

            device.read(lba, 16, keep)
        assert controller.nexus is not None
        assert 0 < controller.nexus.in_flight <= QUICK.queue_depth
        await outcomes.all_of(1024)
        assert set(outcomes) == {None}
        assert b"".join(found[lba] for lba in sorted(found)) == expected

    async def test_split_read_larger_than_one_command_is_whole(
        self, controller: SecondController
    ) -> None:
        data = await awaitable.read(controller.device(2), 3, 16000)
        assert bytes(data) == random.Random(1).randbytes(8 << 20)[3 * 512 : 16003 * 512]

    async def test_writes_of_every_size_arrive(
        self, controller: SecondController, tgt: Tgt
    ) -> None:
        """Around every border of the transfer: immediate data, first burst, R2T, PDU length."""
        device = controller.device(1)
        sizes = [1, 15, 16, 17, 127, 128, 129, 511, 512, 513, 2047, 2048, 2049, 4100]
        lba = 0
        model = b""
        for number, blocks in enumerate(sizes):
            data = pattern(blocks, 512, number)
            model += data
            await awaitable.write(device, lba, data)
            lba += blocks
        await awaitable.flush(device)
        assert bytes(await awaitable.read(device, 0, lba)) == model
        assert await asyncio.to_thread(_head, tgt.files[0], len(model)) == model


def _head(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), length, 0)


class TestLoss:
    async def test_commands_in_flight_survive_a_restart_of_the_target(self, tmp_path: Path) -> None:
        with Tgt(tmp_path, image(tmp_path / "disk", 8 << 20)) as tgt:
            controller = controller_of(tgt)
            await controller.open()
            device = controller.device(1)
            generation = controller.generation
            outcomes = Outcomes()
            for lba in range(0, 2048, 8):
                device.write(lba, pattern(8, 512, lba), outcomes.note)
            tgt.kill()
            for lba in range(2048, 4096, 8):
                device.write(lba, pattern(8, 512, lba), outcomes.note)
            await asyncio.to_thread(tgt.start)
            await outcomes.all_of(512)
            assert set(outcomes) == {None}
            assert controller.generation > generation
            assert controller.is_connected
            for lba in range(0, 4096, 8):
                assert bytes(await awaitable.read(device, lba, 8)) == pattern(8, 512, lba)
            await controller.close()

    async def test_after_the_grace_time_requests_are_unreachable_until_it_is_back(
        self, tmp_path: Path
    ) -> None:
        with Tgt(tmp_path, image(tmp_path / "disk", 8 << 20)) as tgt:
            settings = InitiatorSettings(
                tick=0.05, grace=0.0, reconnect_first=0.02, reconnect_longest=0.1
            )
            controller = controller_of(tgt, settings=settings)
            await controller.open()
            device = controller.device(1)
            tgt.kill()
            with pytest.raises(Unreachable):
                await awaitable.read(device, 0, 1)
            with pytest.raises(Unreachable):
                await awaitable.write(device, 0, bytes(512))
            assert not controller.is_connected
            await asyncio.to_thread(tgt.start)
            async with asyncio.timeout(60):
                while True:
                    try:
                        await awaitable.read(device, 0, 1)
                        break
                    except Unreachable:
                        await asyncio.to_thread(os.sched_yield)
            await controller.close()

    async def test_flush_that_waits_for_a_restart_does_not_say_that_the_data_is_safe(
        self, tmp_path: Path
    ) -> None:
        with Tgt(tmp_path, image(tmp_path / "disk", 8 << 20)) as tgt:
            controller = controller_of(tgt)
            await controller.open()
            device = controller.device(1)
            await awaitable.write(device, 0, bytes(512))
            tgt.kill()
            flush = asyncio.ensure_future(awaitable.flush(device))
            await asyncio.to_thread(tgt.start)
            with pytest.raises(Refused) as refused:
                await flush
            sense = parse_sense(refused.value.sense)
            assert sense is not None
            assert (sense.key, sense.asc) == (SenseKey.UNIT_ATTENTION, 0x29)
            await awaitable.flush(device)
            await controller.close()

    async def test_copy_command_in_flight_at_the_loss_is_unreachable(self, tmp_path: Path) -> None:
        with Tgt(tmp_path, image(tmp_path / "disk", 8 << 20)) as tgt:
            controller = controller_of(tgt)
            await controller.open()
            os.kill(tgt.pid, 19)  # stopped: it takes the command and does not answer
            command = asyncio.ensure_future(controller.execute(1, b"\x83" + bytes(15)))
            await asyncio.to_thread(os.sched_yield)
            tgt.kill()
            with pytest.raises(Unreachable):
                await command
            await controller.close()

    async def test_other_lu_behind_the_same_number_is_withdrawn(self, tmp_path: Path) -> None:
        with Tgt(tmp_path, image(tmp_path / "disk", 8 << 20)) as tgt:
            controller = controller_of(tgt)
            await controller.open()
            device = controller.device(1)
            seen: list[tuple[int, str]] = []
            told = asyncio.Event()

            def changed(_: SecondController, lun: int, reason: str) -> None:
                seen.append((lun, reason))
                told.set()

            controller.on_lu_changed = changed
            tgt.kill()
            await asyncio.to_thread(image, tmp_path / "disk", 4 << 20)  # a smaller one
            outcomes = Outcomes()
            device.write(0, b"x" * 512, outcomes.note)
            await asyncio.to_thread(tgt.start)
            await asyncio.wait_for(told.wait(), 60)
            assert seen == [(1, "it has shrunk from 16384 to 8192 blocks")]
            with pytest.raises(Unreachable, match="shrunk"):
                await awaitable.read(device, 0, 1)
            await outcomes.all_of(1)
            assert isinstance(outcomes[0], Unreachable)  # it was meant for the old one
            read = await controller.execute(1, Read10.pack(transfer_length=1), b"", 512)
            assert (read.status, bytes(read.data)) == (Status.GOOD, bytes(512))
            await controller.close()

    async def test_close_aborts_what_is_in_flight(self, tmp_path: Path) -> None:
        settings = InitiatorSettings(
            tick=0.05, abort_timeout=0.3, reset_timeout=0.3, logout_timeout=0.3
        )
        with Tgt(tmp_path, image(tmp_path / "disk", 8 << 20)) as tgt:
            controller = controller_of(tgt, settings=settings)
            await controller.open()
            device = controller.device(1)
            os.kill(tgt.pid, 19)
            outcomes = Outcomes()
            for lba in range(200):
                device.read(lba, 1, lambda error, data: outcomes.note(error))
            await controller.close()
            await outcomes.all_of(200)
            assert {type(outcome) for outcome in outcomes} == {Aborted}


class TestSilence:
    async def test_silent_target_is_dropped_after_an_unanswered_ping(self, tmp_path: Path) -> None:
        settings = InitiatorSettings(
            tick=0.05, ping_interval=0.1, ping_timeout=0.2, grace=0.0, login_timeout=0.5
        )
        with Tgt(tmp_path, image(tmp_path / "disk", 8 << 20)) as tgt:
            controller = controller_of(tgt, settings=settings)
            await controller.open()
            os.kill(tgt.pid, 19)
            with pytest.raises(Unreachable, match="ping"):
                await controller.execute(1, TestUnitReadyCdb.pack())
            await controller.close()

    async def test_overdue_command_is_aborted_then_reset_then_the_connection_dropped(
        self, tmp_path: Path
    ) -> None:
        settings = InitiatorSettings(
            tick=0.05,
            abort_timeout=0.1,
            reset_timeout=0.1,
            logout_timeout=0.1,
            grace=0.0,
            login_timeout=0.5,
        )
        with Tgt(tmp_path, image(tmp_path / "disk", 8 << 20)) as tgt:
            controller = controller_of(tgt, settings=settings)
            await controller.open()
            os.kill(tgt.pid, 19)
            with pytest.raises(Unreachable, match="task management"):
                await controller.execute(1, TestUnitReadyCdb.pack(), timeout=0.1)
            await controller.close()


class TestLooksThatFail:
    """What comes between while units are looked at says nothing of what they are."""

    @pytest.fixture
    async def told(self, controller: SecondController) -> asyncio.Queue[tuple[int, str]]:
        told: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        controller.on_lu_changed = lambda _, lun, reason: told.put_nowait((lun, reason))
        for lun in (1, 2):
            controller.device(lun)
        return told

    @staticmethod
    def failing(
        monkeypatch: pytest.MonkeyPatch, lun: int, errors: list[Exception]
    ) -> list[Exception]:
        """Units are looked at as ever, but for one that fails so often first."""

        async def read_facts(controller: SecondController, number: int) -> LuFacts:
            if number == lun and errors:
                raise errors.pop(0)
            return await lu_facts.read_facts(controller, number)

        monkeypatch.setattr(unit_looks, "read_facts", read_facts)
        return errors

    async def test_unit_reset_by_another_host_meanwhile_is_asked_again_at_once(
        self,
        controller: SecondController,
        told: asyncio.Queue[tuple[int, str]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        errors = self.failing(monkeypatch, 1, [Aborted("reset"), Busy("no room")])
        controller.unit_attention(1 << 48, 0x2A, 0x09)
        while controller._looks.task is not None:
            await asyncio.wait([controller._looks.task])
        assert not errors
        assert told.empty()

    async def test_unit_that_does_not_answer_is_looked_at_until_it_does(
        self,
        controller: SecondController,
        told: asyncio.Queue[tuple[int, str]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        errors = self.failing(monkeypatch, 1, [Unreachable("no answer in time")] * 3)
        controller.unit_attention(1 << 48, 0x3F, 0x0E)
        assert await told.get() == (1, "it does not answer as before: no answer in time")
        with pytest.raises(Unreachable, match="does not answer as before"):
            await awaitable.read(controller.device(1), 0, 1)
        await awaitable.read(controller.device(2), 0, 1)
        assert await told.get() == (1, "")
        assert not errors
        await awaitable.read(controller.device(1), 0, 1)
