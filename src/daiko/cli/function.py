"""`daiko function`: what each second controller can do and reach."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from daiko.cli import client, complete, follow, option, render
from daiko.cli.error import CliError

app = typer.Typer(
    no_args_is_help=True, help="The function table: what second controllers can do and reach."
)

FunctionName = Annotated[str, typer.Argument(metavar="FUNCTION", autocompletion=complete.functions)]
Device = Annotated[
    str,
    typer.Argument(
        metavar="DEVICE",
        help="BACKEND/LUN, or BACKEND for all of its LUs.",
        autocompletion=complete.places,
    ),
]
Word = Annotated[str, typer.Argument(metavar="can|cannot")]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; it is shown with every plan.")
]


@app.command("ls")
def ls(context: typer.Context, json: option.Json = False) -> None:
    """List every function of every second controller."""
    found = client.of(context).get("functions")
    if json:
        render.as_json(found)
    else:
        _functions(found)


@app.command("show")
def show(context: typer.Context, backend: option.BackendName, json: option.Json = False) -> None:
    """Show what one second controller can do, within which limits, and what it reaches."""
    _show(client.of(context).get("functions", backend), json)


@app.command("probe")
def probe(context: typer.Context, backend: option.BackendName, json: option.Json = False) -> None:
    """Ask a second controller again what it can do and reach."""
    with follow.busy(f"asking {backend}"):
        found = client.of(context).post("functions", backend, "probe")
    _show(found, json)


@app.command("set")
def set_function(
    context: typer.Context,
    backend: option.BackendName,
    function: FunctionName,
    word: Word,
    reason: Reason = "",
    json: option.Json = False,
) -> None:
    """Say by hand whether a second controller can do a function. This wins over what it says."""
    row = client.of(context).put(
        "functions", backend, function, body={"can": _can(word), "reason": reason}
    )
    _said(row, f"{backend} {word} do {function}", json)


@app.command("unset")
def unset_function(
    context: typer.Context,
    backend: option.BackendName,
    function: FunctionName,
    json: option.Json = False,
) -> None:
    """Take that back, so that what was found holds again."""
    row = client.of(context).delete("functions", backend, function)
    now = "can" if row["can"] else "cannot"
    _said(row, f"{backend} {now} do {function}: {row['reason']}", json)


@app.command("reach")
def reach(context: typer.Context, json: option.Json = False) -> None:
    """List which second controller reaches which devices by itself."""
    found = client.of(context).get("reach")
    if json:
        render.as_json(found)
    else:
        _reach(found)


@app.command("set-reach")
def set_reach(
    context: typer.Context,
    backend: option.BackendName,
    device: Device,
    word: Word,
    reason: Reason = "",
    json: option.Json = False,
) -> None:
    """Say by hand whether a second controller can reach a device by itself."""
    row = client.of(context).put(
        "reach", backend, body={"device": device, "can": _can(word), "reason": reason}
    )
    _said(row, f"{backend} {word} reach {device}", json)


@app.command("unset-reach")
def unset_reach(context: typer.Context, backend: option.BackendName, device: Device) -> None:
    """Take that back, so that what was found holds again."""
    client.of(context).delete("reach", backend, device=device)
    render.said(f"whether {backend} reaches {device} is no longer set by hand")


@app.command("probe-reach")
def probe_reach(
    context: typer.Context,
    backend: option.BackendName,
    device: Device,
    json: option.Json = False,
) -> None:
    """Ask whether a second controller can reach a device by itself. No block is copied."""
    with follow.busy(f"asking {backend}"):
        row = client.of(context).post("reach", backend, "probe", body={"device": device})
    said = "reaches" if row["can"] else "does not reach"
    _said(row, f"{backend} {said} {row['device']}: {row['reason']}", json)


def _said(row: dict[str, Any], text: str, json: bool) -> None:
    if json:
        render.as_json(row)
    else:
        render.said(text)


def _can(word: str) -> bool:
    if word not in ("can", "cannot"):
        raise _word(word)
    return word == "can"


def _word(word: str) -> CliError:
    return option.usage(f"{word!r} is neither can nor cannot", "write can or cannot")


def _show(found: dict[str, Any], json: bool) -> None:
    if json:
        render.as_json(found)
        return
    _functions(found["functions"])
    alike: list[tuple[dict[str, Any], list[str]]] = []
    for row in found["functions"]:
        if row["can"] and row["limits"]:
            same = [names for limits, names in alike if limits == row["limits"]]
            if same:
                same[0].append(row["function"])
            else:
                alike.append((row["limits"], [row["function"]]))
    for limits, names in alike:
        render.out.print()
        _limits(limits, names)
    render.out.print()
    _reach(found["reach"])


def _functions(found: list[dict[str, Any]]) -> None:
    made = render.table("back end", "function", "", "known", "why")
    for row in found:
        made.add_row(
            row["backend"],
            row["function"],
            render.can(row["can"]),
            _known(row),
            _why(row),
        )
    render.rows(made, "no second controllers yet; attach one with daiko backend add")


def _reach(found: list[dict[str, Any]]) -> None:
    made = render.table("back end", "reaches", "", "known", "why")
    for row in found:
        made.add_row(row["backend"], row["device"], render.can(row["can"]), _known(row), _why(row))
    rows = "nothing is known of what they reach beyond their own LUs"
    render.rows(made, rows)


def _known(row: dict[str, Any]) -> str:
    if row["known"] is None:
        return "no"
    return f"{row['known']}\n{render.moment(row['at'])}"


def _why(row: dict[str, Any]) -> str:
    why = str(row["reason"])
    if row.get("on"):
        why += f" ({row['on']})"
    if row["hidden"]:
        found = "can" if row["hidden"]["can"] else "cannot"
        why += f"\n[dim]{row['hidden']['known']}: {found}: {row['hidden']['reason']}[/dim]"
    return why


def _limits(limits: dict[str, Any], functions: list[str]) -> None:
    most = limits["max_segment_bytes"]
    segment = f"{limits['max_segment_blocks']:,} blocks"
    render.out.print(f"one command for {' or '.join(functions)} may contain", style="bold")
    render.facts(
        [
            ("devices", f"{limits['max_cscds']}"),
            ("segments", f"{limits['max_segments']}"),
            ("descriptors", f"{limits['max_list_bytes']:,} bytes"),
            ("a segment", segment + (f", {render.size(most)}" if most else "")),
            ("at a time", f"{limits['concurrent']}"),
            ("other machines", "by alias" if limits["aliases"] else "not by alias"),
        ]
    )
