"""Cells of a function table on their way to another site and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daiko.command_control.function_table import CopyLimits, FunctionCell, Known, ReachCell
from daiko.command_control.plan import Function, Mode
from daiko.command_control.site_terms import (
    FUNCTION_CODES,
    FUNCTIONS,
    MODE_CODES,
    MODES,
    foreign,
    function_cell,
    peer_cell,
    peer_reach,
    reach_cell,
)
from daiko.scsi.site_values import Answer, FunctionCode, KnownCode, PeerCell
from daiko.state.record import BackendRecord

LIMITS = CopyLimits(64, 32, 4096, 1 << 28, 0xFFFF, 16, True, False, (0x02,), (0xE4, 0xE6), True)


def test_every_function_mode_and_origin_has_a_code() -> None:
    assert set(FUNCTION_CODES) == set(Function)
    assert set(FUNCTIONS) == set(FunctionCode)
    assert set(MODE_CODES) == set(Mode)
    assert {MODES[code]: code for code in MODES} == MODE_CODES


@pytest.mark.parametrize("known", list(Known), ids=str)
@pytest.mark.parametrize("limits", [None, LIMITS], ids=["no-limits", "limits"])
@pytest.mark.parametrize("can", [True, False])
def test_cell_comes_back_as_it_was(known: Known, limits: CopyLimits | None, can: bool) -> None:
    cell = FunctionCell(can, known, 1793000000.0, "it said so", limits, "DAIKO X 0001")
    sent = peer_cell("sd1", Function.VOLUME_COPY, cell)
    assert (sent.controller, sent.function) == ("sd1", FunctionCode.VOLUME_COPY)
    assert function_cell(PeerCell.of(sent.body())) == cell
    reach = ReachCell(can, known, 1793000000.0, "another network")
    assert reach_cell(peer_reach("sd1", "sd2/0", reach)) == reach


def test_what_is_not_known_is_no_cell() -> None:
    nothing = peer_cell("sd1", Function.DIRECT_BACKUP, None)
    assert (nothing.answer, nothing.known) == (Answer.NOT_KNOWN, KnownCode.NOT_KNOWN)
    assert function_cell(nothing) is None
    odd = peer_reach("sd1", "sd2", ReachCell(True, Known.PROBED, 1, ""))
    assert reach_cell(replace(odd, known=KnownCode.NOT_KNOWN)) is None


def test_limits_and_reasons_that_do_not_fit_are_sent_as_they_fit() -> None:
    vast = replace(LIMITS, max_cscds=1 << 80, concurrent=-1, segment_types=(2, 700))
    cell = FunctionCell(True, Known.DECLARED, 0, "because\n" + "x" * 500, vast)
    back = function_cell(PeerCell.of(peer_cell("sd1", Function.DIRECT_BACKUP, cell).body()))
    assert back is not None
    assert back.limits is not None
    assert (back.limits.max_cscds, back.limits.concurrent) == (0xFFFFFFFF, 0)
    assert back.limits.segment_types == (2,)
    assert back.reason == "because " + "x" * 247


def test_no_back_end_of_ours_can_have_a_foreign_name() -> None:
    name = foreign("osaka", "sd1")
    assert name == "osaka:sd1"
    with pytest.raises(ValueError, match="name"):
        BackendRecord(name=name, type="internal")
