"""Invariant: an answer of REPORT ALIASES is malformed, or its aliases can be written again."""

from __future__ import annotations

from change_aliases import ALIASES
from daiko.scsi.alias import pack_report_aliases, parse_report_aliases
from daiko.scsi.layout import MalformedData


def corpus() -> list[bytes]:
    return [pack_report_aliases(ALIASES), *[pack_report_aliases([alias]) for alias in ALIASES]]


def check(data: bytes) -> bool:
    try:
        aliases = parse_report_aliases(data)
    except MalformedData:
        return False
    assert parse_report_aliases(pack_report_aliases(aliases)) == aliases
    return True
