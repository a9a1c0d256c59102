"""INQUIRY (SPC-4, 6.6.2 and 7.8): what the unit is, in standard data and in VPD pages.

Every bit says what the unit does. A page that has nothing to say for a unit is not in its list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from daiko.device.block import Level
from daiko.scsi import sense, spc, target_page, vpd
from daiko.scsi.inquiry import StandardInquiry, VersionDescriptor
from daiko.scsi.opcode import DeviceType, PeripheralQualifier, Status
from daiko.scsi.sense import CheckCondition
from daiko.scsi.vpd import Association, Designator, PageCode
from daiko.target import atomic_write, thin_provisioning
from daiko.target.bar import Bar
from daiko.target.commands.handler import serves
from daiko.target.commands.provisioning import (
    MAXIMUM_UNMAP_BLOCKS,
    MAXIMUM_UNMAP_DESCRIPTORS,
    MAXIMUM_WRITE_SAME,
)

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus, Nexus
    from daiko.target.task import Task

GOOD = int(Status.GOOD)

VERSION_DESCRIPTORS = (
    VersionDescriptor.SAM_5,
    VersionDescriptor.SPC_4,
    VersionDescriptor.SBC_3,
    VersionDescriptor.SBC_4,
    VersionDescriptor.ISCSI,
)

_OF_NO_DISK = (VersionDescriptor.SAM_5, VersionDescriptor.SPC_4, VersionDescriptor.ISCSI)

IMPLICIT, IMPLICIT_AND_EXPLICIT = 1, 3
"""TPGS: the administrator changes states of target port groups, and hosts may (SPC-4, 5.16.2)."""


@serves("INQUIRY")
def inquiry(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Standard data, or a page of vital product data."""
    cdb = spc.Inquiry.unpack(task.cdb)
    if cdb.evpd:
        page = PAGES.get(cdb.page_code)
        if page is None or not _has_page(unit, cdb.page_code):
            raise CheckCondition(sense.invalid_field_in_cdb(2))
        data = page(unit, itl.nexus)
    elif cdb.page_code:
        raise CheckCondition(sense.invalid_field_in_cdb(2))
    else:
        data = standard_inquiry(unit)
    if unit.site is not None:
        data = bytes((DeviceType.STORAGE_ARRAY_CONTROLLER,)) + data[1:]
    if itl.bars & Bar.UNAVAILABLE:
        # The peripheral qualifier is 001b where nothing can be done with the unit (5.16.2.5).
        data = bytes((data[0] | PeripheralQualifier.NOT_CONNECTED << 5,)) + data[1:]
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


def _copies(unit: LogicalUnit) -> bool:
    return unit.third_party_copy is not None


def _has_page(unit: LogicalUnit, code: int) -> bool:
    if unit.site is not None:
        return code in _OF_MANAGEMENT_UNIT
    is_there = _CONDITIONAL.get(code)
    return is_there is None or is_there(unit)


def standard_inquiry(unit: LogicalUnit) -> bytes:
    """SPC-4, 6.6.2."""
    if unit.site is not None:
        return StandardInquiry(
            vendor=unit.identity.vendor,
            product=unit.identity.product,
            revision=unit.identity.revision,
            version_descriptors=_OF_NO_DISK,
        ).pack()
    groups = unit.asymmetric_access.groups
    return StandardInquiry(
        vendor=unit.identity.vendor,
        product=unit.identity.product,
        revision=unit.identity.revision,
        third_party_copy=_copies(unit),
        tpgs=IMPLICIT_AND_EXPLICIT if groups.hosts_set_states else IMPLICIT,
        multip=len(groups.ports) > 1,
        version_descriptors=VERSION_DESCRIPTORS,
    ).pack()


def _supported_pages(unit: LogicalUnit, nexus: Nexus) -> bytes:
    return vpd.pack_supported_vpd_pages([code for code in PAGES if _has_page(unit, code)])


def _unit_serial_number(unit: LogicalUnit, nexus: Nexus) -> bytes:
    return vpd.pack_unit_serial_number(unit.identity.serial)


def _device_identification(unit: LogicalUnit, nexus: Nexus) -> bytes:
    group = None
    if unit.site is None:
        group = unit.asymmetric_access.groups.group_of(nexus.portal_group_tag)
    return vpd.pack_device_identification(
        [
            *unit.designators,
            Designator.relative_target_port(nexus.portal_group_tag),
            *([] if group is None else [Designator.target_port_group(group)]),
            _port_name(nexus, nexus.portal_group_tag),
            Designator.scsi_name(nexus.target_name, Association.TARGET_DEVICE),
        ]
    )


def _port_name(nexus: Nexus, port: int) -> Designator:
    """The SCSI name string of a target port: iSCSI name and portal group tag (RFC 7143, 4.4.1)."""
    name = f"{nexus.target_name},t,0x{port:04x}"
    return Designator.scsi_name(name, Association.TARGET_PORT)


def _management_network_addresses(unit: LogicalUnit, nexus: Nexus) -> bytes:
    service = target_page.ManagementService.STORAGE_CONFIGURATION
    return target_page.pack_management_addresses(
        [(Association.TARGET_DEVICE, service, url) for url in unit.management.urls]
    )


