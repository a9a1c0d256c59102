"""`daiko management`: the addresses of the management, as hosts are told them."""

from __future__ import annotations

from typing import Annotated

import typer

from daiko.cli import client, option, render

app = typer.Typer(
    no_args_is_help=True,
    help="Where administrators reach this controller, as hosts are told (VPD page 85h).",
)


@app.command("show")
def show(context: typer.Context, json: option.Json = False) -> None:
    """Show the URLs that hosts are told."""
    _print(client.of(context).get("system")["management_urls"], json=json)


@app.command("set")
def set_(
    context: typer.Context,
    urls: Annotated[list[str], typer.Argument(metavar="URL...", help="http:// or https://")],
    json: option.Json = False,
) -> None:
    """Tell hosts these URLs, instead of those that they were told."""
    _put(context, urls, json=json)


@app.command("clear")
def clear(context: typer.Context, json: option.Json = False) -> None:
    """Tell hosts no URL."""
    _put(context, [], json=json)


def _put(context: typer.Context, urls: list[str], *, json: bool) -> None:
    body = {"urls": urls}
    _print(client.of(context).put("system/management-urls", body=body)["urls"], json=json)


def _print(urls: list[str], *, json: bool) -> None:
    if json:
        render.as_json(urls)
    elif urls:
        render.said("\n".join(urls))
    else:
        render.said("hosts are told no management URL")
