"""The login of an initiator: a TCP connection, and the exchange of `iscsi/login.py` over it.

`log_in` ends with the connection in its full feature phase: the moment the last login response is
taken, in the same call, the connection is given to the phase that `begin` makes (a session, a
discovery), so that no PDU can fall between the two.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from typing import Protocol

from daiko.device.error import Unreachable
from daiko.initiator.portal import Portal
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.bhs import Buffer, Opcode
from daiko.iscsi.chap import ALGORITHMS, DISPUTED, Account, InitiatorChap
from daiko.iscsi.error import LoginRefused, RemoteProtocolError
from daiko.iscsi.framing import Handler, dispatch_table
from daiko.iscsi.login import InitiatorLogin
from daiko.iscsi.negotiation import OFFER, Parameters
from daiko.iscsi.pdu import LoginResponse
from daiko.iscsi.text_key import NONE
from daiko.port.connection import Connection


class LoggedIn:
    """How the login ended: what a phase begins with."""

    __slots__ = ("cmd_sn", "exp_stat_sn", "max_cmd_sn", "parameters", "tsih")

    def __init__(self, login: InitiatorLogin, parameters: Parameters) -> None:
        self.parameters = parameters
        self.cmd_sn = login.exp_cmd_sn
        """Of the next command."""
        self.max_cmd_sn = login.max_cmd_sn
        self.exp_stat_sn = login.exp_stat_sn
        self.tsih = login.tsih


class Phase(Protocol):
    """What a connection does after its login."""

    def place(self, header: Buffer, at: int, length: int) -> memoryview | None:
        """Where a large data segment belongs; None: anywhere."""

    def dispatch(self) -> list[Handler]:
        """Handlers for what comes in."""

    def refused(self, error: RemoteProtocolError) -> None:
        """The target broke the protocol; the connection is about to be closed."""

    def congestion_ended(self) -> None:
        """The target reads again."""

    def ended(self, error: Exception | None) -> None:
        """The connection is gone."""


class _Link:
    """The initiator's role of a `Connection`: first the login, then a phase."""

    def __init__(
        self, login: InitiatorLogin, begin: Callable[[Connection, LoggedIn], Phase]
    ) -> None:
        self._login = login
        self._begin = begin
        self._phase: Phase | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connection = Connection(self)

    def dispatch(self) -> list[Handler]:
        return dispatch_table({Opcode.LOGIN_RESPONSE: self._response}, _not_a_login_response)

    def connected(self) -> None:
        request = self._login.start()
        self.connection.send(request.pack(), request.data)

    def _response(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        request = self._login.receive(LoginResponse.parse(header, at, data))
        if request is not None:
            self.connection.send(request.pack(), request.data)
            return
        parameters = self._login.parameters
        assert parameters is not None
        connection = self.connection
        connection.use_digests(parameters.header_digest, parameters.data_digest)
        phase = self._phase = self._begin(connection, LoggedIn(self._login, parameters))
        framer = connection.framer
        framer.maximum_data_length = parameters.receive_limit
        framer.dispatch = phase.dispatch()
        framer.place = phase.place
        framer.on_data_digest_error = _wrong_data_digest
        if not self.done.done():
            self.done.set_result(None)

    def refused(self, error: RemoteProtocolError) -> None:
        if self._phase is not None:
            self._phase.refused(error)
        elif not self.done.done():
            self.done.set_exception(error)

    def congestion_ended(self) -> None:
        if self._phase is not None:
            self._phase.congestion_ended()

    def lost(self, error: Exception | None) -> None:
        if self._phase is not None:
            self._phase.ended(error)
        elif not self.done.done():
            self.done.set_exception(
                Unreachable(str(error or "the target closed the connection during the login"))
            )


async def log_in(
    portal: Portal,
    initiator_name: str,
    target_name: str | None,
    isid: bytes,
    begin: Callable[[Connection, LoggedIn], Phase],
    settings: InitiatorSettings,
    account: Account | None = None,
) -> None:
    """Connect to `portal` and log in (`target_name` None: a discovery session). With an `account`
    this side proves itself by CHAP where the target asks for it, and where the account has a
    secret of the target, no login succeeds in which the target did not prove itself.

    Raises Unreachable where there is no connection or no answer in time, LoginRefused where the
    target says no, RemoteProtocolError where it breaks the protocol.
    """
    if account is None:
        await _log_in(portal, initiator_name, target_name, isid, begin, settings, None)
        return
    chap = InitiatorChap(account, secrets.token_bytes)
    try:
        await _log_in(portal, initiator_name, target_name, isid, begin, settings, chap)
    except LoginRefused as refusal:
        if chap.algorithm is not DISPUTED or refusal.address:
            raise
        others = [each for each in ALGORITHMS if each is not DISPUTED]
        again = InitiatorChap(account, secrets.token_bytes, algorithms=others)
        await _log_in(portal, initiator_name, target_name, isid, begin, settings, again)


async def _log_in(
    portal: Portal,
    initiator_name: str,
    target_name: str | None,
    isid: bytes,
    begin: Callable[[Connection, LoggedIn], Phase],
    settings: InitiatorSettings,
    chap: InitiatorChap | None,
) -> None:
    login = InitiatorLogin(
        initiator_name, target_name, isid, offer=_offer(settings), authenticator=chap
    )
    link = _Link(login, begin)
    connection = link.connection
    try:
        async with asyncio.timeout(settings.login_timeout):
            await asyncio.get_running_loop().create_connection(
                lambda: connection, portal.host, portal.port
            )
            await link.done
    except TimeoutError:
        connection.abort()
        raise Unreachable(f"no login within {settings.login_timeout:g} s") from None
    except OSError as error:
        connection.abort()
        of_system = error.errno is not None and error.errno > 0  # the resolver's are negative
        words = os.strerror(error.errno or 0) if of_system else error.strerror or str(error)
        raise Unreachable(words) from None
    except UnicodeError:
        # What the resolver makes of a name with an empty part, or with one of over 63 letters.
        connection.abort()
        raise Unreachable(f"{portal.host!r} cannot be the name of a machine") from None
    except BaseException:
        connection.abort()
        raise


def _offer(settings: InitiatorSettings) -> dict[str, bool | int | str | tuple[str, ...]]:
    digests = ("CRC32C", NONE), (NONE, "CRC32C")
    return {
        **OFFER,
        "HeaderDigest": digests[not settings.header_digest],
        "DataDigest": digests[not settings.data_digest],
        "InitialR2T": settings.initial_r2t,
        "ImmediateData": settings.immediate_data,
        "MaxRecvDataSegmentLength": settings.max_recv_data_segment_length,
        "MaxBurstLength": settings.max_burst_length,
        "FirstBurstLength": settings.first_burst_length,
    }


def _not_a_login_response(header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
    raise RemoteProtocolError(f"a PDU of opcode {header[at] & 0x3F:02x}h during the login")


def _wrong_data_digest(header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
    # Error recovery level 0: the session is given up, and its commands are sent again (7.8).
    raise RemoteProtocolError("a data digest is wrong")
