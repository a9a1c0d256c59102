"""`daiko mapping`: which block of a volume lies where."""

from __future__ import annotations

from typing import Annotated

import typer

from daiko.cli import client, complete, option, render

app = typer.Typer(no_args_is_help=True, help="The mapping table: which block lies where.")


@app.command("ls")
def ls(
    context: typer.Context,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="BACKEND[/LUN]",
            help="Only what lies there, in its own order.",
            autocompletion=complete.places,
        ),
    ] = "",
    json: option.Json = False,
) -> None:
    """List the extents of all volumes."""
    found = client.of(context).get("mappings", device=device)
    if json:
        render.as_json(found)
    else:
        render.extents(found)


@app.command("show")
def show(
    context: typer.Context,
    volume: option.VolumeName,
    lba: Annotated[
        int | None, typer.Option("--lba", metavar="LBA", min=0, help="Only this block.")
    ] = None,
    json: option.Json = False,
) -> None:
    """Show the extents of one volume, or where one of its blocks lies."""
    found = client.of(context).get("mappings", volume, lba=lba)
    if json:
        render.as_json(found)
    elif lba is None:
        render.extents(found)
    else:
        row = found[0]
        render.said(f"block {lba:,} of {volume} is block {row['device_lba']:,} of {row['device']}")
