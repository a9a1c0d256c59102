"""Ending work in an orderly way: nothing new is begun, what is in flight comes to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum


class HaltReason(StrEnum):
    """Why a job is to end before it is done."""

    CANCEL = "cancelled"
    SHUTDOWN = "the controller stops"
    FAILURE = "failed"


class Halt:
    """A request to end, asked once and seen everywhere."""

    def __init__(self) -> None:
        self.reason: HaltReason | None = None
        self._event = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    @property
    def requested(self) -> bool:
        return self.reason is not None

    def request(self, reason: HaltReason) -> None:
        """Ask for the end; a second request changes nothing."""
        if self.reason is not None:
            return
        self.reason = reason
        self._event.set()
        for listener in self._listeners:
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the end is asked for, at once if it was already."""
        self._listeners.append(listener)
        if self.requested:
            listener()

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Take a listener back."""
        self._listeners.remove(listener)

    async def wait(self) -> None:
        """Until the end is asked for."""
        await self._event.wait()

    async def pause(self, seconds: float) -> None:
        """Wait that long, or until the end is asked for."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
