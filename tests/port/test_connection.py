"""The structure around a transport, over real sockets, on both event loops that may run it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import uvloop

from daiko.iscsi.bhs import Buffer
from daiko.iscsi.error import RejectReason, RemoteProtocolError
from daiko.iscsi.framing import Handler, encode
from daiko.iscsi.pdu import NopIn, NopOut
from daiko.port import connection as connection_module
from daiko.port.connection import Connection


class Echo:
    """A role that answers every PDU with a NOP-In of the same data; tests change `answer`."""

    def __init__(self) -> None:
        self.connection = Connection(self)
        self.answer: Callable[[bytes], None] = self.echo
        self.errors: list[RemoteProtocolError] = []
        self.resumed = 0
        self.ended = asyncio.Event()
        self.error: Exception | None = None

    def dispatch(self) -> Sequence[Handler]:
        return [self.receive] * 64

    def connected(self) -> None:
        pass

    def receive(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        self.answer(bytes(data))

    def echo(self, data: bytes) -> None:
        self.connection.send(NopIn(data=data).pack(), data)

    def refused(self, error: RemoteProtocolError) -> None:
        self.errors.append(error)
        self.connection.send(NopIn(data=b"last words").pack(), b"last words")

    def congestion_ended(self) -> None:
        self.resumed += 1

    def lost(self, error: Exception | None) -> None:
        self.error = error
        self.ended.set()


Scenario = Callable[[Echo, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def connected(scenario: Scenario) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    role: list[Echo] = []

    def make() -> Connection:
        role.append(Echo())
        return role[0].connection

    await loop.create_connection(make, sock=ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    try:
        async with asyncio.timeout(20):
            await scenario(role[0], reader, writer)
    finally:
        writer.close()
        role[0].connection.abort()
        await role[0].ended.wait()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    def run_scenario(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(connected(scenario))

    return run_scenario


Run = Callable[[Scenario], None]


def ping(data: bytes, **digests: bool) -> bytes:
    return b"".join(encode(NopOut(data=data).pack(), data, **digests))


def pong(data: bytes, **digests: bool) -> bytes:
    return b"".join(encode(NopIn(data=data).pack(), data, **digests))


def test_answers_of_a_batch_leave_in_one_write(run: Run) -> None:
    async def scenario(role: Echo, reader: Any, writer: Any) -> None:
        writes: list[int] = []
        transport = role.connection._transport
        assert transport is not None
        real = transport.writelines

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

            def writelines(self, parts: list[Buffer]) -> None:
                writes.append(len(parts))
                real(parts)

        role.connection._transport = Counting()  # type: ignore[assignment]
        writer.write(b"".join(ping(bytes([n]) * n) for n in range(10)))
        expected = b"".join(pong(bytes([n]) * n) for n in range(10))
        assert await reader.readexactly(len(expected)) == expected
        assert len(writes) == 1

    run(scenario)


def test_large_data_does_not_wait_for_the_end_of_its_batch(run: Run) -> None:
    async def scenario(role: Echo, reader: Any, writer: Any) -> None:
        large = b"L" * connection_module.AT_ONCE

        def answer(data: bytes) -> None:
            role.echo(data)
            role.echo(large)
            assert role.connection._out == [], "written already, in order"
            role.echo(data)

        role.answer = answer
        writer.write(ping(b"1234"))
        expected = pong(b"1234") + pong(large) + pong(b"1234")
        assert await reader.readexactly(len(expected)) == expected

    run(scenario)


def test_later_answer_leaves_without_a_read(run: Run) -> None:
    async def scenario(role: Echo, reader: Any, writer: Any) -> None:
        role.echo(b"later")
        role.echo(b"and later")
        expected = pong(b"later") + pong(b"and later")
        assert await reader.readexactly(len(expected)) == expected

    run(scenario)


def test_digests_hold_in_both_directions(run: Run) -> None:
    async def scenario(role: Echo, reader: Any, writer: Any) -> None:
        digests = {"header_digest": True, "data_digest": True}
        role.connection.use_digests(True, True)
        writer.write(ping(b"covered", **digests))
        expected = pong(b"covered", **digests)
        assert await reader.readexactly(len(expected)) == expected

    run(scenario)


def test_protocol_error_ends_the_connection_after_last_words(run: Run) -> None:
    async def scenario(role: Echo, reader: Any, writer: Any) -> None:
        def refuse(data: bytes) -> None:
            role.echo(data)
            raise RemoteProtocolError("no", reject=RejectReason.PROTOCOL_ERROR)

        role.answer = refuse
        writer.write(ping(b"one") + ping(b"two"))
        assert await reader.read() == pong(b"one") + pong(b"last words")
        writer.close()
        await role.ended.wait()
        assert [error.reject for error in role.errors] == [RejectReason.PROTOCOL_ERROR]
        assert role.error is None

    run(scenario)


def test_defect_in_a_handler_ends_its_connection_only(run: Run) -> None:
    async def scenario(role: Echo, reader: Any, writer: Any) -> None:
        def fail(data: bytes) -> None:
            raise ZeroDivisionError

        role.answer = fail
        writer.write(ping(b"one"))
        assert await reader.read() == b""
        await role.ended.wait()
        assert role.errors == []

    run(scenario)


def test_peer_that_closes_is_noticed(run: Run) -> None:
    async def scenario(role: Echo, reader: Any, writer: Any) -> None:
        writer.close()
        await role.ended.wait()
        role.echo(b"too late")
        await asyncio.sleep(0)
        assert role.connection.is_closing

    run(scenario)


def test_close_sends_what_is_queued_and_reads_no_more(run: Run) -> None:
    async def scenario(role: Echo, reader: Any, writer: Any) -> None:
        seen: list[bytes] = []
        role.answer = seen.append
        data = bytes(3_000_000)
        role.connection.send(NopIn(data=data).pack(), data)
        role.connection.close()
        writer.write(ping(b"not looked at"))
        assert await reader.read() == pong(data)
        writer.close()
        await role.ended.wait()
        assert seen == []

    run(scenario)


def test_close_does_not_wait_for_ever_for_a_peer_that_does_not_read(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(role: Echo, reader: Any, writer: Any) -> None:
        writer.transport.pause_reading()
        role.connection.send(NopIn(data=bytes(1 << 23)).pack(), bytes(1 << 23))
        role.connection.close()
        await role.ended.wait()

    monkeypatch.setattr(connection_module, "CLOSE_SECONDS", 0.01)
    run(scenario)


@pytest.mark.parametrize("reads", [True, False])
def test_congestion_is_known_and_ends(run: Run, reads: bool) -> None:
    async def scenario(role: Echo, reader: Any, writer: Any) -> None:
        seen: list[bytes] = []
        role.answer = seen.append
        role.connection.reads_while_congested = reads
        writer.transport.pause_reading()
        data = bytes(1 << 23)
        role.connection.send(NopIn(data=data).pack(), data)
        while not role.connection.is_congested:  # noqa: ASYNC110
            await asyncio.sleep(0)
        writer.write(ping(b"amid"))
        await writer.drain()
        for _ in range(100):
            await asyncio.sleep(0)
        if not reads:
            assert seen == []
        writer.transport.resume_reading()
        expected = pong(data)
        assert await reader.readexactly(len(expected)) == expected
        while not seen:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert role.resumed == 1
        assert not role.connection.is_congested

    run(scenario)


def test_large_data_segment_is_received_where_the_role_wants_it(run: Run) -> None:
    async def scenario(role: Echo, reader: Any, writer: Any) -> None:
        place = bytearray(500_001)
        role.connection.framer.maximum_data_length = 1 << 20
        role.connection.framer.place = lambda header, at, length: memoryview(place)[:length]
        done = asyncio.Event()

        def note(data: bytes) -> None:
            done.set()

        role.answer = note
        data = bytes(index % 251 for index in range(len(place)))
        writer.write(ping(data))
        await done.wait()
        assert place == data

    run(scenario)


class Written:
    """A transport that notes each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.writes.append(bytes(data))

    def writelines(self, parts: list[Buffer]) -> None:
        self.writes.append(b"".join(parts))


