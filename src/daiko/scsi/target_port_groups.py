"""Parameter data of REPORT and SET TARGET PORT GROUPS (SPC-4, 6.37 and 6.45).

A logical unit is reached through target ports, and each of them is in one target port group. The
group's asymmetric access state says what can be done through its ports (SPC-4, 5.16.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from daiko.scsi.layout import Buffer, Layout, MalformedData, bit, bits, number


class AccessState(IntEnum):
    """Asymmetric access states (SPC-4, 5.16.2.4 ff.)."""

    ACTIVE_OPTIMIZED = 0x0
    ACTIVE_NON_OPTIMIZED = 0x1
    STANDBY = 0x2
    UNAVAILABLE = 0x3
    OFFLINE = 0xE
    TRANSITIONING = 0xF

    @property
    def is_active(self) -> bool:
        """Whether blocks can be read and written."""
        return self <= AccessState.ACTIVE_NON_OPTIMIZED


SETTABLE = frozenset(
    {
        AccessState.ACTIVE_OPTIMIZED,
        AccessState.ACTIVE_NON_OPTIMIZED,
        AccessState.STANDBY,
        AccessState.UNAVAILABLE,
    }
)
"""The primary states: those that SET TARGET PORT GROUPS can ask for a group."""


class StatusCode(IntEnum):
    """Why a group is in its state."""

    NOTHING = 0
    EXPLICIT = 1
    """Altered by SET TARGET PORT GROUPS."""
    IMPLICIT = 2
    """Altered by the target."""


_GROUP = Layout(
    "TargetPortGroupDescriptor",
    8,
    bit("pref", 0, 7),
    bits("state", 0, 3, 0),
    bit("t_sup", 1, 7),
    bit("o_sup", 1, 6),
    bit("u_sup", 1, 3),
    bit("s_sup", 1, 2),
    bit("an_sup", 1, 1),
    bit("ao_sup", 1, 0),
    number("group", 2, 2),
    number("status_code", 5, 1),
    number("port_count", 7, 1),
)

_SUPPORT_BITS = {
    "ao_sup": AccessState.ACTIVE_OPTIMIZED,
    "an_sup": AccessState.ACTIVE_NON_OPTIMIZED,
    "s_sup": AccessState.STANDBY,
    "u_sup": AccessState.UNAVAILABLE,
    "o_sup": AccessState.OFFLINE,
    "t_sup": AccessState.TRANSITIONING,
}

_EXTENDED = 0x10
"""RETURN DATA FORMAT 001b, in byte 4."""
_FORMAT = 0x70


@dataclass(frozen=True, slots=True)
class TargetPortGroup:
    """One target port group descriptor."""

    group: int
    ports: tuple[int, ...]
    """Relative target ports."""
    state: int = AccessState.ACTIVE_OPTIMIZED
    supported: frozenset[int] = frozenset({AccessState.ACTIVE_OPTIMIZED})
    preferred: bool = False
    status_code: int = 0


def pack_target_port_groups(
    groups: Sequence[TargetPortGroup], *, extended_header: bool = False, transition_seconds: int = 0
) -> bytes:
    """Parameter data; `extended_header` for PARAMETER DATA FORMAT 001b, which also tells how many
    seconds an implicit transition takes at most (0 = nothing said; at most 255)."""
    body = bytes((_EXTENDED, transition_seconds, 0, 0)) if extended_header else b""
    for group in groups:
        supported = {name: state in group.supported for name, state in _SUPPORT_BITS.items()}
        body += _GROUP.pack(
            pref=group.preferred,
            state=group.state,
            group=group.group,
            status_code=group.status_code,
            port_count=len(group.ports),
            **supported,
        )
        body += b"".join([port.to_bytes(4, "big") for port in group.ports])
    return len(body).to_bytes(4, "big") + body


def parse_target_port_groups(
    data: Buffer, *, extended_header: bool = False
) -> tuple[TargetPortGroup, ...]:
    """Read an answer; raises MalformedData when it is cut short. With `extended_header`, that is
    what was asked for; a target that does not know it answers without, and is understood."""
    end = 4 + int.from_bytes(data[:4], "big")
    if len(data) < max(4, end):
        raise MalformedData(f"target port groups: {end} bytes, {len(data)} present")
    found, at = [], 4
    if extended_header and end > 4 and data[4] & _FORMAT == _EXTENDED:
        at = 8
    while at < end:
        if end - at < _GROUP.length:
            raise MalformedData("target port groups: the last group is cut short")
        fields = _GROUP.unpack(data, at)
        start = at + _GROUP.length
        at = start + 4 * fields.port_count
        if at > end:
            raise MalformedData(f"target port groups: group {fields.group} is cut short")
        ports = [int.from_bytes(data[port + 2 : port + 4], "big") for port in range(start, at, 4)]
        supported = {state for name, state in _SUPPORT_BITS.items() if getattr(fields, name)}
        found.append(
            TargetPortGroup(
                fields.group,
                tuple(ports),
                fields.state,
                frozenset(supported),
                bool(fields.pref),
                fields.status_code,
            )
        )
    return tuple(found)


# --- SET TARGET PORT GROUPS (SPC-4, 6.45) --------------------------------------------------------

_SET = Layout(
    "SetTargetPortGroupDescriptor",
    4,
    bits("state", 0, 3, 0),
    number("group", 2, 2),
)

HEADER_LENGTH = 4
"""Bytes of the parameter list before the first descriptor, all reserved."""
DESCRIPTOR_LENGTH = _SET.length


@dataclass(frozen=True, slots=True)
class SetTargetPortGroup:
    """One set target port group descriptor."""

    state: int
    group: int
    """A target port group; for the state offline, a relative target port."""


def pack_set_target_port_groups(wanted: Sequence[SetTargetPortGroup]) -> bytes:
    """The parameter list."""
    return bytes(HEADER_LENGTH) + b"".join(
        [_SET.pack(state=each.state, group=each.group) for each in wanted]
    )


def parse_set_target_port_groups(data: Buffer) -> tuple[SetTargetPortGroup, ...]:
    """Read a parameter list; raises MalformedData where it does not end with a descriptor."""
    if len(data) < HEADER_LENGTH or (len(data) - HEADER_LENGTH) % DESCRIPTOR_LENGTH:
        raise MalformedData(f"set target port groups: {len(data)} bytes")
    fields = [_SET.unpack(data, at) for at in range(HEADER_LENGTH, len(data), DESCRIPTOR_LENGTH)]
    return tuple(SetTargetPortGroup(each.state, each.group) for each in fields)
