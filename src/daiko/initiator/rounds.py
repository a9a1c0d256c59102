"""Tries the portals of a target in turn until one of them gives a session.

A round begins with the portal after the one that had the last session, or with the best one that is
known, and tries each once. After a round without success there is a pause, which doubles up to a
limit; whoever is in a hurry ends it. A portal that asked to be left alone for a while is passed
over.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from daiko.device.error import DeviceError, Unreachable
from daiko.initiator.login import LoggedIn, log_in
from daiko.initiator.portal import Portal
from daiko.initiator.session import Session
from daiko.iscsi.error import LoginRefused, RemoteProtocolError
from daiko.port.connection import Connection

if TYPE_CHECKING:
    from daiko.initiator.multipath import Multipath


class Rounds:
    """Of one target. A login that succeeds goes to `Multipath.begin`."""

    def __init__(self, paths: Multipath) -> None:
        self._paths = paths
        self._next = 0
        """Place among the portals of the one to begin with."""
        self._not_before: dict[Portal, float] = {}
        """Portals that asked to be left alone for a while, until when (time of the event loop)."""
        self._task: asyncio.Task[None] | None = None
        self._resting: asyncio.Future[None] | None = None
        """The pause between two rounds; done when there is none."""
        self._is_over = asyncio.Event()

    def begin(self) -> None:
        """The session is lost: go on in the background until there is another one."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Try no more."""
        if self._task is not None:
            self._task.cancel()
            if self._resting is not None:
                self._resting.cancel()
            await asyncio.wait([self._task])
            self._task = None
            self._is_over.set()

    def leave_alone(self, portal: Portal, seconds: float) -> None:
        """Do not try this portal before so many seconds are over."""
        self._not_before[portal] = asyncio.get_running_loop().time() + seconds

    async def hurry(self) -> None:
        """Where rounds go on, return at the end of the next one, which begins now."""
        if self._task is not None:
            self._is_over.clear()
            if self._resting is not None:
                self._resting.cancel()
            await self._is_over.wait()

    async def _run(self) -> None:
        pause = self._paths.settings.reconnect_first
        self._next += 1
        while not await self._has_begun():
            self._is_over.set()
            # Chance keeps the sessions of many controllers from coming back all at once.
            await self._rest(pause * random.uniform(0.75, 1.25))
            pause = min(pause * 2, self._paths.settings.reconnect_longest)
        self._is_over.set()
        if self._task is asyncio.current_task():
            self._task = None

    async def _has_begun(self) -> bool:
        """Try each portal once; whether there is a session now."""
        try:
            await self.once()
        except Unreachable:
            return False
        return True

    async def _rest(self, seconds: float) -> None:
        """The pause between two rounds, or as much of it as nobody is in a hurry."""
        self._resting = asyncio.ensure_future(asyncio.sleep(seconds))
        await asyncio.wait([self._resting])

    async def once(self) -> None:
        """Try each portal once. Raises Unreachable with what each of them said; `last_error` and
        `last_refusal` of the target say it, too."""
        paths = self._paths
        words = []
        refusal: RemoteProtocolError | None = None
        is_silent = False
        for portal in paths.choice.order(self._next % len(paths.portals)):
            if self._not_before.get(portal, 0.0) > asyncio.get_running_loop().time():
                words.append(f"{portal}: it asked to be left alone for a moment")
                continue
            self._not_before.pop(portal, None)
            try:
                await self._log_in(portal)
            except (DeviceError, RemoteProtocolError) as error:
                words.append(f"{portal}: {error}")
                if isinstance(error, RemoteProtocolError):
                    refusal = error
                else:
                    is_silent = True
            else:
                self._next = paths.portals.index(portal)
                return
        paths.last_error = "; ".join(words)
        paths.last_refusal = None if is_silent else refusal
        raise Unreachable(f"{paths.target_name}: {paths.last_error}")

    async def _log_in(self, portal: Portal, redirected: bool = False) -> None:
        paths = self._paths

        def begin(connection: Connection, login: LoggedIn) -> Session:
            return paths.begin(portal, connection, login)

        elsewhere: Portal | None = None
        try:
            await log_in(
                portal, paths.initiator_name, paths.target_name, paths.isid, begin, paths.settings,
                paths.account,
            )  # fmt: skip
        except LoginRefused as refusal:
            if redirected or not refusal.address:
                raise
            try:
                elsewhere = Portal.parse(refusal.address.rpartition(",")[0] or refusal.address)
            except ValueError:
                raise refusal from None
        if elsewhere is not None:
            await self._log_in(elsewhere, redirected=True)
