"""Options and arguments that several commands share, and how their values are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from daiko.cli import complete, render
from daiko.cli.error import CliError, ExitCode

Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, as the REST API gives it, instead of text.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before data is overwritten.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Start it and return; do not follow it.")]
Range = Annotated[
    str, typer.Option("--range", metavar="LBA:BLOCKS", help="Only these blocks of the source.")
]
At = Annotated[
    int | None,
    typer.Option(
        "--at", metavar="LBA", min=0, help="First block in the destination (default: the same)."
    ),
]
CopyMode = Annotated[
    str,
    typer.Option(
        "--mode",
        metavar="delegate|direct|local",
        help="Override the volume's and the system's mode for this one.",
    ),
]
Pace = Annotated[
    str,
    typer.Option(
        "--pace",
        metavar="PACE",
        help="How fast it may go: full, a rate (50MiB/s), a latency of hosts (latency:5ms), "
        "or both with a comma.",
    ),
]
BackendName = Annotated[str, typer.Argument(metavar="BACKEND", autocompletion=complete.backends)]
VolumeName = Annotated[str, typer.Argument(metavar="VOLUME", autocompletion=complete.volumes)]
HostName = Annotated[str, typer.Argument(metavar="HOST", autocompletion=complete.hosts)]
SiteName = Annotated[str, typer.Argument(metavar="SITE", autocompletion=complete.sites)]
JobId = Annotated[int, typer.Argument(metavar="ID", autocompletion=complete.jobs)]
BackupId = Annotated[int, typer.Argument(metavar="ID", autocompletion=complete.backups)]

MODES: Final = ("delegate", "direct", "local")

_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[kmgtp]?)(?P<kind>i?b|)", re.IGNORECASE)


def size(text: str) -> int:
    """Bytes of 10G, 10GiB (2^30 bytes each), 10GB (10^9), 512M, 4096. Raises CliError."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise usage(f"{text!r} is not a size", "write it as 10G, 512MiB or 1TB")
    power = " kmgtp".index(found["unit"].lower() or " ")
    decimal = found["kind"].lower() == "b" and power
    return int(float(found["number"]) * (1000 if decimal else 1024) ** power)


def block_range(text: str) -> dict[str, int]:
    """`first` and `blocks` of LBA:BLOCKS; nothing for "". Raises CliError."""
    if not text:
        return {}
    first, colon, blocks = text.partition(":")
    if not colon or not first.isdecimal() or not blocks.isdecimal() or not int(blocks):
        raise usage(
            f"{text!r} is not a range of blocks", "write it as LBA:BLOCKS, as in --range 0:2048"
        )
    return {"first": int(first), "blocks": int(blocks)}


def mode(text: str) -> dict[str, str]:
    """`mode`, if any. Raises CliError."""
    if not text:
        return {}
    if text not in MODES:
        raise usage(f"{text!r} is not a mode", f"the modes are {', '.join(MODES)}")
    return {"mode": text}


def pace(text: str) -> dict[str, str]:
    """`pace`, if any; the controller reads it."""
    return {"pace": text} if text else {}


def copied(range_: str, at: int | None, mode_: str) -> dict[str, Any]:
    """What --range, --at and --mode say, as fields of a request. Raises CliError."""
    return block_range(range_) | mode(mode_) | ({} if at is None else {"at": at})


def address(text: str) -> str:
    """The address of a back end, a path in its whole form: the controller may stand in another
    folder."""
    return text if text.startswith("iscsi:") else str(Path(text).absolute())


def ask(lost: Sequence[str], *, can_ask: bool = True) -> None:
    """Say what will be lost, and ask whether that is meant. Raises CliError where nobody can be
    asked."""
    if not (can_ask and render.err.is_terminal):
        raise usage("; ".join(lost), "say --yes where nobody can be asked")
    typer.confirm(f"{'; '.join(lost)}. Go on?", abort=True, err=True)


def usage(message: str, next_step: str = "") -> CliError:
    """The command line is not right."""
    return CliError(message, next_step, ExitCode.USAGE)
