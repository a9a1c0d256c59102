"""Transactions, the mirror and watchers, over the SQLite store."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daiko.command_control.plan import Mode
from daiko.state.record import HostRecord, JobRecord, VolumeRecord
from daiko.state.sqlite import SqliteStore
from daiko.state.store import Change, Store, StoreError


def volume(name: str, mode: Mode | None = None) -> VolumeRecord:
    return VolumeRecord(name=name, block_size=512, extents=(), naa="6" * 32, mode=mode)


def host(name: str) -> HostRecord:
    return HostRecord(name=name, initiators=("*",))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(tmp_path / "store")
    yield store
    await store.close()


async def test_get_of_what_was_put_is_the_record(store: Store) -> None:
    await store.put(volume("alpha"))
    assert store.get(VolumeRecord, "alpha") == volume("alpha")
    assert store.get(VolumeRecord, "beta") is None
    assert store.get(HostRecord, "alpha") is None


async def test_list_is_in_the_order_of_the_keys(store: Store) -> None:
    for name in ("gamma", "alpha", "beta"):
        await store.put(volume(name))
    assert [found.name for found in store.list(VolumeRecord)] == ["alpha", "beta", "gamma"]
    assert store.list(HostRecord) == ()


async def test_put_of_an_existing_key_replaces_the_record(store: Store) -> None:
    await store.put(volume("alpha"))
    await store.put(volume("alpha", Mode.DIRECT))
    assert store.list(VolumeRecord) == (volume("alpha", Mode.DIRECT),)


async def test_delete_takes_the_record_away_and_does_not_mind_a_missing_one(store: Store) -> None:
    await store.put(volume("alpha"))
    await store.delete(VolumeRecord, "alpha")
    await store.delete(VolumeRecord, "alpha")
    assert store.list(VolumeRecord) == ()


async def test_transaction_reads_its_own_changes_which_nobody_else_sees(store: Store) -> None:
    await store.put(volume("alpha"))
    async with store.transaction() as change:
        change.put(volume("beta"))
        change.delete(VolumeRecord, "alpha")
        assert change.get(VolumeRecord, "beta") == volume("beta")
        assert change.get(VolumeRecord, "alpha") is None
        assert change.list(VolumeRecord) == (volume("beta"),)
        assert store.list(VolumeRecord) == (volume("alpha"),)
    assert store.list(VolumeRecord) == (volume("beta"),)


async def test_transaction_left_by_an_exception_changes_nothing(store: Store) -> None:
    heard: list[Change] = []
    store.watch(heard.extend)

    async def fail() -> None:
        async with store.transaction() as change:
            change.put(volume("alpha"))
            change.next_number("job")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        await fail()
    assert store.list(VolumeRecord) == ()
    assert heard == []
    async with store.transaction() as change:
        assert change.next_number("job") == 1


async def test_transactions_run_one_after_the_other(store: Store) -> None:
    """What a body checked still holds when it commits: no number is lost to a race."""

    async def take() -> int:
        async with store.transaction() as change:
            taken = len(change.list(VolumeRecord))
            await asyncio.sleep(0)
            change.put(volume(f"v{taken}"))
            return taken

    assert sorted(await asyncio.gather(*(take() for _ in range(20)))) == list(range(20))


async def test_watchers_hear_of_each_commit_in_order_with_before_and_after(store: Store) -> None:
    heard: list[Sequence[Change]] = []
    end = store.watch(heard.append)
    await store.put(volume("alpha"))
    async with store.transaction() as change:
        change.put(volume("alpha", Mode.DIRECT))
        change.put(host("h1"))
    await store.delete(HostRecord, "h1")
    end()
    await store.delete(VolumeRecord, "alpha")
    assert heard == [
        (Change(VolumeRecord, "alpha", None, volume("alpha")),),
        (
            Change(VolumeRecord, "alpha", volume("alpha"), volume("alpha", Mode.DIRECT)),
            Change(HostRecord, "h1", None, host("h1")),
        ),
        (Change(HostRecord, "h1", host("h1"), None),),
    ]


async def test_watchers_do_not_hear_of_a_commit_that_changes_nothing(store: Store) -> None:
    await store.put(volume("alpha"))
    heard: list[Change] = []
    store.watch(heard.extend)
    await store.put(volume("alpha"))
    await store.delete(HostRecord, "nobody")
    assert heard == []


async def test_numbers_are_never_given_twice_even_after_a_restart(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "s")
    async with store.transaction() as change:
        assert [change.next_number("job") for _ in range(3)] == [1, 2, 3]
        assert change.next_number("other") == 1
    await store.close()
    store = SqliteStore.open(tmp_path / "s")
    async with store.transaction() as change:
        assert change.next_number("job") == 4
    await store.close()


async def test_cancelled_commit_is_carried_through_and_the_store_goes_on(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "s")
    task = asyncio.ensure_future(store.put(volume("alpha")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.put(volume("beta"))
    names = [found.name for found in store.list(VolumeRecord)]
    await store.close()
    again = SqliteStore.open(tmp_path / "s")
    assert [found.name for found in again.list(VolumeRecord)] == names == ["alpha", "beta"]
    await again.close()


async def test_commit_that_fails_leaves_mirror_and_turn_as_they_were(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "s")
    await store.put(volume("alpha"))
    with sqlite3.connect(tmp_path / "s" / "daiko.sqlite") as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON record WHEN NEW.key = 'beta' "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
    other.close()
    with pytest.raises(StoreError, match="cannot be written: disk full"):
        await store.put(volume("beta"))
    assert store.list(VolumeRecord) == (volume("alpha"),)
    await store.put(volume("gamma"))
    assert [found.name for found in store.list(VolumeRecord)] == ["alpha", "gamma"]
    await store.close()


OPERATIONS = st.lists(
    st.lists(
        st.tuples(st.booleans(), st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=4
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(commits=OPERATIONS)
def test_store_equals_a_dictionary_before_and_after_it_is_opened_again(
    commits: list[list[tuple[bool, int, int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def run() -> None:
        folder = tmp_path_factory.mktemp("model") / "store"
        model: dict[int, JobRecord] = {}
        store = SqliteStore.open(folder)
        for operations in commits:
            async with store.transaction() as change:
                for is_put, key, value in operations:
                    job = JobRecord(
                        id=key,
                        type="copy",
                        asked_by="administrator",
                        source="a",
                        destination="b",
                        request={"value": value},
                    )
                    if is_put:
                        change.put(job)
                        model[key] = job
                    else:
                        change.delete(JobRecord, job.key)
                        model.pop(key, None)
        expected = tuple(job for _, job in sorted(model.items()))
        assert store.list(JobRecord) == expected
        await store.close()
        store = SqliteStore.open(folder)
        assert store.list(JobRecord) == expected
        await store.close()

    asyncio.run(run())
