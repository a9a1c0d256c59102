"""Sessions and what becomes of commands, against a target that does what each test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from daiko.device.block import Buffer
from daiko.device.error import Aborted, DeviceError, Unreachable
from daiko.initiator.command import Command
from daiko.initiator.multipath import Multipath
from daiko.initiator.portal import Portal
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.bhs import FINAL, STATUS, TaskManagementFunction
from daiko.iscsi.error import LoginStatus
from daiko.iscsi.framing import encode
from daiko.iscsi.login import Admission
from daiko.iscsi.pdu import (
    AsyncMessage,
    DataIn,
    DataOut,
    NopIn,
    NopOut,
    ReadyToTransfer,
    Reject,
    ScsiCommand,
    ScsiResponse,
    TaskManagementRequest,
    TaskManagementResponse,
)
from daiko.scsi.opcode import Status
from daiko.scsi.sense import (
    invalid_opcode,
    overlapped_commands_attempted,
    power_on_occurred,
    reported_luns_data_changed,
)
from initiator.scripted_target import IQN, Link, ScriptedTarget

INITIATOR = "iqn.2026-11.com.example:daiko"
QUICK = InitiatorSettings(
    tick=0.01,
    command_timeout=30.0,
    task_management_timeout=0.05,
    ping_interval=30.0,
    grace=30.0,
    reconnect_first=0.01,
    reconnect_longest=0.05,
    busy_first=0.001,
    busy_longest=0.01,
    attempts=4,
)
READ = bytes.fromhex("28000000000000000100")
WRITE = bytes.fromhex("2a000000000000000100")
COPY = b"\x83" + bytes(15)

Answer = tuple[DeviceError | None, int, bytes, bytes]


class Watcher:
    """Lets commands go at once, and notes what happens."""

    def __init__(self, target: ScriptedTarget) -> None:
        self.target = target
        self.paths: Multipath | None = None
        self.holds = False
        self.started = 0
        self.reasons: list[str] = []
        self.attentions: list[tuple[int, int]] = []

    def nexus_started(self) -> None:
        self.started += 1
        self.target.event.set()
        if not self.holds and self.paths is not None:
            self.paths.release()

    def nexus_lost(self, reason: str) -> None:
        self.reasons.append(reason)

    def unit_attention(self, lun: int, asc: int, ascq: int) -> None:
        self.attentions.append((asc, ascq))


@pytest.fixture
async def target() -> AsyncIterator[ScriptedTarget]:
    async with ScriptedTarget() as target:
        yield target


@pytest.fixture
def watcher(target: ScriptedTarget) -> Watcher:
    return Watcher(target)


MakePaths = Callable[..., Multipath]


@pytest.fixture
async def make(target: ScriptedTarget, watcher: Watcher) -> AsyncIterator[MakePaths]:
    made: list[Multipath] = []

    def make(settings: InitiatorSettings = QUICK, *portals: Portal) -> Multipath:
        paths = Multipath(IQN, portals or (target.portal,), INITIATOR, watcher, settings=settings)
        watcher.paths = paths
        made.append(paths)
        return paths

    yield make
    for paths in made:
        await paths.close()


@pytest.fixture
async def paths(make: MakePaths) -> Multipath:
    paths = make()
    await paths.open()
    return paths


def send(
    paths: Multipath,
    cdb: bytes,
    data_out: bytes = b"",
    read_length: int = 0,
    *,
    replay: bool = True,
    timeout: float = 30.0,
) -> asyncio.Future[Answer]:
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def done(error: DeviceError | None, status: int, data: Buffer, sense: bytes) -> None:
        assert not future.done(), "completed twice"
        future.set_result((error, status, bytes(data), sense))

    paths.submit(Command(1 << 48, cdb, done, data_out, read_length, timeout=timeout, replay=replay))
    return future


def then(*answers: Callable[[Link, ScsiCommand], None]) -> Callable[[Link, ScsiCommand], None]:
    """The first command gets the first answer, and so on; the rest get the last."""
    left = list(answers)

    def on_command(link: Link, command: ScsiCommand) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(link, command)

    return on_command


def status(code: int, sense: bytes = b"") -> Callable[[Link, ScsiCommand], None]:
    return lambda link, command: link.answer(command, code, sense)


def silence(link: Link, command: ScsiCommand) -> None:
    """The target keeps the command to itself."""


def cut(link: Link, command: ScsiCommand) -> None:
    link.connection.abort()


class TestAnswers:
    async def test_data_and_status_come_back(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        target.on[ScsiCommand] = lambda link, command: link.data_in(command, b"x" * 512)
        assert await send(paths, READ, read_length=512) == (None, 0, b"x" * 512, b"")
        command = target.commands()[0]
        assert (command.read, command.write, command.lun) == (True, False, 1 << 48)
        assert command.cdb == READ.ljust(16, b"\0")

    async def test_data_in_several_pdus_is_put_together(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        whole = bytes(range(256)) * 200

        def pieces(link: Link, command: ScsiCommand) -> None:
            for number, start in enumerate(range(0, len(whole), 20000)):
                part = whole[start : start + 20000]
                last = start + len(part) == len(whole)
                link.data_in(
                    command,
                    part,
                    flags=FINAL | STATUS if last else 0,
                    buffer_offset=start,
                    data_sn=number,
                )

        target.on[ScsiCommand] = pieces
        answer = await send(paths, READ, read_length=len(whole))
        assert answer[2] == whole

    async def test_less_data_than_room_is_given_as_it_came(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        target.on[ScsiCommand] = lambda link, command: link.data_in(command, b"short")
        assert (await send(paths, READ, read_length=512))[2] == b"short"

    async def test_sense_is_given_as_it_came(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        sense = invalid_opcode().fixed()
        target.on[ScsiCommand] = status(Status.CHECK_CONDITION, sense)
        assert await send(paths, READ) == (None, Status.CHECK_CONDITION, b"", sense)

    async def test_write_sends_what_r2t_asks_for(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        data = bytes(range(256)) * 4096  # 1 MiB: more than the first burst
        parts: dict[int, bytes] = {}

        def on_command(link: Link, command: ScsiCommand) -> None:
            parts[0] = bytes(command.data)
            parameters = link.login.parameters
            assert parameters is not None
            if command.final:
                ask(link, command.initiator_task_tag)

        def ask(link: Link, tag: int) -> None:
            have = sum(map(len, parts.values()))
            if have == len(data):
                link.send(ScsiResponse(initiator_task_tag=tag))
                return
            length = min(100_000, len(data) - have)
            link.send(
                ReadyToTransfer(0, tag, 77, buffer_offset=have, desired_length=length),
                counts=False,
            )

        def on_data(link: Link, pdu: DataOut) -> None:
            parts[pdu.buffer_offset] = bytes(pdu.data)
            if pdu.final:
                ask(link, pdu.initiator_task_tag)

        target.on[ScsiCommand] = on_command
        target.on[DataOut] = on_data
        assert (await send(paths, WRITE, data))[:2] == (None, 0)
        assert b"".join(parts[start] for start in sorted(parts)) == data

    async def test_ping_of_the_target_is_answered_with_its_data(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        target.on[NopOut] = lambda link, pdu: None
        target.link.send(NopIn(target_transfer_tag=5, lun=0, data=b"hello"), counts=False)
        await target.until(lambda: any(isinstance(pdu, NopOut) for pdu in target.link.received))
        reply = next(pdu for pdu in target.link.received if isinstance(pdu, NopOut))
        assert (reply.target_transfer_tag, bytes(reply.data)) == (5, b"hello")


class TestWindow:
    async def test_no_more_commands_go_out_than_the_window_allows(
        self, make: MakePaths, target: ScriptedTarget
    ) -> None:
        target.window = 3
        target.on[ScsiCommand] = silence
        paths = make()
        await paths.open()
        target.link.max_cmd_sn = target.link.exp_cmd_sn + 2
        answers = [send(paths, READ) for _ in range(5)]
        await target.until(lambda: len(target.commands()) == 3)
        assert paths.session is not None
        assert (paths.session.in_flight, paths.session.queued) == (3, 2)
        # An answer alone does not open the window: MaxCmdSN does.
        target.link.answer(target.commands()[0])
        await answers[0]
        assert paths.session.queued == 2
        target.link.max_cmd_sn += 5
        target.on[ScsiCommand] = status(0)
        target.link.answer(target.commands()[1])
        target.link.answer(target.commands()[2])
        await asyncio.gather(*answers)
        assert [command.cmd_sn for command in target.commands()] == list(
            range(target.commands()[0].cmd_sn, target.commands()[0].cmd_sn + 5)
        )

    async def test_queue_depth_bounds_what_is_in_flight(
        self, make: MakePaths, target: ScriptedTarget
    ) -> None:
        settings = InitiatorSettings(tick=0.01, queue_depth=2)
        target.on[ScsiCommand] = silence
        paths = make(settings)
        await paths.open()
        answers = [send(paths, READ) for _ in range(4)]
        await target.until(lambda: len(target.commands()) == 2)
        assert paths.session is not None
        assert (paths.session.in_flight, paths.session.queued) == (2, 2)
        target.on[ScsiCommand] = status(0)
        for command in target.commands():
            target.link.answer(command)
        await asyncio.gather(*answers)


class TestAgain:
    """Answers that mean: send it once more."""

    @pytest.mark.parametrize("code", [Status.BUSY, Status.TASK_SET_FULL])
    async def test_busy_is_tried_again_until_it_works(
        self, paths: Multipath, target: ScriptedTarget, code: Status
    ) -> None:
        target.on[ScsiCommand] = then(status(code), status(code), status(0))
        assert (await send(paths, READ, replay=False))[:2] == (None, 0)
        assert len(target.commands()) == 3

    async def test_task_set_full_halves_the_commands_in_flight(
        self, make: MakePaths, target: ScriptedTarget
    ) -> None:
        paths = make(replace(QUICK, tick=60.0))  # the depth does not grow back meanwhile
        await paths.open()
        assert paths.session is not None
        target.on[ScsiCommand] = silence
        answers = [send(paths, READ) for _ in range(9)]
        await target.until(lambda: len(target.commands()) == 9)
        full, *others = target.commands()
        target.link.answer(full, Status.TASK_SET_FULL)
        target.link.answer(others[0])
        await answers[1]
        answers += [send(paths, READ) for _ in range(5)]
        for command in others[1:4]:
            target.link.answer(command)
        await asyncio.gather(*answers[2:5])
        assert paths.session.in_flight == 4
        assert paths.session.queued >= 5
        target.on[ScsiCommand] = status(0)
        for command in others[4:]:
            target.link.answer(command)
        assert {answer[:2] for answer in await asyncio.gather(*answers)} == {(None, 0)}

    async def test_busy_for_too_long_is_the_answer(
        self, make: MakePaths, target: ScriptedTarget
    ) -> None:
        paths = make(InitiatorSettings(tick=0.01, busy_patience=0.0))
        await paths.open()
        target.on[ScsiCommand] = status(Status.BUSY)
        assert (await send(paths, READ))[1] == Status.BUSY

    async def test_unit_attention_is_told_and_the_command_sent_again(
        self, paths: Multipath, target: ScriptedTarget, watcher: Watcher
    ) -> None:
        generation = paths.generation
        sense = reported_luns_data_changed().fixed()
        target.on[ScsiCommand] = then(status(Status.CHECK_CONDITION, sense), status(0))
        assert (await send(paths, COPY, replay=False))[:2] == (None, 0)
        assert watcher.attentions == [(0x3F, 0x0E)]
        assert paths.generation == generation

    async def test_reset_begins_a_generation_and_a_copy_command_is_told(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        generation = paths.generation
        sense = power_on_occurred().fixed()
        target.on[ScsiCommand] = then(
            status(Status.CHECK_CONDITION, sense), status(Status.CHECK_CONDITION, sense), status(0)
        )
        assert (await send(paths, COPY, replay=False))[1] == Status.CHECK_CONDITION
        assert paths.generation == generation + 1
        assert (await send(paths, READ))[:2] == (None, 0)
        assert paths.generation == generation + 2

    async def test_unit_attentions_without_end_are_the_answer(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        sense = reported_luns_data_changed().fixed()
        target.on[ScsiCommand] = status(Status.CHECK_CONDITION, sense)
        assert await send(paths, READ) == (None, Status.CHECK_CONDITION, b"", sense)
        assert len(target.commands()) == QUICK.attempts

    @pytest.mark.parametrize(
        ("first", "replay", "expected"),
        [
            (status(Status.CHECK_CONDITION, overlapped_commands_attempted().fixed()), True, 0),
            (status(Status.CHECK_CONDITION, overlapped_commands_attempted().fixed()), False, 2),
            (status(Status.TASK_ABORTED), True, 0),
            (status(Status.TASK_ABORTED), False, Status.TASK_ABORTED),
        ],
        ids=["aborted command", "aborted copy", "task aborted", "copy's task aborted"],
    )
    async def test_aborted_command_is_sent_again_where_it_may(
        self,
        paths: Multipath,
        target: ScriptedTarget,
        first: Callable[[Link, ScsiCommand], None],
        replay: bool,
        expected: int,
    ) -> None:
        target.on[ScsiCommand] = then(first, status(0))
        assert (await send(paths, READ, replay=replay))[1] == expected

    async def test_target_failure_of_a_command_not_to_repeat_is_unreachable(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        def fail(link: Link, command: ScsiCommand) -> None:
            link.send(ScsiResponse(response=1, initiator_task_tag=command.initiator_task_tag))

        target.on[ScsiCommand] = then(fail, status(0))
        assert isinstance((await send(paths, COPY, replay=False))[0], Unreachable)
        target.on[ScsiCommand] = then(fail, status(0))
        assert (await send(paths, READ))[:2] == (None, 0)


class TestLoss:
    async def test_commands_in_flight_are_sent_again_in_their_order(
        self, paths: Multipath, target: ScriptedTarget, watcher: Watcher
    ) -> None:
        target.on[ScsiCommand] = silence
        answers = [send(paths, WRITE, bytes([number]) * 512) for number in range(6)]
        await target.until(lambda: len(target.commands()) == 6)
        generation = paths.generation
        target.on[ScsiCommand] = status(0)
        target.link.connection.abort()
        assert [answer[:2] for answer in await asyncio.gather(*answers)] == [(None, 0)] * 6
        again = [pdu for pdu in target.links[1].received if isinstance(pdu, ScsiCommand)]
        assert [command.data[0] for command in again] == list(range(6))
        assert paths.generation == generation + 1
        assert len(watcher.reasons) == 1

    async def test_new_session_reinstates_the_old_one(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        target.link.connection.abort()
        assert (await send(paths, READ))[:2] == (None, 0)
        first, second = target.identities
        assert (first.isid, first.initiator_name) == (second.isid, second.initiator_name)
        assert second.tsih == 0

    async def test_command_not_to_repeat_is_unreachable(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        target.on[ScsiCommand] = then(cut, status(0))
        assert isinstance((await send(paths, COPY, replay=False))[0], Unreachable)
        assert (await send(paths, READ))[:2] == (None, 0)

    async def test_command_that_kills_every_session_is_given_up(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        target.on[ScsiCommand] = cut
        assert isinstance((await send(paths, READ))[0], Unreachable)
        assert len(target.commands()) == QUICK.attempts

    async def test_write_in_flight_is_not_sent_to_another_portal_group(
        self, make: MakePaths, target: ScriptedTarget
    ) -> None:
        async with ScriptedTarget(portal_group_tag=2) as other:
            paths = make(QUICK, target.portal, other.portal)
            await paths.open()
            target.on[ScsiCommand] = silence
            target.window = 2
            write = send(paths, WRITE, bytes(512))
            read = send(paths, READ, read_length=512)
            other.on[ScsiCommand] = lambda link, command: link.data_in(command, bytes(512))
            await target.until(lambda: len(target.commands()) == 2)
            target.link.connection.abort()
            assert (await read)[:3] == (None, 0, bytes(512))
            error = (await write)[0]
            assert isinstance(error, Unreachable)
            assert "portal group" in str(error)
            assert [command.cdb[0] for command in other.commands()] == [READ[0]]

    async def test_grace_over_ends_what_waits_and_later_ones_at_once(
        self, make: MakePaths, target: ScriptedTarget
    ) -> None:
        paths = make(InitiatorSettings(tick=0.01, grace=0.05, reconnect_first=5.0))
        await paths.open()
        target.admission = lambda identity: Admission(LoginStatus.SERVICE_UNAVAILABLE)
        target.on[ScsiCommand] = cut
        assert isinstance((await send(paths, READ))[0], Unreachable)
        later = send(paths, READ)
        assert later.done()
        assert isinstance(later.result()[0], Unreachable)

    async def test_commands_wait_until_the_new_session_is_released(
        self, make: MakePaths, target: ScriptedTarget, watcher: Watcher
    ) -> None:
        paths = make()
        await paths.open()
        watcher.holds = True
        target.link.connection.abort()
        await target.until(lambda: watcher.started == 2)
        answer = send(paths, READ)
        urgent: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        paths.submit(
            Command(
                0,
                bytes(6),
                lambda error, status, data, sense: urgent.set_result(status),
                urgent=True,
            )
        )
        assert await urgent == 0
        assert not answer.done()
        assert [command.cdb[0] for command in target.commands()] == [0]
        paths.release()
        assert (await answer)[:2] == (None, 0)

    async def test_close_aborts_what_is_not_answered(
        self, make: MakePaths, target: ScriptedTarget
    ) -> None:
        target.on[ScsiCommand] = silence
        settings = InitiatorSettings(tick=0.01, queue_depth=1)
        paths = make(settings)
        await paths.open()
        answers = [send(paths, READ) for _ in range(3)]
        await target.until(lambda: len(target.commands()) == 1)
        await paths.close()
        assert [type(answer.result()[0]) for answer in answers] == [Aborted] * 3
        assert isinstance(send(paths, READ).result()[0], Aborted)


class TestOverdue:
    async def test_task_is_aborted_and_the_session_lives_on(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        target.on[ScsiCommand] = then(silence, status(0))

        def abort(link: Link, pdu: TaskManagementRequest) -> None:
            link.send(TaskManagementResponse(0, pdu.initiator_task_tag))

        target.on[TaskManagementRequest] = abort
        error = (await send(paths, READ, timeout=0.02))[0]
        assert isinstance(error, Unreachable)
        assert "0.02 s" in str(error)
        request = next(
            pdu for pdu in target.link.received if isinstance(pdu, TaskManagementRequest)
        )
        overdue = target.commands()[0]
        assert request.function == TaskManagementFunction.ABORT_TASK
        assert request.referenced_task_tag == overdue.initiator_task_tag
        assert request.ref_cmd_sn == overdue.cmd_sn
        assert (await send(paths, READ))[:2] == (None, 0)
        assert target.logins == 1

    async def test_refused_abort_leads_to_a_reset_that_ends_the_unit_s_tasks(
        self, make: MakePaths, target: ScriptedTarget
    ) -> None:
        paths = make()
        await paths.open()
        functions: list[int] = []

        def answer(link: Link, pdu: TaskManagementRequest) -> None:
            functions.append(pdu.function)
            is_reset = pdu.function == TaskManagementFunction.LOGICAL_UNIT_RESET
            link.send(TaskManagementResponse(0 if is_reset else 5, pdu.initiator_task_tag))

        target.on[TaskManagementRequest] = answer
        target.on[ScsiCommand] = then(silence, silence, silence, status(0))
        overdue = send(paths, READ, timeout=0.02)
        other = send(paths, READ)
        copy = send(paths, COPY, replay=False)
        assert isinstance((await overdue)[0], Unreachable)
        assert (await other)[:2] == (None, 0)  # sent again
        assert isinstance((await copy)[0], Aborted)
        assert functions == [
            TaskManagementFunction.ABORT_TASK, TaskManagementFunction.LOGICAL_UNIT_RESET,
        ]  # fmt: skip
        assert target.logins == 1

    async def test_no_answer_to_task_management_drops_the_connection(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        target.on[ScsiCommand] = then(silence, status(0))
        target.on[TaskManagementRequest] = lambda link, pdu: None
        # It may be sent again, and is: on the new session.
        assert (await send(paths, READ, timeout=0.02))[:2] == (None, 0)
        assert target.logins == 2

    async def test_answer_that_overtakes_the_abort_counts(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        def late(link: Link, pdu: TaskManagementRequest) -> None:
            link.answer(target.commands()[0])
            link.send(TaskManagementResponse(1, pdu.initiator_task_tag))

        target.on[ScsiCommand] = then(silence, status(0))
        target.on[TaskManagementRequest] = late
        assert (await send(paths, READ, timeout=0.02))[:2] == (None, 0)
        assert (await send(paths, READ))[:2] == (None, 0)
        assert target.logins == 1


def wrong(pdu: object) -> Callable[[Link, ScsiCommand], None]:
    def answer(link: Link, command: ScsiCommand) -> None:
        link.send(replace(pdu, initiator_task_tag=command.initiator_task_tag))  # type: ignore[type-var]

    return answer


class TestHostile:
    """What a target must not send ends the connection; the command is then sent again."""

    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            (wrong(DataIn(FINAL | STATUS, buffer_offset=4, data=b"data")), "Data-In"),
            (wrong(DataIn(FINAL | STATUS, data=bytes(516))), "Data-In"),
            (wrong(DataIn(FINAL | STATUS, data=bytes(20000))), "Data-In"),
            (wrong(DataIn(0, buffer_offset=0xFFFFFFFC, data=b"data")), "Data-In"),
            (wrong(ReadyToTransfer(0, 0, 7, buffer_offset=0, desired_length=512)), "R2T"),
            (wrong(ReadyToTransfer(0, 0, 7, buffer_offset=0, desired_length=0)), "R2T"),
            (wrong(TaskManagementResponse(0)), "task management"),
            (lambda link, command: link.send(Reject(4, data=bytes(48))), "rejected"),
            (lambda link, command: link.send(AsyncMessage(2)), "drops"),
            (lambda link, command: link.send(AsyncMessage(5)), "ended all tasks"),
            (lambda link, command: link.connection.send(b"\x03" + bytes(47)), "opcode 03h"),
            (lambda link, command: link.connection.send(b"\x25\x80\0\0\0\xff" + bytes(42)), "MaxR"),
        ],
        ids=[
            "data beyond a gap", "data beyond the room", "large data beyond the room",
            "data at the end of the address space", "R2T beyond the data", "R2T for nothing",
            "response to no request", "reject", "connection dropped", "tasks terminated",
            "request from a target", "data longer than declared",
        ],
    )  # fmt: skip
    async def test_connection_is_ended_and_the_command_sent_again(
        self,
        paths: Multipath,
        target: ScriptedTarget,
        watcher: Watcher,
        answer: Callable[[Link, ScsiCommand], None],
        why: str,
    ) -> None:
        target.on[ScsiCommand] = then(
            answer, lambda link, command: link.data_in(command, b"y" * 512)
        )
        assert await send(paths, READ, read_length=512) == (None, 0, b"y" * 512, b"")
        assert target.logins == 2
        assert why in watcher.reasons[0]

    @pytest.mark.parametrize("size", [512, 20000], ids=["small", "placed"])
    @pytest.mark.parametrize("which", ["header digest", "data digest"])
    async def test_wrong_digest_ends_the_connection_and_the_data_comes_again(
        self, make: MakePaths, target: ScriptedTarget, watcher: Watcher, which: str, size: int
    ) -> None:
        settings = replace(QUICK, header_digest=True, data_digest=True)
        paths = make(settings)
        await paths.open()

        def corrupt(link: Link, command: ScsiCommand) -> None:
            pdu = DataIn(
                FINAL | STATUS,
                initiator_task_tag=command.initiator_task_tag,
                stat_sn=link.stat_sn,
                exp_cmd_sn=link.exp_cmd_sn,
                max_cmd_sn=link.exp_cmd_sn + 31,
                data=b"x" * size,
            )
            parts = encode(pdu.pack(), pdu.data, header_digest=True, data_digest=True)
            raw = bytearray(b"".join(map(bytes, parts)))
            raw[48 if which == "header digest" else -1] ^= 1
            transport = link.connection._transport
            assert transport is not None
            transport.write(raw)

        target.on[ScsiCommand] = then(
            corrupt, lambda link, command: link.data_in(command, b"y" * size)
        )
        assert (await send(paths, READ, read_length=size))[:3] == (None, 0, b"y" * size)
        assert which in watcher.reasons[0]

    async def test_answers_to_no_command_are_ignored(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        def stray(link: Link, command: ScsiCommand) -> None:
            link.send(ScsiResponse(initiator_task_tag=4711))
            link.send(DataIn(FINAL, initiator_task_tag=4711, data=bytes(20000)), counts=False)
            link.send(ReadyToTransfer(0, 4711, 7, desired_length=8), counts=False)
            link.answer(command)

        target.on[ScsiCommand] = stray
        assert (await send(paths, READ))[:2] == (None, 0)
        assert target.logins == 1

    async def test_logout_request_of_the_target_is_followed_when_idle(
        self, paths: Multipath, target: ScriptedTarget, watcher: Watcher
    ) -> None:
        def ask(link: Link, command: ScsiCommand) -> None:
            link.send(AsyncMessage(1, parameter3=10))
            link.answer(command)

        target.on[ScsiCommand] = then(ask, status(0))
        assert (await send(paths, READ))[:2] == (None, 0)
        assert (await send(paths, READ))[:2] == (None, 0)
        await target.until(lambda: watcher.started == 2)


class TestLogin:
    async def test_redirection_is_followed(self, make: MakePaths, target: ScriptedTarget) -> None:
        async with ScriptedTarget() as other:
            target.admission = lambda identity: Admission(
                LoginStatus.TARGET_MOVED_TEMPORARILY, address=str(other.portal)
            )
            paths = make()
            await paths.open()
            assert other.logins == 1
            assert (await send(paths, READ))[:2] == (None, 0)

    @pytest.mark.parametrize(
        "refusal",
        [LoginStatus.AUTHORIZATION_FAILURE, LoginStatus.NOT_FOUND, LoginStatus.OUT_OF_RESOURCES],
    )
    async def test_refusal_names_its_status(
        self, make: MakePaths, target: ScriptedTarget, refusal: LoginStatus
    ) -> None:
        target.admission = lambda identity: Admission(refusal)
        with pytest.raises(Unreachable, match=refusal.name.lower().replace("_", " ")):
            await make().open()

    async def test_next_portal_is_tried_after_a_refusal(
        self, make: MakePaths, target: ScriptedTarget
    ) -> None:
        target.admission = lambda identity: Admission(LoginStatus.SERVICE_UNAVAILABLE)
        async with ScriptedTarget() as other:
            paths = make(QUICK, target.portal, other.portal)
            await paths.open()
            assert paths.portal == other.portal

    async def test_silent_portal_is_given_up_in_time(self, make: MakePaths) -> None:
        writers: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(
            lambda reader, writer: writers.append(writer), "127.0.0.1", 0
        )
        async with server:
            portal = Portal("127.0.0.1", server.sockets[0].getsockname()[1])
            with pytest.raises(Unreachable, match="no login within"):
                await make(InitiatorSettings(login_timeout=0.05), portal).open()
            for writer in writers:
                writer.close()
                await writer.wait_closed()
