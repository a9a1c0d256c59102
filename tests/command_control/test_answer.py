"""Answers of second commands in the host's terms."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_control.situation import DAIKO, LIO, address, directory, second
from daiko.command_control.answer import (
    Side,
    confirmed,
    failed_cover,
    failed_side,
    host_pointer,
    residual,
)
from daiko.command_control.generation import Cover, SecondCommand, generate
from daiko.command_control.plan import Step
from daiko.mapping.extent import DeviceId, Piece
from daiko.mapping.range_set import RangeSet
from daiko.scsi.copy_parameters import ExtendedCopy, ListIdUsage
from daiko.scsi.cscd import RECEIVING_LOGICAL_UNIT, IdentificationCscd
from daiko.scsi.segment import BlockToBlock, VerifyCscd
from daiko.scsi.sense import FieldPointer, ForwardedSense, Sense, SenseKey
from daiko.scsi.vpd import Designator

L0, L1, L2 = (DeviceId("sd1", lun) for lun in range(3))
ALL = directory(*map(address, (L0, L1, L2)))
ABORTED = Sense(SenseKey.COPY_ABORTED, 0x0D, 0x01, segment=2)


def run(source: DeviceId, destination: DeviceId, blocks: int, segment: int = 0) -> Step:
    return Step(
        Piece(source, 0, blocks), Piece(destination, 5000, blocks), second("sd1"), "", (), segment
    )


def command() -> SecondCommand:
    """Four segments of one command: 0 -> 1, 0 -> 2, 0 -> 1, 0 -> 0 (CSCDs at 16, 48 and 80)."""
    steps = [run(L0, L1, 10), run(L0, L2, 20), run(L0, L1, 30), run(L0, L0, 40)]
    (made,) = generate(steps, ALL, DAIKO)
    return made


@pytest.mark.parametrize(
    ("sense", "covers"),
    [
        pytest.param(ABORTED, 2, id="those before the failed one"),
        pytest.param(replace(ABORTED, segment=0), 0, id="none before the first"),
        pytest.param(replace(ABORTED, segment=None), 0, id="no number"),
        pytest.param(replace(ABORTED, segment=3), 3, id="the last"),
        pytest.param(replace(ABORTED, segment=4), 0, id="a number that the list has not"),
        pytest.param(
            replace(ABORTED, key=SenseKey.ILLEGAL_REQUEST), 0, id="refused before it began"
        ),
    ],
)
def test_what_a_failed_command_has_surely_copied(sense: Sense, covers: int) -> None:
    made = command()
    assert confirmed(made, sense) == made.covers[:covers]
    assert failed_cover(made, sense) == made.covers[covers]


def test_lio_says_nothing_and_nothing_is_confirmed() -> None:
    (made,) = generate([run(L0, L1, 10)], ALL, LIO)
    bare = Sense(SenseKey.COPY_ABORTED, 0x0D, 0x02, segment=0)
    assert confirmed(made, bare) == ()
    assert failed_cover(made, bare) == Cover(0, 0, 10)
    assert failed_side(made, bare) is None


def at(byte: int, **flags: bool) -> Sense:
    return replace(ABORTED, field=FieldPointer(byte, **flags))


FORWARDED = ForwardedSense(2, b"")


@pytest.mark.parametrize(
    ("sense", "side"),
    [
        pytest.param(replace(ABORTED, source=FORWARDED), Side.SOURCE, id="source forwarded"),
        pytest.param(
            replace(ABORTED, destination=FORWARDED), Side.DESTINATION, id="destination forwarded"
        ),
        pytest.param(
            replace(ABORTED, source=FORWARDED, destination=FORWARDED), None, id="both forwarded"
        ),
        pytest.param(at(16), Side.SOURCE, id="pointer at the source's CSCD"),
        pytest.param(at(48), Side.DESTINATION, id="pointer at the destination's CSCD"),
        pytest.param(at(79), Side.DESTINATION, id="pointer into the destination's CSCD"),
        pytest.param(at(80), None, id="pointer at a CSCD of another segment"),
        pytest.param(at(0), None, id="pointer at the header"),
        pytest.param(at(16, segment_relative=True), None, id="pointer into the segment"),
        pytest.param(at(16, in_cdb=True), None, id="pointer into the CDB"),
        pytest.param(replace(at(16), segment=3), None, id="one LU on both sides"),
        pytest.param(ABORTED, None, id="nothing said"),
    ],
)
def test_which_lu_it_was(sense: Sense, side: Side | None) -> None:
    assert failed_side(command(), sense) is side


def test_pointer_is_turned_to_the_hosts_own_list() -> None:
    cscd = IdentificationCscd(Designator.naa(bytes.fromhex("60" + "0" * 30)))
    host = ExtendedCopy(
        0,
        ListIdUsage.DISABLE,
        (cscd, cscd, cscd),
        (
            BlockToBlock(2, 1, 8, 0, 0),
            BlockToBlock(RECEIVING_LOGICAL_UNIT, 0, 8, 0, 0),
            VerifyCscd(0),
        ),
    )
    assert host_pointer(host, 0, Side.SOURCE) == 80
    assert host_pointer(host, 0, Side.DESTINATION) == 48
    assert host_pointer(host, 1, Side.SOURCE) is None
    assert host_pointer(host, 1, Side.DESTINATION) == 16
    assert host_pointer(host, 2, Side.SOURCE) is None


def test_residual_counts_what_is_missing_of_the_hosts_segment_only() -> None:
    steps = [run(L0, L1, 10), run(L0, L2, 20), run(L0, L1, 30, segment=1)]
    done = {0: RangeSet([(0, 4)]), 2: RangeSet([(0, 30)])}
    assert residual(steps, 0, done) == 6 + 20
    assert residual(steps, 1, done) == 0
    assert residual(steps, 2, done) == 0


def test_residual_is_in_blocks_of_the_destination() -> None:
    step = Step(Piece(L0, 0, 80), Piece(L1, 0, 10), second("sd1"), "")
    assert residual([step], 0, {0: RangeSet([(0, 41)])}) == 5
    assert residual([step], 0, {}) == 10


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 10)), max_size=8))
def test_residual_and_confirmed_make_up_the_segment(ranges: list[tuple[int, int]]) -> None:
    done = RangeSet(ranges)
    assert residual([run(L0, L1, 100)], 0, {0: done}) == 100 - done.blocks
