"""docs/reference/cli.md: every command of `daiko`, with its arguments, options and exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from daiko.cli.error import ExitCode
from daiko.main import app
from reference_docs.markdown import code, head, member_words, table, text, words

_CODES = {ExitCode.OK: "Done.", ExitCode.NOT_FOUND: "There is no such thing."}


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """All commands, with their names; groups too."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, f"{path} {name}")


def _value(option: Any) -> str:
    """What an option takes, as it is written."""
    if option.is_flag:
        return ""
    name = option.name.rstrip("_").upper().replace("_", "-")
    return f" {option.metavar or name}"


def _usage(path: str, command: Any) -> str:
    parts = [path]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            name = (parameter.metavar or parameter.name.upper()).removesuffix("...").strip("[]")
            shown = f"{name}…" if parameter.nargs == -1 else name
            parts.append(f"[{shown}]" if not parameter.required else shown)
        elif parameter.required:
            parts.append(f"{parameter.opts[0]}{_value(parameter)}")
    if any(each.param_type_name == "option" and not each.required for each in command.params):
        parts.append("[OPTIONS]")
    return " ".join(parts)


def _parameter(parameter: Any) -> tuple[str, str]:
    if parameter.param_type_name == "argument":
        name = (parameter.metavar or parameter.name.upper()).removesuffix("...").strip("[]")
        return code(name), words(parameter.help)
    names = ", ".join(code(f"{name}{_value(parameter)}") for name in parameter.opts)
    notes = [words(parameter.help)]
    if parameter.required:
        notes.append("Required.")
    if parameter.multiple and "repeat" not in notes[0] and "again" not in notes[0]:
        notes.append("May be repeated.")
    if isinstance(parameter.default, int | str) and parameter.default not in ("", False):
        notes.append(f"Default: `{parameter.default}`.")
    if parameter.envvar:
        notes.append(f"Environment: `{parameter.envvar}`.")
    return names, " ".join(note for note in notes if note)


def document() -> str:
    root = typer.main.get_command(app)
    lines = head("Command line", "the `daiko` command itself")
    lines += [
        words(root.help),
        "",
        "`daiko serve` is the controller; every other command speaks to a running one over its",
        "[REST API](rest.md). `daiko COMMAND --help` says the same as this page.",
        "",
        "## For every command",
        "",
        "```",
        "daiko [OPTIONS] COMMAND …",
        "```",
        "",
    ]
    lines += table(("option", "meaning"), [_parameter(each) for each in root.params])
    lines += ["## Exit codes", ""]
    said_of = member_words(ExitCode)
    lines += table(
        ("code", "name", "meaning"),
        [
            (
                exit_code.value,
                code(exit_code.name),
                said_of.get(exit_code.name, _CODES.get(exit_code)),
            )
            for exit_code in ExitCode
        ],
    )
    for path, command in _commands(root, "daiko"):
        if command is root or command.hidden:
            continue
        if getattr(command, "commands", None):
            lines += [f"## {path}", "", words(command.help), ""]
            continue
        level = "##" if path.count(" ") == 1 else "###"
        lines += [f"{level} {path}", "", "```", _usage(path, command), "```", ""]
        for paragraph in (command.help or "").split("\n\n"):
            lines += [words(paragraph), ""]
        if command.params:
            shown = [_parameter(each) for each in command.params if not each.hidden]
            lines += table(("argument or option", "meaning"), shown)
    return text(lines)
