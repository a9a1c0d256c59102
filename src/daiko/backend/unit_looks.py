"""Looks at the logical units of a second controller that are in use: are they still what they were?

A unit that is another one now, or has shrunk, or is gone, is withdrawn: its requests complete with
Unreachable, and the controller's `on_lu_changed` is called. One that does not answer is looked at
again, after a pause that doubles. A unit whose medium is being formatted or sanitized says who it
is, but not how large: it is taken as it was, and looked at again later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import structlog

from daiko.backend.lu_facts import LuFacts, as_before, read_facts
from daiko.backend.remote_lu import RemoteLu
from daiko.device.error import Aborted, Busy, DeviceError, Unreachable
from daiko.initiator.multipath import Multipath
from daiko.scsi.layout import MalformedData
from daiko.scsi.report import lun_field

if TYPE_CHECKING:
    from daiko.backend.second_controller import SecondController

log = structlog.get_logger(__name__)

_PASSING: Final = (Unreachable, Aborted, Busy)
"""Errors that say nothing of what the unit is: it is looked at again."""
_LOOKS: Final = 3
"""How often a unit is asked anew at once."""
_LOOK_LONGEST: Final = 30.0
"""Seconds between two looks at a unit that does not answer, at most."""


class UnitLooks:
    """Of one second controller. `devices` are its units in use, by LUN; `looked` is called after
    each look."""

    def __init__(
        self,
        controller: SecondController,
        paths: Multipath,
        devices: Mapping[int, RemoteLu],
        looked: Callable[[], None],
    ) -> None:
        self._controller = controller
        self._paths = paths
        self._devices = devices
        self._looked = looked
        self.task: asyncio.Task[None] | None = None
        """The look that goes on; None while there is none."""
        self._again: set[int] = set()
        self._not_seen: dict[int, int] = {}
        """Units that did not answer when they were looked at -> how often in a row."""
        self._later: dict[int, asyncio.TimerHandle] = {}
        """When each of them is looked at again."""

    def learn(self, device: RemoteLu, facts: LuFacts) -> None:
        """Let the device of a unit be what the unit says of itself."""
        device.learn(facts)
        if facts.is_at_work:
            self._begin_later(device.lun)
        else:
            self._not_seen.pop(device.lun, None)

    async def stop(self) -> None:
        """Returns when nothing is looked at."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])

    def begin(self, numbers: set[int], *, release: bool) -> None:
        """Look at the units in use in the background; one look at a time."""
        self._again |= numbers
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self._run(release))

    async def _run(self, release: bool) -> None:
        try:
            while self._again:
                luns, self._again = self._again, set()
                # Side by side: one that does not answer keeps no other waiting for its turn.
                compared = (self._compare(lun) for lun in luns)
                for failure in await asyncio.gather(*compared, return_exceptions=True):
                    if failure is not None:
                        raise failure
        except Unreachable as error:
            # The session is gone, or is given up here: the next one is looked at again.
            log.warning("units not looked at", backend=self._controller.name, error=str(error))
            if release:
                self._paths.give_up_session(f"its logical units could not be looked at: {error}")
            return
        finally:
            if self.task is asyncio.current_task():
                self.task = None
        if release:
            # What waited for the session was meant for the units as they were.
            devices = self._devices.values()
            absent = {lun_field(each.lun): each.absence for each in devices if each.absence}
            self._paths.release(absent)
            if self._controller.on_session is not None:
                self._controller.on_session("")
        self._looked()

    async def _compare(self, lun: int) -> None:
        """Whether the unit is still the one it was. Raises Unreachable when the nexus ended."""
        device = self._devices[lun]
        session = self._paths.session
        known = self._controller.units.get(lun)
        reason = ""
        facts: LuFacts | None = None
        try:
            facts = as_before(await self._facts(lun), known, self._controller.sizes)
        except (DeviceError, MalformedData) as error:
            if session is None or self._paths.session is not session:
                raise Unreachable(str(error)) from error
            reason = f"it does not answer as before: {error}"
            if isinstance(error, _PASSING):
                self._begin_later(lun)
        if facts is not None and known is not None:
            reason = _difference(known, facts)
        changed = reason != device.absence
        if reason:
            device.withdraw(reason)
        elif facts is not None:
            changed = changed or facts != known
            self._controller.units[lun] = facts
            self.learn(device, facts)
        if changed:
            log.warning("logical unit changed", device=device.name, reason=reason)
            if self._controller.on_lu_changed is not None:
                self._controller.on_lu_changed(self._controller, lun, reason)

    async def _facts(self, lun: int) -> LuFacts:
        """What the unit says of itself; asked again at once where another host's reset, or a unit
        without room, came between. Raises DeviceError, MalformedData."""
        for _ in range(_LOOKS - 1):
            try:
                return await read_facts(self._controller, lun)
            except (Aborted, Busy):
                continue
        return await read_facts(self._controller, lun)

    def _begin_later(self, lun: int) -> None:
        """A unit that did not answer may do so later, and one whose medium is at work says then
        what it does not say now; nothing else would tell of it."""
        if lun in self._later:
            return
        tries = self._not_seen[lun] = self._not_seen.get(lun, 0) + 1
        pause = min(self._controller.settings.reconnect_first * 2**tries, _LOOK_LONGEST)
        loop = asyncio.get_running_loop()
        self._later[lun] = loop.call_later(pause, self._begin_now, lun)

    def _begin_now(self, lun: int) -> None:
        del self._later[lun]
        self.begin({lun}, release=False)

    def forget(self) -> None:
        """The nexus is gone: the next one is looked at as a whole."""
        if self.task is not None:
            self.task.cancel()
            self.task = None
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()


def _difference(known: LuFacts, now: LuFacts) -> str:
    """Why `now` is not the unit that `known` was; "" when it is."""
    if known.capacity is None:
        return ""
    if now.identity != known.identity and (now.is_disk or now.is_at_work):
        return "it shows another identity than before: it is another LU"
    if now.capacity is None:
        return "it is no disk that is ready any more"
    if now.capacity.block_size != known.capacity.block_size:
        return f"its blocks have {now.capacity.block_size} bytes now"
    if now.capacity.blocks < known.capacity.blocks:
        return f"it has shrunk from {known.capacity.blocks} to {now.capacity.blocks} blocks"
    return ""
