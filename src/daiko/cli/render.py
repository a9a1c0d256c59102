"""What a person sees: tables, sizes, times, plans, reports.

Standard output carries what was asked for, standard error everything else. A table is as wide as
the terminal; where there is none it is as wide as it needs to be, so that nothing is cut off in a
pipe.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH: Final = 200

_width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
out: Final = Console(width=_width, highlight=False, soft_wrap=False)
err: Final = Console(stderr=True, highlight=False)

LONG: Final = 1000
"""Rows of a table from which on it is printed plainly."""

UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

STATE_STYLE: Final = {
    "done": "green",
    "running": "cyan",
    "queued": "cyan",
    "failed": "bold red",
    "cancelled": "yellow",
    "interrupted": "yellow",
    "copying": "cyan",
    "paired": "green",
    "split": "yellow",
    "split-by-error": "bold red",
    "reverse-copying": "cyan",
    "swapped": "yellow",
}


def as_json(value: Any) -> None:
    """Print a document of the API as it is."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """A table with these columns; those in `right` are numbers."""
    made = Table(
        box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0)
    )
    numbers = set(right)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def rows(made: Table, empty: str) -> None:
    """Print a table, or one line where it has no rows."""
    if made.row_count:
        _print(made)
    else:
        out.print(empty, style="dim")


def _print(made: Table) -> None:
    """Print a table; in a pipe without the blanks that fill its last column."""
    if made.row_count > LONG:
        _print_long(made)
        return
    if out.is_terminal:
        out.print(made)
        return
    with out.capture() as captured:
        out.print(made)
    for line in captured.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def _print_long(made: Table) -> None:
    """Print a table of very many rows: each as one line, whatever the width of the terminal, since
    folding cells takes longer than to fetch them."""
    numbers = [column.justify == "right" for column in made.columns]
    columns = [
        [str(column.header), *(_plain(str(cell)) for cell in column.cells)]
        for column in made.columns
    ]
    widths = [max(map(len, cells)) for cells in columns]
    for line in zip(*columns, strict=True):
        cells = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(line, widths, numbers, strict=True)
        ]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _plain(cell: str) -> str:
    return Text.from_markup(cell).plain if "[" in cell else cell


def facts(pairs: Iterable[tuple[str, str | Text]]) -> None:
    """Print names and values, one a line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            grid.add_row(name, value)
    _print(grid)


def said(text: str) -> None:
    """Tell what was done. Commands in backticks stand out."""
    out.print(_commands(text, out))


def note(text: str, style: str = "") -> None:
    """Tell something beside what was asked for; in a log, without line breaks of a terminal."""
    err.print(_commands(text, err), style=style, soft_wrap=not err.is_terminal)


def _commands(text: str, console: Console) -> Text:
    """`text` with what stands in backticks in bold, where there is bold."""
    if not console.is_terminal:
        return Text(text)
    made = Text()
    for number, part in enumerate(text.split("`")):
        made.append(part, style="bold" if number % 2 else "")
    return made


def size(number: float) -> str:
    """Bytes for a person: 512 MiB, 1.5 GiB."""
    value = float(number)
    unit = 0
    while value >= 1024 and unit < len(UNITS) - 1:
        value /= 1024
        unit += 1
    digits = 0 if unit == 0 or value >= 100 or value == int(value) else 1
    return f"{value:,.{digits}f} {UNITS[unit]}"


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(seconds: float) -> str:
    """A time in the zone of this terminal; "" for never."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""


def can(yes: bool) -> Text:
    """can, or cannot."""
    return Text("can", style="green") if yes else Text("cannot", style="yellow")


def state(name: str) -> Text:
    """The state of a job."""
    return Text(name, style=STATE_STYLE.get(name, ""))


def place(device: str, lba: int) -> str:
    """A block of a device."""
    return f"{device} @ {lba:,}"


def extents(found: Sequence[Mapping[str, Any]]) -> None:
    """Rows of the mapping table."""
    made = table(
        "volume",
        "from block",
        "blocks",
        "size",
        "device",
        "at block",
        right=("from block", "blocks", "size", "at block"),
    )
    for row in found:
        made.add_row(
            row["volume"],
            f"{row['lba']:,}",
            f"{row['blocks']:,}",
            size(row["blocks"] * row["block_size"]),
            row["device"],
            f"{row['device_lba']:,}",
        )
    rows(made, "no extents")


def steps(found: Sequence[Mapping[str, Any]], *, report: bool) -> None:
    """The steps of a plan, or with `report` what became of those of a job; then the reasons, told
    once for all steps that share them."""
    figures = ("moved", "time") if report else ("size",)
    columns = ("step", "from", "to", "blocks", "executor", *figures)
    made = table(*columns, right=("step", "blocks", *figures))
    for number, step in enumerate(found, 1):
        if report:
            cells = [size(step["bytes_moved"]), duration(step["seconds"])]
        else:
            cells = [size(step["blocks"] * step["block_size"])]
        made.add_row(
            str(number),
            place(step["source"], step["source_lba"]),
            place(step["destination"], step["destination_lba"]),
            f"{step['blocks']:,}",
            Text(step["executor"], style="green" if step["delegated"] else "yellow"),
            *cells,
        )
    rows(made, "nothing is to be copied")
    for numbers, step in _alike(found):
        out.print()
        _reasons(numbers, step)


def _alike(found: Sequence[Mapping[str, Any]]) -> list[tuple[list[int], Mapping[str, Any]]]:
    """The steps by what is to be said of them: their numbers, and one of them."""
    groups: list[tuple[list[int], Mapping[str, Any]]] = []
    told = ("executor", "reason", "rejected", "error")
    for number, step in enumerate(found, 1):
        for numbers, other in groups:
            if all(step.get(key) == other.get(key) for key in told):
                numbers.append(number)
                break
        else:
            groups.append(([number], step))
    return groups


def _reasons(numbers: list[int], step: Mapping[str, Any]) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right")
    grid.add_column(ratio=1, overflow="fold")
    grid.add_row(
        _runs(numbers),
        Text.assemble(
            (step["executor"], "bold green" if step["delegated"] else "bold yellow"),
            f": {step['reason']}",
        ),
    )
    if step.get("error"):
        grid.add_row("", Text(f"it dropped the rest: {step['error']}", style="red"))
    for rejected in step["rejected"]:
        grid.add_row("", Text(f"not {rejected['executor']}: {rejected['reason']}", style="dim"))
    _print(grid)


def _runs(numbers: list[int]) -> str:
    """1, 3-5, 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def plan(found: Mapping[str, Any]) -> None:
    """A plan with all its reasons."""
    whole = found["blocks"] * found["block_size"]
    handed = found["blocks_delegated"] * found["block_size"]
    count = len(found["steps"])
    out.print(
        Text.assemble(
            (f"{found['type']} of {found['source']} to {found['destination']}", "bold"),
            f": {size(whole)} ({found['blocks']:,} blocks) in {count} step{'s' * (count != 1)}; "
            f"{size(handed)} handed over, {size(whole - handed)} by this controller",
        )
    )
    out.print()
    steps(found["steps"], report=False)
    out.print("\nThis is the plan; nothing was run.", style="dim")


