"""The target node: its portals, its sessions, who may log in (RFC 7143, 4.2.7, 6.3).

One portal group with the tag 1: all portals of a target lead to the same sessions. A login with
the name and ISID of a session that exists reinstates it (6.3.5): the old one ends first, and the
nexus goes on under the same identity.
"""

from __future__ import annotations

import asyncio

import structlog

from daiko.iscsi.error import LoginStatus
from daiko.iscsi.login import Admission, Identity
from daiko.iscsi.negotiation import OFFER, Offer
from daiko.target.authentication import Authentication, FailureLimit
from daiko.target.connection import TargetConnection
from daiko.target.discovery import format_portal, target_records
from daiko.target.login_room import LoginRoom
from daiko.target.session import TargetAccess, TargetSession

log = structlog.get_logger(__name__)

PORTAL_GROUP_TAG = 1
DEFAULT_PORT = 3260
MAXIMUM_SESSIONS = 1024
STOP_SECONDS = 5.0
"""How long `stop` waits for tasks in progress."""


def parse_portal(portal: str) -> tuple[str, int]:
    """HOST, HOST:PORT or [IPV6]:PORT. Raises ValueError."""
    host, port = portal, ""
    if portal.startswith("["):
        host, bracket, rest = portal[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{portal!r} is no HOST:PORT")
        port = rest[1:]
    elif portal.count(":") == 1:
        host, port = portal.split(":")
    if port and not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{portal!r} has no port number")
    return host, int(port) if port else DEFAULT_PORT


class Target:
    """An iSCSI target node with its portals."""

    def __init__(
        self, iqn: str, access: TargetAccess, *, alias: str = "Daiko", offer: Offer = OFFER
    ) -> None:
        self.iqn = iqn
        self.access = access
        self.alias = alias
        self.authentication = Authentication()
        """Who has to prove who it is; nobody until told otherwise."""
        self.failure_limit = FailureLimit()
        self.login_room: LoginRoom[TargetConnection] = LoginRoom()
        self._offer = offer
        self._servers: dict[str, asyncio.Server] = {}
        self.connections: set[TargetConnection] = set()
        self._sessions: dict[int, TargetSession] = {}
        self._last_tsih = 0
        self._is_stopping = False

    # --- portals

    async def listen(self, portal: str) -> str:
        """Take connections at HOST:PORT (port 0: a free one). Returns HOST:PORT as bound.

        Raises OSError, ValueError."""
        host, port = parse_portal(portal)
        server = await asyncio.get_running_loop().create_server(
            self._accept, host or None, port, backlog=128, reuse_address=True
        )
        bound = format_portal(host, server.sockets[0].getsockname()[1])
        self._servers[bound] = server
        log.info("portal listens", portal=bound, target=self.iqn)
        return bound

    async def unlisten(self, portal: str) -> None:
        """Take no more connections there; those that exist stay. Raises KeyError."""
        self._servers.pop(portal).close()

    @property
    def portals(self) -> tuple[str, ...]:
        """HOST:PORT of each, as bound."""
        return tuple(self._servers)

    def _accept(self) -> asyncio.BaseProtocol:
        return TargetConnection(self).connection

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    def reset(self, reason: str) -> None:
        """Target cold reset: end the sessions of all initiators (11.5.1)."""
        for role in list(self.connections):
            role.announce_end()
            role.close(reason)

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop listening, wait for tasks in progress (at most `seconds`), announce the end to
        the initiators, close."""
        self._is_stopping = True
        servers, self._servers = self._servers, {}
        for server in servers.values():
            server.close()
        try:
            async with asyncio.timeout(seconds):
                for idle in [_draining(session) for session in self._sessions.values()]:
                    await idle.wait()
        except TimeoutError:
            log.warning("tasks in progress are given up", sessions=len(self._sessions))
        closing = list(self.connections)
        for role in closing:
            role.announce_end()
            role.close("the target stops")
        try:
            async with asyncio.timeout(1.0):
                for role in closing:
                    await role.gone.wait()
        except TimeoutError:
            for role in closing:
                role.connection.abort()

    # --- sessions

    @property
    def sessions(self) -> tuple[TargetSession, ...]:
        return tuple(self._sessions.values())

    def admit(self, identity: Identity) -> Admission:
        """Judge the first request of a login (11.13.5)."""
        if self._is_stopping:
            return Admission(LoginStatus.SERVICE_UNAVAILABLE)
        if not identity.is_discovery and identity.target_name.lower() != self.iqn.lower():
            return Admission(LoginStatus.NOT_FOUND)
        is_known = self.access.authorize(identity.initiator_name, self.iqn)
        authenticator, is_required = self.authentication.demand(
            identity.initiator_name, is_discovery=identity.is_discovery, is_known=is_known
        )
        if not (is_known or identity.is_discovery or authenticator is not None):
            return Admission(LoginStatus.AUTHORIZATION_FAILURE)
        status = self._judge_session(identity)
        if status is not LoginStatus.SUCCESS:
            return Admission(status)
        return Admission(
            tsih=self._take_tsih(), portal_group_tag=PORTAL_GROUP_TAG, alias=self.alias,
            offer=self._offer, authenticator=authenticator,
            is_authentication_required=is_required,
            confirm=lambda: self._confirm(identity),
        )  # fmt: skip

    def _judge_session(self, identity: Identity) -> LoginStatus:
        """Whether there can be such a session."""
        if identity.tsih:
            session = self._sessions.get(identity.tsih)
            if (
                identity.is_discovery
                or session is None
                or session.nexus.initiator_name != identity.initiator_name.lower()
            ):
                return LoginStatus.SESSION_DOES_NOT_EXIST
            return LoginStatus.TOO_MANY_CONNECTIONS  # MaxConnections is 1
        if len(self._sessions) < MAXIMUM_SESSIONS or identity.is_discovery:
            return LoginStatus.SUCCESS
        if any(_is_of(session, identity) for session in self._sessions.values()):
            return LoginStatus.SUCCESS  # It takes the place of one that there is.
        log.warning("login refused", reason="too many sessions", maximum=MAXIMUM_SESSIONS)
        return LoginStatus.OUT_OF_RESOURCES

    def _confirm(self, identity: Identity) -> LoginStatus:
        """Judge again at the end of a login: others may have been quicker, and what this host may
        do may have been changed."""
        if self._is_stopping:
            return LoginStatus.SERVICE_UNAVAILABLE
        if not identity.is_discovery and not self.access.authorize(
            identity.initiator_name, self.iqn
        ):
            return LoginStatus.AUTHORIZATION_FAILURE
        return self._judge_session(identity)

    def begin(self, session: TargetSession) -> None:
        """A login has succeeded: end the session it reinstates (6.3.5), then count it."""
        for other in list(self._sessions.values()):
            if other.nexus.identity == session.nexus.identity:
                log.info(
                    "session reinstated", initiator=session.nexus.initiator_name, tsih=other.tsih
                )
                self.forget(other)
                other.lose()
                other.connection.abort()
        self._sessions[session.tsih] = session

    def forget(self, session: TargetSession) -> None:
        """The session has ended."""
        if self._sessions.get(session.tsih) is session:
            del self._sessions[session.tsih]

    def _take_tsih(self) -> int:
        tsih = self._last_tsih
        while True:
            tsih = tsih % 0xFFFF + 1
            if tsih not in self._sessions:
                self._last_tsih = tsih
                return tsih

    def records(
        self, initiator_name: str, name: str | None, local: tuple[str, int]
    ) -> list[tuple[str, str]]:
        """What SendTargets tells this initiator: nothing of a target it may not use."""
        if name is not None and name.lower() != self.iqn.lower():
            return []
        if not self.access.authorize(initiator_name, self.iqn):
            return []
        portals = [parse_portal(portal) for portal in self._servers]
        return target_records(self.iqn, portals, local, PORTAL_GROUP_TAG)


def _is_of(session: TargetSession, identity: Identity) -> bool:
    """Whether a login of this identity reinstates the session (6.3.5)."""
    nexus = session.nexus
    return (nexus.initiator_name, nexus.isid) == (identity.initiator_name.lower(), identity.isid)


def _draining(session: TargetSession) -> asyncio.Event:
    """Set when the session has no command in progress any more."""
    idle = asyncio.Event()
    session.drain(idle.set)
    return idle
