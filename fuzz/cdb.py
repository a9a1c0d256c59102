"""Invariant: any CDB has a row or none, and only the fields of its layout count."""

from __future__ import annotations

from daiko.command_control.analysis import analyse, has_opcode
from daiko.command_control.command_table import ROWS


def corpus() -> list[bytes]:
    return [row.layout.pack().ljust(16, b"\0") for row in ROWS]


def check(data: bytes) -> bool:
    cdb = data[:16].ljust(16, b"\0")
    row = analyse(cdb)
    if row is None:
        return False
    assert has_opcode(cdb[0])
    layout = row.layout
    fields = layout.unpack(cdb)
    names = [item.name for item in layout.fields]
    values = {name: getattr(fields, name) for name in names}
    assert layout.repack(cdb, **values) == cdb[: layout.length]
    assert layout.unpack(layout.pack(**values)) == fields
    stray = layout.stray_bit(cdb)
    illegal = bytes(got & ~may & 0xFF for got, may in zip(cdb, layout.mask, strict=False))
    assert (stray is None) == (not any(illegal))
    if stray is not None:
        assert illegal[stray[0]] >> stray[1] & 1
    return stray is None
