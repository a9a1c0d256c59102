"""docs/reference/migrations.md: the states of a migration, and what each verb does in each."""

from __future__ import annotations

from daiko.pair.migration_state import VERBS, MigrationVerb
from daiko.pair.state import Answer
from daiko.state.migration_record import MigrationState
from reference_docs.markdown import code, head, member_words, table

_STATES = {
    MigrationState.MOVING: "Copied to its new place, from the start or from where it was "
    "interrupted.",
}
_VERBS = {
    MigrationVerb.START: "volume migrate --to",
    MigrationVerb.RESUME: "volume migrate --resume",
    MigrationVerb.CANCEL: "volume migrate --cancel",
}


def document() -> str:
    lines = head(
        "States of a migration", "`pair/migration_state.py` and `state/migration_record.py`"
    )
    lines += [
        "A migration moves a volume to another device while hosts use it. A state is in the store",
        "before anything follows from it; the last migration of each volume is kept.",
        "",
    ]
    words = member_words(MigrationState)
    lines += table(
        ("state", "meaning"),
        [(code(state), _STATES.get(state) or words[state.name]) for state in MigrationState],
    )
    lines += [
        "## What a verb does",
        "",
        "A verb goes, finds *nothing to do* (exit code 7), or is *refused* (exit code 4).",
        "",
    ]
    lines += table(
        ("state", *(code(_VERBS[verb]) for verb in MigrationVerb)),
        [
            (code(state), *(_short(state, verb) for verb in MigrationVerb))
            for state in MigrationState
        ],
    )
    lines += [
        "By itself `moving` becomes `done`, when both places are the same and the volume has taken",
        "the new one, or `failed`, when the new place is lost or copying fails for good.",
        "",
    ]
    return "\n".join(lines)


def _short(state: MigrationState, verb: MigrationVerb) -> str:
    cell = VERBS[state][verb]
    if cell.answer is Answer.GOES and cell.state is not None:
        return f"{code(cell.state)}: {cell.text}"
    return f"{cell.answer}: {cell.text}"
