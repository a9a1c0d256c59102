"""Every command under every reservation, from every kind of I_T nexus, held against a table that
was written down by hand from SPC-4 (tables 65 and 66, 5.13.3), SBC-4 (table 13) and SPC-2 (5.5.1).

`A` = carried out, `C` = RESERVATION CONFLICT. The columns are those of the standards:

    WE EA   another I_T nexus holds Write Exclusive / Exclusive Access; from any I_T nexus
    RR      a type of registrants only or all registrants; from a registered I_T nexus
    we ea   the same, of write exclusive / exclusive access kind; from one that is not registered
    R       another I_T nexus has the unit by RESERVE

A command with forms that differ has a line for each.
"""

from __future__ import annotations

import pytest

from daiko.command_control.command_table import BY_NAME, ROWS, CommandSet
from daiko.scsi import persistent_reservation as layouts
from daiko.scsi.opcode import Opcode, Status
from daiko.scsi.persistent_reservation import MoveList, ReservationType, ReserveOutList
from daiko.scsi.transport_id import TransportId
from target.fake import FakeTask, Host, MemoryKeeper, host_of, unit_of
from target.reserving import GOOD, register, reserve
from target.test_logical_unit import CopyManager

#                                             WE EA RR we ea R
BY_HAND = """
TEST_UNIT_READY                               A  A  A  A  A  C
REQUEST_SENSE                                 A  A  A  A  A  A
INQUIRY                                       A  A  A  A  A  A
MODE_SELECT_6                                 C  C  A  C  C  C
MODE_SELECT_10                                C  C  A  C  C  C
MODE_SENSE_6                                  A  C  A  A  C  C
MODE_SENSE_10                                 A  C  A  A  C  C
PREVENT_ALLOW_MEDIUM_REMOVAL/allow            A  A  A  A  A  A
PREVENT_ALLOW_MEDIUM_REMOVAL/prevent          C  C  A  C  C  C
REPORT_LUNS                                   A  A  A  A  A  A
REPORT_TARGET_PORT_GROUPS                     A  A  A  A  A  A
SET_TARGET_PORT_GROUPS                        C  C  A  C  C  C
REPORT_SUPPORTED_OPERATION_CODES              A  C  A  A  C  C
REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS    A  C  A  A  C  C
REPORT_IDENTIFYING_INFORMATION                A  A  A  A  A  A
SET_IDENTIFYING_INFORMATION                   C  C  A  C  C  C
REPORT_TIMESTAMP                              A  A  A  A  A  A
SET_TIMESTAMP                                 C  C  A  C  C  C
LOG_SENSE                                     A  A  A  A  A  A
LOG_SELECT                                    C  C  A  C  C  C
SEND_DIAGNOSTIC                               C  C  A  C  C  C
RECEIVE_DIAGNOSTIC_RESULTS                    A  C  A  A  C  C
READ_BUFFER                                   A  C  A  A  C  C
WRITE_BUFFER                                  C  C  A  C  C  C
READ_KEYS                                     A  A  A  A  A  C
READ_RESERVATION                              A  A  A  A  A  C
REPORT_CAPABILITIES                           A  A  A  A  A  C
READ_FULL_STATUS                              A  A  A  A  A  C
REGISTER                                      A  A  A  A  A  C
REGISTER_AND_IGNORE_EXISTING_KEY              A  A  A  A  A  C
RESERVE                                       C  C  C  C  C  C
RELEASE                                       A  A  A  C  C  C
CLEAR                                         A  A  A  C  C  C
PREEMPT                                       A  A  A  C  C  C
PREEMPT_AND_ABORT                             A  A  A  C  C  C
REGISTER_AND_MOVE                             C  C  C  C  C  C
RESERVE_6                                     C  C  A  C  C  C
RESERVE_10                                    C  C  A  C  C  C
RELEASE_6                                     C  C  A  C  C  A
RELEASE_10                                    C  C  A  C  C  A
START_STOP_UNIT/start                         A  A  A  A  A  A
START_STOP_UNIT/stop                          C  C  A  C  C  C
START_STOP_UNIT/active                        C  C  A  C  C  C
READ_CAPACITY_10                              A  A  A  A  A  A
READ_CAPACITY_16                              A  A  A  A  A  A
GET_LBA_STATUS                                A  C  A  A  C  C
READ_6                                        A  C  A  A  C  C
READ_10                                       A  C  A  A  C  C
READ_12                                       A  C  A  A  C  C
READ_16                                       A  C  A  A  C  C
WRITE_6                                       C  C  A  C  C  C
WRITE_10                                      C  C  A  C  C  C
WRITE_12                                      C  C  A  C  C  C
WRITE_16                                      C  C  A  C  C  C
WRITE_AND_VERIFY_10                           C  C  A  C  C  C
WRITE_AND_VERIFY_12                           C  C  A  C  C  C
WRITE_AND_VERIFY_16                           C  C  A  C  C  C
VERIFY_10                                     A  C  A  A  C  C
VERIFY_12                                     A  C  A  A  C  C
VERIFY_16                                     A  C  A  A  C  C
SYNCHRONIZE_CACHE_10                          C  C  A  C  C  C
SYNCHRONIZE_CACHE_16                          C  C  A  C  C  C
WRITE_SAME_10                                 C  C  A  C  C  C
WRITE_SAME_16                                 C  C  A  C  C  C
COMPARE_AND_WRITE                             C  C  A  C  C  C
ORWRITE_16                                    C  C  A  C  C  C
WRITE_ATOMIC_16                               C  C  A  C  C  C
UNMAP                                         C  C  A  C  C  C
PREFETCH_10                                   A  C  A  A  C  C
PREFETCH_16                                   A  C  A  A  C  C
READ_DEFECT_DATA_10                           A  C  A  A  C  C
READ_DEFECT_DATA_12                           A  C  A  A  C  C
FORMAT_UNIT                                   C  C  A  C  C  C
SANITIZE                                      C  C  A  C  C  C
EXTENDED_COPY_LID1                            C  C  A  C  C  C
RECEIVE_COPY_STATUS_LID1                      A  A  A  A  A  C
RECEIVE_COPY_OPERATING_PARAMETERS             A  A  A  A  A  C
RECEIVE_COPY_FAILURE_DETAILS_LID1             A  A  A  A  A  C
REPORT_ALIASES                                A  A  A  A  A  A
CHANGE_ALIASES                                C  C  A  C  C  C
"""
EXPECTED = {line.split()[0]: line.split()[1:] for line in BY_HAND.strip().splitlines()}

