"""Several portal groups: which the host comes to, which it is told of, which it may use."""

from __future__ import annotations

from typing import Any

import pytest

from daiko.iscsi.bhs import AsyncEvent, LogoutReason
from daiko.iscsi.error import LoginStatus
from daiko.iscsi.pdu import AsyncMessage, LogoutRequest, LogoutResponse
from daiko.iscsi.text_key import parse_text
from daiko.target import connection
from target.memory_access import IQN, MemoryAccess, serving
from target.raw_initiator import INITIATOR, RawInitiator

OTHER = "iqn.2026-11.example:other"


async def logged_in(portal: str, **fields: Any) -> RawInitiator:
    host = await RawInitiator.connect(portal)
    response = await host.login(IQN, **fields)
    assert response.status == LoginStatus.SUCCESS
    return host


async def test_login_is_told_the_tag_of_the_portal_it_came_to() -> None:
    access = MemoryAccess()
    async with serving(access) as (target, first):
        second = await target.listen("127.0.0.1:0", 7)
        for portal, tag in ((first, 1), (second, 7)):
            async with await logged_in(portal) as host:
                assert host.keys["TargetPortalGroupTag"] == str(tag)
                assert access.started[-1].portal_group_tag == tag


async def test_same_name_and_isid_at_another_portal_group_is_another_nexus() -> None:
    """RFC 7143, 6.3.5: only a login to the same portal group reinstates the session."""
    async with serving(MemoryAccess()) as (target, first):
        same_group = await target.listen("127.0.0.1:0", 1)
        other_group = await target.listen("127.0.0.1:0", 2)
        async with await logged_in(first) as one, await logged_in(other_group) as two:
            assert len(target.sessions) == 2
            async with await logged_in(same_group) as three:
                assert await one.is_closed()
                for host in (two, three):
                    host.command(bytes(6))
                    assert (await host.receive()).status == 0


async def test_sendtargets_tells_a_host_the_portals_that_it_may_use() -> None:
    access = MemoryAccess()
    access.tags = {INITIATOR: frozenset({2, 3})}
    async with serving(access) as (target, first):
        second = await target.listen("127.0.0.1:0", 2)
        third = await target.listen("127.0.0.1:0", 3)
        for name, told in (
            (INITIATOR, [f"{second},2", f"{third},3"]),
            (OTHER, [f"{first},1", f"{second},2", f"{third},3"]),
        ):
            async with await RawInitiator.connect(first) as host:
                assert (await host.login(None, name=name)).status == 0
                host.text({"SendTargets": "All"})
                pairs = parse_text((await host.receive()).data)
                assert pairs == [("TargetName", IQN), *(("TargetAddress", a) for a in told)]


async def test_wildcard_portal_is_told_over_both_ip_versions() -> None:
    async with serving(MemoryAccess(), portal="0.0.0.0:0") as (target, four):
        six = await target.listen("[::]:0", 2)
        ports = [portal.rpartition(":")[2] for portal in (four, six)]
        for asked, told in (
            (f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[0]},1"),
            (f"[::1]:{ports[1]}", f"[::1]:{ports[1]},2"),
        ):
            async with await RawInitiator.connect(asked) as host:
                await host.login(None)
                host.text({"SendTargets": "All"})
                pairs = parse_text((await host.receive()).data)
                assert pairs == [("TargetName", IQN), ("TargetAddress", told)]


async def test_login_at_a_portal_that_the_host_may_not_use_is_sent_on_to_one_that_it_may() -> None:
    access = MemoryAccess()
    access.tags = {INITIATOR: frozenset({2})}
    async with serving(access) as (target, first):
        second = await target.listen("127.0.0.1:0", 2)
        async with await RawInitiator.connect(first) as host:
            response = await host.login(IQN)
            assert response.status == LoginStatus.TARGET_MOVED_TEMPORARILY
            # (without the tag: RFC 7143, 13.8)
            assert parse_text(response.data) == [("TargetAddress", second)]
            assert await host.is_closed()
        async with await logged_in(second):
            pass


async def test_host_that_is_at_every_portal_group_it_may_use_is_refused_elsewhere() -> None:
    access = MemoryAccess()
    access.tags = {INITIATOR: frozenset({2})}
    async with serving(access) as (target, first):
        second = await target.listen("127.0.0.1:0", 2)
        async with await logged_in(second), await RawInitiator.connect(first) as host:
            response = await host.login(IQN, isid=b"\x80\0\0\0\0\x09")
            assert response.status == LoginStatus.AUTHORIZATION_FAILURE


async def test_host_whose_portal_groups_are_not_there_is_refused() -> None:
    access = MemoryAccess()
    access.tags = {INITIATOR: frozenset({9})}
    async with serving(access) as (_, portal), await RawInitiator.connect(portal) as host:
        assert (await host.login(IQN)).status == LoginStatus.AUTHORIZATION_FAILURE


async def test_host_that_may_not_use_its_portal_group_any_more_is_asked_to_leave() -> None:
    access = MemoryAccess()
    async with serving(access) as (target, portal), await logged_in(portal) as host:
        target.check_sessions()
        access.tags = {INITIATOR: frozenset({2})}
        target.check_sessions()
        target.check_sessions()  # asking once is enough
        message = await host.receive()
        assert isinstance(message, AsyncMessage)
        assert message.event == AsyncEvent.LOGOUT_REQUESTED
        host.send(LogoutRequest(LogoutReason.CLOSE_SESSION, 0x30, cmd_sn=host.take_cmd_sn()))
        assert isinstance(await host.receive(), LogoutResponse)
        assert await host.is_closed()
        assert not target.sessions


async def test_host_that_does_not_leave_in_time_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection.TargetConnection.request_logout, "__defaults__", (0,))
    async with serving(MemoryAccess()) as (target, first):
        second = await target.listen("127.0.0.1:0", 2)
        async with await logged_in(first) as host:
            await target.unlisten(first)
            events = [(await host.receive()).event for _ in range(2)]
            assert events == [AsyncEvent.LOGOUT_REQUESTED, AsyncEvent.ALL_CONNECTIONS_DROPPED]
            assert await host.is_closed()
        assert target.portal_groups == {second: 2}


async def test_portal_moves_to_another_portal_group_without_a_gap() -> None:
    async with serving(MemoryAccess()) as (target, portal), await logged_in(portal) as host:
        target.move(portal, 1)
        target.move(portal, 5)
        assert (await host.receive()).event == AsyncEvent.LOGOUT_REQUESTED
        async with await logged_in(portal) as newcomer:
            assert newcomer.keys["TargetPortalGroupTag"] == "5"


async def test_connection_without_a_session_goes_with_its_portal() -> None:
    async with serving(MemoryAccess()) as (target, portal):
        host = await RawInitiator.connect(portal)
        assert (await host.login(None)).status == 0
        await target.unlisten(portal)
        assert await host.is_closed()
        await host.close()
