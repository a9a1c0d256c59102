"""What the descriptors of SITE IN and SITE OUT say: a value for each kind, with `body` to write
it and `of` to read it. The pages that they stand in: `site_parameters.py`.

A value is read from untrusted bytes: `of` raises MalformedData for whatever no honest peer would
say of itself (block sizes, addresses, identities, text), and ignores what stands behind the fields
that it knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Final, NamedTuple, Self

from daiko.scsi.layout import Layout, MalformedData, bit, number, octets
from daiko.scsi.site_parameters import Descriptor, Kind

LONGEST_ENVELOPE: Final = 1 << 20
"""Bytes of the contents of an envelope."""
LARGEST_LUN: Final = 0x3FFF
LARGEST_ADDRESS: Final = 1 << 60
"""Blocks: more than any device has, and small enough that sums of two fit 8 bytes."""
MOST_NAMES: Final = 32
"""Portals, and designators, that one device is told with."""
BLOCK_SIZES: Final = (512, 4096)


# --- text and lists in a body --------------------------------------------------------------------


def counted_text(value: str) -> bytes:
    """One byte of length, and UTF-8."""
    raw = value.encode()
    if len(raw) > 255:
        raise ValueError(f"a text of {len(raw)} bytes, where 255 are allowed")
    return bytes((len(raw),)) + raw


def shortened(text: str) -> str:
    """A text for people, so short that it fits a descriptor, and printable."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return printable.encode()[:255].decode(errors="ignore")


class BodyReader:
    """Goes through the variable part of a body."""

    def __init__(self, what: str, body: bytes, at: int) -> None:
        self._what = what
        self._body = body
        self._at = at

    def octets(self, size: int) -> bytes:
        found = self._body[self._at : self._at + size]
        if len(found) < size:
            raise MalformedData(f"{self._what}: cut short")
        self._at += size
        return found

    def counted(self) -> bytes:
        return self.octets(self.octets(1)[0])

    def text(self) -> str:
        try:
            found = self.counted().decode()
        except UnicodeDecodeError:
            raise MalformedData(f"{self._what}: text that is no UTF-8") from None
        if not found.isprintable():
            raise MalformedData(f"{self._what}: text with control characters")
        return found


def _flag(what: str, value: int, largest: int) -> int:
    if value > largest:
        raise MalformedData(f"{what}: {value}, where {largest} is the largest that there is")
    return value


# --- values ------------------------------------------------------------------------------------

_GREETING = Layout(
    "GreetingBody",
    36,
    octets("identity", 0, 16),
    number("milliseconds", 16, 8),
    number("actions_in", 24, 4),
    number("actions_out", 28, 4),
    number("mode", 32, 1),
)


@dataclass(frozen=True, slots=True)
class Greeting:
    """Who a first controller is (GREET)."""

    kind_code: ClassVar[Kind] = Kind.GREETING
    identity: bytes
    """UUID of the system, 16 bytes; stays the same for as long as its store is there."""
    iqn: str
    """iSCSI name of its target."""
    software: str
    """Version of the program."""
    milliseconds: int
    """Its clock, since the epoch."""
    mode: int
    """1 delegate, 2 direct, 3 local [0034]."""
    actions_in: int
    """Bit n: it has the service action n of SITE IN."""
    actions_out: int
    """The same of SITE OUT."""

    def body(self) -> bytes:
        head = _GREETING.pack(
            identity=self.identity,
            milliseconds=self.milliseconds,
            actions_in=self.actions_in,
            actions_out=self.actions_out,
            mode=self.mode,
        )
        return head + counted_text(self.iqn) + counted_text(self.software)

    @classmethod
    def of(cls, body: bytes) -> Self:
        """Raises MalformedData."""
        head = _GREETING.unpack(body)
        rest = BodyReader("greeting", body, _GREETING.length)
        return cls(
            head.identity, rest.text(), rest.text(), head.milliseconds, head.mode,
            head.actions_in, head.actions_out,
        )  # fmt: skip


_VOLUME = Layout(
    "VolumeBody",
    32,
    number("lun", 0, 2),
    number("block_size", 4, 4),
    number("blocks", 8, 8),
    octets("naa", 16, 16),
)


