"""`daiko pair`: volumes that are kept the same."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from daiko.cli import client, complete, option, render
from daiko.cli.error import CliError, ExitCode

app = typer.Typer(
    no_args_is_help=True,
    help="Pairs: volumes that are kept the same, and can be split.",
    epilog="A NAME is that of a pair, or of a consistency group: then all of its pairs are asked "
    "as one. Exit code 7: there was nothing to do.",
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A pair or a consistency group.", autocompletion=complete.pairs
    ),
]

Now = Annotated[
    bool,
    typer.Option(
        "--now",
        help="Of async pairs: leave the secondary the earlier state that it is, without what is in "
        "the journal.",
    ),
]

STATES: Final = (
    "copying",
    "paired",
    "split",
    "split-by-error",
    "reverse-copying",
    "swapped",
)
ONE_WAIT: Final = 30.0
"""Seconds that the controller is asked to wait at a time."""


@app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What you call the pair.")],
    primary: Annotated[
        str,
        typer.Argument(
            metavar="PRIMARY",
            help="The volume that hosts use.",
            autocompletion=complete.volumes,
        ),
    ],
    secondary: Annotated[
        str,
        typer.Argument(
            metavar="SECONDARY",
            help="A volume of the same size, SITE:VOLUME at another site; what is on it is lost.",
            autocompletion=complete.volumes,
        ),
    ],
    group: Annotated[
        str,
        typer.Option("--group", metavar="GROUP", help="Split and resync as one with its others."),
    ] = "",
    fence: Annotated[
        str,
        typer.Option(
            "--fence",
            metavar="never|data",
            help="While the secondary is lost: carry on alone, or refuse writes.",
        ),
    ] = "never",
    granularity: Annotated[
        str,
        typer.Option(
            "--granularity", metavar="SIZE", help="Of the differential bitmap: 4KiB to 1MiB."
        ),
    ] = "64KiB",
    power_safe: Annotated[
        bool,
        typer.Option(
            "--power-safe/--process-safe",
            help="After a power cut 1 GiB more is copied at most, or everything.",
        ),
    ] = True,
    pace: option.Pace = "",
    update: Annotated[
        str,
        typer.Option(
            "--update",
            metavar="sync|async",
            help="A write is good when both sides have it, or the primary and a journal.",
        ),
    ] = "sync",
    journal: Annotated[
        str,
        typer.Option(
            "--journal", metavar="SIZE", help="Of the journal of async pairs: 1MiB to 1TiB."
        ),
    ] = "256MiB",
    yes: option.Yes = False,
    json: option.Json = False,
) -> None:
    """Make a pair: copy all of PRIMARY to SECONDARY, and keep the two the same."""
    rest = client.of(context)
    if not yes:
        # Both have the same size; one at another site is not known here.
        found = rest.get("volumes", primary if ":" in secondary else secondary)
        size = found["blocks"] * found["block_size"]
        option.ask([f"{render.size(size)} of {secondary} will be overwritten"])
    made = rest.post(
        "pairs",
        body={
            "name": name,
            "primary": primary,
            "secondary": secondary,
            "group": group,
            "fence": fence,
            "granularity": option.size(granularity),
            "power_safe": power_safe,
            **option.pace(pace),
            "update": update,
            "journal": option.size(journal),
            "confirmed": True,
        },
    )
    if json:
        render.as_json(made)
    else:
        render.said(
            f"{primary} is being copied to {secondary}; follow it with `daiko pair wait {name}`"
        )


@app.command("ls")
def ls(context: typer.Context, json: option.Json = False) -> None:
    """List the pairs: their states, and what differs."""
    found = client.of(context).get("pairs")
    if json:
        render.as_json(found)
        return
    made = render.table(
        *("pair", "primary", "secondary", "group", "update", "state", "differs", "behind"),
        right=["differs", "behind"],
    )
    for pair in found:
        made.add_row(
            pair["name"],
            pair["primary"],
            pair["secondary"],
            pair["group"],
            pair["update"],
            render.state(pair["state"]),
            render.size(_differs(pair)),
            _behind(pair),
        )
    render.rows(made, "no pairs; make one with daiko pair create")


@app.command("show")
def show(context: typer.Context, name: Name, json: option.Json = False) -> None:
    """Show a pair, or those of a group."""
    rest = client.of(context)
    found = _named(rest, name)
    if json:
        render.as_json(found)
        return
    for pair in found:
        _show(pair)


@app.command("split")
def split(context: typer.Context, name: Name, now: Now = False, json: option.Json = False) -> None:
    """Keep the secondary as it is at this instant; hosts may use both sides. What the journal of an
    async pair has by then comes to the secondary before."""
    _do(context, name, "split", {"at_once": now}, json)


@app.command("resync")
def resync(
    context: typer.Context,
    name: Name,
    reverse: Annotated[
        bool, typer.Option("--reverse", help="From the secondary to the primary.")
    ] = False,
    yes: option.Yes = False,
    json: option.Json = False,
) -> None:
    """Copy what differs, and keep both sides the same from then on."""
    rest = client.of(context)
    if not yes:
        _ask_about(rest, name, "resync --reverse" if reverse else "resync")
    _do(context, name, "resync", {"reverse": reverse, "confirmed": True}, json)


@app.command("swap")
def swap(
    context: typer.Context,
    name: Name,
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Do it though the other site does not answer."),
    ] = False,
    json: option.Json = False,
) -> None:
    """Let hosts use the other side. Where the site that leads a pair is lost: take over; pairs of
    an asynchronous group all at once, by its name."""
    _do(context, name, "swap", {"confirmed": yes}, json)


@app.command("pace")
def pace(
    context: typer.Context,
    name: Name,
    pace: Annotated[
        str, typer.Argument(metavar="PACE", help="full, 50MiB/s, latency:5ms, or both by a comma.")
    ],
    json: option.Json = False,
) -> None:
    """Copy at another pace from now on."""
    found = client.of(context).patch("pairs", name, body={"pace": pace})
    if json:
        render.as_json(found)
    else:
        for pair in found:
            render.said(f"{pair['name']} copies at pace {pair['pace']} now")


@app.command("rm")
def rm(
    context: typer.Context,
    name: Name,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="Do it though second controllers of the other site may be writing."
        ),
    ] = False,
    now: Now = False,
    json: option.Json = False,
) -> None:
    """Forget a pair; both volumes keep what is on them."""
    query = {"confirmed": True} if yes else {}
    done = client.of(context).delete("pairs", name, at_once=now, **query)
    _report(done, "rm", json)


@app.command("wait")
def wait(
    context: typer.Context,
    name: Name,
    state: Annotated[
        str, typer.Option("--state", metavar="STATE", help=f"One of: {', '.join(STATES)}.")
    ] = "paired",
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", min=0, help="Default: as long as it takes."),
    ] = None,
    json: option.Json = False,
) -> None:
    """Wait until a pair is in a state. Exits with 1 when it is split by error instead, with 8 when
    the time is over."""
    if state not in STATES:
        raise option.usage(
            f"{state!r} is no state of a pair", f"the states are {', '.join(STATES)}"
        )
    rest = client.of(context)
    end = time.monotonic() + (float("inf") if timeout is None else timeout)
    while True:
        left = max(end - time.monotonic(), 0.0)
        found = rest.get("pairs", name, "wait", state=state, seconds=min(left, ONE_WAIT))
        elsewhere = [pair for pair in found if pair["state"] != state]
        failed = [pair for pair in elsewhere if pair["state"] == "split-by-error"]
        if not elsewhere or failed or left <= 0:
            break
    if json:
        render.as_json(found)
    else:
        for pair in found:
            _show(pair)
    if failed:
        raise CliError(
            f"{failed[0]['name']} is split by error: {failed[0]['reason']}",
            f"`daiko pair resync {failed[0]['name']}` when the cause is gone",
        )
    if elsewhere:
        raise CliError(
            f"{elsewhere[0]['name']} is {elsewhere[0]['state']} after {timeout:g} s",
            code=ExitCode.TIMEOUT,
        )


# --- inside -------------------------------------------------------------------------------------


def _named(rest: client.Client, name: str) -> list[dict[str, Any]]:
    """The pair of a name, or those of the group."""
    of_group = [pair for pair in rest.get("pairs") if pair["group"] == name]
    return of_group or [rest.get("pairs", name)]


def _do(context: typer.Context, name: str, verb: str, body: dict[str, Any], json: bool) -> None:
    _report(client.of(context).post("pairs", name, verb, body=body), verb, json)


def _report(done: dict[str, Any], verb: str, json: bool) -> None:
    if json:
        render.as_json(done)
    elif done["changed"] and verb == "rm":
        render.said(f"{', '.join(done['changed'])}: forgotten; the volumes keep what is on them")
    elif done["changed"]:
        for pair in done["pairs"]:
            if pair["name"] in done["changed"]:
                led = f", and site {pair['site']} leads it" if pair["is_followed"] else ""
                render.said(f"{pair['name']} is {pair['state']}{led}")
    if not done["changed"]:
        states = ", ".join(sorted({pair["state"] for pair in done["pairs"]}))
        raise CliError(f"nothing to do: {states} already", code=ExitCode.NOTHING)


def _ask_about(rest: client.Client, name: str, verb: str) -> None:
    found = rest.get("pairs", name, "effects", verb=verb)
    lost = []
    for effect in found:
        if effect["overwritten"]:
            said = f"{render.size(effect['overwritten'])} of {effect['volume']} will be overwritten"
            if effect["discarded"]:
                said += f", {render.size(effect['discarded'])} of it written there by hosts"
            lost.append(said)
    if lost:
        option.ask(lost)


def _differs(pair: dict[str, Any]) -> int:
    return int(max(pair["differs"], pair["left"]))


def _behind(pair: dict[str, Any]) -> str:
    """How far the secondary of an asynchronous pair is behind."""
    journal = pair["journal"]
    if journal is None or not journal["behind_bytes"]:
        return ""
    return f"{journal['behind_seconds']:.1f} s, {render.size(journal['behind_bytes'])}"


def _journal_facts(pair: dict[str, Any]) -> list[tuple[str, str]]:
    journal = pair["journal"]
    if journal is None or pair["state"] not in ("paired", "copying"):
        return []
    good = journal["good_as_of"]
    return [
        ("behind", _behind(pair) or "nothing"),
        (
            "far copy",
            "no earlier state of the group now"
            if good is None
            else f"good as of {datetime.fromtimestamp(good, UTC):%Y-%m-%d %H:%M:%S} UTC",
        ),
        (
            "journal",
            f"{render.size(journal['used'])} of {render.size(journal['size'])}, {journal['state']}",
        ),
    ]


def _all_the_same(pair: dict[str, Any]) -> str:
    """What is said of a pair of which nothing is known to differ. Where another site leads an
    asynchronous one, only that knows how far the secondary is behind."""
    return "" if pair["is_followed"] and pair["update"] == "async" else ", all the same"


def _held_back(pair: dict[str, Any]) -> str:
    by = {"rate": "its rate", "hosts": "the latency of hosts"}.get(pair["limited_by"] or "")
    return f", held back by {by}" if by else ""


def _show(pair: dict[str, Any]) -> None:
    render.out.print(f"[bold]pair {pair['name']}[/bold]: {pair['primary']} to {pair['secondary']}")
    differs = _differs(pair)
    same = f"{pair['percent']:g} % of {render.size(pair['size'])} the same"
    written = pair["written_to_secondary"]
    render.facts(
        [
            ("state", render.state(pair["state"])),
            ("why", pair["reason"]),
            ("group", pair["group"]),
            ("led by", f"site {pair['site']}" if pair["is_followed"] else ""),
            ("data", same if differs else f"{render.size(pair['size'])}{_all_the_same(pair)}"),
            ("differs", f"{render.size(differs)} at most" if differs else ""),
            ("on secondary", f"{render.size(written)} written by hosts" if written else ""),
            (
                "mixture",
                f"{pair['mixture']}, until copying to it has ended" if pair["mixture"] else "",
            ),
            ("job", f"{pair['job']}" if pair["job"] else ""),
            ("pace", pair["pace"] + _held_back(pair)),
            ("update", pair["update"]),
            *_journal_facts(pair),
            ("fence", pair["fence"]),
            (
                "bitmap",
                f"regions of {render.size(pair['granularity'])}, outlives "
                + ("a power cut" if pair["power_safe"] else "the process"),
            ),
            ("since", render.moment(pair["changed"])),
            *(("note", note) for note in pair["notes"]),
        ]
    )
    render.out.print()
