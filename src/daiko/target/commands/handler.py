"""What a handler is, and the mark that joins it to the rows of the command table it serves.

A handler begins a command and returns at once; the command ends with `itl.finish`, inline or
later. It may raise `CheckCondition` before it returns; what it does later, in callbacks, it wraps
in `LogicalUnit.receive` or reports with `itl.refuse` and `LogicalUnit.fail`. Rows with a range of
blocks have it decoded and checked before their handler is called, with byte 1 of the CDB, the LBA
and the number of blocks as further arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from daiko.command_control.command_table import BY_NAME

Handler = Callable[..., None]
"""(unit, itl, task), or (unit, itl, task, flags, lba, blocks) as the row's `addresses` says."""

HANDLERS: dict[str, Handler] = {}
"""Name of the row -> its handler."""

H = TypeVar("H", bound=Callable[..., Any])


def serves(*names: str) -> Callable[[H], H]:
    """Mark a handler with the rows it serves. Raises ValueError for a row that is not in the
    table or has a handler already."""

    def mark(handler: H) -> H:
        for name in names:
            if name not in BY_NAME or name in HANDLERS:
                raise ValueError(f"{name}: no such row in the command table, or served already")
            HANDLERS[name] = handler
        return handler

    return mark
