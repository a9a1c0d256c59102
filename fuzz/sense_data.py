"""Invariant: sense data is malformed, or reads the same again in the format that holds it all."""

from __future__ import annotations

from daiko.scsi import sense
from daiko.scsi.layout import MalformedData
from daiko.scsi.sense import ForwardedSense, parse_sense
from daiko.target.event import Event
from golden import golden


def corpus() -> list[bytes]:
    forwarded = ForwardedSense(0x02, sense.medium_error(writing=True, lba=9).descriptor())
    values = [
        sense.invalid_field_in_cdb(2, 5),
        sense.lba_out_of_range(1 << 40),
        Event.REPORTED_LUNS_CHANGED.sense,
        sense.third_party_device_failure(3, cscd_byte=48, residual=7, source=forwarded),
        sense.third_party_device_failure(3, source=forwarded, destination=forwarded),
        sense.copy_segment_lba_out_of_range(1, byte=12),
        sense.extended_copy_information_available(4),
    ]
    return [
        *golden("sense_*"),
        *[value.fixed() for value in values],
        *[value.descriptor() for value in values],
    ]


def check(data: bytes) -> bool:
    try:
        value = parse_sense(data)
    except MalformedData:
        return False
    again = parse_sense(value.descriptor())
    assert (again.key, again.asc, again.ascq) == (value.key, value.asc, value.ascq)
    assert (again.field, again.information) == (value.field, value.information)
    assert (again.segment, again.command_specific) == (value.segment, value.command_specific)
    assert len(value.fixed()) <= 252
    assert value.name
    assert str(value)
    return True
