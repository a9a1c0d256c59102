"""`daiko status`, `apply` and `export`: the controller as a whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from daiko.cli import client, follow, option, render

_SIGN: Final = {"add": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red")}


def status(context: typer.Context, json: option.Json = False) -> None:
    """Show the controller at a glance."""
    found = client.of(context).get("system")
    if json:
        render.as_json(found)
        return
    away = found["unreachable"]
    backends = f"{found['backends']}"
    if away:
        backends += f", {len(away)} of them not answering"
    jobs = f"{found['jobs_active']} active"
    if found["jobs_failed"]:
        jobs += f", {found['jobs_failed']} failed"
    render.facts(
        [
            ("controller", f"Daiko {found['version']}, mode {found['mode']}"),
            ("target", found["iqn"]),
            ("portals", ", ".join(found["portals"])),
            ("back ends", backends),
            ("volumes", f"{found['volumes']} ({render.size(found['volume_bytes'])})"),
            ("hosts", f"{found['hosts']}, {found['sessions']} sessions"),
            ("jobs", jobs),
        ]
    )
    for row in away:
        render.out.print(f"{row['backend']} does not answer: {row['reason']}", style="red")


def apply(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="System file (TOML); - = stdin.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only show the difference.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave alone what the file does not name.")
    ] = False,
    json: option.Json = False,
) -> None:
    """Make the controller match a system file.

    The difference is shown first. Applying a file twice changes nothing the second time.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise option.usage(f"{file} cannot be read: {reason}") from error
    rest = client.of(context)
    if not json:
        # The difference is shown before anything is done, and again nothing is done without one.
        planned = rest.post("apply", body={"toml": text, "dry_run": True, "prune": not keep})[
            "changes"
        ]
        for change in planned:
            sign, style = _SIGN.get(change["action"], ("·", ""))
            detail = f"  {change['detail']}" if change["detail"] else ""
            render.out.print(
                Text.assemble((f"{sign} {change['kind']} {change['name']}", style), (detail, "dim"))
            )
        count = f"{len(planned)} change{'s' * (len(planned) != 1)}"
        if dry_run or not planned:
            render.said(f"{count}; nothing was done" if planned else "it matches already")
            return
    with follow.busy("applying"):
        done = rest.post("apply", body={"toml": text, "dry_run": dry_run, "prune": not keep})
    if json:
        render.as_json(done)
    else:
        render.said(f"{count} done")


def export(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Default: standard output.")
    ] = None,
) -> None:
    """Write the configuration as a system file for `daiko apply`."""
    text = client.of(context).text("export")
    if file is None:
        sys.stdout.write(text)
        return
    try:
        file.write_text(text)
    except OSError as error:
        raise option.usage(f"{file} cannot be written: {error.strerror}") from error
    render.said(f"written to {file}")
