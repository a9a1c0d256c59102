"""SANITIZE handed to the second controller that owns the LU: what is sent, what proves its end, and
what becomes of it when the connection, or whoever follows it, goes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from daiko.backend import sanitize
from daiko.backend.remote_lu import RemoteLu
from daiko.backend.second_controller import SecondController
from daiko.device import awaitable
from daiko.device.block import Capabilities, Level
from daiko.device.error import Busy, DeviceError, MediumFailure, Unreachable, Unsupported
from daiko.device.sanitize import Sanitization
from daiko.initiator.command import Command
from daiko.scsi import sense
from daiko.scsi.medium_parameters import Overwrite
from daiko.scsi.opcode import Opcode, Status
from daiko.scsi.sbc import SanitizeBlockErase
from daiko.scsi.sense import Sense, SenseKey
from working_backend import BLOCKS, SIZE, BackEnd, until

PATTERN = b"\x5a\xa5"
OVERWRITE = Sanitization(Overwrite(PATTERN), is_restricted=True, blocks=BLOCKS)
ERASE = Sanitization(None, is_restricted=False, blocks=BLOCKS)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitize, "FIRST_POLL", 0.001)
    monkeypatch.setattr(sanitize, "LONGEST_POLL", 0.005)


class Watcher:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.taken = 0
        self.seen: list[int] = []
        self.outcome: list[DeviceError | None] = []
        self.has_ended = asyncio.Event()

    def taken_over(self) -> None:
        self.taken += 1

    def progressed(self, parts: int) -> None:
        self.seen.append(parts)

    def ended(self, error: DeviceError | None) -> None:
        self.outcome.append(error)
        self.has_ended.set()

    async def end(self) -> DeviceError | None:
        """How it ended."""
        async with asyncio.timeout(60):
            await self.has_ended.wait()
        (outcome,) = self.outcome
        return outcome


def begin(
    controller: SecondController, wanted: Sanitization = OVERWRITE, *, resume: bool = False
) -> Watcher:
    watcher = Watcher()
    assert controller.device(0).sanitize(wanted, watcher, resume=resume) is not None
    assert not watcher.outcome
    return watcher


@pytest.mark.parametrize(
    ("wanted", "cdb", "parameters"),
    [
        pytest.param(
            Sanitization(Overwrite(b"\xaa\x55", 3, invert=True), is_restricted=True, blocks=BLOCKS),
            "48 81 00 00 00 00 00 00 06 00",
            "83 00 00 02 aa 55",
            id="overwrite",
        ),
        pytest.param(
            Sanitization(Overwrite(b"\0" * 512), is_restricted=False, blocks=BLOCKS),
            "48 a1 00 00 00 00 00 02 04 00",
            "01 00 02 00" + " 00" * 512,
            id="overwrite with a block, AUSE",
        ),
        pytest.param(
            Sanitization(None, is_restricted=True, blocks=BLOCKS),
            "48 82 00 00 00 00 00 00 00 00",
            "",
            id="erase",
        ),
        pytest.param(ERASE, "48 a2 00 00 00 00 00 00 00 00", "", id="erase, AUSE"),
    ],
)
def test_command_is_as_by_hand(wanted: Sanitization, cdb: str, parameters: str) -> None:
    assert sanitize.command_of(wanted) == (bytes.fromhex(cdb), bytes.fromhex(parameters))


async def test_progress_and_end_are_what_the_lu_says() -> None:
    async with BackEnd() as backend:
        controller = await backend.connect()
        backend.hold()
        watcher = begin(controller)
        while backend.units[0].medium_state is None or backend.units[0].medium.work is not None:
            told = len(watcher.seen)
            await until(lambda told=told: len(watcher.seen) > told + 1)  # type: ignore[misc]
            backend.devices[0].release()
            await asyncio.sleep(0)
        assert await watcher.end() is None
        assert watcher.taken == 1
        assert watcher.seen == sorted(watcher.seen)
        assert len(set(watcher.seen)) == 5  # four chunks of 1 MiB, and the flush
        assert backend.access.count(Opcode.SANITIZE) == 1
        assert backend.access.count(Opcode.WRITE_10) == 0
        backend.let_go()
        data = bytes(await awaitable.read(controller.device(0), 0, 8))
        assert data == PATTERN * (8 * SIZE // 2)


async def test_lu_is_asked_at_a_bounded_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    async with BackEnd() as backend:
        controller = await backend.connect()
        backend.hold()
        monkeypatch.setattr(sanitize, "FIRST_POLL", 0.1)
        monkeypatch.setattr(sanitize, "LONGEST_POLL", 10.0)
        monkeypatch.setattr(sanitize.asyncio, "sleep", note)
        watcher = begin(controller)
        while len(pauses) < 10:
            await sleep(0)
        monkeypatch.setattr(sanitize.asyncio, "sleep", sleep)
        assert pauses[:10] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]
        monkeypatch.setattr(sanitize, "LONGEST_POLL", 0.001)
        backend.let_go()
        assert not watcher.outcome


@pytest.mark.parametrize("code", [(0x20, 0x00), (0x24, 0x00), (0x26, 0x00), (0x1A, 0x00)])
async def test_command_that_is_refused_is_unsupported(code: tuple[int, int]) -> None:
    async with BackEnd() as backend:
        controller = await backend.connect()
        refusal = Sense(SenseKey.ILLEGAL_REQUEST, *code)
        backend.access.sense_for[Opcode.SANITIZE] = refusal.fixed()
        watcher = begin(controller)
        assert isinstance(await watcher.end(), Unsupported)
        assert watcher.taken == 0


INITIALIZING = Sense(SenseKey.NOT_READY, 0x04, 0x02).fixed()


@pytest.mark.parametrize("opcode", [Opcode.SANITIZE, Opcode.TEST_UNIT_READY])
@pytest.mark.parametrize("answer", [INITIALIZING, b""], ids=["not ready", "busy"])
async def test_lu_that_is_not_ready_for_another_reason_may_be_asked_again(
    opcode: Opcode, answer: bytes
) -> None:
    async with BackEnd() as backend:
        controller = await backend.connect()
        backend.access.sense_for[opcode] = answer
        assert isinstance(await begin(controller).end(), Busy)


async def test_what_is_not_listed_is_not_sent() -> None:
    async with BackEnd() as backend:
        backend.access.sense_for[Opcode.MAINTENANCE_IN] = sense.invalid_opcode().fixed()
        silent = await backend.connect()
        assert silent.device(0).sanitize(OVERWRITE, Watcher()) is None
        assert backend.access.count(Opcode.SANITIZE) == 0


async def test_block_erase_is_sent_only_where_blocks_can_be_read_after_it() -> None:
    async with BackEnd() as backend:
        thin = await backend.connect()
        assert thin.device(0).sanitize(ERASE, Watcher()) is not None
        facts = thin.units[0]
        device = RemoteLu(thin, "sd1/0", 0)
        object.__setattr__(facts.characteristics, "wabereq", 2)
        device.learn(facts)
        assert device.sanitize(ERASE, Watcher()) is None
        await until(lambda: backend.access.count(Opcode.SANITIZE) == 1)


async def test_failure_is_one_and_the_lu_can_be_opened_again() -> None:
    async with BackEnd() as backend:
        controller = await backend.connect()
        device = controller.device(0)
        backend.faults[0].fail(error=lambda: MediumFailure("bad", writing=True), times=1)
        watcher = begin(
            controller, Sanitization(Overwrite(b"x"), is_restricted=False, blocks=BLOCKS)
        )
        assert isinstance(await watcher.end(), MediumFailure)
        with pytest.raises(MediumFailure):
            await awaitable.read(device, 0, 1)
        left: asyncio.Future[DeviceError | None] = asyncio.get_running_loop().create_future()
        device.exit_failure_mode(left.set_result)
        assert await left is None
        await awaitable.read(device, 0, 1)
        sent = [cdb[:10].hex() for cdb in backend.access.cdbs if cdb[0] == Opcode.SANITIZE]
        assert sent == ["48a10000000000000500", "481f0000000000000000"]


async def test_failed_lu_can_be_sanitized_anew() -> None:
    async with BackEnd() as backend:
        controller = await backend.connect()
        backend.faults[0].fail(error=lambda: MediumFailure("bad", writing=True), times=1)
        assert isinstance(await begin(controller).end(), MediumFailure)
        assert await begin(controller).end() is None


async def test_work_that_outlives_the_session_is_followed_in_the_next() -> None:
    async with BackEnd() as backend:
        controller = await backend.connect()
        backend.hold()
        watcher = begin(controller)
        await until(lambda: bool(watcher.seen))
        await backend.stop()
        await backend.start()
        told = len(watcher.seen)
        await until(lambda: len(watcher.seen) > told)
        backend.let_go()
        assert await watcher.end() is None
        assert backend.access.count(Opcode.SANITIZE) == 1


async def test_end_that_nobody_saw_is_no_proof_and_it_is_sent_again() -> None:
    async with BackEnd() as backend:
        controller = await backend.connect()
        backend.hold()
        watcher = begin(controller)
        await until(lambda: bool(watcher.seen))
        await backend.stop()
        backend.let_go()
        await until(lambda: backend.units[0].medium.work is None)
        await backend.start()
        assert await watcher.end() is None
        assert backend.access.count(Opcode.SANITIZE) == 2


@pytest.mark.parametrize(
    ("state", "sent"), [("at work", 1), ("ready", 2)], ids=["at work", "ready"]
)
async def test_after_a_restart_what_is_at_work_is_followed_and_all_else_begun_again(
    state: str, sent: int
) -> None:
    async with BackEnd() as backend:
        first = await backend.connect()
        backend.hold()
        before = begin(first)
        await until(lambda: bool(before.seen))
        await first.close()
        if state == "ready":
            backend.let_go()
            await until(lambda: backend.units[0].medium.work is None)
        second = await backend.connect(sizes=first_sizes(first))
        watcher = begin(second, resume=True)
        if state == "at work":
            await until(lambda: bool(watcher.seen))
            backend.let_go()
        assert await watcher.end() is None
        assert backend.access.count(Opcode.SANITIZE) == sent


def first_sizes(controller: SecondController) -> object:
    return {lun: facts.capacity for lun, facts in controller.units.items()}


async def test_after_a_restart_a_failure_is_reported_and_not_tried_again() -> None:
    async with BackEnd() as backend:
        first = await backend.connect()
        backend.faults[0].fail(error=lambda: MediumFailure("bad", writing=True), times=1)
        assert isinstance(await begin(first).end(), MediumFailure)
        await first.close()
        second = await backend.connect(sizes=first_sizes(first))
        assert isinstance(await begin(second, resume=True).end(), MediumFailure)
        assert backend.access.count(Opcode.SANITIZE) == 1


async def test_one_of_another_initiator_is_waited_for_and_not_taken_for_ours() -> None:
    async with BackEnd() as backend:
        controller = await backend.connect()
        backend.hold()
        outcome = await controller.execute(0, SanitizeBlockErase.pack(immed=1))
        assert outcome.status == Status.GOOD
        watcher = begin(controller)
        await until(lambda: bool(watcher.seen))
        assert watcher.taken == 0
        backend.let_go()
        assert await watcher.end() is None
        assert watcher.taken == 1
        assert bytes(await awaitable.read(controller.device(0), 0, 1)) == PATTERN * (SIZE // 2)


async def test_lu_that_has_grown_unnoticed_is_not_sanitized_as_a_whole() -> None:
    async with BackEnd(blocks=BLOCKS) as backend:
        controller = await backend.connect()
        backend.units[0].blocks *= 2
        watcher = begin(controller)
        error = await watcher.end()
        assert isinstance(error, Unsupported)
        assert str(error) == f"sd1/0 has {2 * BLOCKS} blocks, not {BLOCKS}"
        assert backend.access.count(Opcode.SANITIZE) == 0


async def test_lu_that_is_known_to_have_grown_is_not_asked_on_behalf_of_a_part() -> None:
    async with BackEnd() as backend:
        controller = await backend.connect()
        part = replace(OVERWRITE, blocks=BLOCKS - 1)
        assert controller.device(0).sanitize(part, Watcher()) is None
        error = await begin(controller, part, resume=True).end()
        assert isinstance(error, Unsupported)
        assert backend.access.count(Opcode.SANITIZE) == 0


async def test_lu_that_was_withdrawn_is_sent_nothing() -> None:
    async with BackEnd() as backend:
        controller = await backend.connect()
        controller.device(0).withdraw("it is another LU")
        sent = len(backend.access.cdbs)
        for resume in (False, True):
            error = await begin(controller, resume=resume).end()
            assert isinstance(error, Unreachable)
        assert len(backend.access.cdbs) == sent


async def test_stopping_ends_the_questions_and_not_the_work() -> None:
    async with BackEnd() as backend:
        controller = await backend.connect()
        backend.hold()
        watcher = Watcher()
        stop = controller.device(0).sanitize(OVERWRITE, watcher)
        assert stop is not None
        await until(lambda: bool(watcher.seen))
        stop()
        asked = backend.access.count(Opcode.TEST_UNIT_READY)
        backend.let_go()
        await until(lambda: backend.units[0].medium.work is None)
        assert backend.access.count(Opcode.TEST_UNIT_READY) <= asked + 1
        assert watcher.outcome == []


class ScriptedPort:
    """An LU that tells how far it is by REQUEST SENSE only, and once has news there."""

    command_timeout = 5.0
    generation = 0

    def __init__(self, *sensed: Sense) -> None:
        self.sensed = list(sensed)
        self.attentions: list[tuple[int, int]] = []
        self.is_begun = False
        self.sanitizes = 0

    def send(self, command: Command) -> None:
        busy = Sense(SenseKey.NOT_READY, 0x04, 0x1B).fixed()
        match command.cdb[0]:
            case Opcode.SANITIZE:
                self.sanitizes += 1
                command.end(None, 0, b"", b"")
            case Opcode.TEST_UNIT_READY if self.sensed:
                command.end(None, 2, b"", busy)
            case Opcode.REQUEST_SENSE:
                command.end(None, 0, self.sensed.pop(0).fixed(), b"")
            case Opcode.SERVICE_ACTION_IN_16:
                command.end(None, 2, b"", busy)
            case _:
                command.end(None, 0, b"", b"")

    def unit_attention(self, lun: int, asc: int, ascq: int) -> None:
        self.attentions.append((asc, ascq))


def scripted(port: ScriptedPort) -> RemoteLu:
    device = RemoteLu(port, "sd1/0", 0)
    device.absence = ""
    device.capabilities = Capabilities(Level.NONE, Level.NONE, Level.NONE, Level.NATIVE)
    return device


def at_work(progress: int) -> Sense:
    return sense.sanitize_in_progress(progress)


async def test_progress_comes_from_request_sense_where_test_unit_ready_has_none() -> None:
    port = ScriptedPort(at_work(100), at_work(200), at_work(300))
    watcher = Watcher()
    scripted(port).sanitize(OVERWRITE, watcher, resume=True)
    assert await watcher.end() is None
    assert watcher.seen == [100, 200, 300]
    assert port.sanitizes == 0


async def test_news_in_request_sense_is_passed_on_and_proves_nothing() -> None:
    reset = Sense(SenseKey.UNIT_ATTENTION, 0x29, 0x02)
    port = ScriptedPort(at_work(100), reset)
    watcher = Watcher()
    scripted(port).sanitize(OVERWRITE, watcher, resume=True)
    assert await watcher.end() is None
    assert port.attentions == [(0x29, 0x02)]
    assert port.sanitizes == 1
