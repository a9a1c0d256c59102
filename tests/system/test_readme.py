"""The five-minute tour of the README works to the letter: its blocks are run as they stand, only
with free ports and a folder of the test's own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import PATIENCE, READY, free_port

ROOT = Path(__file__).parents[2]
PORTS = ("3260", "3261", "3262", "3263")


def tour(folder: Path) -> tuple[str, list[str]]:
    """What the README has one type in terminal 1, and block by block in terminal 2."""
    text = (ROOT / "README.md").read_text()
    text = text[text.index("## Five minutes") : text.index("## Where to read on")]
    free = {port: str(free_port()) for port in PORTS}
    text = re.sub(r"127\.0\.0\.1:(\d{4})", lambda found: f"127.0.0.1:{free[found[1]]}", text)
    text = text.replace("/tmp/daiko-tour", str(folder))
    # The tests are run by the set-up already.
    text = text.replace("make setup\n", "")
    first, *others = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return first, others


@contextmanager
def terminal_1(script: str, log: Path) -> Iterator[None]:
    """The controllers, started in a terminal as one types it, once all have said that they are
    ready. After use, Ctrl-C there must end them all."""
    ports = [int(port) for port in re.findall(r"--portal 127\.0\.0\.1:(\d+)", script)]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["script", "-qfc", "bash --norc --noprofile -i", os.devnull],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=output,
        ) as shell,
    ):
        assert shell.stdin is not None
        try:
            shell.stdin.write(script.encode())
            shell.stdin.flush()
            until(lambda: log.read_text().splitlines().count(READY) == len(ports), log)
            yield
            shell.stdin.write(b"\x03")
            shell.stdin.flush()
            until(lambda: not any(map(is_served, ports)), log)
        finally:
            # (what Ctrl-C did not end must not outlive the test)
            shell.stdin.write(b"\x03\nkill $(jobs -p)\nexit\n")
            shell.stdin.close()
            shell.wait(PATIENCE)


def until(holds: Callable[[], bool], log: Path) -> None:
    """Return when it holds; fail, with what the terminal shows, when it does not come to that."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def is_served(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def environment() -> dict[str, str]:
    """A fresh terminal's: nothing that points to another controller."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DAIKO_")}
    return kept | {"COLUMNS": "100", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_tour_of_the_readme_works_to_the_letter(tmp_path: Path) -> None:
    folder = tmp_path / "tour"
    controllers, blocks = tour(folder)
    with terminal_1(controllers, tmp_path / "terminal-1.log"):
        done = subprocess.run(
            ["bash", "-e", "-c", "\n".join(blocks)],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert said.count("Images are identical.") == 2
    assert "64 MiB handed over, 0 B by this" in said
    assert "backup 1: alpha to vault, done" in said
    assert "restore 2: vault to alpha, done" in said
    assert said.count("0 B of payload") == 2
    assert "[volume.alpha]" in said
