"""Where the target listens: the portals of the store's portal groups, opened and closed live.

What is opened can fail at the operating system's hands, so it comes before the store is changed
(`prepare`), and what is closed comes after it (`settle`): a change that cannot be made leaves every
portal as it was, and no session ends for it. The portals of a target port group that is offline do
not listen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from daiko.control.error import Invalid, Unavailable
from daiko.state.record import GroupState, PortalGroupRecord, TargetPortGroupRecord
from daiko.state.store import Store
from daiko.target.portal import Target


def reason_of(error: OSError) -> str:
    """What the operating system said, in its words: event loops put their own into errors."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


def wanted_portals(
    portal_groups: Iterable[PortalGroupRecord], port_groups: Iterable[TargetPortGroupRecord]
) -> dict[str, int]:
    """The portals that are to listen, each with the tag of its portal group."""
    offline = {group.number for group in port_groups if group.state is GroupState.OFFLINE}
    return {
        portal: group.tag
        for group in portal_groups
        if group.target_port_group not in offline
        for portal in group.portals
    }


class Listening:
    """The portals of a target as the store wants them. Nothing listens before `open`."""

    def __init__(self, store: Store, target: Target) -> None:
        self._store = store
        self._target = target
        self._bound: dict[str, str] = {}
        """Portal as the administrator wrote it -> as it is bound."""
        self._is_open = False

    async def open(self) -> None:
        """Listen from now on. Raises Unavailable where one portal cannot be listened on."""
        self._is_open = True
        await self.prepare(self._wanted())

    def is_listening(self, portal: str) -> bool:
        """Whether hosts can reach this portal, written as in the store."""
        return portal in self._bound

    def bound(self, portal: str) -> str:
        """The portal as it is bound; as it is written where it does not listen."""
        return self._bound.get(portal, portal)

    async def prepare(self, wanted: Mapping[str, int]) -> None:
        """Listen at those of these portals that do not listen yet. Raises Unavailable, Invalid,
        with none of them opened."""
        if not self._is_open:
            return
        opened: list[str] = []
        try:
            for portal, tag in wanted.items():
                if portal not in self._bound:
                    self._bound[portal] = await self._listen(portal, tag)
                    opened.append(portal)
        except BaseException:
            await self._close(opened)
            raise

    async def settle(self) -> None:
        """Make the portals those that the store has now: move those of another portal group, close
        those that are not wanted any more."""
        if not self._is_open:
            return
        wanted = self._wanted()
        for portal, tag in wanted.items():
            if portal in self._bound:
                self._target.move(self._bound[portal], tag)
        await self._close([portal for portal in self._bound if portal not in wanted])

    def _wanted(self) -> dict[str, int]:
        return wanted_portals(
            self._store.list(PortalGroupRecord), self._store.list(TargetPortGroupRecord)
        )

    async def _close(self, portals: Iterable[str]) -> None:
        for portal in portals:
            await self._target.unlisten(self._bound.pop(portal))

    async def _listen(self, portal: str, tag: int) -> str:
        try:
            return await self._target.listen(portal, tag)
        except ValueError as error:
            raise Invalid(str(error), "write it as HOST:PORT", field="portal") from error
        except OSError as error:
            raise Unavailable(
                f"cannot listen on {portal}: {reason_of(error)}",
                "stop what uses the address, or give another portal",
                field="portal",
            ) from error
