"""CSCD descriptors: how an EXTENDED COPY names a copy source or a copy destination (SPC-4, 6.4.5).

Each form is a value that packs to its descriptor and is parsed from it. A parsed value carries the
bytes it came from, out of sight and out of comparison: `pack` writes its fields over them, so that
reserved bits and whatever else we do not interpret survive `dataclasses.replace` and re-packing.
This is what keeps a second command in the structure of the host command.

The four forms here are those by which an iSCSI device can be named. E4h carries a designator and
no address: whoever executes the copy must know a path already. E5h and EAh carry a portal and a
LUN but no target name; E6h refers to an alias, which carries both (see `alias.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from daiko.scsi.layout import Buffer, Layout, bit, bits, constant, number, octets
from daiko.scsi.opcode import DeviceType
from daiko.scsi.sense import (
    CheckCondition,
    invalid_field_in_parameter_list,
    parameter_list_length_error,
    unsupported_cscd_type,
)
from daiko.scsi.vpd import Association, Designator

CSCD_UNIT = 32
"""CSCD descriptor ids count in units of this many bytes."""

RECEIVING_LOGICAL_UNIT = 0xFFFF
"""CSCD descriptor id of the logical unit that received the command."""
NULL_BLOCK_DEVICE = 0xC000
NULL_STREAM_DEVICE = 0xC001

_MAX_DESIGNATOR = 20

_FRAME = (
    bits("lu_id_type", 1, 7, 6),
    bit("nul", 1, 5),
    bits("device_type", 1, 4, 0),
    number("relative_port", 2, 2),
    bit("pad", 28, 2),
    bit("fixed", 28, 0),
    number("block_length", 29, 3),
)

IdentificationDescriptor = Layout(
    "IdentificationDescriptor",
    32,
    constant("type_code", 0, 0xE4),
    *_FRAME,
    bits("code_set", 4, 3, 0),
    bits("association", 5, 5, 4),
    bits("designator_type", 5, 3, 0),
    number("designator_length", 7, 1),
    octets("designator", 8, 20),
)

Ipv4Descriptor = Layout(
    "Ipv4Descriptor",
    32,
    constant("type_code", 0, 0xE5),
    *_FRAME,
    number("lun", 4, 8),
    octets("address", 12, 4),
    number("port", 22, 2),
    number("protocol", 26, 2),
)

AliasDescriptor = Layout(
    "AliasDescriptor",
    32,
    constant("type_code", 0, 0xE6),
    *_FRAME,
    number("lun", 4, 8),
    number("alias", 12, 8),
)

Ipv6Descriptor = Layout(
    "Ipv6Descriptor",
    64,
    constant("type_code", 0, 0xEA),
    *_FRAME,
    number("lun", 4, 8),
    octets("address", 12, 16),
    constant("extension", 32, 0xFF),
    number("port", 34, 2),
    number("protocol", 36, 2),
)


def descriptor_size(type_code: int) -> int:
    """Bytes of a CSCD descriptor: those with an extension block are twice as long."""
    return 64 if type_code in (0xEA, 0xEB) else 32


class _Cscd:
    """What all forms share."""

    __slots__ = ()

    TYPE: ClassVar[int]
    _LAYOUT: ClassVar[Layout]

    @property
    def size(self) -> int:
        """Bytes of the descriptor."""
        return self._LAYOUT.length

    def _write(self, image: bytes, **values: Any) -> bytes:
        return self._LAYOUT.repack(image or self._LAYOUT.pack(), **values)

    def _frame(self) -> dict[str, Any]:
        names = ("device_type", "relative_port", "block_length", "pad", "fixed", "nul")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class IdentificationCscd(_Cscd):
    """E4h: the logical unit that shows this designator on its page 83h."""

    TYPE: ClassVar[int] = 0xE4
    _LAYOUT: ClassVar[Layout] = IdentificationDescriptor

    designator: Designator
    """At most 20 bytes of designator; protocol and PIV are not transferred."""
    device_type: int = DeviceType.DIRECT_ACCESS
    relative_port: int = 0
    """Relative initiator port of the copy manager to use; 0 = any."""
    block_length: int = 0
    """Bytes; 0 = find it out."""
    pad: bool = False
    fixed: bool = False
    """Sequential access only: blocks of fixed length."""
    nul: bool = False
    image: bytes = field(default=b"", compare=False, repr=False, kw_only=True)

    def pack(self) -> bytes:
        """32 bytes. Raises ValueError when the designator is longer than 20 bytes."""
        designator = self.designator
        if len(designator.data) > _MAX_DESIGNATOR:
            raise ValueError(f"a designator of {len(designator.data)} bytes does not fit E4h")
        return self._write(
            self.image,
            **self._frame(),
            code_set=designator.code_set,
            association=designator.association,
            designator_type=designator.type,
            designator_length=len(designator.data),
            designator=designator.data + self._behind_designator(),
        )

    def _behind_designator(self) -> bytes:
        """What fills the field: as it came while the designator is as it came, else zeros."""
        length = len(self.designator.data)
        if self.image and self.image[7 : 8 + length] == bytes((length,)) + self.designator.data:
            return self.image[8 + length : 8 + _MAX_DESIGNATOR]
        return bytes(_MAX_DESIGNATOR - length)


@dataclass(frozen=True, slots=True)
class Ipv4Cscd(_Cscd):
    """E5h: the logical unit with this LUN at the portal with this IPv4 address."""

    TYPE: ClassVar[int] = 0xE5
    _LAYOUT: ClassVar[Layout] = Ipv4Descriptor

    lun: int
    """The 8-byte LUN field."""
    address: bytes
    """4 bytes."""
    port: int = 3260
    """TCP port; a peer may send 0, which stands for 3260."""
    protocol: int = 6
    device_type: int = DeviceType.DIRECT_ACCESS
    relative_port: int = 0
    block_length: int = 0
    pad: bool = False
    fixed: bool = False
    nul: bool = False
    image: bytes = field(default=b"", compare=False, repr=False, kw_only=True)

    def pack(self) -> bytes:
        """32 bytes."""
        return self._write(
            self.image,
            **self._frame(),
            lun=self.lun,
            address=self.address,
            port=self.port,
            protocol=self.protocol,
        )


@dataclass(frozen=True, slots=True)
class AliasCscd(_Cscd):
    """E6h: the logical unit with this LUN at the device that an alias of the nexus designates."""

    TYPE: ClassVar[int] = 0xE6
    _LAYOUT: ClassVar[Layout] = AliasDescriptor

    lun: int
    alias: int
    """ALIAS VALUE, 64 bits."""
    device_type: int = DeviceType.DIRECT_ACCESS
    relative_port: int = 0
    block_length: int = 0
    pad: bool = False
    fixed: bool = False
    nul: bool = False
    image: bytes = field(default=b"", compare=False, repr=False, kw_only=True)

    def pack(self) -> bytes:
        """32 bytes."""
        return self._write(self.image, **self._frame(), lun=self.lun, alias=self.alias)


@dataclass(frozen=True, slots=True)
class Ipv6Cscd(_Cscd):
    """EAh: the logical unit with this LUN at the portal with this IPv6 address. Takes two ids."""

    TYPE: ClassVar[int] = 0xEA
    _LAYOUT: ClassVar[Layout] = Ipv6Descriptor

    lun: int
    address: bytes
    """16 bytes."""
    port: int = 3260
    protocol: int = 6
    device_type: int = DeviceType.DIRECT_ACCESS
    relative_port: int = 0
    block_length: int = 0
    pad: bool = False
    fixed: bool = False
    nul: bool = False
    image: bytes = field(default=b"", compare=False, repr=False, kw_only=True)

    def pack(self) -> bytes:
        """64 bytes."""
        return self._write(
            self.image,
            **self._frame(),
            lun=self.lun,
            address=self.address,
            port=self.port,
            protocol=self.protocol,
        )


Cscd = IdentificationCscd | Ipv4Cscd | AliasCscd | Ipv6Cscd

KNOWN_TYPES = (0xE4, 0xE5, 0xE6, 0xEA)


# --- reading -------------------------------------------------------------------------------------


def parse_cscd(data: Buffer, offset: int) -> Cscd:
    """The CSCD descriptor at `offset` of a parameter list.

    Raises CheckCondition with a pointer into the parameter list: 26/07 for a type that is not one
    of KNOWN_TYPES, 26/00 for a field, 1A/00 when the list ends inside the descriptor.
    """
    type_code = data[offset]
    parser = _PARSERS.get(type_code)
    if parser is None:
        raise CheckCondition(unsupported_cscd_type(offset))
    if len(data) - offset < descriptor_size(type_code):
        raise CheckCondition(parameter_list_length_error())
    return parser(data, offset)


def _wrong(byte: int, bit_: int | None = None) -> CheckCondition:
    return CheckCondition(invalid_field_in_parameter_list(byte, bit_))


def _read(layout: Layout, data: Buffer, offset: int) -> tuple[Any, dict[str, Any]]:
    """The descriptor's fields, and those that all forms share as arguments for the value."""
    fields = layout.unpack(data, offset)
    # A designator is no LUN: E4h ignores the field (SPC-4, 6.4.5.2).
    if fields.lu_id_type and layout is not IdentificationDescriptor:
        raise _wrong(offset + 1, 7)
    if fields.device_type == DeviceType.SEQUENTIAL_ACCESS and fields.fixed != (
        fields.block_length != 0
    ):
        raise _wrong(offset + 28)
    return fields, {
        "device_type": fields.device_type,
        "relative_port": fields.relative_port,
        "block_length": fields.block_length,
        "pad": bool(fields.pad),
        "fixed": bool(fields.fixed),
        "nul": bool(fields.nul),
        "image": bytes(data[offset : offset + layout.length]),
    }


