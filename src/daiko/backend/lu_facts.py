"""What a logical unit of a second controller says of itself: read by asking it.

Only what every disk must answer is insisted on (standard INQUIRY, READ CAPACITY). Each VPD page is
asked for only when page 00h lists it, and a unit that refuses one of them simply has not said. A
unit whose medium is being formatted or sanitized does not give its capacity, but says who it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from daiko.backend.refusal import is_of_medium
from daiko.device.block import Buffer
from daiko.device.error import DeviceError, Refused, Unsupported
from daiko.scsi.block_data import Capacity, parse_capacity_10
from daiko.scsi.inquiry import StandardInquiry
from daiko.scsi.layout import MalformedData
from daiko.scsi.mode_page import parse_mode_sense
from daiko.scsi.opcode import DeviceType, PeripheralQualifier
from daiko.scsi.report import lun_number, parse_all_commands, parse_report_luns
from daiko.scsi.sbc import ReadCapacity10, ReadCapacity16
from daiko.scsi.spc import (
    Inquiry,
    ModeSense6,
    ReportLuns,
    ReportSupportedOperationCodes,
    ReportTargetPortGroups,
)
from daiko.scsi.target_port_groups import TargetPortGroup, parse_target_port_groups
from daiko.scsi.third_party_page import ThirdPartyCopyPage
from daiko.scsi.vpd import (
    BlockDeviceCharacteristics,
    BlockLimits,
    Designator,
    DesignatorType,
    LogicalBlockProvisioning,
    PageCode,
    page_length,
    parse_device_identification,
    parse_supported_vpd_pages,
    parse_unit_serial_number,
)

T = TypeVar("T")

_DPOFUA = 0x10
"""DEVICE-SPECIFIC PARAMETER of a disk's mode parameter header (SBC-4, 6.5.1)."""
_ALL_PAGES = 0x3F


class Asks(Protocol):
    """Who sends the questions."""

    async def ask(self, lun: int, cdb: bytes, length: int, *, optional: bool = False) -> Buffer:
        """The answer's data. Raises DeviceError; Unsupported where there is no such command."""
        ...


@dataclass(frozen=True, slots=True)
class LuFacts:
    """A logical unit as it described itself."""

    lun: int
    inquiry: StandardInquiry
    capacity: Capacity | None
    """None: no disk, or one whose medium is at work (`is_at_work`)."""
    serial: str = ""
    designators: tuple[Designator, ...] = ()
    """All of page 83h, in its order."""
    limits: BlockLimits = field(default_factory=BlockLimits)
    characteristics: BlockDeviceCharacteristics = field(default_factory=BlockDeviceCharacteristics)
    provisioning: LogicalBlockProvisioning = field(default_factory=LogicalBlockProvisioning)
    third_party: ThirdPartyCopyPage | None = None
    """Page 8Fh; asked for only where the 3PC bit is 1."""
    write_protected: bool = False
    has_fua: bool = False
    opcodes: frozenset[int] | None = None
    """What REPORT SUPPORTED OPERATION CODES lists; None where the unit does not have it."""
    service_actions: frozenset[tuple[int, int]] = frozenset()
    """What it lists of operation codes that have service actions: (operation code, service
    action)."""
    is_at_work: bool = field(default=False, compare=False)
    """The medium is being formatted or sanitized, or that has failed: capacity and mode parameters
    cannot be asked for. This says nothing of what the unit is."""

    def has_command(self, opcode: int) -> bool:
        """Whether the unit may have a command that one of its pages announces. Some announce
        what they then refuse, so the list of operation codes counts where there is one."""
        return self.opcodes is None or opcode in self.opcodes

    def lists_command(self, opcode: int) -> bool:
        """Whether the unit says in its list of operation codes that it has a command."""
        return self.opcodes is not None and opcode in self.opcodes

    def lists_action(self, opcode: int, service_action: int) -> bool:
        """The same of a service action."""
        return (opcode, service_action) in self.service_actions

    @property
    def is_disk(self) -> bool:
        """Whether it can be a device: connected, of a disk type, with a capacity."""
        return self.capacity is not None

    @property
    def target_port_group(self) -> int | None:
        """The target port group of the port that answered; None where the unit has none, or does
        not tell its state."""
        if not self.inquiry.tpgs:
            return None
        for item in self.designators:
            if item.type == DesignatorType.TARGET_PORT_GROUP:
                return int.from_bytes(item.data[2:4], "big")
        return None

    @property
    def identity(self) -> tuple[Designator, ...]:
        """The designators that name the unit itself."""
        return tuple(item for item in self.designators if item.names_logical_unit)


def as_before(facts: LuFacts, known: LuFacts | None, sizes: Mapping[int, Capacity]) -> LuFacts:
    """With what a unit whose medium is at work does not say taken as it was: as it was `known` to
    be, or of the size that it had by its LUN."""
    if not facts.is_at_work:
        return facts
    if known is not None and known.is_disk and known.identity == facts.identity:
        return replace(known, is_at_work=True)
    return replace(facts, capacity=sizes.get(facts.lun))


