"""Sizes and times as a person reads them."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

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


STEP = {
    "source": "sd1/0",
    "source_lba": 0,
    "destination": "vault/0",
    "destination_lba": 1_048_576,
    "blocks": 2048,
    "block_size": 512,
    "executor": "second controller sd1",
    "delegated": True,
    "reason": "it owns the source",
    "rejected": [{"executor": "this controller", "reason": "not needed"}],
    "bytes_moved": 1 << 20,
    "seconds": 1.25,
    "error": "",
}


def test_reasons_that_steps_share_are_told_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "out", Console(width=100))
    other = STEP | {"executor": "this controller", "delegated": False, "error": "it went away"}
    render.steps([STEP, STEP, STEP, other, STEP], report=True)
    lines = capsys.readouterr().out.splitlines()
    assert re.split(" {2,}", lines[2].strip()) == [
        *("1", "sd1/0 @ 0", "vault/0 @ 1,048,576", "2,048", "second controller sd1"),
        *("1 MiB", "1.2 s"),
    ]
    assert "1-3, 5  second controller sd1: it owns the source" in lines
    assert "4  this controller: it owns the source" in lines
    assert "   it dropped the rest: it went away" in lines
    assert sum("not this controller: not needed" in line for line in lines) == 2


def test_very_long_table_is_printed_as_a_short_one_but_plainly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def text(count: int) -> list[str]:
        made = render.table("name", "blocks", "on", right=("blocks",))
        for number in range(count):
            made.add_row(f"v{number} [dim](image)[/dim]", str(10**number), "sd1")
        render.rows(made, "nothing")
        return [re.sub(" +", " ", line) for line in capsys.readouterr().out.splitlines()]

    short = text(5)
    monkeypatch.setattr(render, "LONG", 4)
    long = text(5)
    assert [line for line in short if "─" not in line] == [line.strip() for line in long]
    assert len(long) == 6


@pytest.mark.parametrize(
    ("limited_by", "said"),
    [
        (None, "50MiB/s,latency:5ms"),
        ("rate", "50MiB/s,latency:5ms; it limits the copy"),
        ("hosts", "50MiB/s,latency:5ms; hosts hold it back to 12 MiB/s now"),
    ],
)
def test_pace_of_a_job_says_whether_it_limits_the_copy(limited_by: str | None, said: str) -> None:
    found = {
        "pace": "50MiB/s,latency:5ms",
        "limited_by": limited_by,
        "paced_bytes_per_second": 12 << 20,
    }
    assert str(render._pace(found)) == said
