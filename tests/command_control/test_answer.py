"""What is done of a second command that failed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from command_control.situation import DAIKO, LIO, address, directory, second
from daiko.command_control.answer import confirmed, failed_cover
from daiko.command_control.generation import Cover, generate
from daiko.command_control.plan import Step
from daiko.mapping.extent import DeviceId, Piece
from daiko.scsi.sense import Sense, SenseKey

L0, L1, L2 = (DeviceId("sd1", lun) for lun in range(3))
ALL = directory(*map(address, (L0, L1, L2)))
ABORTED = Sense(SenseKey.COPY_ABORTED, 0x0D, 0x01, segment=2)


def run(source: DeviceId, destination: DeviceId, blocks: int) -> Step:
    return Step(Piece(source, 0, blocks), Piece(destination, 5000, blocks), second("sd1"), "")


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
    steps = [run(L0, L1, 10), run(L0, L2, 20), run(L0, L1, 30), run(L0, L0, 40)]
    (command,) = generate(steps, ALL, DAIKO)
    assert confirmed(command, sense) == command.covers[:covers]
    assert failed_cover(command, sense) == command.covers[covers]


def test_lio_says_nothing_and_nothing_is_confirmed() -> None:
    (command,) = generate([run(L0, L1, 10)], ALL, LIO)
    bare = Sense(SenseKey.COPY_ABORTED, 0x0D, 0x02, segment=0)
    assert confirmed(command, bare) == ()
    assert failed_cover(command, bare) == Cover(0, 0, 10)
