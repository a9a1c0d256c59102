"""Header and data digests: CRC32C (RFC 7143, 13.1), least significant byte first on the wire."""

from __future__ import annotations

import struct
from typing import Final

from crc32c import crc32c

from daiko.iscsi.bhs import Buffer

_U32_LE: Final = struct.Struct("<I")
DIGEST_LENGTH: Final = 4
"""Bytes."""


def digest(data: Buffer, padding: bytes = b"") -> bytes:
    """The 4 digest bytes of `data` followed by `padding`."""
    crc = crc32c(data)
    if padding:
        crc = crc32c(padding, crc)
    return _U32_LE.pack(crc)


def checksum(data: Buffer, crc: int = 0) -> int:
    """CRC32C of `data`, going on from `crc`."""
    return crc32c(data, crc)


def stored(buffer: Buffer, at: int) -> int:
    """The digest that stands in `buffer` at `at`."""
    value: int = _U32_LE.unpack_from(buffer, at)[0]
    return value
