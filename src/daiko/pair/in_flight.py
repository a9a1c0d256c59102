"""Several requests at a time, none of them left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from daiko.device.block import Done
from daiko.device.error import DeviceError


class InFlight:
    """So many requests at most. Used with `async with`: when that is left, however it is, all have
    ended. Raises the DeviceError of the first that failed, as soon as it is known."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way: set[asyncio.Future[None]] = set()

    async def send(self, request: Callable[[Done], None]) -> None:
        """Wait for room and send a request, which is given its completion. Raises DeviceError."""
        if len(self._under_way) == self._most:
            await self._wait(asyncio.FIRST_COMPLETED)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: DeviceError | None) -> None:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self._under_way.add(future)
        request(done)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._wait(asyncio.ALL_COMPLETED)
        except DeviceError:
            if error is None:  # else there is a first one already
                raise

    async def _wait(self, until: str) -> None:
        if not self._under_way:
            return
        ended, self._under_way = await asyncio.wait(self._under_way, return_when=until)
        failures = [error for future in ended if (error := future.exception()) is not None]
        if failures:
            raise failures[0]
