"""Missing, written, confirmed; and how a step is cut and kept."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.command_control.plan import (
    THIS_CONTROLLER,
    Executor,
    ExecutorKind,
    Rejection,
    Step,
)
from daiko.copy_manager.step_work import StepWork, parse_executor
from daiko.mapping.extent import DeviceId, Piece

SD1 = Executor(ExecutorKind.SECOND_CONTROLLER, "sd1")


def _work(blocks: int = 100, executor: Executor = SD1, *, larger: bool = False) -> StepWork:
    block_size, destination_block_size = 512, 4096 if larger else 512
    step = Step(
        Piece(DeviceId("sd1", 0), 1000, blocks),
        Piece(DeviceId("vault", 2), 50, blocks * block_size // destination_block_size),
        executor,
        "it can",
        (Rejection(THIS_CONTROLLER, "not needed"),),
        3,
    )
    return StepWork(step, block_size, destination_block_size)


def test_blocks_are_missing_then_written() -> None:
    work = _work()
    work.note_written(10, 20, generation=1)
    work.note_written(50, 50, generation=1)
    assert list(work.missing()) == [(0, 10), (30, 20)]
    assert (work.copied_blocks, work.bytes_moved) == (70, 70 * 512)
    assert not work.is_copied


def test_what_went_over_an_older_connection_is_missing_once_a_newer_is_used() -> None:
    work = _work()
    work.note_written(0, 10, generation=1)
    work.note_written(10, 10, generation=2)
    assert list(work.missing()) == [(0, 10), (20, 80)]


def test_what_was_sent_over_a_lost_connection_and_ends_late_is_not_counted() -> None:
    work = _work()
    work.note_written(0, 10, generation=2)
    work.note_written(10, 10, generation=1)
    assert list(work.missing()) == [(10, 90)]


def test_a_part_of_a_step_is_where_the_blocks_are_on_both_sides() -> None:
    part = _work(160, larger=True).part(16, 64)
    assert part.source == Piece(DeviceId("sd1", 0), 1016, 64)
    assert part.destination == Piece(DeviceId("vault", 2), 52, 8)
    assert (part.segment, part.executor) == (3, SD1)


@pytest.mark.parametrize("larger", [False, True])
def test_a_step_survives_its_record(larger: bool) -> None:
    work = _work(160, larger=larger)
    work.confirmed.add(8, 16)
    work.bytes_moved, work.bytes_through, work.seconds, work.error = 9, 8, 1.5, "why"
    again = StepWork.from_record(work.record())
    assert again.record() == work.record()
    assert again.step == work.step


@given(st.sets(st.integers(0, 63)))
def test_cut_keeps_exactly_the_confirmed_blocks_and_their_account(done: set[int]) -> None:
    work = _work(64)
    for block in done:
        work.note_written(block, 1, generation=1)
        work.confirmed.add(block, 1)
    work.give_up_written()
    work.error = "dropped"
    cut = work.cut()
    covered = {
        part.step.source.lba - 1000 + offset
        for part in cut
        for offset in range(part.step.source.blocks)
    }
    assert covered == done
    assert all(part.is_copied for part in cut)
    assert sum(part.bytes_moved for part in cut) == len(done) * 512
    assert [part.error for part in cut] == ["dropped"] + [""] * (len(cut) - 1)


@pytest.mark.parametrize("executor", [SD1, THIS_CONTROLLER])
def test_executors_are_read_back_from_their_text(executor: Executor) -> None:
    assert parse_executor(str(executor)) == executor


def test_the_record_follows_every_change() -> None:
    work = _work(8)
    seen = [work.record()]
    assert work.record() is seen[0], "nothing changed"
    work.note_written(0, 4, generation=1)
    seen.append(work.record())
    work.confirmed.update(work.written)
    seen.append(work.record())
    work.seconds += 1
    seen.append(work.record())
    work.bytes_through += 1
    seen.append(work.record())
    work.error = "dropped"
    seen.append(work.record())
    assert all(one != other for one, other in itertools.pairwise(seen))
    assert seen[-1].confirmed == ((0, 4),)


def test_anything_else_is_no_executor() -> None:
    with pytest.raises(ValueError, match="no executor"):
        parse_executor("somebody")
