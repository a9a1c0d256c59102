"""SendTargets, against a target that answers as each test says, and against tgt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from daiko.device.error import Unreachable
from daiko.initiator.discovery import DiscoveredPortal, DiscoveredTarget, discover, new_isid
from daiko.initiator.portal import Portal
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.bhs import RESERVED_TAG
from daiko.iscsi.error import LoginRefused, LoginStatus, RemoteProtocolError
from daiko.iscsi.login import Admission
from daiko.iscsi.pdu import LogoutRequest, NopIn, NopOut, TextRequest, TextResponse
from initiator.scripted_target import Link, ScriptedTarget
from processes import Tgt, image

INITIATOR = "iqn.2026-11.com.example:daiko"


@pytest.fixture
async def target() -> AsyncIterator[ScriptedTarget]:
    async with ScriptedTarget() as target:
        yield target


def text(data: bytes) -> Callable[[Link, TextRequest], None]:
    def answer(link: Link, request: TextRequest) -> None:
        link.exp_cmd_sn = request.cmd_sn + 1
        link.send(TextResponse(initiator_task_tag=request.initiator_task_tag, data=data))

    return answer


class TestAnswers:
    async def test_targets_come_with_their_portals(self, target: ScriptedTarget) -> None:
        target.on[TextRequest] = text(
            b"TargetName=iqn.a\0TargetAddress=192.0.2.1:3260,1\0TargetAddress=[2001:db8::1]:861,2\0"
            b"TargetName=iqn.b\0TargetAddress=disks.example,7\0"
        )
        assert await discover(target.portal, INITIATOR) == (
            DiscoveredTarget(
                "iqn.a",
                (
                    DiscoveredPortal(Portal("192.0.2.1", 3260), 1),
                    DiscoveredPortal(Portal("2001:db8::1", 861), 2),
                ),
            ),
            DiscoveredTarget("iqn.b", (DiscoveredPortal(Portal("disks.example", 3260), 7),)),
        )
        assert [identity.is_discovery for identity in target.identities] == [True]
        request = next(pdu for pdu in target.link.received if isinstance(pdu, TextRequest))
        assert bytes(request.data) == b"SendTargets=All\0"
        await target.until(
            lambda: any(isinstance(pdu, LogoutRequest) for pdu in target.link.received)
        )

    async def test_target_without_address_lies_at_the_portal_that_was_asked(
        self, target: ScriptedTarget
    ) -> None:
        target.on[TextRequest] = text(b"TargetName=iqn.a\0")
        (found,) = await discover(target.portal, INITIATOR)
        assert found.portals == (DiscoveredPortal(target.portal, 1),)

    async def test_no_targets_is_an_answer(self, target: ScriptedTarget) -> None:
        target.on[TextRequest] = text(b"")
        assert await discover(target.portal, INITIATOR) == ()

    async def test_long_answer_is_fetched_part_by_part(self, target: ScriptedTarget) -> None:
        whole = b"".join(
            b"TargetName=iqn.2026-11.com.example:disk%03d\0TargetAddress=192.0.2.1:3260,1\0" % n
            for n in range(200)
        )
        parts = [whole[at : at + 5000] for at in range(0, len(whole), 5000)]

        def answer(link: Link, request: TextRequest) -> None:
            link.exp_cmd_sn = request.cmd_sn + 1
            number = (
                0 if request.target_transfer_tag == RESERVED_TAG else (request.target_transfer_tag)
            )
            is_last = number == len(parts) - 1
            link.send(
                TextResponse(
                    final=is_last,
                    continued=not is_last,
                    initiator_task_tag=request.initiator_task_tag,
                    target_transfer_tag=RESERVED_TAG if is_last else number + 1,
                    data=parts[number],
                )
            )

        target.on[TextRequest] = answer
        found = await discover(target.portal, INITIATOR)
        assert [item.name[-3:] for item in found] == [f"{n:03d}" for n in range(200)]

    async def test_ping_in_between_is_answered(self, target: ScriptedTarget) -> None:
        pending: list[TextRequest] = []

        def ping(link: Link, request: TextRequest) -> None:
            pending.append(request)
            link.send(NopIn(target_transfer_tag=9), counts=False)

        target.on[TextRequest] = ping
        target.on[NopOut] = lambda link, pdu: text(b"TargetName=iqn.a\0")(link, pending[0])
        assert [item.name for item in await discover(target.portal, INITIATOR)] == ["iqn.a"]

    async def test_tgt_is_found_with_its_portal(self, tmp_path: Path) -> None:
        with Tgt(tmp_path, image(tmp_path / "disk", 1 << 20)) as tgt:
            (found,) = await discover(Portal.parse(tgt.portal), INITIATOR)
            assert found.name == tgt.iqn
            assert found.portals == (DiscoveredPortal(Portal.parse(tgt.portal), 1),)


class TestErrors:
    @pytest.mark.parametrize(
        "answer",
        [
            b"TargetAddress=192.0.2.1:3260,1\0",
            b"TargetName=iqn.a\0TargetAddress=192.0.2.1:99999,1\0",
            b"TargetName=iqn.a\0TargetAddress=192.0.2.1:3260,x\0",
        ],
        ids=["address of no target", "impossible port", "tag that is no number"],
    )
    async def test_impossible_answer_breaks_the_protocol(
        self, target: ScriptedTarget, answer: bytes
    ) -> None:
        target.on[TextRequest] = text(answer)
        with pytest.raises(RemoteProtocolError):
            await discover(target.portal, INITIATOR)

    async def test_text_that_is_none_ends_the_session(self, target: ScriptedTarget) -> None:
        target.on[TextRequest] = text(b"no key here\0")
        with pytest.raises(Unreachable):
            await discover(target.portal, INITIATOR)

    async def test_refused_login_is_told(self, target: ScriptedTarget) -> None:
        target.admission = lambda identity: Admission(LoginStatus.AUTHORIZATION_FAILURE)
        with pytest.raises(LoginRefused):
            await discover(target.portal, INITIATOR)

    async def test_nobody_there_is_unreachable(self) -> None:
        with pytest.raises(Unreachable, match="refused"):
            await discover(Portal("127.0.0.1", 1), INITIATOR)

    @pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"], ids=["empty-part", "long"])
    async def test_what_cannot_be_a_name_is_unreachable(self, host: str) -> None:
        with pytest.raises(Unreachable, match="cannot be the name of a machine"):
            await discover(Portal(host), INITIATOR)

    async def test_no_answer_in_time_is_unreachable(self, target: ScriptedTarget) -> None:
        target.on[TextRequest] = lambda link, request: None
        settings = InitiatorSettings(login_timeout=0.1)
        with pytest.raises(Unreachable, match="SendTargets"):
            await discover(target.portal, INITIATOR, settings=settings)

    async def test_connection_that_ends_is_unreachable(self, target: ScriptedTarget) -> None:
        target.on[TextRequest] = lambda link, request: link.connection.abort()
        with pytest.raises(Unreachable):
            await discover(target.portal, INITIATOR)


class TestPortal:
    @pytest.mark.parametrize(
        ("words", "portal"),
        [
            ("192.0.2.1", Portal("192.0.2.1", 3260)),
            ("192.0.2.1:861", Portal("192.0.2.1", 861)),
            ("disks.example:3261", Portal("disks.example", 3261)),
            ("[2001:db8::1]", Portal("2001:db8::1", 3260)),
            ("[2001:db8::1]:861", Portal("2001:db8::1", 861)),
            ("2001:db8::1", Portal("2001:db8::1", 3260)),
        ],
    )
    def test_every_way_to_write_one_is_read(self, words: str, portal: Portal) -> None:
        assert Portal.parse(words) == portal
        assert Portal.parse(str(portal)) == portal

    @pytest.mark.parametrize(
        "words", ["", ":3260", "h:", "h:x", "h:0", "h:65536", "[::1", "[::1]x", "[::1]:", "h:-1"]
    )
    def test_what_is_no_portal_is_refused(self, words: str) -> None:
        with pytest.raises(ValueError, match="portal"):
            Portal.parse(words)


def test_isids_are_random_and_of_the_random_kind() -> None:
    made = {new_isid() for _ in range(50)}
    assert len(made) == 50
    assert {isid[0] >> 6 for isid in made} == {2}
    assert {len(isid) for isid in made} == {6}
