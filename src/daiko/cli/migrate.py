"""`daiko volume migrate`: a volume moves to another device while hosts use it."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer

from daiko.cli import client, complete, option, render
from daiko.cli.error import CliError, ExitCode

ONE_WAIT: Final = 30.0
"""Seconds that the controller is asked to wait at a time."""

To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="BACKEND[/LUN]",
        help="The device that it moves to.",
        autocompletion=complete.places,
    ),
]
From = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="BACKEND[/LUN]",
        help="Move only what lies on this device. Default: all that lies elsewhere.",
        autocompletion=complete.places,
    ),
]


def migrate(
    context: typer.Context,
    name: option.VolumeName,
    to: To = "",
    source: From = "",
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Leave it where it is; the new place is given back.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after a failure, with what differs.")
    ] = False,
    pace: option.Pace = "",
    wait: Annotated[bool, typer.Option("--wait", help="Until it has moved, or failed.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="SECONDS", min=0, help="With --wait. Default: as long as it takes."
        ),
    ] = None,
    json: option.Json = False,
) -> None:
    """Move a volume to another device (--to) while hosts use it; they notice nothing.

    Its blocks are copied by whoever owns them where they can, what hosts write goes along, and when
    both places are the same the volume goes on in the new one; its identity stays. `daiko explain
    migrate` says first how much that is, and who will do it. Without --to: --pace changes the
    pace, --wait waits. Exit codes: 1 when it has failed or was cancelled, 7 when there was nothing
    to do, 8 when the time was over.
    """
    if sum([bool(to), cancel, resume]) > 1:
        raise option.usage("say one of --to, --cancel and --resume", "")
    if not (to or cancel or resume or pace or wait):
        raise option.usage(
            "nothing is asked for", f"as in `daiko volume migrate {name} --to sd2/0`"
        )
    if source and not to:
        raise option.usage("--from says nothing without --to", "")
    if pace and (cancel or resume):
        raise option.usage("--pace goes with --to, or by itself", "")
    rest = client.of(context)
    found = _ask(rest, name, to, source, pace, cancel=cancel, resume=resume)
    if wait and not cancel:
        found = _wait(rest, name, timeout)
    if json:
        render.as_json(found)
    else:
        _show(found)
    if wait and not cancel:
        _check(found, timeout)


def migrations(context: typer.Context, json: option.Json = False) -> None:
    """List the volumes that move to another device, or moved last."""
    found = client.of(context).get("migrations")
    if json:
        render.as_json(found)
        return
    made = render.table("volume", "to", "state", "size", "left", "job", right=("size", "left"))
    for each in found:
        made.add_row(
            each["volume"],
            each["to"],
            render.state(each["state"]),
            render.size(each["size"]),
            render.size(each["left"]),
            str(each["job"] or ""),
        )
    render.rows(made, "no volume was migrated; do it with daiko volume migrate")


def line(rest: client.Client, name: str) -> str:
    """What `daiko volume show` says of a migration; empty where none is open."""
    for each in rest.get("migrations"):
        if each["volume"] == name and each["state"] in ("moving", "failed"):
            return f"{_heading(each)}: {render.size(each['left'])} left" + (
                f"; {each['reason']}" if each["reason"] else ""
            )
    return ""


# --- inside -------------------------------------------------------------------------------------


def _ask(
    rest: client.Client,
    name: str,
    to: str,
    source: str,
    pace: str,
    *,
    cancel: bool,
    resume: bool,
) -> dict[str, Any]:
    """The migration after what was asked. Raises CliError, also where there was nothing to do."""
    at = ("volumes", name, "migration")
    found: dict[str, Any]
    if to:
        asked = rest.post(*at, body={"to": to, "source": source, **option.pace(pace)})
        nothing = f"{name} lies there already"
    elif cancel:
        asked = rest.delete(*at)
        nothing = "{state} already"
    elif resume:
        asked = rest.post(*at, "resume")
        nothing = "{state} already"
    else:
        found = rest.patch(*at, body=option.pace(pace)) if pace else rest.get(*at)
        return found
    if not asked["changed"]:
        state = (asked["migration"] or {}).get("state", "")
        raise CliError(f"nothing to do: {nothing.format(state=state)}", code=ExitCode.NOTHING)
    found = asked["migration"]
    return found


def _wait(rest: client.Client, name: str, timeout: float | None) -> dict[str, Any]:
    end = time.monotonic() + (float("inf") if timeout is None else timeout)
    while True:
        left = max(end - time.monotonic(), 0.0)
        found: dict[str, Any] = rest.get(
            "volumes", name, "migration", "wait", seconds=min(left, ONE_WAIT)
        )
        if found["state"] != "moving" or left <= 0:
            return found


def _check(found: dict[str, Any], timeout: float | None) -> None:
    """Raises CliError unless it has moved."""
    name, state = found["volume"], found["state"]
    if state == "failed":
        raise CliError(
            f"{name} has not moved: {found['reason']}",
            f"`daiko volume migrate {name} --resume` when the cause is gone, or --cancel",
        )
    if state == "cancelled":
        raise CliError(f"{name} has not moved: it was cancelled")
    if state != "done":
        raise CliError(f"{name} is still moving after {timeout:g} s", code=ExitCode.TIMEOUT)


def _heading(found: dict[str, Any]) -> str:
    return {
        "moving": f"moving to {found['to']}",
        "failed": f"moving to {found['to']} has failed",
        "done": f"it lies on {found['to']}",
        "cancelled": f"moving to {found['to']} was cancelled",
    }[found["state"]]


def _show(found: dict[str, Any]) -> None:
    render.out.print(f"[bold]volume {found['volume']}[/bold]: {_heading(found)}")
    held = {"rate": "its rate", "hosts": "the latency of hosts"}.get(found["limited_by"] or "")
    render.facts(
        [
            ("state", render.state(found["state"])),
            ("why", found["reason"]),
            ("waits for", found["waits_for"]),
            ("from", found["source"]),
            (
                "data",
                f"{found['percent']:g} % of {render.size(found['size'])} copied, "
                f"{render.size(found['left'])} left",
            ),
            ("job", f"{found['job']}" if found["job"] else ""),
            *(
                ("by", f"{each['executor']}: {render.size(each['bytes'])}, since {each['reason']}")
                for each in found["carriers"]
            ),
            ("pace", found["pace"] + (f", held back by {held}" if held else "")),
            ("since", render.moment(found["changed"])),
            *(("note", note) for note in found["notes"]),
        ]
    )
