"""Following a job to its end: a bar with rate and time left in a terminal, else plain lines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from daiko.cli import render
from daiko.cli.client import Client
from daiko.cli.error import CliError, ExitCode

ENDED: Final = frozenset({"done", "failed", "cancelled", "interrupted"})
WAIT_SECONDS: Final = 20.0
"""How long one question waits at the controller for news."""
BAR_SECONDS: Final = 0.2
LINES_SECONDS: Final = 1.0
"""Pause between two questions where a bar is drawn, and where lines are printed."""
RETRY_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 120.0
"""A controller that is restarted in the middle of a job goes on with it; so does who follows it."""


def busy(text: str) -> AbstractContextManager[object]:
    """A spinner while one request takes its time; nothing where there is no terminal."""
    return render.err.status(text) if render.err.is_terminal else nullcontext()


def to_the_end(client: Client, job: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Follow a job until it has ended, and answer with it. Raises CliError when the controller
    stays away, and with INTERRUPTED on Ctrl-C, which leaves the job running."""
    id = job["id"]
    try:
        if quiet:
            return _last(_states(client, id, None))
        if render.err.is_terminal:
            return _with_bar(_states(client, id, BAR_SECONDS), job)
        return _with_lines(_states(client, id, LINES_SECONDS))
    except KeyboardInterrupt:
        raise CliError(
            f"no longer following; job {id} goes on",
            f"follow it again with `daiko job wait {id}`, stop it with `daiko job cancel {id}`",
            ExitCode.INTERRUPTED,
        ) from None


def outcome(job: dict[str, Any]) -> None:
    """Raise CliError unless the job is done."""
    if job["state"] == "done":
        return
    why = f": {job['error']}" if job["error"] else ""
    raise CliError(
        f"{job['type']} {job['id']} {_past(job['state'])}{why}",
        f"see `daiko job show {job['id']}`",
    )


def _past(state: str) -> str:
    return "failed" if state == "failed" else f"was {state}"


def _states(client: Client, id: int, pause: float | None) -> Iterator[dict[str, Any]]:
    """The job, without its steps, whenever it has changed, `pause` seconds apart, until it has
    ended; with None only its end is asked for."""
    tag = ""
    last_seen = time.monotonic()
    while True:
        try:
            response = client.request(
                "GET",
                ("jobs", id),
                query={
                    "wait": WAIT_SECONDS if tag or pause is None else 0,
                    "ended": "true" if pause is None else None,
                    "steps": "false",
                },
                headers={"If-None-Match": tag} if tag else {},
            )
        except CliError as error:
            away = time.monotonic() - last_seen
            if error.code is not ExitCode.UNREACHABLE or error.problem or away > PATIENCE_SECONDS:
                raise
            time.sleep(RETRY_SECONDS)
            continue
        last_seen = time.monotonic()
        if response.status_code == 304:
            continue
        tag = response.headers["ETag"]
        job: dict[str, Any] = response.json()
        yield job
        if job["state"] in ENDED:
            return
        if pause is not None:
            time.sleep(pause)


def _last(states: Iterator[dict[str, Any]]) -> dict[str, Any]:
    *_, last = states
    return last


def _with_bar(states: Iterator[dict[str, Any]], job: dict[str, Any]) -> dict[str, Any]:
    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[rate]}", style="cyan"),
        TextColumn("{task.fields[left]}", style="dim"),
    )
    with Progress(*columns, console=render.err, expand=True, transient=True) as progress:
        task = progress.add_task(
            f"{job['type']} {job['source']} to {job['destination']}",
            total=None,
            amount="",
            rate="",
            left="",
        )
        last = job
        for last in states:
            total = last["blocks"] * last["block_size"]
            done = last["copied_blocks"] * last["block_size"]
            progress.update(
                task,
                total=total or None,
                completed=done,
                amount=f"{render.size(done)} of {render.size(total)}",
                rate=", ".join(part for part in (_rate(last), _pace(last)) if part),
                left=_left(last),
            )
    return last


def _with_lines(states: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """One line for each tenth."""
    told = -1
    last: dict[str, Any] = {}
    for last in states:
        tenth = int(last["percent"] // 10)
        if tenth > told:
            told = tenth
            parts = [f"{last['type']} {last['id']}: {last['percent']:.0f} %"]
            parts += [part for part in (_rate(last), _pace(last), _left(last)) if part]
            render.note(", ".join(parts))
    return last


def _rate(job: dict[str, Any]) -> str:
    return f"{render.size(job['bytes_per_second'])}/s" if job["bytes_per_second"] else ""


def _pace(job: dict[str, Any]) -> str:
    """The pace, if it has one, and whether that is what limits the copy."""
    pace = job["pace"]
    if job["limited_by"] == "hosts":
        return f"held back for hosts ({pace})"
    if job["limited_by"] == "rate":
        return f"limited by its pace ({pace})"
    return "" if pace == "full" else f"pace {pace}"


def _left(job: dict[str, Any]) -> str:
    return "" if job["eta_seconds"] is None else f"{render.duration(job['eta_seconds'])} left"
