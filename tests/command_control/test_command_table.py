"""Every cell of the command table is walked here: against the codes, the layouts and a second
table written down by hand from SPC-4, SBC-4 and SPC-4 table 13 ff. (reservations)."""

from __future__ import annotations

import pytest

from daiko.command_control import analysis
from daiko.command_control.command_table import (
    BY_NAME,
    NEITHER,
    ROWS,
    Addresses,
    Attention,
    Change,
    CommandRow,
    CommandSet,
    Data,
    Order,
    length_byte,
    range_decoder,
)
from daiko.command_control.plan import Function
from daiko.scsi import opcode as codes

# name: command set, data, addresses, changes the medium, order, attention,
#       carried out under write exclusive / exclusive access of another initiator,
#       in standby / unavailable, while the medium is formatted or sanitized /
#       after FORMAT UNIT failed / after SANITIZE failed,
#       function asked for
BY_HAND = """
TEST_UNIT_READY                            spc none nothing       - by_attribute reported yes yes no  no  no  no  no  -
REQUEST_SENSE                              spc in   nothing       - at_once      returned yes yes yes yes yes yes yes -
INQUIRY                                    spc in   nothing       - at_once      passed   yes yes yes yes yes yes yes -
MODE_SELECT_6                              spc out  nothing       - by_attribute reported no  no  yes no  no  yes no  -
MODE_SENSE_6                               spc in   nothing       - by_attribute reported yes no  yes no  no  yes no  -
PREVENT_ALLOW_MEDIUM_REMOVAL               spc none nothing       - by_attribute reported no  no  no  no  no  yes no  -
MODE_SELECT_10                             spc out  nothing       - by_attribute reported no  no  yes no  no  yes no  -
MODE_SENSE_10                              spc in   nothing       - by_attribute reported yes no  yes no  no  yes no  -
LOG_SELECT                                 spc out  nothing       - by_attribute reported no  no  yes no  no  yes no  -
LOG_SENSE                                  spc in   nothing       - by_attribute reported yes yes yes no  yes yes yes -
RECEIVE_DIAGNOSTIC_RESULTS                 spc in   nothing       - by_attribute reported yes no  yes no  no  yes no  -
SEND_DIAGNOSTIC                            spc out  nothing       - by_attribute reported no  no  yes no  no  no  no  -
WRITE_BUFFER                               spc out  nothing       - by_attribute reported no  no  yes yes no  yes no  -
READ_BUFFER_10                             spc in   nothing       - by_attribute reported yes no  yes yes no  yes no  -
READ_BUFFER_16                             spc in   nothing       - by_attribute reported yes no  yes yes no  yes no  -
REPORT_IDENTIFYING_INFORMATION             spc in   nothing       - by_attribute reported yes yes no  no  no  yes no  -
SET_IDENTIFYING_INFORMATION                spc out  nothing       - by_attribute reported no  no  no  no  no  yes no  -
REPORT_TIMESTAMP                           spc in   nothing       - by_attribute reported yes yes no  no  no  yes no  -
SET_TIMESTAMP                              spc out  nothing       - by_attribute reported no  no  no  no  no  yes no  -
REPORT_LUNS                                spc in   nothing       - at_once      passed   yes yes yes yes yes yes yes -
REPORT_TARGET_PORT_GROUPS                  spc in   nothing       - by_attribute reported yes yes yes yes no  yes no  -
SET_TARGET_PORT_GROUPS                     spc out  nothing       - by_attribute reported no  no  yes yes no  yes no  -
REPORT_SUPPORTED_OPERATION_CODES           spc in   nothing       - by_attribute reported yes no  no  no  yes yes yes -
REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS spc in   nothing       - by_attribute reported yes no  no  no  yes yes yes -
READ_KEYS                                  spc in   nothing       - by_attribute reported yes yes yes no  no  yes no  -
READ_RESERVATION                           spc in   nothing       - by_attribute reported yes yes yes no  no  yes no  -
REPORT_CAPABILITIES                        spc in   nothing       - by_attribute reported yes yes yes no  no  yes no  -
READ_FULL_STATUS                           spc in   nothing       - by_attribute reported yes yes yes no  no  yes no  -
REGISTER                                   spc out  nothing       - by_attribute reported yes yes yes no  no  yes no  -
RESERVE                                    spc out  nothing       - by_attribute reported yes yes yes no  no  yes no  -
RELEASE                                    spc out  nothing       - by_attribute reported yes yes yes no  no  yes no  -
CLEAR                                      spc out  nothing       - by_attribute reported yes yes yes no  no  yes no  -
PREEMPT                                    spc out  nothing       - by_attribute reported yes yes yes no  no  yes no  -
PREEMPT_AND_ABORT                          spc out  nothing       - by_attribute reported yes yes yes no  no  yes no  -
REGISTER_AND_IGNORE_EXISTING_KEY           spc out  nothing       - by_attribute reported yes yes yes no  no  yes no  -
REGISTER_AND_MOVE                          spc out  nothing       - by_attribute reported yes yes yes no  no  yes no  -
RESERVE_6                                  spc none nothing       - by_attribute reported yes yes no  no  no  yes no  -
RELEASE_6                                  spc none nothing       - by_attribute reported yes yes no  no  no  yes no  -
RESERVE_10                                 spc none nothing       - by_attribute reported yes yes no  no  no  yes no  -
RELEASE_10                                 spc none nothing       - by_attribute reported yes yes no  no  no  yes no  -
START_STOP_UNIT                            sbc none nothing       - by_attribute reported no  no  no  no  no  yes no  -
FORMAT_UNIT                                sbc out  nothing       w by_attribute reported no  no  no  no  no  yes no  -
SANITIZE_OVERWRITE                         sbc out  nothing       w by_attribute reported no  no  no  no  no  yes yes -
SANITIZE_BLOCK_ERASE                       sbc none nothing       w by_attribute reported no  no  no  no  no  yes yes -
SANITIZE_EXIT_FAILURE_MODE                 sbc none nothing       - by_attribute reported no  no  no  no  no  yes yes -
READ_CAPACITY_10                           sbc in   nothing       - by_attribute reported yes yes yes no  no  yes no  -
READ_CAPACITY_16                           sbc in   nothing       - by_attribute reported yes yes yes no  no  yes no  -
GET_LBA_STATUS                             sbc in   start         - by_attribute reported yes no  no  no  no  no  no  -
READ_DEFECT_DATA_10                        sbc in   nothing       - by_attribute reported yes no  no  no  no  yes no  -
READ_DEFECT_DATA_12                        sbc in   nothing       - by_attribute reported yes no  no  no  no  yes no  -
READ_6                                     sbc in   range         - by_attribute reported yes no  no  no  no  no  no  -
READ_10                                    sbc in   range         - by_attribute reported yes no  no  no  no  no  no  -
READ_12                                    sbc in   range         - by_attribute reported yes no  no  no  no  no  no  -
READ_16                                    sbc in   range         - by_attribute reported yes no  no  no  no  no  no  -
WRITE_6                                    sbc out  range         w by_attribute reported no  no  no  no  no  no  no  -
WRITE_10                                   sbc out  range         w by_attribute reported no  no  no  no  no  no  no  -
WRITE_12                                   sbc out  range         w by_attribute reported no  no  no  no  no  no  no  -
WRITE_16                                   sbc out  range         w by_attribute reported no  no  no  no  no  no  no  -
WRITE_AND_VERIFY_10                        sbc out  range         w by_attribute reported no  no  no  no  no  no  no  -
WRITE_AND_VERIFY_12                        sbc out  range         w by_attribute reported no  no  no  no  no  no  no  -
WRITE_AND_VERIFY_16                        sbc out  range         w by_attribute reported no  no  no  no  no  no  no  -
VERIFY_10                                  sbc out  range         - by_attribute reported yes no  no  no  no  no  no  -
VERIFY_12                                  sbc out  range         - by_attribute reported yes no  no  no  no  no  no  -
VERIFY_16                                  sbc out  range         - by_attribute reported yes no  no  no  no  no  no  -
PREFETCH_10                                sbc none range_or_rest - by_attribute reported yes no  no  no  no  no  no  -
PREFETCH_16                                sbc none range_or_rest - by_attribute reported yes no  no  no  no  no  no  -
SYNCHRONIZE_CACHE_10                       sbc none range_or_rest - by_attribute reported no  no  no  no  no  no  no  -
SYNCHRONIZE_CACHE_16                       sbc none range_or_rest - by_attribute reported no  no  no  no  no  no  no  -
WRITE_SAME_10                              sbc out  range_or_rest w by_attribute reported no  no  no  no  no  no  no  -
WRITE_SAME_16                              sbc out  range_or_rest w by_attribute reported no  no  no  no  no  no  no  -
WRITE_ATOMIC_16                            sbc out  range         w by_attribute reported no  no  no  no  no  no  no  -
ORWRITE_16                                 sbc out  range         w by_attribute reported no  no  no  no  no  no  no  -
COMPARE_AND_WRITE                          sbc out  range         w by_attribute reported no  no  no  no  no  no  no  -
UNMAP                                      sbc out  list          w by_attribute reported no  no  no  no  no  no  no  -
EXTENDED_COPY_LID1                         third_party_copy out list - by_attribute reported no no no no no  no  no  direct-backup
RECEIVE_COPY_STATUS_LID1                   third_party_copy in nothing - by_attribute reported yes yes no  no  no  no  no  -
RECEIVE_COPY_OPERATING_PARAMETERS          third_party_copy in nothing - by_attribute reported yes yes no  no  no  no  no  -
RECEIVE_COPY_FAILURE_DETAILS_LID1          third_party_copy in nothing - by_attribute reported yes yes no  no  no  no  no  -
REPORT_ALIASES                             third_party_copy in nothing - by_attribute reported yes yes no no no  no  no  -
CHANGE_ALIASES                             third_party_copy out nothing - by_attribute reported no no no no no  no  no  -
GREET                                      site in   nothing       - by_attribute reported yes yes yes yes yes yes yes -
VOLUMES                                    site in   nothing       - by_attribute reported yes yes yes yes yes yes yes -
VOLUME_MAPPING                             site in   nothing       - by_attribute reported yes yes yes yes yes yes yes -
ASK_FUNCTION                               site in   nothing       - by_attribute reported yes yes yes yes yes yes yes -
FUNCTION_TABLE                             site in   nothing       - by_attribute reported yes yes yes yes yes yes yes -
PAIR_IN                                    site in   nothing       - by_attribute reported yes yes yes yes yes yes yes -
PAIR_OUT                                   site out  nothing       - by_attribute reported yes yes yes yes yes yes yes -
"""  # noqa: E501
EXPECTED = {line.split()[0]: line.split()[1:] for line in BY_HAND.strip().splitlines()}