FORMS = {
    "PREVENT_ALLOW_MEDIUM_REMOVAL": {"allow": {}, "prevent": {"prevent": 1}},
    "START_STOP_UNIT": {"start": {"start": 1}, "stop": {}, "active": {"power_condition": 1}},
}
FAMILIES = {0x48: "SANITIZE", 0x3B: "WRITE_BUFFER", 0x3C: "READ_BUFFER", 0x9B: "READ_BUFFER"}
"""Opcodes of which each service action or mode may be a row, and the standard has one line."""

KEY, OWN_KEY = 0x1111, 0x2222
RR = frozenset(ReservationType) - {
    ReservationType.WRITE_EXCLUSIVE,
    ReservationType.EXCLUSIVE_ACCESS,
}
CASES = [
    (row.name, form)
    for row in ROWS
    if row.command_set is not CommandSet.SITE  # A management unit has no reservations.
    for form in FORMS.get(row.name, {"": {}})
]


def line_of(name: str, form: str) -> list[str]:
    row = BY_NAME[name]
    name = FAMILIES.get(row.opcode, name)
    return EXPECTED[f"{name}/{form}" if form else name]


def command(host: Host, name: str, form: str, key: int) -> FakeTask:
    """The command in its simplest form; with a key where one is needed."""
    row = BY_NAME[name]
    fields = FORMS.get(name, {}).get(form, {})
    data = b""
    if row.opcode == Opcode.PERSISTENT_RESERVE_OUT:
        port = TransportId("iqn.2026-11.test:third", bytes(6))
        basic = ReserveOutList(key, KEY if name.startswith("PREEMPT") else 3)
        data = (MoveList(key, 3, port, 1) if name == "REGISTER_AND_MOVE" else basic).pack()
        type = ReservationType.WRITE_EXCLUSIVE
        fields = {"parameter_list_length": len(data), "type": type}
    return host.start(row.layout.pack(**fields), data)


