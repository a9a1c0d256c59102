"""The states of a job, as data, and the life of one running job.

A job is durable from its request to its report: its record goes through the store at every
change of state and at checkpoints. What is confirmed in the record is on stable storage at the
destination; a controller that was killed goes on from there.
"""

from __future__ import annotations

from enum import StrEnum

from daiko.state.record import JobState


class JobEvent(StrEnum):
    """What happens to a job."""

    START = "start"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"
    RESTART = "restart"
    """The controller came up again and found an administrator's job unfinished."""
    ABANDON = "abandon"
    """It found a host's job unfinished: the command that it served is gone."""


TRANSITIONS: dict[JobState, dict[JobEvent, JobState]] = {
    JobState.QUEUED: {
        JobEvent.START: JobState.RUNNING,
        JobEvent.FAIL: JobState.FAILED,
        JobEvent.CANCEL: JobState.CANCELLED,
        JobEvent.RESTART: JobState.QUEUED,
        JobEvent.ABANDON: JobState.INTERRUPTED,
    },
    JobState.RUNNING: {
        JobEvent.FINISH: JobState.DONE,
        JobEvent.FAIL: JobState.FAILED,
        JobEvent.CANCEL: JobState.CANCELLED,
        JobEvent.RESTART: JobState.QUEUED,
        JobEvent.ABANDON: JobState.INTERRUPTED,
    },
    JobState.DONE: {},
    JobState.FAILED: {},
    JobState.CANCELLED: {},
    JobState.INTERRUPTED: {},
}


class IllegalTransition(Exception):
    """The event cannot happen to a job in this state."""


def next_state(state: JobState, event: JobEvent) -> JobState:
    """The state after `event`. Raises IllegalTransition where the table has no cell."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"a job that is {state} cannot {event}") from None