def job(found: Mapping[str, Any]) -> None:
    """A job: how far it is, or its report."""
    out.print(
        Text.assemble(
            (f"{found['type']} {found['id']}", "bold"),
            f": {found['source']} to {found['destination']}, ",
            state(found["state"]),
        )
    )
    block = found["block_size"]
    whole, done = found["blocks"] * block, found["copied_blocks"] * block
    progress = f"{size(done)} of {size(whole)} ({found['percent']:.0f} %)"
    if found["confirmed_blocks"] != found["copied_blocks"]:
        progress += f", {size(found['confirmed_blocks'] * block)} of it confirmed"
    if found["eta_seconds"] is not None:
        progress += f", {duration(found['eta_seconds'])} left"
    rate = found["bytes_per_second"] or (done / found["seconds"] if found["seconds"] else 0)
    facts(
        [
            ("copied", progress),
            ("time", _time(found, rate)),
            ("pace", _pace(found)),
            ("handed over", f"{size(found['bytes_delegated'])} moved by second controllers"),
            ("through here", _through(found)),
            ("one instant", _instant(found)),
            ("restorable", _restorable(found)),
            ("asked by", f"{found['asked_by']}, {moment(found['created'])}"),
            ("error", Text(found["error"], style="red")),
        ]
    )
    out.print()
    steps(found["steps"], report=True)


def _through(found: Mapping[str, Any]) -> str:
    words = f"{size(found['bytes_through_first_controller'])} of payload"
    if found["bytes_in_kernel"]:
        words += f", {size(found['bytes_in_kernel'])} of it inside the kernel"
    return words


def _time(found: Mapping[str, Any], rate: float) -> str:
    if not found["started"]:
        return "not started"
    return duration(found["seconds"]) + (f", {size(rate)}/s" if rate else "")


def _pace(found: Mapping[str, Any]) -> str | Text:
    words: str = found["pace"]
    if not found["limited_by"]:
        return words
    if found["limited_by"] == "hosts":
        words += f"; hosts hold it back to {size(found['paced_bytes_per_second'])}/s now"
    else:
        words += "; it limits the copy"
    return Text(words, style="yellow")


def _instant(found: Mapping[str, Any]) -> str | Text:
    if found["one_instant"]:
        return "yes: no host wrote to the source while it ran" if found["finished"] else ""
    blocks = found["changed_blocks"]
    return Text(
        f"no: hosts wrote to {blocks:,} block{'s' * (blocks != 1)} of the source while it ran",
        style="yellow",
    )


def _restorable(found: Mapping[str, Any]) -> str | Text:
    if "restorable" not in found:
        return ""
    return "yes" if found["restorable"] else Text(f"no: {found['why_not']}", style="yellow")


def jobs(found: Sequence[Mapping[str, Any]], empty: str) -> None:
    """Jobs, one a line."""
    columns = ["id", "type", "from", "to", "state", "copied", "handed over", "started"]
    has_paces = any(item["pace"] != "full" for item in found)
    if has_paces:
        columns.append("pace")
    made = table(*columns, right=("id", "copied", "handed over"))
    for item in found:
        block = item["block_size"]
        made.add_row(
            str(item["id"]),
            item["type"],
            item["source"],
            item["destination"],
            _short_state(item),
            size(item["copied_blocks"] * block),
            size(item["bytes_delegated"]),
            moment(item["started"]),
            *([item["pace"]] if has_paces else ()),
        )
    rows(made, empty)


def _short_state(item: Mapping[str, Any]) -> Text:
    made = state(item["state"])
    if item["state"] == "running":
        made.append(f" {item['percent']:.0f} %")
    if not item["one_instant"]:
        made.append(", changed", style="yellow")
    if item["state"] == "done" and not item.get("restorable", True):
        made.append(", overwritten", style="yellow")
    return made
