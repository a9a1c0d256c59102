"""The `daiko` command: the command line, with `daiko serve` joined on from the daemon.

Only `serve` needs the controller itself, whose modules take most of a second to load; they are
imported when it is called, so that every other command starts at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from daiko.cli.error import CliError, ExitCode
from daiko.cli.main import app, run
from daiko.command_control.plan import Mode
from daiko.control.error import Conflict, ControlError, Invalid, NotFound, Unavailable


@app.command("serve")
def serve(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...",
            help="What LUN 0 lies on, end to end: files, block devices, iscsi://HOST:PORT/IQN/LUN.",
        ),
    ] = None,
    portal: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT[,TAG]",
            help="Where hosts reach this controller, and the portal group (default: 1); may be "
            "repeated. Portal groups that are not named stay as they are.",
        ),
    ] = None,
    iqn: Annotated[str, typer.Option(help="iSCSI name of this controller's target.")] = "",
    initiator_iqn: Annotated[
        str, typer.Option(help="iSCSI name under which it logs in to second controllers.")
    ] = "",
    lun: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N=SOURCE",
            help="A source of LUN N; repeat it for more sources, end to end, and more LUNs.",
        ),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="delegate: hand copies to second controllers that can; direct: do all here; "
            "local: own disks only. Without: local where all sources are own disks, else delegate."
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps everything over restarts. Without: a temporary one where "
            "sources are given, else /var/lib/daiko (root) or the XDG state folder."
        ),
    ] = None,
    block_size: Annotated[
        int, typer.Option(help="Bytes a block of files and block devices: 512 or 4096.")
    ] = 512,
    size: Annotated[
        str, typer.Option(help="Make files that are not there yet, this large (as in 10GiB).")
    ] = "",
    preallocate: Annotated[
        bool,
        typer.Option(
            "--preallocate",
            help="Give files all of their room now, and let them keep it when hosts unmap blocks.",
        ),
    ] = False,
    api: Annotated[
        str, typer.Option(help="Where the API listens: unix:PATH or http://HOST:PORT.")
    ] = "",
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that the API asks for; or set DAIKO_TOKEN."),
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    log_json: Annotated[bool, typer.Option("--log-json", help="One JSON object a line.")] = False,
) -> None:
    """Run a controller until SIGINT or SIGTERM.

    `daiko serve --portal 127.0.0.1:3260 --iqn IQN disk.img` serves a file as LUN 0 with a
    temporary store. Without sources it serves what its store holds. It prints the URL of each
    LUN, where its API is, and `ready`.
    """
    from daiko import daemon
    from daiko.control.document import parse_size
    from daiko.state.store import StoreError, StoreInUse

    try:
        options = daemon.Options(
            luns=_luns(sources or [], lun or []),
            portals=tuple(portal or ()),
            iqn=iqn,
            initiator_iqn=initiator_iqn,
            mode=mode,
            store=store,
            block_size=block_size,
            size=parse_size(size) if size else 0,
            preallocate=preallocate,
            api=api,
            token=_token(token_file),
            log_level=log_level,
            log_json=log_json,
        )
        daemon.serve(options)
    except daemon.Interrupted:
        raise CliError("told to stop before it was ready", "", ExitCode.INTERRUPTED) from None
    except ControlError as error:
        raise CliError(str(error), error.next_step, _exit_code(error)) from error
    except StoreInUse as error:
        raise CliError(str(error), "", ExitCode.CONFLICT) from error
    except StoreError as error:
        raise CliError(str(error), "", ExitCode.FAILED) from error


def _luns(sources: list[str], more: list[str]) -> dict[int, list[str]]:
    luns: dict[int, list[str]] = {0: list(sources)} if sources else {}
    for text in more:
        number, equals, source = text.partition("=")
        if not equals or not source or not (number.isascii() and number.isdigit()):
            raise Invalid(f"--lun {text}", "write it as --lun N=SOURCE", field="lun")
        luns.setdefault(int(number), []).append(source)
    return luns


def _token(file: Path | None) -> str:
    if file is None:
        return os.environ.get("DAIKO_TOKEN", "")
    try:
        token = file.read_text().strip()
    except OSError as error:
        raise Invalid(
            f"the token cannot be read from {file}: {error.strerror}",
            "give another --token-file",
            field="token-file",
        ) from error
    if not token:
        raise Invalid(f"{file} is empty", "write the token into it", field="token-file")
    return token


def _exit_code(error: ControlError) -> ExitCode:
    match error:
        case Invalid():
            return ExitCode.USAGE
        case NotFound():
            return ExitCode.NOT_FOUND
        case Conflict():
            return ExitCode.CONFLICT
        case Unavailable():
            return ExitCode.UNREACHABLE
        case _:
            return ExitCode.FAILED


def main() -> None:
    """Entry point of the `daiko` command."""
    run()
