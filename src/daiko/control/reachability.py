"""The reachability column: which devices the back ends that can copy reach by themselves.

It is asked for as soon as there is somebody to ask: when a back end is attached or probed, each
controller that can copy is asked about the devices of all others. Controllers whose standard
INQUIRY data say nothing of third-party copy are asked nothing.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from daiko.backend.probe import probe_reach
from daiko.command_control.function_table import CopyLimits, FunctionTable, Known, ReachCell
from daiko.command_control.naming import DeviceAddress
from daiko.command_control.plan import Function
from daiko.control.attachment import Attachment, BackendUnavailable
from daiko.device.error import DeviceError
from daiko.mapping.extent import DeviceId
from daiko.state.record import ReachRecord
from daiko.state.store import Store

if TYPE_CHECKING:
    from daiko.control.inventory import Inventory

log = structlog.get_logger(__name__)


class Reachability:
    """Of the back ends of one inventory."""

    def __init__(self, store: Store, inventory: Inventory) -> None:
        self._store = store
        self._inventory = inventory

    async def ask(self, name: str, device: DeviceId) -> ReachCell:
        """Find out whether a controller reaches a device by itself, and store the answer.
        Raises KeyError (no such controller or device), BackendUnavailable."""
        return await self.ask_elsewhere(name, self._inventory.directory()[device])

    async def ask_elsewhere(self, name: str, address: DeviceAddress) -> ReachCell:
        """As `ask`, also of a device of another site: it is in no directory of ours. The answer
        stands until the controller is asked again what it can do. Raises KeyError,
        BackendUnavailable."""
        cell = await self._probe(self._inventory.attachment(name), address)
        await self._store.put(ReachRecord(backend=name, device=str(address.device), cell=cell))
        return cell

    async def ask_around(self, name: str) -> None:
        """Ask the controllers that can copy: the named one about the devices of all others, and
        all others about its devices."""
        directory = self._inventory.directory()
        table = self._inventory.function_table()
        questions = [
            (attachment, address)
            for attachment in self._inventory.attachments()
            for address in directory.values()
            if name in (attachment.record.name, address.device.backend)
            and address.device.backend != attachment.record.name
            and not address.internal
            and _limits(table, attachment.record.name) is not None
        ]
        answers = await asyncio.gather(*(self._answer(*question) for question in questions))
        async with self._store.transaction() as change:
            for known in change.list(ReachRecord):
                # What was found of devices of other sites: asked again when it is needed.
                by_hand = known.cell.known is Known.DECLARED
                if known.backend == name and ":" in known.device and not by_hand:
                    change.delete(ReachRecord, known.key)
            for record in answers:
                if record is not None:
                    change.put(record)

    async def _answer(self, attachment: Attachment, address: DeviceAddress) -> ReachRecord | None:
        try:
            cell = await self._probe(attachment, address)
        except BackendUnavailable as error:
            log.warning(
                "reach not known",
                backend=attachment.record.name,
                device=str(address.device),
                error=str(error),
            )
            return None
        return ReachRecord(backend=attachment.record.name, device=str(address.device), cell=cell)

    async def _probe(self, attachment: Attachment, address: DeviceAddress) -> ReachCell:
        name = attachment.record.name
        limits = _limits(self._inventory.function_table(), name)
        if attachment.controller is None or limits is None:
            reason = f"{name} takes no copy commands"
            return ReachCell(False, Known.PROBED, time.time(), reason)
        attachment.check_connected()
        try:
            return await probe_reach(
                attachment.controller, address, limits, self._inventory.directory()
            )
        except DeviceError as error:
            raise BackendUnavailable(str(error)) from error


def _limits(table: FunctionTable, backend: str) -> CopyLimits | None:
    """The limits of the controller's copy commands; None where it cannot copy."""
    for function in Function:
        cell = table.function(backend, function)
        if cell is not None and cell.can:
            return cell.limits
    return None
