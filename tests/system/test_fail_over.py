"""A target behind two portals: when the path to one is cut, the other takes over, and a host that
works through the first controller notices nothing but a pause."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType

from kernel_counters import traffic_with
from processes import Daiko, free_port, image, qemu_io, run

MIB = 1 << 20


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
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to)
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


async def test_second_portal_takes_over_amid_the_writes_of_a_host(tmp_path: Path) -> None:
    content = image(tmp_path / "content.img", 48 * MIB, seed=5)
    disk = image(tmp_path / "disk.img", 48 * MIB)
    with (
        Daiko(tmp_path, disk, name="second") as second,
        Daiko(tmp_path, name="first", store=tmp_path / "store") as first,
    ):
        one, other = NetworkPath(second.port, cut_after=16 * MIB), NetworkPath(second.port)

        def work() -> None:
            address = f"iscsi://{one.portal}/{second.iqn}"
            first.cli("backend", "add", "second", address, "--portal", other.portal)
            first.cli("volume", "add", "alpha", "--extent", f"second/0:0:{48 * MIB // 512}")
            first.cli("host", "add", "any", "--initiator", "*", "--lun", "0=alpha")
            run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", content, first.url())
            run("qemu-img", "compare", "-f", "raw", "-F", "raw", content, first.url())

        async with one, other:
            await asyncio.to_thread(work)
            assert one.passed > 16 * MIB
            assert other.passed > 32 * MIB
            # And back: the first path is there again when the second is cut.
            await one.open()
            before = one.passed
            other.cut()
            await asyncio.to_thread(qemu_io, first.url(), "write -P 6 1M 64k", "read -P 6 1M 64k")
            assert one.passed > before + 2 * 65536
            # Everything went over the paths.
            assert not traffic_with(first.pid, [second.port])[second.port].total
            # (it logs out over a path, which lives in this process)
            await asyncio.to_thread(first.stop)
    wanted = bytearray(content.read_bytes())
    wanted[MIB : MIB + 65536] = b"\6" * 65536
    assert disk.read_bytes() == wanted
