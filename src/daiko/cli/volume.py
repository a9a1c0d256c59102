"""`daiko volume`: what hosts see as a disk."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from daiko.cli import client, complete, migrate, option, render

app = typer.Typer(no_args_is_help=True, help="Volumes: what hosts see as a disk.")
app.command("migrate")(migrate.migrate)
app.command("migrations")(migrate.migrations)


@app.command("add")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What you call it.")],
    extent: Annotated[
        list[str] | None,
        typer.Option(
            "--extent",
            metavar="BACKEND/LUN:LBA:BLOCKS",
            help="By hand: these blocks of this LU. Give it again for the next extent.",
        ),
    ] = None,
    size: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="Automatic: 10G, 512MiB, 1TB.")
    ] = "",
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="BACKEND[/LUN]",
            help="Automatic: where to take room from, in this order. What no volume uses there "
            "counts as free.",
            autocompletion=complete.places,
        ),
    ] = None,
    image: Annotated[
        str,
        typer.Option(
            "--image",
            metavar="BACKEND[/LUN]",
            help="Take this LU in as it is; nothing is copied, and `release` gives it back.",
            autocompletion=complete.places,
        ),
    ] = "",
    mode: Annotated[
        str,
        typer.Option("--mode", metavar="delegate|direct|local", help="Override the system's mode."),
    ] = "",
    json: option.Json = False,
) -> None:
    """Make a volume: by hand (--extent), automatically (--size --from), or from an LU as it is
    (--image)."""
    wanted = _made_of(name, extent or [], size, source or [], image)
    body = {"name": name, **option.mode(mode), **wanted}
    made = client.of(context).post("volumes", body=body)
    if json:
        render.as_json(made)
        return
    count = len(made["extents"])
    render.said(
        f"{name} is there: {render.size(made['size'])} in {count} extent{'s' * (count != 1)}; "
        f"give it to a host with `daiko host map HOST {name}`"
    )


@app.command("ls")
def ls(context: typer.Context, json: option.Json = False) -> None:
    """List the volumes."""
    found = client.of(context).get("volumes")
    if json:
        render.as_json(found)
        return
    made = render.table(
        "name", "size", "block", "extents", "on", "mapped to", right=("size", "block", "extents")
    )
    for volume in found:
        made.add_row(
            volume["name"] + (" [dim](image)[/dim]" if volume["image"] else ""),
            render.size(volume["size"]),
            str(volume["block_size"]),
            str(volume["extents"]),
            ", ".join(volume["backends"]),
            _mapped(volume),
        )
    render.rows(made, "no volumes yet; make one with daiko volume add")


@app.command("show")
def show(context: typer.Context, name: option.VolumeName, json: option.Json = False) -> None:
    """Show one volume."""
    rest = client.of(context)
    found = rest.get("volumes", name)
    if json:
        render.as_json(found)
        return
    held = rest.get("volumes", name, "reservations")
    render.facts(
        [
            ("name", found["name"]),
            ("size", f"{render.size(found['size'])} ({found['blocks']:,} blocks)"),
            ("block", f"{found['block_size']} bytes"),
            ("identity", f"naa.{found['naa']}"),
            ("mode", found["mode"] or "the system's"),
            ("kind", "an LU taken in as it is" if found["image"] else ""),
            ("mapped to", _mapped(found) or "no host"),
            ("made at", render.moment(found["created"])),
            ("reserved", _reserved(held)),
            ("migration", migrate.line(rest, name)),
        ]
    )
    render.out.print()
    render.extents(rest.get("mappings", name))
    if held["registrations"]:
        render.out.print()
        _print_registrations(held)


@app.command("set")
def set_volume(
    context: typer.Context,
    name: option.VolumeName,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            metavar="delegate|direct|local|system",
            help="Override the system's mode; `system` lets that hold again.",
        ),
    ],
    json: option.Json = False,
) -> None:
    """Change the mode of a volume. Jobs that run keep theirs."""
    wanted = None if mode == "system" else option.mode(mode).get("mode")
    if wanted is None and mode != "system":
        raise option.usage("--mode says nothing", "as in --mode direct, or --mode system")
    found = client.of(context).patch("volumes", name, body={"mode": wanted})
    if json:
        render.as_json(found)
    else:
        render.said(f"mode of {name}: {found['mode'] or 'as the system'}")


@app.command("grow")
def grow(
    context: typer.Context,
    name: option.VolumeName,
    size: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="How large it is to be: 20G, 512MiB.")
    ] = "",
    by: Annotated[
        str, typer.Option("--by", metavar="SIZE", help="By how much it is to grow.")
    ] = "",
    most: Annotated[
        bool,
        typer.Option(
            "--max", help="All that is free behind its last extent, as where its LU has grown."
        ),
    ] = False,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="BACKEND[/LUN]",
            help="Where to take room from, in this order. Default: right behind its last extent, "
            "then anywhere on the LUs that it lies on.",
            autocompletion=complete.places,
        ),
    ] = None,
    json: option.Json = False,
) -> None:
    """Make a volume larger while hosts use it. They are told at once; nothing shrinks."""
    if sum([bool(size), bool(by), most]) != 1:
        raise option.usage(
            "say in one way how large it is to be", "--size SIZE, --by SIZE or --max"
        )
    body: dict[str, Any] = {"candidates": source or []}
    if size:
        body["size"] = option.size(size)
    if by:
        body["by"] = option.size(by)
    grown = client.of(context).post("volumes", name, "grow", body=body)
    if json:
        render.as_json(grown)
        return
    count = len(grown["extents"])
    render.said(
        f"{name} has {render.size(grown['size'])} in {count} extent{'s' * (count != 1)}; "
        "hosts are told, and may enlarge their file systems"
    )


@app.command("rm")
def rm(context: typer.Context, name: option.VolumeName) -> None:
    """Forget a volume. Its blocks become free; what is in them stays until they are used again."""
    client.of(context).delete("volumes", name)
    render.said(f"{name} is gone")


@app.command("release")
def release(context: typer.Context, name: option.VolumeName, json: option.Json = False) -> None:
    """Give the LU of an --image volume back, with everything that is on it."""
    found = client.of(context).post("volumes", name, "release")
    if json:
        render.as_json(found)
    else:
        render.said(f"{name} is given back: {found['next_step']}")


@app.command("reservations")
def reservations(
    context: typer.Context, name: option.VolumeName, json: option.Json = False
) -> None:
    """List the hosts that are registered with a volume, and who holds a reservation of it."""
    found = client.of(context).get("volumes", name, "reservations")
    if json:
        render.as_json(found)
        return
    render.facts([("reserved", _reserved(found) or "no")])
    render.out.print()
    _print_registrations(found)


@app.command("clear-reservations")
def clear_reservations(
    context: typer.Context, name: option.VolumeName, json: option.Json = False
) -> None:
    """Take away every host's registration with a volume, and every reservation of it.

    For a cluster that is dead and has left its disks reserved. While its members live, they keep
    each other from the disk by these reservations: afterwards each of them can write to it. They
    are told that they are no longer registered.
    """
    had = client.of(context).post("volumes", name, "clear-reservations")
    if json:
        render.as_json(had)
        return
    count = len(had["registrations"])
    if not count and not had["reserved_by"]:
        render.said(f"{name} was not reserved, and no host was registered")
        return
    what = [f"{count} registration{'s' * (count != 1)}"] if count else []
    what += [f"the reservation ({_reserved(had)})"] if _reserved(had) else []
    render.said(f"taken from {name}: {' and '.join(what)}; every host may write to it now")


def _reserved(found: dict[str, Any]) -> str:
    """The reservation in one line; empty where there is none."""
    if found["reserved_by"]:
        return f"by {found['reserved_by']}, until it releases it or its session ends"
    if not found["type"]:
        return ""
    type_: str = found["type"].replace("-", " ")
    if "all registrants" in type_:
        return type_
    holders = [r["host"] or r["initiator"] for r in found["registrations"] if r["holds"]]
    return f"{type_}, held by {', '.join(holders)}"


def _print_registrations(found: dict[str, Any]) -> None:
    made = render.table("registered", "key", "ISID", "port", "holds", "logged in", right=("port",))
    for each in found["registrations"]:
        made.add_row(
            f"{each['host']} ({each['initiator']})" if each["host"] else each["initiator"],
            each["key"],
            each["isid"],
            str(each["target_port"]),
            "yes" if each["holds"] else "",
            "yes" if each["in_session"] else "no",
        )
    render.rows(made, "no host is registered")
    if found["registrations"] and not found["kept"]:
        render.out.print("gone with a restart of the controller (APTPL is 0)", style="dim")


def _made_of(
    name: str, extents: list[str], size: str, source: list[str], image: str
) -> dict[str, Any]:
    """Of what a volume is to be made, as fields of the request. Raises CliError unless that is
    said in exactly one way."""
    if sum([bool(extents), bool(size or source), bool(image)]) != 1:
        raise option.usage(
            "say in one way what the volume is made of",
            "--extent … for extents by hand, --size and --from for automatic ones, "
            "--image for an LU as it is",
        )
    if extents:
        return {"how": "by-hand", "extents": [_extent(text) for text in extents]}
    if image:
        return {"how": "image", "device": image}
    if not size or not source:
        raise option.usage(
            "--size and --from belong together",
            f"as in `daiko volume add {name} --size 10G --from sd1`",
        )
    return {"how": "automatic", "size": option.size(size), "candidates": source}


def _mapped(volume: dict[str, Any]) -> str:
    return ", ".join(f"{m['host']} LUN {m['lun']}" for m in volume["mapped_to"])


def _extent(text: str) -> dict[str, Any]:
    device, _, rest = text.partition(":")
    lba, _, blocks = rest.partition(":")
    if not (device and lba.isdecimal() and blocks.isdecimal()):
        raise option.usage(
            f"{text!r} is not an extent",
            "write it as BACKEND/LUN:LBA:BLOCKS, as in --extent sd1/0:0:2048",
        )
    return {"device": device, "lba": int(lba), "blocks": int(blocks)}
