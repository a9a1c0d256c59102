"""`daiko site`: first controllers of other sites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from daiko.cli import client, complete, follow, option, render, secret

app = typer.Typer(no_args_is_help=True, help="First controllers of other sites.")

Portals = Annotated[
    list[str] | None,
    typer.Option("--portal", metavar="HOST:PORT", help="A further portal of the target."),
]
Initiator = Annotated[
    str,
    typer.Option(
        "--initiator",
        metavar="IQN",
        help="The iSCSI name under which it logs in here. "
        "Default: its target's name with .initiator behind it.",
    ),
]
ChapUser = Annotated[
    str, typer.Option("--chap-user", metavar="NAME", help="Log in there by CHAP, as this user.")
]
ChapSecretFile = Annotated[
    Path | None, typer.Option("--chap-secret-file", metavar="FILE", help="Holds its secret.")
]
ChapSecret = Annotated[
    str, typer.Option("--chap-secret", metavar="-", help="Read it from standard input.")
]
PeerUser = Annotated[
    str, typer.Option("--peer-user", metavar="NAME", help="It logs in here by CHAP, as this user.")
]
PeerSecretFile = Annotated[
    Path | None, typer.Option("--peer-secret-file", metavar="FILE", help="Holds its secret.")
]
PeerSecret = Annotated[
    str,
    typer.Option(
        "--peer-secret",
        metavar="-",
        help="Read that from standard input; after the others, on a line of its own.",
    ),
]
Volume = Annotated[
    str,
    typer.Argument(
        metavar="VOLUME", help="A volume of this system.", autocompletion=complete.volumes
    ),
]
WithoutChap = Annotated[
    bool,
    typer.Option(
        "--without-chap",
        help="Take names for proof where no CHAP user is given: "
        "whoever can say the other site's name is the other site.",
    ),
]


def _users(
    chap: tuple[str, Path | None, str],
    mutual: tuple[str, Path | None, str],
    peer: tuple[str, Path | None, str],
) -> dict[str, Any]:
    """The fields of both directions that are given."""
    body: dict[str, Any] = {}
    if any(chap) or any(mutual):
        body["chap"] = secret.body(*chap, *mutual, prefix="chap-")
    if any(peer):
        body["peer_chap"] = secret.body(*peer, "", None, "", prefix="peer-")
    return body


@app.command("add")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What you call it.")],
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            help="iscsi://HOST:PORT/IQN, or iscsi://HOST:PORT where there is only one target.",
        ),
    ],
    portal: Portals = None,
    initiator: Initiator = "",
    chap_user: ChapUser = "",
    chap_secret_file: ChapSecretFile = None,
    chap_secret: ChapSecret = "",
    mutual_user: secret.MutualUser = "",
    mutual_secret_file: secret.MutualSecretFile = None,
    mutual_from_stdin: secret.MutualFromStdin = "",
    peer_user: PeerUser = "",
    peer_secret_file: PeerSecretFile = None,
    peer_secret: PeerSecret = "",
    without_chap: WithoutChap = False,
    json: option.Json = False,
) -> None:
    """Name another site's first controller. Its administrator does the same with this one; the link
    is up when both have."""
    body = {"name": name, "address": address, "portals": portal or [], "initiator": initiator}
    users = _users(
        (chap_user, chap_secret_file, chap_secret),
        (mutual_user, mutual_secret_file, mutual_from_stdin),
        (peer_user, peer_secret_file, peer_secret),
    )
    with follow.busy(f"asking {name}"):
        added = client.of(context).post(
            "sites", body={**body, **users, "without_chap": without_chap}
        )
    _told(added, json)


@app.command("ls")
def ls(context: typer.Context, json: option.Json = False) -> None:
    """List the sites."""
    found = client.of(context).get("sites")
    if json:
        render.as_json(found)
        return
    made = render.table("name", "link", "logged in here", "offered", "address", right=("offered",))
    for site in found:
        made.add_row(
            site["name"],
            _link(site),
            "yes" if site["logins"] else "no",
            str(len(site["offered"])),
            _address(site),
        )
    render.rows(made, "no sites yet; name one with daiko site add")


@app.command("show")
def show(context: typer.Context, name: option.SiteName, json: option.Json = False) -> None:
    """Show one site: the link to it, its sessions here, what it is offered."""
    _show(client.of(context).get("sites", name), json)


@app.command("set")
def set_site(
    context: typer.Context,
    name: option.SiteName,
    portal: Annotated[
        list[str] | None,
        typer.Option(
            "--portal", metavar="HOST:PORT", help="A portal of its target; give all of them."
        ),
    ] = None,
    initiator: Annotated[
        str,
        typer.Option(
            "--initiator", metavar="IQN", help="The iSCSI name under which it logs in here."
        ),
    ] = "",
    chap_user: ChapUser = "",
    chap_secret_file: ChapSecretFile = None,
    chap_secret: ChapSecret = "",
    mutual_user: secret.MutualUser = "",
    mutual_secret_file: secret.MutualSecretFile = None,
    mutual_from_stdin: secret.MutualFromStdin = "",
    peer_user: PeerUser = "",
    peer_secret_file: PeerSecretFile = None,
    peer_secret: PeerSecret = "",
    without_chap: Annotated[
        bool,
        typer.Option(
            "--without-chap",
            help="Take names for proof: CHAP users that are not given are taken away.",
        ),
    ] = False,
    json: option.Json = False,
) -> None:
    """Give a site other CHAP users, another initiator name or other portals, from its next login
    on."""
    body: dict[str, Any] = _users(
        (chap_user, chap_secret_file, chap_secret),
        (mutual_user, mutual_secret_file, mutual_from_stdin),
        (peer_user, peer_secret_file, peer_secret),
    )
    if portal:
        body["portals"] = portal
    if initiator:
        body["initiator"] = initiator
    if without_chap:
        body["without_chap"] = True
    if not body:
        raise option.usage("nothing is to be changed", "give one of the options: see --help")
    with follow.busy(f"asking {name}"):
        changed = client.of(context).patch("sites", name, body=body)
    _told(changed, json)


@app.command("rm")
def rm(context: typer.Context, name: option.SiteName) -> None:
    """Forget a site. Sessions in both directions end."""
    client.of(context).delete("sites", name)
    render.said(f"{name} is gone")


@app.command("probe")
def probe(context: typer.Context, name: option.SiteName, json: option.Json = False) -> None:
    """Ask a site again now."""
    with follow.busy(f"asking {name}"):
        found = client.of(context).post("sites", name, "probe")
    _show(found, json)


@app.command("offer")
def offer(context: typer.Context, name: option.SiteName, volume: Volume) -> None:
    """Let a site read and write a volume of this system, and pair it with one of its own."""
    client.of(context).put("sites", name, "offered", volume, body={})
    render.said(f"{name} is offered {volume}")


@app.command("withdraw")
def withdraw(context: typer.Context, name: option.SiteName, volume: Volume) -> None:
    """Take that back. Refused while the site leads a pair with the volume."""
    client.of(context).delete("sites", name, "offered", volume)
    render.said(f"{name} is not offered {volume} any more")


def _told(site: dict[str, Any], json: bool) -> None:
    if json:
        render.as_json(site)
    else:
        render.said(f"{site['name']}: the link is {_said(site)}")


def _said(site: dict[str, Any]) -> str:
    detail = f": {site['detail']}" if site["state"] != "up" and site["detail"] else ""
    return f"{site['state']}{detail}"


def _link(site: dict[str, Any]) -> Text:
    """Its own words may be in it: they are no markup."""
    if site["state"] == "up":
        return Text("up")
    return Text.assemble((site["state"], "red"), f": {site['detail']}")


def _address(site: dict[str, Any]) -> str:
    return "\n".join([*site["portals"], site["iqn"]])


def _show(site: dict[str, Any], json: bool) -> None:
    if json:
        render.as_json(site)
        return
    difference = site["clock_difference"]
    render.facts(
        [
            ("name", site["name"]),
            ("address", _address(site)),
            ("link", Text(_said(site))),
            ("through", site["detail"].removeprefix("through ") if site["state"] == "up" else ""),
            ("since", render.moment(site["since"])),
            ("protocol", site["protocol"]),
            ("software", Text(site["software"])),
            ("mode", site["mode"] or ""),
            ("its clock", "" if difference is None else f"{difference:+.1f} s from ours"),
            ("we log in", secret.said(site["chap"])),
            ("it logs in", f"{secret.said(site['peer_chap'])}\n{site['initiator']}"),
            (
                "logged in",
                "\n".join(f"from {each['address']}" for each in site["logins"]) or "no",
            ),
            ("pairs", ", ".join(site["pairs"])),
        ]
    )
    render.out.print()
    made = render.table("LUN", "offered volume", right=("LUN",))
    for lun, volume in site["offered"].items():
        made.add_row(lun, volume)
    render.rows(made, "it is offered no volume")
