"""What failures teach the function table.

Only what is certain is learned: that a controller has no such command at all, or says itself that
it does not reach a device. The cell stands until the controller is probed again or set by hand;
a cell set by hand is never overruled by a learned one (`FunctionTable.of`).
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from daiko.command_control.function_table import FunctionCell, Known, ReachCell
from daiko.command_control.plan import Function
from daiko.copy_manager.failure import Failure, Lesson
from daiko.mapping.extent import DeviceId
from daiko.state.record import FunctionRecord, ReachRecord
from daiko.state.store import Store

log = structlog.get_logger(__name__)


class Learning:
    """Writes learned cells into the store; the live function table follows the store."""

    def __init__(self, store: Store, wall_clock: Callable[[], float]) -> None:
        self._store = store
        self._wall_clock = wall_clock

    async def learn(
        self, backend: str, function: Function, other: DeviceId, failure: Failure
    ) -> None:
        """`backend` failed at `function` with the device `other` on the far side."""
        now = self._wall_clock()
        match failure.lesson:
            case Lesson.NOTHING:
                return
            case Lesson.CANNOT_COPY:
                cell = FunctionCell(False, Known.LEARNED, now, failure.reason)
                await self._store.put(FunctionRecord(backend=backend, function=function, cell=cell))
            case Lesson.CANNOT_REACH:
                if other.backend == backend:
                    return  # its own LU: a passing trouble, no fact about its reach
                reach = ReachCell(False, Known.LEARNED, now, failure.reason)
                await self._store.put(ReachRecord(backend=backend, device=str(other), cell=reach))
        log.info("function table learned", backend=backend, lesson=str(failure.lesson))
