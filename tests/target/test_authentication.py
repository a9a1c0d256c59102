"""Who has to prove who it is at the target port, and what happens to who cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import structlog

from daiko.initiator.discovery import discover
from daiko.initiator.login_check import check_login
from daiko.initiator.portal import Portal
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.chap import Account, Secret
from daiko.iscsi.error import LoginRefused, LoginStatus, RemoteProtocolError
from daiko.target import authentication as module
from daiko.target.authentication import Authentication, FailureLimit
from daiko.target.login_room import LoginRoom
from daiko.target.portal import Target
from target.memory_access import IQN, MemoryAccess, serving
from target.raw_initiator import RawInitiator

SETTINGS = InitiatorSettings()
ARRAY = Secret("array", b"secret of the array")
ALPHA = Account(Secret("alpha", b"secret of alpha."), ARRAY)
BETA = Account(Secret("beta", b"secret of beta.."))
FINDER = Account(Secret("finder", b"secret of finding"))


@pytest.fixture
def access() -> MemoryAccess:
    access = MemoryAccess()
    access.allowed = lambda name: name.startswith("iqn.known")
    return access


@pytest_asyncio.fixture(params=["127.0.0.1:0", "[::1]:0"], ids=["IPv4", "IPv6"])
async def served(
    access: MemoryAccess, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Target, Portal]]:
    async with serving(access, portal=request.param) as (target, portal):
        yield target, Portal.parse(portal)


async def status_of(portal: Portal, name: str, account: Account | None) -> int:
    """What a login comes to; 0: it succeeded."""
    try:
        await check_login(portal, name, IQN, account, SETTINGS)
    except LoginRefused as refusal:
        return refusal.status
    return 0


async def discovered(portal: Portal, name: str, account: Account | None) -> int:
    """How many targets a discovery finds, or the status with which it is refused."""
    try:
        found = await discover(portal, name, account=account)
    except LoginRefused as refusal:
        return refusal.status
    return len(found)


def with_target_of(account: Account) -> Account:
    return Account(account.initiator, ARRAY)


REFUSED = LoginStatus.AUTHENTICATION_FAILURE


async def test_each_host_proves_itself_by_its_own_account(served: tuple[Target, Portal]) -> None:
    target, portal = served
    hosts = {"iqn.known.alpha": ALPHA, "iqn.KNOWN.beta": BETA, "iqn.known.open": None}
    target.authentication.publish(hosts, None)
    one_way = Account(ALPHA.initiator)
    assert await status_of(portal, "iqn.known.alpha", ALPHA) == 0
    assert await status_of(portal, "iqn.known.alpha", one_way) == 0
    assert await status_of(portal, "iqn.known.alpha", None) == REFUSED
    assert await status_of(portal, "iqn.known.alpha", BETA) == REFUSED
    assert await status_of(portal, "iqn.known.beta", BETA) == 0
    assert await status_of(portal, "iqn.known.beta", with_target_of(BETA)) == REFUSED
    assert await status_of(portal, "iqn.known.open", None) == 0
    assert await status_of(portal, "iqn.known.open", Account(BETA.initiator)) == 0
    # The target does not know the secret by which it should prove itself.
    with pytest.raises(RemoteProtocolError, match="did not prove"):
        await status_of(
            portal, "iqn.known.alpha", Account(ALPHA.initiator, Secret("array", b"x" * 16))
        )


async def test_unknown_initiator_looks_like_a_wrong_secret(
    served: tuple[Target, Portal],
) -> None:
    target, portal = served
    assert await status_of(portal, "iqn.who", None) == LoginStatus.AUTHORIZATION_FAILURE
    target.authentication.publish({"iqn.known.alpha": ALPHA}, None)
    for account in (None, Account(ALPHA.initiator), Account(Secret("", bytes(16)))):
        assert await status_of(portal, "iqn.who", account) == REFUSED
    assert await status_of(portal, "iqn.known.alpha", Account(Secret("alpha", b"x"))) == REFUSED


async def test_account_for_all_holds_for_every_host_that_has_none_of_its_own(
    served: tuple[Target, Portal],
) -> None:
    target, portal = served
    target.authentication.publish({"*": BETA, "iqn.known.alpha": ALPHA}, None)
    assert await status_of(portal, "iqn.known.other", BETA) == 0
    assert await status_of(portal, "iqn.known.other", None) == REFUSED
    assert await status_of(portal, "iqn.known.alpha", BETA) == REFUSED


async def test_host_without_its_secret_yet_is_kept_out(served: tuple[Target, Portal]) -> None:
    target, portal = served
    target.authentication.publish({"iqn.known.alpha": Account(Secret("alpha", b""))}, None)
    for secret in (b"", bytes(16)):
        account = Account(Secret("alpha", secret))
        assert await status_of(portal, "iqn.known.alpha", account) == REFUSED


async def test_discovery_asks_for_a_proof_only_where_an_account_is_set(
    served: tuple[Target, Portal],
) -> None:
    target, portal = served
    name = "iqn.known.alpha"
    target.authentication.publish({name: ALPHA}, None)
    assert await discovered(portal, name, None) == 1
    assert await discovered(portal, name, ALPHA) == 1
    assert await discovered(portal, "iqn.who", None) == 0
    assert await discovered(portal, "iqn.who", Account(ALPHA.initiator)) == REFUSED
    target.authentication.publish({name: ALPHA}, FINDER)
    assert await discovered(portal, name, None) == REFUSED
    assert await discovered(portal, name, FINDER) == 1
    assert await discovered(portal, name, ALPHA) == 1
    assert await discovered(portal, name, BETA) == REFUSED
    assert await discovered(portal, "iqn.who", FINDER) == 0, "it may ask, and sees nothing"
    # Discovery's account is good for discovery only.
    assert await status_of(portal, name, FINDER) == REFUSED


async def test_wrong_answers_are_limited_by_address_and_only_there(
    served: tuple[Target, Portal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FAILURES", 3)
    target, portal = served
    target.authentication.publish({"iqn.known.alpha": ALPHA, "iqn.known.open": None}, None)
    wrong = Account(Secret("alpha", b"a guessed secret"))
    # Asking without an answer is no guess.
    statuses = [await status_of(portal, "iqn.known.alpha", None) for _ in range(5)]
    assert statuses == [REFUSED] * 5
    statuses = [await status_of(portal, "iqn.known.alpha", wrong) for _ in range(5)]
    assert statuses == [REFUSED] * 3 + [LoginStatus.SERVICE_UNAVAILABLE] * 2
    assert await status_of(portal, "iqn.known.alpha", ALPHA) == LoginStatus.SERVICE_UNAVAILABLE
    assert await status_of(portal, "iqn.known.open", None) == 0, "nothing to guess there"
    assert not target.failure_limit.is_reached("192.0.2.1", 0.0), "another address"


async def test_refusal_is_logged_with_its_reason_and_without_the_secret(
    served: tuple[Target, Portal],
) -> None:
    target, portal = served
    target.authentication.publish({"iqn.known.alpha": ALPHA}, None)
    with structlog.testing.capture_logs() as logs:
        await status_of(portal, "iqn.known.alpha", Account(Secret("alpha", b"a guessed secret")))
    (line,) = [each for each in logs if each["event"] == "login refused"]
    assert line["log_level"] == "warning"
    assert line["reason"] == "a wrong CHAP secret"
    assert (line["initiator"], line["status"]) == ("iqn.known.alpha", "0201")
    assert "guessed" not in str(logs)
    assert "secret of" not in str(logs)


async def test_host_forgotten_during_its_login_does_not_get_in(
    served: tuple[Target, Portal], access: MemoryAccess
) -> None:
    _, portal = served
    access.allowed = lambda name: True
    async with await RawInitiator.connect(str(portal)) as host:
        assert (await host.login(IQN, transit=False, next_stage=0)).status == 0
        access.allowed = lambda name: False
        host.send(host.login_request({}))
        assert (await host.receive()).status == LoginStatus.AUTHORIZATION_FAILURE
        assert await host.is_closed()
    assert access.started == []


def test_failures_are_forgotten_one_by_one() -> None:
    limit = FailureLimit()
    for _ in range(module.FAILURES):
        assert not limit.is_reached("192.0.2.1", 0.0)
        limit.failed("192.0.2.1", 0.0)
    assert limit.is_reached("192.0.2.1", 0.0)
    assert not limit.is_reached("192.0.2.1", module.REGAIN_SECONDS)
    limit.failed("192.0.2.1", module.REGAIN_SECONDS)
    assert limit.is_reached("192.0.2.1", module.REGAIN_SECONDS)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "192.0.2.1", False),
    ],
)
def test_peer_is_what_a_machine_cannot_choose(one: str, other: str, is_same: bool) -> None:
    limit = FailureLimit()
    for _ in range(module.FAILURES):
        limit.failed(one, 0.0)
    assert limit.is_reached(other, 0.0) is is_same


def test_remembered_addresses_are_bounded() -> None:
    limit = FailureLimit()
    for number in range(module.MAXIMUM_ADDRESSES + 10):
        limit.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(limit._failures) == module.MAXIMUM_ADDRESSES


def test_no_account_asks_nobody() -> None:
    policy = Authentication()
    for is_discovery in (False, True):
        for is_known in (False, True):
            demand = policy.demand("iqn.a", is_discovery=is_discovery, is_known=is_known)
            assert demand == (None, False)


def test_room_takes_the_place_of_the_busiest_address() -> None:
    room: LoginRoom[str] = LoginRoom(maximum=3)
    assert [room.enter(name, name[0]) for name in ("a1", "b1", "a2")] == [None, None, None]
    assert room.enter("b2", "b") == "a1"
    assert room.enter("b3", "b") == "b1"
    assert room.enter("b4", "b") == "b2"
    assert room.enter("c1", "c") == "b3"
    room.leave("a2")
    room.leave("a2")
    assert len(room) == 2
