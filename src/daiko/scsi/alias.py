"""Aliases: a host gives a device a 64-bit number, to name it by in E6h CSCDs (SPC-4, 6.2 and 6.26).

The list belongs to the I_T nexus. An alias designates a device (a target name, with or without its
portal); the LUN comes with the CSCD descriptor. An entry is parsed completely before the list is
touched: one bad entry, and nothing changes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from daiko.scsi.layout import Buffer, Layout, MalformedData, number
from daiko.scsi.sense import (
    CheckCondition,
    invalid_field_in_parameter_list,
    parameter_list_length_error,
)

PROTOCOL_ISCSI = 0x05
PROTOCOL_INDEPENDENT = 0x80

AliasEntry = Layout(
    "AliasEntry",
    16,
    number("value", 0, 8),
    number("protocol", 8, 1),
    number("format", 11, 1),
    number("designation_length", 14, 2),
)

_HEADER_LENGTH = 8
_MAX_NAME = 223
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


class AliasFormat(IntEnum):
    """FORMAT CODE of an iSCSI alias."""

    NAME = 0x00
    NAME_IPV4 = 0x01
    NAME_HOST = 0x02
    NAME_IPV6 = 0x03


@dataclass(frozen=True, slots=True)
class Alias:
    """One alias of an iSCSI target device."""

    value: int
    """ALIAS VALUE, 64 bits."""
    name: str
    """iSCSI name; "" in a CHANGE ALIASES list takes the value out of the list."""
    host: str = ""
    """IPv4 or IPv6 address in the usual notation, or a DNS name; "" = the name alone."""
    port: int = 3260
    """TCP port; means something only with `host`."""

    @property
    def format(self) -> AliasFormat:
        if not self.host:
            return AliasFormat.NAME
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return AliasFormat.NAME_HOST
        return AliasFormat.NAME_IPV4 if address.version == 4 else AliasFormat.NAME_IPV6

    def pack(self) -> bytes:
        """The entry. Raises ValueError for a name or a host that does not fit."""
        if not self.name:
            return AliasEntry.pack(value=self.value, protocol=PROTOCOL_INDEPENDENT)
        designation = self._designation()
        head = AliasEntry.pack(
            value=self.value,
            protocol=PROTOCOL_ISCSI,
            format=self.format,
            designation_length=len(designation),
        )
        return head + designation

    def _designation(self) -> bytes:
        name = self.name.encode()
        if b"\0" in name or len(name) > _MAX_NAME:
            raise ValueError(f"{self.name!r} is no iSCSI name")
        kind = self.format
        if kind is AliasFormat.NAME:
            return _terminated(name)
        if not 0 <= self.port <= 0xFFFF:
            raise ValueError(f"{self.port} is no TCP port")
        tail = bytes(2) + self.port.to_bytes(2, "big") + bytes(2) + b"\x00\x06"
        if kind is AliasFormat.NAME_HOST:
            if not _HOST_NAME.fullmatch(self.host):
                raise ValueError(f"{self.host!r} is no host name")
            return _terminated(name + b"\0" + self.host.encode("ascii")) + tail
        return _terminated(name) + ipaddress.ip_address(self.host).packed + tail


def _terminated(text: bytes) -> bytes:
    """With a NUL, padded with NULs to a multiple of 4."""
    return text + bytes(4 - len(text) % 4)


def pack_change_aliases(aliases: Iterable[Alias]) -> bytes:
    """Parameter list of CHANGE ALIASES."""
    entries = b"".join([alias.pack() for alias in aliases])
    return (4 + len(entries)).to_bytes(4, "big") + bytes(4) + entries


def pack_report_aliases(aliases: Iterable[Alias]) -> bytes:
    """Parameter data of REPORT ALIASES."""
    packed = [alias.pack() for alias in aliases]
    entries = b"".join(packed)
    head = (4 + len(entries)).to_bytes(4, "big") + bytes(2) + len(packed).to_bytes(2, "big")
    return head + entries


def parse_change_aliases(data: Buffer) -> tuple[Alias, ...]:
    """The entries of a CHANGE ALIASES list, in their order.

    Raises CheckCondition: 1A/00 when the list is cut short, 26/00 with a pointer for an entry that
    we do not take.
    """
    data = bytes(data)
    if len(data) < _HEADER_LENGTH:
        raise CheckCondition(parameter_list_length_error())
    end = 4 + int.from_bytes(data[:4], "big")
    if end > len(data) or end < _HEADER_LENGTH:
        raise CheckCondition(parameter_list_length_error())
    aliases, at = [], _HEADER_LENGTH
    while at < end:
        alias, at = _parse_entry(data[:end], at)
        aliases.append(alias)
    return tuple(aliases)


def parse_report_aliases(data: Buffer) -> tuple[Alias, ...]:
    """The aliases that a copy manager reports; raises MalformedData."""
    data = bytes(data)
    if len(data) < _HEADER_LENGTH:
        raise MalformedData(f"alias list of {len(data)} bytes")
    end = 4 + int.from_bytes(data[:4], "big")
    if end > len(data):
        raise MalformedData(f"alias list of {end} bytes, {len(data)} present")
    aliases, at = [], _HEADER_LENGTH
    while at < end:
        try:
            alias, at = _parse_entry(data[:end], at)
        except CheckCondition as refusal:
            raise MalformedData(f"alias list: {refusal.sense}") from refusal
        aliases.append(alias)
    return tuple(aliases)


def _wrong(byte: int) -> CheckCondition:
    return CheckCondition(invalid_field_in_parameter_list(byte))


def _parse_entry(data: bytes, at: int) -> tuple[Alias, int]:
    """The entry at `at`, and where the next one begins."""
    if len(data) - at < AliasEntry.length:
        raise CheckCondition(parameter_list_length_error())
    entry = AliasEntry.unpack(data, at)
    start = at + AliasEntry.length
    end = start + entry.designation_length
    if end > len(data):
        raise CheckCondition(parameter_list_length_error())
    if entry.protocol == PROTOCOL_INDEPENDENT:
        if entry.format:
            raise _wrong(at + 11)
        if entry.designation_length:
            raise _wrong(at + 14)
        return Alias(entry.value, ""), end
    if entry.protocol != PROTOCOL_ISCSI:
        raise _wrong(at + 8)
    if entry.format not in _TAILS:
        raise _wrong(at + 11)
    if entry.designation_length % 4:
        raise _wrong(at + 14)
    return _parse_designation(entry.value, entry.format, data[start:end], start), end


_TAILS = {
    AliasFormat.NAME: 0,
    AliasFormat.NAME_IPV4: 12,
    AliasFormat.NAME_HOST: 8,
    AliasFormat.NAME_IPV6: 24,
}
"""Bytes after the text."""


def _parse_designation(value: int, kind: int, data: bytes, offset: int) -> Alias:
    tail_at = len(data) - _TAILS[AliasFormat(kind)]
    if tail_at < 4:
        raise _wrong(offset - 2)
    texts, tail = data[:tail_at], data[tail_at:]
    name, host, rest = _split_texts(texts, kind, offset)
    if rest.strip(b"\0") or len(rest) > 3:
        # What follows the terminating NUL is padding, less than one word of it.
        raise _wrong(offset)
    if not tail:
        return Alias(value, name)
    if int.from_bytes(tail[-2:], "big") != 6:
        raise _wrong(offset + len(data) - 2)
    if kind != AliasFormat.NAME_HOST:
        host = str(ipaddress.ip_address(tail[:-8]))
    return Alias(value, name, host, int.from_bytes(tail[-6:-4], "big"))


def _split_texts(texts: bytes, kind: int, offset: int) -> tuple[str, str, bytes]:
    """iSCSI name, host name ("" where the format has none), and the padding."""
    name, nul, rest = texts.partition(b"\0")
    if not nul or not 0 < len(name) <= _MAX_NAME:
        raise _wrong(offset)
    host = b""
    if kind == AliasFormat.NAME_HOST:
        host, nul, rest = rest.partition(b"\0")
        if not nul or not _HOST_NAME.fullmatch(host.decode("latin-1")):
            raise _wrong(offset + len(name) + 1)
    try:
        return name.decode(), host.decode("latin-1"), rest
    except UnicodeDecodeError:
        raise _wrong(offset) from None
