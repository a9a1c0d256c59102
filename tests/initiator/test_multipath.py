"""What becomes of commands over answers that mean `again`, losses and log-ins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from daiko.device.error import Aborted, Unreachable
from daiko.initiator import rounds
from daiko.initiator.command import AskedCommand
from daiko.initiator.multipath import Multipath
from daiko.initiator.path_choice import Worth
from daiko.initiator.portal import Portal
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.error import LoginStatus
from daiko.iscsi.login import Admission
from daiko.iscsi.pdu import (
    ScsiCommand,
    ScsiResponse,
)
from daiko.scsi.opcode import Status
from daiko.scsi.sense import (
    Sense,
    overlapped_commands_attempted,
    target_port_in_standby,
    target_port_in_transition,
    target_port_unavailable,
)
from daiko.target.event import Event
from initiator.exchange import (
    COPY,
    QUICK,
    READ,
    WRITE,
    MakePaths,
    Watcher,
    cut,
    send,
    silence,
    status,
    then,
)
from initiator.scripted_target import Link, ScriptedTarget


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

    @pytest.mark.parametrize(
        "sense",
        [target_port_in_standby(), target_port_unavailable(), target_port_in_transition()],
        ids=str,
    )
    async def test_command_that_the_target_port_did_not_carry_out_is_sent_again(
        self, paths: Multipath, target: ScriptedTarget, watcher: Watcher, sense: Sense
    ) -> None:
        target.on[ScsiCommand] = then(status(Status.CHECK_CONDITION, sense.fixed()), status(0))
        assert (await send(paths, WRITE, b"x" * 512, replay=False))[:2] == (None, 0)
        assert watcher.inaccessible == 1

    async def test_port_that_stays_in_standby_is_the_answer_after_a_while(
        self, make: MakePaths, target: ScriptedTarget
    ) -> None:
        paths = make(InitiatorSettings(tick=0.01, busy_patience=0.0))
        await paths.open()
        target.on[ScsiCommand] = status(Status.CHECK_CONDITION, target_port_in_standby().fixed())
        assert (await send(paths, READ))[1] == Status.CHECK_CONDITION

    async def test_session_is_left_for_a_better_path_once_nothing_is_in_flight(
        self, make: MakePaths, target: ScriptedTarget
    ) -> None:
        async with ScriptedTarget(portal_group_tag=2) as other:
            paths = make(QUICK, target.portal, other.portal)
            await paths.open()
            first = paths.portal
            target.on[ScsiCommand] = silence
            slow = asyncio.ensure_future(send(paths, WRITE, b"x" * 512))
            await target.until(lambda: len(target.commands()) == 1)
            paths.prefer_better(Worth.NON_OPTIMIZED, Worth.OPTIMIZED)
            paths.prefer_better(Worth.NON_OPTIMIZED, Worth.OPTIMIZED)
            waiting = asyncio.ensure_future(send(paths, READ))
            assert paths.portal == first
            target.link.answer(target.commands()[0])
            assert (await slow)[:2] == (None, 0)
            assert (await waiting)[:2] == (None, 0)
            assert paths.portal == other.portal
            assert len(other.commands()) == 1

    async def test_unit_attention_is_told_and_the_command_sent_again(
        self, paths: Multipath, target: ScriptedTarget, watcher: Watcher
    ) -> None:
        generation = paths.generation
        sense = Event.REPORTED_LUNS_CHANGED.sense.fixed()
        target.on[ScsiCommand] = then(status(Status.CHECK_CONDITION, sense), status(0))
        assert (await send(paths, COPY, replay=False))[:2] == (None, 0)
        assert watcher.attentions == [(0x3F, 0x0E)]
        assert paths.generation == generation

    async def test_reset_begins_a_generation_and_a_copy_command_is_told(
        self, paths: Multipath, target: ScriptedTarget
    ) -> None:
        generation = paths.generation
        sense = Event.POWER_ON_OR_RESET.sense.fixed()
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
        sense = Event.REPORTED_LUNS_CHANGED.sense.fixed()
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

    async def test_pause_between_rounds_doubles_up_to_the_longest(
        self, make: MakePaths, target: ScriptedTarget, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []
        sleep = asyncio.sleep

        async def note(seconds: float) -> None:
            pauses.append(seconds)
            await sleep(0)

        def admission(identity: object) -> Admission:
            refused = len(pauses) < 5
            return Admission(LoginStatus.SERVICE_UNAVAILABLE if refused else LoginStatus.SUCCESS)

        paths = make(replace(QUICK, reconnect_first=1.0, reconnect_longest=6.0))
        await paths.open()
        monkeypatch.setattr(rounds.random, "uniform", lambda low, high: (low + high) / 2)
        monkeypatch.setattr(rounds.asyncio, "sleep", note)
        target.admission = admission
        target.on[ScsiCommand] = then(cut, status(0))
        assert (await send(paths, READ))[:2] == (None, 0)
        assert pauses == [1.0, 2.0, 4.0, 6.0, 6.0]

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
            AskedCommand(
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


async def test_hurry_tries_the_portals_now_and_returns_when_that_is_done(
    make: MakePaths, target: ScriptedTarget
) -> None:
    paths = make(replace(QUICK, reconnect_first=3600.0, reconnect_longest=3600.0))
    await paths.open()
    await paths.hurry()  # There is a session: nothing to do.
    target.admission = lambda identity: Admission(LoginStatus.AUTHORIZATION_FAILURE)
    target.link.connection.abort()
    await target.until(lambda: len(target.identities) == 2)
    await paths.hurry()
    assert paths.session is None
    assert paths.last_refusal is not None
    assert "authorization failure" in str(paths.last_refusal)
    target.admission = None
    await paths.hurry()
    assert paths.session is not None
    assert paths.last_refusal is None


async def test_portal_that_is_silent_is_no_refusal(make: MakePaths, target: ScriptedTarget) -> None:
    async with ScriptedTarget() as gone:
        silent = gone.portal
    target.admission = lambda identity: Admission(LoginStatus.AUTHORIZATION_FAILURE)
    paths = make(QUICK, silent, target.portal)
    with pytest.raises(Unreachable, match="authorization failure"):
        await paths.open()
    assert paths.last_refusal is None
