"""The bars of the gate: every command row under every bar, and the order of the answers."""

from __future__ import annotations

import pytest

from daiko.command_control.command_table import ROWS, Change, CommandRow
from daiko.scsi import sense
from daiko.scsi.opcode import Status
from daiko.target.bar import Bar, answer_to_barred, barred_by

CHECK = Status.CHECK_CONDITION


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row_is_barred_by_what_its_columns_say(row: CommandRow) -> None:
    assert {bar for bar in Bar if barred_by(row) & bar} == {
        bar
        for bar, is_allowed in (
            (Bar.UNAVAILABLE, row.state.unavailable),
            (Bar.STANDBY, row.state.standby),
            (Bar.FORMATTING, row.on_medium.in_progress),
            (Bar.SANITIZING, row.on_medium.in_progress),
            (Bar.SELF_TEST, row.on_medium.in_progress),
            (Bar.FORMAT_FAILED, row.on_medium.format_failed),
            (Bar.SANITIZE_FAILED, row.on_medium.sanitize_failed),
            (Bar.TRANSITIONING, row.state.transitioning),
            (Bar.WRITE_EXCLUSIVE, row.reservation.write_exclusive),
            (Bar.EXCLUSIVE_ACCESS, row.reservation.exclusive_access),
            (Bar.RESERVED, row.reservation.reserved),
            (Bar.WRITE_PROTECTED, row.change is not Change.WRITES),
        )
        if not is_allowed
    }


@pytest.mark.parametrize(
    ("bars", "answer"),
    [
        pytest.param(Bar.UNAVAILABLE, (CHECK, sense.target_port_unavailable()), id="unavailable"),
        pytest.param(Bar.STANDBY, (CHECK, sense.target_port_in_standby()), id="standby"),
        pytest.param(Bar.FORMATTING, (CHECK, sense.format_in_progress()), id="formatting"),
        pytest.param(Bar.SANITIZING, (CHECK, sense.sanitize_in_progress()), id="sanitizing"),
        pytest.param(Bar.SELF_TEST, (CHECK, sense.self_test_in_progress(0)), id="self-test"),
        pytest.param(Bar.FORMAT_FAILED, (CHECK, sense.medium_format_corrupted()), id="no format"),
        pytest.param(Bar.SANITIZE_FAILED, (CHECK, sense.sanitize_command_failed()), id="unclean"),
        pytest.param(
            Bar.SANITIZING | Bar.WRITE_EXCLUSIVE | Bar.STANDBY,
            (CHECK, sense.target_port_in_standby()),
            id="the port's state comes before the medium's",
        ),
        pytest.param(
            Bar.SANITIZING | Bar.WRITE_EXCLUSIVE,
            (CHECK, sense.sanitize_in_progress()),
            id="the medium's state comes before a reservation",
        ),
        pytest.param(
            Bar.TRANSITIONING, (CHECK, sense.target_port_in_transition()), id="transitioning"
        ),
        pytest.param(Bar.WRITE_EXCLUSIVE, (Status.RESERVATION_CONFLICT, None), id="write excl."),
        pytest.param(Bar.EXCLUSIVE_ACCESS, (Status.RESERVATION_CONFLICT, None), id="excl. access"),
        pytest.param(Bar.RESERVED, (Status.RESERVATION_CONFLICT, None), id="reserved"),
        pytest.param(Bar.WRITE_PROTECTED, (CHECK, sense.write_protected()), id="write-protected"),
        pytest.param(
            Bar.STANDBY | Bar.EXCLUSIVE_ACCESS | Bar.WRITE_PROTECTED,
            (CHECK, sense.target_port_in_standby()),
            id="the port's state comes before a reservation",
        ),
        pytest.param(
            Bar.WRITE_EXCLUSIVE | Bar.WRITE_PROTECTED,
            (Status.RESERVATION_CONFLICT, None),
            id="a reservation comes before write protection",
        ),
    ],
)
def test_barred_command_is_answered_by_the_first_bar_in_order(bars: int, answer: object) -> None:
    assert answer_to_barred(int(bars)) == answer


def test_every_bar_has_an_answer() -> None:
    for bar in Bar:
        answer_to_barred(int(bar))
