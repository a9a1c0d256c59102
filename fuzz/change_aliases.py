"""Invariant: an alias list is refused with a pointer inside it, or its aliases can be reported."""

from __future__ import annotations

from daiko.scsi.alias import (
    Alias,
    pack_change_aliases,
    pack_report_aliases,
    parse_change_aliases,
    parse_report_aliases,
)
from daiko.scsi.sense import CheckCondition, SenseKey

ALIASES = (
    Alias(1, "iqn.2026-11.net.daiko:one"),
    Alias(2, "iqn.2026-11.net.daiko:two", "192.0.2.1"),
    Alias(3, "iqn.2026-11.net.daiko:three", "2001:db8::1", 3261),
    Alias(4, "iqn.2026-11.net.daiko:four", "storage.example"),
    Alias(5, ""),
)


def corpus() -> list[bytes]:
    return [pack_change_aliases(ALIASES), *[pack_change_aliases([alias]) for alias in ALIASES]]


def check(data: bytes) -> bool:
    try:
        aliases = parse_change_aliases(data)
    except CheckCondition as refusal:
        sense = refusal.sense
        assert sense.key == SenseKey.ILLEGAL_REQUEST
        assert sense.field is None or sense.field.byte < len(data)
        return False
    assert parse_report_aliases(pack_report_aliases(aliases)) == aliases
    return True
