"""A target whose every answer a test decides, over a real loopback connection.

It logs initiators in by the product's own `TargetLogin`, then hands each PDU, parsed, to what the
test put into `on`; what the test does not care about is answered sensibly (NOP-Out, logout).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from daiko.initiator.portal import Portal
from daiko.iscsi.bhs import FINAL, RESERVED_TAG, STATUS, Buffer, Opcode
from daiko.iscsi.error import LoginStatus, RemoteProtocolError
from daiko.iscsi.framing import Handler, dispatch_table
from daiko.iscsi.login import Admission, Identity, TargetLogin
from daiko.iscsi.pdu import (
    PDU_CLASSES,
    DataIn,
    LoginRequest,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Pdu,
    ScsiCommand,
    ScsiResponse,
)
from daiko.port.connection import Connection

IQN = "iqn.2026-11.com.example:scripted"


class Link:
    """One connection, target side."""

    def __init__(self, target: ScriptedTarget) -> None:
        self.target = target
        self.connection = Connection(self)
        self.login = TargetLogin(target.admit, window=target.window)
        self.stat_sn = 0
        self.exp_cmd_sn = 0
        self.max_cmd_sn: int | None = None
        """Fixed where a test sets it."""
        self.received: list[Pdu] = []

    # Role

    def dispatch(self) -> Sequence[Handler]:
        return dispatch_table({Opcode.LOGIN_REQUEST: self._login}, self._pdu)

    def connected(self) -> None:
        self.target.links.append(self)

    def refused(self, error: RemoteProtocolError) -> None:
        self.target.refusals.append(str(error))

    def congestion_ended(self) -> None:
        """Tests are small."""

    def lost(self, error: Exception | None) -> None:
        self.target.lost += 1
        self.target.event.set()

    def _login(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        response, goes_on = self.login.receive(LoginRequest.parse(header, at, data))
        self.connection.send(response.pack(), response.data)
        if not goes_on:
            self.connection.close()
        elif self.login.parameters is not None:
            parameters = self.login.parameters
            self.connection.use_digests(parameters.header_digest, parameters.data_digest)
            self.connection.framer.maximum_data_length = parameters.receive_limit
            self.stat_sn = self.login.stat_sn
            self.exp_cmd_sn = self.login.cmd_sn
            self.target.logins += 1

    def _pdu(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        kind = PDU_CLASSES[header[at] & 0x3F]
        pdu: Any = kind.parse(header, at, bytes(data))
        self.received.append(pdu)
        if isinstance(pdu, ScsiCommand) and not pdu.immediate:
            self.exp_cmd_sn = pdu.cmd_sn + 1
        handler = self.target.on.get(kind)
        if handler is not None:
            handler(self, pdu)
        elif isinstance(pdu, NopOut):
            if pdu.initiator_task_tag != RESERVED_TAG:
                self.send(NopIn(initiator_task_tag=pdu.initiator_task_tag, data=pdu.data))
        elif isinstance(pdu, LogoutRequest):
            self.send(LogoutResponse(0, pdu.initiator_task_tag))
        elif isinstance(pdu, ScsiCommand):
            self.answer(pdu)
        self.target.event.set()

    # for tests

    def send(self, pdu: Any, *, counts: bool = True) -> None:
        """Send with this connection's numbers. `counts`: the PDU takes a StatSN."""
        window = self.max_cmd_sn
        if window is None:
            window = self.exp_cmd_sn + self.target.window - 1
        fields = {"exp_cmd_sn": self.exp_cmd_sn, "max_cmd_sn": window}
        if hasattr(pdu, "stat_sn"):
            fields["stat_sn"] = self.stat_sn
            self.stat_sn += counts
        pdu = replace(pdu, **fields)
        self.connection.send(pdu.pack(), getattr(pdu, "data", b""))

    def answer(self, command: ScsiCommand, status: int = 0, sense: bytes = b"") -> None:
        """A SCSI Response."""
        data = len(sense).to_bytes(2, "big") + sense if sense else b""
        self.send(
            ScsiResponse(status=status, initiator_task_tag=command.initiator_task_tag, data=data)
        )

    def data_in(self, command: ScsiCommand, data: bytes, **fields: Any) -> None:
        """One Data-In with collapsed GOOD status, unless `fields` say otherwise."""
        pdu = DataIn(FINAL | STATUS, initiator_task_tag=command.initiator_task_tag, data=data)
        pdu = replace(pdu, **fields)
        self.send(pdu, counts=bool(pdu.flags & STATUS))


class ScriptedTarget:
    """Listens on a free port of loopback, inside `async with`."""

    def __init__(self, *, window: int = 32, portal_group_tag: int = 1) -> None:
        self.window = window
        self.portal_group_tag = portal_group_tag
        self.admission: Callable[[Identity], Admission] | None = None
        self.on: dict[type[Any], Callable[[Link, Any], None]] = {}
        self.links: list[Link] = []
        self.identities: list[Identity] = []
        self.refusals: list[str] = []
        self.logins = 0
        self.lost = 0
        self.event = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Link(self).connection, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        for link in self.links:
            link.connection.abort()
        self._server.close()
        await self._server.wait_closed()
        await asyncio.sleep(0)

    @property
    def portal(self) -> Portal:
        assert self._server is not None
        return Portal("127.0.0.1", self._server.sockets[0].getsockname()[1])

    @property
    def link(self) -> Link:
        """The newest connection."""
        return self.links[-1]

    def admit(self, identity: Identity) -> Admission:
        self.identities.append(identity)
        if self.admission is not None:
            return self.admission(identity)
        if not identity.is_discovery and identity.target_name != IQN:
            return Admission(LoginStatus.NOT_FOUND)
        return Admission(tsih=len(self.identities), portal_group_tag=self.portal_group_tag)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something that arrived made it true."""
        async with asyncio.timeout(30):
            while not holds():
                self.event.clear()
                await self.event.wait()

    def commands(self) -> list[ScsiCommand]:
        """All SCSI commands that arrived, over all connections."""
        return [pdu for link in self.links for pdu in link.received if isinstance(pdu, ScsiCommand)]