EACH_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def test_table_has_exactly_the_commands_written_down_by_hand() -> None:
    assert [row.name for row in ROWS] == list(EXPECTED)
    assert list(BY_NAME) == list(EXPECTED)


@EACH_ROW
def test_row_is_as_written_down_by_hand(row: CommandRow) -> None:
    yes = {True: "yes", False: "no"}
    cells = [
        row.command_set.name.lower(),
        row.data.name.lower(),
        row.addresses.name.lower(),
        "w" if row.change is Change.WRITES else "-",
        row.order.name.lower(),
        row.attention.name.lower(),
        yes[row.reservation.write_exclusive],
        yes[row.reservation.exclusive_access],
        yes[row.state.standby],
        yes[row.state.unavailable],
        yes[row.on_medium.in_progress],
        yes[row.on_medium.format_failed],
        yes[row.on_medium.sanitize_failed],
        row.function.value if row.function else "-",
    ]
    assert cells == EXPECTED[row.name]


@EACH_ROW
def test_row_codes_are_those_of_its_name(row: CommandRow) -> None:
    if row.service_action is None:
        assert row.opcode is codes.Opcode[row.name]
        return
    enumeration = {
        codes.Opcode.SERVICE_ACTION_IN_16: codes.ServiceActionIn16,
        codes.Opcode.SANITIZE: codes.Sanitize,
        codes.Opcode.MAINTENANCE_IN: codes.MaintenanceIn,
        codes.Opcode.PERSISTENT_RESERVE_IN: codes.PersistentReserveIn,
        codes.Opcode.PERSISTENT_RESERVE_OUT: codes.PersistentReserveOut,
        codes.Opcode.MAINTENANCE_OUT: codes.MaintenanceOut,
        codes.Opcode.EXTENDED_COPY: codes.ThirdPartyCopyOut,
        codes.Opcode.RECEIVE_COPY_RESULTS: codes.ThirdPartyCopyIn,
        codes.Opcode.SITE_IN: codes.SiteIn,
        codes.Opcode.SITE_OUT: codes.SiteOut,
    }[row.opcode]
    assert row.service_action == enumeration[row.name]


