"""Which of several cells holds."""

from __future__ import annotations

from itertools import permutations

import pytest

from command_control.situation import LIO, SCST, can, cannot, reaches, reaches_not
from daiko.command_control.function_table import (
    LEAST_LIMITS,
    FunctionCell,
    FunctionTable,
    Known,
    ReachCell,
)
from daiko.command_control.plan import Function
from daiko.mapping.extent import DeviceId

BACKUP = Function.DIRECT_BACKUP
VAULT = DeviceId("vault", 3)


@pytest.mark.parametrize(
    ("cells", "holds"),
    [
        pytest.param([can(LIO, at=1), cannot("no", at=2)], "no", id="newest of what was found"),
        pytest.param(
            [can(LIO, at=9), cannot("no", Known.DECLARED, at=1)], "no", id="by hand over probed"
        ),
        pytest.param(
            [cannot("failed", Known.LEARNED, at=9), can(LIO, Known.DECLARED, at=1)],
            "it says so",
            id="by hand over learned",
        ),
        pytest.param(
            [cannot("failed", Known.LEARNED, at=2), can(LIO, at=3)],
            "it says so",
            id="a newer probe over what was learned",
        ),
        pytest.param(
            [cannot("failed", Known.LEARNED, at=3), can(LIO, at=2)],
            "failed",
            id="what was learned over an older probe",
        ),
        pytest.param(
            [cannot("x", Known.DECLARED, at=1), cannot("y", Known.DECLARED, at=2)],
            "y",
            id="the later of two by hand",
        ),
    ],
)
def test_stronger_cell_holds_in_whatever_order_they_come(
    cells: list[FunctionCell], holds: str
) -> None:
    for order in permutations(cells):
        table = FunctionTable.of([("sd1", BACKUP, cell) for cell in order])
        cell = table.function("sd1", BACKUP)
        assert cell is not None
        assert cell.reason == holds


def test_what_nobody_said_is_not_known() -> None:
    table = FunctionTable.of([("sd1", BACKUP, can(LIO))])
    assert table.function("sd1", Function.VOLUME_COPY) is None
    assert table.function("sd2", BACKUP) is None
    assert table.reaches("sd1", VAULT) is None


def test_able_by_hand_keeps_the_limits_that_were_found() -> None:
    by_hand = can(None, Known.DECLARED, at=5)
    table = FunctionTable.of([("sd1", BACKUP, by_hand), ("sd1", BACKUP, can(SCST, at=1))])
    cell = table.function("sd1", BACKUP)
    assert cell is not None
    assert (cell.known, cell.limits) == (Known.DECLARED, SCST)


def test_able_by_hand_without_limits_gets_the_form_that_all_take() -> None:
    cell = FunctionTable.of([("sd1", BACKUP, can(None, Known.DECLARED))]).function("sd1", BACKUP)
    assert cell is not None
    assert cell.limits == LEAST_LIMITS


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        pytest.param({"vault": reaches()}, True, id="whole back end"),
        pytest.param({"vault/3": reaches()}, True, id="one device"),
        pytest.param({"vault/4": reaches()}, None, id="another device"),
        pytest.param(
            {"vault": reaches(at=9), "vault/3": reaches_not("masked")}, False, id="device first"
        ),
        pytest.param(
            {"vault": reaches(Known.DECLARED), "vault/3": reaches_not("masked", at=9)},
            True,
            id="back end by hand over device found",
        ),
        pytest.param(
            {
                "vault": reaches(Known.DECLARED),
                "vault/3": reaches_not("masked", Known.DECLARED),
            },
            False,
            id="device first when both by hand",
        ),
    ],
)
def test_reach_of_a_device(cells: dict[str, ReachCell], expected: bool | None) -> None:
    table = FunctionTable.of(reach=[("sd1", place, cell) for place, cell in cells.items()])
    cell = table.reaches("sd1", VAULT)
    assert (None if cell is None else cell.can) is expected
