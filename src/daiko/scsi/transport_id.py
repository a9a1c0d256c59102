"""TransportIDs of iSCSI: how SCSI names an initiator port in parameter data (SPC-4, 7.6.4.6).

Format 01b names a port, by iSCSI name and ISID; format 00b a whole initiator device, by its iSCSI
name alone. iSCSI names are equal whatever their case (RFC 7143, 4.2.7.1) and stand here in their
one form, lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from daiko.scsi.layout import Buffer, MalformedData

ISCSI = 0x05
"""PROTOCOL IDENTIFIER."""
_DEVICE, _PORT = 0x00, 0x40
"""FORMAT CODE, where it stands in byte 0."""
_HEADER = 4
SHORTEST = 24
"""Bytes."""
LONGEST = 4 + 244
"""Bytes: a name of 223 bytes, the separator, 12 digits and a null, padded to a multiple of 4."""
_SEPARATOR = ",i,0x"
_MAX_NAME = 223
_ISID = re.compile(r"[0-9A-Fa-f]{1,12}")


@dataclass(frozen=True, slots=True, order=True)
class TransportId:
    """An initiator port, or (without an ISID) an initiator device with all of its ports."""

    name: str
    """iSCSI name, in lower case."""
    isid: bytes | None = None
    """6 bytes (RFC 7143, 11.12.5)."""

    def pack(self) -> bytes:
        """The TransportID. Raises ValueError for a name or an ISID that cannot be written."""
        text = self.name
        if not 0 < len(text.encode()) <= _MAX_NAME or "\0" in text or "," in text:
            raise ValueError(f"{text!r} is not an iSCSI name")
        if self.isid is not None:
            if len(self.isid) != 6:
                raise ValueError(f"an ISID has 6 bytes, not {len(self.isid)}")
            text += f"{_SEPARATOR}{self.isid.hex()}"
        written = text.encode()
        size = max(SHORTEST - _HEADER, (len(written) + 1 + 3) & ~3)
        first = ISCSI | (_DEVICE if self.isid is None else _PORT)
        return bytes([first, 0]) + size.to_bytes(2, "big") + written.ljust(size, b"\0")


def parse_transport_id(data: Buffer, at: int = 0) -> tuple[TransportId, int]:
    """The TransportID that begins at `at`, and where it ends. Raises MalformedData for one that
    is cut short, of another protocol, or no name."""
    if len(data) - at < SHORTEST:
        raise MalformedData(
            f"a TransportID has {SHORTEST} bytes at least, {len(data) - at} present"
        )
    first = data[at]
    if first & 0x3F != ISCSI or first & 0xC0 not in (_DEVICE, _PORT):
        raise MalformedData(f"byte {first:02x} does not begin a TransportID of iSCSI")
    size = int.from_bytes(data[at + 2 : at + 4], "big")
    end = at + _HEADER + size
    if size < SHORTEST - _HEADER or size % 4 or end > len(data):
        raise MalformedData(f"a TransportID with {size} bytes behind its header")
    written = bytes(data[at + _HEADER : end]).partition(b"\0")[0]
    try:
        text = written.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedData("the iSCSI name is not UTF-8") from error
    name, separator, isid = text.partition(_SEPARATOR)
    is_port = first & 0xC0 == _PORT
    if not 0 < len(name.encode()) <= _MAX_NAME or "," in name or is_port != bool(separator):
        raise MalformedData(f"{text!r} does not name what the format code says")
    if not is_port:
        return TransportId(name.lower()), end
    if not _ISID.fullmatch(isid):
        raise MalformedData(f"{isid!r} is not an ISID")
    return TransportId(name.lower(), int(isid, 16).to_bytes(6, "big")), end


def parse_transport_ids(data: Buffer, at: int, length: int) -> tuple[TransportId, ...]:
    """The TransportIDs in `length` bytes from `at` on. Raises MalformedData, also where they do
    not fill these bytes."""
    end = at + length
    found = []
    while at < end:
        each, at = parse_transport_id(data[:end], at)
        found.append(each)
    return tuple(found)


def pack_transport_ids(ids: Iterable[TransportId]) -> bytes:
    """One behind the other."""
    return b"".join([each.pack() for each in ids])