@EACH_ROW
def test_layout_is_that_of_the_command(row: CommandRow) -> None:
    cdb = row.layout.pack()
    assert row.layout.name == "".join(word.capitalize() for word in row.name.split("_"))
    assert cdb[0] == row.opcode
    assert row.layout.length == {0: 6, 1: 10, 2: 10, 4: 16, 5: 12, 6: 16}[row.opcode >> 5]
    assert row.layout.mask[0] == row.opcode
    if row.service_action is not None:
        assert cdb[1] & 0x1F == row.service_action
        assert row.layout.mask[1] & 0x1F == row.service_action


@EACH_ROW
def test_no_command_takes_a_vendor_specific_or_aca_control_byte(row: CommandRow) -> None:
    assert row.layout.mask[-1] == 0


@EACH_ROW
def test_analysis_finds_the_row_of_a_command(row: CommandRow) -> None:
    assert analysis.analyse(row.layout.pack().ljust(16, b"\0")) is row
    assert analysis.has_opcode(row.opcode)


def test_analysis_finds_nothing_for_any_other_opcode() -> None:
    known = {row.opcode for row in ROWS}
    others = [code for code in range(256) if code not in known]
    assert all(analysis.analyse(bytes([code, *range(1, 16)])) is None for code in others)
    assert not any(analysis.has_opcode(code) for code in others)


