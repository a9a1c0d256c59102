"""SendTargets: which targets a portal gives access to (RFC 7143, 4.3 and appendix C)."""

from __future__ import annotations

import asyncio
import secrets
from typing import NamedTuple

from daiko.device.error import Unreachable
from daiko.initiator.login import LoggedIn, log_in
from daiko.initiator.portal import Portal
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.bhs import RESERVED_TAG, Buffer, LogoutReason, Opcode
from daiko.iscsi.chap import Account
from daiko.iscsi.error import RemoteProtocolError
from daiko.iscsi.framing import Handler, dispatch_table
from daiko.iscsi.pdu import LogoutRequest, NopIn, NopOut, TextRequest, TextResponse
from daiko.iscsi.text_key import TextCollector, parse_text
from daiko.port.connection import Connection


class DiscoveredTarget(NamedTuple):
    """A target, and the portals that lead to it, in the order in which they were given."""

    name: str
    portals: tuple[DiscoveredPortal, ...]


class DiscoveredPortal(NamedTuple):
    portal: Portal
    portal_group_tag: int


def new_isid() -> bytes:
    """A random ISID (RFC 7143, 11.12.5: type 2, "random")."""
    return b"\x80" + secrets.token_bytes(3) + b"\0\0"


class _Inquiry:
    """The full feature phase of a discovery session: one SendTargets, then the logout."""

    def __init__(self, connection: Connection, login: LoggedIn) -> None:
        self._connection = connection
        self._collector = TextCollector()
        self._cmd_sn = login.cmd_sn
        self._exp_stat_sn = login.exp_stat_sn
        self._error = ""
        self.answer: asyncio.Future[list[tuple[str, str]]] = (
            asyncio.get_running_loop().create_future()
        )
        self._ask(b"SendTargets=All\0", RESERVED_TAG)

    def place(self, header: Buffer, at: int, length: int) -> memoryview | None:
        return None

    def dispatch(self) -> list[Handler]:
        return dispatch_table(
            {
                Opcode.TEXT_RESPONSE: self._text_response,
                Opcode.NOP_IN: self._nop_in,
                Opcode.LOGOUT_RESPONSE: self._logout_response,
            },
            _unexpected,
        )

    def _ask(self, text: bytes, transfer_tag: int) -> None:
        request = TextRequest(
            initiator_task_tag=1,
            target_transfer_tag=transfer_tag,
            cmd_sn=self._cmd_sn,
            exp_stat_sn=self._exp_stat_sn,
            data=text,
        )
        self._cmd_sn = (self._cmd_sn + 1) & 0xFFFFFFFF
        self._connection.send(request.pack(), text)

    def _text_response(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        pdu = TextResponse.parse(header, at, data)
        self._exp_stat_sn = (pdu.stat_sn + 1) & 0xFFFFFFFF
        # A long answer comes in parts, each asked for by an empty request (11.10.4); the C bit is
        # set on all but the last, or only F is clear.
        text = self._collector.add(data, pdu.continued or not pdu.final)
        if text is None:
            self._ask(b"", pdu.target_transfer_tag)
            return
        pairs = parse_text(text)
        self._connection.send(
            LogoutRequest(
                LogoutReason.CLOSE_SESSION, 2, cmd_sn=self._cmd_sn, exp_stat_sn=self._exp_stat_sn
            ).pack()
        )
        if not self.answer.done():
            self.answer.set_result(pairs)

    def _nop_in(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        pdu = NopIn.parse(header, at, data)
        if pdu.target_transfer_tag != RESERVED_TAG:
            self._connection.send(
                NopOut(
                    lun=pdu.lun,
                    target_transfer_tag=pdu.target_transfer_tag,
                    cmd_sn=self._cmd_sn,
                    exp_stat_sn=self._exp_stat_sn,
                    data=pdu.data,
                ).pack(),
                pdu.data,
            )

    def _logout_response(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        self._connection.close()

    def close(self) -> None:
        self._connection.close()

    def refused(self, error: RemoteProtocolError) -> None:
        self._error = str(error)

    def congestion_ended(self) -> None:
        """Nothing waits to be sent."""

    def ended(self, error: Exception | None) -> None:
        if not self.answer.done():
            words = self._error or str(error or "") or "the target closed the connection"
            self.answer.set_exception(Unreachable(words))


def _unexpected(header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
    raise RemoteProtocolError(f"a PDU of opcode {header[at] & 0x3F:02x}h in a discovery session")


async def discover(
    portal: Portal,
    initiator_name: str,
    *,
    settings: InitiatorSettings | None = None,
    account: Account | None = None,
) -> tuple[DiscoveredTarget, ...]:
    """Ask `portal` for all targets that it has for this initiator (`account`: as whom, by CHAP).

    A target without TargetAddress lies at the portal that was asked (appendix C). Raises
    Unreachable, LoginRefused or RemoteProtocolError.
    """
    settings = settings or InitiatorSettings()
    started: list[_Inquiry] = []

    def begin(connection: Connection, login: LoggedIn) -> _Inquiry:
        started.append(_Inquiry(connection, login))
        return started[0]

    await log_in(portal, initiator_name, None, new_isid(), begin, settings, account)
    inquiry = started[0]
    try:
        async with asyncio.timeout(settings.login_timeout):
            pairs = await inquiry.answer
    except TimeoutError:
        raise Unreachable("no answer to SendTargets") from None
    finally:
        inquiry.close()
    return _targets(pairs, portal)


def _targets(pairs: list[tuple[str, str]], asked: Portal) -> tuple[DiscoveredTarget, ...]:
    found: dict[str, list[DiscoveredPortal]] = {}
    current: list[DiscoveredPortal] | None = None
    for key, value in pairs:
        if key == "TargetName":
            current = found.setdefault(value, [])
        elif key == "TargetAddress" and current is not None:
            address, _, tag = value.rpartition(",")
            try:
                portal = Portal.parse(address or value)
                number = int(tag) if address else 1
            except ValueError as error:
                raise RemoteProtocolError(f"TargetAddress {value!r}: {error}") from None
            current.append(DiscoveredPortal(portal, number))
        elif key == "TargetAddress":
            raise RemoteProtocolError("a TargetAddress before any TargetName")
    return tuple(
        DiscoveredTarget(name, tuple(portals) or (DiscoveredPortal(asked, 1),))
        for name, portals in found.items()
    )
