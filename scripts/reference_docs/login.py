"""docs/reference/login.md: the stages of a login, and how one is refused."""

from __future__ import annotations

from daiko.iscsi.bhs import Stage
from daiko.iscsi.error import LoginStatus, RejectReason
from daiko.iscsi.login import _SECURITY_KEYS, LOGIN_PDU_LIMIT, STAGES, USES
from daiko.iscsi.text_key import KEYS
from daiko.state.record import SystemRecord
from daiko.target.connection import LOGIN_SECONDS
from reference_docs.markdown import code, head, said, spoken, table, text


def _stage(stage: int | None) -> str:
    return "none yet" if stage is None else spoken(Stage(stage).name)


def _default(field: str) -> float:
    return float(SystemRecord.model_fields[field].default)


def _state(stage: int | None) -> str:
    return "[*]" if stage is None else Stage(stage).name


def document() -> str:
    lines = head("Login", "`iscsi/login.py` and `iscsi/error.py`")
    lines += [
        "In which stage a login PDU may be (CSG), given the stage that the login is in, and to",
        "which stages it may lead with the T bit (NSG). Both roles work by this table; what is not",
        "in it ends the login with INITIATOR_ERROR.",
        "",
    ]
    lines += table(
        ("the login is in", "stage of the PDU", "it may lead to"),
        [
            (_stage(now), _stage(stage), ", ".join(_stage(each) for each in sorted(transits)))
            for (now, stage), transits in STAGES.items()
        ],
    )
    lines += ["```mermaid", "stateDiagram-v2"]
    seen = set()
    for (now, stage), transits in STAGES.items():
        if now is None:
            lines.append(f"    [*] --> {_state(stage)}: first request")
        for to in sorted(transits):
            if (stage, to) not in seen:
                seen.add((stage, to))
                lines.append(f"    {_state(stage)} --> {_state(to)}: T bit")
    lines += ["    FULL_FEATURE_PHASE --> [*]", "```", ""]
    lines += [
        f"A text of a login goes in PDUs of at most {LOGIN_PDU_LIMIT} bytes, continued with the C",
        f"bit. A connection that has not logged in after {LOGIN_SECONDS:g} s is closed. A session",
        f"that is silent for {_default('ping_interval'):g} s is pinged, and closed when it does",
        f"not answer in {_default('ping_timeout'):g} s; `daiko system set` changes both.",
        "",
        "## Keys in each stage",
        "",
    ]
    lines += table(
        ("key", *(_stage(stage) for stage in USES)),
        [
            (
                code(row.name),
                *(
                    said(row.when in uses and (stage != min(USES) or row.name in _SECURITY_KEYS))
                    for stage, uses in USES.items()
                ),
            )
            for row in KEYS.values()
        ],
    )
    lines += ["## Status of a login response", "", "RFC 7143, 11.13.5.", ""]
    lines += table(
        ("status", "name"),
        [(f"{status:04X}h", spoken(status.name)) for status in LoginStatus],
    )
    lines += ["## Reasons of a Reject", "", "RFC 7143, 11.17.1: after the login.", ""]
    lines += table(
        ("reason", "name"),
        [(f"{reason:02X}h", spoken(reason.name)) for reason in RejectReason],
    )
    return text(lines)
