"""Standard INQUIRY data (SPC-4, 6.6.2)."""

from __future__ import annotations

from dataclasses import dataclass

from daiko.scsi.layout import Buffer, Layout, MalformedData, bit, bits, constant, number, octets
from daiko.scsi.opcode import DeviceType, PeripheralQualifier

MIN_LENGTH = 36

_LENGTH = 96

StandardInquiryData = Layout(
    "StandardInquiryData",
    _LENGTH,
    bits("qualifier", 0, 7, 5),
    bits("device_type", 0, 4, 0),
    bit("removable", 1, 7),
    number("version", 2, 1),
    bit("normaca", 3, 5),
    bit("hisup", 3, 4),
    constant("response_data_format", 3, 2, high=3, width=4),
    constant("additional_length", 4, _LENGTH - 5),
    bit("sccs", 5, 7),
    bits("tpgs", 5, 5, 4),
    bit("third_party_copy", 5, 3),
    bit("protect", 5, 0),
    bit("encserv", 6, 6),
    bit("multip", 6, 4),
    bit("cmdque", 7, 1),
    octets("vendor", 8, 8, default=b" " * 8),
    octets("product", 16, 16, default=b" " * 16),
    octets("revision", 32, 4, default=b" " * 4),
    octets("version_descriptors", 58, 16),
)


class VersionDescriptor:
    """Codes of standards (SPC-4, table of 6.6.2), no version claimed."""

    SAM_5 = 0x00A0
    SPC_4 = 0x0460
    SBC_3 = 0x04C0
    SBC_4 = 0x0600
    ISCSI = 0x0960


@dataclass(frozen=True, slots=True)
class StandardInquiry:
    """What a logical unit says of itself."""

    vendor: str = ""
    """At most 8 characters of ASCII."""
    product: str = ""
    """At most 16 characters."""
    revision: str = ""
    """At most 4 characters."""
    qualifier: int = PeripheralQualifier.CONNECTED
    device_type: int = DeviceType.DIRECT_ACCESS
    removable: bool = False
    version: int = 0x06
    """06h = SPC-4."""
    hisup: bool = True
    tpgs: int = 0
    """Bit 0: implicit, bit 1: explicit asymmetric access."""
    third_party_copy: bool = False
    """3PC: the unit takes third-party copy commands."""
    protect: bool = False
    multip: bool = False
    cmdque: bool = True
    version_descriptors: tuple[int, ...] = ()
    """At most 8."""

    def pack(self) -> bytes:
        """96 bytes. Raises ValueError when a text does not fit its field or is not ASCII."""
        codes = b"".join([code.to_bytes(2, "big") for code in self.version_descriptors])
        return StandardInquiryData.pack(
            qualifier=self.qualifier,
            device_type=self.device_type,
            removable=self.removable,
            version=self.version,
            hisup=self.hisup,
            tpgs=self.tpgs,
            third_party_copy=self.third_party_copy,
            protect=self.protect,
            multip=self.multip,
            cmdque=self.cmdque,
            vendor=self.vendor.encode("ascii").ljust(8),
            product=self.product.encode("ascii").ljust(16),
            revision=self.revision.encode("ascii").ljust(4),
            version_descriptors=codes.ljust(16, b"\0"),
        )

    @classmethod
    def parse(cls, data: Buffer) -> StandardInquiry:
        """Read an answer of at least 36 bytes; raises MalformedData for a shorter one. Bytes that
        are not ASCII are shown as U+FFFD."""
        if len(data) < MIN_LENGTH:
            raise MalformedData(f"standard INQUIRY data of {len(data)} bytes")
        present = bytes(data[: min(_LENGTH, 5 + data[4])])
        if len(present) < MIN_LENGTH:
            present = bytes(data[:MIN_LENGTH])
        fields = StandardInquiryData.unpack(present.ljust(_LENGTH, b"\0"))
        codes = fields.version_descriptors
        found = [int.from_bytes(codes[at : at + 2], "big") for at in range(0, 16, 2)]
        return cls(
            vendor=_text(fields.vendor),
            product=_text(fields.product),
            revision=_text(fields.revision),
            qualifier=fields.qualifier,
            device_type=fields.device_type,
            removable=bool(fields.removable),
            version=fields.version,
            hisup=bool(fields.hisup),
            tpgs=fields.tpgs,
            third_party_copy=bool(fields.third_party_copy),
            protect=bool(fields.protect),
            multip=bool(fields.multip),
            cmdque=bool(fields.cmdque),
            version_descriptors=tuple([code for code in found if code]),
        )


def _text(field: bytes) -> str:
    return field.rstrip(b"\0 ").decode("ascii", "replace")
