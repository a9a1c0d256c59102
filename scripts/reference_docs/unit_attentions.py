"""docs/reference/unit-attentions.md: the events that hosts are told of."""

from __future__ import annotations

from daiko.target.event import IMPOSSIBLE, LOWEST_RANK, Event, Told, clears_all, rank
from reference_docs.markdown import code, head, member_words, spoken, table, text


def _row(event: Event) -> tuple[str, ...]:
    row, condition = event.value, event.sense
    place = rank(condition)
    return (
        condition.name,
        f"{row.asc:02X}/{row.ascq:02X}",
        row.cause,
        spoken(row.told.name),
        "with the others" if place == LOWEST_RANK else str(place + 1),
        "all others" if clears_all(condition) else "",
    )


def document() -> str:
    lines = head("Unit attentions", "`target/event.py`")
    lines += [
        "What a host is told without having asked: the next command that reports unit attention",
        "conditions ends with CHECK CONDITION, UNIT ATTENTION and one of these codes. INQUIRY and",
        "REPORT LUNS are carried out all the same and leave the condition pending; REQUEST SENSE",
        "returns it as its data. The column *unit attention* of the [command table](commands.md)",
        "says it for each command.",
        "",
        "A condition is kept once for each host and unit, however often it happens. It is cleared",
        "when it has been reported, when a reset follows it, and when the session ends (a new",
        "session begins with 29/00). With UA_INTLCK_CTRL = 10b in the control mode page only",
        "REQUEST SENSE clears it. REPORTED LUNS DATA HAS CHANGED is also cleared, for all units",
        "that the host sees, by REPORT LUNS, and when one of them has reported it.",
        "",
    ]
    lines += table(
        ("condition", "ASC/ASCQ", "cause", "told", "order", "clears"),
        [_row(event) for event in Event],
    )
    lines += ["### told", ""]
    words = member_words(Told)
    lines += table(("value", "meaning"), [(spoken(told.name), words[told.name]) for told in Told])
    lines += [
        "A write error that shows only after the command had its status is reported in the same",
        "way, as a deferred error (MEDIUM ERROR, 0C/00).",
        "",
        "## What cannot happen here",
        "",
    ]
    lines += table(
        ("condition", "ASC/ASCQ", "why not"),
        [(name, code(number), why) for name, number, why in IMPOSSIBLE],
    )
    return text(lines)
