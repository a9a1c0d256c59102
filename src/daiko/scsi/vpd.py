"""Vital product data pages and designators (SPC-4, 7.8; SBC-4, 6.6).

Each page is a value with `pack` (the whole page as a target answers it) and `parse` (as an
initiator reads it). `parse` raises MalformedData when the page code is another one or the answer
is cut short; a page of an older, shorter form reads as zeros in what it lacks. Page 8Fh has a
module of its own, `third_party_page.py`; 85h, 87h and 88h are in `target_page.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, TypeVar

from daiko.scsi.layout import Buffer, Layout, MalformedData, bit, bits, constant, number, span


class PageCode(IntEnum):
    """VPD page codes."""

    SUPPORTED_VPD_PAGES = 0x00
    UNIT_SERIAL_NUMBER = 0x80
    DEVICE_IDENTIFICATION = 0x83
    MANAGEMENT_NETWORK_ADDRESSES = 0x85
    EXTENDED_INQUIRY_DATA = 0x86
    MODE_PAGE_POLICY = 0x87
    SCSI_PORTS = 0x88
    THIRD_PARTY_COPY = 0x8F
    BLOCK_LIMITS = 0xB0
    BLOCK_DEVICE_CHARACTERISTICS = 0xB1
    LOGICAL_BLOCK_PROVISIONING = 0xB2


# --- frame ---------------------------------------------------------------------------------------


def page_length(data: Buffer) -> int:
    """Bytes of the whole page, from its header: what to ask for when an answer was cut short."""
    if len(data) < 4:
        raise MalformedData(f"VPD page of {len(data)} bytes")
    return 4 + int.from_bytes(data[2:4], "big")


def pack_page(code: int, body: bytes, *, peripheral: int = 0) -> bytes:
    """A page from its body. `peripheral` is byte 0: qualifier and device type."""
    return bytes((peripheral, code)) + len(body).to_bytes(2, "big") + body


def page_body(code: int, data: Buffer) -> bytes:
    """The body of a page that must have this code."""
    length = page_length(data)
    if data[1] != code:
        raise MalformedData(f"VPD page {data[1]:02X}h where {code:02X}h was asked for")
    if len(data) < length:
        raise MalformedData(f"VPD page {code:02X}h: {length} bytes, {len(data)} present")
    return bytes(data[4:length])


# --- designators ---------------------------------------------------------------------------------


class CodeSet(IntEnum):
    BINARY = 1
    ASCII = 2
    UTF_8 = 3


class Association(IntEnum):
    """What a designator belongs to."""

    LOGICAL_UNIT = 0
    TARGET_PORT = 1
    TARGET_DEVICE = 2


class DesignatorType(IntEnum):
    VENDOR_SPECIFIC = 0x0
    T10_VENDOR_ID = 0x1
    EUI_64 = 0x2
    NAA = 0x3
    RELATIVE_TARGET_PORT = 0x4
    TARGET_PORT_GROUP = 0x5
    LOGICAL_UNIT_GROUP = 0x6
    MD5_LOGICAL_UNIT = 0x7
    SCSI_NAME_STRING = 0x8
    PROTOCOL_SPECIFIC_PORT = 0x9
    UUID = 0xA


PROTOCOL_ISCSI = 0x5
"""PROTOCOL IDENTIFIER (SPC-4, 7.6.1)."""


@dataclass(frozen=True, slots=True)
class Designator:
    """One designation descriptor of page 83h (SPC-4, 7.8.6)."""

    code_set: int
    association: int
    type: int
    data: bytes
    protocol: int = 0
    """PROTOCOL IDENTIFIER; means something only with `piv`."""
    piv: bool = False

    @classmethod
    def naa(cls, identifier: bytes) -> Designator:
        """An NAA name of the logical unit: 8 bytes, or 16 where the first nibble is 6."""
        if len(identifier) != (16 if identifier[:1] and identifier[0] >> 4 == 6 else 8):
            raise ValueError(f"{identifier.hex()} is no NAA identifier")
        return cls(CodeSet.BINARY, Association.LOGICAL_UNIT, DesignatorType.NAA, identifier)

    @classmethod
    def eui_64(cls, identifier: bytes) -> Designator:
        """An EUI-64 name of the logical unit: 8, 12 or 16 bytes."""
        if len(identifier) not in (8, 12, 16):
            raise ValueError(f"an EUI-64 designator of {len(identifier)} bytes")
        return cls(CodeSet.BINARY, Association.LOGICAL_UNIT, DesignatorType.EUI_64, identifier)

    @classmethod
    def t10_vendor_id(cls, vendor: str, specific: str) -> Designator:
        """The T10 vendor identification (at most 8 characters) and what the vendor adds."""
        text = vendor.encode("ascii").ljust(8) + specific.encode("ascii")
        if len(vendor) > 8:
            raise ValueError(f"vendor identification {vendor!r} has more than 8 characters")
        return cls(CodeSet.ASCII, Association.LOGICAL_UNIT, DesignatorType.T10_VENDOR_ID, text)

    @classmethod
    def relative_target_port(cls, port: int) -> Designator:
        return cls(
            CodeSet.BINARY,
            Association.TARGET_PORT,
            DesignatorType.RELATIVE_TARGET_PORT,
            port.to_bytes(4, "big"),
            PROTOCOL_ISCSI,
            True,
        )

    @classmethod
    def target_port_group(cls, group: int) -> Designator:
        return cls(
            CodeSet.BINARY,
            Association.TARGET_PORT,
            DesignatorType.TARGET_PORT_GROUP,
            group.to_bytes(4, "big"),
            PROTOCOL_ISCSI,
            True,
        )

    @classmethod
    def scsi_name(cls, name: str, association: int = Association.LOGICAL_UNIT) -> Designator:
        """A SCSI name string, NUL-terminated and padded to a multiple of 4."""
        text = name.encode() + b"\0"
        text += bytes(-len(text) % 4)
        of_port = association != Association.LOGICAL_UNIT
        protocol = PROTOCOL_ISCSI if of_port else 0
        kind = DesignatorType.SCSI_NAME_STRING
        return cls(CodeSet.UTF_8, association, kind, text, protocol, of_port)

    @property
    def names_logical_unit(self) -> bool:
        return self.association == Association.LOGICAL_UNIT

    @property
    def is_naa(self) -> bool:
        return self.type == DesignatorType.NAA

    @property
    def text(self) -> str:
        """For people: the NAA or EUI as `naa.…` and `eui.…`, text as it is, else hexadecimal."""
        if self.type == DesignatorType.NAA:
            return f"naa.{self.data.hex()}"
        if self.type == DesignatorType.EUI_64:
            return f"eui.{self.data.hex()}"
        if self.code_set in (CodeSet.ASCII, CodeSet.UTF_8):
            return self.data.rstrip(b"\0 ").decode("utf-8", "replace")
        return self.data.hex()

    def pack(self) -> bytes:
        """The descriptor with its 4-byte header."""
        if len(self.data) > 255 or max(self.code_set, self.protocol, self.type) > 15:
            raise ValueError(f"{self} does not fit a designation descriptor")
        head = (
            self.protocol << 4 | self.code_set,
            (0x80 if self.piv else 0) | (self.association & 3) << 4 | self.type,
            0,
            len(self.data),
        )
        return bytes(head) + self.data


def pack_designators(designators: Sequence[Designator]) -> bytes:
    """Designation descriptors one after the other."""
    return b"".join([designator.pack() for designator in designators])


def parse_designators(data: Buffer) -> tuple[Designator, ...]:
    """All designation descriptors in `data`; raises MalformedData when one runs past the end."""
    data = bytes(data)
    found, at = [], 0
    while at < len(data):
        end = at + 4 + (data[at + 3] if at + 4 <= len(data) else 0)
        if end > len(data):
            raise MalformedData(f"designation descriptor at byte {at} runs past the end")
        first, second = data[at], data[at + 1]
        found.append(
            Designator(
                first & 0x0F,
                second >> 4 & 3,
                second & 0x0F,
                data[at + 4 : end],
                first >> 4,
                bool(second & 0x80),
            )
        )
        at = end
    return tuple(found)


# --- pages that are lists ------------------------------------------------------------------------


def pack_supported_vpd_pages(codes: Sequence[int], *, peripheral: int = 0) -> bytes:
    """Page 00h."""
    return pack_page(PageCode.SUPPORTED_VPD_PAGES, bytes(sorted(codes)), peripheral=peripheral)


def parse_supported_vpd_pages(data: Buffer) -> tuple[int, ...]:
    return tuple(page_body(PageCode.SUPPORTED_VPD_PAGES, data))


def pack_unit_serial_number(serial: str, *, peripheral: int = 0) -> bytes:
    """Page 80h."""
    body = serial.encode("ascii")
    return pack_page(PageCode.UNIT_SERIAL_NUMBER, body, peripheral=peripheral)


def parse_unit_serial_number(data: Buffer) -> str:
    """The serial number without padding; bytes that are not ASCII are shown as U+FFFD."""
    body = page_body(PageCode.UNIT_SERIAL_NUMBER, data)
    return body.strip(b"\0 ").decode("ascii", "replace")


def pack_device_identification(designators: Sequence[Designator], *, peripheral: int = 0) -> bytes:
    """Page 83h."""
    body = pack_designators(designators)
    return pack_page(PageCode.DEVICE_IDENTIFICATION, body, peripheral=peripheral)


def parse_device_identification(data: Buffer) -> tuple[Designator, ...]:
    return parse_designators(page_body(PageCode.DEVICE_IDENTIFICATION, data))


# --- pages with a fixed layout -------------------------------------------------------------------

P = TypeVar("P", bound="_FixedPage")


class _FixedPage:
    """A page whose body is one layout; the value's fields are the layout's, in its order."""

    __slots__ = ()

    CODE: ClassVar[int]
    _LAYOUT: ClassVar[Layout]

    def pack(self, *, peripheral: int = 0) -> bytes:
        """The whole page. Raises ValueError when a value does not fit its field."""
        names = [item.name for item in self._LAYOUT.fields if not item.fixed]
        values: dict[str, Any] = {name: getattr(self, name) for name in names}
        packed = self._LAYOUT.pack(**values)
        return pack_page(self.CODE, packed[4:], peripheral=peripheral)

    @classmethod
    def parse(cls: type[P], data: Buffer) -> P:
        """Read a page; raises MalformedData."""
        body = page_body(cls.CODE, data)
        whole = bytes(4) + body.ljust(cls._LAYOUT.length - 4, b"\0")
        fields = cls._LAYOUT.unpack(whole)
        return cls(*[value for name, value in fields._asdict().items() if name != "page_code"])


_PAGE_CODE = constant("page_code", 1, 0)


@dataclass(frozen=True, slots=True)
class ExtendedInquiry(_FixedPage):
    """Page 86h (SPC-5, 7.7.7), every field."""

    CODE: ClassVar[int] = PageCode.EXTENDED_INQUIRY_DATA
    _LAYOUT: ClassVar[Layout] = Layout(
        "ExtendedInquiryPage",
        64,
        _PAGE_CODE,
        bits("activate_microcode", 4, 7, 6),
        bits("spt", 4, 5, 3),
        bit("grd_chk", 4, 2),
        bit("app_chk", 4, 1),
        bit("ref_chk", 4, 0),
        bit("uask_sup", 5, 5),
        bit("group_sup", 5, 4),
        bit("prior_sup", 5, 3),
        bit("headsup", 5, 2),
        bit("ordsup", 5, 1),
        bit("simpsup", 5, 0),
        bit("wu_sup", 6, 3),
        bit("crd_sup", 6, 2),
        bit("nv_sup", 6, 1),
        bit("v_sup", 6, 0),
        bit("no_pi_chk", 7, 5),
        bit("p_i_i_sup", 7, 4),
        bit("luiclr", 7, 0),
        bit("r_sup", 8, 4),
        bit("rtd_sup", 8, 3),
        bit("hssrelef", 8, 1),
        bit("cbcs", 8, 0),
        bits("multi_nexus_microcode", 9, 3, 0),
        number("extended_self_test_minutes", 10, 2),
        bit("poa_sup", 12, 7),
        bit("hra_sup", 12, 6),
        bit("vsa_sup", 12, 5),
        bit("dms_valid", 12, 4),
        number("maximum_sense_length", 13, 1),
    )

    activate_microcode: int = 0
    spt: int = 0
    """Protection types supported."""
    grd_chk: int = 0
    app_chk: int = 0
    ref_chk: int = 0
    uask_sup: int = 0
    """UNIT ATTENTION comes with sense-key specific data."""
    group_sup: int = 0
    """The grouping function is supported."""
    prior_sup: int = 0
    """Command priority is supported."""
    headsup: int = 0
    """HEAD OF QUEUE is supported."""
    ordsup: int = 0
    simpsup: int = 0
    wu_sup: int = 0
    """WRITE LONG with WR_UNCOR."""
    crd_sup: int = 0
    """WRITE LONG with COR_DIS."""
    nv_sup: int = 0
    """There is a non-volatile cache."""
    v_sup: int = 0
    """There is a volatile cache."""
    no_pi_chk: int = 0
    p_i_i_sup: int = 0
    luiclr: int = 0
    """REPORTED LUNS DATA HAS CHANGED, once reported by one unit, is cleared in all of them."""
    r_sup: int = 0
    """Referrals are supported."""
    rtd_sup: int = 0
    """MODE SELECT with RTD."""
    hssrelef: int = 0
    """No vendor-specific alternatives to a history snapshot."""
    cbcs: int = 0
    """Capability-based command security."""
    multi_nexus_microcode: int = 0
    extended_self_test_minutes: int = 0
    """0 = there is none, or not said."""
    poa_sup: int = 0
    """Downloaded microcode is activated by power on (next: by a hard reset, in another way)."""
    hra_sup: int = 0
    vsa_sup: int = 0
    dms_valid: int = 0
    """The fields about the download of microcode mean something."""
    maximum_sense_length: int = 0
    """Bytes; 0 = not said."""


@dataclass(frozen=True, slots=True)
class BlockLimits(_FixedPage):
    """Page B0h (SBC-4, 6.6.4). Lengths are in blocks; 0 = no limit said, or not supported."""

    CODE: ClassVar[int] = PageCode.BLOCK_LIMITS
    _LAYOUT: ClassVar[Layout] = Layout(
        "BlockLimitsPage",
        64,
        _PAGE_CODE,
        bit("wsnz", 4, 0),
        number("max_compare_and_write", 5, 1),
        number("optimal_granularity", 6, 2),
        number("max_transfer", 8, 4),
        number("optimal_transfer", 12, 4),
        number("max_prefetch", 16, 4),
        number("max_unmap", 20, 4),
        number("max_unmap_descriptors", 24, 4),
        number("unmap_granularity", 28, 4),
        bit("unmap_alignment_valid", 32, 7),
        span("unmap_alignment", 32, 6, 31),
        number("max_write_same", 36, 8),
        number("max_atomic", 44, 4),
        number("atomic_alignment", 48, 4),
        number("atomic_granularity", 52, 4),
        number("max_atomic_with_boundary", 56, 4),
        number("max_atomic_boundary", 60, 4),
    )

    wsnz: int = 0
    """WRITE SAME with a length of zero is refused."""
    max_compare_and_write: int = 0
    optimal_granularity: int = 0
    max_transfer: int = 0
    optimal_transfer: int = 0
    max_prefetch: int = 0
    max_unmap: int = 0
    max_unmap_descriptors: int = 0
    unmap_granularity: int = 0
    unmap_alignment_valid: int = 0
    unmap_alignment: int = 0
    max_write_same: int = 0
    max_atomic: int = 0
    """WRITE ATOMIC without a boundary."""
    atomic_alignment: int = 0
    """The LBA of WRITE ATOMIC must be a multiple; 0 = any."""
    atomic_granularity: int = 0
    """Its length must be a multiple; 0 = any."""
    max_atomic_with_boundary: int = 0
    max_atomic_boundary: int = 0
    """0: ATOMIC BOUNDARY must be 0."""


@dataclass(frozen=True, slots=True)
class BlockDeviceCharacteristics(_FixedPage):
    """Page B1h (SBC-4, 6.6.2)."""

    CODE: ClassVar[int] = PageCode.BLOCK_DEVICE_CHARACTERISTICS
    _LAYOUT: ClassVar[Layout] = Layout(
        "BlockDeviceCharacteristicsPage",
        64,
        _PAGE_CODE,
        number("rotation_rate", 4, 2),
        number("product_type", 6, 1),
        bits("wabereq", 7, 7, 6),
        bits("wacereq", 7, 5, 4),
        bits("form_factor", 7, 3, 0),
        bit("fuab", 8, 1),
        bit("vbuls", 8, 0),
    )

    rotation_rate: int = 0
    """Revolutions a minute; 0 = not said, 1 = not a rotating medium."""
    product_type: int = 0
    wabereq: int = 0
    """Must blocks be written after BLOCK ERASE before they can be read? 0 = not said, 1 = no."""
    wacereq: int = 0
    """The same for CRYPTOGRAPHIC ERASE."""
    form_factor: int = 0
    fuab: int = 0
    vbuls: int = 0


READS_AFTER_ERASE = 1
"""WABEREQ: a block can be read after BLOCK ERASE without having been written."""


class ProvisioningType(IntEnum):
    NOT_SAID = 0
    RESOURCE = 1
    THIN = 2


@dataclass(frozen=True, slots=True)
class LogicalBlockProvisioning(_FixedPage):
    """Page B2h (SBC-4, 6.6.6)."""

    CODE: ClassVar[int] = PageCode.LOGICAL_BLOCK_PROVISIONING
    _LAYOUT: ClassVar[Layout] = Layout(
        "LogicalBlockProvisioningPage",
        8,
        _PAGE_CODE,
        number("threshold_exponent", 4, 1),
        bit("lbpu", 5, 7),
        bit("lbpws", 5, 6),
        bit("lbpws10", 5, 5),
        bits("lbprz", 5, 4, 2),
        bit("anc_sup", 5, 1),
        bit("dp", 5, 0),
        bits("minimum_percentage", 6, 7, 3),
        bits("provisioning_type", 6, 2, 0),
        number("threshold_percentage", 7, 1),
    )

    threshold_exponent: int = 0
    lbpu: int = 0
    """UNMAP is supported."""
    lbpws: int = 0
    """WRITE SAME(16) with the UNMAP bit is supported."""
    lbpws10: int = 0
    lbprz: int = 0
    """Bit 0: unmapped blocks read as zeros."""
    anc_sup: int = 0
    dp: int = 0
    minimum_percentage: int = 0
    provisioning_type: int = ProvisioningType.NOT_SAID
    threshold_percentage: int = 0
