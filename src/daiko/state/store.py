"""The store: the one truth about this controller (design 8).

All configuration and all state that outlives the process are records (`record.py`) in a store.
SQLite is one store (`sqlite.py`); the interface is made so that a store shared by several
controllers can be another.

Reads are answered from a mirror in memory, without waiting and without copying: records are
frozen values. Writes go through a transaction:

    async with store.transaction() as change:
        volume = change.get(VolumeRecord, "alpha")
        ...checks...
        change.put(volume.model_copy(update={"mode": Mode.DIRECT}))

Transactions run one after the other, so what was checked inside one still holds when it commits;
the body must therefore not wait for anything slow. Leaving the body commits, on stable storage
before `transaction` returns and off the event loop; leaving it by an exception drops everything.
Watchers then hear of the changes, on the event loop, in the order of the commits: the live
controller follows its store, never the other way round.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, Self, TypeVar

from daiko.state.record import Record

R = TypeVar("R", bound=Record)
Ix = TypeVar("Ix", bound="Index")


class StoreError(Exception):
    """The store cannot be opened, read or written; the message is for the administrator."""


class StoreInUse(StoreError):
    """Another process works on the store."""


class StoreTooNew(StoreError):
    """The store was written by a later release with another schema."""


class StoreDamaged(StoreError):
    """The store holds something that is no record of this release."""


class Change(NamedTuple):
    """What a commit did to one record."""

    type: type[Record]
    key: str
    before: Record | None
    """None: the record is new."""
    after: Record | None
    """None: the record was deleted."""


Watcher = Callable[[Sequence[Change]], None]
"""Hears of each commit; called on the event loop after the mirror was changed."""

Mirror = dict[type[Record], dict[str, Record]]


class Index(ABC):
    """Something that can be calculated from the records, and is kept in step with them instead:
    what would otherwise be a walk over all of them. `state/index.py` has those that there are.
    Made empty; the records that there are come as changes."""

    @abstractmethod
    def follow(self, changes: Iterable[Change]) -> None:
        """Take these changes in."""

    @abstractmethod
    def draft(self) -> Self:
        """A copy for a transaction, which may follow changes without this one noticing. Cheap:
        what is not changed is shared."""


class Transaction:
    """Changes that become true together, or not at all. Reads see the changes made so far."""

    def __init__(
        self, mirror: Mirror, numbers: Mapping[str, int], indexes: dict[type[Index], Index]
    ) -> None:
        self._mirror = mirror
        self._indexes = indexes
        self._drafts: dict[type[Index], Index] = {}
        self._numbers = dict(numbers)
        self._pending: dict[tuple[type[Record], str], Record | None] = {}

    def get(self, kind: type[R], key: str) -> R | None:
        """The record, or None where there is none."""
        if (kind, key) in self._pending:
            record = self._pending[kind, key]
        else:
            record = self._mirror.get(kind, {}).get(key)
        assert record is None or isinstance(record, kind)
        return record

    def list(self, kind: type[R]) -> tuple[R, ...]:
        """All records of a kind in the order of their keys."""
        found: dict[str, Record | None] = dict(self._mirror.get(kind, {}))
        found.update({key: record for (k, key), record in self._pending.items() if k is kind})
        return tuple(record for _, record in sorted(found.items()) if isinstance(record, kind))

    def put(self, record: Record) -> None:
        """Make `record` the record of its key, new or instead of the one that was there."""
        self._set(type(record), record.key, record)

    def delete(self, kind: type[Record], key: str) -> None:
        """Take the record away; nothing happens where there is none."""
        self._set(kind, key, None)

    def _set(self, kind: type[Record], key: str, after: Record | None) -> None:
        if self._drafts:
            change = Change(kind, key, self.get(kind, key), after)
            for draft in self._drafts.values():
                draft.follow((change,))
        self._pending[kind, key] = after

    def index(self, kind: type[Ix]) -> Ix:
        """The index as it is with the changes made so far. It is the transaction's own, but only
        `put` and `delete` may change it."""
        draft = self._drafts.get(kind)
        if draft is None:
            draft = self._drafts[kind] = _index(kind, self._indexes, self._mirror).draft()
            draft.follow(self.changes())
        assert isinstance(draft, kind)
        return draft

    def next_number(self, sequence: str) -> int:
        """The next number, from 1, of a named sequence. A number is never given twice, even
        when the record that had it is gone."""
        self._numbers[sequence] = self._numbers.get(sequence, 0) + 1
        return self._numbers[sequence]

    def changes(self) -> tuple[Change, ...]:
        """What a commit would change, in the order of the calls."""
        found = []
        for (kind, key), after in self._pending.items():
            before = self._mirror.get(kind, {}).get(key)
            if before != after:
                found.append(Change(kind, key, before, after))
        return tuple(found)

    @property
    def numbers(self) -> dict[str, int]:
        """The last number given in each sequence."""
        return self._numbers


class Store(ABC):
    """Records by kind and key. A subclass fills the mirror when it is opened and writes commits."""

    def __init__(self, mirror: Mirror, numbers: Mapping[str, int]) -> None:
        self._mirror = mirror
        self._numbers = dict(numbers)
        self._watchers: list[Watcher] = []
        self._indexes: dict[type[Index], Index] = {}
        self._turn = asyncio.Lock()
        self.is_lasting = True
        """False for a store that is gone when the process has ended: hosts are told so."""

    def get(self, kind: type[R], key: str) -> R | None:
        """The record as last committed, or None where there is none."""
        record = self._mirror.get(kind, {}).get(key)
        assert record is None or isinstance(record, kind)
        return record

    def list(self, kind: type[R]) -> tuple[R, ...]:
        """All records of a kind as last committed, in the order of their keys."""
        found = self._mirror.get(kind, {})
        return tuple(record for _, record in sorted(found.items()) if isinstance(record, kind))

    def index(self, kind: type[Ix]) -> Ix:
        """The index of what was last committed; calculated when it is first asked for."""
        found = _index(kind, self._indexes, self._mirror)
        assert isinstance(found, kind)
        return found

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Begin a transaction; see the head of this file. Raises StoreError, with nothing
        changed, when the commit fails."""
        await self._turn.acquire()
        committing = False
        try:
            transaction = Transaction(self._mirror, self._numbers, self._indexes)
            yield transaction
            # A commit that was begun is carried through even when the caller is cancelled:
            # mirror and disk must not part. The turn is given up only then.
            committing = True
            await asyncio.shield(asyncio.ensure_future(self._carry_through(transaction)))
        finally:
            if not committing:
                self._turn.release()

    async def put(self, record: Record) -> None:
        """A transaction of one `put`; on stable storage when it returns."""
        async with self.transaction() as change:
            change.put(record)

    async def delete(self, kind: type[Record], key: str) -> None:
        """A transaction of one `delete`."""
        async with self.transaction() as change:
            change.delete(kind, key)

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Tell `watcher` of every commit from now on. Returns what ends that. A watcher must
        not raise."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    async def close(self) -> None:
        """Wait for the commit under way, then let go of the store."""
        async with self._turn:
            await self._close()

    async def _carry_through(self, transaction: Transaction) -> None:
        try:
            changes = transaction.changes()
            if changes or transaction.numbers != self._numbers:
                await self._commit(changes, transaction.numbers)
            self._numbers = transaction.numbers
            for change in changes:
                of_kind = self._mirror.setdefault(change.type, {})
                if change.after is None:
                    of_kind.pop(change.key, None)
                else:
                    of_kind[change.key] = change.after
            for index in self._indexes.values():
                index.follow(changes)
        finally:
            self._turn.release()
        if changes:
            for watcher in tuple(self._watchers):
                watcher(changes)

    @abstractmethod
    async def _commit(self, changes: Sequence[Change], numbers: Mapping[str, int]) -> None:
        """Bring the changes and the sequences to stable storage, all or nothing. Raises
        StoreError."""

    @abstractmethod
    async def _close(self) -> None:
        """Let go of what the store holds."""


def _index(kind: type[Index], indexes: dict[type[Index], Index], mirror: Mirror) -> Index:
    index = indexes.get(kind)
    if index is None:
        index = kind()
        index.follow(
            Change(of_kind, key, None, record)
            for of_kind, records in mirror.items()
            for key, record in records.items()
        )
        indexes[kind] = index
    return index
