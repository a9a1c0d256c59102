"""Parameter data of SITE IN and SITE OUT: the header, and descriptors behind it.

Theory of operation. Every answer, and every list that is sent, is a *page* of one long list of
descriptors: the header says how many there are in the whole (TOTAL), which of them are here (FIRST,
COUNT), and of which state of things they are (GENERATION). A reader that meets another generation
on the next page begins anew, so pages of different mappings are never mixed.

**Versions.** The first 12 bytes of the header (magic, length, version) are the same in every
version. Another major version is not read any further (`OtherVersion`). Within a major version a
newer minor one may make the header longer (HEADER LENGTH), append fields to a descriptor (its
LENGTH) and add kinds of descriptors; who does not know them skips them. So both sides work with
what the older one knows, and nobody has to be asked which version to speak.


**Bounds.** Whatever comes from outside is checked here for what can be checked without knowing
anything else: lengths, counts, text, block sizes, addresses. `MalformedData` says what is wrong.
What of it may be believed is for the reader to judge (`backend/site_reading.py`). What descriptors
say is in `site_values.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, Protocol, Self

from daiko.scsi.layout import Buffer, Layout, MalformedData, number, octets

MAGIC: Final = b"DAIK"
MAJOR: Final = 1
MINOR: Final = 2
"""The version of the protocol that this program speaks."""

LONGEST_PAGE: Final = 2 << 20
"""Bytes of a page, header included; nobody sends or takes a longer one."""

_FIRST_BYTES: Final = 12
"""The part of the header that is the same in every version."""

_HEADER = Layout(
    "SiteParameterHeader",
    32,
    octets("magic", 0, 4, default=MAGIC),
    number("length", 4, 4),
    number("major", 8, 1, default=MAJOR),
    number("minor", 9, 1, default=MINOR),
    number("header_length", 10, 1, default=32),
    number("flags", 11, 1),
    number("generation", 12, 8),
    number("total", 20, 4),
    number("first", 24, 4),
    number("count", 28, 2),
    number("service_action", 30, 1),
)
HEADER_LENGTH: Final = _HEADER.length

_DESCRIPTOR = Layout("SiteDescriptor", 8, number("kind", 0, 2), number("length", 4, 4))
DESCRIPTOR_LENGTH: Final = _DESCRIPTOR.length
"""Bytes of a descriptor before its body."""


class OtherVersion(MalformedData):
    """Parameter data of another major version."""

    def __init__(self, major: int, minor: int) -> None:
        super().__init__(f"protocol version {major}.{minor}, where {MAJOR}.{MINOR} is spoken here")
        self.major = major
        self.minor = minor


class Kind(IntEnum):
    """KIND of a descriptor."""

    GREETING = 1
    VOLUME = 2
    DEVICE = 3
    EXTENT = 4
    FUNCTION_CELL = 5
    REACH_CELL = 6
    ENVELOPE = 7


class Descriptor(NamedTuple):
    """A descriptor as it stands in a page."""

    kind: int
    body: bytes


class Value(Protocol):
    """What a descriptor says."""

    @property
    def kind_code(self) -> Kind:
        """KIND of its descriptor."""
        ...

    def body(self) -> bytes:
        """The body of its descriptor. Raises ValueError where something does not fit."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """A page of parameter data."""

    service_action: int
    """Of the command that it belongs to."""
    descriptors: tuple[Descriptor, ...]
    total: int
    """Descriptors of the whole, of which these are a part."""
    first: int = 0
    """Number of the first one here."""
    generation: int = 0
    """Of what the whole describes; 0 where it is never more than a page."""
    version: tuple[int, int] = (MAJOR, MINOR)

    @classmethod
    def of(cls, service_action: int, values: Iterable[Value]) -> Self:
        """A whole that is one page."""
        descriptors = tuple(Descriptor(value.kind_code, value.body()) for value in values)
        return cls(service_action, descriptors, len(descriptors))

    def pack(self) -> bytes:
        """The page as it is sent. Raises ValueError where it does not fit."""
        parts = [
            _DESCRIPTOR.pack(kind=kind, length=len(body)) + body for kind, body in self.descriptors
        ]
        rest = b"".join(parts)
        major, minor = self.version
        header = _HEADER.pack(
            length=HEADER_LENGTH - 8 + len(rest),
            major=major,
            minor=minor,
            generation=self.generation,
            total=self.total,
            first=self.first,
            count=len(self.descriptors),
            service_action=self.service_action,
        )
        return header + rest

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """Read a page. Bytes behind the last descriptor are ignored. Raises OtherVersion, and
        MalformedData for anything else that is not a page."""
        data = bytes(data)
        if len(data) < _FIRST_BYTES or data[:4] != MAGIC:
            raise MalformedData("these are no parameter data of a management unit")
        if data[8] != MAJOR:
            raise OtherVersion(data[8], data[9])
        header = _HEADER.unpack(data)
        end = 8 + header.length
        if end > LONGEST_PAGE:
            raise MalformedData(f"a page of {end} bytes, where {LONGEST_PAGE} are allowed")
        if len(data) < end:
            raise MalformedData(f"a page of {end} bytes, {len(data)} present")
        if not HEADER_LENGTH <= header.header_length <= end:
            raise MalformedData(f"a header of {header.header_length} bytes in a page of {end}")
        if header.first + header.count > header.total:
            raise MalformedData(
                f"descriptors {header.first} to {header.first + header.count} of {header.total}"
            )
        descriptors = tuple(_descriptors(data, header.header_length, end, header.count))
        return cls(
            header.service_action,
            descriptors,
            header.total,
            header.first,
            header.generation,
            (header.major, header.minor),
        )


def _descriptors(data: bytes, at: int, end: int, count: int) -> Iterable[Descriptor]:
    for number_ in range(count):
        begins = at + DESCRIPTOR_LENGTH
        if begins > end:
            raise MalformedData(f"descriptor {number_} of {count} is cut short")
        kind, length = _DESCRIPTOR.unpack(data, at)
        at = begins + length
        if at > end:
            raise MalformedData(f"descriptor {number_} of {count} runs past the end")
        yield Descriptor(kind, data[begins:at])