@dataclass(frozen=True, slots=True)
class OfferedVolume:
    """A volume that is offered to the peer (VOLUMES)."""

    kind_code: ClassVar[Kind] = Kind.VOLUME
    lun: int
    """Under which the peer sees it, from 1 on."""
    name: str
    block_size: int
    """Bytes."""
    blocks: int
    naa: bytes
    """16 bytes, NAA 6."""
    state: str = ""
    """Its role and state in a pair; "" while it is in none."""

    def body(self) -> bytes:
        head = _VOLUME.pack(
            lun=self.lun, block_size=self.block_size, blocks=self.blocks, naa=self.naa
        )
        return head + counted_text(self.name) + counted_text(self.state)

    @classmethod
    def of(cls, body: bytes) -> Self:
        """Raises MalformedData."""
        head = _VOLUME.unpack(body)
        rest = BodyReader("volume", body, _VOLUME.length)
        name, state = rest.text(), rest.text()
        if not 1 <= head.lun <= LARGEST_LUN:
            raise MalformedData(f"volume {name!r} at LUN {head.lun}")
        if head.block_size not in BLOCK_SIZES:
            raise MalformedData(f"volume {name!r} has blocks of {head.block_size} bytes")
        if not 1 <= head.blocks <= LARGEST_ADDRESS:
            raise MalformedData(f"volume {name!r} has {head.blocks} blocks")
        if head.naa[0] >> 4 != 6:
            raise MalformedData(f"volume {name!r} shows the identity {head.naa.hex()}: no NAA 6")
        return cls(head.lun, name, head.block_size, head.blocks, head.naa, state)


_DEVICE = Layout(
    "DeviceBody",
    16,
    number("number", 0, 2),
    bit("third_party_copy", 2, 0),
    number("lun", 4, 2),
    number("portal_group_tag", 6, 2),
    number("block_size", 8, 4),
    number("portals", 12, 1),
    number("designators", 13, 1),
)


@dataclass(frozen=True, slots=True)
class MappedDevice:
    """A device that a volume lies on: what a second controller needs to name it (VOLUME
    MAPPING)."""

    kind_code: ClassVar[Kind] = Kind.DEVICE
    number: int
    """By which extents name it."""
    name: str
    """BACKEND/LUN, as the peer calls it."""
    iqn: str
    """iSCSI name of its target; "" for an own disk of the peer, which nobody else reaches."""
    lun: int
    """There."""
    portal_group_tag: int
    """Through which the peer reaches it now; 0 = it does not say."""
    block_size: int
    """Bytes."""
    portals: tuple[str, ...] = ()
    """HOST:PORT of its target."""
    designators: tuple[bytes, ...] = ()
    """Of page 83h, association LU, with their 4-byte headers; best first."""
    third_party_copy: bool = False
    """The 3PC bit of its standard INQUIRY data."""

    def body(self) -> bytes:
        head = _DEVICE.pack(
            number=self.number,
            third_party_copy=self.third_party_copy,
            lun=self.lun,
            portal_group_tag=self.portal_group_tag,
            block_size=self.block_size,
            portals=len(self.portals),
            designators=len(self.designators),
        )
        texts = [counted_text(text) for text in (self.name, self.iqn, *self.portals)]
        raw = [bytes((len(each),)) + each for each in self.designators]
        return head + b"".join(texts) + b"".join(raw)

    @classmethod
    def of(cls, body: bytes) -> Self:
        """Raises MalformedData."""
        head = _DEVICE.unpack(body)
        rest = BodyReader("device", body, _DEVICE.length)
        name, iqn = rest.text(), rest.text()
        if max(head.portals, head.designators) > MOST_NAMES:
            raise MalformedData(f"device {name!r} has more than {MOST_NAMES} names")
        portals = tuple([rest.text() for _ in range(head.portals)])
        designators = tuple([rest.counted() for _ in range(head.designators)])
        if head.lun > LARGEST_LUN:
            raise MalformedData(f"device {name!r} is LUN {head.lun}")
        if head.block_size not in BLOCK_SIZES:
            raise MalformedData(f"device {name!r} has blocks of {head.block_size} bytes")
        if bool(iqn) != bool(portals):
            raise MalformedData(f"device {name!r}: an iSCSI name and portals belong together")
        if any(len(raw) < 5 or raw[3] != len(raw) - 4 for raw in designators):
            raise MalformedData(f"device {name!r}: a designator that is none")
        return cls(
            head.number, name, iqn, head.lun, head.portal_group_tag, head.block_size, portals,
            designators, bool(head.third_party_copy),
        )  # fmt: skip


