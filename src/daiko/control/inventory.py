"""All back ends that are attached, and what is known of what they can do.

The inventory opens back ends, asks them what they have and can do, and keeps the answers in the
store: devices in the BackendRecord, cells of the function table and of the reachability column in
records of their own. Cells set by hand are never touched here.

Who reaches which devices is asked whenever a back end is attached or probed (`reachability.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable
from typing import Final

import structlog

from daiko.command_control.function_table import FunctionTable, Known
from daiko.command_control.naming import DeviceAddress
from daiko.control import chap
from daiko.control.attachment import Attachment, BackendUnavailable, DeviceWatcher
from daiko.control.reachability import Reachability
from daiko.device.error import Unreachable
from daiko.iscsi.error import RemoteProtocolError
from daiko.mapping.extent import DeviceId
from daiko.state.index import BlocksInUse
from daiko.state.record import (
    BackendRecord,
    CredentialRecord,
    DeviceFacts,
    FunctionRecord,
    Patience,
    ReachRecord,
)
from daiko.state.store import Store, Transaction

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 30.0
"""Between two looks at whether back ends have grown."""

START_PATIENCE: Final = 5.0
"""Seconds that a start waits for back ends; those that need longer come in the background."""


class Inventory:
    """The attached back ends. `watcher` is told of what happens to their devices."""

    def __init__(self, store: Store, initiator_iqn: str, watcher: DeviceWatcher) -> None:
        self._store = store
        self._initiator_iqn = initiator_iqn
        self._watcher = watcher
        self._attachments: dict[str, Attachment] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._remembering: set[asyncio.Task[None]] = set()
        self.reach = Reachability(store, self)

    async def start(self) -> None:
        """Attach all back ends of the store. Those that do not answer are tried again in the
        background."""
        records = self._store.list(BackendRecord)
        for record in records:
            self._attachments[record.name] = self._attachment(record)
        opening = [self._spawn(self._resume(a)) for a in self._attachments.values()]
        if opening:
            await asyncio.wait(opening, timeout=START_PATIENCE)
        self._spawn(self._look_for_growth())

    async def stop(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.gather(*(a.close() for a in self._attachments.values()))
        self._attachments.clear()

    async def attach(
        self, record: BackendRecord, credentials: CredentialRecord | None = None
    ) -> BackendRecord:
        """Open a new back end, take its devices into use, find out what it can do, and store all
        that. Raises BackendUnavailable, with nothing changed, when it does not answer."""
        attachment = self._attachment(record, credentials)
        try:
            devices = await attachment.open()
        except BaseException:
            await attachment.close()
            raise
        self._attachments[record.name] = attachment
        attachment.take(devices, {})
        await self._remember(attachment, fresh=True, credentials=credentials)
        await self.reach.ask_around(record.name)
        return attachment.record

    async def detach(self, name: str) -> None:
        """Let go of a back end and forget it and its cells. Raises KeyError."""
        attachment = self._attachments.pop(name)
        async with self._store.transaction() as change:
            change.delete(BackendRecord, name)
            change.delete(CredentialRecord, chap.backend(name))
            for cell in change.list(FunctionRecord):
                if cell.backend == name:
                    change.delete(FunctionRecord, cell.key)
            for reach in change.list(ReachRecord):
                if name in (reach.backend, reach.device.rpartition("/")[0], reach.device):
                    change.delete(ReachRecord, reach.key)
        await attachment.close()
        self._watcher.backend_changed(name)

    async def rescan(self, name: str, *, functions: bool) -> BackendRecord:
        """Look again at what a back end has and, with `functions`, at what it can do and reach;
        what is found is taken into use as it is. Raises KeyError, BackendUnavailable."""
        attachment = self._attachments[name]
        attachment.take(await attachment.open(), self._needed(name))
        await self._remember(attachment, fresh=functions)
        if functions:
            await self.reach.ask_around(name)
        return attachment.record

    async def use_patience(self, name: str, patience: Patience) -> BackendRecord:
        """Other time limits for a back end, from now on. Raises KeyError."""
        attachment = self._attachments[name]
        attachment.use_patience(patience)
        await self._store.put(attachment.record)
        return attachment.record

    async def use_credentials(self, name: str, credentials: CredentialRecord | None) -> str:
        """Log in by these from now on, or by the name alone, and store that. They are tried first,
        beside the session that there is. Returns why they could not be tried, "" where they were.
        Raises KeyError, BackendUnavailable where the target does not let us in by them."""
        controller = self._attachments[name].controller
        if controller is None:
            raise BackendUnavailable(f"{name} is a disk of this controller: nobody logs in to it")
        account = None if credentials is None else chap.account_of(credentials)
        untried = ""
        try:
            await controller.check_account(account)
        except Unreachable as error:
            untried = str(error)
        except RemoteProtocolError as error:
            raise BackendUnavailable(str(error), "look which user and secret it knows") from error
        async with self._store.transaction() as change:
            if credentials is None:
                change.delete(CredentialRecord, chap.backend(name))
            else:
                change.put(credentials)
        controller.use_account(account)
        return untried

    def attachments(self) -> Iterable[Attachment]:
        """All of them, in the order in which they were attached."""
        return self._attachments.values()

    def attachment(self, name: str) -> Attachment:
        """Raises KeyError."""
        return self._attachments[name]

    def directory(self) -> dict[DeviceId, DeviceAddress]:
        """All devices, with what a second command needs to name them."""
        found = {}
        for attachment in self._attachments.values():
            for facts in attachment.record.devices:
                address = device_address(attachment.record, facts)
                found[address.device] = address
        return found

    def function_table(self) -> FunctionTable:
        """The function table as the store has it."""
        return FunctionTable.of(
            ((r.backend, r.function, r.cell) for r in self._store.list(FunctionRecord)),
            ((r.backend, r.device, r.cell) for r in self._store.list(ReachRecord)),
        )

    def _needed(self, name: str) -> dict[int, int]:
        """By LUN, up to which block volumes lie on the devices of a back end."""
        used = self._store.index(BlocksInUse).by_device
        return {device.lun: used[device].end for device in used if device.backend == name}

    def _attachment(
        self, record: BackendRecord, credentials: CredentialRecord | None = None
    ) -> Attachment:
        found = credentials or self._store.get(CredentialRecord, chap.backend(record.name))
        account = None if found is None else chap.account_of(found)
        made = Attachment(record, self._initiator_iqn, self._watcher, account=account)
        made.on_grown = self._grown
        return made

    def _grown(self, attachment: Attachment) -> None:
        task = self._spawn(self._remember(attachment, fresh=False))
        self._remembering.add(task)
        task.add_done_callback(self._remembering.discard)

    async def settled(self) -> None:
        """Return when the store knows of all growth that was noticed so far."""
        await asyncio.gather(*self._remembering)

    async def _look_for_growth(self) -> None:
        """Every so often, at all back ends side by side: a back end tells of its LUs only with the
        answer to a command, and nothing tells of a file."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            found = await asyncio.gather(
                *(attachment.look_for_growth() for attachment in self._attachments.values()),
                return_exceptions=True,
            )
            for error in found:
                if isinstance(error, Exception):
                    log.warning("a back end was not looked at", error=str(error))

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _resume(self, attachment: Attachment) -> None:
        try:
            devices = await attachment.open()
        except BackendUnavailable as error:
            log.warning("backend does not answer", backend=attachment.record.name, error=str(error))
            attachment.retry(self._came_back_later)
            self._watcher.backend_changed(attachment.record.name)
        else:
            await self._came_back(attachment, devices)

    def _came_back_later(self, attachment: Attachment, devices: tuple[DeviceFacts, ...]) -> None:
        self._spawn(self._came_back(attachment, devices))

    async def _came_back(self, attachment: Attachment, devices: tuple[DeviceFacts, ...]) -> None:
        attachment.resume(devices)
        await self._remember(attachment, fresh=False)

    async def _remember(
        self,
        attachment: Attachment,
        *,
        fresh: bool,
        credentials: CredentialRecord | None = None,
    ) -> None:
        """Store what was found. Unless `fresh`, what was learned from a failure stands: the
        controller said the same of itself before it failed."""
        now = time.time()
        record = attachment.record.model_copy(update={"probed_at": now})
        attachment.record = record
        async with self._store.transaction() as change:
            if fresh or change.get(BackendRecord, record.name) is not None:
                change.put(record)
                if credentials is not None:
                    change.put(credentials)
                self._put_cells(change, attachment, fresh=fresh)

    def _put_cells(self, change: Transaction, attachment: Attachment, *, fresh: bool) -> None:
        if attachment.found is None:
            return
        name = attachment.record.name
        for function, cell in attachment.found.cells.items():
            record = FunctionRecord(backend=name, function=function, cell=cell)
            old = change.get(FunctionRecord, record.key)
            learned = old is not None and old.cell.known is Known.LEARNED
            if fresh or not (learned and old is not None and old.cell.on == cell.on):
                change.put(record)


def device_address(record: BackendRecord, facts: DeviceFacts) -> DeviceAddress:
    """A device as second commands name it."""
    return DeviceAddress(
        device=DeviceId(record.name, facts.lun),
        block_size=facts.block_size,
        designators=tuple(bytes.fromhex(text) for text in facts.designators),
        iqn=record.iqn,
        portals=record.portals,
        lun=facts.lun,
        third_party_copy=facts.third_party_copy,
    )
