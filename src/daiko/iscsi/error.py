"""Protocol errors of RFC 7143, and the codes with which they are answered.

The core raises `LocalProtocolError` where this side was asked to do what the protocol forbids (a
defect here) and `RemoteProtocolError` where the peer did it. A remote error carries the hint of
its answer: a reject reason, a login status, or neither, when the connection has to be closed
(7.7: a PDU format error ends all connections of the session).
"""

from __future__ import annotations

from enum import IntEnum


class RejectReason(IntEnum):
    """RFC 7143, 11.17.1."""

    DATA_DIGEST_ERROR = 0x02
    SNACK_REJECT = 0x03
    PROTOCOL_ERROR = 0x04
    COMMAND_NOT_SUPPORTED = 0x05
    TOO_MANY_IMMEDIATE_COMMANDS = 0x06
    TASK_IN_PROGRESS = 0x07
    INVALID_DATA_ACK = 0x08
    INVALID_PDU_FIELD = 0x09
    LONG_OPERATION = 0x0A
    WAITING_FOR_LOGOUT = 0x0C


class LoginStatus(IntEnum):
    """RFC 7143, 11.13.5: status class in the high byte, status detail in the low one."""

    SUCCESS = 0x0000
    TARGET_MOVED_TEMPORARILY = 0x0101
    TARGET_MOVED_PERMANENTLY = 0x0102
    INITIATOR_ERROR = 0x0200
    AUTHENTICATION_FAILURE = 0x0201
    AUTHORIZATION_FAILURE = 0x0202
    NOT_FOUND = 0x0203
    TARGET_REMOVED = 0x0204
    UNSUPPORTED_VERSION = 0x0205
    TOO_MANY_CONNECTIONS = 0x0206
    MISSING_PARAMETER = 0x0207
    CANNOT_INCLUDE_IN_SESSION = 0x0208
    SESSION_TYPE_NOT_SUPPORTED = 0x0209
    SESSION_DOES_NOT_EXIST = 0x020A
    INVALID_DURING_LOGIN = 0x020B
    TARGET_ERROR = 0x0300
    SERVICE_UNAVAILABLE = 0x0301
    OUT_OF_RESOURCES = 0x0302


class ProtocolError(Exception):
    """What broke the protocol; the message is for the administrator."""


class LocalProtocolError(ProtocolError):
    """This side was about to break the protocol."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol."""

    def __init__(
        self,
        message: str,
        *,
        reject: RejectReason | None = None,
        login: LoginStatus | None = None,
    ) -> None:
        super().__init__(message)
        self.reject = reject
        """The reason to answer with in a Reject PDU; None: no Reject, the connection ends."""
        self.login = login
        """The status to answer with while the login goes on."""


class FormatError(RemoteProtocolError):
    """A PDU whose layout is impossible (7.7): the connection cannot be read any further."""


class HeaderDigestError(FormatError):
    """A header digest is wrong, so the place of the next PDU is unknown (7.8): close."""


class LoginRefused(RemoteProtocolError):
    """A target ended the login with this status."""

    def __init__(self, status: int, address: str | None = None) -> None:
        try:
            name = LoginStatus(status).name.lower().replace("_", " ")
        except ValueError:
            name = "unknown status"
        super().__init__(f"the target refused the login: {name} ({status:04x}h)")
        self.status = status
        """Status class in the high byte, status detail in the low one."""
        self.address = address
        """TargetAddress of a redirection (status class 1)."""
