"""Text keys: the rows, the grammar of a text, and the functions that combine two offers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.iscsi.error import LocalProtocolError, LoginStatus, RejectReason, RemoteProtocolError
from daiko.iscsi.text_key import (
    KEYS,
    LONGEST_TEXT,
    Kind,
    Rule,
    Sender,
    TextCollector,
    Value,
    When,
    combine,
    format_text,
    format_value,
    parse_number,
    parse_text,
    parse_unique,
    parse_value,
    split_text,
)

STANDARD: list[tuple[str, Rule, Sender, When, Value | None, tuple[int, int], str]] = [
    # name, rule, sender, use, default, range, clause: from the text of RFC 7143, section 13
    ("HeaderDigest", Rule.FIRST_COMMON, Sender.BOTH, When.INITIALIZE, ("None",), (0, 0), "13.1"),
    ("DataDigest", Rule.FIRST_COMMON, Sender.BOTH, When.INITIALIZE, ("None",), (0, 0), "13.1"),
    ("MaxConnections", Rule.MINIMUM, Sender.BOTH, When.LEADING, 1, (1, 65535), "13.2"),
    ("SendTargets", Rule.DECLARE, Sender.INITIATOR, When.FULL_FEATURE, None, (0, 0), "13.3"),
    ("TargetName", Rule.DECLARE, Sender.BOTH, When.ALL, None, (0, 0), "13.4"),
    ("InitiatorName", Rule.DECLARE, Sender.INITIATOR, When.INITIALIZE, None, (0, 0), "13.5"),
    ("TargetAlias", Rule.DECLARE, Sender.TARGET, When.ALL, None, (0, 0), "13.6"),
    ("InitiatorAlias", Rule.DECLARE, Sender.INITIATOR, When.ALL, None, (0, 0), "13.7"),
    ("TargetAddress", Rule.DECLARE, Sender.TARGET, When.ALL, None, (0, 0), "13.8"),
    ("TargetPortalGroupTag", Rule.DECLARE, Sender.TARGET, When.INITIALIZE, None, (0, 0), "13.9"),
    ("InitialR2T", Rule.OR, Sender.BOTH, When.LEADING, True, (0, 0), "13.10"),
    ("ImmediateData", Rule.AND, Sender.BOTH, When.LEADING, True, (0, 0), "13.11"),
    (
        "MaxRecvDataSegmentLength", Rule.DECLARE, Sender.BOTH, When.ALL, 8192,
        (512, 2**24 - 1), "13.12",
    ),
    ("MaxBurstLength", Rule.MINIMUM, Sender.BOTH, When.LEADING, 262144, (512, 2**24 - 1), "13.13"),
    (
        "FirstBurstLength", Rule.MINIMUM, Sender.BOTH, When.LEADING, 65536,
        (512, 2**24 - 1), "13.14",
    ),
    ("DefaultTime2Wait", Rule.MAXIMUM, Sender.BOTH, When.LEADING, 2, (0, 3600), "13.15"),
    ("DefaultTime2Retain", Rule.MINIMUM, Sender.BOTH, When.LEADING, 20, (0, 3600), "13.16"),
    ("MaxOutstandingR2T", Rule.MINIMUM, Sender.BOTH, When.LEADING, 1, (1, 65535), "13.17"),
    ("DataPDUInOrder", Rule.OR, Sender.BOTH, When.LEADING, True, (0, 0), "13.18"),
    ("DataSequenceInOrder", Rule.OR, Sender.BOTH, When.LEADING, True, (0, 0), "13.19"),
    ("ErrorRecoveryLevel", Rule.MINIMUM, Sender.BOTH, When.LEADING, 0, (0, 2), "13.20"),
    ("SessionType", Rule.DECLARE, Sender.INITIATOR, When.LEADING, "Normal", (0, 0), "13.21"),
    (
        "TaskReporting", Rule.FIRST_COMMON, Sender.BOTH, When.LEADING, ("RFC3720",),
        (0, 0), "13.23",
    ),
    ("iSCSIProtocolLevel", Rule.MINIMUM, Sender.BOTH, When.LEADING, 1, (0, 31), "13.24"),
]  # fmt: skip


@pytest.mark.parametrize("row", STANDARD, ids=lambda row: row[0])
def test_key_row_says_what_the_standard_says(
    row: tuple[str, Rule, Sender, When, Value | None, tuple[int, int], str],
) -> None:
    name, rule, sender, when, default, span, clause = row
    key = KEYS[name]
    assert (key.rule, key.sender, key.when, key.default) == (rule, sender, when, default)
    assert (key.lowest, key.highest) == span
    assert key.reference == clause


def test_every_key_of_section_13_has_a_row_that_is_checked() -> None:
    assert set(KEYS) == {row[0] for row in STANDARD} | {
        "AuthMethod", "IFMarker", "OFMarker", "IFMarkInt", "OFMarkInt",
    }  # fmt: skip


IRRELEVANT_IN_DISCOVERY = {
    "MaxConnections", "InitialR2T", "ImmediateData", "MaxBurstLength", "FirstBurstLength",
    "MaxOutstandingR2T", "DataPDUInOrder", "DataSequenceInOrder", "TaskReporting",
    "iSCSIProtocolLevel",
}  # fmt: skip


def test_keys_without_meaning_in_discovery_are_the_standards() -> None:
    assert {name for name, key in KEYS.items() if not key.discovery} == IRRELEVANT_IN_DISCOVERY


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "result"),
    [
        ("ImmediateData", True, True, True),
        ("ImmediateData", True, False, False),
        ("InitialR2T", False, False, False),
        ("InitialR2T", False, True, True),
        ("MaxBurstLength", 1000, 999, 999),
        ("DefaultTime2Wait", 2, 5, 5),
        ("DefaultTime2Retain", 2, 5, 2),
        ("HeaderDigest", ("None", "CRC32C"), ("CRC32C", "None"), "CRC32C"),
        ("HeaderDigest", ("None",), ("CRC32C",), None),
    ],
)
def test_two_offers_combine_by_the_rule(
    name: str, ours: Value, theirs: Value, result: Value | None
) -> None:
    assert combine(KEYS[name], ours, theirs) == result


def test_declared_key_cannot_be_combined() -> None:
    with pytest.raises(LocalProtocolError):
        combine(KEYS["MaxRecvDataSegmentLength"], 512, 512)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ImmediateData", "yes"),
        ("ImmediateData", ""),
        ("MaxBurstLength", "511"),
        ("MaxBurstLength", "16777216"),
        ("MaxBurstLength", "-1"),
        ("MaxBurstLength", "1_000"),
        ("MaxBurstLength", "0x"),
        ("MaxBurstLength", "1 000"),
        ("MaxBurstLength", "9" * 1000),
        ("ErrorRecoveryLevel", "3"),
        ("MaxConnections", "0"),
    ],
)
def test_value_outside_its_row_is_refused(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_value(KEYS[name], text)


@given(st.integers(0, 2**24))
def test_number_is_read_in_both_notations(number: int) -> None:
    assert parse_number(str(number)) == parse_number(hex(number)) == number


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"A=1", "null", id="not-ended"),
        pytest.param(b"A\0", "'='", id="no-equals"),
        pytest.param(b"=1\0", "empty", id="no-name"),
        pytest.param(b"A" * 64 + b"=1\0", "63", id="long-name"),
        pytest.param(b"A\xe9=1\0", "UTF-8", id="name-not-ascii"),
        pytest.param(b"A B=1\0", "character", id="blank-in-name"),
        pytest.param(b"A=\xff\0", "UTF-8", id="value-not-utf-8"),
        pytest.param(b"A=" + b"x" * 256 + b"\0", "255", id="long-value"),
    ],
)
def test_malformed_text_is_refused_for_login_and_later(data: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason) as caught:
        parse_text(data)
    assert caught.value.login is LoginStatus.INITIATOR_ERROR
    assert caught.value.reject is RejectReason.PROTOCOL_ERROR


def test_text_with_a_key_twice_is_refused_where_it_must_be_unique() -> None:
    data = b"A=1\0A=2\0"
    assert parse_text(data) == [("A", "1"), ("A", "2")]
    with pytest.raises(RemoteProtocolError, match="twice"):
        parse_unique(data)


def test_padding_nulls_and_equals_signs_in_values_do_no_harm() -> None:
    assert parse_text(b"\0A=b=c\0\0B=\0\0\0") == [("A", "b=c"), ("B", "")]


NAMES = st.text("ABCxyz019.-", min_size=1, max_size=20)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)


@given(st.dictionaries(NAMES, TEXTS, max_size=8), st.integers(1, 64))
def test_text_split_anywhere_is_put_together_again(pairs: dict[str, str], limit: int) -> None:
    pieces = split_text(format_text(pairs.items()), limit)
    collector = TextCollector()
    for piece in pieces[:-1]:
        assert len(piece) == limit
        assert collector.add(piece, continued=True) is None
        assert collector.is_collecting
    whole = collector.add(pieces[-1], continued=False)
    assert whole is not None
    assert parse_unique(whole) == pairs
    assert not collector.is_collecting


def test_endless_text_is_refused() -> None:
    collector = TextCollector()
    collector.add(bytes(LONGEST_TEXT), continued=True)
    with pytest.raises(RemoteProtocolError) as caught:
        collector.add(b"x", continued=True)
    assert caught.value.login is LoginStatus.OUT_OF_RESOURCES


def test_endless_empty_parts_are_not_kept() -> None:
    collector = TextCollector()
    for _ in range(1000):
        assert collector.add(b"", continued=True) is None
    assert not collector.is_collecting
    assert collector.add(b"A=1\0", continued=False) == b"A=1\0"


@given(st.data())
def test_value_formatted_is_parsed_to_the_same(data: st.DataObject) -> None:
    row = data.draw(st.sampled_from([k for k in KEYS.values() if k.rule is not Rule.OBSOLETE]))
    value: Value
    if row.kind is Kind.BOOLEAN:
        value = data.draw(st.booleans())
    elif row.kind is Kind.NUMBER:
        value = data.draw(st.integers(row.lowest, row.highest))
    elif row.kind is Kind.LIST:
        value = tuple(data.draw(st.lists(st.sampled_from(row.values), min_size=1)))
    else:
        value = data.draw(TEXTS)
    assert parse_value(row, format_value(value)) == value
