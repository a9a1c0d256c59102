"""The link to another site: its states, with a peer whose every answer a test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from daiko.backend import site_link, site_session
from daiko.backend.site_link import SiteLink
from daiko.backend.site_session import (
    LinkState,
    NoSuchDevice,
    NotOffered,
    SiteUnavailable,
)
from daiko.command_control.plan import Function
from daiko.device.error import Refused
from daiko.iscsi.error import LoginStatus
from daiko.iscsi.login import Admission
from daiko.iscsi.pdu import DataOut, ScsiCommand
from daiko.mapping.extent import DeviceId
from daiko.scsi import sense
from daiko.scsi.inquiry import StandardInquiry
from daiko.scsi.opcode import DeviceType, Opcode, SiteIn
from daiko.scsi.report import pack_report_luns
from daiko.scsi.sense import Sense
from daiko.scsi.site_parameters import Page, Value
from daiko.scsi.site_values import (
    Answer,
    Envelope,
    Greeting,
    KnownCode,
    PeerCell,
)
from initiator.scripted_target import IQN, Link, ScriptedTarget
from site_rig import becomes, reaches

from .test_site_reading import HONEST, SD1, VOLUME, Nothing

OWN_IDENTITY = "0" * 32
GREETING = Greeting(bytes(range(16)), IQN, "0.1", 1793000000000, 1, 0x1F, 0)
CELL = PeerCell("sd1", 1, Answer.CAN, KnownCode.PROBED, 5, "it said so")
UNIT = StandardInquiry(
    vendor="DAIKO", product="MANAGEMENT UNIT", device_type=DeviceType.STORAGE_ARRAY_CONTROLLER
)


class Peer:
    """A management unit whose answers can be exchanged."""

    def __init__(self, target: ScriptedTarget) -> None:
        self.inquiry = UNIT
        self.values: dict[int, list[Value]] = {
            SiteIn.GREET: [GREETING],
            SiteIn.VOLUMES: [VOLUME],
            SiteIn.VOLUME_MAPPING: list(HONEST),
            SiteIn.ASK_FUNCTION: [CELL],
            SiteIn.FUNCTION_TABLE: [CELL],
        }
        self.version = (1, 2)
        self.generation = 7
        self.refusals: dict[int, Sense] = {}
        """Service action of SITE IN -> what it is refused with."""
        self.answer: Callable[[int, int], bytes | None] = lambda action, start: None
        """Takes the place of the answer to a SITE IN; None: as it would be."""
        self.is_silent = False
        self.asked: list[int] = []
        target.on[ScsiCommand] = self._command
        target.on[DataOut] = lambda link, pdu: None

    def _command(self, link: Link, command: ScsiCommand) -> None:
        cdb = command.cdb
        if self.is_silent and cdb[0] == Opcode.SITE_IN:
            return
        if cdb[0] == Opcode.INQUIRY:
            self._send(link, command, self.inquiry.pack())
        elif cdb[0] == Opcode.REPORT_LUNS:
            self._send(link, command, pack_report_luns([0]))
        elif cdb[0] == Opcode.SITE_IN:
            self._site_in(link, command, cdb[1] & 0x1F, int.from_bytes(cdb[6:10], "big"))
        elif cdb[0] == Opcode.SITE_OUT:
            link.answer(command, 2, sense.invalid_field_in_cdb(1, 4).fixed())
        else:
            link.answer(command, 2, sense.invalid_opcode().fixed())

    def _site_in(self, link: Link, command: ScsiCommand, action: int, start: int) -> None:
        self.asked.append(action)
        if action in self.refusals:
            link.answer(command, 2, self.refusals[action].fixed())
            return
        data = self.answer(action, start)
        if data is None:
            page = Page.of(action, self.values[action])
            data = replace(page, generation=self.generation, version=self.version).pack()
        self._send(link, command, data)

    @staticmethod
    def _send(link: Link, command: ScsiCommand, data: bytes) -> None:
        room = command.expected_data_transfer_length
        given = data[:room]
        link.data_in(command, given, residual=room - len(given),
                     flags=0x81 | (0x02 if len(given) < room else 0))  # fmt: skip


class Rig:
    def __init__(self, target: ScriptedTarget) -> None:
        self.target = target
        self.peer = Peer(target)
        self.identities: list[str] = []
        self.links: list[SiteLink] = []

    def link(self, **changes: Any) -> SiteLink:
        options: dict[str, Any] = {"own_identity": OWN_IDENTITY, "own": Nothing} | changes
        link = SiteLink(
            "osaka", IQN, [str(self.target.portal)], "iqn.2026-11.test:tokyo", **options
        )
        link.watch_identity(self.identities.append)
        self.links.append(link)
        link.start()
        return link


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with ScriptedTarget() as target:
        rig = Rig(target)
        yield rig
        for link in rig.links:
            await link.stop()


@asynccontextmanager
async def up(rig: Rig) -> AsyncIterator[SiteLink]:
    link = rig.link()
    await reaches(link, LinkState.UP)
    yield link


# --- coming up


async def test_link_comes_up_and_knows_the_other_system(rig: Rig) -> None:
    link = rig.link()
    assert link.status.state is LinkState.CONNECTING
    status = await reaches(link, LinkState.UP)
    assert status.detail == f"through {rig.target.portal}"
    assert (link.greeting, link.version) == (GREETING, (1, 2))
    assert link.clock_difference is not None
    assert rig.identities == [GREETING.identity.hex()]


@pytest.mark.parametrize(
    ("greeting", "options", "words"),
    [
        pytest.param(GREETING, {"identity": "f" * 32}, "another system than before", id="another"),
        pytest.param(
            GREETING, {"own_identity": GREETING.identity.hex()}, "this system itself", id="us"
        ),
        pytest.param(replace(GREETING, iqn=f"{IQN}2"), {}, "calls itself", id="another name"),
        pytest.param(VOLUME, {}, "does not say who it is", id="no greeting"),
    ],
)
async def test_system_that_is_not_the_right_one_is_refused(
    rig: Rig, greeting: Value, options: dict[str, Any], words: str
) -> None:
    rig.peer.values[SiteIn.GREET] = [greeting]
    await reaches(rig.link(**options), LinkState.REFUSED, words)
    assert rig.identities == []


@pytest.mark.parametrize(
    "inquiry",
    [
        pytest.param(replace(UNIT, device_type=DeviceType.PROCESSOR), id="no array controller"),
        pytest.param(replace(UNIT, vendor="ACME"), id="of another vendor"),
        pytest.param(replace(UNIT, product="VIRTUAL LU"), id="another product"),
    ],
)
async def test_unit_that_is_no_management_unit_is_sent_nothing(
    rig: Rig, inquiry: StandardInquiry
) -> None:
    rig.peer.inquiry = inquiry
    await reaches(rig.link(), LinkState.REFUSED, "adds this system as a site")
    assert rig.peer.asked == []


@pytest.mark.parametrize("version", [(0, 9), (2, 0)])
async def test_other_major_version_is_incompatible(rig: Rig, version: tuple[int, int]) -> None:
    rig.peer.version = version
    link = rig.link()
    status = await reaches(link, LinkState.INCOMPATIBLE)
    assert "version {}.{}".format(*version) in status.detail
    with pytest.raises(SiteUnavailable, match="incompatible"):
        await link.volumes()
    rig.peer.version = (1, 2)
    assert (await link.probe()).state is LinkState.UP


async def test_newer_minor_version_is_understood(rig: Rig) -> None:
    rig.peer.version = (1, 9)
    async with up(rig) as link:
        assert link.version == (1, 9)
        assert await link.volumes() == {1: VOLUME}


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        (LoginStatus.AUTHORIZATION_FAILURE, LinkState.REFUSED, "adds this system as a site"),
        (LoginStatus.AUTHENTICATION_FAILURE, LinkState.REFUSED, "CHAP user"),
        (LoginStatus.NOT_FOUND, LinkState.REFUSED, "not found"),
        (LoginStatus.UNSUPPORTED_VERSION, LinkState.REFUSED, "unsupported version"),
        (LoginStatus.SERVICE_UNAVAILABLE, LinkState.DOWN, "service unavailable"),
        (LoginStatus.OUT_OF_RESOURCES, LinkState.DOWN, "out of resources"),
    ],
)
async def test_refused_login_is_told_from_a_target_that_cannot_now(
    rig: Rig, status: LoginStatus, state: LinkState, words: str
) -> None:
    rig.target.admission = lambda identity: Admission(status)
    link = rig.link()
    await reaches(link, state, words)
    rig.target.admission = None
    assert (await link.probe()).state is LinkState.UP


async def test_what_is_missing_is_said_and_nothing_is_tried(rig: Rig) -> None:
    link = rig.link(missing="the secret of CHAP user tokyo is not given yet")
    await reaches(link, LinkState.REFUSED, "not given yet")
    assert rig.target.identities == []
    link.use_account(None)
    await reaches(link, LinkState.UP)


# --- questions


async def test_questions_are_answered_with_what_the_peer_says(rig: Rig) -> None:
    async with up(rig) as link:
        sd1 = DeviceId("osaka:sd1", 0)
        assert await link.greet() == GREETING
        assert await link.volumes() == {1: VOLUME}
        mapping = await link.mapping(1)
        assert mapping.generation == 7
        assert mapping.table.devices[0] == sd1
        cell = await link.ask_function(1, sd1, Function.DIRECT_BACKUP)
        assert cell is not None
        assert cell.can
        table = await link.function_table()
        assert table.function("osaka:sd1", Function.DIRECT_BACKUP) == cell


async def test_no_such_volume_and_no_such_device_are_answers(rig: Rig) -> None:
    async with up(rig) as link:
        with pytest.raises(NotOffered):
            await link.mapping(9)
        with pytest.raises(NoSuchDevice):
            await link.ask_function(1, DeviceId("osaka:sd9", 0), Function.DIRECT_BACKUP)
        rig.peer.refusals[SiteIn.VOLUME_MAPPING] = sense.invalid_field_in_cdb(2)
        with pytest.raises(NotOffered):
            await link.mapping(1)
        del rig.peer.refusals[SiteIn.VOLUME_MAPPING]
        rig.peer.refusals[SiteIn.ASK_FUNCTION] = sense.invalid_field_in_cdb(4)
        with pytest.raises(NoSuchDevice):
            await link.ask_function(1, DeviceId("osaka:sd1", 0), Function.DIRECT_BACKUP)
        assert link.status.state is LinkState.UP


async def test_mapping_that_changed_between_two_questions_is_asked_for_again(rig: Rig) -> None:
    async with up(rig) as link:

        def answer(action: int, start: int) -> None:
            rig.peer.generation = 7 if action == SiteIn.VOLUME_MAPPING else 8

        rig.peer.answer = answer
        with pytest.raises(SiteUnavailable, match="another mapping meanwhile"):
            await link.ask_function(1, DeviceId("osaka:sd1", 0), Function.DIRECT_BACKUP)
        assert link.status.state is LinkState.UP


async def test_pair_that_the_peer_does_not_take_is_refused_to_who_sent_it(rig: Rig) -> None:
    async with up(rig) as link:
        with pytest.raises(Refused):
            await link.send_pair(0, Envelope(1, 1, b"pair"))
        rig.peer.refusals[SiteIn.PAIR_IN] = sense.invalid_field_in_cdb(1, 4)
        with pytest.raises(Refused):
            await link.pair_answers(0)
        assert link.status.state is LinkState.UP


async def test_device_that_is_not_the_volume_is_refused(rig: Rig) -> None:
    async with up(rig) as link:
        with pytest.raises(SiteUnavailable, match="not the volume alpha"):
            await link.device(1)


# --- a hostile peer

OTHER = PeerCell("sd2", 1, Answer.CAN, KnownCode.PROBED, 5, "")


@pytest.mark.parametrize(
    ("action", "values", "words"),
    [
        pytest.param(SiteIn.VOLUME_MAPPING, HONEST[:3], "8 blocks, the volume 16", id="too short"),
        pytest.param(
            SiteIn.VOLUME_MAPPING, [replace(SD1, block_size=4096), *HONEST[1:]], "4096", id="size"
        ),
        pytest.param(SiteIn.VOLUME_MAPPING, [VOLUME], "OfferedVolume", id="kind"),
        pytest.param(SiteIn.VOLUMES, [VOLUME, VOLUME], "twice", id="volumes"),
        pytest.param(SiteIn.ASK_FUNCTION, [OTHER], "answers for sd2", id="another's cell"),
        pytest.param(
            SiteIn.ASK_FUNCTION, [replace(CELL, function=2)], "something else", id="function"
        ),
        pytest.param(SiteIn.ASK_FUNCTION, [], "something else", id="no cell"),
    ],
)
async def test_answer_that_cannot_be_becomes_the_state_of_the_link(
    rig: Rig, action: int, values: list[Value], words: str
) -> None:
    async with up(rig) as link:
        rig.peer.values[action] = values
        with pytest.raises(SiteUnavailable, match=words):
            await link.ask_function(1, DeviceId("osaka:sd1", 0), Function.DIRECT_BACKUP)
        assert link.status.state is LinkState.REFUSED
        # Nothing more is believed, whatever it says now, until somebody asks again.
        rig.peer.values[action] = {
            SiteIn.VOLUME_MAPPING: list(HONEST), SiteIn.VOLUMES: [VOLUME]
        }.get(action, [CELL])  # type: ignore[call-overload]  # fmt: skip
        with pytest.raises(SiteUnavailable, match=words):
            await link.volumes()
        assert (await link.probe()).state is LinkState.UP
        assert await link.volumes() == {1: VOLUME}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(lambda action, start: b"", "no parameter data", id="nothing"),
        pytest.param(lambda action, start: bytes(64), "no parameter data", id="zeros"),
        pytest.param(
            lambda action, start: Page.of(action, [VOLUME]).pack()[:-1], "present", id="cut short"
        ),
        pytest.param(
            lambda action, start: Page(action, (), 16000, min(start, 1)).pack(), "nothing after",
            id="endless",
        ),
        pytest.param(
            lambda action, start: replace(
                Page.of(action, [VOLUME]), total=0xFFFF, version=(1, 2)
            ).pack(),
            "announces 65535", id="more than there can be",
        ),
        pytest.param(
            lambda action, start: Page(
                action, Page.of(action, [VOLUME]).descriptors, 3, start, start + 1
            ).pack(),
            "each of 3 readings", id="another generation on every page",
        ),
        pytest.param(
            lambda action, start: replace(Page.of(action, [VOLUME]), version=(1, 3)).pack(),
            "by turns", id="another minor version",
        ),
    ],
)  # fmt: skip
async def test_pages_that_cannot_be_end_and_become_the_state_of_the_link(
    rig: Rig, answer: Callable[[int, int], bytes], words: str
) -> None:
    async with up(rig) as link:
        rig.peer.answer = answer
        with pytest.raises(SiteUnavailable, match=words):
            await link.volumes()
        assert link.status.state is LinkState.REFUSED


async def test_version_that_changes_within_a_session_is_refused(rig: Rig) -> None:
    async with up(rig) as link:
        rig.peer.answer = lambda action, start: replace(
            Page.of(action, [VOLUME]), version=(3, 0)
        ).pack()
        with pytest.raises(SiteUnavailable, match=r"version 3\.0"):
            await link.volumes()
        assert link.status.state is LinkState.REFUSED


async def test_peer_that_is_busy_for_ever_is_down_and_tried_again(rig: Rig) -> None:
    rig.peer.refusals[SiteIn.GREET] = sense.Sense(sense.SenseKey.UNIT_ATTENTION, 0x2A, 0x01)
    link = rig.link()
    await reaches(link, LinkState.DOWN)
    del rig.peer.refusals[SiteIn.GREET]
    await reaches(link, LinkState.UP)


async def test_words_of_the_peer_are_shown_as_text_and_nothing_else(rig: Rig) -> None:
    rig.peer.inquiry = replace(UNIT, vendor="A\x1b[2J")
    status = await reaches(rig.link(), LinkState.REFUSED, "LUN 0 is A [2J")
    assert status.detail.isprintable()


async def test_envelopes_of_a_peer_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_link, "MOST_ENVELOPE_BYTES", 100)
    async with up(rig) as link:
        rig.peer.values[SiteIn.PAIR_IN] = [Envelope(1, 1, bytes(60))]
        assert len(await link.pair_answers(0)) == 1
        rig.peer.values[SiteIn.PAIR_IN] *= 2
        with pytest.raises(SiteUnavailable, match="more than 100 bytes"):
            await link.pair_answers(0)
        rig.peer.values[SiteIn.PAIR_IN] = [VOLUME]
        assert (await link.probe()).state is LinkState.UP
        with pytest.raises(SiteUnavailable, match="something else"):
            await link.pair_answers(0)


async def test_new_session_is_a_new_chance(rig: Rig) -> None:
    async with up(rig) as link:
        rig.peer.answer = lambda action, start: b"" if action == SiteIn.VOLUMES else None
        with pytest.raises(SiteUnavailable):
            await link.volumes()
        await reaches(link, LinkState.REFUSED)
        rig.peer.answer = lambda action, start: None
        rig.target.link.connection.abort()
        await reaches(link, LinkState.UP)
        assert await link.volumes() == {1: VOLUME}


async def test_peer_that_never_answers_is_down_in_time_and_others_are_not_kept_waiting(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_session, "EXCHANGE_SECONDS", 0.2)
    async with up(rig) as link:
        rig.peer.is_silent = True
        first = asyncio.ensure_future(link.volumes())
        with pytest.raises(SiteUnavailable, match="no answer to VOLUMES within"):
            await first
        with pytest.raises(SiteUnavailable):
            await link.volumes()
        rig.peer.is_silent = False
        await reaches(link, LinkState.UP)


async def test_site_that_goes_away_is_down_at_once_and_up_when_it_is_back(rig: Rig) -> None:
    async with up(rig) as link:
        states: list[LinkState] = []
        link.watch(lambda status: states.append(status.state))
        rig.target.admission = lambda identity: Admission(LoginStatus.SERVICE_UNAVAILABLE)
        rig.target.link.connection.abort()
        down = await becomes(link, lambda status: status.state is not LinkState.UP)
        assert down.state is LinkState.DOWN
        assert down.since > 0
        with pytest.raises(SiteUnavailable, match="down"):
            await link.volumes()
        rig.target.admission = None
        await reaches(link, LinkState.UP)
        assert states[0] is LinkState.DOWN
        assert states[-1] is LinkState.UP


async def test_link_that_is_stopped_while_nobody_answers_stops() -> None:
    async with ScriptedTarget() as target:
        portal = str(target.portal)
    link = SiteLink(
        "osaka", IQN, [portal], "iqn.2026-11.test:tokyo", own_identity=OWN_IDENTITY, own=Nothing
    )
    link.start()
    await reaches(link, LinkState.DOWN, portal)
    await link.stop()
    with pytest.raises(SiteUnavailable):
        await link.volumes()
