"""The target node: its portals, its sessions, who may log in (RFC 7143, 4.2.7, 6.3).

Each portal is in one portal group, known by its tag; a portal group is one SCSI target port. A
login with the name and ISID of a session of the same portal group reinstates it (6.3.5): the old
one ends first, and the nexus goes on under the same identity. The same name and ISID at another
portal group is another nexus beside it.

A host may be limited to some portal groups. SendTargets tells it of no others, at whatever portal
it asks. A login elsewhere is sent on to a portal group that the host may use and has no session
with; where there is none, it is refused.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from daiko.iscsi.error import LoginStatus
from daiko.iscsi.login import Admission, Identity
from daiko.iscsi.negotiation import OFFER, Offer
from daiko.target.authentication import Authentication, FailureLimit
from daiko.target.connection import TargetConnection
from daiko.target.data_budget import DataBudget
from daiko.target.discovery import (
    format_portal,
    parse_portal,
    reached_portal,
    target_records,
)
from daiko.target.login_room import LoginRoom
from daiko.target.session import TargetAccess, TargetSession

log = structlog.get_logger(__name__)

MAXIMUM_SESSIONS = 1024
BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted: all hosts come back at once after a
restart."""
STOP_SECONDS = 5.0
"""How long `stop` waits for tasks in progress."""
LEAVE_SECONDS = 1
"""How long `stop` waits for initiators to log out, and then for what was sent to be read."""


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
        self.ping_interval = 60.0
        """Seconds of silence after which an initiator is pinged."""
        self.ping_timeout = 60.0
        """Seconds that it may take for its answer; then its session is ended."""
        self.budget = DataBudget()
        """Memory for the data of all hosts' commands."""
        self.login_room: LoginRoom[TargetConnection] = LoginRoom()
        self._offer = offer
        self._servers: dict[str, asyncio.Server] = {}
        self._tags: dict[str, int] = {}
        self.connections: set[TargetConnection] = set()
        self._sessions: dict[int, TargetSession] = {}
        self._last_tsih = 0
        self._is_stopping = False

    # --- portals

    async def listen(self, portal: str, tag: int = 1) -> str:
        """Take connections at HOST:PORT (port 0: a free one) for the portal group with this tag.
        Returns HOST:PORT as bound.

        Raises OSError, ValueError."""
        host, port = parse_portal(portal)
        bound = ""

        def accept() -> asyncio.BaseProtocol:
            return TargetConnection(self, bound).connection

        server = await asyncio.get_running_loop().create_server(
            accept, host or None, port, backlog=BACKLOG, reuse_address=True
        )
        bound = format_portal(host, server.sockets[0].getsockname()[1])
        self._servers[bound] = server
        self._tags[bound] = tag
        log.info("portal listens", portal=bound, tag=tag, target=self.iqn)
        return bound

    def move(self, portal: str, tag: int) -> None:
        """Let a portal be one of another portal group. Sessions that came through it are asked to
        log out. Raises KeyError."""
        if self._tags[portal] != tag:
            self._tags[portal] = tag
            self._ask_to_leave(portal, "the portal is in another portal group now")

    async def unlisten(self, portal: str) -> None:
        """Take no more connections there; sessions that came through it are asked to log out.
        Raises KeyError."""
        self._servers.pop(portal).close()
        del self._tags[portal]
        self._ask_to_leave(portal, "the portal is taken away")

    def _ask_to_leave(self, portal: str, reason: str) -> None:
        for role in list(self.connections):
            if role.portal == portal:
                role.request_logout(reason)

    def check_sessions(self) -> None:
        """What hosts may use has changed: ask those to log out that are no hosts here any more, or
        came through a portal group that they may not use any more."""
        for role in list(self.connections):
            session = role.session
            if session is None:
                continue
            name = session.nexus.initiator_name
            if not self.access.authorize(name, self.iqn):
                role.request_logout("the initiator is no host here any more")
            elif not self._may_use(name, session.nexus.portal_group_tag):
                role.request_logout("the host may not use this portal group any more")

    @property
    def portals(self) -> tuple[str, ...]:
        """HOST:PORT of each, as bound."""
        return tuple(self._servers)

    @property
    def portal_groups(self) -> dict[str, int]:
        """The tag of each portal that listens."""
        return dict(self._tags)

    def tag_of(self, portal: str) -> int | None:
        """The portal group of a portal; None for one that was taken away."""
        return self._tags.get(portal)

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    def reset(self, reason: str) -> None:
        """Target cold reset: end the sessions of all initiators (11.5.1)."""
        for role in list(self.connections):
            role.announce_end()
            role.close(reason)

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop listening, wait for tasks in progress (at most `seconds`), ask the initiators to log
        out, announce the end to those that do not, close."""
        self._is_stopping = True
        servers, self._servers = self._servers, {}
        self._tags = {}
        for server in servers.values():
            server.close()
        try:
            async with asyncio.timeout(seconds):
                for idle in [_draining(session) for session in self._sessions.values()]:
                    await idle.wait()
        except TimeoutError:
            log.warning("tasks in progress are given up", sessions=len(self._sessions))
        for role in list(self.connections):
            role.request_logout("the target stops", LEAVE_SECONDS)
        await self._wait_until_gone(LEAVE_SECONDS)
        for role in list(self.connections):
            role.announce_end()
            role.close("the target stops")
        await self._wait_until_gone(LEAVE_SECONDS)
        for role in list(self.connections):
            role.connection.abort()

    async def _wait_until_gone(self, seconds: float) -> None:
        """Wait for the connections that there are to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for role in list(self.connections):
                    await role.gone.wait()

    # --- sessions

    @property
    def sessions(self) -> tuple[TargetSession, ...]:
        return tuple(self._sessions.values())

    def admit(
        self, identity: Identity, tag: int | None = 1, local: tuple[str, int] = ("", 0)
    ) -> Admission:
        """Judge the first request of a login (11.13.5) at a portal of this group, reached at the
        address `local`. A group of None is one whose portal was just taken away."""
        if self._is_stopping or tag is None:
            return Admission(LoginStatus.SERVICE_UNAVAILABLE)
        if not identity.is_discovery and identity.target_name.lower() != self.iqn.lower():
            return Admission(LoginStatus.NOT_FOUND)
        is_known = self.access.authorize(identity.initiator_name, self.iqn)
        authenticator, is_required = self.authentication.demand(
            identity.initiator_name, is_discovery=identity.is_discovery, is_known=is_known
        )
        if not (is_known or identity.is_discovery or authenticator is not None):
            return Admission(LoginStatus.AUTHORIZATION_FAILURE)
        status = self._judge_session(identity, tag)
        if status is not LoginStatus.SUCCESS:
            return Admission(status)
        if not identity.is_discovery and not self._may_use(identity.initiator_name, tag):
            return self._send_on(identity.initiator_name, local)
        return Admission(
            tsih=self._take_tsih(), portal_group_tag=tag, alias=self.alias,
            offer=self._offer, authenticator=authenticator,
            is_authentication_required=is_required,
            confirm=lambda: self._confirm(identity, tag),
        )  # fmt: skip

    def _may_use(self, initiator_name: str, tag: int) -> bool:
        allowed = self.access.portal_group_tags(initiator_name)
        return not allowed or tag in allowed

    def _send_on(self, initiator_name: str, local: tuple[str, int]) -> Admission:
        """The answer to a login at a portal group that the host may not use. It is sent on only to
        one that it has no session with: a host must not take one path for two."""
        name = initiator_name.lower()
        there = {
            session.nexus.portal_group_tag
            for session in self._sessions.values()
            if session.nexus.initiator_name == name
        }
        for portal, tag in self._tags.items():
            reached = reached_portal(portal, local)
            if reached and tag not in there and self._may_use(initiator_name, tag):
                return Admission(LoginStatus.TARGET_MOVED_TEMPORARILY, address=reached)
        return Admission(LoginStatus.AUTHORIZATION_FAILURE)

    def _judge_session(self, identity: Identity, tag: int) -> LoginStatus:
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
        if any(_is_of(session, identity, tag) for session in self._sessions.values()):
            return LoginStatus.SUCCESS  # It takes the place of one that there is.
        log.warning("login refused", reason="too many sessions", maximum=MAXIMUM_SESSIONS)
        return LoginStatus.OUT_OF_RESOURCES

    def _confirm(self, identity: Identity, tag: int) -> LoginStatus:
        """Judge again at the end of a login: others may have been quicker, and what this host may
        do may have been changed."""
        if self._is_stopping:
            return LoginStatus.SERVICE_UNAVAILABLE
        if not identity.is_discovery and not self.access.authorize(
            identity.initiator_name, self.iqn
        ):
            return LoginStatus.AUTHORIZATION_FAILURE
        if not identity.is_discovery and not self._may_use(identity.initiator_name, tag):
            return LoginStatus.AUTHORIZATION_FAILURE
        return self._judge_session(identity, tag)

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
        """What SendTargets tells this initiator: nothing of a target or portal that it may not
        use, and no portal that it cannot reach from where it asks."""
        if name is not None and name.lower() != self.iqn.lower():
            return []
        if not self.access.authorize(initiator_name, self.iqn):
            return []
        allowed = {
            portal: tag for portal, tag in self._tags.items() if self._may_use(initiator_name, tag)
        }
        return target_records(self.iqn, allowed, local)


def _is_of(session: TargetSession, identity: Identity, tag: int) -> bool:
    """Whether a login of this identity at this portal group reinstates the session (6.3.5)."""
    nexus = session.nexus
    return (nexus.initiator_name, nexus.isid, nexus.portal_group_tag) == (
        identity.initiator_name.lower(),
        identity.isid,
        tag,
    )


def _draining(session: TargetSession) -> asyncio.Event:
    """Set when the session has no command in progress any more."""
    idle = asyncio.Event()
    session.drain(idle.set)
    return idle