def situation(holds: ReservationType | None) -> tuple[Host, Host]:
    """(a host that has the unit reserved, another that is not registered)."""
    unit = unit_of(third_party_copy=CopyManager(), keeper=MemoryKeeper())
    holder = host_of(unit)
    if holds is None:
        assert holder.run(layouts.Reserve6.pack()).status == GOOD
    else:
        assert register(holder, KEY) == GOOD
        assert reserve(holder, KEY, holds) == GOOD
    return holder, Host(holder.access, "iqn.2026-11.test:other", isid=2)


def letter(task: FakeTask) -> str:
    return "C" if task.status == Status.RESERVATION_CONFLICT else "A"


def test_every_command_has_a_line() -> None:
    missing = [
        f"{name}/{form}".strip("/")
        for name, form in CASES
        if FAMILIES.get(BY_NAME[name].opcode, f"{name}/{form}".strip("/")) not in EXPECTED
    ]
    assert not missing, "look them up in the standards, and write them down in BY_HAND"


@pytest.mark.parametrize(("name", "form"), CASES, ids=str)
async def test_command_is_carried_out_where_the_standard_says(name: str, form: str) -> None:
    plain_we, plain_ea, registered, rr_we, rr_ea, reserved = line_of(name, form)
    found, expected = {}, {}
    for type in ReservationType:
        is_we = type.name.startswith("WRITE")
        for who in ("other", "registrant"):
            _, host = situation(type)
            if who == "registrant":
                assert register(host, OWN_KEY) == GOOD
            task = command(host, name, form, OWN_KEY)
            found[type.name, who] = letter(task)
            if type not in RR:
                cell = plain_we if is_we else plain_ea
                if who == "other" and name in ("RELEASE", "CLEAR", "PREEMPT", "PREEMPT_AND_ABORT"):
                    cell = "C"  # table 66 tells the registered from the others for every type
            elif who == "other":
                cell = rr_we if is_we else rr_ea
            else:
                cell = registered
            expected[type.name, who] = cell
    _, host = situation(None)
    found["RESERVE", "other"] = letter(command(host, name, form, OWN_KEY))
    expected["RESERVE", "other"] = reserved
    if name == "REGISTER":  # an unregistered nexus registers with the key 0 (table 67)
        expected = {case: ("C" if case[1] == "other" else cell) for case, cell in expected.items()}
    assert found == expected


@pytest.mark.parametrize("type", ReservationType, ids=lambda type: type.name)
@pytest.mark.parametrize(("name", "form"), CASES, ids=str)
async def test_holder_is_never_kept_out(name: str, form: str, type: ReservationType) -> None:
    holder, _ = situation(type)
    task = command(holder, name, form, KEY)
    if name == "RESERVE" and type is not ReservationType.WRITE_EXCLUSIVE:
        assert letter(task) == "C"  # a holder cannot change the type (5.13.9)
    elif name == "REGISTER_AND_MOVE" and type.is_all_registrants:
        assert letter(task) == "C"  # 5.13.8
    else:
        assert letter(task) == "A"


def test_unregistered_nexus_may_register_under_every_reservation() -> None:
    for type in ReservationType:
        _, host = situation(type)
        assert register(host, OWN_KEY) == GOOD


@pytest.mark.parametrize(("name", "form"), CASES, ids=str)
async def test_holder_of_a_reserve_is_kept_from_persistent_reservations_only(
    name: str, form: str
) -> None:
    holder, _ = situation(None)
    of_persistent = BY_NAME[name].opcode in (
        Opcode.PERSISTENT_RESERVE_IN,
        Opcode.PERSISTENT_RESERVE_OUT,
    )
    assert letter(command(holder, name, form, 0)) == ("C" if of_persistent else "A")
