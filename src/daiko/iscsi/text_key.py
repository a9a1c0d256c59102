"""Text keys: key=value pairs in login and text PDUs (RFC 7143, 6 and 13; RFC 7144, 7).

`KEYS` is THE table: one row per key with its kind, default, range, who may send it and when.
Every answer in a negotiation is derived from a row; no key has code of its own. The functions
that combine two offers (`Rule`) are the ones of 6.2: AND, OR, minimum, maximum, first common
value of a list; a declared key has none.

Values in Python: bool for Yes/No, int for numbers, str for names, tuple[str, ...] for lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, Flag, auto

from daiko.iscsi.bhs import Buffer
from daiko.iscsi.error import LocalProtocolError, LoginStatus, RejectReason, RemoteProtocolError

Value = bool | int | str | tuple[str, ...]

NOT_UNDERSTOOD = "NotUnderstood"
IRRELEVANT = "Irrelevant"
REJECT = "Reject"
NONE = "None"
RESPONSE_CONSTANTS = frozenset({NOT_UNDERSTOOD, IRRELEVANT, REJECT})
"""Answers that are no values (6.2)."""

LONGEST_KEY = 63
LONGEST_VALUE = 255
"""Bytes, unless the key says otherwise (6.1)."""
LONGEST_TEXT = 64 * 1024
"""Bytes of a text put together from continued PDUs; a longer one is hostile."""
_KEY_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-+@_/#")


class Kind(Enum):
    """The form of a value (6.1)."""

    BOOLEAN = auto()
    NUMBER = auto()
    TEXT = auto()
    LIST = auto()


class Rule(Enum):
    """How two sides come to one result (6.2)."""

    DECLARE = auto()
    """Each side says its own; there is no answer."""
    AND = auto()
    OR = auto()
    MINIMUM = auto()
    MAXIMUM = auto()
    FIRST_COMMON = auto()
    OBSOLETE = auto()
    """No key of RFC 7143 any more; answered with the row's constant (13.25)."""


class Sender(Flag):
    INITIATOR = auto()
    TARGET = auto()
    BOTH = INITIATOR | TARGET


