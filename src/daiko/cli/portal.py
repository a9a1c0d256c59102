"""`daiko portal`: where hosts reach this controller, and in which way (ALUA)."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from daiko.cli import client, complete, option, render

app = typer.Typer(
    no_args_is_help=True, help="Portals: where hosts reach this controller, and in which way."
)

STATES: Final = (
    "active-optimized",
    "active-non-optimized",
    "standby",
    "unavailable",
    "offline",
)

Portal = Annotated[str, typer.Argument(metavar="HOST:PORT", help="IPv6 in brackets.")]
Tag = Annotated[int, typer.Argument(metavar="TAG", help="A portal group.")]
Group = Annotated[int, typer.Argument(metavar="GROUP", help="A target port group.")]
OfVolume = Annotated[
    str,
    typer.Option(
        "--volume",
        metavar="VOLUME",
        help="For this volume alone. Default: for all that have no state of their own.",
        autocompletion=complete.volumes,
    ),
]


@app.command("add")
def add(
    context: typer.Context,
    portal: Portal,
    tag: Annotated[
        int, typer.Option("--tag", metavar="TAG", help="Its portal group; made where it is new.")
    ] = 1,
    group: Annotated[
        int | None,
        typer.Option(
            "--group",
            metavar="GROUP",
            help="The target port group of a new portal group. Default: the same number.",
        ),
    ] = None,
    json: option.Json = False,
) -> None:
    """Listen at a portal. Hosts find it at their next discovery."""
    body = {"portal": portal, "tag": tag, "target_port_group": group}
    added = client.of(context).post("portals", body=body)
    if json:
        render.as_json(added)
    else:
        render.said(
            f"{portal} listens, in portal group {tag} "
            f"(target port group {added['target_port_group']})"
        )


@app.command("ls")
def ls(context: typer.Context, json: option.Json = False) -> None:
    """List the portals by portal group."""
    found = client.of(context).get("portal-groups")
    if json:
        render.as_json(found)
        return
    made = render.table("tag", "portals", "port group", "sessions", right=("tag", "sessions"))
    for group in found:
        made.add_row(
            str(group["tag"]),
            "\n".join(_portal(portal) for portal in group["portals"]),
            str(group["target_port_group"]),
            str(len(group["sessions"])),
        )
    render.rows(made, "no portals")


@app.command("show")
def show(context: typer.Context, tag: Tag, json: option.Json = False) -> None:
    """Show one portal group: its portals, who is logged in through it."""
    found = client.of(context).get("portal-groups", tag)
    if json:
        render.as_json(found)
        return
    render.facts(
        [
            ("portal group", str(found["tag"])),
            ("portals", "\n".join(_portal(portal) for portal in found["portals"])),
            ("port group", str(found["target_port_group"])),
            ("logged in", "\n".join(found["sessions"]) or "nobody"),
        ]
    )


@app.command("rm")
def rm(context: typer.Context, portal: Portal) -> None:
    """Stop to listen at a portal. Hosts that came through it are asked to log out, and have ten
    seconds for it."""
    client.of(context).delete("portals", portal)
    render.said(f"{portal} listens no more")


@app.command("set-tag")
def set_tag(context: typer.Context, portal: Portal, tag: Tag, json: option.Json = False) -> None:
    """Let a portal be one of another portal group. Hosts that came through it are asked to log
    out."""
    found = client.of(context).patch("portals", portal, body={"tag": tag})
    if json:
        render.as_json(found)
    else:
        render.said(f"{portal} is in portal group {tag}")


@app.command("set-group")
def set_group(context: typer.Context, tag: Tag, group: Group, json: option.Json = False) -> None:
    """Let a portal group be in another target port group."""
    found = client.of(context).patch("portal-groups", tag, body={"target_port_group": group})
    if json:
        render.as_json(found)
    else:
        render.said(f"portal group {tag} is in target port group {group}")


@app.command("groups")
def groups(context: typer.Context, volume: OfVolume = "", json: option.Json = False) -> None:
    """List the target port groups with their states (ALUA), as all volumes have them or one."""
    found = client.of(context).get("target-port-groups", volume=volume)
    if json:
        render.as_json(found)
        return
    made = render.table("group", "state", "preferred", "portal groups", "volumes", right=("group",))
    for group in found:
        made.add_row(
            str(group["number"]),
            group["state"] + (" (set by a host)" if group["by_host"] else ""),
            "yes" if group["preferred"] else "",
            ", ".join(map(str, group["portal_groups"])),
            ", ".join(group["volumes"]),
        )
    render.rows(made, "no target port groups")


@app.command("set-state")
def set_state(
    context: typer.Context,
    group: Group,
    state: Annotated[
        str,
        typer.Argument(
            metavar="[STATE]",
            help=f"{', '.join(STATES)}; with --volume also `default`: as the group has it.",
        ),
    ] = "",
    volume: OfVolume = "",
    prefer: Annotated[
        bool | None,
        typer.Option("--prefer/--no-prefer", help="Tell hosts to prefer this group."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even where no group would be left active.")
    ] = False,
    json: option.Json = False,
) -> None:
    """Change the state of a target port group. Hosts are told at once; a group that is offline
    does not listen."""
    if not state and prefer is None:
        raise option.usage("nothing is to be changed", "give a STATE, --prefer or --no-prefer")
    if state and state not in STATES and not (volume and state == "default"):
        raise option.usage(f"{state!r} is not a state", f"the states are {', '.join(STATES)}")
    rest = client.of(context)
    path = ("volumes", volume) if volume else ()
    if state == "default":
        found = rest.delete(*path, "target-port-groups", group)
    else:
        body = {"state": state or None, "preferred": prefer, "force": force}
        found = rest.patch(*path, "target-port-groups", group, body=body)
    if json:
        render.as_json(found)
        return
    of = f" of {volume}" if volume else ""
    preferred = ", preferred" if found["preferred"] else ""
    render.said(f"target port group {group}{of}: {found['state']}{preferred}")


def _portal(portal: dict[str, Any]) -> str:
    # (IPv6 addresses are in brackets, which rich takes for markup)
    return escape(str(portal["portal"])) + ("" if portal["listening"] else " (not listening)")
