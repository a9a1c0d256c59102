"""A connection at the target port: the login, then the phase it leads to.

`TargetConnection` is the target's `Role` in the structure of `port/connection.py`. It keeps the
login (`iscsi/login.py` decides, this module moves its PDUs), then hands the dispatch table over
to `FullFeaturePhase` or `DiscoveryPhase`, and watches whether the peer is still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from daiko.device.block import Buffer
from daiko.iscsi.bhs import BHS_LENGTH, RESERVED_TAG, AsyncEvent, Opcode
from daiko.iscsi.error import LoginStatus, RemoteProtocolError
from daiko.iscsi.framing import Handler, dispatch_table
from daiko.iscsi.login import Admission, Authenticator, Identity, TargetLogin
from daiko.iscsi.negotiation import Parameters
from daiko.iscsi.pdu import AsyncMessage, LoginRequest, LoginResponse, NopIn
from daiko.iscsi.session import CommandWindow
from daiko.port.connection import Connection
from daiko.target.discovery import DiscoveryPhase
from daiko.target.full_feature import FullFeaturePhase
from daiko.target.nexus import Nexus
from daiko.target.session import WINDOW, TargetSession
from daiko.target.text_exchange import TextExchange

if TYPE_CHECKING:
    from daiko.target.portal import Target

log = structlog.get_logger(__name__)

LOGIN_SECONDS = 15.0
"""A connection that has not logged in by then is closed."""
LOGOUT_SECONDS = 10
"""How long a host that was asked to log out has for it."""
DISCOVERY_SECONDS = 60.0
"""A discovery session lasts no longer."""


class TargetConnection:
    """One accepted connection."""

    def __init__(self, target: Target, portal: str = "") -> None:
        self._target = target
        self.portal = portal
        """HOST:PORT of the portal that it came to, as bound."""
        self._login = TargetLogin(self._admit, window=WINDOW)
        self._chap: Authenticator | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._pinged = False
        self.gone = asyncio.Event()
        """Set when the transport is closed."""
        self._last_activity: tuple[int, int] | None = None
        self.connection = Connection(self)
        self.session: TargetSession | None = None
        """The session, once a normal login has succeeded."""
        self.parameters: Parameters | None = None

    # --- the role

    def dispatch(self) -> list[Handler]:
        return dispatch_table({Opcode.LOGIN_REQUEST: self._receive_login}, self._before_login)

    def connected(self) -> None:
        self.connection.reads_while_congested = False
        self._target.connections.add(self)
        if self._target.is_stopping:
            log.info("connection refused", reason="stopping", peer=self.connection.peer_address)
            self.connection.abort()
            return
        victim = self._target.login_room.enter(self, self.connection.peer_address[0])
        if victim is not None:
            log.warning(
                "connection closed for a newer one", peer=victim.connection.peer_address,
                reason="too many connections that are not logged in",
            )  # fmt: skip
            victim.connection.abort()
        self._timer = asyncio.get_running_loop().call_later(LOGIN_SECONDS, self._login_too_slow)

    def refused(self, error: RemoteProtocolError) -> None:
        if self.session is not None and error.reject is not None:
            self.session.reject(bytes(BHS_LENGTH), error.reject)

    def congestion_ended(self) -> None:
        if self.session is not None:
            self.session.take_up()

    def lost(self, error: Exception | None) -> None:
        for timer in (self._timer, self._leaving):
            if timer is not None:
                timer.cancel()
        self._target.connections.discard(self)
        self._target.login_room.leave(self)
        self._login.forget()
        self.gone.set()
        session = self.session
        if session is not None and not session.is_lost:
            log.info(
                "session ended", initiator=session.nexus.initiator_name, tsih=session.tsih,
                peer=self.connection.peer_address, error=str(error) if error else None,
            )  # fmt: skip
            self._target.forget(session)
            session.lose()

    # --- login

    def _admit(self, identity: Identity) -> Admission:
        target = self._target
        admission = target.admit(
            identity, target.tag_of(self.portal), self.connection.local_address
        )
        self._chap = admission.authenticator
        if self._chap is not None and target.failure_limit.is_reached(
            self.connection.peer_address[0], self._now()
        ):
            log.warning(
                "login refused", reason="too many wrong CHAP answers from this address",
                peer=self.connection.peer_address, initiator=identity.initiator_name,
            )  # fmt: skip
            return Admission(LoginStatus.SERVICE_UNAVAILABLE)
        return admission

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _before_login(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        """Only login requests are allowed (6.3.1): silence before the first, a status after."""
        if self._login.is_started:
            self._send_login(self._login.refuse(LoginStatus.INVALID_DURING_LOGIN))
        self.close("a request other than a login")

    def _receive_login(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        response, goes_on = self._login.receive(LoginRequest.parse(header, at, data))
        if self._login.parameters is not None and goes_on:
            # Before the response: what it reinstates has ended when the initiator reads it.
            self._begin(self._login.parameters)
        self._send_login(response)
        if not goes_on:
            if self._chap is not None and self._chap.was_wrong:
                self._target.failure_limit.failed(self.connection.peer_address[0], self._now())
            log.warning(
                "login refused", peer=self.connection.peer_address, status=f"{response.status:04x}",
                initiator=self._login.identity.initiator_name if self._login.identity else None,
                reason=self._login.refusal,
            )  # fmt: skip
            self.close("login refused")
        elif self._login.parameters is not None:
            parameters = self._login.parameters
            self.connection.use_digests(parameters.header_digest, parameters.data_digest)

    def _send_login(self, response: LoginResponse) -> None:
        self.connection.send(response.pack(), response.data)

    def _begin(self, parameters: Parameters) -> None:
        """The full feature phase: the dispatch table changes hands."""
        login = self._login
        assert login.identity is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.parameters = parameters
        connection = self.connection
        connection.framer.maximum_data_length = parameters.receive_limit
        window = CommandWindow(login.cmd_sn, WINDOW)
        cid = login.identity.cid
        text = TextExchange(parameters, self._send_targets)
        if parameters.is_discovery:
            discovery = DiscoveryPhase(
                connection, parameters, window, login.stat_sn, text, cid, self.close
            )
            connection.framer.dispatch = discovery.dispatch()
            connection.framer.on_data_digest_error = discovery.data_digest_error
            self._timer = asyncio.get_running_loop().call_later(
                DISCOVERY_SECONDS, self._discovery_too_slow
            )
            return
        self._target.login_room.leave(self)
        nexus = Nexus(
            parameters.initiator_name, login.identity.isid, self._target.iqn,
            parameters.target_portal_group_tag, local_address=connection.local_address,
            peer_address=connection.peer_address,
        )  # fmt: skip
        access = self._target.access
        session = TargetSession(
            access, nexus, login.tsih, connection, parameters, window, login.stat_sn,
            self._target.budget,
        )  # fmt: skip
        phase = FullFeaturePhase(session, access, text, cid, self.close, self._target.reset)
        connection.framer.dispatch = phase.dispatch()
        connection.framer.place = phase.place
        connection.framer.on_data_digest_error = phase.data_digest_error
        self.session = session
        self._target.begin(session)
        access.nexus_started(nexus)
        log.info(
            "session began", initiator=nexus.initiator_name, tsih=session.tsih,
            peer=nexus.peer_address,
        )  # fmt: skip
        self._watch()

    def _send_targets(self, value: str) -> Sequence[tuple[str, str]] | None:
        """The answer to SendTargets (appendix C), of what this initiator may use only."""
        parameters = self.parameters
        assert parameters is not None
        if parameters.is_discovery:
            if not value:
                return None
        elif value == "All":
            return None
        return self._target.records(
            parameters.initiator_name,
            None if value in ("All", "") else value,
            self.connection.local_address,
        )

    # --- is the peer still there?

    def _login_too_slow(self) -> None:
        self.close("no login in time")

    def _discovery_too_slow(self) -> None:
        self.close("a discovery session takes too long")

    def _watch(self) -> None:
        """Ping a silent initiator; close when it stays silent."""
        session = self.session
        if session is None or session.is_lost:
            return
        activity = (session.stat_sn, self.connection.batches)
        if activity != self._last_activity:
            self._pinged = False
        elif self._pinged:
            self.close("the initiator does not answer")
            self.connection.abort()
            return
        else:
            self._ping(session)
        self._last_activity = (session.stat_sn, self.connection.batches)
        if self._timer is not None:
            self._timer.cancel()
        target = self._target
        pause = target.ping_timeout if self._pinged else target.ping_interval
        self._timer = asyncio.get_running_loop().call_later(pause, self._watch)

    def _ping(self, session: TargetSession) -> None:
        """A NOP-In that asks for an answer carries the next StatSN and does not advance it."""
        self._pinged = True
        self.connection.send(
            NopIn(
                0, RESERVED_TAG, session.transfer_tags.take(), session.stat_sn,
                session.window.exp_cmd_sn, session.window.max_cmd_sn,
            ).pack()
        )  # fmt: skip

    # --- end

    def request_logout(self, reason: str, seconds: int = LOGOUT_SECONDS) -> None:
        """Ask the initiator to log out (11.9.1, event 1), and close what has not after `seconds`. A
        connection without a session is closed at once. Asking again changes nothing."""
        session = self.session
        if session is None or session.is_lost:
            self.close(reason)
            return
        if self._leaving is not None:
            return
        log.info(
            "logout requested", initiator=session.nexus.initiator_name,
            peer=self.connection.peer_address, reason=reason,
        )  # fmt: skip
        self.connection.send(
            AsyncMessage(
                AsyncEvent.LOGOUT_REQUESTED, 0, session.take_stat_sn(),
                session.window.exp_cmd_sn, session.window.max_cmd_sn, parameter3=seconds,
            ).pack()
        )  # fmt: skip
        self._leaving = asyncio.get_running_loop().call_later(seconds, self._overstayed, reason)

    def _overstayed(self, reason: str) -> None:
        self.announce_end()
        self.close(reason)

    def announce_end(self) -> None:
        """Tell the initiator that its connections will be dropped (11.9.1)."""
        session = self.session
        if session is not None and not session.is_lost:
            parameters = session.parameters
            self.connection.send(
                AsyncMessage(
                    AsyncEvent.ALL_CONNECTIONS_DROPPED, 0, session.take_stat_sn(),
                    session.window.exp_cmd_sn, session.window.max_cmd_sn, 0, 0,
                    parameters.default_time2wait, parameters.default_time2retain,
                ).pack()
            )  # fmt: skip

    def close(self, reason: str) -> None:
        """What is queued goes out, then the connection closes."""
        log.debug("connection closed", peer=self.connection.peer_address, reason=reason)
        session = self.session
        if session is not None and not session.is_lost:
            self._target.forget(session)
            session.lose()
        self.connection.close()
