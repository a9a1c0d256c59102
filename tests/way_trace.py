"""Which functions of ours run while a controller carries out one command, in their order.

A first controller runs in this thread, on uvloop as it does in life. Its second controllers are
processes, and its host runs in a thread of its own: `sys.setprofile` sees one thread, so what is
recorded is the first controller and nothing else.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import uvloop

import daiko
from daiko.backend.second_controller import Outcome, SecondController
from daiko.control import volumes
from daiko.control.system import System
from daiko.mapping.extent import DeviceId
from daiko.scsi.copy_parameters import ExtendedCopy, ListIdUsage
from daiko.scsi.cscd import IdentificationCscd
from daiko.scsi.opcode import Status
from daiko.scsi.sbc import Write16
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.spc import ExtendedCopyLid1, ReceiveCopyStatusLid1
from daiko.state.record import (
    BackendKind,
    BackendRecord,
    ExtentRecord,
    HostRecord,
    PortalGroupRecord,
    SystemRecord,
)
from daiko.state.sqlite import SqliteStore
from processes import Daiko, Tgt, image

SOURCE = str(Path(daiko.__file__).parent) + "/"
LOCALS = ".<locals>"

T = TypeVar("T")


class Call(NamedTuple):
    """A function of ours that was called."""

    module: str
    """As in `target/session.py`."""
    function: str
    """Qualified; a function in a function as `outer.inner`."""


class Trace:
    """The calls of this thread while it is on."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._suspended: dict[int, FrameType] = {}
        # A coroutine's frame is entered again each time it goes on: only the first time counts.
        # Frames are kept so that no other gets the same id.

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        if not code.co_filename.startswith(SOURCE):
            return
        if code.co_flags & (CO_COROUTINE | CO_GENERATOR | CO_ASYNC_GENERATOR):
            if id(frame) in self._suspended:
                return
            self._suspended[id(frame)] = frame
        name = code.co_qualname.replace(LOCALS, "")
        self.calls.append(Call(code.co_filename.removeprefix(SOURCE), name))

    @contextmanager
    def on(self) -> Iterator[None]:
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            self._suspended.clear()


class HostThread:
    """An initiator with a thread and an event loop to itself."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine over there and wait for it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


BLOCKS = 4096
"""Of each disk; alpha lies on half of sd1's and half of old's."""
HALF = BLOCKS // 2
ALPHA, VAULT, LOCAL = 0, 1, 2
"""LUNs. alpha: virtual LU over sd1 and old. vault: the backup device. local: a file."""


class Scene:
    """A first controller with a host, before second controllers of which one can copy."""

    def __init__(self, system: System, host: SecondController, thread: HostThread) -> None:
        self._system = system
        self._host = host
        self._thread = thread

    async def _traced(
        self, lun: int, cdb: bytes, data: bytes = b"", read_length: int = 0
    ) -> list[Call]:
        trace = Trace()
        with trace.on():
            answer: Outcome = await self._thread.run(
                self._host.execute(lun, cdb, data, read_length, timeout=60.0)
            )
        assert answer.status == Status.GOOD, answer
        return trace.calls

    async def write(self, lun: int, size: int) -> list[Call]:
        """A WRITE(16) of so many bytes, not at block 0."""
        cdb = Write16.pack(lba=8, transfer_length=size // 512)
        return await self._traced(lun, cdb, bytes(size))

    async def copy(
        self, first: int, blocks: int, *, source: str = "alpha", to: str = "vault-lu", at: int = -1
    ) -> list[Call]:
        """An EXTENDED COPY of blocks of a volume, to the same place or to `at`."""
        cscds = []
        for name in (source, to):
            designator = self._system.unit(name).designators[0]
            cscds.append(IdentificationCscd(designator, block_length=512))
        segment = BlockToBlock(0, 1, blocks, first, first if at < 0 else at)
        data = ExtendedCopy(7, ListIdUsage.HOLD, tuple(cscds), (segment,)).pack()
        return await self._traced(
            ALPHA, ExtendedCopyLid1.pack(parameter_list_length=len(data)), data
        )

    async def copy_status(self) -> list[Call]:
        """A RECEIVE COPY RESULTS about the last copy."""
        cdb = ReceiveCopyStatusLid1.pack(list_id=7, allocation_length=12)
        return await self._traced(ALPHA, cdb, read_length=12)


def record(folder: Path) -> dict[str, list[Call]]:
    """Everything that the page on the architecture tells, as it really goes."""
    for name in ("sd1", "old", "vault", "local"):
        image(folder / name, BLOCKS * 512)
    sd1 = Daiko(folder, folder / "sd1", name="sd1")
    vault = Daiko(folder, folder / "vault", name="vault")
    old = Tgt(folder, folder / "old", name="old")
    with ExitStack() as stack:
        with ThreadPoolExecutor() as pool:
            for process in pool.map(_started, (sd1, vault, old)):
                stack.push(process)
        allowed = sd1.rest("POST", "/v1/hosts/any/remote-copy", json={"portals": [vault.portal]})
        allowed.raise_for_status()
        return uvloop.run(_record(folder, sd1, vault, old))


def _started(process: Daiko | Tgt) -> Daiko | Tgt:
    process.start()
    return process


async def _record(folder: Path, sd1: Daiko, vault: Daiko, old: Tgt) -> dict[str, list[Call]]:
    store = SqliteStore.open(folder / "store")
    iqn = "iqn.2026-11.com.example:first"
    await store.put(SystemRecord(iqn=iqn, initiator_iqn=f"{iqn}.i"))
    await store.put(PortalGroupRecord(tag=1, portals=("127.0.0.1:0",), target_port_group=1))
    system = await System.start(store)
    thread = HostThread()
    try:
        for name, peer in (("sd1", sd1), ("vault", vault), ("old", old)):
            await system.attach_backend(
                BackendRecord(
                    name=name, type=BackendKind.ISCSI, iqn=peer.iqn, portals=(peer.portal,)
                )
            )
        await system.attach_backend(
            BackendRecord(name="local", type=BackendKind.INTERNAL, path=str(folder / "local"))
        )
        extents = [ExtentRecord(device=each, lba=0, blocks=HALF) for each in ("sd1/0", "old/1")]
        await volumes.create_by_hand(system, "alpha", extents)
        for name, device in (("vault-lu", "vault/0"), ("local-lu", "local/0")):
            await volumes.create_whole(system, name, [DeviceId.parse(device)])
        await system.put_host(
            HostRecord(
                name="any",
                initiators=("*",),
                luns={ALPHA: "alpha", VAULT: "vault-lu", LOCAL: "local-lu"},
            )
        )
        await system.listen()
        host = SecondController("first", iqn, system.portals, "iqn.2026-11.com.example:host")
        await thread.run(host.open())
        scene = Scene(system, host, thread)
        for lun in (ALPHA, VAULT, LOCAL):
            # Whatever happens only once, the first time, is no part of the way.
            await scene.write(lun, 4096)
        traces = {
            "write": await scene.write(ALPHA, 4096),
            "long write": await scene.write(ALPHA, 512 * 1024),
            "file write": await scene.write(LOCAL, 4096),
            "delegated copy": await scene.copy(0, 512),
            "status": await scene.copy_status(),
            "own copy": await scene.copy(HALF, 512),
            "mixed copy": await scene.copy(HALF - 256, 512),
            "copy of a file": await scene.copy(0, 512, source="local-lu", to="local-lu", at=HALF),
        }
        await thread.run(host.close())
        return traces
    finally:
        thread.close()
        await system.stop()
        await store.close()
