"""A way through the network that a test can cut: a portal that leads to a loopback port."""

from __future__ import annotations

import asyncio
from types import TracebackType

from processes import free_port


class NetworkPath:
    """A portal that leads to a loopback port, until it is cut: all its connections are reset and
    nobody listens any more. `cut_after` cuts it when so many bytes have passed."""

    def __init__(self, to: int, *, cut_after: int | None = None) -> None:
        self.to = to
        self.port = free_port()
        self.passed = 0
        self._cut_after = cut_after
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def portal(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def is_open(self) -> bool:
        return self._server is not None

    def cut_after(self, passed: int) -> None:
        """Cut it when so many bytes have passed since it was made."""
        self._cut_after = passed

    async def __aenter__(self) -> NetworkPath:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cut()
        await asyncio.gather(*self._connections)

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for end in self._ends:
            end.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:  # Nobody listens there now.
            writer.transport.abort()
            self._connections.discard(task)
            return
        both = {writer, far_writer}
        self._ends |= both
        try:
            await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))
        finally:
            self._ends -= both
            self._connections.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.passed += len(data)
                if self._cut_after is not None and self.passed > self._cut_after:
                    self._cut_after = None
                    self.cut()
                    return
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # Cut, or one side is gone: the other is told by the close below.
        finally:
            writer.close()
