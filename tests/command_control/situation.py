"""A small system for tests of the decision and the generation: who owns what, and who can what."""

from __future__ import annotations

from collections.abc import Mapping

from daiko.command_control.decision import Place
from daiko.command_control.function_table import (
    CopyLimits,
    FunctionCell,
    FunctionTable,
    Known,
    ReachCell,
)
from daiko.command_control.naming import DeviceAddress
from daiko.command_control.plan import Executor, ExecutorKind, Function
from daiko.mapping.extent import DeviceId

# What real copy managers say of themselves.
LIO = CopyLimits(2, 1, 1024, max_segment_bytes=256 << 20, no_list_id=True)
DAIKO = CopyLimits(
    max_cscds=64,
    max_segments=64,
    max_list_bytes=16384,
    concurrent=8,
    no_list_id=True,
    segment_types=(0x02, 0x07),
    cscd_types=(0xE4, 0xE5, 0xE6, 0xEA),
    aliases=True,
)
TCMU = CopyLimits(2, 1, 1024, max_segment_bytes=16 << 20, no_list_id=True, only_no_list_id=True)
SCST = CopyLimits(5, 100, 4096, max_segment_bytes=256 << 20)


def second(name: str) -> Executor:
    return Executor(ExecutorKind.SECOND_CONTROLLER, name)


def naa(device: DeviceId) -> bytes:
    """A page 83h designator that no other device has: NAA 6, 16 bytes."""
    serial = device.backend.encode().hex().ljust(20, "0")[:20] + f"{device.lun:04x}"
    return bytes.fromhex("01030010" + "6001405" + "0" + serial)


T10 = bytes.fromhex("02010008") + b"LIO-ORG "


def address(
    device: DeviceId,
    *,
    block_size: int = 512,
    designators: tuple[bytes, ...] | None = None,
    iqn: str | None = None,
    portals: tuple[str, ...] | None = None,
    third_party_copy: bool = True,
) -> DeviceAddress:
    return DeviceAddress(
        device,
        block_size,
        (naa(device), T10) if designators is None else designators,
        f"iqn.2026-11.example:{device.backend}" if iqn is None else iqn,
        ("192.0.2.7:3260",) if portals is None else portals,
        device.lun,
        third_party_copy,
    )


def directory(*addresses: DeviceAddress) -> dict[DeviceId, DeviceAddress]:
    return {each.device: each for each in addresses}


def can(limits: CopyLimits | None, known: Known = Known.PROBED, at: float = 1.0) -> FunctionCell:
    return FunctionCell(True, known, at, "it says so", limits)


def cannot(reason: str, known: Known = Known.PROBED, at: float = 1.0) -> FunctionCell:
    return FunctionCell(False, known, at, reason)


def reaches(known: Known = Known.PROBED, at: float = 1.0) -> ReachCell:
    return ReachCell(True, known, at, "it took a verify segment")


def reaches_not(reason: str, known: Known = Known.PROBED, at: float = 1.0) -> ReachCell:
    return ReachCell(False, known, at, reason)


def table(
    functions: Mapping[str, FunctionCell], reach: Mapping[tuple[str, str], ReachCell] | None = None
) -> FunctionTable:
    """The same for every function."""
    return FunctionTable.of(
        [(name, function, cell) for name, cell in functions.items() for function in Function],
        [(backend, device, cell) for (backend, device), cell in (reach or {}).items()],
    )


def raw(device: DeviceId, blocks: int = 1000, block_size: int = 512) -> Place:
    return Place.of_device(address(device, block_size=block_size), blocks)
