"""The states of a pair, as data: what each verb of an administrator does in each state, what each
event does, and how hosts may use either side.

A verb meets one of three answers, which scripts can tell apart: it goes (to a state), there is
*nothing to do* since what it asks for is so already, or it is *refused*, with what to do instead.
The tables are published (`docs/reference/pairs.md` is made from them) and walked by tests.

Roles. The *primary* is the side that hosts use and that is copied from, the *secondary* the other
one. While a pair is swapped the roles are as before, but hosts use the secondary; `resync` makes
that lasting by exchanging the roles. While it copies in reverse, the secondary is copied from.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from daiko.state.pair_record import PairRecord, PairState


class Verb(StrEnum):
    """What an administrator can ask of a pair."""

    SPLIT = "split"
    RESYNC = "resync"
    RESYNC_REVERSE = "resync --reverse"
    SWAP = "swap"
    REMOVE = "rm"


class Role(StrEnum):
    """Of the two sides."""

    PRIMARY = "primary"
    SECONDARY = "secondary"


class PairEvent(StrEnum):
    """What happens to a pair by itself."""

    EQUAL = "equal"
    """Every region is the same on both sides, on stable storage, and writes go to both."""
    DIFFER = "differ"
    """A region turned out to need copying again."""
    FAIL = "fail"
    """A side failed for good, or cannot be reached. Of a paired one the secondary is as whole as it
    was: hosts can be sent to it, whichever side it is that failed."""
    DRAINED = "drained"
    """All of a journal that has ended is on the secondary: what else differs may be copied."""


class Answer(StrEnum):
    """How a verb is met."""

    GOES = "goes"
    NOTHING = "nothing to do"
    REFUSED = "refused"


class Cell(NamedTuple):
    """What a verb does in a state."""

    answer: Answer
    state: PairState | None
    """The state after it; None: the pair is gone, or (not GOES) nothing changes."""
    text: str
    """What it does, in a sentence; of a refusal what to do instead."""
    exchanges_roles: bool = False


def _goes(state: PairState | None, text: str, *, exchanges_roles: bool = False) -> Cell:
    return Cell(Answer.GOES, state, text, exchanges_roles)


def _nothing(text: str) -> Cell:
    return Cell(Answer.NOTHING, None, text)


def _refused(text: str) -> Cell:
    return Cell(Answer.REFUSED, None, text)


_S: Final = PairState
_FORGET: Final = "Forgets the pair; both volumes keep what is on them"

VERBS: Final[dict[PairState, dict[Verb, Cell]]] = {
    _S.COPYING: {
        Verb.SPLIT: _goes(
            _S.SPLIT, "Stops copying; the secondary is a mixture until it is copied to again"
        ),
        Verb.RESYNC: _nothing("It is copying already"),
        Verb.RESYNC_REVERSE: _refused("split it first: the secondary is a mixture now"),
        Verb.SWAP: _refused("wait until it is paired: the secondary is a mixture now"),
        Verb.REMOVE: _goes(None, f"{_FORGET}: the secondary is a mixture"),
    },
    _S.PAIRED: {
        Verb.SPLIT: _goes(
            _S.SPLIT, "Keeps the secondary as it is at this instant; hosts may use both sides"
        ),
        Verb.RESYNC: _nothing("Both sides are the same already"),
        Verb.RESYNC_REVERSE: _nothing("Both sides are the same already"),
        Verb.SWAP: _goes(
            _S.PAIRED, "Exchanges the roles; both sides stay the same", exchanges_roles=True
        ),
        Verb.REMOVE: _goes(None, f"{_FORGET}: both are the same"),
    },
    _S.SPLIT: {
        Verb.SPLIT: _nothing("It is split already"),
        Verb.RESYNC: _goes(_S.COPYING, "Copies what differs from the primary to the secondary"),
        Verb.RESYNC_REVERSE: _goes(
            _S.REVERSE_COPYING, "Copies what differs from the secondary to the primary"
        ),
        Verb.SWAP: _goes(_S.SWAPPED, "Hosts use the secondary from now on, and not the primary"),
        Verb.REMOVE: _goes(None, _FORGET),
    },
    _S.SPLIT_BY_ERROR: {
        Verb.SPLIT: _goes(
            _S.SPLIT, "Accepts the split: hosts may use both sides, and no resync is tried"
        ),
        Verb.RESYNC: _goes(_S.COPYING, "Copies what differs from the primary to the secondary"),
        Verb.RESYNC_REVERSE: _goes(
            _S.REVERSE_COPYING, "Copies what differs from the secondary to the primary"
        ),
        Verb.SWAP: _goes(_S.SWAPPED, "Hosts use the secondary from now on, and not the primary"),
        Verb.REMOVE: _goes(None, _FORGET),
    },
    _S.REVERSE_COPYING: {
        Verb.SPLIT: _goes(
            _S.SPLIT, "Stops copying; the primary is a mixture until it is copied to again"
        ),
        Verb.RESYNC: _refused("split it first: the primary is a mixture now"),
        Verb.RESYNC_REVERSE: _nothing("It is copying in reverse already"),
        Verb.SWAP: _refused("wait until it is paired, or split it first"),
        Verb.REMOVE: _goes(None, f"{_FORGET}: the primary is a mixture"),
    },
    _S.SWAPPED: {
        Verb.SPLIT: _nothing("It is split already, and hosts use the secondary"),
        Verb.RESYNC: _goes(
            _S.COPYING,
            "Exchanges the roles, and copies what differs from the new primary to the new "
            "secondary",
            exchanges_roles=True,
        ),
        Verb.RESYNC_REVERSE: _refused("swap it back first: hosts use the secondary now"),
        Verb.SWAP: _goes(_S.SPLIT, "Swaps back: hosts may use both sides"),
        Verb.REMOVE: _goes(None, _FORGET),
    },
}
"""Every cell is there: tests walk all of them."""

EVENTS: Final[dict[PairState, dict[PairEvent, PairState]]] = {
    _S.COPYING: {
        PairEvent.EQUAL: _S.PAIRED,
        PairEvent.DIFFER: _S.COPYING,
        PairEvent.FAIL: _S.SPLIT_BY_ERROR,
        PairEvent.DRAINED: _S.COPYING,
    },
    _S.PAIRED: {PairEvent.DIFFER: _S.COPYING, PairEvent.FAIL: _S.SPLIT_BY_ERROR},
    _S.SPLIT: {},
    _S.SPLIT_BY_ERROR: {},
    _S.REVERSE_COPYING: {PairEvent.EQUAL: _S.PAIRED, PairEvent.FAIL: _S.SPLIT_BY_ERROR},
    _S.SWAPPED: {},
}
"""An empty cell cannot happen."""


OF_MIXTURE: Final[dict[Role, frozenset[Verb]]] = {
    Role.PRIMARY: frozenset({Verb.RESYNC}),
    Role.SECONDARY: frozenset({Verb.RESYNC_REVERSE, Verb.SWAP}),
}
"""What is refused besides, while a side is a mixture: nothing is copied from it, and hosts are not
sent to it."""


class Use(StrEnum):
    """What the write path of a side does with commands of hosts."""

    TRACKED = "read and write, changes noted"
    """Writes go to this side alone, after the regions were marked in the differential bitmap."""
    COPIED = "read and write, changes noted and copied"
    """As `TRACKED`; what is marked is copied to the other side, in rounds and then for good."""
    MIRRORED = "read and write, to both sides"
    JOURNALED = "read and write, to this side and the journal"
    """The other side gets it later, in order. The primary of an asynchronous pair that is
    paired."""
    PROTECTED = "read only"
    """The other side is being copied here, or is mirrored here."""


class Sides(NamedTuple):
    """How hosts may use the two sides."""

    primary: Use
    secondary: Use


USES: Final[dict[PairState, Sides]] = {
    _S.COPYING: Sides(Use.COPIED, Use.PROTECTED),
    _S.PAIRED: Sides(Use.MIRRORED, Use.PROTECTED),
    _S.SPLIT: Sides(Use.TRACKED, Use.TRACKED),
    _S.SPLIT_BY_ERROR: Sides(Use.TRACKED, Use.PROTECTED),
    _S.REVERSE_COPYING: Sides(Use.PROTECTED, Use.PROTECTED),
    _S.SWAPPED: Sides(Use.PROTECTED, Use.TRACKED),
}
"""With the fence `data`, the primary of a pair that is split by error takes no writes at all."""


COPIES: Final = frozenset({_S.COPYING, _S.REVERSE_COPYING})
"""States in which one side is copied to the other."""


def asked(record: PairRecord, verb: Verb) -> Cell:
    """What a verb does to a pair as it is."""
    cell = VERBS[record.state][verb]
    if cell.answer is Answer.GOES:
        for role, volume in ((Role.PRIMARY, record.primary), (Role.SECONDARY, record.secondary)):
            if record.mixture == volume and verb in OF_MIXTURE[role]:
                return _refused(f"{volume}, the {role}, is a mixture: copying to it has not ended")
    return cell


def moved(record: PairRecord, state: PairState, now: float, *, reason: str = "") -> PairRecord:
    """The record of a pair that has come to another state at `now` (seconds since the epoch)."""
    mixture = record.mixture
    if state is _S.PAIRED or record.state is _S.PAIRED:
        mixture = ""
    if state is _S.COPYING:
        mixture = record.secondary
    elif state is _S.REVERSE_COPYING:
        mixture = record.primary
    return record.model_copy(
        update={
            "state": state,
            "reason": reason,
            "mixture": mixture,
            "changed": now,
            "sequence": record.sequence + 1,
            "settles": False,
            "term": record.sequence + 1 if state is _S.PAIRED and record.is_async else 0,
        }
    )


def ended(record: PairRecord, now: float, *, reason: str) -> PairRecord:
    """The record of an asynchronous pair that was paired, and whose journal takes no more entries:
    it copies, but what is in the journal comes to the secondary first."""
    after = moved(record, _S.COPYING, now, reason=reason)
    return after.model_copy(update={"mixture": "", "term": record.term})


def differing(record: PairRecord, now: float, *, reason: str) -> PairRecord:
    """The record of a pair that was paired, and whose sides turned out not to be the same."""
    if record.is_async:
        return ended(record, now, reason=reason)
    return moved(record, _S.COPYING, now, reason=reason)


def use_of_primary(record: PairRecord) -> Use:
    """How hosts may use the primary."""
    if record.is_async and record.state is _S.PAIRED:
        return Use.JOURNALED
    return USES[record.state].primary


def carried_out(record: PairRecord, cell: Cell, now: float, *, settles: bool = False) -> PairRecord:
    """The record after a verb that goes, and does not end the pair. `settles`: it was known, when
    the verb was given, that the other site has taken over; only then does a copy undo that."""
    assert cell.state is not None
    if cell.exchanges_roles:
        record = record.model_copy(
            update={"primary": record.secondary, "secondary": record.primary}
        )
    after = moved(record, cell.state, now)
    return after.model_copy(update={"settles": settles and cell.state in COPIES})
