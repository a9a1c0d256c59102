"""Invariant: 48 bytes of any kind are a PDU of their opcode, which packs to what reads the same."""

from __future__ import annotations

from daiko.iscsi.pdu import PDU_CLASSES

HEADER = 48
OPCODE_MASK = 0x3F


def corpus() -> list[bytes]:
    random = bytes(range(1, HEADER))
    return [
        *[bytes((opcode,)).ljust(HEADER, b"\0") for opcode in PDU_CLASSES],
        *[bytes((opcode,)) + random + b"data" for opcode in PDU_CLASSES],
    ]


def check(data: bytes) -> bool:
    header = data[:HEADER].ljust(HEADER, b"\0")
    payload = data[HEADER:]
    kind = PDU_CLASSES.get(header[0] & OPCODE_MASK)
    if kind is None:
        return False
    value = kind.parse(header, 0, payload)
    packed = value.pack()
    assert len(packed) == HEADER
    assert packed[0] & OPCODE_MASK == kind.opcode
    again = kind.parse(packed, 0, payload)
    assert again.pack() == packed
    return True
