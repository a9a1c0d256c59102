"""What a site that follows an asynchronous pair knows of its secondary, and when it may take over.

The secondary is an *earlier state* of the primary while the pair is paired, and also while it
copies but no side is a mixture: then the journal of the leader has ended, and what is in it comes
to the secondary before anything is copied. `PairRecord.term` says which of the two a copying pair
is: it is not 0 as long as the secondary is an earlier state.

**Of a whole group.** All secondaries of a consistency group are of one instant, but for a while
after a pair has joined: what the journal had then has yet to come to the others. The leader does
not say as of when they are good until that is so. Hosts that are sent to one secondary alone would
leave the others behind, so the group is taken over as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from daiko.state.pair_record import PairRecord, PairState


def term_after(before: PairRecord, state: PairState, mixture: str, sequence: int) -> int:
    """`PairRecord.term` of a followed pair that comes to this state."""
    if before.is_async and state is PairState.PAIRED:
        return sequence
    if before.is_async and state is PairState.COPYING and not mixture:
        return before.term or sequence
    return 0


def good_after(before: PairRecord, term: int) -> float:
    """`PairRecord.good_as_of` of a followed pair that comes to this term."""
    return before.good_as_of if before.term and term else 0.0


def why_not_taken_over(name: str, found: Sequence[PairRecord], others: Sequence[PairRecord]) -> str:
    """Why hosts cannot be sent to the secondaries of the pairs `found` by a name, though each of
    them is whole; "" = they can. `others` are the rest of their group."""
    first = found[0]
    if not (first.is_async and first.group):
        return ""
    if others:
        return (
            f"it is one of the pairs of the asynchronous group {first.group}, which are taken over "
            f"as one: name {first.group}"
        )
    unknown = [record.name for record in found if record.is_earlier_state and not record.good_as_of]
    if unknown and len(found) > 1:
        return (
            f"site {first.site} has not said yet that the secondaries of {name} are of one instant "
            f"({', '.join(unknown)}); each by itself is whole, and `daiko pair rm` frees it"
        )
    return ""


def in_words(record: PairRecord) -> str:
    """What the secondary of a followed pair is, where it is an earlier state."""
    said = f"{record.secondary} is an earlier state of {record.primary}"
    if not record.good_as_of:
        return f"{said}; as of when is not known"
    moment = datetime.fromtimestamp(record.good_as_of, UTC)
    return f"{said}, good as of {moment:%Y-%m-%d %H:%M:%S} UTC, as site {record.site} said last"
