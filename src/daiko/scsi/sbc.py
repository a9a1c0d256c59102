"""Commands of SBC: layouts of their CDBs (SBC-4, clause 5). Parameter data: `block_data.py`.

Protection information is not supported, so RDPROTECT, WRPROTECT and VRPROTECT are known fields
that are legal only as 0.
"""

from __future__ import annotations

from daiko.scsi.layout import Field, Layout, bit, bits, number, span
from daiko.scsi.opcode import Opcode, Sanitize, ServiceActionIn16
from daiko.scsi.spc import control, opcode, service_action


def _protect(name: str) -> Field:
    return bits(name, 1, 7, 5, legal=False)


_DPO = bit("dpo", 1, 4)
_FUA = bit("fua", 1, 3)
_BYTCHK = bits("bytchk", 1, 2, 1)


def _range_10(name: str, code: int, *fields: Field) -> Layout:
    return Layout(
        name,
        10,
        opcode(code),
        *fields,
        number("lba", 2, 4),
        bits("group_number", 6, 4, 0),
        number("transfer_length", 7, 2),
        control(9),
    )


def _range_12(name: str, code: int, *fields: Field) -> Layout:
    return Layout(
        name,
        12,
        opcode(code),
        *fields,
        number("lba", 2, 4),
        number("transfer_length", 6, 4),
        bits("group_number", 10, 4, 0),
        control(11),
    )


def _range_16(name: str, code: int, *fields: Field) -> Layout:
    return Layout(
        name,
        16,
        opcode(code),
        *fields,
        number("lba", 2, 8),
        number("transfer_length", 10, 4),
        bits("group_number", 14, 4, 0),
        control(15),
    )


def _range_6(name: str, code: int) -> Layout:
    return Layout(
        name, 6, opcode(code), span("lba", 1, 4, 21), number("transfer_length", 4, 1), control(5)
    )


# `transfer_length` is in blocks everywhere; 0 in the 6-byte commands means 256.
_READ = (_protect("rdprotect"), _DPO, _FUA)
_WRITE = (_protect("wrprotect"), _DPO, _FUA)
_WRITE_AND_VERIFY = (_protect("wrprotect"), _DPO, _BYTCHK)
_VERIFY = (_protect("vrprotect"), _DPO, _BYTCHK)

Read6 = _range_6("Read6", Opcode.READ_6)
Read10 = _range_10("Read10", Opcode.READ_10, *_READ)
Read12 = _range_12("Read12", Opcode.READ_12, *_READ)
Read16 = _range_16("Read16", Opcode.READ_16, *_READ)
Write6 = _range_6("Write6", Opcode.WRITE_6)
Write10 = _range_10("Write10", Opcode.WRITE_10, *_WRITE)
Write12 = _range_12("Write12", Opcode.WRITE_12, *_WRITE)
Write16 = _range_16("Write16", Opcode.WRITE_16, *_WRITE)
WriteAndVerify10 = _range_10("WriteAndVerify10", Opcode.WRITE_AND_VERIFY_10, *_WRITE_AND_VERIFY)
WriteAndVerify12 = _range_12("WriteAndVerify12", Opcode.WRITE_AND_VERIFY_12, *_WRITE_AND_VERIFY)
WriteAndVerify16 = _range_16("WriteAndVerify16", Opcode.WRITE_AND_VERIFY_16, *_WRITE_AND_VERIFY)
Verify10 = _range_10("Verify10", Opcode.VERIFY_10, *_VERIFY)
Verify12 = _range_12("Verify12", Opcode.VERIFY_12, *_VERIFY)
Verify16 = _range_16("Verify16", Opcode.VERIFY_16, *_VERIFY)
Prefetch10 = _range_10("Prefetch10", Opcode.PREFETCH_10, bit("immed", 1, 1))
Prefetch16 = _range_16("Prefetch16", Opcode.PREFETCH_16, bit("immed", 1, 1))
SynchronizeCache10 = _range_10(
    "SynchronizeCache10", Opcode.SYNCHRONIZE_CACHE_10, bit("immed", 1, 1)
)
SynchronizeCache16 = _range_16(
    "SynchronizeCache16", Opcode.SYNCHRONIZE_CACHE_16, bit("immed", 1, 1)
)

WriteSame10 = _range_10(
    "WriteSame10",
    Opcode.WRITE_SAME_10,
    _protect("wrprotect"),
    bit("anchor", 1, 4),
    bit("unmap", 1, 3),
)
WriteSame16 = _range_16(
    "WriteSame16",
    Opcode.WRITE_SAME_16,
    _protect("wrprotect"),
    bit("anchor", 1, 4),
    bit("unmap", 1, 3),
    bit("ndob", 1, 0),
)

