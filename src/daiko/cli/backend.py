"""`daiko backend`: second controllers, and disks of this controller."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from daiko.cli import client, follow, option, render, secret

app = typer.Typer(no_args_is_help=True, help="Second controllers, and disks of this controller.")


@app.command("add")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What you call it.")],
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            help="iscsi://HOST:PORT/IQN, or iscsi://HOST:PORT where there is only one target, "
            "or the path of a file or block device.",
        ),
    ],
    portal: Annotated[
        list[str] | None,
        typer.Option("--portal", metavar="HOST:PORT", help="A further portal of the target."),
    ] = None,
    block_size: Annotated[
        int, typer.Option("--block-size", metavar="512|4096", help="Of a file.")
    ] = 512,
    preallocate: Annotated[
        bool,
        typer.Option(
            "--preallocate",
            help="Give a file all of its room now, and let it keep that when hosts unmap blocks.",
        ),
    ] = False,
    chap_user: Annotated[
        str, typer.Option("--chap-user", metavar="NAME", help="Log in by CHAP, as this user.")
    ] = "",
    chap_secret_file: Annotated[
        Path | None,
        typer.Option("--chap-secret-file", metavar="FILE", help="Holds its secret."),
    ] = None,
    chap_secret: Annotated[
        str,
        typer.Option("--chap-secret", metavar="-", help="Read it from standard input."),
    ] = "",
    mutual_user: secret.MutualUser = "",
    mutual_secret_file: secret.MutualSecretFile = None,
    mutual_from_stdin: secret.MutualFromStdin = "",
    json: option.Json = False,
) -> None:
    """Attach a back end, and find out what it has and what it can do."""
    chap = None
    if chap_user or chap_secret_file or chap_secret or mutual_user:
        chap = secret.body(
            chap_user,
            chap_secret_file,
            chap_secret,
            mutual_user,
            mutual_secret_file,
            mutual_from_stdin,
            prefix="chap-",
        )
    with follow.busy(f"attaching {name}"):
        added = client.of(context).post(
            "backends",
            body={
                "name": name,
                "address": option.address(address),
                "portals": portal or [],
                "block_size": block_size,
                "preallocate": preallocate,
                "chap": chap,
            },
        )
    if json:
        render.as_json(added)
        return
    count = len(added["devices"])
    render.said(f"{name} is attached: {count} LU{'s' * (count != 1)}")
    _functions(added)


@app.command("ls")
def ls(context: typer.Context, json: option.Json = False) -> None:
    """List the back ends."""
    found = client.of(context).get("backends")
    if json:
        render.as_json(found)
        return
    made = render.table(
        "name", "answers", "LUs", "capacity", "direct backup", "address", right=("LUs", "capacity")
    )
    for backend in found:
        able = {row["function"]: row["can"] for row in backend["functions"]}
        made.add_row(
            backend["name"],
            "yes" if backend["connected"] else f"[red]no[/red]: {backend['detail']}",
            str(len(backend["devices"])),
            render.size(sum(d["blocks"] * d["block_size"] for d in backend["devices"])),
            render.can(able["direct-backup"]) if "direct-backup" in able else "",
            _address(backend),
        )
    render.rows(made, "no back ends yet; attach one with daiko backend add")


@app.command("show")
def show(context: typer.Context, name: option.BackendName, json: option.Json = False) -> None:
    """Show one back end: its LUs, what it can do, who uses it."""
    found = client.of(context).get("backends", name)
    if json:
        render.as_json(found)
    else:
        _show(found)


def _seconds(name: str, help_: str) -> Any:
    return typer.Option(name, metavar="S", min=1, max=3600, help=help_)


@app.command("set")
def set_backend(
    context: typer.Context,
    name: option.BackendName,
    command_timeout: Annotated[
        float | None, _seconds("--command-timeout", "For a command; then it is aborted.")
    ] = None,
    abort_timeout: Annotated[
        float | None, _seconds("--abort-timeout", "For that; then the LU is reset.")
    ] = None,
    reset_timeout: Annotated[
        float | None, _seconds("--reset-timeout", "For that; then the connection is dropped.")
    ] = None,
    ping_interval: Annotated[
        float | None, _seconds("--ping-interval", "Of silence; then it is pinged.")
    ] = None,
    ping_timeout: Annotated[
        float | None, _seconds("--ping-timeout", "For its answer to a ping.")
    ] = None,
    reconnect_timeout: Annotated[
        float | None,
        _seconds("--reconnect-timeout", "For a lost connection to come back; then commands fail."),
    ] = None,
    json: option.Json = False,
) -> None:
    """Change how many seconds a second controller may take, from now on. For an array with slow
    disks, give --abort-timeout more: a reset of an LU ends the commands of its other hosts, too."""
    given = {
        "command": command_timeout,
        "abort": abort_timeout,
        "reset": reset_timeout,
        "ping_interval": ping_interval,
        "ping_timeout": ping_timeout,
        "reconnect": reconnect_timeout,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        raise option.usage("nothing is to be changed", "give one of the options: see --help")
    found = client.of(context).patch("backends", name, body={"patience": changes})
    if json:
        render.as_json(found)
    else:
        render.said(f"{name} may take, in seconds: {_patience(found)}")


def _patience(backend: dict[str, Any]) -> str:
    return ", ".join(
        f"{key.replace('_', ' ')} {value:g}" for key, value in backend["patience"].items()
    )


@app.command("set-chap")
def set_chap(
    context: typer.Context,
    name: option.BackendName,
    user: secret.User,
    secret_file: secret.SecretFile = None,
    from_stdin: secret.FromStdin = "",
    mutual_user: secret.MutualUser = "",
    mutual_secret_file: secret.MutualSecretFile = None,
    mutual_from_stdin: secret.MutualFromStdin = "",
    json: option.Json = False,
) -> None:
    """Log in to a second controller by CHAP, as this user. It is tried at once, beside the session
    that there is; with the mutual options the controller must prove itself."""
    body = secret.body(
        user, secret_file, from_stdin, mutual_user, mutual_secret_file, mutual_from_stdin
    )
    found = client.of(context).put("backends", name, "chap", body=body)
    if json:
        render.as_json(found)
    else:
        render.said(f"we log in to {name} by CHAP: {secret.said(found['chap'])}")


@app.command("clear-chap")
def clear_chap(context: typer.Context, name: option.BackendName, json: option.Json = False) -> None:
    """Log in to a second controller by this controller's name alone."""
    found = client.of(context).delete("backends", name, "chap")
    if json:
        render.as_json(found)
    else:
        render.said(f"we log in to {name} by our name alone")


