"""The `daiko` command: nouns and verbs, joined together.

`app` is the Typer application, to which the composition root adds `serve`; `run` runs it and turns
every failure into a message on standard error and an exit code.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from daiko.api.address import ApiAddress, default_address, is_foreign
from daiko.cli import (
    backend,
    backup,
    copy,
    discovery,
    explain,
    function,
    host,
    job,
    management,
    mapping,
    option,
    pair,
    portal,
    render,
    site,
    system,
    volume,
)
from daiko.cli.client import Client
from daiko.cli.error import CliError, ExitCode

EPILOG = """
[bold]Exit codes[/bold]: 0 done · 1 failed · 2 the command line or the request is not right ·
3 not found · 4 what exists forbids it · 5 the controller or a back end does not answer ·
6 the token is missing or wrong · 7 nothing to do · 8 not in time · 130 interrupted
"""

app = typer.Typer(
    name="daiko",
    help="A storage-virtualization controller for iSCSI networks.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"daiko {installed_version('daiko')}\n")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    api: Annotated[
        str,
        typer.Option(
            "--api",
            envvar="DAIKO_API",
            metavar="ADDRESS",
            help="Where the controller's API is: unix:PATH or http://HOST:PORT. "
            "Default: the socket of this user's own controller.",
        ),
    ] = "",
    token: Annotated[
        str,
        typer.Option(
            "--token",
            envvar="DAIKO_TOKEN",
            metavar="TOKEN",
            help="For an API that other machines can reach.",
        ),
    ] = "",
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """What every command needs."""
    try:
        address = ApiAddress.parse(api) if api else _own_address()
    except ValueError as error:
        raise option.usage(str(error)) from error
    context.obj = Client(address, token)


def _own_address() -> ApiAddress:
    """The default address, unless somebody else has laid a trap there. Raises CliError."""
    address = default_address()
    folder = Path(address.path).parent
    if folder.exists() and is_foreign(folder):
        raise CliError(
            f"{folder} is another user's: a controller there is not yours",
            "say where yours is with --api or DAIKO_API",
            ExitCode.FORBIDDEN,
        )
    return address


for name, noun in (
    ("backend", backend.app),
    ("volume", volume.app),
    ("host", host.app),
    ("portal", portal.app),
    ("site", site.app),
    ("function", function.app),
    ("mapping", mapping.app),
    ("copy", copy.app),
    ("pair", pair.app),
    ("backup", backup.app),
    ("job", job.app),
    ("explain", explain.app),
    ("discovery", discovery.app),
    ("system", system.app),
    ("management", management.app),
):
    app.add_typer(noun, name=name)
app.command("status")(system.status)
app.command("apply")(system.apply)
app.command("export")(system.export)


def run() -> NoReturn:
    """Run the command line of this process and exit."""
    try:
        app()
    except CliError as error:
        _report(error)
        sys.exit(error.code)
    except BrokenPipeError:
        # Who reads us (head, less) has seen enough. Python would complain once more at its end.
        sys.stdout = None
        sys.exit(ExitCode.OK)
    sys.exit(ExitCode.OK)


def _report(error: CliError) -> None:
    if "--json" in sys.argv:
        sys.stderr.write(json.dumps(error.document(), indent=2) + "\n")
        return
    render.note(f"daiko: {error.message}", style="bold red" if render.err.is_terminal else "")
    if error.next_step:
        render.note(f"  {error.next_step}")
