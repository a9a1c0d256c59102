"""The management units of all sites, one for each."""

from __future__ import annotations

from daiko.control.inventory import Inventory
from daiko.control.offers import Offers, PairSeam
from daiko.state.record import SystemRecord
from daiko.state.store import Store
from daiko.target.commands.site import ManagementCommands
from daiko.target.logical_unit import LogicalUnit
from daiko.target.management_unit import management_unit


class ManagementUnits:
    """Made when a site is first published, kept until it is none any more."""

    def __init__(self, store: Store, inventory: Inventory) -> None:
        self._store = store
        self._inventory = inventory
        self.pairing = PairSeam()
        self._units: dict[str, tuple[LogicalUnit, ManagementCommands]] = {}

    def of(self, site: str) -> LogicalUnit:
        """The unit by which this site talks to us."""
        known = self._units.get(site)
        if known is None:
            record = self._store.get(SystemRecord, "system")
            assert record is not None
            offers = Offers(site, self._store, self._inventory, self.pairing)
            commands = ManagementCommands(offers)
            unit = management_unit(site, commands, record.identity, record.company_id)
            known = self._units[site] = (unit, commands)
        return known[0]

    def forget(self, site: str) -> None:
        """The site is none any more."""
        known = self._units.pop(site, None)
        if known is not None:
            known[1].stop()

    def stop(self) -> None:
        for site in list(self._units):
            self.forget(site)
