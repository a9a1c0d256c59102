"""Discovery: the answers to SendTargets, and the phase of a discovery session (RFC 7143, 4.3, C).

A discovery session takes only text requests and a logout (a ping does no harm); everything else
is rejected. It has no nexus and no logical units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from daiko.device.block import Buffer
from daiko.iscsi.bhs import (
    BHS_LENGTH,
    IMMEDIATE,
    RESERVED_TAG,
    LogoutReason,
    LogoutResponseCode,
    Opcode,
)
from daiko.iscsi.error import RejectReason, RemoteProtocolError
from daiko.iscsi.event import Arrival
from daiko.iscsi.framing import Handler, dispatch_table
from daiko.iscsi.negotiation import Parameters
from daiko.iscsi.pdu import LogoutRequest, LogoutResponse, NopIn, NopOut, Reject, TextRequest
from daiko.iscsi.session import MASK, CommandWindow
from daiko.port.connection import Connection
from daiko.target.text_exchange import TextExchange

DEFAULT_PORT = 3260
_WILDCARDS = {"0.0.0.0": False, "::": True}
"""Addresses of every interface, and whether they are of IPv6."""


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


def target_records(
    iqn: str, portals: Mapping[str, int], local: tuple[str, int]
) -> list[tuple[str, str]]:
    """TargetName and its TargetAddress keys (13.8) with the tags of the portal groups, for an asker
    who has reached the address `local`. A target none of whose portals it can reach is not told:
    without a TargetAddress it would be taken to lie at the portal that was asked."""
    addresses = [
        ("TargetAddress", f"{reached},{tag}")
        for portal, tag in portals.items()
        if (reached := reached_portal(portal, local))
    ]
    return [("TargetName", iqn), *dict.fromkeys(addresses)] if addresses else []


def reached_portal(portal: str, local: tuple[str, int]) -> str:
    """HOST:PORT by which a host reaches a portal, when it has reached us at `local`. A portal that
    listens on every address is told as that one; where it is of the other IP version, nothing is
    known of what the host can reach, and the answer is ""."""
    host, port = parse_portal(portal)
    here = local[0].partition("%")[0]  # A zone means nothing on another machine (RFC 4007).
    if here.startswith("::ffff:") and "." in here:
        here = here.removeprefix("::ffff:")
    if host in _WILDCARDS:
        if (":" in here) is not _WILDCARDS[host]:
            return ""
        host = here
    elif not host:
        host = here
    return format_portal(host, port)


def format_portal(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class DiscoveryPhase:
    """The full feature phase of a discovery session."""

    __slots__ = ("_connection", "_end", "_parameters", "_stat_sn", "_text", "_window", "cid")

    def __init__(
        self,
        connection: Connection,
        parameters: Parameters,
        window: CommandWindow,
        stat_sn: int,
        text: TextExchange,
        cid: int,
        end: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._parameters = parameters
        self._window = window
        self._stat_sn = stat_sn
        self._text = text
        self._end = end
        self.cid = cid

    def dispatch(self) -> list[Handler]:
        return dispatch_table(
            {
                Opcode.TEXT_REQUEST: self.text_request,
                Opcode.LOGOUT_REQUEST: self.logout,
                Opcode.NOP_OUT: self.nop_out,
            },
            self.unsupported,
        )

    def text_request(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        request = TextRequest.parse(header, at, data)
        if not self._is_next(request.immediate, request.cmd_sn):
            return
        try:
            response = self._text.receive(request)
        except RemoteProtocolError as error:
            self._reject(header, at, error.reject or RejectReason.PROTOCOL_ERROR)
            return
        response.stat_sn = self._take_stat_sn()
        response.exp_cmd_sn = self._window.exp_cmd_sn
        response.max_cmd_sn = self._window.max_cmd_sn
        self._connection.send(response.pack(), response.data)

    def logout(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        request = LogoutRequest.parse(header, at)
        if not self._is_next(request.immediate, request.cmd_sn):
            return
        response = LogoutResponseCode.CLOSED
        if request.reason == LogoutReason.REMOVE_FOR_RECOVERY:
            response = LogoutResponseCode.RECOVERY_NOT_SUPPORTED
        elif request.reason == LogoutReason.CLOSE_CONNECTION and request.cid != self.cid:
            response = LogoutResponseCode.CID_NOT_FOUND
        self._connection.send(
            LogoutResponse(
                response, request.initiator_task_tag, self._take_stat_sn(),
                self._window.exp_cmd_sn, self._window.max_cmd_sn,
                self._parameters.default_time2wait, self._parameters.default_time2retain,
            ).pack()
        )  # fmt: skip
        if response is LogoutResponseCode.CLOSED:
            self._end("logout")

    def nop_out(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        request = NopOut.parse(header, at, data)
        if not self._is_next(request.immediate, request.cmd_sn):
            return
        if request.initiator_task_tag == RESERVED_TAG:
            return
        payload = request.data[: self._parameters.send_limit]
        self._connection.send(
            NopIn(
                0, request.initiator_task_tag, RESERVED_TAG, self._take_stat_sn(),
                self._window.exp_cmd_sn, self._window.max_cmd_sn, payload,
            ).pack(),
            payload,
        )  # fmt: skip

    def unsupported(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        self._reject(header, at, RejectReason.PROTOCOL_ERROR)

    def data_digest_error(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        self._reject(header, at, RejectReason.DATA_DIGEST_ERROR)
        if not header[at] & IMMEDIATE:
            self._end("a data digest of a numbered request is wrong")

    def _is_next(self, immediate: bool, cmd_sn: int) -> bool:
        if immediate:
            return True
        if self._window.arrive(cmd_sn) is not Arrival.NEXT:
            return False
        self._window.answered()
        return True

    def _take_stat_sn(self) -> int:
        stat_sn = self._stat_sn
        self._stat_sn = stat_sn + 1 & MASK
        return stat_sn

    def _reject(self, header: Buffer, at: int, reason: RejectReason) -> None:
        image = bytes(header[at : at + BHS_LENGTH])
        pdu = Reject(
            reason, self._take_stat_sn(), self._window.exp_cmd_sn, self._window.max_cmd_sn, 0, image
        )
        self._connection.send(pdu.pack(), image)