class Feeder:
    """A role that passes every PDU on to another connection."""

    def __init__(self, target: Connection | None) -> None:
        self.target = target
        self.connection = Connection(self)
        self.transport = Written()
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]

    def dispatch(self) -> Sequence[Handler]:
        return [self.receive] * 64

    def connected(self) -> None:
        pass

    def receive(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        assert self.target is not None
        self.target.send(NopOut(data=data).pack(), data)

    def refused(self, error: RemoteProtocolError) -> None:
        raise error

    def congestion_ended(self) -> None:
        pass

    def lost(self, error: Exception | None) -> None:
        pass

    def read(self, stream: bytes) -> None:
        """One read batch."""
        room = self.connection.get_buffer(len(stream))
        room[: len(stream)] = stream
        self.connection.buffer_updated(len(stream))


@pytest.mark.parametrize("large", [False, True], ids=["joined", "gathered"])
async def test_what_one_connection_feeds_leaves_at_the_end_of_its_batch(large: bool) -> None:
    data = b"d" * (4096 if large else 4)
    out = Feeder(None)
    one, other = Feeder(out.connection), Feeder(out.connection)
    batch = ping(data) * 8

    one.read(batch)
    assert out.transport.writes == [], "nobody knows yet that it is the only one"
    await asyncio.sleep(0)
    assert out.transport.writes == [batch]
    one.read(batch)
    assert out.transport.writes == [batch] * 2

    other.read(batch)
    one.read(batch)
    assert out.transport.writes == [batch] * 2, "what two of them say goes out together"
    await asyncio.sleep(0)
    assert out.transport.writes == [batch] * 2 + [batch * 2]
    out.connection.send(ping(b""))
    assert len(out.transport.writes) == 3
    await asyncio.sleep(0)
    assert out.transport.writes[3:] == [ping(b"")]


async def test_defect_in_a_batch_does_not_keep_back_what_it_sent() -> None:
    out = Feeder(None)
    one = Feeder(out.connection)
    one.read(ping(b"") * 2)
    await asyncio.sleep(0)
    real = one.receive
    seen = []

    def receive(header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        real(header, at, ahs, data)
        seen.append(1)
        if len(seen) == 2:
            raise ZeroDivisionError

    one.connection.framer.dispatch = [receive] * 64
    one.connection._transport = None  # it ends; there is no socket to be closed
    one.read(ping(b"") * 3)
    assert out.transport.writes[1:] == [ping(b"") * 2]
    out.connection.send(ping(b""))
    await asyncio.sleep(0)
    assert out.transport.writes[2:] == [ping(b"")]
