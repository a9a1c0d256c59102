"""Which logical unit a CSCD descriptor of a host means, and whether the host may name it.

This is where a host's rights end. A descriptor is looked up among the logical units that this host
sees on this nexus, and nowhere else: a unit that exists but is not mapped to the host gets the
answer of one that does not exist, by whatever name it is called (CVE-2020-28374 is what happens
otherwise). Other machines can be named by alias or address, and only those that the administrator
allows this host (`HostRecord.remote_copy`); the check comes before any connection, so that nobody
learns from us what is out there. A real LU that volumes lie on is not among them, whatever the host
is allowed: it holds what other hosts were given. An alias or address that means this target itself
is looked up like any other name: among the host's own units. iSCSI names are compared in their one
form, lower case (RFC 7143, 4.2.7.1).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from daiko.copy_manager.other_machines import OtherMachines, TargetAmbiguous
from daiko.device.error import DeviceError
from daiko.mapping.extent import DeviceId
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.cscd import (
    RECEIVING_LOGICAL_UNIT,
    AliasCscd,
    Cscd,
    IdentificationCscd,
    Ipv4Cscd,
    Ipv6Cscd,
)
from daiko.scsi.opcode import DeviceType
from daiko.scsi.report import lun_number
from daiko.scsi.sense import (
    CheckCondition,
    copy_target_not_reachable,
    incorrect_copy_target_device_type,
    invalid_field_in_parameter_list,
    not_authorized,
)
from daiko.scsi.vpd import Designator
from daiko.state.index import BlocksInUse
from daiko.state.record import HostRecord, SiteRecord
from daiko.state.store import Store
from daiko.target.commands.alias_list import AliasLists
from daiko.target.logical_unit import LogicalUnit
from daiko.target.nexus import Nexus

DEFAULT_PORT = 3260


@dataclass(frozen=True, slots=True)
class Resolved:
    """A copy source or destination, found."""

    place: str
    """Its name, as `devices.place` knows it."""
    block_size: int
    blocks: int
    cscd_byte: int | None
    """First byte of its descriptor in the parameter list; None for the receiving unit (FFFFh)."""
    unit: LogicalUnit | None
    """The logical unit of ours; None on another machine."""


class CscdResolution:
    """Resolves the descriptors of one parameter list, each at most once."""

    def __init__(
        self,
        parameters: ExtendedCopy,
        nexus: Nexus,
        receiver: LogicalUnit,
        *,
        aliases: AliasLists,
        remote: OtherMachines,
        store: Store,
    ) -> None:
        self._parameters = parameters
        self._nexus = nexus
        self._receiver = receiver
        self._aliases = aliases
        self._remote = remote
        self._store = store
        self._known: dict[int, Resolved] = {}
        self.remote_places: list[str] = []
        """Places on other machines that are held for this copy."""

    async def resolve(self, cscd_id: int, segment: int) -> Resolved:
        """The logical unit that a segment names by this id. Raises CheckCondition: COPY ABORTED
        with the segment and a pointer to the descriptor."""
        found = self._known.get(cscd_id)
        if found is None:
            found = self._known[cscd_id] = await self._find(cscd_id, segment)
        return found

    async def _find(self, cscd_id: int, segment: int) -> Resolved:
        if cscd_id == RECEIVING_LOGICAL_UNIT:
            return _of_unit(self._receiver, None)
        cscd = self._parameters.cscd(cscd_id)
        if cscd is None:
            raise CheckCondition(copy_target_not_reachable(segment))
        byte = self._parameters.cscd_offset(cscd_id)
        if cscd.nul:
            raise CheckCondition(copy_target_not_reachable(segment, cscd_byte=byte))
        if cscd.device_type != DeviceType.DIRECT_ACCESS:
            raise CheckCondition(incorrect_copy_target_device_type(segment, cscd_byte=byte))
        found = await self._look_up(cscd, byte, segment)
        if cscd.block_length not in (0, found.block_size):
            raise CheckCondition(invalid_field_in_parameter_list(byte + 29))
        return found

    async def _look_up(self, cscd: Cscd, byte: int, segment: int) -> Resolved:
        unit: LogicalUnit | None = None
        match cscd:
            case IdentificationCscd():
                unit = self._unit_with(cscd.designator)
            case AliasCscd():
                alias = self._aliases.find(self._nexus, cscd.alias)
                if alias is not None:
                    portal = _portal(alias.host, alias.port) if alias.host else ""
                    return await self._at(alias.name, portal, cscd.lun, byte, segment)
            case Ipv4Cscd() | Ipv6Cscd():
                host = str(ipaddress.ip_address(cscd.address))
                portal = _portal(host, cscd.port or DEFAULT_PORT)
                return await self._at("", portal, cscd.lun, byte, segment)
        return self._own(unit, byte, segment)

    # --- units of this target, as this host sees them -------------------------------------------

    def _unit_with(self, designator: Designator) -> LogicalUnit | None:
        """The unit among the host's own that shows this designator on page 83h."""
        for unit in self._nexus.view.values():
            for shown in unit.designators:
                if (
                    shown.data == designator.data
                    and shown.type == designator.type
                    and shown.code_set == designator.code_set
                    and shown.association == designator.association
                ):
                    return unit
        return None

    def _unit_at(self, lun: int) -> LogicalUnit | None:
        number = lun_number(lun)
        return None if number is None else self._nexus.view.get(number)

    def _own(self, unit: LogicalUnit | None, byte: int, segment: int) -> Resolved:
        if unit is None:
            raise CheckCondition(copy_target_not_reachable(segment, cscd_byte=byte))
        if unit.site is not None:  # A management unit has no blocks to copy.
            raise CheckCondition(incorrect_copy_target_device_type(segment, cscd_byte=byte))
        if unit.third_party_copy is None:
            # By this unit a peer gets at the side of a pair. What it may do there the unit's own
            # device says, which a copy of the volume would go past.
            raise CheckCondition(copy_target_not_reachable(segment, cscd_byte=byte))
        return _of_unit(unit, byte)

    # --- targets named by alias or address ------------------------------------------------------

    async def _at(self, iqn: str, portal: str, lun_field: int, byte: int, segment: int) -> Resolved:
        """The unit at a target; this target too is one, however it is called."""
        iqn = iqn.lower()
        if self._is_this_target(iqn) or portal == _portal(*self._nexus.local_address):
            return self._own(self._unit_at(lun_field), byte, segment)
        portal = portal or self._remote.portal_of(iqn) or ""
        allowed = self._allowed_portals()
        if not portal or ("*" not in allowed and portal not in allowed):
            raise CheckCondition(not_authorized(byte))
        try:
            iqn = iqn or (await self._remote.only_target(portal)).lower()
            if self._is_this_target(iqn):
                return self._own(self._unit_at(lun_field), byte, segment)
            return await self._elsewhere(iqn, portal, lun_field, byte)
        except (DeviceError, TargetAmbiguous):
            raise CheckCondition(copy_target_not_reachable(segment, cscd_byte=byte)) from None

    def _is_this_target(self, iqn: str) -> bool:
        return iqn == self._nexus.target_name.lower()

    async def _elsewhere(self, iqn: str, portal: str, lun_field: int, byte: int) -> Resolved:
        lun = lun_number(lun_field)
        if lun is None:
            raise TargetAmbiguous(f"LUN field {lun_field:016x} is of no form that is known here")
        attached = self._remote.attached(iqn, lun)
        if attached is not None and self._holds_volumes(attached):
            raise CheckCondition(not_authorized(byte))
        lu = await self._remote.hold(iqn, portal, lun)
        self.remote_places.append(lu.name)
        return Resolved(lu.name, lu.block_size, lu.blocks, byte, None)

    def _holds_volumes(self, device: DeviceId) -> bool:
        return bool(self._store.index(BlocksInUse).by_device.get(device))

    def _allowed_portals(self) -> tuple[str, ...]:
        """The portals whose LUs this host may name, by its own record or by the one for all. The
        first controller of another site is no host, and may name none."""
        if any(
            each.initiator == self._nexus.initiator_name for each in self._store.list(SiteRecord)
        ):
            return ()
        fallback: tuple[str, ...] = ()
        for host in self._store.list(HostRecord):
            if self._nexus.initiator_name in host.initiators:
                return host.remote_copy
            if "*" in host.initiators:
                fallback = host.remote_copy
        return fallback


def _of_unit(unit: LogicalUnit, byte: int | None) -> Resolved:
    return Resolved(unit.identity.name, unit.block_size, unit.blocks, byte, unit)


def _portal(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
