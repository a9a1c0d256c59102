"""Invariant: a text is refused as the peer's error, or its pairs can be sent and negotiated."""

from __future__ import annotations

from daiko.iscsi.error import RemoteProtocolError
from daiko.iscsi.negotiation import OFFER, Negotiation
from daiko.iscsi.text_key import (
    KEYS,
    Sender,
    When,
    format_text,
    format_value,
    parse_text,
    parse_unique,
    parse_value,
)

STAGE = frozenset(When)


def corpus() -> list[bytes]:
    defaults = [
        (name, "Yes" if row.default is None else format_value(row.default))
        for name, row in KEYS.items()
    ]
    halves = (defaults[::2], defaults[1::2])
    numbers = [("MaxBurstLength", "0x10000"), ("FirstBurstLength", "65536"), ("X-com.a", "b")]
    return [
        *[format_text(pairs) for pairs in (defaults, *halves, numbers)],
        *[format_text([pair]) for pair in defaults],
        b"SendTargets=All\0TargetAddress=[2001:db8::1]:3260,1\0TargetAddress=192.0.2.1,2\0",
    ]


def check(data: bytes) -> bool:
    try:
        pairs = parse_text(data)
    except RemoteProtocolError:
        return False
    assert parse_text(format_text(pairs)) == pairs
    for name, text in pairs:
        row = KEYS.get(name)
        if row is None:
            continue
        try:
            value = parse_value(row, text)
        except ValueError:
            continue
        assert parse_value(row, format_value(value)) == value
    try:
        keys = parse_unique(data)
        for role in (Sender.TARGET, Sender.INITIATOR):
            answers = Negotiation(role, OFFER).take(dict(keys), STAGE)
            assert parse_text(format_text(answers)) == answers
    except RemoteProtocolError:
        return False
    return True
