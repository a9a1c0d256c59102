"""Parameter data of the REPORT commands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.layout import MalformedData
from daiko.scsi.report import (
    CommandTimeouts,
    Support,
    SupportedCommand,
    TaskManagementTimeouts,
    lun_field,
    lun_number,
    pack_all_commands,
    pack_one_command,
    pack_report_luns,
    pack_task_management_functions,
    parse_all_commands,
    parse_one_command,
    parse_report_luns,
)
from daiko.scsi.sbc import Read16

# --- LUN fields


@given(st.integers(0, 16383))
def test_lun_number_of_its_field_is_the_number(lun: int) -> None:
    assert lun_number(lun_field(lun)) == lun


@pytest.mark.parametrize(
    ("lun", "field"),
    [(0, "0000"), (1, "0001"), (255, "00ff"), (256, "4100"), (16383, "7fff")],
)
def test_lun_field_uses_peripheral_then_flat_addressing(lun: int, field: str) -> None:
    assert lun_field(lun) == int(field + "000000000000", 16)


@pytest.mark.parametrize("lun", [-1, 16384])
def test_lun_that_does_not_fit_is_refused(lun: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        lun_field(lun)


def test_flat_addressing_of_a_small_lun_is_understood() -> None:
    assert lun_number(0x4001 << 48) == 1


@pytest.mark.parametrize("field", [0x0101 << 48, 0x8001 << 48, 0xC101 << 48, 1 << 32, 1], ids=hex)
def test_other_forms_of_addressing_have_no_number(field: int) -> None:
    assert lun_number(field) is None


# --- REPORT LUNS


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_parse_of_pack_returns_the_luns(fields: list[int]) -> None:
    assert parse_report_luns(pack_report_luns(fields)) == tuple(fields)


def test_report_luns_has_its_length_in_front() -> None:
    assert pack_report_luns([0, 1 << 48]).hex() == "0000001000000000" + "00" * 8 + "0001" + "00" * 6


@pytest.mark.parametrize("length", [0, 3, 8, 23])
def test_report_luns_cut_short_is_malformed(length: int) -> None:
    with pytest.raises(MalformedData):
        parse_report_luns(pack_report_luns([0, 1])[:length])


# --- REPORT SUPPORTED OPERATION CODES

seconds = st.integers(0, 0xFFFFFFFF)
timeouts = st.one_of(st.none(), st.builds(CommandTimeouts, seconds, seconds))
commands = st.lists(
    st.builds(
        SupportedCommand,
        st.integers(0, 255),
        st.one_of(st.none(), st.integers(0, 0xFFFF)),
        st.sampled_from([6, 10, 12, 16]),
        timeouts,
    ),
    max_size=10,
)


@given(commands)
def test_parse_of_pack_returns_the_commands(value: list[SupportedCommand]) -> None:
    assert parse_all_commands(pack_all_commands(value)) == tuple(value)


def test_all_commands_are_written_as_the_standard_says() -> None:
    data = pack_all_commands([SupportedCommand(0x88, None, 16), SupportedCommand(0x83, 0, 16)])
    assert data.hex(" ", 4) == "00000010 88000000 00000010 83000000 00010010"


def test_timeouts_are_announced_and_added() -> None:
    data = pack_all_commands([SupportedCommand(0x00, None, 6, CommandTimeouts(5, 60))])
    assert data.hex(" ", 4) == "00000014 00000000 00020006 000a0000 00000005 0000003c"


@given(st.sampled_from([Support.STANDARD, Support.VENDOR]), timeouts)
def test_parse_of_one_command_returns_its_usage(
    support: Support, said: CommandTimeouts | None
) -> None:
    data = pack_one_command(support, Read16.mask, said)
    assert parse_one_command(data) == (support, Read16.mask)
    assert bool(data[1] & 0x80) is (said is not None)
    assert len(data) == 20 + (12 if said else 0)
    if said:
        assert CommandTimeouts.parse(data, 20) == said


def test_command_that_is_not_supported_has_no_usage_and_no_timeouts() -> None:
    assert pack_one_command(Support.NOT_SUPPORTED, b"", CommandTimeouts(1, 2)) == bytes.fromhex(
        "00010000"
    )


@pytest.mark.parametrize("data", [b"", bytes(3), b"\0\3\0\x10" + bytes(15)])
def test_usage_cut_short_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedData):
        parse_one_command(data)


@pytest.mark.parametrize("data", [b"", b"\0\0\0\x09" + bytes(9), b"\0\0\0\x08" + bytes(7)])
def test_commands_cut_short_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedData):
        parse_all_commands(data)


# --- REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS


def test_task_management_functions_are_bits() -> None:
    names = ("abort_task", "abort_task_set", "logical_unit_reset", "it_nexus_reset")
    assert pack_task_management_functions(*names).hex() == "c8010000"
    timeouts = TaskManagementTimeouts(600, 50, frozenset({"abort_task", "it_nexus_reset"}))
    data = pack_task_management_functions(*names, timeouts=timeouts)
    assert data.hex(" ", 4) == "c801000c 01008001 00000258 00000032"


def test_unknown_task_management_function_is_refused() -> None:
    with pytest.raises(TypeError):
        pack_task_management_functions("abort_everything")
