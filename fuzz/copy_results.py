"""Invariant: an answer of RECEIVE COPY RESULTS is malformed, or packs to what reads the same."""

from __future__ import annotations

from daiko.scsi.copy_results import CopyStatus, FailureDetails, OperatingParameters
from daiko.scsi.layout import MalformedData
from daiko.scsi.sense import third_party_error
from golden import golden


def corpus() -> list[bytes]:
    return [
        *golden("operating_parameters_*"),
        CopyStatus(1, 3, 1 << 20, 1).pack(),
        FailureDetails(2, third_party_error(1).fixed()).pack(),
    ]


def check(data: bytes) -> bool:
    accepted = False
    for kind in (OperatingParameters, CopyStatus, FailureDetails):
        try:
            value = kind.parse(data)
        except MalformedData:
            continue
        accepted = True
        if value is not None:
            assert kind.parse(value.pack()) == value
        if isinstance(value, CopyStatus):
            assert value.transferred is None or value.transferred >= 0
    return accepted
