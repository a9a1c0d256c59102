"""Asks the logical units of a second controller how good the path to them is.

One question at a time goes on in the background; what was asked for meanwhile is asked once more,
and what was answered by an I_T nexus that has ended counts for nothing. The answer goes to the
sessions (`initiator/multipath.py`), which may move.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from daiko.backend.lu_facts import Asks, LuFacts, target_port_groups
from daiko.device.error import DeviceError
from daiko.initiator.multipath import Multipath
from daiko.initiator.path_choice import judge
from daiko.scsi.layout import MalformedData

log = structlog.get_logger(__name__)


class PathJudge:
    """The judge of the paths to one target. `in_use` gives the logical units that count, by LUN."""

    __slots__ = ("_again", "_asks", "_in_use", "_name", "_paths", "_task")

    def __init__(
        self,
        name: str,
        asks: Asks,
        paths: Multipath,
        in_use: Callable[[], Mapping[int, LuFacts]],
    ) -> None:
        self._name = name
        self._asks = asks
        self._paths = paths
        self._in_use = in_use
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def begin(self) -> None:
        """Look in the background whether there is a better path. Nothing is asked where there is
        one portal only."""
        if len(self._paths.portals) < 2:
            return
        self._again = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def settled(self) -> None:
        """Return when nothing is being asked."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def stop(self) -> None:
        """Ask nothing any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._again:
                self._again = False
                generation = self._paths.generation
                units = []
                for lun, facts in self._in_use().items():
                    own = facts.target_port_group
                    if own is not None:
                        units.append((own, await target_port_groups(self._asks, lun)))
                is_stale = self._again or self._paths.generation != generation
                if units and not is_stale:
                    self._paths.prefer_better(*judge(units))
        except (DeviceError, MalformedData) as error:
            log.warning("access states not known", backend=self._name, error=str(error))
        finally:
            self._task = None
