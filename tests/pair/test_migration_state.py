"""The table of the verbs of migrations, walked."""

from __future__ import annotations

import pytest

from daiko.pair.migration_state import VERBS, MigrationVerb
from daiko.pair.state import Answer
from daiko.state.migration_record import MigrationState


@pytest.mark.parametrize("state", MigrationState)
@pytest.mark.parametrize("verb", MigrationVerb)
def test_every_cell_is_there_and_says_what_follows(
    state: MigrationState, verb: MigrationVerb
) -> None:
    cell = VERBS[state][verb]
    assert (cell.answer is Answer.GOES) == (cell.state is not None)
    assert cell.text
    assert cell.state is not state


def test_what_is_open_can_be_cancelled_and_what_has_ended_started_anew() -> None:
    for state in MigrationState:
        is_open = state in (MigrationState.MOVING, MigrationState.FAILED)
        assert (VERBS[state][MigrationVerb.CANCEL].answer is Answer.GOES) == is_open
        assert (VERBS[state][MigrationVerb.START].answer is Answer.GOES) == (not is_open)
