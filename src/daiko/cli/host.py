"""`daiko host`: who may log in, and what they see."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from daiko.cli import client, option, render, secret

app = typer.Typer(no_args_is_help=True, help="Hosts: who may log in, and what they see.")

Initiators = Annotated[
    list[str],
    typer.Option(
        "--initiator",
        "--iqn",
        "-i",
        metavar="IQN",
        help="An iSCSI name of the host; * for any that no other host names.",
    ),
]
PortalGroups = Annotated[
    list[int] | None,
    typer.Option(
        "--portal-group",
        metavar="TAG",
        help="Let it log in through this portal group; give it again for another. Default: all.",
    ),
]
Portals = Annotated[
    list[str],
    typer.Argument(metavar="PORTAL...", help="HOST:PORT of other machines; * for all."),
]


@app.command("add")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What you call it.")],
    initiator: Initiators,
    lun: Annotated[
        list[str] | None,
        typer.Option("--lun", metavar="N=VOLUME", help="Give it this volume at once."),
    ] = None,
    portal_group: PortalGroups = None,
    json: option.Json = False,
) -> None:
    """Make a host known by its iSCSI names."""
    added = client.of(context).post(
        "hosts",
        body={
            "name": name,
            "initiators": initiator,
            "luns": dict(_lun(text) for text in lun or ()),
            "portal_groups": portal_group or [],
        },
    )
    if json:
        render.as_json(added)
    else:
        render.said(f"{name} is known; give it a volume with `daiko host map {name} VOLUME`")


@app.command("ls")
def ls(context: typer.Context, json: option.Json = False) -> None:
    """List the hosts."""
    found = client.of(context).get("hosts")
    if json:
        render.as_json(found)
        return
    made = render.table("name", "initiators", "LUNs", "CHAP", "sessions", right=("sessions",))
    for host in found:
        made.add_row(
            host["name"],
            "\n".join(host["initiators"]),
            "\n".join(f"{lun} = {volume}" for lun, volume in host["luns"].items()) or "none",
            _chap(host["chap"]),
            str(len(host["logins"])),
        )
    render.rows(made, "no hosts yet; make one known with daiko host add")


@app.command("show")
def show(context: typer.Context, name: option.HostName, json: option.Json = False) -> None:
    """Show one host: its LUNs, its sessions, its rights."""
    _show(client.of(context).get("hosts", name), json)


@app.command("set")
def set_host(
    context: typer.Context,
    name: option.HostName,
    initiator: Annotated[
        list[str] | None,
        typer.Option(
            "--initiator",
            "--iqn",
            "-i",
            metavar="IQN",
            help="An iSCSI name of the host; give all that it is to have.",
        ),
    ] = None,
    portal_group: PortalGroups = None,
    all_portal_groups: Annotated[
        bool, typer.Option("--all-portal-groups", help="Let it use every portal group.")
    ] = False,
    json: option.Json = False,
) -> None:
    """Give a host other iSCSI names, or limit it to portal groups. Its LUNs stay."""
    if portal_group and all_portal_groups:
        raise option.usage("--portal-group and --all-portal-groups contradict each other")
    body: dict[str, Any] = {"initiators": initiator} if initiator else {}
    if portal_group or all_portal_groups:
        body["portal_groups"] = portal_group or []
    if not body:
        raise option.usage(
            "nothing is to be changed", "give --initiator, --portal-group or --all-portal-groups"
        )
    host = client.of(context).patch("hosts", name, body=body)
    if json:
        render.as_json(host)
    else:
        where = _portal_groups(host)
        render.said(f"{name} is {', '.join(host['initiators'])}; it may use {where}")


@app.command("rm")
def rm(context: typer.Context, name: option.HostName) -> None:
    """Forget a host. Its sessions lose all LUNs."""
    client.of(context).delete("hosts", name)
    render.said(f"{name} is gone")


@app.command("map")
def map_volume(
    context: typer.Context,
    name: option.HostName,
    volume: option.VolumeName,
    lun: Annotated[
        int | None, typer.Option("--lun", metavar="N", help="Default: the lowest free one.")
    ] = None,
    json: option.Json = False,
) -> None:
    """Give a volume to a host."""
    mapped = client.of(context).post("hosts", name, "luns", body={"volume": volume, "lun": lun})
    if json:
        render.as_json(mapped)
    else:
        render.said(f"{name} sees {volume} as LUN {mapped['lun']}")


@app.command("unmap")
def unmap_volume(
    context: typer.Context,
    name: option.HostName,
    volume: Annotated[str, typer.Argument(metavar="VOLUME|LUN", help="Which to take away.")],
    json: option.Json = False,
) -> None:
    """Take a volume from a host."""
    rest = client.of(context)
    known = rest.get("hosts", name)["luns"]
    # A volume may be called `7`, too: a name that the host has comes first.
    kind = "luns" if volume.isdecimal() and volume not in known.values() else "volumes"
    host = rest.delete("hosts", name, kind, volume)
    if json:
        render.as_json(host)
    else:
        render.said(f"{name} no longer sees {'LUN ' * (kind == 'luns')}{volume}")


@app.command("allow-copy")
def allow_copy(
    context: typer.Context, name: option.HostName, portal: Portals, json: option.Json = False
) -> None:
    """Let a host name LUs behind these portals of other machines in its copy commands. (LUs that
    are mapped to it here it may always name.)"""
    host = client.of(context).post("hosts", name, "remote-copy", body={"portals": portal})
    if json:
        render.as_json(host)
    else:
        render.said(f"{name} may copy with {', '.join(host['remote_copy'])}")


@app.command("forbid-copy")
def forbid_copy(
    context: typer.Context,
    name: option.HostName,
    portal: Annotated[
        list[str] | None, typer.Argument(metavar="[PORTAL]...", help="Default: all.")
    ] = None,
    json: option.Json = False,
) -> None:
    """Take that right back."""
    host = client.of(context).delete("hosts", name, "remote-copy", portal=portal)
    if json:
        render.as_json(host)
    else:
        left = ", ".join(host["remote_copy"])
        render.said(f"{name} may copy with {left or 'no other machine'}")


@app.command("set-chap")
def set_chap(
    context: typer.Context,
    name: option.HostName,
    user: secret.User,
    secret_file: secret.SecretFile = None,
    from_stdin: secret.FromStdin = "",
    mutual_user: secret.MutualUser = "",
    mutual_secret_file: secret.MutualSecretFile = None,
    mutual_from_stdin: secret.MutualFromStdin = "",
    json: option.Json = False,
) -> None:
    """Let a host log in only by CHAP, from its next login on. With the mutual options the target
    proves itself to a host that asks for it."""
    body = secret.body(
        user, secret_file, from_stdin, mutual_user, mutual_secret_file, mutual_from_stdin
    )
    host = client.of(context).put("hosts", name, "chap", body=body)
    if json:
        render.as_json(host)
    else:
        render.said(f"{name} logs in by CHAP: {secret.said(host['chap'])}")


@app.command("clear-chap")
def clear_chap(context: typer.Context, name: option.HostName, json: option.Json = False) -> None:
    """Let a host log in by its name alone."""
    host = client.of(context).delete("hosts", name, "chap")
    if json:
        render.as_json(host)
    else:
        render.said(f"{name} logs in by its name alone")


def _chap(chap: dict[str, Any] | None) -> str:
    """In a list: as whom it has to log in."""
    if chap is None:
        return "no"
    return str(chap["user"]) if chap["secret_is_set"] else f"{chap['user']}, without its secret"


def _show(host: dict[str, Any], json: bool) -> None:
    if json:
        render.as_json(host)
        return
    render.facts(
        [
            ("name", host["name"]),
            ("initiators", "\n".join(host["initiators"])),
            ("may use", _portal_groups(host)),
            ("copies with", ", ".join(host["remote_copy"]) or "LUs mapped to it only"),
            ("CHAP", secret.said(host["chap"])),
            ("logged in", "\n".join(_login(login) for login in host["logins"]) or "no"),
        ]
    )
    render.out.print()
    made = render.table("LUN", "volume", right=("LUN",))
    for lun, volume in host["luns"].items():
        made.add_row(lun, volume)
    render.rows(made, "it sees no volume")


def _portal_groups(host: dict[str, Any]) -> str:
    tags = host["portal_groups"]
    return f"portal groups {', '.join(map(str, tags))}" if tags else "all portal groups"


def _login(login: dict[str, str]) -> str:
    return f"{login['initiator']} from {login['address']}"


def _lun(text: str) -> tuple[str, str]:
    lun, equals, volume = text.partition("=")
    if not equals or not lun.isdecimal() or not volume:
        raise option.usage(
            f"{text!r} gives no volume a LUN", "write it as N=VOLUME, as in --lun 0=alpha"
        )
    return lun, volume
