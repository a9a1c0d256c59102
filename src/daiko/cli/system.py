"""`daiko status`, `apply` and `export`: the controller as a whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from daiko.cli import client, follow, option, render

_SIGN: Final = {"add": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red")}


app = typer.Typer(no_args_is_help=True, help="The controller as a whole.")


@app.command("set")
def set_system(
    context: typer.Context,
    mode: Annotated[
        str, typer.Option("--mode", metavar="delegate|direct|local", help="Who moves the data.")
    ] = "",
    ping_interval: Annotated[
        float | None,
        typer.Option(
            "--ping-interval", metavar="S", min=1, max=3600,
            help="Seconds of silence after which a host is pinged.",
        ),
    ] = None,
    ping_timeout: Annotated[
        float | None,
        typer.Option(
            "--ping-timeout", metavar="S", min=1, max=3600,
            help="Seconds for its answer; then its session is ended.",
        ),
    ] = None,
    hosts_set_states: Annotated[
        bool | None,
        typer.Option(
            "--hosts-set-states/--no-hosts-set-states",
            help="Whether hosts may set the states of target port groups (explicit ALUA).",
        ),
    ] = None,
    jobs_kept: Annotated[
        int | None,
        typer.Option(
            "--jobs-kept", metavar="N", min=1, max=100_000,
            help="Ended jobs that are kept, besides backups that can be restored.",
        ),
    ] = None,
    json: option.Json = False,
) -> None:  # fmt: skip
    """Change the mode, how hosts are pinged, what they may set, or how many jobs are kept."""
    given = {
        **option.mode(mode), "ping_interval": ping_interval, "ping_timeout": ping_timeout,
        "hosts_set_states": hosts_set_states, "jobs_kept": jobs_kept,
    }  # fmt: skip
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        raise option.usage("nothing is to be changed", "give one of the options: see --help")
    found = client.of(context).patch("system", body=changes)
    if json:
        render.as_json(found)
    else:
        render.said(
            f"mode {found['mode']}; hosts are pinged after {found['ping_interval']:g} s of silence "
            f"and have {found['ping_timeout']:g} s for the answer; they "
            f"{'may' if found['hosts_set_states'] else 'may not'} set states of target port "
            f"groups; the last {found['jobs_kept']:,} ended jobs are kept"
        )


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
    yes: option.Yes = False,
    json: option.Json = False,
) -> None:
    """Make the controller match a system file.

    The difference is shown first. Applying a file twice changes nothing the second time. Before a
    new pair overwrites a volume, it asks.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise option.usage(f"{file} cannot be read: {reason}") from error
    rest = client.of(context)
    body = {"toml": text, "dry_run": dry_run, "prune": not keep, "confirmed": yes}
    if not json:
        # The difference is shown before anything is done, and again nothing is done without one.
        planned = rest.post("apply", body={**body, "dry_run": True})["changes"]
        lost = _show_changes(planned)
        count = f"{len(planned)} change{'s' * (len(planned) != 1)}"
        if dry_run or not planned:
            render.said(f"{count}; nothing was done" if planned else "it matches already")
            return
        if lost and not yes:
            option.ask(lost, can_ask=str(file) != "-")
            body["confirmed"] = True
    with follow.busy("applying"):
        done = rest.post("apply", body=body)
    if json:
        render.as_json(done)
    else:
        render.said(f"{count} done")


def _show_changes(planned: list[dict[str, Any]]) -> list[str]:
    """Show them; what would be lost by them."""
    for change in planned:
        sign, style = _SIGN.get(change["action"], ("·", ""))
        detail = "; ".join(filter(None, (change["detail"], change["lost"])))
        render.out.print(
            Text.assemble(
                (f"{sign} {change['kind']} {change['name']}", style),
                (f"  {detail}" if detail else "", "dim"),
            )
        )
    return [change["lost"] for change in planned if change["lost"]]


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
