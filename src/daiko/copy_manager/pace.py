"""How fast a copy may go, as a value: `full`, a rate, a latency of hosts, or a rate and a latency.

The text is the only form: what an administrator writes, what the API says and what the record of a
job keeps. Printed and read again a pace is the same, to the byte and the microsecond.

    full                     as fast as the devices let it
    50MiB/s                  no more than that, on average
    latency:5ms              slower while READs and WRITEs of hosts take longer than that
    100MiB/s,latency:5ms     both

Who keeps a copy to its pace is `pacer.py`, and for a latency `governor.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

MOST_RATE: Final = 1 << 50
"""Bytes a second: 1 PiB/s. Whoever writes more means `full`."""
MOST_LATENCY: Final = 60_000_000
"""Microseconds: a minute, by when a host has given up a command."""

HOW_TO_WRITE: Final = (
    "write it as full, as a rate (50MiB/s), as a latency of hosts (latency:5ms), "
    "or as both (50MiB/s,latency:5ms)"
)

_UNITS: Final = {
    f"{letter}{kind}": base**power
    for power, letter in enumerate("KMGTP", 1)
    for kind, base in (("iB", 1024), ("B", 1000))
} | {"B": 1}
"""Bytes; of two that say the same the first is printed."""
_SECONDS: Final = {"us": 1, "ms": 1000, "s": 1_000_000}
"""Microseconds."""

_NUMBER: Final = r"(?P<number>\d{1,18}(\.\d{1,9})?)"
_RATE: Final = re.compile(
    _NUMBER + r"\s*(?P<letter>[kmgtp]?)(?P<kind>i?b|)/s", re.IGNORECASE | re.ASCII
)
_LATENCY: Final = re.compile(
    r"latency\s*:\s*" + _NUMBER + r"\s*(?P<unit>us|ms|s)", re.IGNORECASE | re.ASCII
)


class NoPace(ValueError):
    """The text says no pace. The message says what is wrong with it, in one sentence;
    `HOW_TO_WRITE` says what is right."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a copy may go."""

    rate: int | None = None
    """Bytes a second at most, averaged; 1 to MOST_RATE. None: no bound."""
    latency: int | None = None
    """Microseconds; 1 to MOST_LATENCY. While READs and WRITEs of hosts to a volume that is copied
    from or to take longer than this on average, the copy slows down. None: hosts are not looked
    at."""

    def __str__(self) -> str:
        parts = []
        if self.rate is not None:
            parts.append(_print_rate(self.rate))
        if self.latency is not None:
            parts.append(f"latency:{_print_latency(self.latency)}")
        return ",".join(parts) or "full"

    @classmethod
    def parse(cls, text: str) -> Pace:
        """The inverse of `str`; sizes as elsewhere on the command line (50M and 50MiB are 2^20
        bytes each, 50MB is 10^6), upper or lower case. Raises NoPace."""
        if text.strip().lower() == "full":
            return FULL
        rate: int | None = None
        latency: int | None = None
        for part in (part.strip() for part in text.split(",")):
            if found := _RATE.fullmatch(part):
                if rate is not None:
                    raise NoPace(f"{text!r} names two rates")
                rate = _read_rate(part, found)
            elif found := _LATENCY.fullmatch(part):
                if latency is not None:
                    raise NoPace(f"{text!r} names two latencies")
                latency = _read_latency(part, found)
            else:
                raise NoPace(f"{part!r} is not a pace")
        return cls(rate, latency)


FULL: Final = Pace()
"""As fast as the devices let it."""


def _read_rate(text: str, found: re.Match[str]) -> int:
    letter, kind = found["letter"].upper(), found["kind"].lower()
    # Where nothing is said of it, the larger of both: 10M is 10MiB.
    unit = f"{letter}{'B' if kind == 'b' or not letter else 'iB'}"
    rate = _times(found, _UNITS[unit])
    if not rate:
        raise NoPace(f"at {text!r} nothing would ever be copied")
    if rate > MOST_RATE:
        raise NoPace(f"{text!r} is more than {_print_rate(MOST_RATE)}")
    return rate


def _read_latency(text: str, found: re.Match[str]) -> int:
    latency = _times(found, _SECONDS[found["unit"].lower()])
    if not latency:
        raise NoPace(f"{text!r}: no command is as quick as that")
    if latency > MOST_LATENCY:
        raise NoPace(f"{text!r} is longer than {_print_latency(MOST_LATENCY)}")
    return latency


def _times(found: re.Match[str], unit: int) -> int:
    """The number of a match in units, exact; what is less than one is left out."""
    return int(Fraction(found["number"]) * unit)


def _print_rate(rate: int) -> str:
    """In the unit that makes the shortest whole number."""
    fitting = (unit for unit, size in _UNITS.items() if rate % size == 0)
    unit = min(fitting, key=lambda unit: rate // _UNITS[unit])
    return f"{rate // _UNITS[unit]}{unit}/s"


def _print_latency(latency: int) -> str:
    """In whole seconds, else in milliseconds with as many digits as there are."""
    if latency % 1_000_000 == 0:
        return f"{latency // 1_000_000}s"
    whole, part = divmod(latency, 1000)
    return f"{whole}.{part:03d}".rstrip("0").rstrip(".") + "ms"
