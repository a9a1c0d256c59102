"""Where the lines of the log go, without anybody waiting for them.

Whoever reads the log (a terminal, a pipe to another program) may stop to read. A write to it would
then block the event loop, and with it every host. So lines go through a queue of bounded length to
a thread of their own. When the queue is full they are lost, and the first one that gets through
afterwards is preceded by how many.
"""

from __future__ import annotations

import io
import os
import queue
import threading
from typing import Final

LINES: Final = 4096
"""Lines that wait, at most: a few megabytes."""
CLOSE_SECONDS: Final = 1.0
"""How long `close` waits for the reader."""


class LogWriter(io.TextIOBase):
    """A text file of lines over a file descriptor, which stays open."""

    def __init__(self, descriptor: int, *, lines: int = LINES) -> None:
        self._descriptor = descriptor
        self._queue: queue.Queue[str | None] = queue.Queue(lines)
        self._part = ""
        self._lost = 0
        self._thread = threading.Thread(target=self._serve, name="log", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines that found no room since the last one that did."""
        return self._lost

    def write(self, text: str) -> int:
        """Take text; each line goes out when it is complete."""
        *lines, self._part = (self._part + text).split("\n")
        for line in lines:
            words = f"{line}\n"
            if self._lost:
                words = f"{self._lost} lines of the log were lost: nobody read it\n{words}"
            try:
                self._queue.put_nowait(words)
            except queue.Full:
                self._lost += 1
            else:
                self._lost = 0
        return len(text)

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Write what waits, unless nobody reads; lines that come later are dropped."""
        if not self.closed:
            try:
                self._queue.put(None, timeout=CLOSE_SECONDS)
            except queue.Full:
                pass  # nobody reads, and nobody will
            else:
                self._thread.join(CLOSE_SECONDS)
        super().close()

    def _serve(self) -> None:
        while (words := self._queue.get()) is not None:
            data = words.encode(errors="backslashreplace")
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                continue  # the reader is gone; the controller works on without a log
