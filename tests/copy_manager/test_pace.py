"""The pace as a value: read, printed, kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.cli import option
from daiko.copy_manager.pace import FULL, MOST_LATENCY, MOST_RATE, NoPace, Pace

PACES = st.builds(
    Pace,
    st.one_of(st.none(), st.integers(1, MOST_RATE)),
    st.one_of(st.none(), st.integers(1, MOST_LATENCY)),
)


@given(PACES)
def test_pace_survives_being_printed(pace: Pace) -> None:
    assert Pace.parse(str(pace)) == pace
    assert Pace.parse(str(pace).upper()) == Pace.parse(str(pace).lower()) == pace


@pytest.mark.parametrize(
    ("text", "pace", "printed"),
    [
        ("full", FULL, "full"),
        (" Full ", FULL, "full"),
        ("50MiB/s", Pace(50 << 20), "50MiB/s"),
        ("50M/s", Pace(50 << 20), "50MiB/s"),
        ("200MB/s", Pace(200_000_000), "200MB/s"),
        ("0.5 gib/s", Pace(512 << 20), "512MiB/s"),
        ("1.5KB/s", Pace(1500), "1500B/s"),
        ("1024/s", Pace(1024), "1KiB/s"),
        ("1000000 B/s", Pace(1_000_000), "1MB/s"),
        ("1PiB/s", Pace(MOST_RATE), "1PiB/s"),
        ("latency:5ms", Pace(latency=5000), "latency:5ms"),
        ("latency: 250us", Pace(latency=250), "latency:0.25ms"),
        ("latency:2s", Pace(latency=2_000_000), "latency:2s"),
        ("latency:1.5s", Pace(latency=1_500_000), "latency:1500ms"),
        ("100MiB/s,latency:5ms", Pace(100 << 20, 5000), "100MiB/s,latency:5ms"),
        ("latency:5ms , 100MiB/s", Pace(100 << 20, 5000), "100MiB/s,latency:5ms"),
    ],
)
def test_pace_is_read_and_printed(text: str, pace: Pace, printed: str) -> None:
    assert Pace.parse(text) == pace
    assert str(pace) == printed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' is not a pace"),
        ("fast", "'fast' is not a pace"),
        ("50MiB", "'50MiB' is not a pace"),
        ("-5MiB/s", "'-5MiB/s' is not a pace"),
        ("5ms", "'5ms' is not a pace"),
        ("latency:5", "'latency:5' is not a pace"),
        ("full,latency:5ms", "'full' is not a pace"),
        ("50MiB/s,", "'' is not a pace"),
        ("٥MiB/s", "'٥MiB/s' is not a pace"),
        ("1MiB/s,2MiB/s", "'1MiB/s,2MiB/s' names two rates"),
        ("latency:5ms,latency:5ms", "'latency:5ms,latency:5ms' names two latencies"),
        ("0/s", "at '0/s' nothing would ever be copied"),
        ("0.4B/s", "at '0.4B/s' nothing would ever be copied"),
        ("1025TiB/s", "'1025TiB/s' is more than 1PiB/s"),
        ("latency:0ms", "'latency:0ms': no command is as quick as that"),
        ("latency:61s", "'latency:61s' is longer than 60s"),
    ],
)
def test_what_is_no_pace_is_refused_with_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(NoPace) as refused:
        Pace.parse(text)
    assert str(refused.value) == why


@given(
    st.integers(1, 999),
    st.sampled_from(["", ".5", ".25"]),
    st.sampled_from([*"kmgt", *"KMGT"]),
    st.sampled_from(["", "b", "B", "ib", "iB"]),
)
def test_a_rate_is_a_size_of_the_command_line_a_second(
    whole: int, part: str, letter: str, kind: str
) -> None:
    size = f"{whole}{part}{letter}{kind}"
    assert Pace.parse(f"{size}/s") == Pace(option.size(size))
