"""docs/reference/iscsi-keys.md: what is negotiated."""

from __future__ import annotations

from daiko.iscsi.login import INITIATOR_PROPOSALS
from daiko.iscsi.negotiation import OFFER, Negotiation
from daiko.iscsi.text_key import KEYS, NONE, Key, Kind, Rule, Sender, When, format_value
from reference_docs.markdown import code, head, member_words, said, spoken, table, text, words

_OURS = {**OFFER, "AuthMethod": (NONE,)}
"""What a target without an authenticator wants."""


def _range(row: Key) -> str:
    if row.kind is Kind.NUMBER:
        return f"{row.lowest} to {row.highest}"
    if row.kind is Kind.BOOLEAN:
        return "Yes, No"
    return ", ".join(row.values) or "text"


def _answer(row: Key, proposal: str) -> str:
    """What our target says to this, found by asking it."""
    given = Negotiation(Sender.TARGET, _OURS).take({row.name: proposal}, frozenset(When))
    return dict(given)[row.name]


def _answers(row: Key) -> str:
    if row.rule is Rule.DECLARE:
        return "none: declared"
    if row.rule is Rule.OBSOLETE:
        return code(row.answer)
    if row.kind is Kind.BOOLEAN:
        proposals = ["Yes", "No"]
    elif row.kind is Kind.NUMBER:
        proposals = [str(row.lowest), str(row.highest)]
    else:
        proposals = list(row.values)
    return ", ".join(f"`{each}` → `{_answer(row, each)}`" for each in proposals)


def _row(row: Key) -> tuple[str, ...]:
    wanted = _OURS.get(row.name)
    return (
        code(row.name),
        spoken(row.rule.name),
        _range(row),
        "" if row.default is None else code(format_value(row.default)),
        spoken((row.sender.name or "").replace("|", " or ")),
        row.when.value,
        said(row.discovery),
        "" if wanted is None else code(format_value(wanted)),
        _answers(row),
        said(row.name in INITIATOR_PROPOSALS),
        row.reference,
    )


def document() -> str:
    lines = head("Text keys of iSCSI", "`iscsi/text_key.py` and `iscsi/negotiation.py`")
    lines += [
        "Every key of RFC 7143 (and iSCSIProtocolLevel and TaskReporting), in the order of the",
        "table. Both roles work by the same rows; no key has code of its own. A key that is not",
        "here is answered `NotUnderstood`, a value that its row does not allow `Reject`, a key",
        "without meaning in a discovery session `Irrelevant`. A key of the other side, of another",
        "stage, or for the second time ends the login.",
        "",
    ]
    lines += table(
        (
            "key",
            "rule",
            "values",
            "default",
            "sent by",
            "when",
            "in discovery",
            "what we want",
            "what our target answers",
            "our initiator proposes it",
            "clause",
        ),
        [_row(row) for row in KEYS.values()],
    )
    lines += [
        "FirstBurstLength is answered with no more than MaxBurstLength (13.14). Sizes are in",
        "bytes, times in seconds.",
        "",
        "## Rules",
        "",
        words(Rule.__doc__),
        "",
    ]
    meanings = member_words(Rule)
    plain = {
        Rule.AND: "Yes where both say Yes.",
        Rule.OR: "Yes where one says Yes.",
        Rule.MINIMUM: "The smaller number.",
        Rule.MAXIMUM: "The larger number.",
        Rule.FIRST_COMMON: "The first value of the proposal that the answering side has as well.",
    }
    lines += table(
        ("rule", "result"),
        [(spoken(rule.name), meanings.get(rule.name) or plain[rule]) for rule in Rule],
    )
    return text(lines)
