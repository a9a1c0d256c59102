"""The extents of a record: a list to whoever reads or writes JSON, a mapping table inside."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from daiko.mapping.extent import DeviceId
from daiko.state.extents import ExtentRecord, Extents, Packed, packed_from_json
from daiko.state.record import VolumeRecord

NAA = "62da1000000000000000000000000001"
lists = st.lists(
    st.builds(
        ExtentRecord,
        device=st.sampled_from(["sd1/0", "sd1/1", "old/16383"]),
        lba=st.integers(0, 2**60),
        blocks=st.integers(1, 2**40),
    ),
    max_size=40,
)


@given(lists)
def test_extents_are_what_they_were_made_of_and_come_back_from_every_form(
    given: list[ExtentRecord],
) -> None:
    extents = Extents.of(given)
    assert list(extents) == given
    assert len(extents) == len(given)
    assert extents == given
    assert extents[1:] == tuple(given[1:])
    assert Extents.unpacked(extents.packed()) == extents
    assert packed_from_json(json.dumps([each.model_dump() for each in given])) == extents.packed()
    record = VolumeRecord(name="alpha", block_size=512, extents=extents, naa=NAA)
    assert record.extents is extents
    assert record.blocks == sum(each.blocks for each in given)
    assert VolumeRecord.model_validate_json(record.model_dump_json()) == record
    assert VolumeRecord.model_validate(record.model_dump()) == record
    assert record.model_dump()["extents"] == tuple(each.model_dump() for each in given)


def test_devices_and_back_ends_stand_in_the_order_of_their_first_extents() -> None:
    extents = Extents.of(
        ExtentRecord(device=device, lba=number, blocks=1)
        for number, device in enumerate(["b/1", "a/0", "b/0", "b/1"])
    )
    assert extents.devices == (DeviceId("b", 1), DeviceId("a", 0), DeviceId("b", 0))
    assert extents.backends == ("b", "a")
    assert extents[-1] == ExtentRecord(device="b/1", lba=3, blocks=1)


@pytest.mark.parametrize(
    ("extent", "complaint"),
    [
        ({"device": "sd1", "lba": 0, "blocks": 1}, "write it as BACKEND/LUN"),
        ({"device": "sd1/0", "lba": 0, "blocks": 0}, "give at least 1"),
        ({"device": "sd1/0", "lba": -1, "blocks": 1}, "before the start"),
        ({"device": "sd1/0", "lba": 0}, "Field required"),
    ],
)
def test_what_is_no_extent_is_refused_by_the_record(
    extent: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        VolumeRecord.model_validate_json(
            json.dumps({"name": "alpha", "block_size": 512, "naa": NAA, "extents": [extent]})
        )


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(Packed('["sd1/0"]', bytes(19)), id="cut off"),
        pytest.param(Packed('["sd1/0"]', bytes(20)), id="no blocks"),
        pytest.param(Packed("[]", bytes([1, *bytes(19)])), id="no device"),
        pytest.param(Packed('["sd1"]', bytes([1, *bytes(19)])), id="no such device"),
        pytest.param(Packed("{", bytes([1, *bytes(19)])), id="no list"),
    ],
)
def test_columns_that_were_damaged_are_refused(packed: Packed) -> None:
    with pytest.raises(ValueError, match=r"extents|table|BACKEND|Expecting"):
        Extents.unpacked(packed)