_EXTENT = Layout(
    "ExtentBody",
    28,
    number("device", 0, 2),
    number("lba", 4, 8),
    number("blocks", 12, 8),
    number("device_lba", 20, 8),
)


class MappedExtent(NamedTuple):
    """A run of a volume's blocks that lies in one run of a device's (VOLUME MAPPING). In
    blocks."""

    device: int
    """Number of the device, whose descriptor comes before."""
    lba: int
    """First block in the volume."""
    blocks: int
    device_lba: int
    """First block in the device."""

    @property
    def kind_code(self) -> Kind:
        """KIND of its descriptor."""
        return Kind.EXTENT

    def body(self) -> bytes:
        return _EXTENT.pack(
            device=self.device, lba=self.lba, blocks=self.blocks, device_lba=self.device_lba
        )

    @classmethod
    def of(cls, body: bytes) -> Self:
        """Raises MalformedData."""
        found = cls(*_EXTENT.unpack(body))
        largest = max(found.lba, found.blocks, found.device_lba)
        if largest > LARGEST_ADDRESS or not found.blocks:
            raise MalformedData(
                f"an extent of {found.blocks} blocks at block {found.lba}, "
                f"block {found.device_lba} of its device"
            )
        return found


class FunctionCode(IntEnum):
    """FUNCTION of ASK FUNCTION and of a function cell."""

    DIRECT_BACKUP = 1
    VOLUME_COPY = 2


class Answer(IntEnum):
    """Can it?"""

    NOT_KNOWN = 0
    CAN = 1
    CANNOT = 2


class KnownCode(IntEnum):
    """How a cell is known."""

    NOT_KNOWN = 0
    BY_HAND = 1
    PROBED = 2
    LEARNED = 3


