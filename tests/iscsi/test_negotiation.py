"""Negotiation where a peer leaves answers out."""

from __future__ import annotations

import pytest

from daiko.iscsi.error import RemoteProtocolError
from daiko.iscsi.negotiation import OFFER, Negotiation
from daiko.iscsi.text_key import Sender

NOTHING: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("DataPDUInOrder", True),
        ("DataSequenceInOrder", True),
        ("InitialR2T", True),
        ("ImmediateData", False),
    ],
)
def test_answer_left_out_where_our_value_decides_is_our_value(key: str, ours: bool) -> None:
    negotiation = Negotiation(Sender.INITIATOR, {**OFFER, key: ours})
    negotiation.propose([key])
    negotiation.parameters(declared_by_us=NOTHING)
    assert negotiation.results[key] is ours


@pytest.mark.parametrize(
    ("key", "ours"),
    [("InitialR2T", False), ("ImmediateData", True), ("MaxBurstLength", 65536)],
)
def test_answer_left_out_where_the_peer_has_a_say_is_an_error(key: str, ours: int) -> None:
    negotiation = Negotiation(Sender.INITIATOR, {**OFFER, key: ours})
    negotiation.propose([key])
    with pytest.raises(RemoteProtocolError, match=key):
        negotiation.parameters(declared_by_us=NOTHING)
