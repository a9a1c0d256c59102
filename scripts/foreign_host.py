"""A host that nobody here wrote, qemu-io, at work on two LUs, and what must be on them then.

Each turn writes its number to the first cell of the journal, and when that has been acknowledged
the same number and a batch of other cells to the data: so at any instant the number in the data is
that of the journal or the one before. What was acknowledged is put into an image of each LU, with
which it can be compared byte for byte.
"""

from __future__ import annotations

import os
import random
import select
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

CELL = 16 << 10
"""Bytes of one write."""
BATCH = 24
"""Writes at a time, to different cells."""
PATIENCE = 150.0
"""Seconds within which a turn ends: longer than a controller waits for a lost site."""
_PROMPT = b"qemu-io> "


class QemuIo:
    """One qemu-io process with a session of its own, which takes command after command."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._process = subprocess.Popen(
            ["qemu-io", "-f", "raw", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._until_prompt()

    def do(self, commands: Sequence[str]) -> None:
        """Carry them out. Raises RuntimeError with its words when one failed, or none ended."""
        assert self._process.stdin is not None
        said = b""
        for command in commands:
            # One at a time: it does not notice a line that it has read along with another.
            self._process.stdin.write(f"{command}\n".encode())
            self._process.stdin.flush()
            said += self._until_prompt()
        if said.strip():
            raise RuntimeError(f"qemu-io on {self.url}: {said.decode(errors='replace')}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            assert end is not None
            end.close()

    def kill(self) -> None:
        self._process.kill()

    def _until_prompt(self) -> bytes:
        """What it says before it wants the next command."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + PATIENCE
        said = b""
        while not said.endswith(_PROMPT):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise RuntimeError(f"qemu-io on {self.url} has no answer: {said!r}")
            chunk = os.read(descriptor, 65536)
            if not chunk:
                raise RuntimeError(f"qemu-io on {self.url} ended: {said!r}")
            said += chunk
        return said.removesuffix(_PROMPT)


@dataclass
class Account:
    """Of a time in which the host was at work."""

    turns: int = 0
    writes: int = 0
    bytes: int = 0
    longest: float = 0.0
    """Seconds of the slowest turn."""


@dataclass
class ForeignHost:
    """At work from `begin` to `rest`, again and again, in a thread; `close` at the end."""

    journal: str
    """URL of an LU; likewise `data`."""
    data: str
    images: tuple[Path, Path]
    """Of the journal and of the data: what they hold now. Kept up to date."""
    seed: int = 1
    account: Account = field(default_factory=Account)
    _turn: int = 0
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _sessions: list[QemuIo] = field(default_factory=list)
    _work: Future[None] | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        self.account = Account()
        self._stop.clear()
        self._work = self._pool.submit(self._write_turns)

    def rest(self) -> Account:
        """Let the turn end, and no other begin. Raises RuntimeError when a write failed."""
        self._stop.set()
        if self._work is not None:
            self._work.result()
        return self.account

    def wait(self, turns: int) -> None:
        """Return when so many more turns have ended, or the host has failed."""
        assert self._work is not None
        wanted = self.account.turns + turns
        while self.account.turns < wanted and not self._work.done():
            time.sleep(0.01)

    def close(self) -> None:
        """At once: a write that is held is not waited for."""
        self._stop.set()
        for session in self._sessions:
            session.kill()
        self._pool.shutdown()

    def _write_turns(self) -> None:
        chance = random.Random(f"{self.seed} {self._turn}")
        with ExitStack() as stack:
            self._sessions = [stack.enter_context(QemuIo(url)) for url in (self.journal, self.data)]
            while not self._stop.is_set():
                self._take_turn(*self._sessions, chance)

    def _take_turn(self, journal: QemuIo, data: QemuIo, chance: random.Random) -> None:
        begun = time.monotonic()
        self._turn += 1
        number = pattern(self._turn)
        cells = self.images[1].stat().st_size // CELL
        chosen = [0, *chance.sample(range(1, cells), min(BATCH, cells - 1))]
        self._write(journal, 0, [0], number)
        self._write(data, 1, chosen, number)
        self.account.turns += 1
        self.account.longest = max(self.account.longest, time.monotonic() - begun)

    def _write(self, session: QemuIo, which: int, cells: list[int], number: int) -> None:
        commands = [f"aio_write -q -P {number} {cell * CELL} {CELL}" for cell in cells]
        session.do([*commands, "aio_flush"])
        put(self.images[which], cells, number)
        self.account.writes += len(cells)
        self.account.bytes += len(cells) * CELL


def pattern(turn: int) -> int:
    """The byte that a turn writes."""
    return turn % 251 + 1


def is_one_instant(journal: int, data: int) -> bool:
    """Whether these first bytes of journal and data can have been there at one instant."""
    return data in (journal, (journal - 2) % 251 + 1)


def put(image: Path, cells: Sequence[int], number: int) -> None:
    """Write the byte to these cells of an image, as it was written to an LU."""
    with image.open("r+b") as file:
        for cell in cells:
            file.seek(cell * CELL)
            file.write(bytes((number,)) * CELL)