@app.command("rm")
def rm(context: typer.Context, name: option.BackendName) -> None:
    """Detach a back end. No data on it is touched."""
    client.of(context).delete("backends", name)
    render.said(f"{name} is detached")


@app.command("probe")
def probe(context: typer.Context, name: option.BackendName, json: option.Json = False) -> None:
    """Ask a back end everything again: its LUs, what it can do, what it reaches."""
    with follow.busy(f"asking {name}"):
        found = client.of(context).post("backends", name, "probe")
    if json:
        render.as_json(found)
    else:
        _show(found)


@app.command("grow")
def grow(
    context: typer.Context,
    name: option.BackendName,
    size: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="How long its file is to be: 20G, 512MiB.")
    ],
    json: option.Json = False,
) -> None:
    """Make the file of a disk of this controller longer. Volumes may then grow onto it."""
    found = client.of(context).post("backends", name, "grow", body={"size": option.size(size)})
    if json:
        render.as_json(found)
        return
    device = found["devices"][0]
    render.said(
        f"{name} has {render.size(device['blocks'] * device['block_size'])}; "
        "let a volume on it grow with `daiko volume grow VOLUME --max`"
    )


@app.command("rescan")
def rescan(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[BACKEND]", help="Default: all of them.")] = "",
    json: option.Json = False,
) -> None:
    """Find new, grown and vanished LUs."""
    rest = client.of(context)
    with follow.busy("looking"):
        found = [rest.post("backends", name, "rescan")] if name else rest.post("backends", "rescan")
    if json:
        render.as_json(found)
        return
    for backend in found:
        count = len(backend["devices"])
        answer = f"{count} LU{'s' * (count != 1)}" if backend["connected"] else "does not answer"
        detail = f"; {backend['detail']}" if backend["detail"] else ""
        render.said(f"{backend['name']}: {answer}{detail}")


def _address(backend: dict[str, Any]) -> str:
    if backend["path"]:
        return str(backend["path"])
    return "\n".join([*backend["portals"], backend["iqn"]])


def _show(backend: dict[str, Any]) -> None:
    render.facts(
        [
            ("name", backend["name"]),
            ("address", _address(backend)),
            ("answers", "yes" if backend["connected"] else f"no: {backend['detail']}"),
            ("note", backend["detail"] if backend["connected"] else ""),
            ("CHAP", "" if backend["path"] else secret.said(backend["chap"])),
            ("seconds", "" if backend["path"] else _patience(backend)),
            ("used by", ", ".join(backend["used_by"]) or "no volume"),
            ("asked at", render.moment(backend["probed_at"])),
        ]
    )
    render.out.print()
    made = render.table(
        "LU", "capacity", "block", "product", "3PC", "identity", right=("capacity", "block")
    )
    for device in backend["devices"]:
        made.add_row(
            f"{backend['name']}/{device['lun']}",
            render.size(device["blocks"] * device["block_size"]),
            str(device["block_size"]),
            " ".join(filter(None, (device["vendor"], device["product"], device["revision"]))),
            "yes" if device["third_party_copy"] else "no",
            _identity(device["designators"]),
        )
    render.rows(made, "it has no LUs")
    if backend["functions"]:
        render.out.print()
        _functions(backend)


def _identity(designators: list[str]) -> str:
    """The best designator without its header of 4 bytes."""
    return designators[0][8:] if designators else ""


def _functions(backend: dict[str, Any]) -> None:
    for row in backend["functions"]:
        render.out.print(
            Text.assemble(row["function"], " ", render.can(row["can"]), f": {row['reason']}")
        )
