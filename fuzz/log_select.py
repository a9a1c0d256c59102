"""Invariant: a LOG SELECT list is refused, or its pages pack back to pages that read the same."""

from __future__ import annotations

from daiko.scsi.log_page import LogParameter, pack_log_page, parse_log_pages
from daiko.scsi.sense import CheckCondition


def corpus() -> list[bytes]:
    counter = LogParameter.counter(0, 7)
    return [
        pack_log_page(0x06, 0, [counter]),
        pack_log_page(0x06, 1, [counter, LogParameter(1, b"")]),
        pack_log_page(0x10, 0, [LogParameter(code, bytes(16)) for code in (1, 2, 3)]),
        pack_log_page(0x06, 0, [counter]) + pack_log_page(0x2F, 0, [LogParameter(0, bytes(4))]),
    ]


def check(data: bytes) -> bool:
    try:
        pages = parse_log_pages(data)
    except CheckCondition:
        return False
    packed = b"".join(
        pack_log_page(page.code, page.subpage, [each for _, each in page.parameters])
        for page in pages
    )
    again = parse_log_pages(packed)
    assert [(page.code, page.subpage, page.parameters, page.offset) for page in again] == [
        (page.code, page.subpage, page.parameters, page.offset) for page in pages
    ]
    return True
