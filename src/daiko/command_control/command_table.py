"""The command table TC: one named row for each command and service action [0044].

A command that has no row does not exist. The same row says how the CDB is checked, which field is
the address, what task order, reservations and unit attentions mean for it, whether it asks for a
function that a second controller may carry out, and what REPORT SUPPORTED OPERATION CODES tells a
host. Every column is filled in by hand in every row and has no default: where a row is wrong it
shows, and a new column cannot be forgotten in old rows. `tests/command_control` walks every cell.

The reservation column is that of SPC-4, table 65, SBC-4, table 13, and SPC-2, 5.5.1 ("allowed in
the presence of various reservations"): commands from an I_T nexus that neither holds the
reservation nor is registered where that is enough. RESERVE, RELEASE and PERSISTENT RESERVE OUT
are let through and decide by themselves (SPC-4, 5.13.3 and table 66). The ALUA column is that of
SPC-4, 5.16.2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from daiko.command_control.plan import Function
from daiko.scsi import persistent_reservation, sbc, site, spc
from daiko.scsi.layout import Field, Layout
from daiko.scsi.opcode import (
    MaintenanceIn,
    MaintenanceOut,
    Opcode,
    PersistentReserveIn,
    PersistentReserveOut,
    Sanitize,
    ServiceActionIn16,
    SiteIn,
    SiteOut,
    ThirdPartyCopyIn,
    ThirdPartyCopyOut,
)
from daiko.scsi.report import CommandTimeouts


class CommandSet(Enum):
    """Who defines the command, and which module of `target/commands` serves it."""

    SPC = auto()
    SBC = auto()
    THIRD_PARTY_COPY = auto()
    """SPC-4, 5.17; served only by a logical unit that has a copy manager (3PC bit)."""
    SITE = auto()
    """Vendor specific (docs/protocol.md); served only by a management unit, to another site."""


class Data(Enum):
    """Which way the data goes."""

    NONE = auto()
    IN = auto()
    """To the initiator."""
    OUT = auto()
    """From the initiator."""


class Addresses(Enum):
    """Which blocks of the medium a command speaks of."""

    NOTHING = auto()
    RANGE = auto()
    """LBA and length; 0 is no block; not more than MAXIMUM TRANSFER LENGTH (page B0h)."""
    RANGE_OR_REST = auto()
    """LBA and length; 0 is everything from the LBA on."""
    START = auto()
    """An LBA only."""
    LIST = auto()
    """Ranges in the parameter list."""


class Order(Enum):
    """How task attributes bear on the command (SAM-5, 8)."""

    BY_ATTRIBUTE = auto()
    AT_ONCE = auto()
    """It begins at once whatever is in the task set (SPC-4: INQUIRY, REPORT LUNS and REQUEST
    SENSE answer also while other tasks wait)."""


class Attention(Enum):
    """What a pending unit attention condition does to the command (SAM-5, 5.14)."""

    REPORTED = auto()
    """It is reported by CHECK CONDITION in place of the command, and cleared."""
    PASSED = auto()
    """The command is carried out, the condition stays."""
    RETURNED = auto()
    """The command returns it as its data: REQUEST SENSE."""


class Change(Enum):
    """What the command does to the medium."""

    NOTHING = auto()
    WRITES = auto()
    """Refused by a write-protected unit."""


class Form(Enum):
    """A form of a command that is carried out whatever reservation there is."""

    NONE = auto()
    STARTS_THE_UNIT = auto()
    """START STOP UNIT with START set and POWER CONDITION 0 (SBC-4, table 13)."""
    ALLOWS_REMOVAL = auto()
    """PREVENT ALLOW MEDIUM REMOVAL with PREVENT 0 (SBC-4, table 13)."""


class UnderReservation(NamedTuple):
    """Is the command of an I_T nexus carried out that a reservation excludes?"""

    write_exclusive: bool
    exclusive_access: bool
    reserved: bool
    """By RESERVE(6) or (10) of another I_T nexus (SPC-2, 5.5.1)."""
    harmless: Form = Form.NONE


NEITHER = UnderReservation(write_exclusive=False, exclusive_access=False, reserved=False)
READS = UnderReservation(write_exclusive=True, exclusive_access=False, reserved=False)
NOT_RESERVED = UnderReservation(write_exclusive=True, exclusive_access=True, reserved=False)
ALWAYS = UnderReservation(write_exclusive=True, exclusive_access=True, reserved=True)
STARTS = NEITHER._replace(harmless=Form.STARTS_THE_UNIT)
ALLOWS = NEITHER._replace(harmless=Form.ALLOWS_REMOVAL)


class InState(NamedTuple):
    """Is the command carried out by a target port in this asymmetric access state? In the two
    active states each one is; through a port that is offline none comes."""

    standby: bool
    unavailable: bool
    transitioning: bool


IN_ACTIVE = InState(standby=False, unavailable=False, transitioning=False)
IN_STANDBY = InState(standby=True, unavailable=False, transitioning=False)
IN_SETTLED = InState(standby=True, unavailable=True, transitioning=False)
"""In every state, but not on the way from one to another."""
IN_ANY = InState(standby=True, unavailable=True, transitioning=True)


class OnMedium(NamedTuple):
    """Is the command carried out while the medium cannot be used (SBC-4, 4.11 and 5.4)?"""

    in_progress: bool
    """FORMAT UNIT or SANITIZE is at work on it."""
    format_failed: bool
    """FORMAT UNIT has failed: what the blocks hold is not known, until it succeeds."""
    sanitize_failed: bool
    """SANITIZE has failed: nobody may see what is left on it, until it succeeds."""


USABLE = OnMedium(in_progress=False, format_failed=False, sanitize_failed=False)
UNFORMATTED = OnMedium(in_progress=False, format_failed=True, sanitize_failed=False)
ANYHOW = OnMedium(in_progress=True, format_failed=True, sanitize_failed=True)
AFTER_FAILURE = OnMedium(in_progress=False, format_failed=True, sanitize_failed=True)


IN_MEMORY = CommandTimeouts(nominal=1, recommended=30)
"""Answered by this controller alone."""
SOME_BLOCKS = CommandTimeouts(nominal=5, recommended=60)
"""The storage is asked for not more than the longest transfer."""
STABLE = CommandTimeouts(nominal=30, recommended=180)
"""Written data has to reach stable storage."""
MANY_BLOCKS = CommandTimeouts(nominal=60, recommended=600)
"""One command may concern most of the medium."""
WHOLE_MEDIUM = CommandTimeouts(nominal=3600, recommended=7 * 86400)
"""It goes through all of the medium."""


@dataclass(frozen=True, slots=True)
class CommandRow:
    """A command. All columns are required."""

    name: str
    """As in `Opcode` or in the service action's enumeration."""
    opcode: Opcode
    service_action: int | None
    """None: the opcode has none."""
    layout: Layout
    """Of the CDB; its length is the CDB's, its mask the bits that this product evaluates."""
    command_set: CommandSet
    function: Function | None
    """The function that the command asks for, to be decided on by `decision.py`; None = it is
    answered here."""
    timeouts: CommandTimeouts
    """How long it takes. The storage under the unit may be another controller's, in trouble and
    tried again by another path: an initiator that gives up too early makes it worse."""
    data: Data
    addresses: Addresses
    order: Order
    attention: Attention
    change: Change
    reservation: UnderReservation
    state: InState
    on_medium: OnMedium


