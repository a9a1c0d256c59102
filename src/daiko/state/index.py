"""Indexes over the records: what would be a walk over every volume or host is one look-up.

With 10,000 volumes of 100 extents each, a walk over all extents takes about a second, in which no
host is served. What these indexes hold is calculated once, when a controller starts, and follows
each commit (`store.py`, `Index`). A transaction works on a draft that shares what it does not
change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import compress
from operator import add
from typing import ClassVar, Final, NamedTuple, Self

from daiko.mapping.extent import DeviceId
from daiko.mapping.mapping_table import MappingTable
from daiko.mapping.range_set import RangeSet
from daiko.state.migration_record import MigrationRecord
from daiko.state.record import TERMINAL, HostRecord, JobRecord, Record, SiteRecord, VolumeRecord
from daiko.state.store import Change, Index

_MANY = 64
"""Ranges from which on merging them in one go is quicker than one after the other."""


class BlocksInUse(Index):
    """The blocks of each device that volumes lie on, or are moving to."""

    def __init__(self) -> None:
        self._used: dict[DeviceId, RangeSet] = {}
        self._shared: set[DeviceId] = set()
        """Devices whose set belongs to the index that this one is a draft of."""

    @property
    def by_device(self) -> Mapping[DeviceId, RangeSet]:
        """To be read only; a device on which no volume lies may be missing."""
        return self._used

    def draft(self) -> Self:
        draft = type(self)()
        draft._used = self._used.copy()
        draft._shared = set(self._used)
        return draft

    def follow(self, changes: Iterable[Change]) -> None:
        added: dict[DeviceId, list[tuple[int, int]]] = {}
        for change in changes:
            if change.type not in _LYING:
                continue
            before, after = _table(change.before), _table(change.after)
            if before is not None and before == after:
                continue
            if before is not None:
                # In the order of the changes: what one gives up another may take.
                self._add(added)
                added = {}
                for device, spans in _spans(before):
                    ranges = self._own(device)
                    for first, end in spans:
                        ranges.remove(first, end - first)
            if after is not None:
                for device, spans in _spans(after):
                    added.setdefault(device, []).extend(spans)
        self._add(added)

    def _add(self, added: dict[DeviceId, list[tuple[int, int]]]) -> None:
        for device, spans in added.items():
            ranges = self._own(device)
            if len(spans) > max(_MANY, len(ranges) // 8):
                ranges.merge(spans)
            else:
                for first, end in spans:
                    ranges.add(first, end - first)

    def _own(self, device: DeviceId) -> RangeSet:
        """The set of a device, to be changed."""
        ranges = self._used.get(device)
        if ranges is None or device in self._shared:
            ranges = self._used[device] = RangeSet() if ranges is None else ranges.copy()
            self._shared.discard(device)
        return ranges


class VolumesOf(Index):
    """Which volumes have an identity or lie on a back end."""

    def __init__(self) -> None:
        self._by_naa: dict[str, str] = {}
        self._on: dict[str, dict[str, None]] = {}

    def with_naa(self, naa: str) -> str | None:
        """The name of the volume with this identity."""
        return self._by_naa.get(naa)

    def on(self, backend: str) -> tuple[str, ...]:
        """The names, in order, of the volumes with blocks on a back end."""
        return tuple(sorted(self._on.get(backend, ())))

    def draft(self) -> Self:
        draft = type(self)()
        draft._by_naa = self._by_naa.copy()
        draft._on = {backend: names.copy() for backend, names in self._on.items()}
        return draft

    def follow(self, changes: Iterable[Change]) -> None:
        for change in changes:
            before, after = change.before, change.after
            if isinstance(before, VolumeRecord):
                self._by_naa.pop(before.naa, None)
                for backend in before.extents.backends:
                    self._on[backend].pop(before.name)
            if isinstance(after, VolumeRecord):
                self._by_naa[after.naa] = after.name
                for backend in after.extents.backends:
                    self._on.setdefault(backend, {})[after.name] = None


class EndedJobs(Index):
    """How many jobs have ended, and how many steps they have."""

    def __init__(self) -> None:
        self._there = {by_host: [0, 0] for by_host in (False, True)}

    def of(self, by_host: bool) -> tuple[int, int]:
        """(jobs, steps) of hosts, or of administrators."""
        jobs, steps = self._there[by_host]
        return jobs, steps

    def draft(self) -> Self:
        draft = type(self)()
        draft._there = {by_host: there.copy() for by_host, there in self._there.items()}
        return draft

    def follow(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.type is JobRecord:
                self._count(change.before, -1)
                self._count(change.after, 1)

    def _count(self, record: Record | None, by: int) -> None:
        if isinstance(record, JobRecord) and record.state in TERMINAL:
            there = self._there[record.by_host]
            there[0] += by
            there[1] += by * len(record.steps)


class Sight(NamedTuple):
    """A host, or another site, that sees a volume."""

    host: str
    """Its name."""
    lun: int


class SeenBy(Index):
    """Which hosts see a volume."""

    _seer: ClassVar[type[Record]] = HostRecord

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Sight, ...]] = {}

    def volume(self, name: str) -> tuple[Sight, ...]:
        """By name and LUN."""
        return self._seen.get(name, ())

    def draft(self) -> Self:
        draft = type(self)()
        draft._seen = self._seen.copy()
        return draft

    def follow(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.type is self._seer:
                before, after = _luns(change.before), _luns(change.after)
                for lun, volume in before.items() - after.items():
                    self._set(volume, set(self.volume(volume)) - {Sight(change.key, lun)})
                for lun, volume in after.items() - before.items():
                    self._set(volume, {*self.volume(volume), Sight(change.key, lun)})

    def _set(self, volume: str, sights: set[Sight]) -> None:
        if sights:
            self._seen[volume] = tuple(sorted(sights))
        else:
            del self._seen[volume]


class OfferedTo(SeenBy):
    """Which other sites a volume is offered to."""

    _seer = SiteRecord


_LYING: Final = (VolumeRecord, MigrationRecord)
"""Kinds of records that blocks of devices belong to. What passes from one to the other in a commit
has to be given up there before it is taken."""


def _table(record: object) -> MappingTable | None:
    """Of what belongs to a record."""
    if isinstance(record, MigrationRecord):
        return record.room.table if record.is_open else None
    return record.extents.table if isinstance(record, VolumeRecord) else None


def _luns(record: object) -> Mapping[int, str]:
    if isinstance(record, SiteRecord):
        return record.offered
    return record.luns if isinstance(record, HostRecord) else {}


def _spans(table: MappingTable) -> Iterable[tuple[DeviceId, list[tuple[int, int]]]]:
    """For each device the ranges (first block, one past the last) that a volume lies on."""
    devices, blocks, lbas, index = table.columns()
    spans = list(zip(lbas, map(add, lbas, blocks), strict=True))
    if len(devices) == 1:
        return [(devices[0], spans)]
    return [
        (device, list(compress(spans, map(number.__eq__, index))))
        for number, device in enumerate(devices)
    ]
