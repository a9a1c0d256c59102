"""The state table of a job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.copy_manager.job import TRANSITIONS, IllegalTransition, JobEvent, next_state
from daiko.state.record import TERMINAL, JobState


def test_every_state_has_its_row_and_only_ended_ones_are_empty() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert {state for state, row in TRANSITIONS.items() if not row} == TERMINAL


@given(st.lists(st.sampled_from(JobEvent)))
def test_any_events_end_in_a_state_of_the_table_or_are_refused(events: list[JobEvent]) -> None:
    state = JobState.QUEUED
    for event in events:
        try:
            state = next_state(state, event)
        except IllegalTransition:
            assert event not in TRANSITIONS[state]
        else:
            assert state in TRANSITIONS


@pytest.mark.parametrize("state", sorted(TERMINAL))
@pytest.mark.parametrize("event", JobEvent)
def test_a_job_that_has_ended_stays_so(state: JobState, event: JobEvent) -> None:
    with pytest.raises(IllegalTransition, match=str(state)):
        next_state(state, event)


def test_a_queued_job_cannot_finish_without_having_started() -> None:
    with pytest.raises(IllegalTransition):
        next_state(JobState.QUEUED, JobEvent.FINISH)
