"""`daiko explain`: the plan of a request, without running it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from daiko.cli import backup, client, complete, copy, migrate, option, render

app = typer.Typer(
    no_args_is_help=True, help="Show the plan of a request, with all reasons, without running it."
)


@app.command("backup")
def explain_backup(
    context: typer.Context,
    volume: option.VolumeName,
    to: backup.To,
    range_: option.Range = "",
    at: option.At = None,
    mode: option.CopyMode = "",
    json: option.Json = False,
) -> None:
    """Who would carry out each step of a backup, why, and why not another."""
    body = {"type": "backup", "volume": volume, "to": to, **option.copied(range_, at, mode)}
    _explain(context, body, json)


@app.command("copy")
def explain_copy(
    context: typer.Context,
    source: copy.Source,
    destination: copy.Destination,
    range_: option.Range = "",
    at: option.At = None,
    mode: option.CopyMode = "",
    json: option.Json = False,
) -> None:
    """Who would carry out each step of a copy, why, and why not another."""
    body = {
        "type": "copy",
        "source": source,
        "destination": destination,
        **option.copied(range_, at, mode),
    }
    _explain(context, body, json)


@app.command("restore")
def explain_restore(
    context: typer.Context,
    id: option.BackupId,
    to: Annotated[str, typer.Option("--to", metavar="VOLUME", autocompletion=complete.places)] = "",
    force: Annotated[bool, typer.Option("--force")] = False,
    mode: option.CopyMode = "",
    json: option.Json = False,
) -> None:
    """Who would carry out each step of a restore, why, and why not another."""
    body = {"type": "restore", "backup": id, "to": to, "force": force, **option.mode(mode)}
    _explain(context, body, json)


@app.command("migrate")
def explain_migrate(
    context: typer.Context,
    volume: option.VolumeName,
    to: migrate.To,
    source: migrate.From = "",
    json: option.Json = False,
) -> None:
    """How much would move to another device, who would copy it, and why."""
    body = {"type": "migration", "volume": volume, "to": to, "source": source}
    _explain(context, body, json)


def _explain(context: typer.Context, body: dict[str, Any], json: bool) -> None:
    found = client.of(context).post("plans", body=body)
    if json:
        render.as_json(found)
    else:
        render.plan(found)
