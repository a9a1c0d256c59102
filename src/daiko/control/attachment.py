"""One back end as it is attached: what the store says of it, and what is live of it.

A back end that does not answer is attached all the same: its devices are there with the sizes
that they had, every request to them fails with `Unreachable`, and it is tried again in the
background, at longer and longer intervals. When it answers for the first time its LUs are compared
with what they were when the administrator attached them: an LU that shows another identity is
another LU, whose data must not be taken for that of the old one, and it stays out until the
administrator has looked (`daiko backend rescan`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import structlog

from daiko.backend.file import FileDevice
from daiko.backend.file_lock import FileInUse
from daiko.backend.probe import ProbeResult, probe
from daiko.backend.second_controller import SecondController
from daiko.device.block import BlockDevice, Buffer, Capabilities, Done, Level, ReadDone
from daiko.device.error import DeviceError, Unreachable
from daiko.device.sanitize import Sanitization, SanitizeWatcher
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.chap import Account
from daiko.mapping.extent import DeviceId
from daiko.scsi.block_data import Capacity
from daiko.scsi.spc import TestUnitReady
from daiko.state.record import BackendKind, BackendRecord, DeviceFacts, Patience

log = structlog.get_logger(__name__)

FIRST_RETRY: Final = 1.0
LONGEST_RETRY: Final = 30.0
"""Seconds between two attempts to reach a back end that does not answer; doubled each time."""


class BackendUnavailable(Exception):
    """The back end does not answer, or its file is not there; the message says what it said."""

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step
        """What to do, where it is known better than that it must be looked at."""


class AbsentDevice(BlockDevice):
    """A device that is not there now, with the size that it had."""

    def __init__(self, facts: DeviceFacts, reason: str) -> None:
        self.capabilities = Capabilities(
            unmap=Level.NONE, write_same=Level.NONE, compare_and_write=Level.NONE, fua=Level.NATIVE
        )
        self.block_size = facts.block_size
        self.blocks = facts.blocks
        self.reason = reason

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        done(Unreachable(self.reason), b"")

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        done(Unreachable(self.reason))

    def flush(self, done: Done) -> None:
        done(Unreachable(self.reason))

    def sanitize(
        self, wanted: Sanitization, watcher: SanitizeWatcher, *, resume: bool = False
    ) -> Callable[[], None]:
        """Whether it can do this itself is not known before it is there."""
        loop = asyncio.get_running_loop()
        return loop.call_soon(watcher.ended, Unreachable(self.reason)).cancel

    def exit_failure_mode(self, done: Done) -> None:
        done(Unreachable(self.reason))


class DeviceWatcher(Protocol):
    """Who is told of what happens to devices; `publication.py` tells the hosts."""

    def backend_changed(self, name: str) -> None:
        """The devices of a back end have become others: they went from absent to present, were
        opened anew, or have another size."""

    def device_was_reset(self, device: DeviceId) -> None:
        """The device reported a reset: what was written since the last flush may be lost."""


class Attachment:
    """A back end while it is attached."""

    def __init__(
        self,
        record: BackendRecord,
        initiator_iqn: str,
        watcher: DeviceWatcher,
        *,
        account: Account | None = None,
    ) -> None:
        self.record = record
        self.controller: SecondController | None = None
        if record.type is BackendKind.ISCSI:
            self.controller = SecondController(
                record.name, record.iqn, record.portals, initiator_iqn, account=account,
                settings=settings_of(record.patience),
            )  # fmt: skip
            self.controller.sizes = {
                known.lun: Capacity(known.blocks, known.block_size) for known in record.devices
            }
            self.controller.on_lu_changed = self._lu_changed
            self.controller.on_reset = self._was_reset
        self.found: ProbeResult | None = None
        """What the last probe found; None until the back end has answered once."""
        self._error = "not tried yet"
        """Why it could not be opened."""
        self._file: FileDevice | None = None
        self._kept_out: dict[int, str] = {}
        """Why an LU is not in use, by LUN."""
        self._watcher = watcher
        self.on_grown: Callable[[Attachment], None] = lambda attachment: None
        """Called when an LU has more blocks than it had; `record` says so already."""
        self._devices: dict[int, BlockDevice] = {}
        self._retrying: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        if self.controller is not None:
            return self.found is not None and self.controller.is_connected
        return bool(self._devices)

    @property
    def detail(self) -> str:
        """Why it is not connected, which LUs are kept out, or by which portal it is connected."""
        if self._error:
            return self._error
        if self.controller is not None and not self.controller.is_connected:
            return self.controller.last_error
        if self._kept_out:
            return "; ".join(f"LU {lun}: {why}" for lun, why in sorted(self._kept_out.items()))
        nexus = self.controller.nexus if self.controller is not None else None
        return "" if nexus is None else f"through {nexus.portal}"

    def device(self, lun: int) -> BlockDevice:
        """The device, or what stands for it while it is not there. Raises LookupError when the
        back end never had such an LU."""
        device = self._devices.get(lun)
        if device is not None:
            return device
        return AbsentDevice(self.facts(lun), f"{self.record.name}: {self.detail}")

    def facts(self, lun: int) -> DeviceFacts:
        """What is known of an LU. Raises LookupError when the back end never had such an LU."""
        for facts in self.record.devices:
            if facts.lun == lun:
                return facts
        raise LookupError(f"back end {self.record.name} has no LU {lun}")

    def use_patience(self, patience: Patience) -> None:
        """Other time limits, from now on."""
        self.record = self.record.model_copy(update={"patience": patience})
        if self.controller is not None:
            self.controller.use_settings(settings_of(patience))

    async def open(self) -> tuple[DeviceFacts, ...]:
        """Connect or open it, and ask what it has. Returns what its devices are now, without
        taking them into use. Raises BackendUnavailable."""
        if self.controller is None:
            return (self._open_file(),)
        was_open = self.found is not None
        if was_open:
            self.check_connected()
        try:
            await self.controller.open()
            self.found = await probe(self.controller)
        except DeviceError as error:
            if not was_open:
                self._error = str(error)
            raise BackendUnavailable(str(error)) from error
        self._error = ""
        return self.found.devices

    def check_connected(self) -> None:
        """Raises BackendUnavailable while there is no session: whoever asks a question would
        wait for the reconnect, which may take for ever."""
        if self.controller is not None and not self.controller.is_connected:
            raise BackendUnavailable(self.detail)

    def take(self, devices: tuple[DeviceFacts, ...], needed: Mapping[int, int]) -> None:
        """Take the devices into use as they are now: the administrator attached them, or has
        looked at them again. `needed` says how many blocks of an LU (by LUN) volumes lie on: one
        that is gone or too small for them stays on record as it was, and is kept out."""
        now = {facts.lun: facts for facts in devices}
        self._error = ""
        self._kept_out = {}
        for known in self.record.devices:
            if known.lun in needed:
                reason = _unfit(known, now.get(known.lun), needed[known.lun])
                if reason:
                    self._kept_out[known.lun] = reason
                    now[known.lun] = known
        present = tuple(facts for _, facts in sorted(now.items()))
        self.record = self.record.model_copy(update={"devices": present})
        self._devices = {lun: self._device(lun) for lun in now if lun not in self._kept_out}
        self._log_kept_out()
        self._watcher.backend_changed(self.record.name)

    def resume(self, devices: tuple[DeviceFacts, ...]) -> None:
        """Take into use those devices that are the ones that were attached."""
        now = {facts.lun: facts for facts in devices}
        self._error = ""
        self._kept_out = {}
        for known in self.record.devices:
            reason = _difference(known, now.get(known.lun))
            if reason:
                self._kept_out[known.lun] = reason
            else:
                self._devices[known.lun] = self._device(known.lun)
        self._log_kept_out()
        self._note_growth()
        self._watcher.backend_changed(self.record.name)

    async def look_for_growth(self) -> None:
        """See whether LUs have grown: the length of an own disk; of a second controller each LU is
        given a command, which it answers with a unit attention where there is news. And whether
        there is a better path to it."""
        if self._file is not None:
            if self._devices and self._file.length() > self._file.blocks:
                self._file.refresh()
                self._grew()
            return
        if self.controller is None or not self.controller.is_connected:
            return
        for lun in list(self._devices):
            # Whatever it answers: the news went to the controller, and what is wrong shows where
            # the LU is used.
            with suppress(DeviceError):
                await self.controller.execute(lun, TestUnitReady.pack())
        await self.controller.check_paths()

    def _note_growth(self) -> bool:
        """Take the sizes of LUs that have grown into the record; whether there are any."""
        devices = []
        for known in self.record.devices:
            blocks = self._blocks_now(known)
            larger = known.lun in self._devices and blocks > known.blocks
            devices.append(known.model_copy(update={"blocks": blocks}) if larger else known)
        if tuple(devices) == self.record.devices:
            return False
        self.record = self.record.model_copy(update={"devices": tuple(devices)})
        return True

    def _blocks_now(self, known: DeviceFacts) -> int:
        if self._file is not None:
            return self._file.blocks
        facts = None if self.controller is None else self.controller.units.get(known.lun)
        if facts is None or facts.capacity is None:
            return known.blocks
        return facts.capacity.blocks

    def _grew(self) -> None:
        if self._note_growth():
            log.info("a device has grown", backend=self.record.name)
            self.on_grown(self)
        self._watcher.backend_changed(self.record.name)

    def _log_kept_out(self) -> None:
        if self._kept_out:
            log.warning("devices kept out", backend=self.record.name, reasons=self.detail)

    def retry(self, opened: Callable[[Attachment, tuple[DeviceFacts, ...]], None]) -> None:
        """Try to open it in the background until that succeeds, then call `opened`."""
        self._retrying = asyncio.ensure_future(self._retry(opened))

    async def _retry(self, opened: Callable[[Attachment, tuple[DeviceFacts, ...]], None]) -> None:
        pause = FIRST_RETRY
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_RETRY)
            try:
                devices = await self.open()
            except BackendUnavailable:
                continue
            log.info("backend answers again", backend=self.record.name)
            opened(self, devices)
            return

    async def close(self) -> None:
        """Let go of it; requests in flight complete with an error."""
        if self._retrying is not None:
            self._retrying.cancel()
            await asyncio.gather(self._retrying, return_exceptions=True)
        if self.controller is not None:
            await self.controller.close()
        if self._file is not None:
            self._file.close()
        self._devices = {}

    def _lu_changed(self, controller: SecondController, lun: int, reason: str) -> None:
        """A reconnect found an LU as it was not before; it has withdrawn itself where it must."""
        if reason:
            self._kept_out[lun] = reason
        else:
            self._kept_out.pop(lun, None)
        self._grew()

    def _was_reset(self, controller: SecondController, lun: int) -> None:
        self._watcher.device_was_reset(DeviceId(self.record.name, lun))

    def _device(self, lun: int) -> BlockDevice:
        """The living device. It has been opened."""
        if self.controller is not None:
            return self.controller.device(lun)
        assert self._file is not None, "the file has been opened"
        return self._file

    def _open_file(self) -> DeviceFacts:
        try:
            if self._file is None:
                self._file = open_file(
                    Path(self.record.path),
                    self.record.block_size,
                    preallocate=self.record.preallocate,
                )
            else:
                self._file.refresh()
        except OSError as error:
            raise BackendUnavailable(f"{self.record.path}: {error.strerror}") from error
        except BackendUnavailable as error:
            self._error = str(error)
            raise
        self._error = ""
        return DeviceFacts(
            lun=0,
            block_size=self._file.block_size,
            blocks=self._file.blocks,
            vendor="DAIKO",
            product="INTERNAL",
        )


def settings_of(patience: Patience) -> InitiatorSettings:
    """As the initiator takes it."""
    return InitiatorSettings(
        command_timeout=patience.command,
        abort_timeout=patience.abort,
        reset_timeout=patience.reset,
        ping_interval=patience.ping_interval,
        ping_timeout=patience.ping_timeout,
        grace=patience.reconnect,
    )


def open_file(path: Path, block_size: int, *, preallocate: bool = False) -> FileDevice:
    """Open the file or block device of an INTERNAL LU. Raises BackendUnavailable."""
    try:
        device = FileDevice.open(path, block_size, preallocate=preallocate)
    except OSError as error:
        raise BackendUnavailable(f"{path}: {error.strerror}") from error
    except FileInUse as error:
        raise BackendUnavailable(
            str(error), "stop that one first, or give another file: no two may serve one"
        ) from error
    except ValueError as error:
        raise BackendUnavailable(str(error)) from error
    size = os.stat(path).st_size
    if size % block_size:
        device.close()
        raise BackendUnavailable(
            f"{path}: its size, {size} bytes, is no multiple of the block size, {block_size} bytes",
            "make it as long as whole blocks are, or give another block size",
        )
    return device


def _difference(known: DeviceFacts, now: DeviceFacts | None) -> str:
    """Why `now` is not the LU that `known` was; "" when it is."""
    reason = _unfit(known, now, known.blocks)
    if not reason and now is not None and now.designators != known.designators:
        return "shows another identity than before: it is another LU"
    return reason


def _unfit(known: DeviceFacts, now: DeviceFacts | None, blocks: int) -> str:
    """Why an LU cannot hold what lies in its first `blocks` blocks; "" when it can."""
    if now is None:
        return "it is gone"
    if now.block_size != known.block_size:
        return f"has blocks of {now.block_size} bytes, not {known.block_size} as before"
    if now.blocks < blocks:
        return f"has shrunk from {known.blocks} to {now.blocks} blocks"
    return ""
