"""CHAP users and secrets on the command line: the secrets come from files or standard input.

A secret among the arguments could be read by every user of the machine (`ps`) and stays in the
shell's history, so there is no way to write one there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from daiko.cli import option

User = Annotated[str, typer.Option("--user", metavar="NAME", help="The CHAP user's name.")]
SecretFile = Annotated[
    Path | None, typer.Option("--secret-file", metavar="FILE", help="Holds its secret.")
]
FromStdin = Annotated[
    str,
    typer.Option("--secret", metavar="-", help="Read its secret from standard input."),
]
MutualUser = Annotated[
    str,
    typer.Option(
        "--mutual-user", metavar="NAME", help="The name by which the target proves itself, too."
    ),
]
MutualSecretFile = Annotated[
    Path | None, typer.Option("--mutual-secret-file", metavar="FILE", help="Holds its secret.")
]
MutualFromStdin = Annotated[
    str,
    typer.Option(
        "--mutual-secret",
        metavar="-",
        help="Read that from standard input; after --secret -, on the line after it.",
    ),
]


def body(
    user: str,
    secret_file: Path | None,
    secret: str,
    mutual_user: str,
    mutual_secret_file: Path | None,
    mutual_secret: str,
    *,
    prefix: str = "",
) -> dict[str, Any]:
    """The fields of a request. `prefix`: what stands before `user` and `secret` in the options'
    names. Raises CliError."""
    made = {
        "user": user,
        "secret": _read(secret_file, secret, f"--{prefix}secret"),
        "mutual_user": mutual_user,
    }
    if mutual_user or mutual_secret_file or mutual_secret:
        made["mutual_secret"] = _read(mutual_secret_file, mutual_secret, "--mutual-secret")
    return made


def _read(file: Path | None, dash: str, name: str) -> str:
    if dash and dash != "-":
        raise option.usage(
            f"{name} takes no secret: others could read it there",
            f"write it into a file for {name}-file, or give {name} - and send it to standard input",
        )
    if bool(dash) == (file is not None):
        raise option.usage(
            f"give {name}-file FILE or {name} -", "a secret never stands on the command line"
        )
    if file is None:
        return sys.stdin.readline().rstrip("\r\n")
    try:
        return file.read_text().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise option.usage(f"{file} cannot be read: {reason}") from error


def said(chap: dict[str, Any] | None) -> str:
    """What is set, for `show`."""
    if chap is None:
        return "no: by name alone"
    words = f"as {chap['user']}"
    if not chap["secret_is_set"]:
        words += ", whose secret is not given yet"
    if chap["mutual_user"]:
        words += f"; the target as {chap['mutual_user']}"
        if not chap["mutual_secret_is_set"]:
            words += ", whose secret is not given yet"
    return words