class When(Enum):
    """The "Use" line of each key in section 13."""

    SECURITY = "security stage of a login"
    INITIALIZE = "IO: login of each connection"
    LEADING = "LO: login of the first connection of a session"
    FULL_FEATURE = "FFPO: full feature phase"
    ALL = "ALL: login and full feature phase"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One row."""

    name: str
    kind: Kind
    rule: Rule
    sender: Sender
    when: When
    default: Value | None
    lowest: int = 0
    highest: int = 0
    values: tuple[str, ...] = ()
    """What a list may name; empty: anything."""
    discovery: bool
    """Whether it has a meaning in a discovery session; else the answer is Irrelevant."""
    answer: str = ""
    """The constant that answers an obsolete key."""
    reference: str


def _number(
    name: str, rule: Rule, default: int, lowest: int, highest: int, reference: str,
    *, when: When = When.LEADING, discovery: bool = False,
) -> Key:  # fmt: skip
    return Key(
        name=name, kind=Kind.NUMBER, rule=rule, sender=Sender.BOTH, when=when, default=default,
        lowest=lowest, highest=highest, discovery=discovery, reference=reference,
    )  # fmt: skip


def _boolean(name: str, rule: Rule, default: bool, reference: str) -> Key:
    return Key(
        name=name, kind=Kind.BOOLEAN, rule=rule, sender=Sender.BOTH, when=When.LEADING,
        default=default, discovery=False, reference=reference,
    )  # fmt: skip


def _text(name: str, sender: Sender, when: When, reference: str, default: str | None = None) -> Key:
    return Key(
        name=name, kind=Kind.TEXT, rule=Rule.DECLARE, sender=sender, when=when, default=default,
        discovery=True, reference=reference,
    )  # fmt: skip


def _list(
    name: str, when: When, default: tuple[str, ...], values: tuple[str, ...], reference: str,
    *, discovery: bool,
) -> Key:  # fmt: skip
    return Key(
        name=name, kind=Kind.LIST, rule=Rule.FIRST_COMMON, sender=Sender.BOTH, when=when,
        default=default, values=values, discovery=discovery, reference=reference,
    )  # fmt: skip


def _obsolete(name: str, answer: str) -> Key:
    return Key(
        name=name, kind=Kind.TEXT, rule=Rule.OBSOLETE, sender=Sender.BOTH, when=When.LEADING,
        default=None, discovery=True, answer=answer, reference="13.25",
    )  # fmt: skip


_LENGTH = (512, 0xFFFFFF)
_DIGESTS = ("CRC32C", NONE)

KEYS: dict[str, Key] = {
    row.name: row
    for row in (
        _list(
            "AuthMethod", When.SECURITY, (NONE,), ("KRB5", "SRP", "CHAP", NONE), "12.1",
            discovery=True,
        ),
        _list("HeaderDigest", When.INITIALIZE, (NONE,), _DIGESTS, "13.1", discovery=True),
        _list("DataDigest", When.INITIALIZE, (NONE,), _DIGESTS, "13.1", discovery=True),
        _number("MaxConnections", Rule.MINIMUM, 1, 1, 65535, "13.2"),
        _text("SendTargets", Sender.INITIATOR, When.FULL_FEATURE, "13.3"),
        _text("TargetName", Sender.BOTH, When.ALL, "13.4"),
        _text("InitiatorName", Sender.INITIATOR, When.INITIALIZE, "13.5"),
        _text("TargetAlias", Sender.TARGET, When.ALL, "13.6"),
        _text("InitiatorAlias", Sender.INITIATOR, When.ALL, "13.7"),
        _text("TargetAddress", Sender.TARGET, When.ALL, "13.8"),
        _text("TargetPortalGroupTag", Sender.TARGET, When.INITIALIZE, "13.9"),
        _boolean("InitialR2T", Rule.OR, True, "13.10"),
        _boolean("ImmediateData", Rule.AND, True, "13.11"),
        _number(
            "MaxRecvDataSegmentLength", Rule.DECLARE, 8192, *_LENGTH, "13.12",
            when=When.ALL, discovery=True,
        ),
        _number("MaxBurstLength", Rule.MINIMUM, 262144, *_LENGTH, "13.13"),
        _number("FirstBurstLength", Rule.MINIMUM, 65536, *_LENGTH, "13.14"),
        _number("DefaultTime2Wait", Rule.MAXIMUM, 2, 0, 3600, "13.15", discovery=True),
        _number("DefaultTime2Retain", Rule.MINIMUM, 20, 0, 3600, "13.16", discovery=True),
        _number("MaxOutstandingR2T", Rule.MINIMUM, 1, 1, 65535, "13.17"),
        _boolean("DataPDUInOrder", Rule.OR, True, "13.18"),
        _boolean("DataSequenceInOrder", Rule.OR, True, "13.19"),
        _number("ErrorRecoveryLevel", Rule.MINIMUM, 0, 0, 2, "13.20", discovery=True),
        _text("SessionType", Sender.INITIATOR, When.LEADING, "13.21", default="Normal"),
        _list(
            "TaskReporting", When.LEADING, ("RFC3720",), ("RFC3720", "ResponseFence", "FastAbort"),
            "13.23", discovery=False,
        ),
        _number("iSCSIProtocolLevel", Rule.MINIMUM, 1, 0, 31, "13.24"),
        _obsolete("IFMarker", "No"),
        _obsolete("OFMarker", "No"),
        _obsolete("IFMarkInt", REJECT),
        _obsolete("OFMarkInt", REJECT),
    )
}  # fmt: skip
"""Name -> row."""


def error(message: str, login: LoginStatus = LoginStatus.INITIATOR_ERROR) -> RemoteProtocolError:
    """A text the peer must not send: answered in a login by a status, later by a Reject."""
    return RemoteProtocolError(message, login=login, reject=RejectReason.PROTOCOL_ERROR)


def parse_text(data: Buffer) -> list[tuple[str, str]]:
    """key=value pairs in their order (6.1). Raises RemoteProtocolError.

    A key may stand more than once (TargetAddress); `parse_unique` refuses that."""
    raw = bytes(data)
    if not raw:
        return []
    if raw[-1:] != b"\0":
        raise error("a text does not end with a null")
    pairs = []
    for item in raw.split(b"\0"):
        if not item:
            continue  # Padding nulls do no harm; several initiators send one too many.
        name, equals, value = item.partition(b"=")
        if not equals:
            raise error("a text item has no '='")
        if not 1 <= len(name) <= LONGEST_KEY:
            raise error("a key name is empty or longer than 63 bytes")
        try:
            key, text = name.decode("ascii"), value.decode("utf-8")
        except UnicodeDecodeError:
            raise error("a text is not UTF-8") from None
        if not _KEY_CHARACTERS.issuperset(key):
            raise error("a key name holds a character that 6.1 excludes")
        if len(value) > LONGEST_VALUE and key not in _LONG_VALUES:
            raise error(f"the value of {key} is longer than 255 bytes")
        pairs.append((key, text))
    return pairs


_LONG_VALUES = frozenset({"CHAP_C", "CHAP_R", "SRP_A", "SRP_B", "SRP_M", "SRP_HM", "SRP_s"})
"""Large binary values may have up to 1024 bytes (12.1)."""


def parse_unique(data: Buffer) -> dict[str, str]:
    """As `parse_text`, for texts in which a key may stand once (6.3: a login)."""
    keys: dict[str, str] = {}
    for name, value in parse_text(data):
        if name in keys:
            raise error(f"{name} stands twice in one text")
        keys[name] = value
    return keys


def format_text(pairs: Iterable[tuple[str, str]]) -> bytes:
    """The bytes of key=value pairs."""
    return b"".join(f"{name}={value}".encode() + b"\0" for name, value in pairs)


def format_value(value: Value) -> str:
    """A value as it is written on the wire."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)


