"""How sessions to other machines are made in the running product."""

from __future__ import annotations

from collections.abc import Sequence

from daiko.backend.second_controller import SecondController
from daiko.copy_manager.other_machines import OtherController
from daiko.device.error import Unreachable
from daiko.initiator.discovery import discover
from daiko.initiator.portal import Portal
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.error import RemoteProtocolError
from daiko.state.record import SystemRecord
from daiko.state.store import Store

_IMPATIENT = InitiatorSettings(grace=5.0)
"""A host waits for its copy: a target that is gone is not waited for as long as an attached one."""


class Connections:
    """Connects and discovers under the initiator name of this system."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def connect(self, name: str, iqn: str, portal: str) -> OtherController:
        """A controller for a target behind a portal (HOST:PORT), not open yet."""
        return SecondController(name, iqn, (portal,), self._initiator_name, settings=_IMPATIENT)

    async def find_targets(self, portal: str) -> Sequence[str]:
        """iSCSI names of the targets that a portal offers. Raises Unreachable."""
        try:
            found = await discover(Portal.parse(portal), self._initiator_name)
        except RemoteProtocolError as error:
            raise Unreachable(f"{portal}: {error}") from error
        return [target.name for target in found]

    @property
    def _initiator_name(self) -> str:
        system = self._store.get(SystemRecord, "system")
        if system is None:
            raise Unreachable("this controller has no initiator name yet")
        return system.initiator_iqn
