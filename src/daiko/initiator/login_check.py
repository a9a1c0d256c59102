"""A login that does nothing but show whether a target admits us: a session that ends at once."""

from __future__ import annotations

import asyncio

from daiko.initiator.discovery import new_isid
from daiko.initiator.login import LoggedIn, log_in
from daiko.initiator.portal import Portal
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.bhs import Buffer, LogoutReason, Opcode
from daiko.iscsi.chap import Account
from daiko.iscsi.error import LoginRefused, RemoteProtocolError
from daiko.iscsi.framing import Handler, dispatch_table
from daiko.iscsi.pdu import LogoutRequest
from daiko.port.connection import Connection


class _Leaver:
    """A full feature phase of one request: the logout."""

    def __init__(self, connection: Connection, login: LoggedIn) -> None:
        self.connection = connection
        self.gone = asyncio.Event()
        connection.send(
            LogoutRequest(
                LogoutReason.CLOSE_SESSION, 1, cmd_sn=login.cmd_sn, exp_stat_sn=login.exp_stat_sn
            ).pack()
        )

    def place(self, header: Buffer, at: int, length: int) -> memoryview | None:
        return None

    def dispatch(self) -> list[Handler]:
        return dispatch_table({Opcode.LOGOUT_RESPONSE: self._logout_response}, _whatever)

    def _logout_response(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        self.connection.close()

    def refused(self, error: RemoteProtocolError) -> None:
        """The login has succeeded; how the session ends is of no interest."""

    def congestion_ended(self) -> None:
        """Nothing waits to be sent."""

    def ended(self, error: Exception | None) -> None:
        self.gone.set()


def _whatever(header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
    """What a target says beside its answer to the logout."""


async def check_login(
    portal: Portal,
    initiator_name: str,
    target_name: str,
    account: Account | None,
    settings: InitiatorSettings,
) -> None:
    """Log in under an ISID of its own, so that no session is reinstated, and log out.

    Raises LoginRefused, RemoteProtocolError (the target did not prove itself), Unreachable."""
    started: list[_Leaver] = []

    def begin(connection: Connection, login: LoggedIn) -> _Leaver:
        started.append(_Leaver(connection, login))
        return started[0]

    where = portal
    try:
        await log_in(where, initiator_name, target_name, new_isid(), begin, settings, account)
    except LoginRefused as refusal:
        if not refusal.address:
            raise
        where = Portal.parse(refusal.address.rpartition(",")[0] or refusal.address)
        await log_in(where, initiator_name, target_name, new_isid(), begin, settings, account)
    leaver = started[0]
    try:
        async with asyncio.timeout(settings.login_timeout):
            await leaver.gone.wait()
    except TimeoutError:
        leaver.connection.abort()