def parse_value(row: Key, text: str) -> Value:
    """The value of a key, checked against its row. Raises ValueError."""
    if row.kind is Kind.BOOLEAN:
        if text not in ("Yes", "No"):
            raise ValueError(f"{row.name} is neither Yes nor No")
        return text == "Yes"
    if row.kind is Kind.NUMBER:
        number = parse_number(text)
        if not row.lowest <= number <= row.highest:
            raise ValueError(f"{row.name} is not in {row.lowest}..{row.highest}")
        return number
    if row.kind is Kind.LIST:
        return tuple(text.split(","))
    return text


def parse_number(text: str) -> int:
    """A decimal or hexadecimal constant (6.1). Raises ValueError."""
    digits, radix = (text[2:], 16) if text[:2] in ("0x", "0X") else (text, 10)
    if not digits.isascii() or not digits.isalnum() or len(digits) > 20:
        raise ValueError(f"{text[:40]!r} is no number")
    return int(digits, radix)


def combine(row: Key, ours: Value, theirs: Value) -> Value | None:
    """The result of a negotiation, or None where two lists have nothing in common.

    Both sides compute the same, so a proposer checks an answer with it."""
    match row.rule:
        case Rule.AND:
            return bool(ours) and bool(theirs)
        case Rule.OR:
            return bool(ours) or bool(theirs)
        case Rule.MINIMUM:
            assert isinstance(ours, int)
            assert isinstance(theirs, int)
            return min(ours, theirs)
        case Rule.MAXIMUM:
            assert isinstance(ours, int)
            assert isinstance(theirs, int)
            return max(ours, theirs)
        case Rule.FIRST_COMMON:
            assert isinstance(ours, tuple)
            assert isinstance(theirs, tuple)
            return next((name for name in theirs if name in ours), None)
        case _:
            raise LocalProtocolError(f"{row.name} is declared, not negotiated")


class TextCollector:
    """Puts a text together that its sender split over several PDUs (C bit, 6.2)."""

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: Buffer, continued: bool) -> bytes | None:
        """The whole text, or None while `continued`. Raises RemoteProtocolError."""
        self._size += len(data)
        if self._size > LONGEST_TEXT:
            raise error(f"a text is longer than {LONGEST_TEXT} bytes", LoginStatus.OUT_OF_RESOURCES)
        if data:
            # An empty part is nothing to keep, however many a hostile peer sends.
            self._parts.append(bytes(data))
        if continued:
            return None
        text = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return text

    @property
    def is_collecting(self) -> bool:
        return bool(self._parts)


def split_text(text: bytes, limit: int) -> Sequence[bytes]:
    """A text in pieces of at most `limit` bytes, for as many PDUs; at least one piece."""
    return [text[at : at + limit] for at in range(0, len(text), limit)] or [b""]
