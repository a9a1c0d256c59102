"""How a copy manager is told which LU is meant: one of the three forms of CSCD descriptor.

- **Identification** (E4h) repeats a designator of the LU's page 83h. It carries no address, so the
  copy manager must know a path already: its own LUs, or one that it was seen to reach. Only NAA
  designators are used (every known copy manager takes those), and only as the LU itself gave
  them: what looks computable is not (firmware and forks build theirs differently).
- **Alias** (E6h) stands for an iSCSI name and portal that this controller has told it before with
  CHANGE ALIASES; for LUs on other machines. The LUN beside it is the one that this controller
  sees: a target that numbers its LUs otherwise for the copy manager's initiator name must not be
  declared reachable.
- **Address** (E5h, EAh) names a portal but no target. It is the last choice, and only for a copy
  manager that takes nothing better: the portal alone does not say which of its targets is meant.

The decision asks whether an LU can be named at all, the generation how, the probe tries the same
name: all three by `name_for`, so that what was probed is what is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from daiko.command_control.function_table import CopyLimits
from daiko.mapping.extent import DeviceId

IDENTIFICATION = 0xE4
IPV4 = 0xE5
ALIAS = 0xE6
IPV6 = 0xEA

_LONGEST_DESIGNATOR = 20
"""Bytes that an E4h CSCD descriptor has room for."""


@dataclass(frozen=True, slots=True)
class DeviceAddress:
    """Where a real LU is, and what it is called: what a second command needs to know of it."""

    device: DeviceId
    block_size: int
    """Bytes."""
    designators: tuple[bytes, ...]
    """Of page 83h, association LU, each as it came: 4-byte header and designator; best first."""
    iqn: str
    """iSCSI name of the target; "" for an INTERNAL device, which nobody else reaches."""
    portals: tuple[str, ...]
    """HOST:PORT, tried in this order; IPv6 in brackets."""
    lun: int
    third_party_copy: bool = True
    """The 3PC bit of its standard INQUIRY data: it may be sent copy commands."""
    commander: str = ""
    """Who alone gives commands to its controller; "" = this controller."""
    withheld: str = ""
    """Why no second controller may be told of it; "" = it may."""

    @property
    def internal(self) -> bool:
        """It is one of this controller's own disks (port INTERNAL) [0065]."""
        return not self.iqn


Directory = Mapping[DeviceId, DeviceAddress]
"""Every device that a plan may name."""


class Form(Enum):
    """The descriptor that names an LU; the value is its type code."""

    IDENTIFICATION = IDENTIFICATION
    ALIAS = ALIAS
    IPV4 = IPV4
    IPV6 = IPV6


class Naming(NamedTuple):
    """How one copy manager is told of one LU."""

    form: Form
    designator: bytes = b""
    """Header and designator as in page 83h (IDENTIFICATION)."""


class Unnameable(ValueError):
    """The copy manager has no way to be told of the LU; the message says why."""


def name_for(
    executor: str, address: DeviceAddress, limits: CopyLimits, directory: Directory
) -> Naming:
    """How the second controller `executor` is told of an LU. Raises Unnameable."""
    if address.internal:
        raise Unnameable(f"{address.device} lies in this controller, where {executor} cannot go")
    if address.device.backend == executor:
        return _identification(address, limits, directory)
    if limits.aliases and ALIAS in limits.cscd_types and address.portals:
        return Naming(Form.ALIAS)
    if IDENTIFICATION in limits.cscd_types and naa_of(address) is not None:
        return _identification(address, limits, directory)
    form = _portal_form(address, limits)
    if form is not None:
        return Naming(form)
    return _identification(address, limits, directory)  # which says why not


def _identification(address: DeviceAddress, limits: CopyLimits, directory: Directory) -> Naming:
    device = address.device
    if IDENTIFICATION not in limits.cscd_types:
        raise Unnameable(f"its copy commands do not take {device}'s identifier (CSCD type E4h)")
    designator = naa_of(address)
    if designator is None:
        raise Unnameable(f"{device} shows no NAA identifier to name it by")
    for other in directory.values():
        same_target = other.device != device and other.device.backend == device.backend
        if same_target and designator in other.designators:
            raise Unnameable(f"{device} and {other.device} show the same identifier")
    return Naming(Form.IDENTIFICATION, designator)


def naa_of(address: DeviceAddress) -> bytes | None:
    """The best NAA designator that fits a CSCD descriptor, with its 4-byte header: of 16 bytes
    (NAA 6) before shorter ones, which some copy managers do not take; None without any."""
    fitting = [
        raw
        for raw in address.designators
        if raw[0] & 0x0F == 1
        and raw[1] & 0x3F == 3  # association: logical unit; type: NAA
        and raw[3] == len(raw) - 4 <= _LONGEST_DESIGNATOR
    ]
    return min(fitting, key=lambda raw: raw[4] >> 4 != 6, default=None)


def _portal_form(address: DeviceAddress, limits: CopyLimits) -> Form | None:
    host = address.portals[0].rpartition(":")[0] if address.portals else ""
    if host.startswith("["):
        return Form.IPV6 if IPV6 in limits.cscd_types else None
    is_ipv4 = bool(host) and host.replace(".", "").isdigit()
    return Form.IPV4 if is_ipv4 and IPV4 in limits.cscd_types else None
