"""The live system as the copy manager sees it (`copy_manager/devices.py` says what it needs)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from daiko.backend.second_controller import SecondController
from daiko.command_control.decision import Place
from daiko.command_control.function_table import FunctionTable
from daiko.command_control.naming import DeviceAddress
from daiko.control.inventory import Inventory
from daiko.control.publication import Publication, PublishedVolume
from daiko.copy_manager.devices import Tracking
from daiko.device.block import BlockDevice
from daiko.device.layer.change_tracking import ChangeTracking
from daiko.mapping.extent import DeviceId


class LiveDevices:
    """Devices, their controllers, and what is known of them."""

    def __init__(self, inventory: Inventory, publication: Publication) -> None:
        self._inventory = inventory
        self._publication = publication
        self._device_trackings: dict[str, list[DeviceTracking]] = {}

    def block_device(self, device: DeviceId) -> BlockDevice:
        """The device for reading and writing; while its back end is down each request ends with
        Unreachable. Raises LookupError when there is no such device."""
        try:
            attachment = self._inventory.attachment(device.backend)
        except KeyError:
            raise LookupError(f"there is no back end {device.backend}") from None
        return attachment.device(device.lun)

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
        try:
            return self._publication.volume(name).track()
        except KeyError:
            device = self._device_named(name)
        volumes = [v for v in self._publication.volumes_on(device.backend) if v.lies_on(device)]
        tracking = DeviceTracking(device, [(volume, volume.track()) for volume in volumes])
        self._device_trackings.setdefault(name, []).append(tracking)
        return tracking

    def untrack(self, name: str) -> None:
        """Take back one `track`. A volume that is gone since has nothing to take back."""
        if self._device_trackings.get(name):
            self._device_trackings[name].pop().end()
            return
        with suppress(KeyError):
            self._publication.volume(name).untrack()

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


class DeviceTracking:
    """What hosts wrote to a device through the volumes that lie on it."""

    def __init__(
        self, device: DeviceId, volumes: list[tuple[PublishedVolume, ChangeTracking]]
    ) -> None:
        self._device = device
        self._volumes = volumes

    def ranges(self) -> Iterator[tuple[int, int]]:
        """(first block, blocks) on the device of each run that was written, ascending."""
        found = [
            (piece.lba, piece.blocks)
            for volume, tracking in self._volumes
            for first, blocks in tracking.ranges()
            for piece in volume.table.lookup(first, blocks)
            if piece.device == self._device
        ]
        return iter(sorted(found))

    def end(self) -> None:
        """Stop to note what is written."""
        for volume, _ in self._volumes:
            volume.untrack()
