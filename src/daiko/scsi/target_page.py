"""VPD pages that describe what is around a unit: the addresses of the management (85h), who shares
its mode pages (87h), the ports of the target (88h) (SPC-4, 7.8.8, 7.8.9 and 7.8.14). Each is a list
of descriptors; `parse` raises MalformedData where one is cut short."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from daiko.scsi.layout import Buffer, Layout, MalformedData, bit, bits, number
from daiko.scsi.vpd import (
    Designator,
    PageCode,
    pack_designators,
    pack_page,
    page_body,
    parse_designators,
)


class ManagementService(IntEnum):
    """SERVICE TYPE of page 85h."""

    UNSPECIFIED = 0
    STORAGE_CONFIGURATION = 1
    DIAGNOSTICS = 2
    STATUS = 3
    LOGGING = 4
    CODE_DOWNLOAD = 5
    COPY = 6
    ADMINISTRATIVE_CONFIGURATION = 7


_MANAGEMENT_ADDRESS = Layout(
    "NetworkServicesDescriptor",
    4,
    bits("association", 0, 6, 5),
    bits("service", 0, 4, 0),
    number("length", 2, 2),
)


def pack_management_addresses(
    addresses: Sequence[tuple[int, int, str]], *, peripheral: int = 0
) -> bytes:
    """Page 85h (SPC-4, 7.8.8) from (association, service, URL)."""
    body = b""
    for association, service, url in addresses:
        text = url.encode("ascii") + b"\0"
        text += bytes(-len(text) % 4)
        head = _MANAGEMENT_ADDRESS.pack(association=association, service=service, length=len(text))
        body += head + text
    return pack_page(PageCode.MANAGEMENT_NETWORK_ADDRESSES, body, peripheral=peripheral)


def parse_management_addresses(data: Buffer) -> tuple[tuple[int, int, str], ...]:
    """(association, service, URL) of each; raises MalformedData."""
    body = page_body(PageCode.MANAGEMENT_NETWORK_ADDRESSES, data)
    found, at = [], 0
    while at < len(body):
        head = _MANAGEMENT_ADDRESS.unpack(body, at)
        start, at = at + 4, at + 4 + head.length
        if at > len(body):
            raise MalformedData("management network addresses: the last one is cut short")
        url = body[start:at].rstrip(b"\0")
        if not url.isascii():
            raise MalformedData("management network addresses: a URL is not ASCII")
        found.append((head.association, head.service, url.decode("ascii")))
    return tuple(found)


class PagePolicy(IntEnum):
    """MODE PAGE POLICY of page 87h."""

    SHARED = 0
    PER_TARGET_PORT = 1
    PER_NEXUS = 3


_POLICY = Layout(
    "ModePagePolicyDescriptor",
    4,
    bits("code", 0, 5, 0),
    number("subpage", 1, 1),
    bit("mlus", 2, 7),
    bits("policy", 2, 1, 0),
)


def pack_mode_page_policy(
    policies: Sequence[tuple[int, int, int]], *, peripheral: int = 0
) -> bytes:
    """Page 87h (SPC-4, 7.8.9) from (page code, subpage code, policy); no page is one for several
    logical units together (MLUS)."""
    body = b"".join(
        [
            _POLICY.pack(code=code, subpage=subpage, policy=policy)
            for code, subpage, policy in policies
        ]
    )
    return pack_page(PageCode.MODE_PAGE_POLICY, body, peripheral=peripheral)


def parse_mode_page_policy(data: Buffer) -> tuple[tuple[int, int, int], ...]:
    """(page code, subpage code, policy) of each; raises MalformedData."""
    body = page_body(PageCode.MODE_PAGE_POLICY, data)
    fields = [_POLICY.unpack(body, at) for at in range(0, len(body), _POLICY.length)]
    return tuple([(each.code, each.subpage, each.policy) for each in fields])


_PORT = Layout(
    "ScsiPortDescriptor",
    8,
    number("relative_port", 2, 2),
    number("initiator_length", 6, 2),
)


def pack_scsi_ports(
    ports: Sequence[tuple[int, Sequence[Designator]]], *, peripheral: int = 0
) -> bytes:
    """Page 88h (SPC-4, 7.8.14) from (relative port, designators of the target port). None of the
    ports is an initiator port."""
    body = b""
    for port, designators in ports:
        described = pack_designators(designators)
        body += _PORT.pack(relative_port=port) + bytes(2)
        body += len(described).to_bytes(2, "big") + described
    return pack_page(PageCode.SCSI_PORTS, body, peripheral=peripheral)


def parse_scsi_ports(data: Buffer) -> tuple[tuple[int, tuple[Designator, ...]], ...]:
    """(relative port, designators of the target port) of each; raises MalformedData."""
    body = page_body(PageCode.SCSI_PORTS, data)
    found, at = [], 0
    while at < len(body):
        head = _PORT.unpack(body, at)
        start = at + _PORT.length + head.initiator_length + 4
        at = start + int.from_bytes(body[start - 2 : start], "big")
        if at > len(body) or start > len(body):
            raise MalformedData("SCSI ports: the last one is cut short")
        found.append((head.relative_port, parse_designators(body[start:at])))
    return tuple(found)
