"""docs/reference/pairs.md: the states of a pair, and what each verb does in each."""

from __future__ import annotations

from daiko.pair.settings import PairSettings
from daiko.pair.state import EVENTS, OF_MIXTURE, USES, VERBS, Answer, Cell, PairEvent, Use, Verb
from daiko.state.pair_record import Fence, PairRecord, PairState, Update
from reference_docs.markdown import code, head, member_words, table, text

_STATES = {
    PairState.COPYING: "What differs is copied from the primary to the secondary.",
    PairState.PAIRED: "Both sides are the same: a write of a host is acknowledged when both have "
    "it. Of an asynchronous pair: when the primary and the journal have it; the secondary is an "
    "earlier state of the whole group.",
    PairState.SPLIT_BY_ERROR: "A side was lost, or copying failed for good; the reason says which.",
    PairState.REVERSE_COPYING: "What differs is copied from the secondary to the primary.",
}


def document() -> str:
    lines = head(
        "States of a pair", "`pair/state.py`, `pair/settings.py` and `state/pair_record.py`"
    )
    lines += [
        "A pair is two volumes of one size; hosts use the *primary*, the *secondary* is kept like",
        "it. A state is in the store before anything follows from it. What differs is known from",
        "the differential bitmaps, in regions; each side has its own.",
        "",
        "## What a verb does",
        "",
        "A verb goes, finds *nothing to do* (exit code 7), or is *refused* (exit code 4). What it",
        "is asked of a consistency group it does to all pairs of the group as one, or to none.",
        "",
    ]
    lines += table(
        ("state", *(code(verb) for verb in Verb)),
        [(code(state), *(_short(cells[verb]) for verb in Verb)) for state, cells in VERBS.items()],
    )
    for state, cells in VERBS.items():
        lines += [f"**{state}**", ""]
        lines += [f"- {code(verb)}: {_long(cells[verb])}" for verb in Verb]
        lines += [""]
    lines += [
        "A side is a *mixture* from when copying to it begins until both are the same: it is",
        "neither as it was nor as the other. While copying is interrupted, these are refused:",
        "",
    ]
    lines += table(
        ("mixture", "refused"),
        [
            (role, ", ".join(code(verb) for verb in Verb if verb in verbs))
            for role, verbs in OF_MIXTURE.items()
        ],
    )
    return text(lines + _events() + _meanings() + _copying())


def _events() -> list[str]:
    """What happens by itself, and what follows."""
    lines = ["## What happens by itself", ""]
    words = member_words(PairEvent)
    lines += table(
        ("state", *(str(event) for event in PairEvent)),
        [
            (code(state), *(code(events.get(event, "")) for event in PairEvent))
            for state, events in EVENTS.items()
        ],
    )
    lines += table(("event", "meaning"), [(code(event), words[event.name]) for event in PairEvent])
    return lines


def _meanings() -> list[str]:
    """Of the states, and of what an administrator chooses."""
    lines = ["## What the states mean, and what hosts may do", ""]
    words = member_words(PairState)
    lines += table(
        ("state", "meaning", "primary", "secondary"),
        [
            (
                code(state),
                _STATES.get(state) or words[state.name],
                USES[state].primary,
                USES[state].secondary,
            )
            for state in PairState
        ],
    )
    words = member_words(Update)
    lines += [f"The primary of an asynchronous pair that is paired: {Use.JOURNALED}.", ""]
    lines += table(("update", "meaning"), [(code(update), words[update.name]) for update in Update])
    words = member_words(Fence)
    lines += ["What hosts meet while the secondary is lost is the administrator's choice:", ""]
    lines += table(("fence", "meaning"), [(code(fence), words[fence.name]) for fence in Fence])
    return lines


def _copying() -> list[str]:
    """How a pair copies, and what is kept of it."""
    settings = PairSettings()
    lines = [
        "## How it copies",
        "",
        "In rounds, each a job, until no more than",
        f"{settings.catch_up_bytes >> 20} MiB are left, or a round leaves more than",
        f"{settings.shrinks_to:.0%} of what the one before did; then region by region, with every",
        "write going to both sides. A region that was written stays marked until both sides are",
        f"flushed, every {settings.settle_seconds:g} s.",
        "",
        "## What a pair's record holds",
        "",
    ]
    words = member_words(PairRecord)
    lines += table(
        ("field", "meaning"),
        [(code(name), words.get(name, "")) for name in PairRecord.model_fields],
    )
    return lines


def _short(cell: Cell) -> str:
    if cell.answer is not Answer.GOES:
        return str(cell.answer)
    return "gone" if cell.state is None else code(cell.state)


def _long(cell: Cell) -> str:
    return f"{cell.answer}. {cell.text}." if cell.answer is not Answer.GOES else f"{cell.text}."
