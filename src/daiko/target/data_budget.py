"""How much memory the data of commands may take, over all sessions, and who gets how much of it.

A session may hold data up to its *share*. Each begins with a small one (`LEAST`), which is its own
whatever others do; it asks for more when that is not enough (`grow`) and doubles it as far as its
own limit. So a busy session asks a few times in its life, and nothing is counted here per command.

**Fairness.** What a session adds to its share may never be more than what would then be left. One
that takes all it can stops at half of the memory, the next at a quarter, and there is always some
left for one that comes later. (This is the dynamic threshold of Choudhury and Hahne, with a factor
of one.)

**Pressure.** Where `grow` says no, the session waits here in line. As long as anybody waits, all
shares are looked at every `SWEEP_SECONDS`: what a session does not use is taken back, and given to
those that wait, in turn. A session that holds more than its first share, keeps others waiting, and
has made no progress for `STALL_SECONDS` (it asked for a large write and does not send the data, or
does not read the answers that it asked for) is ended: its host comes back and begins again.

What sessions hold that were lost while commands of theirs are at a device stays counted until the
device has let go of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final, Protocol

import structlog

log = structlog.get_logger(__name__)

LEAST: Final = 256 * 1024
"""Bytes that each session may hold without asking."""
SMALLEST_TOTAL: Final = 128 * 1024 * 1024
LARGEST_TOTAL: Final = 1024 * 1024 * 1024
PART_OF_MACHINE: Final = 8
"""The data of all commands may take an eighth of the machine's memory, between the two."""
SWEEP_SECONDS: Final = 0.02
STALL_SECONDS: Final = 10.0


class Client(Protocol):
    """A session, as it is seen here."""

    share: int
    """Bytes that it may hold. Set here only."""

    def in_use(self) -> int:
        """Bytes that it holds now."""

    def progress(self) -> object | None:
        """Changes whenever its host does something for what is held. None: it is not the host
        that is waited for."""

    def share_changed(self, before: int) -> None:
        """The share has become another one."""

    def end_stalled(self) -> None:
        """End the session."""


def memory_for_data() -> int:
    """Bytes, by the memory that this process may use: the machine's, or its control group's."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # No control group, or one without a limit.
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return max(SMALLEST_TOTAL, min(memory // PART_OF_MACHINE, LARGEST_TOTAL))


class DataBudget:
    """The memory of one target."""

    __slots__ = ("_clients", "_stalled", "_timer", "_waiting", "granted", "total")

    def __init__(self, total: int = 0) -> None:
        self.total = total or memory_for_data()
        self.granted = 0
        """Bytes of all shares. The first shares are granted in any case, so this may be more than
        `total` where there are many sessions."""
        self._clients: dict[Client, None] = {}
        self._waiting: dict[Client, int] = {}
        # Who asked for how large a share, in turn.
        self._stalled: dict[Client, tuple[object, float]] = {}
        # What progress a holder had made, and since when it has made none.
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_short(self) -> bool:
        """Whether anybody waits for memory."""
        return bool(self._waiting)

    def join(self, client: Client) -> None:
        """A session begins: it gets its first share."""
        self._clients[client] = None
        client.share = LEAST
        self.granted += LEAST

    def leave(self, client: Client) -> None:
        """It is gone, and so is what it held. Harmless when repeated."""
        if client in self._clients:
            del self._clients[client]
            self._waiting.pop(client, None)
            self._stalled.pop(client, None)
            self.granted -= client.share

    def grow(self, client: Client, share: int) -> bool:
        """Give it a share of so many bytes, now or later; whether now. A larger share than half of
        what is there is cut to that."""
        if not self._waiting and self._give(client, share):
            return True
        self._waiting[client] = share
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(SWEEP_SECONDS, self._sweep)
        return False

    def forget(self, client: Client) -> None:
        """It does not wait any more."""
        self._waiting.pop(client, None)

    def _give(self, client: Client, share: int) -> bool:
        share = min(share, self.total // 2)
        more = share - client.share
        if more > 0:
            if 2 * more > self.total - self.granted:
                return False
            self._change(client, share)
        return True

    def _change(self, client: Client, share: int) -> None:
        before, client.share = client.share, share
        self.granted += share - before
        client.share_changed(before)

    def _sweep(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for client in list(self._clients):
            needed = max(client.in_use(), LEAST)
            if needed < client.share and client not in self._waiting:
                self._change(client, needed)
            if client.share > LEAST:
                self._watch(client, now)
            else:
                self._stalled.pop(client, None)
        for client, share in list(self._waiting.items()):
            # Who cannot have it keeps the place: a smaller wish need not wait for a larger one.
            if client in self._waiting and self._give(client, share):
                self._waiting.pop(client, None)
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        else:
            self._stalled.clear()

    def _watch(self, client: Client, now: float) -> None:
        progress = client.progress()
        known = self._stalled.get(client)
        if progress is None:
            self._stalled.pop(client, None)
        elif known is None or known[0] != progress:
            self._stalled[client] = (progress, now)
        elif now - known[1] > STALL_SECONDS:
            del self._stalled[client]
            client.end_stalled()
