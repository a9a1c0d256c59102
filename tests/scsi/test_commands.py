"""CDB layouts of SPC and SBC: each against bytes written by hand from the standard's table."""

from __future__ import annotations

from typing import Any

import pytest

from daiko.scsi import sbc, spc
from daiko.scsi.layout import Layout
from daiko.scsi.opcode import Opcode

LBA = 0x0102030405060708
LENGTH = 0x0A0B0C0D

CDBS: dict[str, tuple[dict[str, Any], str]] = {
    "TestUnitReady": ({}, "00 00 00 00 00 00"),
    "RequestSense": ({"desc": 1, "allocation_length": 252}, "03 01 00 00 fc 00"),
    "Inquiry": ({"evpd": 1, "page_code": 0x83, "allocation_length": 0x1FC}, "12 01 83 01 fc 00"),
    "ModeSelect6": ({"pf": 1, "sp": 1, "parameter_list_length": 24}, "15 11 00 00 18 00"),
    "ModeSelect10": (
        {"pf": 1, "sp": 1, "parameter_list_length": 0x118},
        "55 11 00 00 00 00 00 01 18 00",
    ),
    "ModeSense6": (
        {"dbd": 1, "pc": 2, "page_code": 8, "subpage_code": 1, "allocation_length": 255},
        "1a 08 88 01 ff 00",
    ),
    "ModeSense10": (
        {"llbaa": 1, "dbd": 1, "pc": 3, "page_code": 63, "allocation_length": 0x1FF},
        "5a 18 ff 00 00 00 00 01 ff 00",
    ),
    "ReportLuns": (
        {"select_report": 2, "allocation_length": LENGTH},
        "a0 00 02 00 00 00 0a 0b 0c 0d 00 00",
    ),
    "LogSelect": (
        {"pcr": 1, "sp": 1, "pc": 3, "page_code": 6, "subpage_code": 1, "parameter_list_length": 9},
        "4c 03 c6 01 00 00 00 00 09 00",
    ),
    "LogSense": (
        {
            "sp": 1,
            "pc": 1,
            "page_code": 0x2F,
            "subpage_code": 0xFF,
            "parameter_pointer": 0x102,
            "allocation_length": 0x304,
        },
        "4d 01 6f ff 00 01 02 03 04 00",
    ),
    "SendDiagnostic": (
        {
            "self_test_code": 5,
            "pf": 1,
            "selftest": 1,
            "devoffl": 1,
            "unitoffl": 1,
            "parameter_list_length": 0x102,
        },
        "1d b7 00 01 02 00",
    ),
    "ReceiveDiagnosticResults": (
        {"pcv": 1, "page_code": 0x40, "allocation_length": 0x102},
        "1c 01 40 01 02 00",
    ),
    "WriteBuffer": (
        {"mode": 2, "buffer_id": 3, "buffer_offset": 0x10203, "parameter_list_length": 0x40506},
        "3b 02 03 01 02 03 04 05 06 00",
    ),
    "ReadBuffer10": (
        {"mode": 11, "buffer_id": 3, "buffer_offset": 0x10203, "allocation_length": 0x40506},
        "3c 0b 03 01 02 03 04 05 06 00",
    ),
    "ReadBuffer16": (
        {"mode": 2, "buffer_id": 3, "buffer_offset": LBA, "allocation_length": LENGTH},
        "9b 02 01 02 03 04 05 06 07 08 0a 0b 0c 0d 03 00",
    ),
    "ReportIdentifyingInformation": (
        {"allocation_length": LENGTH, "information_type": 0x7F},
        "a3 05 00 00 00 00 0a 0b 0c 0d fe 00",
    ),
    "SetIdentifyingInformation": (
        {"parameter_list_length": LENGTH, "information_type": 2},
        "a4 06 00 00 00 00 0a 0b 0c 0d 04 00",
    ),
    "ReportTimestamp": ({"allocation_length": LENGTH}, "a3 0f 00 00 00 00 0a 0b 0c 0d 00 00"),
    "SetTimestamp": ({"parameter_list_length": LENGTH}, "a4 0f 00 00 00 00 0a 0b 0c 0d 00 00"),
    "PreventAllowMediumRemoval": ({"prevent": 1}, "1e 00 00 00 01 00"),
    "ReportSupportedOperationCodes": (
        {
            "rctd": 1,
            "reporting_options": 3,
            "requested_opcode": 0x83,
            "requested_service_action": 0x10,
            "allocation_length": LENGTH,
        },
        "a3 0c 83 83 00 10 0a 0b 0c 0d 00 00",
    ),
    "ReportSupportedTaskManagementFunctions": (
        {"repd": 1, "allocation_length": LENGTH},
        "a3 0d 80 00 00 00 0a 0b 0c 0d 00 00",
    ),
    "ReportTargetPortGroups": (
        {"parameter_data_format": 1, "allocation_length": LENGTH},
        "a3 2a 00 00 00 00 0a 0b 0c 0d 00 00",
    ),
    "SetTargetPortGroups": (
        {"parameter_list_length": LENGTH},
        "a4 0a 00 00 00 00 0a 0b 0c 0d 00 00",
    ),
    "ReportAliases": ({"allocation_length": LENGTH}, "a3 0b 00 00 00 00 0a 0b 0c 0d 00 00"),
    "ChangeAliases": ({"parameter_list_length": LENGTH}, "a4 0b 00 00 00 00 0a 0b 0c 0d 00 00"),
    "ExtendedCopyLid1": (
        {"parameter_list_length": 0x6C},
        "83 00 00 00 00 00 00 00 00 00 00 00 00 6c 00 00",
    ),
    "ExtendedCopyLid4": (
        {"parameter_list_length": 0x6C},
        "83 01 00 00 00 00 00 00 00 00 00 00 00 6c 00 00",
    ),
    "PopulateToken": (
        {"list_id": LENGTH, "parameter_list_length": 0x20, "group_number": 1},
        "83 10 00 00 00 00 0a 0b 0c 0d 00 00 00 20 01 00",
    ),
    "WriteUsingToken": (
        {"list_id": LENGTH, "parameter_list_length": 0x228, "group_number": 1},
        "83 11 00 00 00 00 0a 0b 0c 0d 00 00 02 28 01 00",
    ),
    "CopyOperationAbort": ({"list_id": LENGTH}, "83 1c 0a 0b 0c 0d 00 00 00 00 00 00 00 00 00 00"),
    "ReceiveCopyStatusLid1": (
        {"list_id": 0x77, "allocation_length": LENGTH},
        "84 00 77 00 00 00 00 00 00 00 0a 0b 0c 0d 00 00",
    ),
    "ReceiveCopyDataLid1": (
        {"list_id": 0x77, "allocation_length": LENGTH},
        "84 01 77 00 00 00 00 00 00 00 0a 0b 0c 0d 00 00",
    ),
    "ReceiveCopyOperatingParameters": (
        {"allocation_length": 1024},
        "84 03 00 00 00 00 00 00 00 00 00 00 04 00 00 00",
    ),
    "ReceiveCopyFailureDetailsLid1": (
        {"list_id": 0x77, "allocation_length": LENGTH},
        "84 04 77 00 00 00 00 00 00 00 0a 0b 0c 0d 00 00",
    ),
    "ReceiveCopyStatusLid4": (
        {"list_id": LENGTH, "allocation_length": 255},
        "84 05 0a 0b 0c 0d 00 00 00 00 00 00 00 ff 00 00",
    ),
    "ReceiveCopyDataLid4": (
        {"list_id": LENGTH, "allocation_length": 255},
        "84 06 0a 0b 0c 0d 00 00 00 00 00 00 00 ff 00 00",
    ),
    "ReceiveRodTokenInformation": (
        {"list_id": LENGTH, "allocation_length": 550},
        "84 07 0a 0b 0c 0d 00 00 00 00 00 00 02 26 00 00",
    ),
    "ReportAllRodTokens": (
        {"allocation_length": 255},
        "84 08 00 00 00 00 00 00 00 00 00 00 00 ff 00 00",
    ),
    "Read6": ({"lba": 0x1F0203, "transfer_length": 4}, "08 1f 02 03 04 00"),
    "Write6": ({"lba": 0x100203, "transfer_length": 0}, "0a 10 02 03 00 00"),
    "Read10": (
        {"dpo": 1, "lba": 0x01020304, "group_number": 31, "transfer_length": 0x0506},
        "28 10 01 02 03 04 1f 05 06 00",
    ),
    "Write10": (
        {"wrprotect": 1, "fua": 1, "lba": 0x01020304, "transfer_length": 0x0506},
        "2a 28 01 02 03 04 00 05 06 00",
    ),
    "Read12": (
        {"fua": 1, "lba": 0x01020304, "transfer_length": LENGTH, "group_number": 1},
        "a8 08 01 02 03 04 0a 0b 0c 0d 01 00",
    ),
    "Write12": ({"lba": 1, "transfer_length": LENGTH}, "aa 00 00 00 00 01 0a 0b 0c 0d 00 00"),
    "Read16": (
        {"rdprotect": 7, "lba": LBA, "transfer_length": LENGTH, "group_number": 1},
        "88 e0 01 02 03 04 05 06 07 08 0a 0b 0c 0d 01 00",
    ),
    "Write16": (
        {"dpo": 1, "fua": 1, "lba": LBA, "transfer_length": LENGTH},
        "8a 18 01 02 03 04 05 06 07 08 0a 0b 0c 0d 00 00",
    ),
    "WriteAndVerify10": (
        {"bytchk": 1, "lba": 0x01020304, "transfer_length": 0x0506},
        "2e 02 01 02 03 04 00 05 06 00",
    ),
    "WriteAndVerify12": (
        {"bytchk": 1, "lba": 1, "transfer_length": LENGTH},
        "ae 02 00 00 00 01 0a 0b 0c 0d 00 00",
    ),
    "WriteAndVerify16": (
        {"bytchk": 3, "lba": LBA, "transfer_length": LENGTH},
        "8e 06 01 02 03 04 05 06 07 08 0a 0b 0c 0d 00 00",
    ),
    "Verify10": (
        {"vrprotect": 2, "bytchk": 1, "lba": 0x01020304, "transfer_length": 0x0506},
        "2f 42 01 02 03 04 00 05 06 00",
    ),
    "Verify12": (
        {"bytchk": 3, "lba": 1, "transfer_length": LENGTH},
        "af 06 00 00 00 01 0a 0b 0c 0d 00 00",
    ),
    "Verify16": (
        {"dpo": 1, "lba": LBA, "transfer_length": LENGTH},
        "8f 10 01 02 03 04 05 06 07 08 0a 0b 0c 0d 00 00",
    ),
    "Prefetch10": (
        {"immed": 1, "lba": 0x01020304, "transfer_length": 0x0506},
        "34 02 01 02 03 04 00 05 06 00",
    ),
    "Prefetch16": (
        {"lba": LBA, "transfer_length": LENGTH},
        "90 00 01 02 03 04 05 06 07 08 0a 0b 0c 0d 00 00",
    ),
    "SynchronizeCache10": (
        {"immed": 1, "lba": 0x01020304, "transfer_length": 0x0506},
        "35 02 01 02 03 04 00 05 06 00",
    ),
    "SynchronizeCache16": (
        {"immed": 1, "lba": LBA, "transfer_length": LENGTH},
        "91 02 01 02 03 04 05 06 07 08 0a 0b 0c 0d 00 00",
    ),
    "WriteSame10": (
        {"anchor": 1, "unmap": 1, "lba": 0x01020304, "transfer_length": 0x0506},
        "41 18 01 02 03 04 00 05 06 00",
    ),
    "WriteSame16": (
        {"unmap": 1, "ndob": 1, "lba": LBA, "transfer_length": LENGTH},
        "93 09 01 02 03 04 05 06 07 08 0a 0b 0c 0d 00 00",
    ),
    "Orwrite16": (
        {"orprotect": 1, "dpo": 1, "fua": 1, "lba": LBA, "transfer_length": LENGTH},
        "8b 38 01 02 03 04 05 06 07 08 0a 0b 0c 0d 00 00",
    ),
    "ReadDefectData10": (
        {"req_plist": 1, "req_glist": 1, "format": 5, "allocation_length": 0x0102},
        "37 00 1d 00 00 00 00 01 02 00",
    ),
    "ReadDefectData12": (
        {"req_glist": 1, "format": 4, "descriptor_index": 0x01020304, "allocation_length": LENGTH},
        "b7 0c 01 02 03 04 0a 0b 0c 0d 00 00",
    ),
    "WriteAtomic16": (
        {"fua": 1, "lba": LBA, "atomic_boundary": 0x0102, "transfer_length": 0x0304},
        "9c 08 01 02 03 04 05 06 07 08 01 02 03 04 00 00",
    ),
    "SanitizeOverwrite": (
        {"immed": 1, "znr": 1, "ause": 1, "parameter_list_length": 0x0204},
        "48 e1 00 00 00 00 00 02 04 00",
    ),
    "SanitizeBlockErase": ({"ause": 1}, "48 22 00 00 00 00 00 00 00 00"),
    "SanitizeExitFailureMode": ({"immed": 1}, "48 9f 00 00 00 00 00 00 00 00"),
    "FormatUnit": (
        {"fmtpinfo": 2, "longlist": 1, "fmtdata": 1, "defect_list_format": 6, "ffmt": 1},
        "04 b6 00 00 01 00",
    ),
    "CompareAndWrite": (
        {"fua": 1, "lba": LBA, "transfer_length": 9, "group_number": 3},
        "89 08 01 02 03 04 05 06 07 08 00 00 00 09 03 00",
    ),
    "Unmap": (
        {"anchor": 1, "group_number": 2, "parameter_list_length": 0x0118},
        "42 01 00 00 00 00 02 01 18 00",
    ),
    "ReadCapacity10": ({"lba": 0x01020304, "pmi": 1}, "25 00 01 02 03 04 00 00 01 00"),
    "ReadCapacity16": (
        {"lba": LBA, "allocation_length": 32, "pmi": 1},
        "9e 10 01 02 03 04 05 06 07 08 00 00 00 20 01 00",
    ),
    "GetLbaStatus": (
        {"lba": LBA, "allocation_length": 24},
        "9e 12 01 02 03 04 05 06 07 08 00 00 00 18 00 00",
    ),
    "StartStopUnit": (
        {
            "immed": 1,
            "power_condition_modifier": 2,
            "power_condition": 1,
            "no_flush": 1,
            "loej": 1,
            "start": 1,
        },
        "1b 01 00 02 17 00",
    ),
}


