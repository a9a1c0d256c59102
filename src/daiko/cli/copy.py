"""`daiko copy`: from volume to volume."""

from __future__ import annotations

from typing import Annotated

import typer

from daiko.cli import backup, client, complete, option, render

app = typer.Typer(no_args_is_help=True, help="Volume copies.")

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A volume, BACKEND/LUN, or a BACKEND with one LU.",
        autocompletion=complete.places,
    ),
]
Destination = Annotated[
    str,
    typer.Argument(
        metavar="DESTINATION",
        help="The same; what is in those blocks of it now is lost.",
        autocompletion=complete.places,
    ),
]


@app.command("run")
def run(
    context: typer.Context,
    source: Source,
    destination: Destination,
    range_: option.Range = "",
    at: option.At = None,
    mode: option.CopyMode = "",
    pace: option.Pace = "",
    no_wait: option.NoWait = False,
    json: option.Json = False,
) -> None:
    """Copy a volume or device to another, whole or a range, and follow it to its report."""
    rest = client.of(context)
    body = {
        "source": source,
        "destination": destination,
        **option.copied(range_, at, mode),
        **option.pace(pace),
    }
    backup.finish(rest, rest.post("copies", body=body), no_wait, json)


@app.command("ls")
def ls(context: typer.Context, json: option.Json = False) -> None:
    """List the copies, newest first; those that hosts asked for, too."""
    found = client.of(context).get("copies")
    if json:
        render.as_json(found)
    else:
        render.jobs(found, "no copies yet; make one with daiko copy run")


@app.command("show")
def show(context: typer.Context, id: option.JobId, json: option.Json = False) -> None:
    """Show one copy: who moved how many bytes and why."""
    found = client.of(context).get("copies", id)
    if json:
        render.as_json(found)
    else:
        render.job(found)
