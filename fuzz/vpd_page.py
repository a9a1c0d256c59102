"""Invariant: a VPD page is malformed, or what was read from it reads the same again when packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daiko.scsi import target_page, vpd
from daiko.scsi.layout import MalformedData
from daiko.scsi.third_party_page import GeneralOperations, ParameterData, ThirdPartyCopyPage
from daiko.scsi.vpd import Designator
from golden import golden

FIXED = (
    vpd.ExtendedInquiry,
    vpd.BlockLimits,
    vpd.BlockDeviceCharacteristics,
    vpd.LogicalBlockProvisioning,
)
THIRD_PARTY = ThirdPartyCopyPage(
    commands=((0x83, (0x00,)), (0x84, (0x00, 0x03, 0x04)), (0xA4, (0x0B,))),
    general=GeneralOperations(8, 8, 0x10000000, 9),
    parameter_data=ParameterData(4, 16, 1024),
    descriptor_types=(0x02, 0x07, 0xE4, 0xE6),
    cscd_ids=(0xFFFF,),
)
DESIGNATORS = (
    Designator.eui_64(bytes(12)),
    Designator.t10_vendor_id("DAIKO", "unit"),
    Designator.scsi_name("iqn.2026-11.net.daiko:a,t,0x0001", vpd.Association.TARGET_PORT),
)


def corpus() -> list[bytes]:
    return [
        *golden("device_identification_*"),
        vpd.pack_device_identification(DESIGNATORS),
        vpd.pack_supported_vpd_pages([0x00, 0x80, 0x83, 0x8F, 0xB0]),
        vpd.pack_unit_serial_number("0123456789"),
        *[page().pack() for page in FIXED],
        target_page.pack_management_addresses([(2, 1, "https://a.example"), (0, 7, "http://b")]),
        target_page.pack_mode_page_policy([(0x08, 0, 0), (0x0A, 1, 3)]),
        target_page.pack_scsi_ports([(1, DESIGNATORS[2:]), (2, DESIGNATORS)]),
        THIRD_PARTY.pack(),
        THIRD_PARTY.pack(),
    ]


def _fixed(page: Any) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        value = page.parse(data)
        assert page.parse(value.pack()) == value
        return value

    return read


def _device_identification(data: bytes) -> None:
    designators = vpd.parse_device_identification(data)
    packed = vpd.pack_device_identification(designators)
    assert vpd.parse_device_identification(packed) == designators
    assert all(isinstance(designator.text, str) for designator in designators)


def _supported_pages(data: bytes) -> None:
    codes = vpd.parse_supported_vpd_pages(data)
    packed = vpd.pack_supported_vpd_pages(codes)
    assert vpd.parse_supported_vpd_pages(packed) == tuple(sorted(codes))


def _third_party_copy(data: bytes) -> None:
    page = ThirdPartyCopyPage.parse(data)
    again = ThirdPartyCopyPage.parse(page.pack())
    assert (again.commands, again.general) == (page.commands, page.general)
    assert again.parameter_data == page.parameter_data


def _management_addresses(data: bytes) -> None:
    found = target_page.parse_management_addresses(data)
    packed = target_page.pack_management_addresses(found)
    assert target_page.parse_management_addresses(packed) == found


def _mode_page_policy(data: bytes) -> None:
    found = target_page.parse_mode_page_policy(data)
    assert target_page.parse_mode_page_policy(target_page.pack_mode_page_policy(found)) == found


def _scsi_ports(data: bytes) -> None:
    found = target_page.parse_scsi_ports(data)
    assert target_page.parse_scsi_ports(target_page.pack_scsi_ports(found)) == found


READERS: dict[int, Callable[[bytes], Any]] = {
    0x00: _supported_pages,
    0x80: vpd.parse_unit_serial_number,
    0x83: _device_identification,
    0x85: _management_addresses,
    0x87: _mode_page_policy,
    0x88: _scsi_ports,
    0x8F: _third_party_copy,
    **{page.CODE: _fixed(page) for page in FIXED},
}


def check(data: bytes) -> bool:
    reader = READERS.get(data[1]) if len(data) > 1 else None
    try:
        if reader is None:
            vpd.page_length(data)
            return False
        reader(data)
    except MalformedData:
        return False
    return True