def layouts() -> dict[str, Layout]:
    return {
        name: value
        for module in (spc, sbc)
        for name, value in vars(module).items()
        if isinstance(value, Layout)
    }


def test_every_layout_has_a_row() -> None:
    assert set(layouts()) == set(CDBS)


@pytest.mark.parametrize("name", CDBS)
def test_cdb_is_written_and_read_as_by_hand(name: str) -> None:
    layout = layouts()[name]
    values, text = CDBS[name]
    data = bytes.fromhex(text)
    assert layout.name == name
    assert layout.pack(**values) == data
    read = layout.unpack(data.ljust(16, b"\xff"))._asdict()
    assert {key: read[key] for key in values} == values


@pytest.mark.parametrize("name", CDBS)
def test_length_of_the_cdb_is_that_of_its_group(name: str) -> None:
    layout = layouts()[name]
    by_group = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}
    assert layout.length == by_group[layout.pack()[0] >> 5]


@pytest.mark.parametrize("name", CDBS)
def test_mask_begins_with_the_operation_code_and_bars_the_control_byte(name: str) -> None:
    layout = layouts()[name]
    assert layout.mask[0] == layout.pack()[0]
    assert layout.mask[0] in set(Opcode)
    assert layout.mask[-1] == 0
    assert layout.stray_bit(layout.pack()) is None
    assert layout.stray_bit(layout.pack(control=0x04)) == (layout.length - 1, 2)


@pytest.mark.parametrize(
    ("layout", "mask"),
    [
        (sbc.Read10, "28 18 ff ff ff ff 1f ff ff 00"),
        (sbc.Write16, "8a 18 ff ff ff ff ff ff ff ff ff ff ff ff 1f 00"),
        (sbc.GetLbaStatus, "9e 12 ff ff ff ff ff ff ff ff ff ff ff ff 00 00"),
        (sbc.Read6, "08 1f ff ff ff 00"),
        (spc.Inquiry, "12 01 ff ff ff 00"),
        (spc.ReceiveCopyOperatingParameters, "84 03 00 00 00 00 00 00 00 00 ff ff ff ff 00 00"),
    ],
    ids=lambda value: value.name if isinstance(value, Layout) else "",
)
def test_mask_is_the_usage_data_of_the_standard(layout: Layout, mask: str) -> None:
    assert layout.mask == bytes.fromhex(mask)


def test_layouts_of_one_code_differ_in_their_fixed_bits() -> None:
    keys = [bytes(layout.pack()[:2]) for layout in layouts().values()]
    assert len(set(keys)) == len(keys)
