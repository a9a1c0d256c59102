"""What `apply` would do, or has done, as a list of differences."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Verb(StrEnum):
    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"


class Action(NamedTuple):
    """One difference between the system and a document."""

    verb: Verb
    kind: str
    """system, portal_group, target_port_group, backend, volume, host, site, chap, pair, function,
    reach."""
    name: str
    detail: str
    """What becomes different, for the administrator."""
    lost: str = ""
    """What data would be lost, which has to be confirmed; "" = none."""


def names_of(actions: tuple[Action, ...], kind: str, verb: Verb) -> list[str]:
    """What of this kind is added, changed or removed."""
    return [action.name for action in actions if action.kind == kind and action.verb is verb]
