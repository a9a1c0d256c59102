"""Analysis: from a command to its row, and from the row to what it means [0044].

The look-up is an index into a tuple of 256 places; where an opcode has service actions the place
holds a second table. A command whose row has a function goes on to `decision.py`; every other is
plain I/O or answered by the controller itself.
"""

from __future__ import annotations

from daiko.command_control.command_table import ROWS, CommandRow

Place = CommandRow | dict[int, CommandRow] | None
"""What an opcode leads to: its row, its rows by service action, or nothing."""


def _places(rows: tuple[CommandRow, ...]) -> tuple[Place, ...]:
    places: list[Place] = [None] * 256
    for row in rows:
        if row.service_action is None:
            if places[row.opcode] is not None:
                raise ValueError(f"two rows for opcode {row.opcode:02X}h")
            places[row.opcode] = row
            continue
        by_service_action = places[row.opcode]
        if by_service_action is None:
            by_service_action = places[row.opcode] = {}
        if not isinstance(by_service_action, dict) or row.service_action in by_service_action:
            raise ValueError(f"two rows for opcode {row.opcode:02X}h, {row.name}")
        by_service_action[row.service_action] = row
    return tuple(places)


BY_OPCODE = _places(ROWS)

SERVICE_ACTION = 0x1F
"""Bits of byte 1 that hold the service action."""


def analyse(cdb: bytes) -> CommandRow | None:
    """The row of a command, or None where this product has no such command."""
    place = BY_OPCODE[cdb[0]]
    if isinstance(place, dict):
        return place.get(cdb[1] & SERVICE_ACTION)
    return place


def has_opcode(opcode: int) -> bool:
    """Is there any command with this opcode? (An unknown service action of a known opcode is an
    invalid field, not an invalid opcode.)"""
    return BY_OPCODE[opcode] is not None


def asks_for_function(cdb: bytes) -> bool:
    """Does the command ask for something that a second controller may do in our place?"""
    row = analyse(cdb)
    return row is not None and row.function is not None
