"""The part of an application of a document that happens in one transaction."""

from __future__ import annotations

import time
from collections.abc import Sequence

from daiko.command_control.function_table import FunctionCell, Known, ReachCell
from daiko.control import chap, portal_groups, sites, volumes
from daiko.control.action import Action, Verb, names_of
from daiko.control.document import Document, VolumePart, parse_size
from daiko.control.error import Invalid
from daiko.control.system import System, put_host
from daiko.state.record import (
    BackendRecord,
    CredentialRecord,
    ExtentRecord,
    FunctionRecord,
    HostRecord,
    PortalGroupRecord,
    ReachRecord,
    Record,
    SiteRecord,
    TargetPortGroupRecord,
    VolumeRecord,
)
from daiko.state.store import Transaction


class Applying:
    """The part of an application that happens in one transaction."""

    def __init__(
        self, system: System, document: Document, change: Transaction, actions: tuple[Action, ...]
    ) -> None:
        self._system = system
        self._document = document
        self._change = change
        self._actions = actions

    def run(self) -> None:
        change = self._change
        self._put_portal_groups()
        for name in names_of(self._actions, "host", Verb.REMOVE):
            change.delete(HostRecord, name)
            change.delete(CredentialRecord, chap.host(name))
        self._withdraw()
        self._put_chap()
        # What hosts no longer see may go; what they will see must be there before they do.
        kept = {name: host.luns for name, host in self._document.host.items()}
        for host in change.list(HostRecord):
            if host.name in kept:
                luns = {n: v for n, v in host.luns.items() if kept[host.name].get(n) == v}
                change.put(host.model_copy(update={"luns": luns}))
        for name in names_of(self._actions, "volume", Verb.REMOVE):
            record = change.get(VolumeRecord, name)
            assert record is not None
            volumes.delete(change, record)
        for name in names_of(self._actions, "volume", Verb.CHANGE):
            record = change.get(VolumeRecord, name)
            assert record is not None
            said = self._document.volume[name]
            access = record.access if said.access is None else said.access
            changed = record.model_copy(update={"mode": said.mode, "access": access})
            change.put(changed)
            self._grow_volume(changed, said)
        for name in names_of(self._actions, "volume", Verb.ADD):
            self._add_volume(name, self._document.volume[name])
        for name, wanted in self._document.host.items():
            put_host(change, wanted.record(name))
        self._put_sites()
        portal_groups.check(change.list(PortalGroupRecord), change.list(HostRecord))
        self._put_cells()

    def _withdraw(self) -> None:
        """Take from sites what the document does not offer them, before volumes go."""
        change = self._change
        for site in change.list(SiteRecord):
            said = self._document.site.get(site.name)
            if said is not None and said.offered is not None:
                wanted = said.offered
                left = {n: v for n, v in site.offered.items() if wanted.get(n) == v}
                change.put(site.model_copy(update={"offered": left}))
        for name in names_of(self._actions, "site", Verb.REMOVE):
            sites.delete(change, name)

    def _put_sites(self) -> None:
        own_iqn = self._system.record.iqn
        for name, said in self._document.site.items():
            record = said.record(name)
            there = self._change.get(SiteRecord, name)
            if there is not None:
                offered = there.offered if said.offered is None else said.offered
                kept = {"identity": there.identity, "offered": offered}
                record = record.model_copy(update=kept)
            sites.put(self._change, record, own_iqn=own_iqn)

    def _put_chap(self) -> None:
        """The secrets that are there stay; where there is none yet, nobody gets in."""
        parts = {chap.host(name): host.chap for name, host in self._document.host.items()}
        for name, site in self._document.site.items():
            parts |= {chap.site(name): site.chap, chap.peer(name): site.peer_chap}
        parts[chap.DISCOVERY] = self._document.system.discovery_chap
        for owner, part in parts.items():
            if part is None:
                continue
            known = self._change.get(CredentialRecord, owner)
            record = known or CredentialRecord(owner=owner, user=part.user)
            changes = {"user": part.user, "mutual_user": part.mutual_user}
            if not part.mutual_user:
                changes["mutual_secret"] = ""
            self._change.put(record.model_copy(update=changes))

    def _put_portal_groups(self) -> None:
        change, document = self._change, self._document
        for tag, group in document.portal_group.items():
            change.put(group.record(tag))
        for number, said in document.target_port_group.items():
            change.put(said.record(number))
        for gone in names_of(self._actions, "portal_group", Verb.REMOVE):
            change.delete(PortalGroupRecord, f"{int(gone):05d}")
        for gone in names_of(self._actions, "target_port_group", Verb.REMOVE):
            change.delete(TargetPortGroupRecord, f"{int(gone):05d}")
        portal_groups.drop_unused(change)

    def _grow_volume(self, record: VolumeRecord, said: VolumePart) -> None:
        """Let a volume have what its document says more than it has."""
        if said.extents and said.extents != record.extents:
            volumes.put_extended(self._change, record, said.extents)
        elif said.source:
            blocks = -(-parse_size(said.size) // record.block_size)
            candidates = [volumes.parse_device(text) for text in said.source]
            volumes.put_grown(self._change, record, blocks, candidates)

    def _add_volume(self, name: str, volume: VolumePart) -> None:
        volumes.put_new(
            self._change,
            name,
            self._extents(volume),
            naa=volume.naa or volumes.new_naa(self._system.record.company_id),
            mode=volume.mode,
            image=bool(volume.image),
            access=volume.access or {},
        )

    def _extents(self, volume: VolumePart) -> Sequence[ExtentRecord]:
        if volume.extents:
            return volume.extents
        if volume.source:
            candidates = [volumes.parse_device(text) for text in volume.source]
            return volumes.find_room(self._change, parse_size(volume.size), candidates)
        devices = [volume.image] if volume.image else list(volume.devices)
        return volumes.whole(self._change, [volumes.parse_device(text) for text in devices])

    def _put_cells(self) -> None:
        for action in self._actions:
            if action.verb is Verb.REMOVE and action.kind in ("function", "reach"):
                kind: type[Record] = FunctionRecord if action.kind == "function" else ReachRecord
                self._change.delete(kind, f"{action.name}:hand")
        backends = {record.name for record in self._change.list(BackendRecord)}
        for cell in self._document.function:
            _must_exist(cell.backend, backends, "function")
            found = FunctionCell(cell.can, Known.DECLARED, time.time(), cell.reason, cell.limits)
            record = FunctionRecord(backend=cell.backend, function=cell.function, cell=found)
            there = self._change.get(FunctionRecord, record.key)
            if there is None or (there.cell.can, there.cell.reason, there.cell.limits) != (
                cell.can,
                cell.reason,
                cell.limits,
            ):
                self._change.put(record)
        for reach in self._document.reach:
            _must_exist(reach.backend, backends, "reach")
            reached = ReachCell(reach.can, Known.DECLARED, time.time(), reach.reason)
            column = ReachRecord(backend=reach.backend, device=reach.device, cell=reached)
            known = self._change.get(ReachRecord, column.key)
            if known is None or (known.cell.can, known.cell.reason) != (reach.can, reach.reason):
                self._change.put(column)


def _must_exist(backend: str, backends: set[str], field: str) -> None:
    if backend not in backends:
        raise Invalid(
            f"a {field} cell names the back end {backend}, which is not there", field=field
        )
