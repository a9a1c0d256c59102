"""`daiko volume`: what hosts see as a disk."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from daiko.cli import client, complete, option, render

app = typer.Typer(no_args_is_help=True, help="Volumes: what hosts see as a disk.")


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
        ]
    )
    render.out.print()
    render.extents(rest.get("mappings", name))


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
