"""Invariant: data that describes a unit is malformed, or packs to what reads the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from daiko.scsi import block_data, report
from daiko.scsi.block_data import Capacity
from daiko.scsi.inquiry import StandardInquiry
from daiko.scsi.layout import MalformedData
from daiko.scsi.mode_page import (
    CachingPage,
    pack_block_descriptor,
    pack_mode_parameters,
    parse_mode_sense,
)
from daiko.scsi.target_port_groups import (
    TargetPortGroup,
    pack_set_target_port_groups,
    pack_target_port_groups,
    parse_set_target_port_groups,
    parse_target_port_groups,
)


def _inquiry(data: bytes) -> None:
    value = StandardInquiry.parse(data)
    if "\ufffd" not in value.vendor + value.product + value.revision:
        assert StandardInquiry.parse(value.pack()) == value


def _capacity(data: bytes) -> None:
    value = Capacity.parse(data)
    assert Capacity.parse(value.pack()) == value


def _luns(data: bytes) -> None:
    fields = report.parse_report_luns(data)
    assert report.parse_report_luns(report.pack_report_luns(fields)) == fields
    for field in fields:
        number = report.lun_number(field)
        assert number is None or 0 <= number < 1 << 14


def _commands(data: bytes) -> None:
    commands = report.parse_all_commands(data)
    assert report.parse_all_commands(report.pack_all_commands(commands)) == commands


def _groups(data: bytes) -> None:
    groups = parse_target_port_groups(data)
    assert parse_target_port_groups(pack_target_port_groups(groups)) == groups
    for extended in (False, True):
        with suppress(MalformedData):
            parse_target_port_groups(data, extended_header=extended)
    with suppress(MalformedData):
        wanted = parse_set_target_port_groups(data)
        assert parse_set_target_port_groups(pack_set_target_port_groups(wanted)) == wanted


def _mode(data: bytes) -> None:
    for ten in (False, True):
        value = parse_mode_sense(data, ten=ten)
        assert value.blocks_and_size is None or len(value.blocks_and_size) == 2
        for page in value.pages:
            assert data[page.offset : page.offset + len(page.data)] == page.data


READERS: tuple[Callable[[bytes], Any], ...] = (
    _inquiry,
    _capacity,
    _luns,
    _commands,
    _groups,
    _mode,
    block_data.parse_capacity_10,
    block_data.parse_lba_status,
    report.parse_one_command,
)


def corpus() -> list[bytes]:
    """The first byte chooses the reader."""
    data = [
        StandardInquiry("DAIKO", "LU", "0001", third_party_copy=True).pack(),
        Capacity(1 << 33, 512, 3, True, True).pack(),
        report.pack_report_luns([report.lun_field(lun) for lun in (0, 1, 300)]),
        report.pack_all_commands(
            [report.SupportedCommand(0x88, None, 16), report.SupportedCommand(0x83, 0, 16)],
        ),
        pack_target_port_groups([TargetPortGroup(1, (1, 2))]),
        pack_mode_parameters(
            [CachingPage.pack(wce=1)],
            ten=False,
            block_descriptor=pack_block_descriptor(100, 512),
        ),
        block_data.pack_capacity_10(2048, 512),
        block_data.pack_lba_status([block_data.LbaStatus(0, 8, 1)]),
        report.pack_one_command(report.Support.STANDARD, bytes(16)),
    ]
    return [bytes((index,)) + entry for index, entry in enumerate(data)]


def check(data: bytes) -> bool:
    if not data:
        return False
    try:
        READERS[data[0] % len(READERS)](data[1:])
    except MalformedData:
        return False
    return True