def _extended_inquiry(unit: LogicalUnit, nexus: Nexus) -> bytes:
    """What is not named here is not supported: protection information, groups, priorities, WRITE
    LONG, a cache that outlives a loss of power, referrals, microcode."""
    return vpd.ExtendedInquiry(
        headsup=1,
        ordsup=1,
        simpsup=1,
        v_sup=1,
        luiclr=1,
        maximum_sense_length=sense.MAXIMUM_LENGTH,
    ).pack()


def _mode_page_policy(unit: LogicalUnit, nexus: Nexus) -> bytes:
    return target_page.pack_mode_page_policy(
        [(*row.key, target_page.PagePolicy.SHARED) for row in unit.mode_pages]
    )


def _scsi_ports(unit: LogicalUnit, nexus: Nexus) -> bytes:
    ports = unit.asymmetric_access.groups.ports
    return target_page.pack_scsi_ports([(port, [_port_name(nexus, port)]) for port in ports])


def _third_party_copy(unit: LogicalUnit, nexus: Nexus) -> bytes:
    assert unit.third_party_copy is not None
    return unit.third_party_copy.page(unit)


def _block_limits(unit: LogicalUnit, nexus: Nexus) -> bytes:
    device = unit.device.capabilities
    unmaps = device.unmap is not Level.NONE
    return vpd.BlockLimits(
        max_compare_and_write=min(255, unit.maximum_transfer),
        optimal_granularity=min(device.optimal_blocks, 0xFFFF),
        max_transfer=unit.maximum_transfer,
        optimal_transfer=min(unit.maximum_transfer, OPTIMAL_TRANSFER // unit.block_size),
        max_unmap=MAXIMUM_UNMAP_BLOCKS if unmaps else 0,
        max_unmap_descriptors=MAXIMUM_UNMAP_DESCRIPTORS if unmaps else 0,
        unmap_granularity=device.unmap_granularity if unmaps else 0,
        max_write_same=MAXIMUM_WRITE_SAME if device.write_same is not Level.NONE else 0,
        max_atomic=atomic_write.most_blocks(unit),
    ).pack()


OPTIMAL_TRANSFER = 1 << 20
"""Bytes (page B0h): enough that the cost of a command no longer counts."""


NON_ROTATING = 1
"""MEDIUM ROTATION RATE of a device without moving parts (SBC-4, 6.6.2)."""


def _block_device_characteristics(unit: LogicalUnit, nexus: Nexus) -> bytes:
    rotation = 0 if unit.device.capabilities.rotational else NON_ROTATING
    device = unit.device.capabilities
    can_erase = device.can_erase
    return vpd.BlockDeviceCharacteristics(
        rotation_rate=rotation, wabereq=vpd.READS_AFTER_ERASE if can_erase else 0, fuab=0
    ).pack()


def _provisioning_type(unit: LogicalUnit) -> int:
    device = unit.device.capabilities
    if device.unmap is Level.NONE:
        return vpd.ProvisioningType.NOT_SAID
    return vpd.ProvisioningType.RESOURCE if device.keeps_room else vpd.ProvisioningType.THIN


def _logical_block_provisioning(unit: LogicalUnit, nexus: Nexus) -> bytes:
    device = unit.device.capabilities
    unmaps = device.unmap is not Level.NONE
    return vpd.LogicalBlockProvisioning(
        threshold_exponent=thin_provisioning.threshold_exponent(unit) if unmaps else 0,
        lbpu=unmaps,
        lbpws=unmaps and device.write_same is not Level.NONE,
        lbpws10=unmaps and device.write_same is not Level.NONE,
        lbprz=unmaps and device.unmapped_reads_zero,
        provisioning_type=_provisioning_type(unit),
    ).pack()


PAGES = {
    PageCode.SUPPORTED_VPD_PAGES: _supported_pages,
    PageCode.UNIT_SERIAL_NUMBER: _unit_serial_number,
    PageCode.DEVICE_IDENTIFICATION: _device_identification,
    PageCode.MANAGEMENT_NETWORK_ADDRESSES: _management_network_addresses,
    PageCode.EXTENDED_INQUIRY_DATA: _extended_inquiry,
    PageCode.MODE_PAGE_POLICY: _mode_page_policy,
    PageCode.SCSI_PORTS: _scsi_ports,
    PageCode.THIRD_PARTY_COPY: _third_party_copy,
    PageCode.BLOCK_LIMITS: _block_limits,
    PageCode.BLOCK_DEVICE_CHARACTERISTICS: _block_device_characteristics,
    PageCode.LOGICAL_BLOCK_PROVISIONING: _logical_block_provisioning,
}

_OF_MANAGEMENT_UNIT = (
    PageCode.SUPPORTED_VPD_PAGES,
    PageCode.UNIT_SERIAL_NUMBER,
    PageCode.DEVICE_IDENTIFICATION,
)

_CONDITIONAL: dict[int, Callable[[LogicalUnit], bool]] = {
    PageCode.MANAGEMENT_NETWORK_ADDRESSES: lambda unit: bool(unit.management.urls),
    PageCode.THIRD_PARTY_COPY: _copies,
}
"""Pages that a unit has only where there is something to say."""
