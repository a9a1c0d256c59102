"""A short soak (`make soak` is the long one): nothing is lost while everything round it fails."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from soak.model import CELL, Mismatch, Model, pattern
from soak.run import Plan, Report, soak
from soak.watch import Sample, Watch


async def test_half_a_minute_of_verified_load_while_everything_fails(tmp_path: Path) -> None:
    plan = Plan(
        20, sessions=8, seed=20261124, disturb_every=4, down=2, drop_every=4, manage_every=2
    )
    report = await soak(tmp_path, plan)
    print(report.text())
    assert not report.failures
    assert report.drops
    assert report.task_management
    assert report.disturbances
    assert report.jobs["copy done"]
    assert report.foreign


def test_model_knows_what_is_certain_what_is_in_doubt_and_what_is_wrong() -> None:
    model = Model(3, 100, 8)
    model.check(100, memoryview(bytes(8 * CELL)))
    first, data = model.begin_write(101, 2)
    model.written(101, 2, first, is_certain=True)
    model.check(101, memoryview(data))
    second, newer = model.begin_write(102, 1)
    model.written(102, 1, second, is_certain=False)
    for content in (data[CELL:], newer):
        model.check(102, memoryview(content))
    assert model.certain(101, 1) == data[:CELL]
    assert model.certain(102, 1) is None
    for wrong, words in (
        (data[:CELL], f"8 blocks of cell 101 of writer 3, sequence {first}"),
        (newer[:512] + data[CELL + 512 :], "1 blocks of cell 102 .* 7 blocks of cell 102"),
        (bytes(CELL), "8 blocks of zeros"),
        (pattern(102, 4, second), "of writer 4"),
        (b"x" * CELL, "foreign data 7878"),
    ):
        with pytest.raises(Mismatch, match=words):
            model.check(102, memoryview(wrong))


def test_runs_of_cells_are_free_until_they_are_given_back() -> None:
    model = Model(0, 0, 4)
    chance = random.Random(1)
    taken: list[tuple[int, int]] = []
    for _ in range(200):
        found = model.take(chance, 4)
        if found is not None:
            taken.append(found)
    cells = [cell for at, count in taken for cell in range(at, at + count)]
    assert sorted(cells) == [0, 1, 2, 3]
    for at, count in taken:
        model.give(at, count)
    assert model.take(chance, 1) is not None


@pytest.mark.parametrize(
    ("grows", "failures"),
    [
        pytest.param((0, 0, 0), 0, id="flat"),
        pytest.param((1 << 20, 0, 0), 1, id="memory"),
        pytest.param((0, 1, 0), 1, id="descriptors"),
        pytest.param((0, 0, 1), 1, id="threads"),
    ],
)
def test_process_that_grows_is_told(grows: tuple[int, int, int], failures: int) -> None:
    """Of 1 MiB, 1 descriptor or 1 thread a second, after a start of half a minute."""
    watch = Watch()
    watch.samples["first", 1] = [
        Sample(at, *(10 + each * at + 50 * min(at, 30) for each in grows)) for at in range(200)
    ]
    report = Report()
    report.operations.update(read=1, write=1)
    report.growth = watch.growth(60, 60)
    assert len(report.failures) == failures
