"""The states of a migration, as data: what each verb of an administrator does in each state. As of
a pair (`state.py`), a verb goes, finds nothing to do, or is refused."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from daiko.pair.state import Answer
from daiko.state.migration_record import MigrationState


class MigrationVerb(StrEnum):
    """What an administrator can ask of a migration that there is."""

    START = "start"
    """Another one, which takes its place."""
    RESUME = "resume"
    CANCEL = "cancel"


class MigrationCell(NamedTuple):
    """What a verb does in a state."""

    answer: Answer
    state: MigrationState | None
    """The state after it; None: nothing changes."""
    text: str
    """What it does, in a sentence; of a refusal what to do instead."""


_S: Final = MigrationState
_V: Final = MigrationVerb


def _start() -> MigrationCell:
    return MigrationCell(Answer.GOES, _S.MOVING, "Reserves the new place and begins to copy")


def _refused(text: str) -> MigrationCell:
    return MigrationCell(Answer.REFUSED, None, text)


def _nothing(text: str) -> MigrationCell:
    return MigrationCell(Answer.NOTHING, None, text)


VERBS: Final[dict[MigrationState, dict[MigrationVerb, MigrationCell]]] = {
    _S.MOVING: {
        _V.START: _refused("wait for it, or cancel it"),
        _V.RESUME: _nothing("It is moving already"),
        _V.CANCEL: MigrationCell(
            Answer.GOES, _S.CANCELLED, "Gives the new place back; the volume stays where it is"
        ),
    },
    _S.FAILED: {
        _V.START: _refused("resume it, or cancel it"),
        _V.RESUME: MigrationCell(Answer.GOES, _S.MOVING, "Copies what differs"),
        _V.CANCEL: MigrationCell(
            Answer.GOES, _S.CANCELLED, "Gives the new place back; the volume stays where it is"
        ),
    },
    _S.DONE: {
        _V.START: _start(),
        _V.RESUME: _nothing("It has moved"),
        _V.CANCEL: _nothing("It has moved; it can be migrated back"),
    },
    _S.CANCELLED: {
        _V.START: _start(),
        _V.RESUME: _refused("its new place was given back: start another"),
        _V.CANCEL: _nothing("It was cancelled"),
    },
}
"""Every cell is there: tests walk all of them. By itself MOVING becomes DONE or FAILED."""
