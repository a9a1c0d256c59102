"""`daiko backup`: direct backups, and bringing them back."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from daiko.cli import client, complete, follow, option, render

app = typer.Typer(no_args_is_help=True, help="Direct backups: no byte passes through a host.")

To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="DEVICE",
        help="The backup device: a volume, BACKEND/LUN, or a BACKEND with one LU.",
        autocompletion=complete.places,
    ),
]


@app.command("run")
def run(
    context: typer.Context,
    volume: option.VolumeName,
    to: To,
    range_: option.Range = "",
    at: option.At = None,
    mode: option.CopyMode = "",
    pace: option.Pace = "",
    no_wait: option.NoWait = False,
    json: option.Json = False,
) -> None:
    """Back a volume up, whole or a range, and follow it to its report."""
    rest = client.of(context)
    body = {"volume": volume, "to": to, **option.copied(range_, at, mode), **option.pace(pace)}
    finish(rest, rest.post("backups", body=body), no_wait, json, "backups")


@app.command("ls")
def ls(
    context: typer.Context,
    volume: Annotated[
        str,
        typer.Option("--volume", metavar="VOLUME", autocompletion=complete.volumes),
    ] = "",
    json: option.Json = False,
) -> None:
    """List the backups, newest first."""
    found = client.of(context).get("backups", volume=volume)
    if json:
        render.as_json(found)
    else:
        render.jobs(found, "no backups yet; make one with daiko backup run")


@app.command("show")
def show(context: typer.Context, id: option.BackupId, json: option.Json = False) -> None:
    """Show one backup: who moved how many bytes and why, and whether it can be restored."""
    found = client.of(context).get("backups", id)
    if json:
        render.as_json(found)
    else:
        render.job(found)


@app.command("restore")
def restore(
    context: typer.Context,
    id: option.BackupId,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="VOLUME",
            help="Default: the volume that it was made of.",
            autocompletion=complete.places,
        ),
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Even when something was written over the backup.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    mode: option.CopyMode = "",
    pace: option.Pace = "",
    no_wait: option.NoWait = False,
    json: option.Json = False,
) -> None:
    """Bring a backup back. What is in those blocks of the volume now is lost."""
    rest = client.of(context)
    backup = rest.get("backups", id)
    target = to or backup["source"]
    if not yes:
        _ask(backup, target)
    body = {"to": to, "force": force, **option.mode(mode), **option.pace(pace)}
    finish(rest, rest.post("backups", id, "restore", body=body), no_wait, json)


def finish(
    rest: client.Client, job: dict[str, Any], no_wait: bool, json: bool, noun: str = "jobs"
) -> None:
    """Follow a job that was just started to its report. Raises CliError unless it is done."""
    if no_wait:
        if json:
            render.as_json(job)
        else:
            render.said(
                f"{job['type']} {job['id']} is under way; "
                f"follow it with `daiko job wait {job['id']}`"
            )
        return
    follow.to_the_end(rest, job, quiet=json)
    ended = rest.get(noun, job["id"])
    if json:
        render.as_json(ended)
    else:
        render.job(ended)
    follow.outcome(ended)


def _ask(backup: dict[str, Any], target: str) -> None:
    amount = render.size(backup["blocks"] * backup["block_size"])
    if not render.err.is_terminal:
        raise option.usage(
            f"{amount} of {target} would be overwritten", "say --yes where nobody can be asked"
        )
    typer.confirm(
        f"Overwrite {amount} of {target} with backup {backup['id']}?", abort=True, err=True
    )
