"""What two sites say to one another of their pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.layout import MalformedData
from daiko.scsi.pair_envelopes import (
    MOST_EXCHANGED,
    MOST_MARKS,
    VERSION,
    Answer,
    Ask,
    Exchange,
    Exchanged,
    Head,
    Join,
    Leave,
    Lend,
    Marks,
    Message,
    Mixture,
    Return,
    State,
    StateCode,
    Verdict,
    envelope_of,
    message_of,
)
from daiko.scsi.site_parameters import Page
from daiko.scsi.site_values import LARGEST_ADDRESS, Envelope, values_of

from .golden import golden

UUID = bytes(range(0xA0, 0xB0))
NAA = bytes.fromhex("602da100000000000000000000000001")
OTHER = NAA[:-1] + b"\x02"
JOIN = Join(
    Head(UUID, 42, 1), "alpha-mirror", "db", "alpha", "beta", NAA, OTHER, 4096, 512, 65536, True
)
STATE = State(Head(UUID, 43, 7), StateCode.COPYING, Mixture.SECONDARY, True, "because")
ANSWER = Answer(
    Head(UUID, 44, 7), Verdict.ACCEPTED, StateCode.COPYING, Mixture.SECONDARY, False, 131072, "",
    8, 0, b"\x81",
)  # fmt: skip

LEND = Lend(Head(UUID, 45, 7), 0x01020304)
EXCHANGE = Exchange(
    Head(UUID, 46, 1 << 32),
    StateCode.PAIRED,
    (
        Exchanged(UUID, 1 << 32, True, "full"),
        Exchanged(OTHER, 2 << 32, False, "7MiB/s", 256 << 20),
    ),
)

long = st.integers(0, 2**64 - 1)
text = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=60)
heads = st.builds(Head, st.binary(min_size=16, max_size=16), long, long)
loans = st.integers(0, 2**32 - 1)
naa = st.binary(min_size=15, max_size=15).map(b"\x60".__add__)
states = st.sampled_from([code for code in StateCode if code])
mixtures = st.sampled_from(Mixture)
bytes_of_regions = st.integers(0, 2**50).map(lambda number: number * 8)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    first, bits = draw(bytes_of_regions), draw(st.binary(max_size=99))
    more = draw(st.one_of(st.none(), st.integers(0, 2**30)))
    after = 0 if more is None else first + 8 * (max(1, len(bits)) + more)
    return Answer(
        draw(heads), draw(st.sampled_from(Verdict)), draw(st.sampled_from(StateCode)),
        draw(mixtures), draw(st.booleans()), draw(long), draw(text), first, after, bits,
        draw(loans), draw(st.booleans()), draw(st.integers(0, 2**32 - 1)),
    )  # fmt: skip


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    pairs = draw(
        st.lists(
            st.builds(
                Exchanged, st.binary(min_size=16, max_size=16), long, st.booleans(), text, long
            ),
            min_size=1,
            max_size=5,
            unique_by=lambda each: each.pair,
        )
    )
    state = draw(st.sampled_from([StateCode.PAIRED, StateCode.COPYING]))
    return Exchange(Head(pairs[0].pair, draw(long), pairs[0].sequence), state, tuple(pairs))


messages = st.one_of(
    st.builds(
        Join, heads, text, text, text, text, naa, naa, st.integers(1, LARGEST_ADDRESS),
        st.sampled_from([512, 4096]), st.integers(12, 20).map(lambda shift: 1 << shift),
        st.booleans(), st.booleans(),
    ),
    st.builds(State, heads, states, mixtures, st.booleans(), text),
    st.builds(Marks, heads, bytes_of_regions),
    st.builds(Leave, heads),
    st.builds(Ask, heads),
    st.builds(Lend, heads, st.integers(1, 2**32 - 1)),
    st.builds(Return, heads, st.integers(1, 2**32 - 1)),
    answers(),
    exchanges(),
)  # fmt: skip


@given(messages)
def test_message_comes_back_from_its_envelope(message: Message) -> None:
    assert message_of(Envelope.of(envelope_of(message).body())) == message


@given(messages, st.binary(min_size=1, max_size=20))
def test_what_stands_behind_the_fields_is_ignored(message: Message, more: bytes) -> None:
    envelope = envelope_of(message)
    assert message_of(replace(envelope, contents=envelope.contents + more)) == message


@given(messages, st.data())
def test_contents_that_are_cut_short_are_malformed(message: Message, data: st.DataObject) -> None:
    envelope = envelope_of(message)
    cut = data.draw(st.integers(0, len(envelope.contents) - 1))
    with pytest.raises(MalformedData):
        message_of(replace(envelope, contents=envelope.contents[:cut]))


@given(st.integers(1, 9), st.binary(max_size=160))
def test_any_contents_are_a_message_or_malformed(kind: int, contents: bytes) -> None:
    try:
        message = message_of(Envelope(kind, VERSION, contents))
    except MalformedData:
        return
    assert message_of(envelope_of(message)) == message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("pair_join", JOIN, id="join"),
        pytest.param("pair_state", STATE, id="state"),
        pytest.param("pair_answer", ANSWER, id="answer"),
        pytest.param("pair_lend", LEND, id="lend"),
        pytest.param("pair_exchange", EXCHANGE, id="exchange"),
    ],
)
def test_golden_page_is_the_message(name: str, message: Message) -> None:
    data = golden(name)
    page = Page.parse(data)
    (envelope,) = values_of(page.descriptors)
    assert isinstance(envelope, Envelope)
    assert message_of(envelope) == message
    assert replace(Page.of(0x10, [envelope_of(message)]), version=page.version).pack() == data


@pytest.mark.parametrize(
    ("message", "words"),
    [
        pytest.param(replace(JOIN, block_size=520), "520 bytes", id="block size"),
        pytest.param(replace(JOIN, blocks=0), "0 blocks", id="empty"),
        pytest.param(replace(JOIN, blocks=2**61), "blocks", id="larger than anything"),
        pytest.param(replace(JOIN, granularity=65537), "regions of", id="no power of two"),
        pytest.param(replace(JOIN, granularity=2048), "regions of", id="regions too small"),
        pytest.param(replace(JOIN, granularity=2 << 20), "regions of", id="regions too large"),
        pytest.param(replace(JOIN, primary_naa=bytes(16)), "no NAA 6", id="no identity"),
        pytest.param(replace(JOIN, name="a\nb"), "control characters", id="control characters"),
        pytest.param(replace(STATE, state=StateCode.NONE), "no state", id="no state"),
        pytest.param(replace(STATE, state=9), "state 9 is none", id="unknown state"),
        pytest.param(replace(STATE, mixture=3), "mixture 3 is none", id="unknown mixture"),
        pytest.param(Marks(STATE.head, 9), "begins no byte", id="marks in a byte"),
        pytest.param(replace(LEND, loan=0), "without a number", id="loan without a number"),
        pytest.param(replace(EXCHANGE, state=StateCode.SPLIT), "to SPLIT", id="exchange to split"),
        pytest.param(
            replace(EXCHANGE, head=Head(OTHER, 46, 1 << 32)),
            "another pair than its head",
            id="exchange of another pair",
        ),
        pytest.param(
            replace(EXCHANGE, pairs=EXCHANGE.pairs[:1] * 2), "a pair twice", id="exchanged twice"
        ),
        pytest.param(replace(ANSWER, verdict=5), "verdict 5 is none", id="unknown verdict"),
        pytest.param(replace(ANSWER, first=1), "middle of a byte", id="bits in a byte"),
        pytest.param(replace(ANSWER, next=8), "do not go on", id="marks without end"),
    ],
)
def test_what_no_honest_peer_says_is_malformed(message: Any, words: str) -> None:
    with pytest.raises(MalformedData, match=words):
        message_of(envelope_of(message))


def test_envelope_of_another_kind_or_version_is_malformed() -> None:
    for envelope in (Envelope(10, VERSION, b""), Envelope(1, 2, b""), Envelope(0, 1, b"")):
        with pytest.raises(MalformedData, match="not known here"):
            message_of(envelope)


@pytest.mark.parametrize("pairs", [0, MOST_EXCHANGED + 1])
def test_exchange_has_pairs_and_not_too_many(pairs: int) -> None:
    with pytest.raises(ValueError, match="pairs exchanged at once"):
        envelope_of(replace(EXCHANGE, pairs=EXCHANGE.pairs[:1] * pairs))


def test_more_marks_than_an_answer_holds_are_not_packed() -> None:
    with pytest.raises(ValueError, match="bytes of marks"):
        envelope_of(replace(ANSWER, bits=bytes(MOST_MARKS + 1)))
