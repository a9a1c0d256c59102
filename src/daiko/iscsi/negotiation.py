"""One side of a negotiation of text keys, the same object for both roles (RFC 7143, 6.2, 6.3).

What comes in is either the answer to a key that this side proposed, or a proposal or declaration
of the peer. `take` tells them apart, checks both against the table of keys, and returns what this
side has to answer. Neither role has rules of its own: the law for both is the row of the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from daiko.iscsi.error import LoginStatus
from daiko.iscsi.text_key import (
    IRRELEVANT,
    KEYS,
    NONE,
    NOT_UNDERSTOOD,
    REJECT,
    RESPONSE_CONSTANTS,
    Key,
    Rule,
    Sender,
    Value,
    When,
    combine,
    error,
    format_value,
    parse_value,
)

Offer = Mapping[str, Value]
"""What one side wants, or is ready for, by key name; keys not in it have their default."""

OFFER: dict[str, Value] = {
    "HeaderDigest": (NONE, "CRC32C"),
    "DataDigest": (NONE, "CRC32C"),
    "MaxConnections": 1,
    "InitialR2T": False,
    "ImmediateData": True,
    "MaxRecvDataSegmentLength": 256 * 1024,
    "MaxBurstLength": 1024 * 1024,
    "FirstBurstLength": 256 * 1024,
    "DefaultTime2Wait": 0,
    "DefaultTime2Retain": 0,
    "MaxOutstandingR2T": 16,
    "DataPDUInOrder": True,
    "DataSequenceInOrder": True,
    "ErrorRecoveryLevel": 0,
    "iSCSIProtocolLevel": 2,
    "TaskReporting": ("RFC3720",),
}
"""What both our roles want unless told otherwise."""


@dataclass(slots=True)
class Parameters:
    """The result of a login: what holds on the connection and in its session."""

    initiator_name: str = ""
    target_name: str = ""
    """Empty in a discovery session."""
    is_discovery: bool = False
    header_digest: bool = False
    data_digest: bool = False
    receive_limit: int = 8192
    """Bytes: MaxRecvDataSegmentLength of this side."""
    send_limit: int = 8192
    """Bytes: MaxRecvDataSegmentLength of the peer."""
    max_connections: int = 1
    initial_r2t: bool = True
    immediate_data: bool = True
    max_burst_length: int = 262144
    """Bytes."""
    first_burst_length: int = 65536
    """Bytes."""
    default_time2wait: int = 2
    """Seconds."""
    default_time2retain: int = 20
    """Seconds."""
    max_outstanding_r2t: int = 1
    data_pdu_in_order: bool = True
    data_sequence_in_order: bool = True
    error_recovery_level: int = 0
    protocol_level: int = 1
    initiator_alias: str = ""
    target_alias: str = ""
    target_portal_group_tag: int = 0


class Negotiation:
    """One side's half of it. `role` is the side we are."""

    __slots__ = ("_offer", "_proposed", "declared", "is_discovery", "results", "role", "settled")

    def __init__(self, role: Sender, offer: Offer, *, is_discovery: bool = False) -> None:
        self.role = role
        self.is_discovery = is_discovery
        self._offer = offer
        self._proposed: set[str] = set()
        self.results: dict[str, Value] = {}
        """Results of negotiated keys."""
        self.declared: dict[str, Value] = {}
        """What the peer declared."""
        self.settled: set[str] = set()
        """Keys that were negotiated: none of them a second time."""

    def ours(self, row: Key) -> Value:
        """What this side wants for a key."""
        value = self._offer.get(row.name, row.default)
        assert value is not None
        return value

    def propose(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Our own proposals and declarations, as pairs to send."""
        pairs = []
        for name in names:
            row = KEYS[name]
            if self.is_discovery and not row.discovery:
                continue
            if row.rule is not Rule.DECLARE:
                self._proposed.add(name)
            pairs.append((name, format_value(self.ours(row))))
        return pairs

    def take(self, keys: Mapping[str, str], stage: frozenset[When]) -> list[tuple[str, str]]:
        """Take the peer's keys in; what this side answers. `stage`: the uses allowed now.

        Raises RemoteProtocolError for what the peer must not send: a key of the other side or
        of another stage, a second negotiation, an inadmissible answer."""
        answers: list[tuple[str, str]] = []
        for name, text in keys.items():
            if name in self._proposed:
                self._proposed.discard(name)
                self._conclude(KEYS[name], text)
                continue
            answer = self._answer(name, text, stage)
            if answer is not None:
                answers.append((name, answer))
        return [self._bounded_first_burst(pair) for pair in answers]

    def _answer(self, name: str, text: str, stage: frozenset[When]) -> str | None:
        row = KEYS.get(name)
        if row is None:
            # Also for X- and X# extensions (6.1), and never for an answer to our own.
            return None if text in RESPONSE_CONSTANTS else NOT_UNDERSTOOD
        if row.rule is Rule.OBSOLETE:
            return row.answer
        peer = Sender.BOTH ^ self.role
        if not row.sender & peer:
            raise error(f"{name} is not the peer's to send")
        if row.when not in stage:
            raise error(f"{name} has no place in this stage")
        if row.rule is Rule.DECLARE:
            self._declare(row, text)
            return None
        if name in self.settled:
            raise error(f"{name} is negotiated a second time")
        self.settled.add(name)
        if self.is_discovery and not row.discovery:
            return IRRELEVANT
        try:
            theirs = parse_value(row, text)
        except ValueError:
            return REJECT
        result = combine(row, self.ours(row), theirs)
        if result is None:
            return REJECT
        self.results[name] = result
        return format_value(result)

    def _declare(self, row: Key, text: str) -> None:
        try:
            value = parse_value(row, text)
        except ValueError as reason:
            raise error(str(reason)) from None
        # libiscsi says its name in the security stage and once more in the operational one.
        if self.declared.setdefault(row.name, value) != value:
            raise error(f"{row.name} is declared a second time, and otherwise")

    def _conclude(self, row: Key, text: str) -> None:
        """The peer's answer to our proposal."""
        if row.name in self.settled:
            raise error(f"{row.name} is answered a second time")
        self.settled.add(row.name)
        if text in RESPONSE_CONSTANTS:
            # The default stays. Where that is not what we can live with, the login ends later.
            return
        try:
            theirs = parse_value(row, text)
        except ValueError as reason:
            raise error(str(reason)) from None
        if row.rule is Rule.FIRST_COMMON:
            ours = self.ours(row)
            assert isinstance(ours, tuple)
            if not isinstance(theirs, tuple) or len(theirs) != 1 or theirs[0] not in ours:
                raise error(f"the answer {text} to {row.name} was not proposed")
            self.results[row.name] = theirs[0]
            return
        # The result must be one that the rule can give: the rule of our value and the result is
        # the result again (min, max, AND, OR are idempotent).
        if combine(row, self.ours(row), theirs) != theirs:
            raise error(f"the answer {text} to {row.name} does not follow from our proposal")
        self.results[row.name] = theirs

    def forgo(self, name: str) -> None:
        """Expect no answer to a proposal any more: its default holds."""
        self._proposed.discard(name)

    def _bounded_first_burst(self, pair: tuple[str, str]) -> tuple[str, str]:
        """FirstBurstLength must not exceed MaxBurstLength (13.14)."""
        name = pair[0]
        if name != "FirstBurstLength" or name not in self.results:
            return pair
        longest = self.results.get("MaxBurstLength", KEYS["MaxBurstLength"].default)
        first = self.results[name]
        assert isinstance(longest, int)
        assert isinstance(first, int)
        self.results[name] = min(first, longest)
        return (name, format_value(self.results[name]))

    def parameters(self, *, declared_by_us: frozenset[str]) -> Parameters:
        """The outcome. `declared_by_us`: the declarations this side has sent.

        Raises RemoteProtocolError where a proposal of ours was never answered."""
        for name in tuple(self._proposed):
            # Where our value alone decides (AND with No, OR with Yes), the answer is optional
            # (6.2.2); the kernel's target leaves it out.
            row = KEYS[name]
            if row.rule in _DECISIVE and self.ours(row) is _DECISIVE[row.rule]:
                self._proposed.discard(name)
                self.results[name] = self.ours(row)
        if self._proposed:
            raise error(
                f"{', '.join(sorted(self._proposed))} not answered", LoginStatus.INITIATOR_ERROR
            )
        made = Parameters(is_discovery=self.is_discovery)
        for name, attribute in _ATTRIBUTES.items():
            value = self.results.get(name)
            if value is None:
                value = KEYS[name].default
            if name in ("HeaderDigest", "DataDigest"):
                value = value == "CRC32C"
            setattr(made, attribute, value)
        receive = KEYS["MaxRecvDataSegmentLength"]
        if receive.name in declared_by_us:
            made.receive_limit = _number(self.ours(receive))
        if receive.name in self.declared:
            made.send_limit = _number(self.declared[receive.name])
        made.first_burst_length = min(made.first_burst_length, made.max_burst_length)
        for name, attribute in _NAMES.items():
            if name in self.declared:
                setattr(made, attribute, str(self.declared[name]))
        return made


def _number(value: Value) -> int:
    assert isinstance(value, int)
    return value


_DECISIVE = {Rule.AND: False, Rule.OR: True}
"""The value of one side that decides a boolean negotiation."""

_ATTRIBUTES = {
    "HeaderDigest": "header_digest",
    "DataDigest": "data_digest",
    "MaxConnections": "max_connections",
    "InitialR2T": "initial_r2t",
    "ImmediateData": "immediate_data",
    "MaxBurstLength": "max_burst_length",
    "FirstBurstLength": "first_burst_length",
    "DefaultTime2Wait": "default_time2wait",
    "DefaultTime2Retain": "default_time2retain",
    "MaxOutstandingR2T": "max_outstanding_r2t",
    "DataPDUInOrder": "data_pdu_in_order",
    "DataSequenceInOrder": "data_sequence_in_order",
    "ErrorRecoveryLevel": "error_recovery_level",
    "iSCSIProtocolLevel": "protocol_level",
}
_NAMES = {
    "InitiatorName": "initiator_name",
    "TargetName": "target_name",
    "InitiatorAlias": "initiator_alias",
    "TargetAlias": "target_alias",
}
