"""Operation codes, service actions, status codes and peripheral device types.

Names are those of SPC-5, SBC-4 and SAM-6 in upper case, so that a search for `WRITE_16` finds the
code, its layout (`Write16` in `sbc.py`), its row in the command table and its tests.
"""

from __future__ import annotations

from enum import IntEnum


class Opcode(IntEnum):
    """Byte 0 of a CDB."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    FORMAT_UNIT = 0x04
    READ_6 = 0x08
    WRITE_6 = 0x0A
    INQUIRY = 0x12
    MODE_SELECT_6 = 0x15
    RESERVE_6 = 0x16
    RELEASE_6 = 0x17
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    RECEIVE_DIAGNOSTIC_RESULTS = 0x1C
    SEND_DIAGNOSTIC = 0x1D
    PREVENT_ALLOW_MEDIUM_REMOVAL = 0x1E
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    WRITE_AND_VERIFY_10 = 0x2E
    VERIFY_10 = 0x2F
    PREFETCH_10 = 0x34
    SYNCHRONIZE_CACHE_10 = 0x35
    READ_DEFECT_DATA_10 = 0x37
    WRITE_BUFFER = 0x3B
    READ_BUFFER_10 = 0x3C
    WRITE_SAME_10 = 0x41
    UNMAP = 0x42
    SANITIZE = 0x48
    LOG_SELECT = 0x4C
    LOG_SENSE = 0x4D
    MODE_SELECT_10 = 0x55
    RESERVE_10 = 0x56
    RELEASE_10 = 0x57
    MODE_SENSE_10 = 0x5A
    PERSISTENT_RESERVE_IN = 0x5E
    PERSISTENT_RESERVE_OUT = 0x5F
    EXTENDED_COPY = 0x83
    RECEIVE_COPY_RESULTS = 0x84
    ATA_PASS_THROUGH_16 = 0x85
    READ_16 = 0x88
    COMPARE_AND_WRITE = 0x89
    WRITE_16 = 0x8A
    ORWRITE_16 = 0x8B
    READ_ATTRIBUTE = 0x8C
    WRITE_ATTRIBUTE = 0x8D
    WRITE_AND_VERIFY_16 = 0x8E
    VERIFY_16 = 0x8F
    PREFETCH_16 = 0x90
    SYNCHRONIZE_CACHE_16 = 0x91
    WRITE_SAME_16 = 0x93
    READ_BUFFER_16 = 0x9B
    WRITE_ATOMIC_16 = 0x9C
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0
    MAINTENANCE_IN = 0xA3
    MAINTENANCE_OUT = 0xA4
    READ_12 = 0xA8
    WRITE_12 = 0xAA
    WRITE_AND_VERIFY_12 = 0xAE
    VERIFY_12 = 0xAF
    READ_DEFECT_DATA_12 = 0xB7
    SITE_IN = 0xD4
    """Vendor specific, as the next one: between two first controllers (docs/protocol.md)."""
    SITE_OUT = 0xD5


class ServiceActionIn16(IntEnum):
    """Service actions of SERVICE ACTION IN(16), 9Eh (SBC-4)."""

    READ_CAPACITY_16 = 0x10
    GET_LBA_STATUS = 0x12


class Sanitize(IntEnum):
    """Service actions of SANITIZE, 48h (SBC-4, 5.30)."""

    SANITIZE_OVERWRITE = 0x01
    SANITIZE_BLOCK_ERASE = 0x02
    SANITIZE_CRYPTOGRAPHIC_ERASE = 0x03
    SANITIZE_EXIT_FAILURE_MODE = 0x1F


class ThirdPartyCopyOut(IntEnum):
    """Service actions of 83h (SPC-4, 6.4)."""

    EXTENDED_COPY_LID1 = 0x00
    EXTENDED_COPY_LID4 = 0x01
    POPULATE_TOKEN = 0x10
    WRITE_USING_TOKEN = 0x11
    COPY_OPERATION_ABORT = 0x1C


class ThirdPartyCopyIn(IntEnum):
    """Service actions of 84h (SPC-4, 6.5)."""

    RECEIVE_COPY_STATUS_LID1 = 0x00
    RECEIVE_COPY_DATA_LID1 = 0x01
    RECEIVE_COPY_OPERATING_PARAMETERS = 0x03
    RECEIVE_COPY_FAILURE_DETAILS_LID1 = 0x04
    RECEIVE_COPY_STATUS_LID4 = 0x05
    RECEIVE_COPY_DATA_LID4 = 0x06
    RECEIVE_ROD_TOKEN_INFORMATION = 0x07
    REPORT_ALL_ROD_TOKENS = 0x08


class MaintenanceIn(IntEnum):
    """Service actions of MAINTENANCE IN, A3h (SPC-4)."""

    REPORT_IDENTIFYING_INFORMATION = 0x05
    REPORT_TARGET_PORT_GROUPS = 0x0A
    REPORT_ALIASES = 0x0B
    REPORT_SUPPORTED_OPERATION_CODES = 0x0C
    REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS = 0x0D
    REPORT_PRIORITY = 0x0E
    REPORT_TIMESTAMP = 0x0F


class MaintenanceOut(IntEnum):
    """Service actions of MAINTENANCE OUT, A4h (SPC-4)."""

    SET_IDENTIFYING_INFORMATION = 0x06
    SET_TARGET_PORT_GROUPS = 0x0A
    CHANGE_ALIASES = 0x0B
    SET_PRIORITY = 0x0E
    SET_TIMESTAMP = 0x0F


class PersistentReserveIn(IntEnum):
    """Service actions of PERSISTENT RESERVE IN, 5Eh (SPC-4, 6.15)."""

    READ_KEYS = 0x00
    READ_RESERVATION = 0x01
    REPORT_CAPABILITIES = 0x02
    READ_FULL_STATUS = 0x03


class PersistentReserveOut(IntEnum):
    """Service actions of PERSISTENT RESERVE OUT, 5Fh (SPC-4, 6.16)."""

    REGISTER = 0x00
    RESERVE = 0x01
    RELEASE = 0x02
    CLEAR = 0x03
    PREEMPT = 0x04
    PREEMPT_AND_ABORT = 0x05
    REGISTER_AND_IGNORE_EXISTING_KEY = 0x06
    REGISTER_AND_MOVE = 0x07
    REPLACE_LOST_RESERVATION = 0x08


class SiteIn(IntEnum):
    """Service actions of SITE IN, D4h: what one first controller asks of the other."""

    GREET = 0x00
    VOLUMES = 0x01
    VOLUME_MAPPING = 0x02
    ASK_FUNCTION = 0x03
    FUNCTION_TABLE = 0x04
    PAIR_IN = 0x10


class SiteOut(IntEnum):
    """Service actions of SITE OUT, D5h: what it tells it."""

    PAIR_OUT = 0x10


class Status(IntEnum):
    """SCSI status (SAM-5, 5.3)."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    CONDITION_MET = 0x04
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28
    ACA_ACTIVE = 0x30
    TASK_ABORTED = 0x40


class DeviceType(IntEnum):
    """Peripheral device type (SPC-4, table of 6.6.2)."""

    DIRECT_ACCESS = 0x00
    SEQUENTIAL_ACCESS = 0x01
    PROCESSOR = 0x03
    WRITE_ONCE = 0x04
    CD_DVD = 0x05
    OPTICAL_MEMORY = 0x07
    MEDIUM_CHANGER = 0x08
    STORAGE_ARRAY_CONTROLLER = 0x0C
    ENCLOSURE_SERVICES = 0x0D
    SIMPLIFIED_DIRECT_ACCESS = 0x0E
    OBJECT_BASED = 0x11
    WELL_KNOWN_LOGICAL_UNIT = 0x1E
    UNKNOWN = 0x1F


class PeripheralQualifier(IntEnum):
    """Peripheral qualifier (SPC-4, table of 6.6.2)."""

    CONNECTED = 0
    NOT_CONNECTED = 1
    NOT_CAPABLE = 3
