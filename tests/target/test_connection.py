"""A session at the target port over a socket: the login, pings and text, the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daiko.iscsi.bhs import (
    RESERVED_TAG,
    AsyncEvent,
    LogoutResponseCode,
)
from daiko.iscsi.error import LoginStatus
from daiko.iscsi.pdu import (
    AsyncMessage,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    TextResponse,
)
from daiko.iscsi.text_key import format_text, parse_text
from daiko.target import portal as portal_module
from daiko.target import session as session_module
from daiko.target.portal import Target
from target.memory_access import BLOCK, IQN, MemoryAccess, serving
from target.raw_initiator import (
    INITIATOR,
    ISID,
    RawInitiator,
    alive,
    logged_in,
    read_10,
    until,
)

# --- login


async def test_normal_login_starts_a_nexus(host: RawInitiator, access: MemoryAccess) -> None:
    (nexus,) = access.started
    assert nexus.identity == (INITIATOR, ISID, IQN, 1)
    assert nexus.peer_address[1] == host.writer.get_extra_info("sockname")[1]
    assert host.keys["TargetPortalGroupTag"] == "1"


@pytest.mark.parametrize(
    ("target_name", "fields", "status"),
    [
        pytest.param("iqn.other", {}, LoginStatus.NOT_FOUND, id="no-such-target"),
        pytest.param(IQN, {"name": "iqn.evil"}, LoginStatus.AUTHORIZATION_FAILURE, id="host"),
        pytest.param(IQN, {"tsih": 99}, LoginStatus.SESSION_DOES_NOT_EXIST, id="no-such-session"),
        pytest.param(None, {"tsih": 99}, LoginStatus.SESSION_DOES_NOT_EXIST, id="discovery-tsih"),
    ],
)
async def test_login_refused_is_answered_and_closed(
    portal: str,
    access: MemoryAccess,
    target_name: str | None,
    fields: dict[str, Any],
    status: LoginStatus,
) -> None:
    access.allowed = lambda name: name == INITIATOR
    async with await RawInitiator.connect(portal) as host:
        response = await host.login(target_name, **fields)
        assert (response.status, response.transit) == (status, False)
        assert await host.is_closed()
    assert access.started == []


async def test_second_connection_of_a_session_is_refused(portal: str) -> None:
    async with await RawInitiator.connect(portal) as first:
        tsih = (await first.login(IQN)).tsih
        async with await RawInitiator.connect(portal) as second:
            response = await second.login(IQN, tsih=tsih, cid=1)
            assert response.status == LoginStatus.TOO_MANY_CONNECTIONS
        assert await alive(first)


async def test_same_initiator_port_again_reinstates_the_session(
    portal: str, target: Target, access: MemoryAccess
) -> None:
    async with await RawInitiator.connect(portal) as first:
        await first.login(IQN)
        access.hold = True
        first.command(read_10(0, 1), read=BLOCK)
        async with await RawInitiator.connect(portal) as second:
            response = await second.login(IQN)
            assert response.status == 0
            assert await first.is_closed()
            assert access.lost == [access.started[0]]
            assert access.started[0].identity == access.started[1].identity
            assert len(target.sessions) == 1
            assert await alive(second)


async def test_other_initiator_port_has_a_session_of_its_own(portal: str, target: Target) -> None:
    async with await RawInitiator.connect(portal) as first:
        one = await first.login(IQN)
        async with await RawInitiator.connect(portal) as second:
            two = await second.login(IQN, isid=bytes.fromhex("800000000002"))
            assert one.tsih != two.tsih
            assert len(target.sessions) == 2
            assert await alive(first)
            assert await alive(second)


async def test_login_in_many_small_pdus_reaches_the_same_result(portal: str) -> None:
    async with await RawInitiator.connect(portal) as host:
        text = format_text({"InitiatorName": INITIATOR, "TargetName": IQN}.items())
        for at in range(0, len(text), 5):
            more = at + 5 < len(text)
            host.send(
                host.login_request(
                    {}, data=text[at : at + 5], continued=more, transit=not more,
                    next_stage=0 if more else 3,
                )
            )  # fmt: skip
            response: LoginResponse = await host.receive()
            assert response.status == 0
        assert response.transit
        assert await alive(host)


# --- pings and text


async def test_ping_is_cut_to_what_the_initiator_takes(portal: str) -> None:
    async with await logged_in(portal, MaxRecvDataSegmentLength="512") as host:
        host.send(NopOut(initiator_task_tag=1, cmd_sn=host.cmd_sn, data=b"p" * 1000))
        answer: NopIn = await host.receive()
        assert answer.data == b"p" * 512


async def test_numbered_ping_takes_a_command_number(host: RawInitiator) -> None:
    host.send(NopOut(immediate=False, initiator_task_tag=1, cmd_sn=host.take_cmd_sn()))
    answer: NopIn = await host.receive()
    assert (answer.exp_cmd_sn, answer.max_cmd_sn) == (2, 1 + session_module.WINDOW)


async def test_silent_initiator_is_pinged_then_closed(
    host: RawInitiator, target: Target, access: MemoryAccess
) -> None:
    (role,) = target.connections
    role._watch()
    ping: NopIn = await host.receive()
    assert (ping.initiator_task_tag, ping.data) == (RESERVED_TAG, b"")
    host.send(NopOut(target_transfer_tag=ping.target_transfer_tag, cmd_sn=host.cmd_sn))
    assert await alive(host)
    role._watch()
    role._watch()
    assert isinstance(await host.receive(), NopIn)
    role._watch()
    assert await host.is_closed()
    assert access.lost == access.started


async def test_ping_keeps_to_the_times_that_are_set(portal: str, target: Target) -> None:
    target.ping_interval, target.ping_timeout = 0.01, 3600.0
    async with await logged_in(portal) as patient:
        assert isinstance(await patient.receive(), NopIn)
        target.ping_timeout = 0.01
        async with await logged_in(portal, isid=bytes(6)) as hasty:
            assert isinstance(await hasty.receive(), NopIn)
            assert await hasty.is_closed()
        assert await alive(patient)


async def test_send_targets_in_a_normal_session_names_its_own_target(
    host: RawInitiator, portal: str
) -> None:
    host.text({"SendTargets": ""})
    answer: TextResponse = await host.receive()
    assert answer.final
    assert parse_text(answer.data) == [("TargetName", IQN), ("TargetAddress", f"{portal},1")]
    host.text({"SendTargets": "All"})
    answer = await host.receive()
    assert parse_text(answer.data) == [("SendTargets", "Reject")]


async def test_initiator_may_declare_its_segment_length_again(host: RawInitiator) -> None:
    host.text({"MaxRecvDataSegmentLength": "512"})
    assert (await host.receive()).data == b""
    host.command(read_10(0, 2), read=2 * BLOCK)
    assert [len((await host.receive()).data) for _ in range(2)] == [512, 512]


async def test_connection_without_login_gives_way_to_a_newer_one(
    host: RawInitiator, portal: str, target: Target
) -> None:
    target.login_room.maximum = 1
    async with await RawInitiator.connect(portal) as older:
        await until(lambda: len(target.login_room) == 1)
        async with await RawInitiator.connect(portal) as newer:
            assert await older.is_closed()
            assert (await newer.login(IQN, isid=bytes(6))).status == 0
            assert len(target.login_room) == 0
    assert await alive(host)


async def test_session_beyond_the_most_is_refused(
    host: RawInitiator, portal: str, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portal_module, "MAXIMUM_SESSIONS", 1)
    async with await RawInitiator.connect(portal) as one_too_many:
        response = await one_too_many.login(IQN, isid=bytes(6))
        assert response.status == LoginStatus.OUT_OF_RESOURCES
    async with await RawInitiator.connect(portal) as again:
        assert (await again.login(IQN)).status == 0, "it takes the place of its own session"
        assert len(target.sessions) == 1


async def test_two_logins_for_the_last_place_do_not_both_get_it(
    portal: str, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portal_module, "MAXIMUM_SESSIONS", 1)
    async with await RawInitiator.connect(portal) as one, await RawInitiator.connect(portal) as two:
        for host, isid in ((one, bytes(6)), (two, bytes(5) + b"\1")):
            response = await host.login(IQN, isid=isid, transit=False, next_stage=0)
            assert response.status == 0
        answers = []
        for host, isid in ((one, bytes(6)), (two, bytes(5) + b"\1")):
            host.send(host.login_request({}, isid=isid))
            answers.append((await host.receive()).status)
    assert answers == [LoginStatus.SUCCESS, LoginStatus.OUT_OF_RESOURCES]


async def test_connection_that_does_not_log_in_is_closed(portal: str, target: Target) -> None:
    async with await RawInitiator.connect(portal) as silent:
        await until(lambda: len(target.connections) == 1)
        (role,) = target.connections
        role._login_too_slow()
        assert await silent.is_closed()


# --- the end


@pytest.mark.parametrize(
    ("reason", "cid", "response", "ends"),
    [
        pytest.param(0, 0, LogoutResponseCode.CLOSED, True, id="session"),
        pytest.param(1, 0, LogoutResponseCode.CLOSED, True, id="connection"),
        pytest.param(1, 5, LogoutResponseCode.CID_NOT_FOUND, False, id="other-connection"),
        pytest.param(2, 0, LogoutResponseCode.RECOVERY_NOT_SUPPORTED, False, id="recovery"),
    ],
)
async def test_logout(
    host: RawInitiator, access: MemoryAccess, reason: int, cid: int, response: int, ends: bool
) -> None:
    host.send(LogoutRequest(reason, 4, cid, host.cmd_sn))
    answer: LogoutResponse = await host.receive()
    assert (answer.response, answer.initiator_task_tag) == (response, 4)
    if ends:
        assert await host.is_closed()
        assert access.lost == access.started
    else:
        assert await alive(host)


async def test_answer_after_the_connection_was_lost_is_dropped(
    portal: str, target: Target, access: MemoryAccess
) -> None:
    access.hold = True
    host = await logged_in(portal)
    host.command(read_10(0, 1), read=BLOCK, tag=1)
    assert await alive(host)
    (task,) = access.submitted
    await host.close()
    await until(lambda: not target.sessions)
    assert access.lost == access.started
    assert task.aborted
    task.complete(0, (bytes(BLOCK),))


async def test_stop_finishes_tasks_takes_up_no_more_and_says_so(
    access: MemoryAccess,
) -> None:
    async with serving(access) as (target, portal), await RawInitiator.connect(portal) as host:
        await host.login(IQN)
        access.hold = True
        host.command(read_10(0, 1), read=BLOCK, tag=1)
        assert await alive(host)
        stopping = asyncio.create_task(target.stop())
        await asyncio.sleep(0)
        with pytest.raises(OSError):  # noqa: PT011
            await RawInitiator.connect(portal)
        host.command(read_10(0, 1), read=BLOCK, tag=2)
        assert await alive(host)
        access.release()
        assert (await host.receive()).initiator_task_tag == 1
        asked: AsyncMessage = await host.receive()
        assert asked.event == AsyncEvent.LOGOUT_REQUESTED
        assert asked.parameter3 == portal_module.LEAVE_SECONDS
        host.send(LogoutRequest(0, 3, 0, host.cmd_sn))
        assert isinstance(await host.receive(), LogoutResponse)
        assert await host.is_closed()
        assert len(access.submitted) == 1
        await host.close()
        await stopping


async def test_stop_tells_who_does_not_log_out_that_the_connection_is_dropped(
    access: MemoryAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portal_module, "LEAVE_SECONDS", 0)
    async with serving(access) as (target, portal), await RawInitiator.connect(portal) as host:
        await host.login(IQN)
        stopping = asyncio.create_task(target.stop())
        events = [(await host.receive()).event for _ in range(2)]
        assert events == [AsyncEvent.LOGOUT_REQUESTED, AsyncEvent.ALL_CONNECTIONS_DROPPED]
        assert await host.is_closed()
        await host.close()
        await stopping


async def test_host_that_is_none_any_more_is_asked_to_log_out(
    host: RawInitiator, portal: str, target: Target, access: MemoryAccess
) -> None:
    async with await RawInitiator.connect(portal) as other:
        assert (await other.login(IQN, name="iqn.other")).status == 0
        access.allowed = lambda name: name == "iqn.other"
        target.check_sessions()
        assert (await host.receive()).event == AsyncEvent.LOGOUT_REQUESTED
        assert await alive(other)
