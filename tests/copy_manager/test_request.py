"""A request is kept in its job's record and comes back the same."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from daiko.command_control.plan import Function, Mode
from daiko.copy_manager.pace import FULL, Pace
from daiko.copy_manager.request import ADMINISTRATOR, CopyRange, CopyRequest

_LBA = st.integers(0, 1 << 63)
_NAME = st.sampled_from(["", "alpha", "vault/0", "192.0.2.7:3260,iqn.x:far/3"])
_RANGES = st.lists(
    st.builds(CopyRange, _LBA, _LBA, _LBA, _NAME, _NAME, st.one_of(st.none(), st.integers(0, 63))),
    max_size=5,
)


@given(
    _RANGES,
    st.sampled_from(Function),
    st.sampled_from([None, *Mode]),
    st.sampled_from([ADMINISTRATOR, "host web1 (iqn.x:web1)"]),
    st.sampled_from([FULL, Pace(1), Pace(200_000_000, 5000), Pace(latency=250)]),
)
def test_a_request_survives_its_record(
    ranges: list[CopyRange], function: Function, mode: Mode | None, asked_by: str, pace: Pace
) -> None:
    request = CopyRequest("copy", function, "alpha", "vault", tuple(ranges), mode, asked_by, pace)
    kept = json.loads(json.dumps(request.as_json()))
    again = CopyRequest.from_json("copy", "alpha", "vault", asked_by, kept)
    assert again == request
    assert again.by_host is (asked_by != ADMINISTRATOR)


def test_an_administrators_range_is_three_numbers() -> None:
    request = CopyRequest("copy", Function.VOLUME_COPY, "a", "b", (CopyRange(1, 2, 3),))
    assert request.as_json()["ranges"] == [[1, 2, 3]]


def test_a_request_that_was_kept_before_there_were_paces_is_at_full_pace() -> None:
    kept = {"function": "volume-copy", "mode": None, "ranges": [[0, 8, 0]]}
    assert CopyRequest.from_json("copy", "a", "b", ADMINISTRATOR, kept).pace == FULL
