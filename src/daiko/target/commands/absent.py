"""What the target answers for a LUN where the host sees no logical unit (SPC-4, 6.6.2).

INQUIRY says that there is nothing, REPORT LUNS says what there is, REQUEST SENSE returns the
reason as its data; every other command ends with LOGICAL UNIT NOT SUPPORTED.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from daiko.command_control import analysis
from daiko.scsi import sense, spc
from daiko.scsi.inquiry import StandardInquiry
from daiko.scsi.opcode import DeviceType, Opcode, PeripheralQualifier, Status
from daiko.scsi.report import lun_field, pack_report_luns
from daiko.scsi.sense import CheckCondition, Sense

if TYPE_CHECKING:
    from daiko.target.task import Task


def answer_for_absent(task: Task, luns: Sequence[int]) -> None:
    """Complete a command whose LUN names nothing. `luns`: what the host does see."""
    row = analysis.analyse(task.cdb)
    answer = _ANSWERS.get(row.opcode) if row is not None else None
    if row is None or answer is None:
        _refuse(task, sense.logical_unit_not_supported())
        return
    stray = row.layout.stray_bit(task.cdb)
    if stray is not None:
        _refuse(task, sense.invalid_field_in_cdb(*stray))
        return
    try:
        data = answer(task.cdb, luns)
    except CheckCondition as refused:
        _refuse(task, refused.sense)
    else:
        task.complete(Status.GOOD, (data,))


def _refuse(task: Task, condition: Sense) -> None:
    task.complete(Status.CHECK_CONDITION, (), condition.fixed())


def _inquiry(cdb: bytes, luns: Sequence[int]) -> bytes:
    fields = spc.Inquiry.unpack(cdb)
    if fields.evpd or fields.page_code:
        raise CheckCondition(sense.invalid_field_in_cdb(2))
    data = StandardInquiry(
        qualifier=PeripheralQualifier.NOT_CAPABLE,
        device_type=DeviceType.UNKNOWN,
        vendor="DAIKO",
    ).pack()
    return data[: fields.allocation_length]


def _request_sense(cdb: bytes, luns: Sequence[int]) -> bytes:
    fields = spc.RequestSense.unpack(cdb)
    condition = sense.logical_unit_not_supported()
    return condition.pack(descriptor_format=bool(fields.desc))[: fields.allocation_length]


ALL_BUT_WELL_KNOWN, WELL_KNOWN, ALL, ADMINISTRATIVE, NOT_SUBSIDIARY = 0x00, 0x01, 0x02, 0x10, 0x11
"""SELECT REPORT of REPORT LUNS (SPC-5, 6.29). 12h, the subsidiary units of the addressed one, is
for an administrative unit only, and there is none here."""
_ORDINARY = (ALL_BUT_WELL_KNOWN, ALL, NOT_SUBSIDIARY)
_SELECTIONS = (*_ORDINARY, WELL_KNOWN, ADMINISTRATIVE)


def pack_luns(cdb: bytes, luns: Sequence[int]) -> bytes:
    """The answer to REPORT LUNS, cut to the allocation length. There are no well-known units."""
    fields = spc.ReportLuns.unpack(cdb)
    if fields.select_report not in _SELECTIONS:
        raise CheckCondition(sense.invalid_field_in_cdb(2))
    if fields.allocation_length < SHORTEST_LUN_LIST:
        raise CheckCondition(sense.invalid_field_in_cdb(6))
    shown = luns if fields.select_report in _ORDINARY else ()
    return pack_report_luns(map(lun_field, shown))[: fields.allocation_length]


SHORTEST_LUN_LIST = 16
"""Bytes that the allocation length of REPORT LUNS must have at least."""

LARGEST_LUN = 0x3FFF
"""What the flat space addressing method can say (SAM-5, 4.7.7.3)."""


def lun_fields(lun: int) -> tuple[int, ...]:
    """Every form in which an initiator may write the LUN."""
    flat = (0x4000 | lun) << 48
    return (lun << 48, flat) if lun < 256 else (flat,)


_ANSWERS = {
    Opcode.INQUIRY: _inquiry,
    Opcode.REQUEST_SENSE: _request_sense,
    Opcode.REPORT_LUNS: pack_luns,
}
