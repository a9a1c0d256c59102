"""What the demonstrations have in common: how they speak, run, clean up and report."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from processes import Daiko, ProcessFailed

MIB = 1 << 20
BLOCK = 512

console = Console(width=max(100, min(160, shutil.get_terminal_size((120, 40)).columns)))

Job = Callable[[Path, argparse.Namespace, ExitStack], tuple[bool, dict[str, Any]]]
"""What is demonstrated: the working folder, the options, where to put what must be ended ->
whether all was verified, and the figures, with `seconds` among them."""


def say(text: str) -> None:
    console.print(f"[bold]▸[/bold] {text}")


def show(daiko: Daiko, *arguments: str, at: str = "") -> None:
    """Run a command of a controller on this terminal, as an administrator would. `at`: where.
    Raises ProcessFailed when it fails."""
    where = f"{at}$" if at else "$"
    console.print(f"[dim]{where} daiko {' '.join(arguments)}[/dim]", highlight=False)
    environment = {**os.environ, "DAIKO_API": daiko.api}
    environment["COLUMNS"] = str(console.width)
    if console.is_terminal:
        environment["FORCE_COLOR"] = "1"
    done = subprocess.run(
        [*daiko.program(), *arguments], env=environment, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise ProcessFailed(f"`daiko {' '.join(arguments)}` ended with {done.returncode}")


def run_demo(parser: argparse.ArgumentParser, job: Job) -> int:
    """Parse the command line, demonstrate, clean up whatever happens, and report. Returns the exit
    status: 0 when everything was verified."""
    parser.add_argument("--report", type=Path, help="write the figures there, as JSON")
    parser.add_argument("--keep", action="store_true", help="leave the working folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    folder = Path(tempfile.mkdtemp(prefix="daiko-demo-"))
    try:
        with ExitStack() as stack:
            verified, figures = job(folder, options, stack)
    except KeyboardInterrupt:
        say("stopped; all processes are ended")
        return 130
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if options.report:
        options.report.write_text(json.dumps(figures, indent=1) + "\n")
        say(f"figures written to {options.report}")
    verdict = "[green]verified[/green]" if verified else "[red]NOT VERIFIED[/red]"
    say(f"{verdict} in {figures['seconds']} s")
    return 0 if verified else 1


def _stop(number: int, frame: object) -> NoReturn:
    """SIGTERM ends it as Ctrl-C does."""
    sys.stdout.flush()
    raise KeyboardInterrupt
