"""Which ended jobs are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daiko.copy_manager.overwriting import Writes
from daiko.copy_manager.retention import Bound, Retention
from daiko.state.record import JobRecord, JobState, Record, StepRecord
from daiko.state.sqlite import SqliteStore
from daiko.state.store import Change, Store, StoreError

HOST = "host web1 (iqn.x:web1)"


class FailingStore(SqliteStore):
    fails = False

    async def _commit(self, changes: Sequence[Change], numbers: Mapping[str, int]) -> None:
        if self.fails:
            raise StoreError("disk full")
        await super()._commit(changes, numbers)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = FailingStore.open(tmp_path / "store")
    yield store
    await store.close()


def job(
    number: int,
    lba: int = 0,
    *,
    type: str = "copy",
    asked_by: str = "administrator",
    state: JobState = JobState.DONE,
    steps: int = 1,
    finished: float | None = None,
) -> JobRecord:
    """10 blocks a step to `lba` of vault/0."""
    return JobRecord(
        id=number, type=type, asked_by=asked_by, source="a/0", destination="vault/0",
        request={"function": "direct-backup", "mode": None, "ranges": [[0, 10 * steps, lba]]},
        state=state, blocks=10 * steps, started=1.0,
        finished=float(number) if finished is None else finished,
        steps=tuple(
            StepRecord(
                source="a/0", source_lba=10 * n, destination="vault/0",
                destination_lba=lba + 10 * n, blocks=10, block_size=512,
                executor="this controller", delegated=False, reason="", confirmed=((0, 10),),
            )
            for n in range(steps)
        ),
    )  # fmt: skip


async def put(store: Store, *jobs: JobRecord) -> None:
    async with store.transaction() as change:
        for record in jobs:
            change.put(record)


async def kept(store: Store, jobs: int, steps: int = 1000, hosts: int = 1000) -> list[int]:
    """What is left after a look with these bounds."""
    retention = Retention(
        store, lambda by_host: Bound(hosts, 1000) if by_host else Bound(jobs, steps)
    )
    retention.wake()
    await retention.stop(20)
    return [record.id for record in store.list(JobRecord)]


async def test_the_jobs_that_ended_last_are_kept_whenever_they_began(store: SqliteStore) -> None:
    await put(store, job(1, finished=100.0), *(job(n) for n in range(2, 9)))
    assert await kept(store, 3) == [1, 7, 8]


async def test_jobs_that_have_not_ended_are_never_dropped(store: SqliteStore) -> None:
    await put(store, job(1, state=JobState.RUNNING), job(2, state=JobState.QUEUED))
    await put(store, *(job(n, state=JobState.FAILED) for n in range(3, 9)))
    assert await kept(store, 2) == [1, 2, 7, 8]


async def test_jobs_of_hosts_and_of_administrators_do_not_push_one_another_out(
    store: SqliteStore,
) -> None:
    await put(store, *(job(n, asked_by=HOST) for n in range(1, 9)), *(job(n) for n in (9, 10)))
    assert await kept(store, 2, hosts=3) == [6, 7, 8, 9, 10]


async def test_backups_that_can_be_restored_are_kept_and_those_that_cannot_are_not(
    store: SqliteStore,
) -> None:
    await put(
        store,
        job(1, 0, type="backup"),
        job(2, 100, type="backup"),
        job(3, 200, type="backup", state=JobState.FAILED),
        job(4, 105),
        *(job(n, 1000) for n in range(5, 9)),
    )
    assert await kept(store, 2) == [1, 7, 8]


async def test_a_backup_does_not_become_good_again_when_what_wrote_over_it_is_dropped(
    store: SqliteStore,
) -> None:
    await put(
        store,
        job(1, 0, type="backup"),
        job(2, 100, type="backup"),
        job(3, 5, asked_by=HOST),
        *(job(n, 1000, asked_by=HOST) for n in range(4, 9)),
    )
    assert await kept(store, 5, hosts=2) == [1, 2, 7, 8]
    marks = {record.id: record.overwritten_by for record in store.list(JobRecord)}
    assert marks == {1: "job 3 (copy)", 2: "", 7: "", 8: ""}
    await put(store, *(job(n, 1000) for n in range(9, 12)))
    assert await kept(store, 2, hosts=2) == [2, 7, 8, 10, 11]


async def test_what_wrote_to_the_blocks_of_a_backup_that_still_runs_is_kept_until_it_has_ended(
    store: SqliteStore,
) -> None:
    running = job(1, 0, type="backup", state=JobState.RUNNING)
    await put(store, running, job(2, 5, asked_by=HOST))
    await put(store, *(job(n, 1000, asked_by=HOST) for n in range(3, 9)))
    assert await kept(store, 5, hosts=2) == [1, 2, 7, 8]
    await put(store, job(1, 0, type="backup"))
    assert await kept(store, 5, hosts=2) == [1, 7, 8]
    (backup, *_) = store.list(JobRecord)
    assert backup.overwritten_by == "job 2 (copy)"


async def test_steps_count_as_well_and_the_job_that_ended_last_is_kept_however_many_it_has(
    store: SqliteStore,
) -> None:
    await put(store, *(job(n, steps=4) for n in range(1, 9)))
    assert await kept(store, 100, steps=10) == [6, 7, 8]
    await put(store, job(9, steps=50))
    assert await kept(store, 100, steps=10) == [7, 8, 9]
    await put(store, job(10))
    assert await kept(store, 100, steps=10) == [7, 8, 10]


async def test_jobs_are_looked_through_only_when_a_tenth_too_many_has_come_together(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def list_(kind: type[Record]) -> tuple[Record, ...]:
        nonlocal looks
        looks += 1
        return Store.list(store, kind)

    monkeypatch.setattr(store, "list", list_)
    retention = Retention(store, lambda _: Bound(20, 1000))
    # Backups that can be restored are more than the bound by themselves.
    for number in range(1, 61):
        await put(store, job(number, 10 * number, type="backup"))
        retention.wake()
        await retention.stop(20)
    assert looks <= 20
    assert len(store.list(JobRecord)) == 60


async def test_a_bound_that_was_lowered_holds_at_once(store: SqliteStore) -> None:
    bound = Bound(20, 1000)
    retention = Retention(store, lambda _: bound)
    await put(store, *(job(n) for n in range(1, 31)))
    retention.wake()
    await retention.stop(20)
    assert len(store.list(JobRecord)) == 20
    bound = Bound(5, 1000)
    retention.wake()
    await retention.stop(20)
    assert [record.id for record in store.list(JobRecord)] == list(range(26, 31))


async def test_a_store_that_fails_is_said_and_the_next_job_that_ends_tries_again(
    store: FailingStore,
) -> None:
    await put(store, *(job(n) for n in range(1, 9)))
    store.fails = True
    with capture_logs() as logged:
        assert await kept(store, 3) == list(range(1, 9))
    assert [(line["log_level"], line["error"]) for line in logged] == [("error", "disk full")]
    store.fails = False
    assert await kept(store, 3) == [6, 7, 8]


async def test_a_defect_is_said_with_its_traceback(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, *(job(n) for n in range(1, 9)))

    def defective(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as broken, capture_logs() as logged:
        broken.setattr(Writes, "add", defective)
        assert await kept(store, 3) == list(range(1, 9))
    assert [line["exc_info"] for line in logged] == [True]
    assert await kept(store, 3) == [6, 7, 8]
