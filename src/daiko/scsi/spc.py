"""Commands of SPC: layouts of their CDBs (SPC-4, clause 6). Parameter data: `inquiry.py`,
`report.py`, `mode_page.py`, `vpd.py`, `copy_parameters.py`, `copy_results.py`, `alias.py`.

A layout has the operation code's name in camel case; commands told apart by a service action have
the name of the service action.
"""

from __future__ import annotations

from daiko.scsi.layout import Field, Layout, bit, bits, constant, number
from daiko.scsi.opcode import (
    MaintenanceIn,
    MaintenanceOut,
    Opcode,
    ThirdPartyCopyIn,
    ThirdPartyCopyOut,
)


def opcode(value: int) -> Field:
    """Byte 0 of every CDB."""
    return constant("opcode", 0, value)


def service_action(value: int) -> Field:
    """Bits 4:0 of byte 1."""
    return constant("service_action", 1, value, high=4, width=5)


def control(byte: int) -> Field:
    """The CONTROL byte (SAM-5, 5.2): NACA and the vendor specific bits are not supported."""
    return number("control", byte, 1, legal=False)


TestUnitReady = Layout("TestUnitReady", 6, opcode(Opcode.TEST_UNIT_READY), control(5))

RequestSense = Layout(
    "RequestSense",
    6,
    opcode(Opcode.REQUEST_SENSE),
    bit("desc", 1, 0),
    number("allocation_length", 4, 1),
    control(5),
)

Inquiry = Layout(
    "Inquiry",
    6,
    opcode(Opcode.INQUIRY),
    bit("evpd", 1, 0),
    number("page_code", 2, 1),
    number("allocation_length", 3, 2),
    control(5),
)

ModeSelect6 = Layout(
    "ModeSelect6",
    6,
    opcode(Opcode.MODE_SELECT_6),
    bit("pf", 1, 4),
    bit("sp", 1, 0),
    number("parameter_list_length", 4, 1),
    control(5),
)

ModeSelect10 = Layout(
    "ModeSelect10",
    10,
    opcode(Opcode.MODE_SELECT_10),
    bit("pf", 1, 4),
    bit("sp", 1, 0),
    number("parameter_list_length", 7, 2),
    control(9),
)

ModeSense6 = Layout(
    "ModeSense6",
    6,
    opcode(Opcode.MODE_SENSE_6),
    bit("dbd", 1, 3),
    bits("pc", 2, 7, 6),
    bits("page_code", 2, 5, 0),
    number("subpage_code", 3, 1),
    number("allocation_length", 4, 1),
    control(5),
)

ModeSense10 = Layout(
    "ModeSense10",
    10,
    opcode(Opcode.MODE_SENSE_10),
    bit("llbaa", 1, 4),
    bit("dbd", 1, 3),
    bits("pc", 2, 7, 6),
    bits("page_code", 2, 5, 0),
    number("subpage_code", 3, 1),
    number("allocation_length", 7, 2),
    control(9),
)

ReportLuns = Layout(
    "ReportLuns",
    12,
    opcode(Opcode.REPORT_LUNS),
    number("select_report", 2, 1),
    number("allocation_length", 6, 4),
    control(11),
)

PreventAllowMediumRemoval = Layout(
    "PreventAllowMediumRemoval",
    6,
    opcode(Opcode.PREVENT_ALLOW_MEDIUM_REMOVAL),
    bits("prevent", 4, 1, 0),
    control(5),
)

# --- log pages, diagnostics, buffers -------------------------------------------------------------

LogSelect = Layout(
    "LogSelect",
    10,
    opcode(Opcode.LOG_SELECT),
    bit("pcr", 1, 1),
    bit("sp", 1, 0),
    bits("pc", 2, 7, 6),
    bits("page_code", 2, 5, 0),
    number("subpage_code", 3, 1),
    number("parameter_list_length", 7, 2),
    control(9),
)

LogSense = Layout(
    "LogSense",
    10,
    opcode(Opcode.LOG_SENSE),
    bit("ppc", 1, 1, legal=False),
    bit("sp", 1, 0),
    bits("pc", 2, 7, 6),
    bits("page_code", 2, 5, 0),
    number("subpage_code", 3, 1),
    number("parameter_pointer", 5, 2),
    number("allocation_length", 7, 2),
    control(9),
)

