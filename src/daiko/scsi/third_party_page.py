"""Page 8Fh, third-party copy (SPC-4, 7.8.17): what a copy manager says it can do.

A list of descriptors in ascending type. Those that this product writes or acts on are values;
others are kept as they came.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from daiko.scsi.layout import Buffer, Layout, MalformedData, number
from daiko.scsi.vpd import PageCode, pack_page, page_body

BLOCK_ROD_LIMITS = 0x0000
SUPPORTED_COMMANDS = 0x0001
PARAMETER_DATA = 0x0004
SUPPORTED_DESCRIPTORS = 0x0008
SUPPORTED_CSCD_IDS = 0x000C
COPY_GROUP = 0x000D
GENERAL_OPERATIONS = 0x8001
STREAM_OPERATIONS = 0x9101
HELD_DATA = 0xC001

# Offsets below are from the start of the body, i.e. 4 less than from the descriptor's start.
_PARAMETER_DATA = Layout(
    "ParameterDataDescriptor",
    28,
    number("max_cscds", 4, 2),
    number("max_segments", 6, 2),
    number("max_list_bytes", 8, 4),
    number("max_inline_bytes", 12, 4),
)

_GENERAL = Layout(
    "GeneralOperationsDescriptor",
    32,
    number("total_concurrent", 0, 4),
    number("identified_concurrent", 4, 4),
    number("max_segment_bytes", 8, 4),
    number("data_granularity", 12, 1),
    number("inline_granularity", 13, 1),
)

_ROD_LIMITS = Layout(
    "BlockRodLimitsDescriptor",
    32,
    number("max_ranges", 6, 2),
    number("max_inactivity_timeout", 8, 4),
    number("default_inactivity_timeout", 12, 4),
    number("max_transfer", 16, 8),
    number("optimal_transfer", 24, 8),
)


@dataclass(frozen=True, slots=True)
class ParameterData:
    """0004h: limits of a parameter list."""

    max_cscds: int
    max_segments: int
    max_list_bytes: int
    """CSCD and segment descriptors together."""
    max_inline_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GeneralOperations:
    """8001h: limits of copying."""

    total_concurrent: int
    identified_concurrent: int
    max_segment_bytes: int = 0
    """0 = no limit said."""
    data_granularity: int = 0
    """Log2 of bytes."""
    inline_granularity: int = 0


@dataclass(frozen=True, slots=True)
class BlockRodLimits:
    """0000h: limits of POPULATE TOKEN and WRITE USING TOKEN, lengths in blocks, times in s."""

    max_ranges: int
    max_inactivity_timeout: int
    default_inactivity_timeout: int
    max_transfer: int
    optimal_transfer: int


@dataclass(frozen=True, slots=True)
class ThirdPartyCopyPage:
    """The page. A descriptor that is None is not there."""

    commands: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """0001h: operation codes with their service actions."""
    general: GeneralOperations | None = None
    parameter_data: ParameterData | None = None
    descriptor_types: tuple[int, ...] | None = None
    """0008h: segment (00h-BFh) and CSCD (C0h-FFh) descriptor types."""
    cscd_ids: tuple[int, ...] | None = None
    """000Ch: supported CSCD descriptor ids above 07FFh."""
    rod_limits: BlockRodLimits | None = None
    others: tuple[tuple[int, bytes], ...] = ()
    """(type, body) of descriptors that have no value here."""

    def supports(self, opcode: int, service_action: int) -> bool:
        """Is this command among the supported ones?"""
        return any(code == opcode and service_action in actions for code, actions in self.commands)

    def pack(self, *, peripheral: int = 0) -> bytes:
        """The whole page."""
        bodies = dict(self.others)
        commands = b"".join(
            [bytes((code, len(actions), *actions)) for code, actions in self.commands]
        )
        bodies[SUPPORTED_COMMANDS] = bytes((len(commands),)) + commands
        if self.general is not None:
            bodies[GENERAL_OPERATIONS] = _pack_value(_GENERAL, self.general)
        if self.parameter_data is not None:
            bodies[PARAMETER_DATA] = _pack_value(_PARAMETER_DATA, self.parameter_data)
        if self.descriptor_types is not None:
            types = bytes(sorted(self.descriptor_types))
            bodies[SUPPORTED_DESCRIPTORS] = bytes((len(types),)) + types
        if self.cscd_ids is not None:
            ids = b"".join([cscd_id.to_bytes(2, "big") for cscd_id in sorted(self.cscd_ids)])
            bodies[SUPPORTED_CSCD_IDS] = len(ids).to_bytes(2, "big") + ids
        if self.rod_limits is not None:
            bodies[BLOCK_ROD_LIMITS] = _pack_value(_ROD_LIMITS, self.rod_limits)
        parts = []
        for kind, body in sorted(bodies.items()):
            padded = body + bytes(-len(body) % 4)
            parts.append(kind.to_bytes(2, "big") + len(padded).to_bytes(2, "big") + padded)
        return pack_page(PageCode.THIRD_PARTY_COPY, b"".join(parts), peripheral=peripheral)

    @classmethod
    def parse(cls, data: Buffer) -> ThirdPartyCopyPage:
        """Read the page; raises MalformedData."""
        body = page_body(PageCode.THIRD_PARTY_COPY, data)
        found: dict[str, Any] = {}
        others: list[tuple[int, bytes]] = []
        at = 0
        while at < len(body):
            end = at + 4 + int.from_bytes(body[at + 2 : at + 4], "big")
            if at + 4 > len(body) or end > len(body):
                raise MalformedData(f"third-party copy descriptor at byte {at + 4} is cut short")
            kind, inner = int.from_bytes(body[at : at + 2], "big"), body[at + 4 : end]
            if kind in _READERS:
                name, read = _READERS[kind]
                found[name] = read(inner)
            else:
                others.append((kind, inner))
            at = end
        return cls(**found, others=tuple(others))


def _pack_value(layout: Layout, value: Any) -> bytes:
    return layout.pack(**{item.name: getattr(value, item.name) for item in layout.fields})


def _read_commands(body: bytes) -> tuple[tuple[int, tuple[int, ...]], ...]:
    listed = _counted(body, 1)
    commands, at = [], 0
    while at < len(listed):
        if at + 2 > len(listed) or at + 2 + listed[at + 1] > len(listed):
            raise MalformedData("supported commands: the last entry is cut short")
        end = at + 2 + listed[at + 1]
        commands.append((listed[at], tuple(listed[at + 2 : end])))
        at = end
    return tuple(commands)


def _read_types(body: bytes) -> tuple[int, ...]:
    return tuple(_counted(body, 1))


def _read_ids(body: bytes) -> tuple[int, ...]:
    listed = _counted(body, 2)
    if len(listed) % 2:
        raise MalformedData("supported CSCD ids: odd length")
    return tuple([int.from_bytes(listed[at : at + 2], "big") for at in range(0, len(listed), 2)])


def _counted(body: bytes, size: int) -> bytes:
    """What lies behind a length of `size` bytes."""
    length = int.from_bytes(body[:size], "big")
    if len(body) < size + length:
        raise MalformedData(f"a list of {length} bytes in {len(body)}")
    return body[size : size + length]


_READERS: dict[int, tuple[str, Callable[[bytes], Any]]] = {
    SUPPORTED_COMMANDS: ("commands", _read_commands),
    SUPPORTED_DESCRIPTORS: ("descriptor_types", _read_types),
    SUPPORTED_CSCD_IDS: ("cscd_ids", _read_ids),
    PARAMETER_DATA: ("parameter_data", lambda body: ParameterData(*_PARAMETER_DATA.unpack(body))),
    GENERAL_OPERATIONS: ("general", lambda body: GeneralOperations(*_GENERAL.unpack(body))),
    BLOCK_ROD_LIMITS: ("rod_limits", lambda body: BlockRodLimits(*_ROD_LIMITS.unpack(body))),
}
