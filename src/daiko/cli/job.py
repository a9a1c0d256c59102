"""`daiko job`: everything that takes long."""

from __future__ import annotations

from typing import Annotated

import typer

from daiko.cli import client, follow, option, render

app = typer.Typer(no_args_is_help=True, help="Jobs: everything that takes long.")


@app.command("ls")
def ls(
    context: typer.Context,
    type_: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="backup, restore, copy or pair.")
    ] = "",
    state: Annotated[
        str, typer.Option("--state", metavar="STATE", help="running, failed, done, …")
    ] = "",
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=0, help="The newest N; 0 = all.")
    ] = 50,
    json: option.Json = False,
) -> None:
    """List jobs, newest first."""
    found = client.of(context).get("jobs", type=type_, state=state, limit=limit)
    if json:
        render.as_json(found)
    else:
        render.jobs(found, "no jobs")


@app.command("show")
def show(context: typer.Context, id: option.JobId, json: option.Json = False) -> None:
    """Show one job: its plan, its progress, its report."""
    found = client.of(context).get("jobs", id)
    if json:
        render.as_json(found)
    else:
        render.job(found)


@app.command("wait")
def wait(context: typer.Context, id: option.JobId, json: option.Json = False) -> None:
    """Follow a job to its end. Exits with 0 only if it is done."""
    rest = client.of(context)
    follow.to_the_end(rest, rest.get("jobs", id), quiet=json)
    ended = rest.get("jobs", id)  # with its steps, which following does without
    if json:
        render.as_json(ended)
    else:
        render.job(ended)
    follow.outcome(ended)


@app.command("pace")
def pace(
    context: typer.Context,
    id: option.JobId,
    pace: Annotated[
        str,
        typer.Argument(
            metavar="PACE",
            help="full, a rate (50MiB/s), a latency of hosts (latency:5ms), or both with a comma.",
        ),
    ],
    json: option.Json = False,
) -> None:
    """Let a job that waits or runs go at another pace from now on."""
    found = client.of(context).patch("jobs", id, body={"pace": pace})
    if json:
        render.as_json(found)
    else:
        render.said(f"{found['type']} {id} goes at pace {found['pace']} now")


@app.command("cancel")
def cancel(context: typer.Context, id: option.JobId, json: option.Json = False) -> None:
    """Stop a job. What it confirmed stays where it is."""
    found = client.of(context).post("jobs", id, "cancel")
    if json:
        render.as_json(found)
    else:
        done = render.size(found["copied_blocks"] * found["block_size"])
        render.said(f"{found['type']} {id} is {found['state']}; {done} of it had been copied")
