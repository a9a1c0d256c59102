"""Sizes and times as a person reads them."""

from __future__ import annotations

import pytest

from daiko.cli import render


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (512 << 20, "512 MiB"),
        (10 << 30, "10 GiB"),
        (1 << 50, "1 PiB"),
        (5000 << 50, "5,000 PiB"),
    ],
)
def test_size_is_short(size: int, text: str) -> None:
    assert render.size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (10.4, "10 s"),
        (59.9, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_duration_is_short(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text
