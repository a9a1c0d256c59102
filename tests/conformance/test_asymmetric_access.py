"""SPC-4, 5.16.2: which commands each asymmetric access state allows, row by row, from a table that
was written by hand from the standard, and what the others are answered.

The standard names the commands that a device server shall support in standby, in unavailable and
in transition, where it supports them in active; it allows others beside them. What we allow
beside them is marked: `may`.
"""

from __future__ import annotations

import pytest

from daiko.command_control.command_table import ROWS, CommandRow, CommandSet
from daiko.scsi.opcode import Status
from daiko.scsi.target_port_groups import AccessState
from daiko.target.access import Access
from daiko.target.asymmetric_access import GroupAccess, TargetPortGroups
from target.fake import FakeTask, Host, MemoryKeeper, unit_of
from target.test_logical_unit import CopyManager

# 5.16.2.4.4 (standby), 5.16.2.4.5 (unavailable), 5.16.2.6 (transitions between states).
SHALL = {
    AccessState.STANDBY: """
        INQUIRY LOG_SELECT LOG_SENSE MODE_SELECT_6 MODE_SELECT_10 MODE_SENSE_6 MODE_SENSE_10
        REPORT_LUNS RECEIVE_DIAGNOSTIC_RESULTS SEND_DIAGNOSTIC REPORT_TARGET_PORT_GROUPS
        SET_TARGET_PORT_GROUPS REQUEST_SENSE PERSISTENT_RESERVE_IN PERSISTENT_RESERVE_OUT
        READ_BUFFER WRITE_BUFFER
    """,
    AccessState.UNAVAILABLE: """
        INQUIRY REPORT_LUNS REPORT_TARGET_PORT_GROUPS SET_TARGET_PORT_GROUPS REQUEST_SENSE
        READ_BUFFER WRITE_BUFFER
    """,
    AccessState.TRANSITIONING: """
        INQUIRY REPORT_LUNS REPORT_TARGET_PORT_GROUPS REQUEST_SENSE READ_BUFFER WRITE_BUFFER
    """,
}
MAY = {
    # A host that finds the disk through a standby port wants to know how large it is.
    AccessState.STANDBY: "READ_CAPACITY_10 READ_CAPACITY_16",
    AccessState.UNAVAILABLE: "",
    AccessState.TRANSITIONING: "",
}
NOT_ACCESSIBLE = {
    AccessState.STANDBY: (0x2, 0x04, 0x0B),
    AccessState.UNAVAILABLE: (0x2, 0x04, 0x0C),
    AccessState.OFFLINE: (0x2, 0x04, 0x0C),
    AccessState.TRANSITIONING: (0x2, 0x04, 0x0A),
}
PREFIXES = ("PERSISTENT_RESERVE_IN", "PERSISTENT_RESERVE_OUT", "READ_BUFFER", "WRITE_BUFFER")
"""Rows of service actions and modes are named after these."""
BARRED = set(NOT_ACCESSIBLE.values())


def is_allowed(row: CommandRow, state: AccessState) -> bool:
    if state.is_active:
        return True
    if state is AccessState.OFFLINE:
        state = AccessState.UNAVAILABLE
    names = {*SHALL[state].split(), *MAY[state].split()}
    return row.name in names or any(
        prefix in names and (row.name.startswith(prefix) or _of_family(row, prefix))
        for prefix in PREFIXES
    )


def _of_family(row: CommandRow, prefix: str) -> bool:
    codes = {"PERSISTENT_RESERVE_IN": 0x5E, "PERSISTENT_RESERVE_OUT": 0x5F}
    return row.opcode == codes.get(prefix)


OF_DISKS = [row for row in ROWS if row.command_set is not CommandSet.SITE]
"""A management unit has no asymmetric access states."""


def host_at(state: AccessState) -> Host:
    """A host at port 2, whose group is in this state, while port 1 is active."""
    groups = TargetPortGroups()
    groups.replace({1: 1, 2: 2}, {2: GroupAccess(state)})
    access = Access()
    access.publish(
        {
            "*": {
                0: unit_of(
                    port_groups=groups, third_party_copy=CopyManager(), keeper=MemoryKeeper()
                )
            }
        }
    )
    host = Host(access, port=2)
    if state is AccessState.TRANSITIONING:
        assert host.nexus.units[0].bars, "the state bars something"
    return host


@pytest.mark.parametrize("state", AccessState, ids=lambda state: state.name.lower())
@pytest.mark.parametrize("row", OF_DISKS, ids=lambda row: row.name)
def test_row_is_allowed_where_the_standard_says(row: CommandRow, state: AccessState) -> None:
    host = host_at(state)
    task = host.start(row.layout.pack())
    if is_allowed(row, state):
        assert task.answers == 0 or task.condition not in BARRED
    else:
        assert task.condition == NOT_ACCESSIBLE[state]


@pytest.mark.parametrize("row", OF_DISKS, ids=lambda row: row.name)
def test_columns_say_the_same(row: CommandRow) -> None:
    assert row.state == (
        is_allowed(row, AccessState.STANDBY),
        is_allowed(row, AccessState.UNAVAILABLE),
        is_allowed(row, AccessState.TRANSITIONING),
    )


def test_no_command_of_the_copy_manager_is_allowed_where_blocks_cannot_be_read() -> None:
    for row in ROWS:
        if row.command_set is CommandSet.THIRD_PARTY_COPY:
            assert not any(row.state)


def test_unit_attention_is_reported_before_the_state() -> None:
    host = host_at(AccessState.STANDBY)
    (itl,) = set(host.nexus.units.values())
    itl.unit.asymmetric_access.groups.replace(
        {1: 1, 2: 2}, {2: GroupAccess(AccessState.UNAVAILABLE)}
    )
    itl.unit.asymmetric_access.follow()
    assert condition(host, "00" * 6) == (0x6, 0x2A, 0x06)
    assert condition(host, "00" * 6) == (0x2, 0x04, 0x0C)


def condition(host: Host, cdb: str) -> tuple[int, int, int] | None:
    task: FakeTask = host.run(cdb)
    assert task.status == (Status.CHECK_CONDITION if task.sense else Status.GOOD)
    return task.condition


@pytest.mark.parametrize(
    ("state", "qualifier"),
    [
        (AccessState.ACTIVE_OPTIMIZED, 0),
        (AccessState.ACTIVE_NON_OPTIMIZED, 0),
        (AccessState.STANDBY, 0),
        (AccessState.UNAVAILABLE, 1),
        (AccessState.OFFLINE, 1),
        (AccessState.TRANSITIONING, 0),
    ],
)
@pytest.mark.parametrize("cdb", ["120000006000", "120100006000", "12018300ff00"])
def test_inquiry_says_by_its_peripheral_qualifier_that_the_port_is_unavailable(
    state: AccessState, qualifier: int, cdb: str
) -> None:
    assert host_at(state).run(cdb).data_in[0] >> 5 == qualifier
