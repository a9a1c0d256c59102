"""Portals: their notation, listening and not listening any more, addresses in discovery."""

from __future__ import annotations

import pytest

from daiko.iscsi.bhs import AsyncEvent
from daiko.target.discovery import format_portal, target_records
from daiko.target.portal import Target, parse_portal
from target.memory_access import IQN, MemoryAccess, serving
from target.raw_initiator import RawInitiator


@pytest.mark.parametrize(
    ("portal", "host", "port"),
    [
        ("127.0.0.1:3261", "127.0.0.1", 3261),
        ("127.0.0.1", "127.0.0.1", 3260),
        ("storage.example:1", "storage.example", 1),
        ("[::1]:3262", "::1", 3262),
        ("[::1]", "::1", 3260),
        ("2001:db8::1", "2001:db8::1", 3260),
        (":3263", "", 3263),
        ("0.0.0.0:0", "0.0.0.0", 0),
    ],
)
def test_portal_is_parsed(portal: str, host: str, port: int) -> None:
    assert parse_portal(portal) == (host, port)


@pytest.mark.parametrize("portal", ["host:port", "host:65536", "[::1", "[::1]3260", "host:-1"])
def test_portal_that_is_none_is_refused(portal: str) -> None:
    with pytest.raises(ValueError, match=r"port|PORT"):
        parse_portal(portal)


def test_portal_is_formatted_as_it_is_parsed() -> None:
    assert format_portal("::1", 3260) == "[::1]:3260"
    assert format_portal("192.0.2.1", 3260) == "192.0.2.1:3260"


PORTALS = {"0.0.0.0:1": 1, "192.0.2.1:2": 2, "[::]:3": 3, "[2001:db8::1]:4": 2, "host.test:5": 1}


@pytest.mark.parametrize(
    ("local", "told"),
    [
        pytest.param(
            "198.51.100.7",
            ["198.51.100.7:1,1", "192.0.2.1:2,2", "[2001:db8::1]:4,2", "host.test:5,1"],
            id="over-ipv4",
        ),
        pytest.param(
            "2001:db8::7",
            ["192.0.2.1:2,2", "[2001:db8::7]:3,3", "[2001:db8::1]:4,2", "host.test:5,1"],
            id="over-ipv6",
        ),
        pytest.param(
            "fe80::7%eth0",
            ["192.0.2.1:2,2", "[fe80::7]:3,3", "[2001:db8::1]:4,2", "host.test:5,1"],
            id="link-local",
        ),
        pytest.param(
            "::ffff:198.51.100.7",
            ["198.51.100.7:1,1", "192.0.2.1:2,2", "[2001:db8::1]:4,2", "host.test:5,1"],
            id="ipv4-in-ipv6",
        ),
    ],
)
def test_portal_on_every_address_is_told_as_the_one_that_was_reached(
    local: str, told: list[str]
) -> None:
    assert target_records("iqn.t", PORTALS, (local, 9)) == [
        ("TargetName", "iqn.t"),
        *(("TargetAddress", address) for address in told),
    ]


def test_target_without_a_portal_that_can_be_reached_is_not_told() -> None:
    assert target_records("iqn.t", {"[::]:3": 1}, ("192.0.2.1", 9)) == []
    assert target_records("iqn.t", {}, ("192.0.2.1", 9)) == []


async def test_portal_that_is_given_up_takes_no_more_connections() -> None:
    async with serving(MemoryAccess()) as (target, portal):
        second = await target.listen("127.0.0.1:0")
        assert target.portals == (portal, second)
        async with await RawInitiator.connect(second) as host:
            assert (await host.login(IQN)).status == 0
            await target.unlisten(second)
            assert target.portals == (portal,)
            with pytest.raises(ConnectionRefusedError):
                await RawInitiator.connect(second)
            message = await host.receive()
            assert (message.event, message.parameter3) == (AsyncEvent.LOGOUT_REQUESTED, 10)
            # Until it leaves it is served.
            host.command(bytes(6))
            assert (await host.receive()).status == 0


async def test_portal_in_use_is_refused() -> None:
    async with serving(MemoryAccess()) as (_, portal):
        with pytest.raises(OSError, match="in use"):
            await Target("iqn.other", MemoryAccess()).listen(portal)


async def test_session_handles_are_never_those_in_use() -> None:
    async with serving(MemoryAccess()) as (target, portal):
        target._last_tsih = 0xFFFF - 1
        async with await RawInitiator.connect(portal) as first:
            handles = [(await first.login(IQN)).tsih]
            target._last_tsih = 0xFFFF - 1
            for number in range(2):
                async with await RawInitiator.connect(portal) as host:
                    isid = bytes([0x80, 0, 0, 0, 1, number])
                    handles.append((await host.login(IQN, isid=isid)).tsih)
        assert handles == [0xFFFF, 1, 2]