SendDiagnostic = Layout(
    "SendDiagnostic",
    6,
    opcode(Opcode.SEND_DIAGNOSTIC),
    bits("self_test_code", 1, 7, 5),
    bit("pf", 1, 4),
    bit("selftest", 1, 2),
    bit("devoffl", 1, 1),
    bit("unitoffl", 1, 0),
    number("parameter_list_length", 3, 2),
    control(5),
)

ReceiveDiagnosticResults = Layout(
    "ReceiveDiagnosticResults",
    6,
    opcode(Opcode.RECEIVE_DIAGNOSTIC_RESULTS),
    bit("pcv", 1, 0),
    number("page_code", 2, 1),
    number("allocation_length", 3, 2),
    control(5),
)

WriteBuffer = Layout(
    "WriteBuffer",
    10,
    opcode(Opcode.WRITE_BUFFER),
    bits("mode_specific", 1, 7, 5, legal=False),
    bits("mode", 1, 4, 0),
    number("buffer_id", 2, 1),
    number("buffer_offset", 3, 3),
    number("parameter_list_length", 6, 3),
    control(9),
)

ReadBuffer10 = Layout(
    "ReadBuffer10",
    10,
    opcode(Opcode.READ_BUFFER_10),
    bits("mode_specific", 1, 7, 5, legal=False),
    bits("mode", 1, 4, 0),
    number("buffer_id", 2, 1),
    number("buffer_offset", 3, 3),
    number("allocation_length", 6, 3),
    control(9),
)

ReadBuffer16 = Layout(
    "ReadBuffer16",
    16,
    opcode(Opcode.READ_BUFFER_16),
    bits("mode_specific", 1, 7, 5, legal=False),
    bits("mode", 1, 4, 0),
    number("buffer_offset", 2, 8),
    number("allocation_length", 10, 4),
    number("buffer_id", 14, 1),
    control(15),
)

# --- MAINTENANCE IN and OUT ----------------------------------------------------------------------

ReportSupportedOperationCodes = Layout(
    "ReportSupportedOperationCodes",
    12,
    opcode(Opcode.MAINTENANCE_IN),
    service_action(MaintenanceIn.REPORT_SUPPORTED_OPERATION_CODES),
    bit("rctd", 2, 7),
    bits("reporting_options", 2, 2, 0),
    number("requested_opcode", 3, 1),
    number("requested_service_action", 4, 2),
    number("allocation_length", 6, 4),
    control(11),
)

ReportSupportedTaskManagementFunctions = Layout(
    "ReportSupportedTaskManagementFunctions",
    12,
    opcode(Opcode.MAINTENANCE_IN),
    service_action(MaintenanceIn.REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS),
    bit("repd", 2, 7),
    number("allocation_length", 6, 4),
    control(11),
)

ReportTargetPortGroups = Layout(
    "ReportTargetPortGroups",
    12,
    opcode(Opcode.MAINTENANCE_IN),
    bits("parameter_data_format", 1, 7, 5),
    service_action(MaintenanceIn.REPORT_TARGET_PORT_GROUPS),
    number("allocation_length", 6, 4),
    control(11),
)

SetTargetPortGroups = Layout(
    "SetTargetPortGroups",
    12,
    opcode(Opcode.MAINTENANCE_OUT),
    service_action(MaintenanceOut.SET_TARGET_PORT_GROUPS),
    number("parameter_list_length", 6, 4),
    control(11),
)

ReportIdentifyingInformation = Layout(
    "ReportIdentifyingInformation",
    12,
    opcode(Opcode.MAINTENANCE_IN),
    service_action(MaintenanceIn.REPORT_IDENTIFYING_INFORMATION),
    number("allocation_length", 6, 4),
    bits("information_type", 10, 7, 1),
    control(11),
)

SetIdentifyingInformation = Layout(
    "SetIdentifyingInformation",
    12,
    opcode(Opcode.MAINTENANCE_OUT),
    service_action(MaintenanceOut.SET_IDENTIFYING_INFORMATION),
    number("parameter_list_length", 6, 4),
    bits("information_type", 10, 7, 1),
    control(11),
)

ReportTimestamp = Layout(
    "ReportTimestamp",
    12,
    opcode(Opcode.MAINTENANCE_IN),
    service_action(MaintenanceIn.REPORT_TIMESTAMP),
    number("allocation_length", 6, 4),
    control(11),
)