def _parse_identification(data: Buffer, offset: int) -> Cscd:
    fields, frame = _read(IdentificationDescriptor, data, offset)
    if fields.association != Association.LOGICAL_UNIT:
        raise _wrong(offset + 5, 5)
    if not 0 < fields.designator_length <= _MAX_DESIGNATOR:
        raise _wrong(offset + 7)
    designator = Designator(
        fields.code_set,
        fields.association,
        fields.designator_type,
        fields.designator[: fields.designator_length],
    )
    return IdentificationCscd(designator, **frame)


def _parse_ipv4(data: Buffer, offset: int) -> Cscd:
    fields, frame = _read(Ipv4Descriptor, data, offset)
    if fields.protocol != 6:
        raise _wrong(offset + 26)
    return Ipv4Cscd(fields.lun, fields.address, fields.port, fields.protocol, **frame)


def _parse_alias(data: Buffer, offset: int) -> Cscd:
    fields, frame = _read(AliasDescriptor, data, offset)
    return AliasCscd(fields.lun, fields.alias, **frame)


def _parse_ipv6(data: Buffer, offset: int) -> Cscd:
    fields, frame = _read(Ipv6Descriptor, data, offset)
    if fields.extension != 0xFF:
        raise _wrong(offset + 32)
    if fields.protocol != 6:
        raise _wrong(offset + 36)
    return Ipv6Cscd(fields.lun, fields.address, fields.port, fields.protocol, **frame)


_PARSERS = {
    0xE4: _parse_identification,
    0xE5: _parse_ipv4,
    0xE6: _parse_alias,
    0xEA: _parse_ipv6,
}