def test_analysis_finds_nothing_for_any_other_service_action() -> None:
    known = {(row.opcode, row.service_action) for row in ROWS}
    with_actions = {row.opcode for row in ROWS if row.service_action is not None}
    for code in with_actions:
        for action in range(32):
            found = analysis.analyse(bytes([code, action]) + bytes(14))
            assert (found is not None) is ((code, action) in known)


def test_only_a_copy_asks_for_a_function() -> None:
    assert [row.name for row in ROWS if row.function] == ["EXTENDED_COPY_LID1"]
    assert analysis.asks_for_function(bytes([0x83]) + bytes(15))
    assert not analysis.asks_for_function(bytes([0x88]) + bytes(15))
    assert not analysis.asks_for_function(b"\xff" + bytes(15))
    assert BY_NAME["EXTENDED_COPY_LID1"].function is Function.DIRECT_BACKUP


TIMEOUTS_BY_HAND = {
    (5, 60): """
        GET_LBA_STATUS READ_6 READ_10 READ_12 READ_16 WRITE_6 WRITE_10 WRITE_12 WRITE_16
        WRITE_AND_VERIFY_10 WRITE_AND_VERIFY_12 WRITE_AND_VERIFY_16 VERIFY_10 VERIFY_12 VERIFY_16
        COMPARE_AND_WRITE WRITE_ATOMIC_16 ORWRITE_16 PREFETCH_10 PREFETCH_16
        """,
    (30, 180): """
        START_STOP_UNIT SYNCHRONIZE_CACHE_10 SYNCHRONIZE_CACHE_16
        REGISTER RESERVE RELEASE CLEAR PREEMPT PREEMPT_AND_ABORT REGISTER_AND_IGNORE_EXISTING_KEY
        REGISTER_AND_MOVE SEND_DIAGNOSTIC PAIR_IN PAIR_OUT
        """,
    (60, 600): "WRITE_SAME_10 WRITE_SAME_16 UNMAP EXTENDED_COPY_LID1",
    (3600, 604800): "FORMAT_UNIT SANITIZE_OVERWRITE SANITIZE_BLOCK_ERASE",
}
"""Nominal and recommended seconds -> commands; all others are answered from memory."""