SetTimestamp = Layout(
    "SetTimestamp",
    12,
    opcode(Opcode.MAINTENANCE_OUT),
    service_action(MaintenanceOut.SET_TIMESTAMP),
    number("parameter_list_length", 6, 4),
    control(11),
)

ReportAliases = Layout(
    "ReportAliases",
    12,
    opcode(Opcode.MAINTENANCE_IN),
    service_action(MaintenanceIn.REPORT_ALIASES),
    number("allocation_length", 6, 4),
    control(11),
)

ChangeAliases = Layout(
    "ChangeAliases",
    12,
    opcode(Opcode.MAINTENANCE_OUT),
    service_action(MaintenanceOut.CHANGE_ALIASES),
    number("parameter_list_length", 6, 4),
    control(11),
)

# --- third-party copy ----------------------------------------------------------------------------


def _copy_out(name: str, action: ThirdPartyCopyOut, *fields: Field) -> Layout:
    return Layout(
        name, 16, opcode(Opcode.EXTENDED_COPY), service_action(action), *fields, control(15)
    )


def _copy_in(name: str, action: ThirdPartyCopyIn, *fields: Field) -> Layout:
    allocation = number("allocation_length", 10, 4)
    return Layout(
        name,
        16,
        opcode(Opcode.RECEIVE_COPY_RESULTS),
        service_action(action),
        *fields,
        allocation,
        control(15),
    )


_LIST_LENGTH = number("parameter_list_length", 10, 4)
_LID1 = number("list_id", 2, 1)
_LID4 = number("list_id", 2, 4)
_TOKEN_LIST_ID = number("list_id", 6, 4)
_GROUP = bits("group_number", 14, 4, 0)

ExtendedCopyLid1 = _copy_out("ExtendedCopyLid1", ThirdPartyCopyOut.EXTENDED_COPY_LID1, _LIST_LENGTH)
ExtendedCopyLid4 = _copy_out("ExtendedCopyLid4", ThirdPartyCopyOut.EXTENDED_COPY_LID4, _LIST_LENGTH)
PopulateToken = _copy_out(
    "PopulateToken", ThirdPartyCopyOut.POPULATE_TOKEN, _TOKEN_LIST_ID, _LIST_LENGTH, _GROUP
)
WriteUsingToken = _copy_out(
    "WriteUsingToken", ThirdPartyCopyOut.WRITE_USING_TOKEN, _TOKEN_LIST_ID, _LIST_LENGTH, _GROUP
)
CopyOperationAbort = _copy_out("CopyOperationAbort", ThirdPartyCopyOut.COPY_OPERATION_ABORT, _LID4)

ReceiveCopyStatusLid1 = _copy_in(
    "ReceiveCopyStatusLid1", ThirdPartyCopyIn.RECEIVE_COPY_STATUS_LID1, _LID1
)
ReceiveCopyDataLid1 = _copy_in(
    "ReceiveCopyDataLid1", ThirdPartyCopyIn.RECEIVE_COPY_DATA_LID1, _LID1
)
ReceiveCopyOperatingParameters = _copy_in(
    "ReceiveCopyOperatingParameters", ThirdPartyCopyIn.RECEIVE_COPY_OPERATING_PARAMETERS
)
ReceiveCopyFailureDetailsLid1 = _copy_in(
    "ReceiveCopyFailureDetailsLid1", ThirdPartyCopyIn.RECEIVE_COPY_FAILURE_DETAILS_LID1, _LID1
)
ReceiveCopyStatusLid4 = _copy_in(
    "ReceiveCopyStatusLid4", ThirdPartyCopyIn.RECEIVE_COPY_STATUS_LID4, _LID4
)
ReceiveCopyDataLid4 = _copy_in(
    "ReceiveCopyDataLid4", ThirdPartyCopyIn.RECEIVE_COPY_DATA_LID4, _LID4
)
ReceiveRodTokenInformation = _copy_in(
    "ReceiveRodTokenInformation", ThirdPartyCopyIn.RECEIVE_ROD_TOKEN_INFORMATION, _LID4
)
ReportAllRodTokens = _copy_in("ReportAllRodTokens", ThirdPartyCopyIn.REPORT_ALL_ROD_TOKENS)