SPC, SBC, COPY = CommandSet.SPC, CommandSet.SBC, CommandSet.THIRD_PARTY_COPY
SITE = CommandSet.SITE
NO_DATA, IN, OUT = Data.NONE, Data.IN, Data.OUT
NOTHING, RANGE, RANGE_OR_REST = Addresses.NOTHING, Addresses.RANGE, Addresses.RANGE_OR_REST
START, LIST = Addresses.START, Addresses.LIST
BY_ATTRIBUTE, AT_ONCE = Order.BY_ATTRIBUTE, Order.AT_ONCE
REPORTED, PASSED, RETURNED = Attention.REPORTED, Attention.PASSED, Attention.RETURNED
KEEPS, WRITES = Change.NOTHING, Change.WRITES

# fmt: off
ROWS: tuple[CommandRow, ...] = (
    CommandRow("TEST_UNIT_READY", Opcode.TEST_UNIT_READY, None,
               spc.TestUnitReady, SPC, None, IN_MEMORY,
               NO_DATA, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_ACTIVE, USABLE),
    CommandRow("REQUEST_SENSE", Opcode.REQUEST_SENSE, None,
               spc.RequestSense, SPC, None, IN_MEMORY,
               IN, NOTHING, AT_ONCE, RETURNED, KEEPS, ALWAYS, IN_ANY, ANYHOW),
    CommandRow("INQUIRY", Opcode.INQUIRY, None,
               spc.Inquiry, SPC, None, IN_MEMORY,
               IN, NOTHING, AT_ONCE, PASSED, KEEPS, ALWAYS, IN_ANY, ANYHOW),
    CommandRow("MODE_SELECT_6", Opcode.MODE_SELECT_6, None,
               spc.ModeSelect6, SPC, None, IN_MEMORY,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NEITHER, IN_STANDBY, UNFORMATTED),
    CommandRow("MODE_SENSE_6", Opcode.MODE_SENSE_6, None,
               spc.ModeSense6, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_STANDBY, UNFORMATTED),
    CommandRow("PREVENT_ALLOW_MEDIUM_REMOVAL", Opcode.PREVENT_ALLOW_MEDIUM_REMOVAL, None,
               spc.PreventAllowMediumRemoval, SPC, None, IN_MEMORY,
               NO_DATA, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALLOWS, IN_ACTIVE, UNFORMATTED),
    CommandRow("MODE_SELECT_10", Opcode.MODE_SELECT_10, None,
               spc.ModeSelect10, SPC, None, IN_MEMORY,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NEITHER, IN_STANDBY, UNFORMATTED),
    CommandRow("MODE_SENSE_10", Opcode.MODE_SENSE_10, None,
               spc.ModeSense10, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_STANDBY, UNFORMATTED),
    CommandRow("LOG_SELECT", Opcode.LOG_SELECT, None,
               spc.LogSelect, SPC, None, IN_MEMORY,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NEITHER, IN_STANDBY, UNFORMATTED),
    CommandRow("LOG_SENSE", Opcode.LOG_SENSE, None,
               spc.LogSense, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_STANDBY, ANYHOW),
    CommandRow("RECEIVE_DIAGNOSTIC_RESULTS", Opcode.RECEIVE_DIAGNOSTIC_RESULTS, None,
               spc.ReceiveDiagnosticResults, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_STANDBY, UNFORMATTED),
    CommandRow("SEND_DIAGNOSTIC", Opcode.SEND_DIAGNOSTIC, None,
               spc.SendDiagnostic, SPC, None, STABLE,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NEITHER, IN_STANDBY, USABLE),
    CommandRow("WRITE_BUFFER", Opcode.WRITE_BUFFER, None,
               spc.WriteBuffer, SPC, None, IN_MEMORY,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NEITHER, IN_ANY, UNFORMATTED),
    CommandRow("READ_BUFFER_10", Opcode.READ_BUFFER_10, None,
               spc.ReadBuffer10, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ANY, UNFORMATTED),
    CommandRow("READ_BUFFER_16", Opcode.READ_BUFFER_16, None,
               spc.ReadBuffer16, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ANY, UNFORMATTED),
    CommandRow("REPORT_IDENTIFYING_INFORMATION", Opcode.MAINTENANCE_IN,
               MaintenanceIn.REPORT_IDENTIFYING_INFORMATION,
               spc.ReportIdentifyingInformation, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ACTIVE, UNFORMATTED),
    CommandRow("SET_IDENTIFYING_INFORMATION", Opcode.MAINTENANCE_OUT,
               MaintenanceOut.SET_IDENTIFYING_INFORMATION,
               spc.SetIdentifyingInformation, SPC, None, IN_MEMORY,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NEITHER, IN_ACTIVE, UNFORMATTED),
    CommandRow("REPORT_TIMESTAMP", Opcode.MAINTENANCE_IN, MaintenanceIn.REPORT_TIMESTAMP,
               spc.ReportTimestamp, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ACTIVE, UNFORMATTED),
    CommandRow("SET_TIMESTAMP", Opcode.MAINTENANCE_OUT, MaintenanceOut.SET_TIMESTAMP,
               spc.SetTimestamp, SPC, None, IN_MEMORY,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NEITHER, IN_ACTIVE, UNFORMATTED),
    CommandRow("REPORT_LUNS", Opcode.REPORT_LUNS, None,
               spc.ReportLuns, SPC, None, IN_MEMORY,
               IN, NOTHING, AT_ONCE, PASSED, KEEPS, ALWAYS, IN_ANY, ANYHOW),
    CommandRow("REPORT_TARGET_PORT_GROUPS", Opcode.MAINTENANCE_IN,
               MaintenanceIn.REPORT_TARGET_PORT_GROUPS,
               spc.ReportTargetPortGroups, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ANY, UNFORMATTED),
    CommandRow("SET_TARGET_PORT_GROUPS", Opcode.MAINTENANCE_OUT,
               MaintenanceOut.SET_TARGET_PORT_GROUPS,
               spc.SetTargetPortGroups, SPC, None, IN_MEMORY,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NEITHER, IN_SETTLED, UNFORMATTED),
    CommandRow("REPORT_SUPPORTED_OPERATION_CODES", Opcode.MAINTENANCE_IN,
               MaintenanceIn.REPORT_SUPPORTED_OPERATION_CODES,
               spc.ReportSupportedOperationCodes, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ACTIVE, ANYHOW),
    CommandRow("REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS", Opcode.MAINTENANCE_IN,
               MaintenanceIn.REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS,
               spc.ReportSupportedTaskManagementFunctions, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ACTIVE, ANYHOW),
    CommandRow("READ_KEYS", Opcode.PERSISTENT_RESERVE_IN, PersistentReserveIn.READ_KEYS,
               persistent_reservation.ReadKeys, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_STANDBY, UNFORMATTED),
    CommandRow("READ_RESERVATION", Opcode.PERSISTENT_RESERVE_IN,
               PersistentReserveIn.READ_RESERVATION,
               persistent_reservation.ReadReservation, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_STANDBY, UNFORMATTED),
    CommandRow("REPORT_CAPABILITIES", Opcode.PERSISTENT_RESERVE_IN,
               PersistentReserveIn.REPORT_CAPABILITIES,
               persistent_reservation.ReportCapabilities, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_STANDBY, UNFORMATTED),
    CommandRow("READ_FULL_STATUS", Opcode.PERSISTENT_RESERVE_IN,
               PersistentReserveIn.READ_FULL_STATUS,
               persistent_reservation.ReadFullStatus, SPC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_STANDBY, UNFORMATTED),
    CommandRow("REGISTER", Opcode.PERSISTENT_RESERVE_OUT, PersistentReserveOut.REGISTER,
               persistent_reservation.Register, SPC, None, STABLE,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_STANDBY, UNFORMATTED),
    CommandRow("RESERVE", Opcode.PERSISTENT_RESERVE_OUT, PersistentReserveOut.RESERVE,
               persistent_reservation.Reserve, SPC, None, STABLE,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_STANDBY, UNFORMATTED),
    CommandRow("RELEASE", Opcode.PERSISTENT_RESERVE_OUT, PersistentReserveOut.RELEASE,
               persistent_reservation.Release, SPC, None, STABLE,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_STANDBY, UNFORMATTED),
    CommandRow("CLEAR", Opcode.PERSISTENT_RESERVE_OUT, PersistentReserveOut.CLEAR,
               persistent_reservation.Clear, SPC, None, STABLE,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_STANDBY, UNFORMATTED),
    CommandRow("PREEMPT", Opcode.PERSISTENT_RESERVE_OUT, PersistentReserveOut.PREEMPT,
               persistent_reservation.Preempt, SPC, None, STABLE,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_STANDBY, UNFORMATTED),
    CommandRow("PREEMPT_AND_ABORT", Opcode.PERSISTENT_RESERVE_OUT,
               PersistentReserveOut.PREEMPT_AND_ABORT,
               persistent_reservation.PreemptAndAbort, SPC, None, STABLE,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_STANDBY, UNFORMATTED),
    CommandRow("REGISTER_AND_IGNORE_EXISTING_KEY", Opcode.PERSISTENT_RESERVE_OUT,
               PersistentReserveOut.REGISTER_AND_IGNORE_EXISTING_KEY,
               persistent_reservation.RegisterAndIgnoreExistingKey, SPC, None, STABLE,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_STANDBY, UNFORMATTED),
    CommandRow("REGISTER_AND_MOVE", Opcode.PERSISTENT_RESERVE_OUT,
               PersistentReserveOut.REGISTER_AND_MOVE,
               persistent_reservation.RegisterAndMove, SPC, None, STABLE,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_STANDBY, UNFORMATTED),
    CommandRow("RESERVE_6", Opcode.RESERVE_6, None,
               persistent_reservation.Reserve6, SPC, None, IN_MEMORY,
               NO_DATA, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ACTIVE, UNFORMATTED),
    CommandRow("RELEASE_6", Opcode.RELEASE_6, None,
               persistent_reservation.Release6, SPC, None, IN_MEMORY,
               NO_DATA, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ACTIVE, UNFORMATTED),
    CommandRow("RESERVE_10", Opcode.RESERVE_10, None,
               persistent_reservation.Reserve10, SPC, None, IN_MEMORY,
               NO_DATA, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ACTIVE, UNFORMATTED),
    CommandRow("RELEASE_10", Opcode.RELEASE_10, None,
               persistent_reservation.Release10, SPC, None, IN_MEMORY,
               NO_DATA, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ACTIVE, UNFORMATTED),
    CommandRow("START_STOP_UNIT", Opcode.START_STOP_UNIT, None,
               sbc.StartStopUnit, SBC, None, STABLE,
               NO_DATA, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, STARTS, IN_ACTIVE, UNFORMATTED),
    CommandRow("FORMAT_UNIT", Opcode.FORMAT_UNIT, None,
               sbc.FormatUnit, SBC, None, WHOLE_MEDIUM,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, UNFORMATTED),
    CommandRow("SANITIZE_OVERWRITE", Opcode.SANITIZE, Sanitize.SANITIZE_OVERWRITE,
               sbc.SanitizeOverwrite, SBC, None, WHOLE_MEDIUM,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, AFTER_FAILURE),
    CommandRow("SANITIZE_BLOCK_ERASE", Opcode.SANITIZE, Sanitize.SANITIZE_BLOCK_ERASE,
               sbc.SanitizeBlockErase, SBC, None, WHOLE_MEDIUM,
               NO_DATA, NOTHING, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE,
               AFTER_FAILURE),
    CommandRow("SANITIZE_EXIT_FAILURE_MODE", Opcode.SANITIZE, Sanitize.SANITIZE_EXIT_FAILURE_MODE,
               sbc.SanitizeExitFailureMode, SBC, None, IN_MEMORY,
               NO_DATA, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NEITHER, IN_ACTIVE,
               AFTER_FAILURE),
    CommandRow("READ_CAPACITY_10", Opcode.READ_CAPACITY_10, None,
               sbc.ReadCapacity10, SBC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_STANDBY, UNFORMATTED),
    CommandRow("READ_CAPACITY_16", Opcode.SERVICE_ACTION_IN_16, ServiceActionIn16.READ_CAPACITY_16,
               sbc.ReadCapacity16, SBC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_STANDBY, UNFORMATTED),
    CommandRow("GET_LBA_STATUS", Opcode.SERVICE_ACTION_IN_16, ServiceActionIn16.GET_LBA_STATUS,
               sbc.GetLbaStatus, SBC, None, SOME_BLOCKS,
               IN, START, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ACTIVE, USABLE),
    CommandRow("READ_DEFECT_DATA_10", Opcode.READ_DEFECT_DATA_10, None,
               sbc.ReadDefectData10, SBC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ACTIVE, UNFORMATTED),
    CommandRow("READ_DEFECT_DATA_12", Opcode.READ_DEFECT_DATA_12, None,
               sbc.ReadDefectData12, SBC, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ACTIVE, UNFORMATTED),
    CommandRow("READ_6", Opcode.READ_6, None,
               sbc.Read6, SBC, None, SOME_BLOCKS,
               IN, RANGE, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ACTIVE, USABLE),
    CommandRow("READ_10", Opcode.READ_10, None,
               sbc.Read10, SBC, None, SOME_BLOCKS,
               IN, RANGE, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ACTIVE, USABLE),
    CommandRow("READ_12", Opcode.READ_12, None,
               sbc.Read12, SBC, None, SOME_BLOCKS,
               IN, RANGE, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ACTIVE, USABLE),
    CommandRow("READ_16", Opcode.READ_16, None,
               sbc.Read16, SBC, None, SOME_BLOCKS,
               IN, RANGE, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ACTIVE, USABLE),
    CommandRow("WRITE_6", Opcode.WRITE_6, None,
               sbc.Write6, SBC, None, SOME_BLOCKS,
               OUT, RANGE, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("WRITE_10", Opcode.WRITE_10, None,
               sbc.Write10, SBC, None, SOME_BLOCKS,
               OUT, RANGE, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("WRITE_12", Opcode.WRITE_12, None,
               sbc.Write12, SBC, None, SOME_BLOCKS,
               OUT, RANGE, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("WRITE_16", Opcode.WRITE_16, None,
               sbc.Write16, SBC, None, SOME_BLOCKS,
               OUT, RANGE, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("WRITE_AND_VERIFY_10", Opcode.WRITE_AND_VERIFY_10, None,
               sbc.WriteAndVerify10, SBC, None, SOME_BLOCKS,
               OUT, RANGE, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("WRITE_AND_VERIFY_12", Opcode.WRITE_AND_VERIFY_12, None,
               sbc.WriteAndVerify12, SBC, None, SOME_BLOCKS,
               OUT, RANGE, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("WRITE_AND_VERIFY_16", Opcode.WRITE_AND_VERIFY_16, None,
               sbc.WriteAndVerify16, SBC, None, SOME_BLOCKS,
               OUT, RANGE, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("VERIFY_10", Opcode.VERIFY_10, None,
               sbc.Verify10, SBC, None, SOME_BLOCKS,
               OUT, RANGE, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ACTIVE, USABLE),
    CommandRow("VERIFY_12", Opcode.VERIFY_12, None,
               sbc.Verify12, SBC, None, SOME_BLOCKS,
               OUT, RANGE, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ACTIVE, USABLE),
    CommandRow("VERIFY_16", Opcode.VERIFY_16, None,
               sbc.Verify16, SBC, None, SOME_BLOCKS,
               OUT, RANGE, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ACTIVE, USABLE),
    CommandRow("PREFETCH_10", Opcode.PREFETCH_10, None,
               sbc.Prefetch10, SBC, None, SOME_BLOCKS,
               NO_DATA, RANGE_OR_REST, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ACTIVE, USABLE),
    CommandRow("PREFETCH_16", Opcode.PREFETCH_16, None,
               sbc.Prefetch16, SBC, None, SOME_BLOCKS,
               NO_DATA, RANGE_OR_REST, BY_ATTRIBUTE, REPORTED, KEEPS, READS, IN_ACTIVE, USABLE),
    CommandRow("SYNCHRONIZE_CACHE_10", Opcode.SYNCHRONIZE_CACHE_10, None,
               sbc.SynchronizeCache10, SBC, None, STABLE,
               NO_DATA, RANGE_OR_REST, BY_ATTRIBUTE, REPORTED, KEEPS, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("SYNCHRONIZE_CACHE_16", Opcode.SYNCHRONIZE_CACHE_16, None,
               sbc.SynchronizeCache16, SBC, None, STABLE,
               NO_DATA, RANGE_OR_REST, BY_ATTRIBUTE, REPORTED, KEEPS, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("WRITE_SAME_10", Opcode.WRITE_SAME_10, None,
               sbc.WriteSame10, SBC, None, MANY_BLOCKS,
               OUT, RANGE_OR_REST, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("WRITE_SAME_16", Opcode.WRITE_SAME_16, None,
               sbc.WriteSame16, SBC, None, MANY_BLOCKS,
               OUT, RANGE_OR_REST, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("WRITE_ATOMIC_16", Opcode.WRITE_ATOMIC_16, None,
               sbc.WriteAtomic16, SBC, None, SOME_BLOCKS,
               OUT, RANGE, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("ORWRITE_16", Opcode.ORWRITE_16, None,
               sbc.Orwrite16, SBC, None, SOME_BLOCKS,
               OUT, RANGE, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("COMPARE_AND_WRITE", Opcode.COMPARE_AND_WRITE, None,
               sbc.CompareAndWrite, SBC, None, SOME_BLOCKS,
               OUT, RANGE, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("UNMAP", Opcode.UNMAP, None,
               sbc.Unmap, SBC, None, MANY_BLOCKS,
               OUT, LIST, BY_ATTRIBUTE, REPORTED, WRITES, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("EXTENDED_COPY_LID1", Opcode.EXTENDED_COPY, ThirdPartyCopyOut.EXTENDED_COPY_LID1,
               spc.ExtendedCopyLid1, COPY, Function.DIRECT_BACKUP, MANY_BLOCKS,
               OUT, LIST, BY_ATTRIBUTE, REPORTED, KEEPS, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("RECEIVE_COPY_STATUS_LID1", Opcode.RECEIVE_COPY_RESULTS,
               ThirdPartyCopyIn.RECEIVE_COPY_STATUS_LID1,
               spc.ReceiveCopyStatusLid1, COPY, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_ACTIVE, USABLE),
    CommandRow("RECEIVE_COPY_OPERATING_PARAMETERS", Opcode.RECEIVE_COPY_RESULTS,
               ThirdPartyCopyIn.RECEIVE_COPY_OPERATING_PARAMETERS,
               spc.ReceiveCopyOperatingParameters, COPY, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_ACTIVE, USABLE),
    CommandRow("RECEIVE_COPY_FAILURE_DETAILS_LID1", Opcode.RECEIVE_COPY_RESULTS,
               ThirdPartyCopyIn.RECEIVE_COPY_FAILURE_DETAILS_LID1,
               spc.ReceiveCopyFailureDetailsLid1, COPY, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NOT_RESERVED, IN_ACTIVE, USABLE),
    CommandRow("REPORT_ALIASES", Opcode.MAINTENANCE_IN, MaintenanceIn.REPORT_ALIASES,
               spc.ReportAliases, COPY, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ACTIVE, USABLE),
    CommandRow("CHANGE_ALIASES", Opcode.MAINTENANCE_OUT, MaintenanceOut.CHANGE_ALIASES,
               spc.ChangeAliases, COPY, None, IN_MEMORY,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, NEITHER, IN_ACTIVE, USABLE),
    CommandRow("GREET", Opcode.SITE_IN, SiteIn.GREET,
               site.Greet, SITE, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ANY, ANYHOW),
    CommandRow("VOLUMES", Opcode.SITE_IN, SiteIn.VOLUMES,
               site.Volumes, SITE, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ANY, ANYHOW),
    CommandRow("VOLUME_MAPPING", Opcode.SITE_IN, SiteIn.VOLUME_MAPPING,
               site.VolumeMapping, SITE, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ANY, ANYHOW),
    CommandRow("ASK_FUNCTION", Opcode.SITE_IN, SiteIn.ASK_FUNCTION,
               site.AskFunction, SITE, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ANY, ANYHOW),
    CommandRow("FUNCTION_TABLE", Opcode.SITE_IN, SiteIn.FUNCTION_TABLE,
               site.FunctionTable, SITE, None, IN_MEMORY,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ANY, ANYHOW),
    CommandRow("PAIR_IN", Opcode.SITE_IN, SiteIn.PAIR_IN,
               site.PairIn, SITE, None, STABLE,
               IN, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ANY, ANYHOW),
    CommandRow("PAIR_OUT", Opcode.SITE_OUT, SiteOut.PAIR_OUT,
               site.PairOut, SITE, None, STABLE,
               OUT, NOTHING, BY_ATTRIBUTE, REPORTED, KEEPS, ALWAYS, IN_ANY, ANYHOW),
)
# fmt: on
"""In the order of the command sets, then of the opcodes within them. EXTENDED COPY keeps the medium
of the unit that receives it: what it writes to is checked for each destination by itself."""

BY_NAME = {row.name: row for row in ROWS}


_IS_HARMLESS: dict[Form, Callable[[Any], bool]] = {
    Form.NONE: lambda cdb: False,
    Form.STARTS_THE_UNIT: lambda cdb: bool(cdb.start) and not cdb.power_condition,
    Form.ALLOWS_REMOVAL: lambda cdb: not cdb.prevent,
}


def passes_reservations(row: CommandRow, cdb: bytes) -> bool:
    """Is this a form of the command that no reservation stops?"""
    return _IS_HARMLESS[row.reservation.harmless](row.layout.unpack(cdb))


RangeDecoder = Callable[[bytes], tuple[int, int, int]]
"""CDB -> (byte 1, LBA, blocks)."""

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


def range_decoder(row: CommandRow) -> RangeDecoder | None:
    """The quickest way from a CDB to its range of blocks, taken from the row's layout; None for a
    row whose CDB has no range. Byte 1 holds the flags of all of these commands."""
    if row.addresses not in (Addresses.RANGE, Addresses.RANGE_OR_REST):
        return None
    fields = {field.name: field for field in row.layout.fields}
    lba, length = fields["lba"], fields["transfer_length"]
    if row.layout.length == 6:
        return _short_range
    return struct.Struct(f">xB{_skip(2, lba)}{_skip(lba.end, length)}").unpack_from


def length_byte(row: CommandRow) -> int:
    """The byte of the CDB where the length of the range stands, for a field pointer."""
    return next(field.byte for field in row.layout.fields if field.name == "transfer_length")


def _skip(at: int, field: Field) -> str:
    """`struct` codes for the bytes from `at` on up to the end of a field of whole bytes."""
    return f"{field.byte - at}x{_CODES[field.width // 8]}"


def _short_range(cdb: bytes) -> tuple[int, int, int]:
    """READ(6) and WRITE(6): 21 bits of address, and a length of 0 is 256 blocks (SBC-4)."""
    return 0, int.from_bytes(cdb[1:4], "big") & 0x1FFFFF, cdb[4] or 256