@EACH_ROW
def test_timeouts_are_as_written_down_by_hand(row: CommandRow) -> None:
    found = [pair for pair, names in TIMEOUTS_BY_HAND.items() if row.name in names.split()]
    assert [tuple(row.timeouts)] == (found or [(1, 30)])


def test_a_second_row_for_a_command_is_refused() -> None:
    for name in ("READ_10", "REPORT_LUNS", "GET_LBA_STATUS"):
        with pytest.raises(ValueError, match="two rows"):
            analysis._places((*ROWS, BY_NAME[name]))


WITH_LBA = [row for row in ROWS if "lba" in {field.name for field in row.layout.fields}]


@pytest.mark.parametrize("row", WITH_LBA, ids=lambda row: row.name)
def test_range_decoder_reads_what_the_layout_says(row: CommandRow) -> None:
    decode = range_decoder(row)
    if row.addresses not in (Addresses.RANGE, Addresses.RANGE_OR_REST):
        assert decode is None
        return
    assert decode is not None
    widths = {field.name: field.width for field in row.layout.fields}
    for lba in (0, 1, 0x1FFFFF, (1 << widths["lba"]) - 1):
        for blocks in (1, 7, (1 << widths["transfer_length"]) - 1):
            cdb = row.layout.pack(lba=lba, transfer_length=blocks).ljust(16, b"\0")
            assert decode(cdb)[1:] == (lba, blocks)
    assert row.layout.fields[-1].byte > length_byte(row)


@pytest.mark.parametrize("name", ["READ_6", "WRITE_6"])
def test_six_byte_command_with_length_0_means_256_blocks(name: str) -> None:
    decode = range_decoder(BY_NAME[name])
    assert decode is not None
    assert decode(BY_NAME[name].layout.pack(lba=0x150005).ljust(16, b"\0")) == (0, 0x150005, 256)


def test_range_decoder_gives_byte_1_as_flags() -> None:
    decode = range_decoder(BY_NAME["READ_16"])
    assert decode is not None
    cdb = BY_NAME["READ_16"].layout.pack(dpo=1, fua=1, lba=3, transfer_length=4)
    assert decode(cdb) == (0x18, 3, 4)


def test_columns_fit_each_other() -> None:
    for row in ROWS:
        if row.change is Change.WRITES:
            assert row.data in (Data.OUT, Data.NONE), row.name
            assert row.reservation == NEITHER, row.name
        if row.order is Order.AT_ONCE:
            assert row.attention is not Attention.REPORTED, row.name
        if row.reservation.exclusive_access:
            assert row.reservation.write_exclusive, row.name
        if row.state.unavailable:
            assert row.state.standby, row.name
        if row.command_set is CommandSet.SPC:
            assert row.addresses is Addresses.NOTHING, row.name
