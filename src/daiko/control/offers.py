"""What another site may learn of this one, and no more: the one place where its rights end.

Everything starts from the volumes that the site is offered (`SiteRecord.offered`). A device is told
of only where such a volume lies on it, a controller only where it owns such a device, a cell of
reach only between two such. What is asked for beside that does not exist.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

from daiko.command_control.function_table import FunctionTable
from daiko.command_control.plan import Function
from daiko.command_control.site_terms import FUNCTIONS, MODE_CODES, peer_cell, peer_reach
from daiko.control.inventory import Inventory, device_address
from daiko.mapping.extent import DeviceId
from daiko.scsi.site_values import (
    MOST_NAMES,
    FunctionCode,
    Greeting,
    MappedDevice,
    OfferedVolume,
    PeerCell,
    PeerReach,
)
from daiko.state.record import SiteRecord, SystemRecord, VolumeRecord
from daiko.state.store import Store
from daiko.target.commands.site import OfferedMapping, PairHandler


class PairSeam:
    """Where those who pair volumes join in; one for all sites. Nobody has, at first."""

    def __init__(self) -> None:
        self.handler: PairHandler | None = None
        """Gets the PAIR commands of all sites; None: they are refused."""
        self.state_of: Callable[[str], str] = lambda volume: ""
        """Volume -> its role and state in a pair, as peers are told with VOLUMES."""


class Offers:
    """What one site may learn (`target.commands.site.Offers`)."""

    def __init__(self, site: str, store: Store, inventory: Inventory, pairing: PairSeam) -> None:
        self.site = site
        self._store = store
        self._inventory = inventory
        self._pairing = pairing

    @property
    def pairs(self) -> PairHandler | None:
        return self._pairing.handler

    def greeting(self, actions_in: int, actions_out: int) -> Greeting:
        record = self._store.get(SystemRecord, "system")
        assert record is not None
        return Greeting(
            identity=bytes.fromhex(record.identity),
            iqn=record.iqn,
            software=version("daiko"),
            milliseconds=int(time.time() * 1000),
            mode=MODE_CODES[record.mode],
            actions_in=actions_in,
            actions_out=actions_out,
        )

    def volumes(self) -> list[OfferedVolume]:
        return [
            OfferedVolume(
                lun, volume.name, volume.block_size, volume.blocks, bytes.fromhex(volume.naa),
                self._pairing.state_of(volume.name),
            )
            for lun, volume in sorted(self._offered().items())
        ]  # fmt: skip

    def is_offered(self, lun: int) -> bool:
        return lun in self._offered()

    def mapping(self, lun: int) -> OfferedMapping:
        table = self._offered()[lun].extents.table
        devices = (self._device(number, each) for number, each in enumerate(table.devices))
        return OfferedMapping(tuple(devices), table)

    def cell(self, lun: int, device: int, function: FunctionCode) -> PeerCell:
        controller = self._offered()[lun].extents.table.devices[device].backend
        wanted = FUNCTIONS[function]
        return peer_cell(
            controller, wanted, self._inventory.function_table().function(controller, wanted)
        )

    def function_table(self) -> list[PeerCell | PeerReach]:
        table = self._inventory.function_table()
        devices = sorted(
            {
                device
                for volume in self._offered().values()
                for device in volume.extents.table.devices
            }
        )
        controllers = sorted({device.backend for device in devices})
        cells = [
            peer_cell(controller, function, cell)
            for controller in controllers
            for function in Function
            if (cell := table.function(controller, function)) is not None
        ]
        return [*cells, *_reaches(table, controllers, devices)]

    def _offered(self) -> Mapping[int, VolumeRecord]:
        site = self._store.get(SiteRecord, self.site)
        found = {} if site is None else site.offered
        volumes = {lun: self._store.get(VolumeRecord, name) for lun, name in found.items()}
        return {lun: volume for lun, volume in volumes.items() if volume is not None}

    def _device(self, number: int, device: DeviceId) -> MappedDevice:
        attachment = self._inventory.attachment(device.backend)
        address = device_address(attachment.record, attachment.facts(device.lun))
        if address.internal:
            return MappedDevice(number, str(device), "", device.lun, 0, address.block_size)
        nexus = None if attachment.controller is None else attachment.controller.nexus
        return MappedDevice(
            number=number,
            name=str(device),
            iqn=address.iqn,
            lun=address.lun,
            portal_group_tag=0 if nexus is None else nexus.portal_group_tag,
            block_size=address.block_size,
            portals=address.portals[:MOST_NAMES],
            designators=address.designators[:MOST_NAMES],
            third_party_copy=address.third_party_copy,
        )


def _reaches(
    table: FunctionTable, controllers: list[str], devices: list[DeviceId]
) -> list[PeerReach]:
    found = []
    for controller in controllers:
        for device in devices:
            cell = table.reaches(controller, device)
            if cell is not None and device.backend != controller:
                found.append(peer_reach(controller, str(device), cell))
    return found
