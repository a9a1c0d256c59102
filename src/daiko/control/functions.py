"""The function table: what each second controller can do and reach, how that is known, and the
administrator's own word, which always wins [0017, 0082]."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daiko.command_control.function_table import CopyLimits, FunctionCell, Known, ReachCell
from daiko.command_control.plan import Function
from daiko.control import names
from daiko.control.error import Invalid, NotFound
from daiko.state.record import BackendKind, BackendRecord, FunctionRecord, ReachRecord

if TYPE_CHECKING:
    from daiko.control.system import System


@dataclass(frozen=True, slots=True)
class FunctionRow:
    """One function of one back end: the cell that holds, and the one that it hides."""

    backend: str
    function: Function
    cell: FunctionCell | None
    """None: nothing is known, so nothing is delegated."""
    hidden: FunctionCell | None
    """What was found, where a cell set by hand holds."""


@dataclass(frozen=True, slots=True)
class ReachRow:
    """One device, or all of a back end's, as one back end reaches it."""

    backend: str
    device: str
    """BACKEND/LUN, or BACKEND for all of its LUs."""
    cell: ReachCell
    hidden: ReachCell | None


def ls(system: System) -> list[FunctionRow]:
    """Every function of every second controller."""
    rows: list[FunctionRow] = []
    cells: dict[tuple[str, Function], dict[bool, FunctionCell]] = {}
    for record in system.store.list(FunctionRecord):
        by_origin = cells.setdefault((record.backend, record.function), {})
        by_origin[record.cell.known is Known.DECLARED] = record.cell
    for backend in system.store.list(BackendRecord):
        if backend.type is BackendKind.INTERNAL:
            continue
        for function in Function:
            known = cells.get((backend.name, function), {})
            hand, found = known.get(True), known.get(False)
            rows.append(FunctionRow(backend.name, function, hand or found, found if hand else None))
    return rows


def show(system: System, backend: str) -> tuple[list[FunctionRow], list[ReachRow]]:
    """The functions of one back end and what it reaches. Raises NotFound."""
    names.backend_of(system, backend)
    return (
        [row for row in ls(system) if row.backend == backend],
        [row for row in reach(system) if row.backend == backend],
    )


def reach(system: System) -> list[ReachRow]:
    """The reachability column: every cell that is known."""
    cells: dict[tuple[str, str], dict[bool, ReachCell]] = {}
    for record in system.store.list(ReachRecord):
        by_origin = cells.setdefault((record.backend, record.device), {})
        by_origin[record.cell.known is Known.DECLARED] = record.cell
    return [
        ReachRow(
            backend,
            device,
            known[True] if True in known else known[False],
            known.get(False) if True in known else None,
        )
        for (backend, device), known in sorted(cells.items())
    ]


async def declare(
    system: System,
    backend: str,
    function: str,
    can: bool,
    *,
    reason: str = "",
    limits: CopyLimits | None = None,
) -> FunctionRow:
    """Set a cell by hand; it wins over whatever was or will be found. Raises NotFound, Invalid."""
    async with system.changing:
        _second_controller(system, backend)
        which = _function(function)
        found = system.store.get(FunctionRecord, f"{backend}:{which}:found")
        if limits is None and can and found is not None:
            limits = found.cell.limits
        cell = FunctionCell(
            can,
            Known.DECLARED,
            time.time(),
            reason or f"the administrator says that it {'can' if can else 'cannot'}",
            limits,
        )
        await system.put_cell(FunctionRecord(backend=backend, function=which, cell=cell))
    return next(r for r in ls(system) if (r.backend, r.function) == (backend, which))


async def undeclare(system: System, backend: str, function: str) -> FunctionRow:
    """Take the cell set by hand back, so that what was found holds again. Raises NotFound."""
    async with system.changing:
        names.backend_of(system, backend)
        which = _function(function)
        key = f"{backend}:{which}:hand"
        if system.store.get(FunctionRecord, key) is None:
            raise NotFound(f"{which} of {backend!r} was not set by hand", "see `daiko function ls`")
        await system.remove_cell(FunctionRecord, key)
    return next(r for r in ls(system) if (r.backend, r.function) == (backend, which))


async def declare_reach(
    system: System, backend: str, device: str, can: bool, *, reason: str = ""
) -> ReachRow:
    """Set by hand whether a back end reaches a device (BACKEND/LUN) or all of a back end's
    (BACKEND). Raises NotFound, Invalid."""
    async with system.changing:
        _second_controller(system, backend)
        target = _device(system, device)
        said = "reaches it" if can else "does not reach it"
        cell = ReachCell(
            can, Known.DECLARED, time.time(), reason or f"the administrator says that it {said}"
        )
        await system.put_cell(ReachRecord(backend=backend, device=target, cell=cell))
    return next(r for r in reach(system) if (r.backend, r.device) == (backend, target))


async def undeclare_reach(system: System, backend: str, device: str) -> None:
    """Take a reachability cell set by hand back. Raises NotFound."""
    async with system.changing:
        names.backend_of(system, backend)
        key = f"{backend}:{device}:hand"
        if system.store.get(ReachRecord, key) is None:
            raise NotFound(
                f"whether {backend!r} reaches {device!r} was not set by hand",
                "see `daiko function reach`",
            )
        await system.remove_cell(ReachRecord, key)


async def probe(system: System, backend: str) -> tuple[list[FunctionRow], list[ReachRow]]:
    """Ask a second controller again what it can do and reach. Raises NotFound, Unavailable."""
    async with system.changing:
        _second_controller(system, backend)
        await system.probe_backend(backend)
    return show(system, backend)


async def probe_reach(system: System, backend: str, device: str) -> ReachRow:
    """Ask whether a second controller reaches one device. Raises NotFound, Unavailable."""
    async with system.changing:
        _second_controller(system, backend)
        target = names.one_device(system, device)
        await system.probe_reach(backend, target)
    return next(r for r in reach(system) if (r.backend, r.device) == (backend, str(target)))


def _second_controller(system: System, name: str) -> None:
    if names.backend_of(system, name).type is BackendKind.INTERNAL:
        raise Invalid(
            f"{name!r} is a disk of this controller and has no functions of its own",
            "functions belong to second controllers (iscsi://…)",
            field="backend",
        )


def _function(text: str) -> Function:
    try:
        return Function(text)
    except ValueError:
        raise NotFound(
            f"no function is called {text!r}", f"the functions are {', '.join(Function)}"
        ) from None


def _device(system: System, text: str) -> str:
    """BACKEND or BACKEND/LUN, if there is such a thing; or SITE:BACKEND or SITE:BACKEND/LUN of
    another site, whose devices only that one knows."""
    site, colon, there = text.partition(":")
    if colon:
        names.site_of(system, site)
        names.name(there.partition("/")[0], "device")
        if "/" in there:
            names.device(text)
        return text
    if "/" not in text:
        return names.backend_of(system, text).name
    return str(names.one_device(system, text))
