"""docs/reference/jobs.md: the states of a job."""

from __future__ import annotations

from daiko.copy_manager.job import TRANSITIONS, JobEvent
from daiko.copy_manager.settings import CopySettings
from daiko.state.record import TERMINAL, JobRecord, JobState, StepRecord
from reference_docs.markdown import code, head, member_words, table, text

_EVENTS = {
    JobEvent.START: "Its turn has come.",
    JobEvent.FINISH: "Every block is confirmed.",
    JobEvent.FAIL: "A step failed and nobody is left to carry it out; or a defect, or the store.",
    JobEvent.CANCEL: "`daiko job cancel`; or task management of the host that asked for it.",
}
_STATES = {
    JobState.QUEUED: "In the store; waits for its turn.",
    JobState.RUNNING: "Its steps are being carried out.",
    JobState.DONE: "Every block is on the destination's stable storage.",
    JobState.FAILED: "Its error says why; what was confirmed is on the destination.",
    JobState.CANCELLED: "Taken back; what was confirmed is on the destination.",
}


def document() -> str:
    lines = head("States of a job", "`copy_manager/job.py` and `state/record.py`")
    settings = CopySettings()
    lines += [
        "Backups, restores and copies are jobs, whoever asks for them. A change of state is in the",
        "store before anything else follows from it. While a job runs its confirmed blocks are",
        f"noted every {settings.confirm_seconds:g} s at most; a controller that was killed goes on",
        "from there.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        f"    [*] --> {JobState.QUEUED}: asked for",
    ]
    for state, events in TRANSITIONS.items():
        lines += [f"    {state} --> {after}: {event}" for event, after in events.items()]
    lines += [f"    {state} --> [*]" for state in TRANSITIONS if state in TERMINAL]
    lines += ["```", ""]
    lines += [
        "A cell is the state after the event; an empty one means that it cannot happen. A host's",
        "EXTENDED COPY is recorded as running at once: it does not wait for a turn.",
        "",
    ]
    lines += table(
        ("state", *(str(event) for event in JobEvent)),
        [
            (code(state), *(code(events.get(event, "")) for event in JobEvent))
            for state, events in TRANSITIONS.items()
        ],
    )
    said_of = member_words(JobState)
    lines += ["## States", ""]
    lines += table(
        ("state", "meaning"),
        [(code(state), said_of.get(state.name) or _STATES[state]) for state in JobState],
    )
    said_of = member_words(JobEvent)
    lines += ["## Events", ""]
    lines += table(
        ("event", "meaning"),
        [(code(event), said_of.get(event.name) or _EVENTS[event]) for event in JobEvent],
    )
    for title, record in (("What a job's record holds", JobRecord), ("And each step", StepRecord)):
        said_of = member_words(record)
        lines += [f"## {title}", ""]
        lines += table(
            ("field", "meaning"),
            [(code(name), said_of.get(name, "")) for name in record.model_fields],
        )
    return text(lines)
