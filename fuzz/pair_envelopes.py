"""Invariant: whatever a peer puts into an envelope is one message that packs the same, or none."""

from __future__ import annotations

from daiko.scsi.layout import MalformedData
from daiko.scsi.pair_envelopes import envelope_of, message_of
from daiko.scsi.site_parameters import Page
from daiko.scsi.site_values import Envelope, values_of
from golden import golden


def corpus() -> list[bytes]:
    return [*golden("pair_join"), *golden("pair_state"), *golden("pair_answer")]


def check(data: bytes) -> bool:
    try:
        found = values_of(Page.parse(data).descriptors)
        messages = [message_of(each) for each in found if isinstance(each, Envelope)]
    except MalformedData:
        return False
    for message in messages:
        assert message_of(Envelope.of(envelope_of(message).body())) == message
    return bool(messages)
