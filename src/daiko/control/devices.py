"""The live system as the copy manager sees it (`copy_manager/devices.py` says what it needs)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress

from daiko.backend.second_controller import SecondController
from daiko.command_control.decision import Place
from daiko.command_control.function_table import FunctionTable
from daiko.command_control.naming import DeviceAddress
from daiko.control.entering import Entering, entered, overlaps_of
from daiko.control.inventory import Inventory
from daiko.control.publication import Publication, PublishedVolume
from daiko.copy_manager.devices import Tracking
from daiko.device.block import BlockDevice
from daiko.device.layer.change_tracking import ChangeTracking
from daiko.device.layer.timing import CommandTimes, Timing
from daiko.mapping.extent import DeviceId, Piece


class LiveDevices:
    """Devices, their controllers, and what is known of them."""

    def __init__(self, inventory: Inventory, publication: Publication) -> None:
        self._inventory = inventory
        self._publication = publication

    def block_device(self, device: DeviceId) -> BlockDevice:
        """The device for reading and writing; while its back end is down each request ends with
        Unreachable. Raises LookupError when there is no such device."""
        try:
            attachment = self._inventory.attachment(device.backend)
        except KeyError:
            raise LookupError(f"there is no back end {device.backend}") from None
        return attachment.device(device.lun)

    def destination(self, piece: Piece) -> BlockDevice:
        """The device for writing these blocks of it, with each write entered at the units of the
        volumes that they belong to. Raises LookupError when there is no such device."""
        device = self.block_device(piece.device)
        overlaps = overlaps_of([piece], self._publication)
        return Entering(device, overlaps, self._publication) if overlaps else device

    def writing(self, pieces: Sequence[Piece]) -> AbstractAsyncContextManager[None]:
        """Enter the writes of another controller at the units of the volumes concerned."""
        return entered(overlaps_of(pieces, self._publication), self._publication)

    def second_controller(self, name: str) -> SecondController:
        """Raises KeyError where no second controller has this name."""
        controller = self._inventory.attachment(name).controller
        if controller is None:
            raise KeyError(name)
        return controller

    def function_table(self) -> FunctionTable:
        """The function table as it is now."""
        return self._inventory.function_table()

    def directory(self) -> Mapping[DeviceId, DeviceAddress]:
        """All devices, with what a second command needs to name them."""
        return self._inventory.directory()

    def place(self, name: str) -> Place:
        """A volume; BACKEND/LUN; or BACKEND, where it has one LU. Raises LookupError with a
        sentence."""
        try:
            return self._publication.volume(name).place
        except KeyError:
            device = self._device_named(name)
        facts = self._inventory.attachment(device.backend).facts(device.lun)
        return Place.of_device(self._inventory.directory()[device], facts.blocks)

    def track(self, name: str) -> Tracking:
        """Note what hosts write to a place from now on. Each call needs an `untrack`."""
        with suppress(KeyError):
            return VolumeTracking(self._publication.volume(name))
        device = self._device_named(name)
        return DeviceTracking(device, [VolumeTracking(each) for each in self._volumes_on(device)])

    def untrack(self, name: str, tracking: Tracking) -> None:
        """Take back one `track`."""
        assert isinstance(tracking, VolumeTracking | DeviceTracking)
        tracking.end()

    def time_commands(self, name: str, times: CommandTimes) -> Callable[[], None]:
        """Time the READs and WRITEs of hosts to a place until what this returns is called. Raises
        LookupError."""
        try:
            volumes = [self._publication.volume(name)]
        except KeyError:
            volumes = self._volumes_on(self._device_named(name))
        layers = [volume.put_over(lambda below: Timing(below, times)) for volume in volumes]

        def end() -> None:
            for volume, layer in zip(volumes, layers, strict=True):
                volume.take_off(layer)

        return end

    def _volumes_on(self, device: DeviceId) -> list[PublishedVolume]:
        on_backend = self._publication.volumes_on(device.backend)
        return [volume for volume in on_backend if volume.lies_on(device)]

    def _device_named(self, name: str) -> DeviceId:
        """BACKEND/LUN, or BACKEND with one LU. Raises LookupError."""
        directory = self._inventory.directory()
        try:
            device = DeviceId.parse(name)
        except ValueError:
            devices = [device for device in directory if device.backend == name]
            if len(devices) == 1:
                return devices[0]
            if devices:
                choice = ", ".join(map(str, sorted(devices)))
                raise LookupError(f"{name} has several LUs, say which: {choice}") from None
            raise LookupError(f"there is no volume and no back end {name}") from None
        if device not in directory:
            raise LookupError(f"there is no device {name}")
        return device


class VolumeTracking:
    """What hosts write to a volume."""

    def __init__(self, volume: PublishedVolume) -> None:
        self.volume = volume
        self._layer = volume.put_over(ChangeTracking)

    def changed_in(self, first: int, blocks: int) -> int:
        """Blocks of a range that were written."""
        return self._layer.changed_in(first, blocks)

    def end(self) -> None:
        """Stop to note what is written."""
        self.volume.take_off(self._layer)


class DeviceTracking:
    """What hosts write to a device through the volumes that lie on it."""

    def __init__(self, device: DeviceId, volumes: list[VolumeTracking]) -> None:
        self._device = device
        self._volumes = volumes

    def changed_in(self, first: int, blocks: int) -> int:
        """Blocks of a range of the device that were written."""
        changed = 0
        for tracking in self._volumes:
            table = tracking.volume.table
            for start, length in table.ranges_on(self._device):
                lies_at = table.locate(start)[1]
                low = max(first, lies_at)
                high = min(first + blocks, lies_at + length)
                if low < high:
                    changed += tracking.changed_in(start + low - lies_at, high - low)
        return changed

    def end(self) -> None:
        """Stop to note what is written."""
        for tracking in self._volumes:
            tracking.end()