Orwrite16 = _range_16("Orwrite16", Opcode.ORWRITE_16, _protect("orprotect"), _DPO, _FUA)

WriteAtomic16 = Layout(
    "WriteAtomic16",
    16,
    opcode(Opcode.WRITE_ATOMIC_16),
    *_WRITE,
    number("lba", 2, 8),
    number("atomic_boundary", 10, 2, legal=False),
    number("transfer_length", 12, 2),
    bits("group_number", 14, 4, 0),
    control(15),
)

CompareAndWrite = Layout(
    "CompareAndWrite",
    16,
    opcode(Opcode.COMPARE_AND_WRITE),
    *_WRITE,
    number("lba", 2, 8),
    number("transfer_length", 13, 1),
    bits("group_number", 14, 4, 0),
    control(15),
)

Unmap = Layout(
    "Unmap",
    10,
    opcode(Opcode.UNMAP),
    bit("anchor", 1, 0),
    bits("group_number", 6, 4, 0),
    number("parameter_list_length", 7, 2),
    control(9),
)

ReadCapacity10 = Layout(
    "ReadCapacity10",
    10,
    opcode(Opcode.READ_CAPACITY_10),
    number("lba", 2, 4),
    bit("pmi", 8, 0),
    control(9),
)

ReadCapacity16 = Layout(
    "ReadCapacity16",
    16,
    opcode(Opcode.SERVICE_ACTION_IN_16),
    service_action(ServiceActionIn16.READ_CAPACITY_16),
    number("lba", 2, 8),
    number("allocation_length", 10, 4),
    bit("pmi", 14, 0),
    control(15),
)

GetLbaStatus = Layout(
    "GetLbaStatus",
    16,
    opcode(Opcode.SERVICE_ACTION_IN_16),
    service_action(ServiceActionIn16.GET_LBA_STATUS),
    number("lba", 2, 8),
    number("allocation_length", 10, 4),
    control(15),
)


def _sanitize(name: str, code: int) -> Layout:
    return Layout(
        name,
        10,
        opcode(Opcode.SANITIZE),
        bit("immed", 1, 7),
        bit("znr", 1, 6, legal=False),
        bit("ause", 1, 5),
        service_action(code),
        number("parameter_list_length", 7, 2),
        control(9),
    )


# The service actions of SANITIZE.
SanitizeOverwrite = _sanitize("SanitizeOverwrite", Sanitize.SANITIZE_OVERWRITE)
SanitizeBlockErase = _sanitize("SanitizeBlockErase", Sanitize.SANITIZE_BLOCK_ERASE)
SanitizeExitFailureMode = _sanitize("SanitizeExitFailureMode", Sanitize.SANITIZE_EXIT_FAILURE_MODE)

FormatUnit = Layout(
    "FormatUnit",
    6,
    opcode(Opcode.FORMAT_UNIT),
    bits("fmtpinfo", 1, 7, 6, legal=False),
    bit("longlist", 1, 5),
    bit("fmtdata", 1, 4),
    bit("cmplst", 1, 3),
    bits("defect_list_format", 1, 2, 0),
    bits("ffmt", 4, 1, 0, legal=False),
    control(5),
)

ReadDefectData10 = Layout(
    "ReadDefectData10",
    10,
    opcode(Opcode.READ_DEFECT_DATA_10),
    bit("req_plist", 2, 4),
    bit("req_glist", 2, 3),
    bits("format", 2, 2, 0),
    number("allocation_length", 7, 2),
    control(9),
)

ReadDefectData12 = Layout(
    "ReadDefectData12",
    12,
    opcode(Opcode.READ_DEFECT_DATA_12),
    bit("req_plist", 1, 4),
    bit("req_glist", 1, 3),
    bits("format", 1, 2, 0),
    number("descriptor_index", 2, 4),
    number("allocation_length", 6, 4),
    control(11),
)

StartStopUnit = Layout(
    "StartStopUnit",
    6,
    opcode(Opcode.START_STOP_UNIT),
    bit("immed", 1, 0),
    bits("power_condition_modifier", 3, 3, 0),
    bits("power_condition", 4, 7, 4),
    bit("no_flush", 4, 2),
    bit("loej", 4, 1),
    bit("start", 4, 0),
    control(5),
)
