"""Sessions: what goes out, what comes in, time limits, and targets that break the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from daiko.device.error import Aborted, Unreachable
from daiko.initiator.multipath import Multipath
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.bhs import FINAL, STATUS, TaskManagementFunction
from daiko.iscsi.framing import encode
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
)
from initiator.exchange import (
    COPY,
    QUICK,
    READ,
    WRITE,
    MakePaths,
    Watcher,
    send,
    silence,
    status,
    then,
)
from initiator.scripted_target import Link, ScriptedTarget


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
