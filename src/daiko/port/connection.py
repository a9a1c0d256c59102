"""One connection of a port, target or initiator: bytes between a transport and `iscsi/`.

The source describes its target port and its initiator port as the same structure with another
role [0042]; so does this module. `Connection` is the asyncio protocol; the role (a `Role`) gives
it handlers for what comes in and calls `send` for what goes out.

Sending. `send` only appends to a list. The list is handed to the transport in one write at the end
of the read batch in which it grew: the batch of this connection, or that of the one connection from
which all that goes out here has come lately. Where several connections feed this one, or an answer
comes outside a batch, it is once in the next turn of the event loop, so that what they all have to
say goes out together. Data of `AT_ONCE` bytes or more does not wait for any of this: while a batch
of such PDUs is put together, the peer would have nothing to do. Nothing else writes to the
transport.

Receiving. All connections of an event loop share one receive buffer (`iscsi/framing.py`).

Back-pressure. When the peer does not read, the transport calls `pause_writing`; `is_congested`
is then true, and the role is told. A role that serves requests stops taking up new ones.

Errors. A `RemoteProtocolError` out of a handler or the framer ends the connection after the role
was asked for its last words (`role.refused`). Any other exception is a defect: it is logged with
its traceback and ends this connection only.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Final, Protocol, cast
from weakref import WeakKeyDictionary

import structlog

from daiko.device.memory import unfilled
from daiko.iscsi.bhs import Buffer
from daiko.iscsi.digest import digest
from daiko.iscsi.error import RemoteProtocolError
from daiko.iscsi.framing import PADDING, Framer, Handler, ReceiveBuffer

log = structlog.get_logger(__name__)

HIGH_WATER: Final = 1024 * 1024
"""Bytes waiting in the transport at which the connection counts as congested."""
AT_ONCE: Final = 64 * 1024
"""Bytes of a data segment that is written without waiting for the end of the batch."""
CLOSE_SECONDS: Final = 10.0
"""How long a closing connection waits for the peer to read what is queued."""
_NODELAY_LEVEL: Final = 6  # IPPROTO_TCP
_NODELAY: Final = 1  # TCP_NODELAY


JOINED: Final = 16 * 1024
"""Bytes of a few PDUs up to which it costs less to join them than to have them gathered."""
_FEW: Final = 4
"""Parts of a few PDUs."""


class _Shared:
    """What the connections of one event loop share."""

    __slots__ = ("buffer", "reading", "waiting")

    def __init__(self) -> None:
        self.buffer = ReceiveBuffer()
        self.reading = 0
        """Number of the connection whose read batch is being worked on; 0: none."""
        self.waiting: list[Connection] = []
        """Connections to be flushed at its end."""


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = WeakKeyDictionary()
_numbers = itertools.count(1)


class Role(Protocol):
    """What a target's or an initiator's half of a connection gives to the structure."""

    def dispatch(self) -> list[Handler]:
        """The first table of handlers, indexed by opcode (`framing.dispatch_table`)."""

    def connected(self) -> None:
        """The transport is up; `send` may be used."""

    def refused(self, error: RemoteProtocolError) -> None:
        """The peer broke the protocol: what is sent here goes out before the connection ends."""

    def congestion_ended(self) -> None:
        """The peer reads again."""

    def lost(self, error: Exception | None) -> None:
        """The connection is gone, by this side (None), by the peer (None) or by an error."""


class Connection(asyncio.BufferedProtocol):
    """The structure around one transport. `framer` may be configured by the role."""

    __slots__ = (
        "_closer",
        "_closing",
        "_data_digest",
        "_fed_by",
        "_has_data",
        "_header_digest",
        "_loop",
        "_number",
        "_out",
        "_role",
        "_scheduled",
        "_shared",
        "_transport",
        "batches",
        "framer",
        "is_congested",
        "local_address",
        "peer_address",
        "reads_while_congested",
    )

    def __init__(self, role: Role) -> None:
        self._role = role
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._out: list[Buffer] = []
        self._has_data = False
        # Whether there are data segments in it.
        self._scheduled = False
        # True while a flush is certain to come: inside a read batch, or called for soon.
        self._closing = False
        self._closer: asyncio.TimerHandle | None = None
        self._header_digest = False
        self._data_digest = False
        self.batches = 0
        """Reads so far: a connection on which it stands still is silent."""
        self.is_congested = False
        self.reads_while_congested = True
        """A target reads nothing from a host that does not read either. Only one of two peers may
        do that, or each would wait for the other for ever."""
        shared = _shared.get(self._loop)
        if shared is None:
            shared = _shared[self._loop] = _Shared()
        self._shared = shared
        self._number = next(_numbers)
        self._fed_by = 0
        # Number of the connection in whose batch something was sent last outside our own.
        self.framer = Framer(role.dispatch(), buffer=shared.buffer, allocate=unfilled)
        self.local_address: tuple[str, int] = ("", 0)
        self.peer_address: tuple[str, int] = ("", 0)

    # --- transport -> here

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are Transports in all but name.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(_NODELAY_LEVEL, _NODELAY, 1)
        self.local_address = _address(transport.get_extra_info("sockname"))
        self.peer_address = _address(transport.get_extra_info("peername"))
        self._role.connected()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.framer.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        shared = self._shared
        shared.reading = self._number
        self._scheduled = True
        self.batches += 1
        try:
            self.framer.received(nbytes)
        except RemoteProtocolError as error:
            self._refuse(error)
        except Exception:
            log.exception("connection ended by a defect", peer=self.peer_address)
            self.abort()
        finally:
            shared.reading = 0
        self._flush()
        if shared.waiting:
            waiting, shared.waiting = shared.waiting, []
            for connection in waiting:
                connection._flush()

    def eof_received(self) -> bool:
        # An iSCSI connection is of no use half closed.
        return False

    def pause_writing(self) -> None:
        self.is_congested = True
        if not self.reads_while_congested:
            self.pause_reading()

    def resume_writing(self) -> None:
        self.is_congested = False
        if not self.reads_while_congested:
            self.resume_reading()
        self._role.congestion_ended()

    def connection_lost(self, exc: Exception | None) -> None:
        self.framer.stop()
        self._closing = True
        self._transport = None
        self._out = []
        if self._closer is not None:
            self._closer.cancel()
        self._role.lost(exc)

    # --- role -> here

    def send(self, header: bytes, data: Buffer = b"", ahs: bytes = b"") -> None:
        """Queue a PDU: `header` from `pack`, its data segment. `data` is referred to until it is
        written, so it must not change. Dropped silently once the connection is closing."""
        out = self._out
        out.append(header)
        if ahs:
            out.append(ahs)
        if self._header_digest:
            out.append(digest(header + ahs))
        if data:
            out.append(data)
            self._has_data = True
            padding = PADDING[len(data) & 3]
            if padding:
                out.append(padding)
            if self._data_digest:
                out.append(digest(data, padding))
            if len(data) >= AT_ONCE:
                self._write()
                return
        if not self._scheduled:
            self._scheduled = True
            shared = self._shared
            reading = shared.reading
            if reading and reading == self._fed_by:
                shared.waiting.append(self)
            else:
                self._fed_by = reading
                self._loop.call_soon(self._flush)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call back in the next turn of the event loop."""
        self._loop.call_soon(callback)

    def use_digests(self, header: bool, data: bool) -> None:
        """From the next PDU on, in both directions (after the last PDU of the login)."""
        self._header_digest = self.framer.header_digest = header
        self._data_digest = self.framer.data_digest = data

    @property
    def unsent(self) -> int:
        """Bytes that the peer has not taken yet."""
        transport = self._transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def limit_unsent(self, limit: int) -> None:
        """Count as congested when so many bytes wait, or `HIGH_WATER`."""
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=min(limit, HIGH_WATER))

    def pause_reading(self) -> None:
        if self._transport is not None and not self._closing:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._closing:
            self._transport.resume_reading()

    def close(self) -> None:
        """Send what is queued, then close; nothing that comes in is looked at any more.

        Only the sending half is shut down at once. A socket closed while the peer is still sending
        would be reset, and the reset overtakes the last words (a Reject, a Logout Response). So
        what comes is read and dropped until the peer closes too, or for `CLOSE_SECONDS`."""
        self.framer.stop()
        transport = self._transport
        if transport is None or self._closing:
            return
        self._flush()
        self.resume_reading()
        self._closing = True
        self._closer = self._loop.call_later(CLOSE_SECONDS, self.abort)
        if transport.is_closing():
            return
        try:
            transport.write_eof()
        except OSError:  # The peer has gone already.
            self.abort()

    def abort(self) -> None:
        """Close at once; what is queued is lost."""
        self.framer.stop()
        self._closing = True
        self._out = []
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_closing(self) -> bool:
        return self._closing

    # --- inside

    def _flush(self) -> None:
        self._scheduled = False
        self._write()

    def _write(self) -> None:
        out = self._out
        if not out:
            return
        self._out = []
        has_data, self._has_data = self._has_data, False
        transport = self._transport
        if transport is None or self._closing:
            return
        if not has_data or (len(out) <= _FEW and sum(map(len, out)) <= JOINED):
            transport.write(b"".join(out))
        else:
            transport.writelines(out)

    def _refuse(self, error: RemoteProtocolError) -> None:
        log.warning("connection refused", peer=self.peer_address, reason=str(error))
        self._role.refused(error)
        self.close()


def _address(name: object) -> tuple[str, int]:
    """Host and port of a socket name; a Unix socket has neither."""
    if isinstance(name, tuple) and len(name) >= 2:
        return (str(name[0]), int(name[1]))
    return (str(name or ""), 0)