async def report_luns(port: Asks) -> tuple[int, ...]:
    """The LUNs that this initiator may see, ascending. Raises DeviceError, MalformedData."""
    length = 4096
    while True:
        cdb = ReportLuns.pack(select_report=0, allocation_length=length)
        data = await port.ask(0, cdb, length)
        needed = 8 + int.from_bytes(data[:4], "big")
        if needed <= length:
            break
        length = min(needed, 8 + 8 * 16384)
        if needed > length:
            raise MalformedData(f"REPORT LUNS announces {needed} bytes")
    numbers = (lun_number(entry) for entry in parse_report_luns(data))
    return tuple(sorted({number for number in numbers if number is not None}))


async def vital_page(port: Asks, lun: int, code: int) -> bytes:
    """A VPD page. Raises DeviceError (Refused, Unsupported where it has no such page)."""
    length = 255
    while True:
        cdb = Inquiry.pack(evpd=1, page_code=code, allocation_length=length)
        data = await port.ask(lun, cdb, length, optional=True)
        needed = page_length(data)
        if needed <= length:
            return bytes(data)
        length = needed


async def target_port_groups(port: Asks, lun: int) -> tuple[TargetPortGroup, ...]:
    """All target port groups of a unit with their states. Raises DeviceError, MalformedData."""
    length = 1024
    cdb = ReportTargetPortGroups.pack(allocation_length=length)
    return parse_target_port_groups(await port.ask(lun, cdb, length))


async def read_facts(port: Asks, lun: int) -> LuFacts:
    """Everything about one logical unit. Raises DeviceError, MalformedData."""
    cdb = Inquiry.pack(allocation_length=96)
    inquiry = StandardInquiry.parse(await port.ask(lun, cdb, 96))
    is_disk = (
        inquiry.qualifier == PeripheralQualifier.CONNECTED
        and inquiry.device_type == DeviceType.DIRECT_ACCESS
    )
    if not is_disk:
        return LuFacts(lun, inquiry, None)
    capacity, is_at_work = await _capacity_or_work(port, lun)
    none: tuple[int, ...] = ()
    pages = await _page(port, lun, PageCode.SUPPORTED_VPD_PAGES, parse_supported_vpd_pages, none)

    async def page(code: int, parse: Callable[[Buffer], T], otherwise: T) -> T:
        return await _page(port, lun, code, parse, otherwise) if code in pages else otherwise

    write_protected, has_fua = await _protection(port, lun)
    return LuFacts(
        lun,
        inquiry,
        capacity,
        await page(PageCode.UNIT_SERIAL_NUMBER, parse_unit_serial_number, ""),
        await page(PageCode.DEVICE_IDENTIFICATION, parse_device_identification, ()),
        await page(PageCode.BLOCK_LIMITS, BlockLimits.parse, BlockLimits()),
        await page(
            PageCode.BLOCK_DEVICE_CHARACTERISTICS,
            BlockDeviceCharacteristics.parse,
            BlockDeviceCharacteristics(),
        ),
        await page(
            PageCode.LOGICAL_BLOCK_PROVISIONING,
            LogicalBlockProvisioning.parse,
            LogicalBlockProvisioning(),
        ),
        await page(PageCode.THIRD_PARTY_COPY, _third_party, None)
        if inquiry.third_party_copy
        else None,
        write_protected,
        has_fua,
        *await _commands(port, lun),
        is_at_work,
    )


async def _capacity_or_work(port: Asks, lun: int) -> tuple[Capacity | None, bool]:
    try:
        return await read_capacity(port, lun), False
    except DeviceError as error:
        if not is_of_medium(error):
            raise
        return None, True


def _third_party(data: Buffer) -> ThirdPartyCopyPage | None:
    return ThirdPartyCopyPage.parse(data)


async def _page(port: Asks, lun: int, code: int, parse: Callable[[Buffer], T], otherwise: T) -> T:
    try:
        return parse(await vital_page(port, lun, code))
    except (Refused, Unsupported, MalformedData):
        return otherwise


async def read_capacity(port: Asks, lun: int) -> Capacity:
    """READ CAPACITY (16), or (10) from a unit that has only that. Raises DeviceError,
    MalformedData."""
    try:
        data = await port.ask(lun, ReadCapacity16.pack(allocation_length=32), 32, optional=True)
        return Capacity.parse(data)
    except Unsupported:
        small = parse_capacity_10(await port.ask(lun, ReadCapacity10.pack(), 8))
        if small is None:
            raise
        return Capacity(*small)


async def _protection(port: Asks, lun: int) -> tuple[bool, bool]:
    """(write protected, takes FUA), from the header of MODE SENSE."""
    cdb = ModeSense6.pack(dbd=1, page_code=_ALL_PAGES, allocation_length=255)
    try:
        said = parse_mode_sense(await port.ask(lun, cdb, 255, optional=True), ten=False)
    except (DeviceError, MalformedData):
        return False, False
    return said.write_protected, bool(said.device_specific & _DPOFUA)


async def _commands(
    port: Asks, lun: int
) -> tuple[frozenset[int] | None, frozenset[tuple[int, int]]]:
    """The operation codes and the service actions that the unit lists."""
    length = 8192
    cdb = ReportSupportedOperationCodes.pack(allocation_length=length)
    try:
        listed = parse_all_commands(await port.ask(lun, cdb, length, optional=True))
    except (Refused, Unsupported, MalformedData):
        return None, frozenset()
    actions = frozenset(
        (command.opcode, command.service_action)
        for command in listed
        if command.service_action is not None
    )
    return frozenset(command.opcode for command in listed) or None, actions