_LIMITS = Layout(
    "LimitsBody",
    32,
    number("max_cscds", 0, 4),
    number("max_segments", 4, 4),
    number("max_list_bytes", 8, 4),
    number("max_segment_bytes", 12, 8),
    number("max_segment_blocks", 20, 4),
    number("concurrent", 24, 4),
    bit("no_list_id", 28, 0),
    bit("only_no_list_id", 28, 1),
    bit("aliases", 28, 2),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one EXTENDED COPY may contain, as in `function_table.CopyLimits`."""

    max_cscds: int
    max_segments: int
    max_list_bytes: int
    max_segment_bytes: int
    max_segment_blocks: int
    concurrent: int
    no_list_id: bool
    only_no_list_id: bool
    aliases: bool
    segment_types: tuple[int, ...]
    cscd_types: tuple[int, ...]

    def pack(self) -> bytes:
        """Raises ValueError where something does not fit."""
        head = _LIMITS.pack(**{each.name: getattr(self, each.name) for each in _LIMITS.fields})
        types = (bytes(self.segment_types), bytes(self.cscd_types))
        return head + b"".join(bytes((len(each),)) + each for each in types)

    @classmethod
    def read(cls, rest: BodyReader) -> Self:
        """Raises MalformedData."""
        head = _LIMITS.unpack(rest.octets(_LIMITS.length))
        values: dict[str, Any] = head._asdict()
        for name in ("no_list_id", "only_no_list_id", "aliases"):
            values[name] = bool(values[name])
        return cls(**values, segment_types=tuple(rest.counted()), cscd_types=tuple(rest.counted()))


_CELL = Layout(
    "CellBody",
    12,
    number("function", 0, 1),
    number("answer", 1, 1),
    number("known", 2, 1),
    bit("limits", 3, 0),
    number("at", 4, 8),
)


@dataclass(frozen=True, slots=True)
class PeerCell:
    """A cell of the peer's function table (ASK FUNCTION, FUNCTION TABLE)."""

    kind_code: ClassVar[Kind] = Kind.FUNCTION_CELL
    controller: str
    """The second controller, as the peer calls it."""
    function: int
    """A FunctionCode; others belong to functions that are not known here."""
    answer: Answer
    known: KnownCode
    at: int
    """Seconds since the epoch at which it became known."""
    reason: str
    on: str = ""
    """Vendor, product and revision that it was found on."""
    limits: Limits | None = None

    def body(self) -> bytes:
        head = _CELL.pack(
            function=self.function,
            answer=self.answer,
            known=self.known,
            limits=self.limits is not None,
            at=self.at,
        )
        texts = [counted_text(text) for text in (self.controller, self.reason, self.on)]
        return head + b"".join(texts) + (b"" if self.limits is None else self.limits.pack())

    @classmethod
    def of(cls, body: bytes) -> Self:
        """Raises MalformedData."""
        head = _CELL.unpack(body)
        rest = BodyReader("function cell", body, _CELL.length)
        controller, reason, on = rest.text(), rest.text(), rest.text()
        answer = Answer(_flag("answer of a function cell", head.answer, max(Answer)))
        known = KnownCode(_flag("origin of a function cell", head.known, max(KnownCode)))
        limits = Limits.read(rest) if head.limits else None
        return cls(controller, head.function, answer, known, head.at, reason, on, limits)


@dataclass(frozen=True, slots=True)
class PeerReach:
    """A cell of the peer's reachability column (FUNCTION TABLE)."""

    kind_code: ClassVar[Kind] = Kind.REACH_CELL
    controller: str
    device: str
    """BACKEND/LUN; or BACKEND alone for all of its LUs."""
    answer: Answer
    known: KnownCode
    at: int
    reason: str

    def body(self) -> bytes:
        head = _CELL.pack(answer=self.answer, known=self.known, at=self.at)
        return head + b"".join(
            [counted_text(t) for t in (self.controller, self.device, self.reason)]
        )

    @classmethod
    def of(cls, body: bytes) -> Self:
        """Raises MalformedData."""
        head = _CELL.unpack(body)
        rest = BodyReader("reach cell", body, _CELL.length)
        controller, device, reason = rest.text(), rest.text(), rest.text()
        answer = Answer(_flag("answer of a reach cell", head.answer, max(Answer)))
        known = KnownCode(_flag("origin of a reach cell", head.known, max(KnownCode)))
        return cls(controller, device, answer, known, head.at, reason)


_ENVELOPE = Layout(
    "EnvelopeBody",
    12,
    number("kind", 0, 2),
    number("version", 2, 2),
    number("length", 4, 4),
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """Something that concerns a pair (PAIR). What is in it is for those who pair volumes."""

    kind_code: ClassVar[Kind] = Kind.ENVELOPE
    kind: int
    version: int
    """Of that kind."""
    contents: bytes

    def body(self) -> bytes:
        if len(self.contents) > LONGEST_ENVELOPE:
            raise ValueError(f"an envelope of {len(self.contents)} bytes")
        head = _ENVELOPE.pack(kind=self.kind, version=self.version, length=len(self.contents))
        return head + self.contents

    @classmethod
    def of(cls, body: bytes) -> Self:
        """Raises MalformedData."""
        head = _ENVELOPE.unpack(body)
        if head.length > LONGEST_ENVELOPE:
            raise MalformedData(f"an envelope of {head.length} bytes")
        return cls(
            head.kind,
            head.version,
            BodyReader("envelope", body, _ENVELOPE.length).octets(head.length),
        )


PeerValue = Greeting | OfferedVolume | MappedDevice | MappedExtent | PeerCell | PeerReach | Envelope

_VALUES: Final[dict[int, Any]] = {
    Kind.GREETING: Greeting,
    Kind.VOLUME: OfferedVolume,
    Kind.DEVICE: MappedDevice,
    Kind.EXTENT: MappedExtent,
    Kind.FUNCTION_CELL: PeerCell,
    Kind.REACH_CELL: PeerReach,
    Kind.ENVELOPE: Envelope,
}


def values_of(descriptors: Sequence[Descriptor]) -> list[PeerValue]:
    """What the descriptors say, in their order; kinds of a later minor version are skipped. Raises
    MalformedData."""
    return [
        _VALUES[descriptor.kind].of(descriptor.body)
        for descriptor in descriptors
        if descriptor.kind in _VALUES
    ]
