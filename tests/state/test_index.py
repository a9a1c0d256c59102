"""Indexes against a walk over all records, whatever commits and transactions come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from daiko.mapping.extent import DeviceId
from daiko.mapping.range_set import RangeSet
from daiko.state.extents import ExtentRecord, Extents
from daiko.state.index import BlocksInUse, EndedJobs, OfferedTo, SeenBy, Sight, VolumesOf
from daiko.state.record import (
    HostRecord,
    JobRecord,
    JobState,
    Record,
    SiteRecord,
    StepRecord,
    VolumeRecord,
)
from daiko.state.store import Change, Store

NAMES = ("a", "b", "c")
ROOM = 40


class MemoryStore(Store):
    """Commits go nowhere."""

    async def _commit(self, changes: Sequence[Change], numbers: Mapping[str, int]) -> None: ...

    async def _close(self) -> None: ...


def volume(name: str, blocks: int, places: Sequence[int]) -> VolumeRecord:
    """Each volume has a stretch of its own on both devices, and takes these extents of it."""
    base = NAMES.index(name) * ROOM
    return VolumeRecord(
        name=name,
        block_size=512,
        naa=f"6{blocks:x}{NAMES.index(name)}".ljust(32, "0"),
        extents=Extents.of(
            ExtentRecord(device=f"sd{at % 2}/0", lba=base + at, blocks=blocks) for at in places
        ),
    )


volumes = st.builds(
    lambda name, places: volume(name, 1, places),
    st.sampled_from(NAMES),
    st.lists(st.integers(0, ROOM - 1), unique=True, min_size=1),
)
hosts = st.builds(
    lambda name, luns: HostRecord(name=name, initiators=("*",), luns=luns),
    st.sampled_from(("h1", "h2")),
    st.dictionaries(st.integers(0, 3), st.sampled_from(NAMES)),
)
gone = st.sampled_from(
    [(VolumeRecord, name) for name in NAMES] + [(HostRecord, name) for name in ("h1", "h2")]
)
steps = st.lists(st.tuples(st.booleans(), st.lists(volumes | hosts | gone, max_size=4)))


def check(
    indexes: tuple[BlocksInUse, VolumesOf, SeenBy],
    volumes: Sequence[VolumeRecord],
    hosts: Sequence[HostRecord],
) -> None:
    used: dict[DeviceId, RangeSet] = {}
    for record in volumes:
        for _, blocks, device, lba in record.extents.table:
            used.setdefault(device, RangeSet()).add(lba, blocks)
    blocks_in_use, volumes_of, seen_by = indexes
    assert {d: r for d, r in blocks_in_use.by_device.items() if r} == used
    for backend in ("sd0", "sd1"):
        assert list(volumes_of.on(backend)) == sorted(
            record.name for record in volumes if backend in record.extents.backends
        )
    for record in volumes:
        assert volumes_of.with_naa(record.naa) == record.name
    assert volumes_of.with_naa("6" * 32) is None
    for name in NAMES:
        assert seen_by.volume(name) == tuple(
            Sight(host.name, lun)
            for host in hosts
            for lun, seen in sorted(host.luns.items())
            if seen == name
        )


@given(steps)
async def test_indexes_equal_a_walk_in_the_store_and_inside_each_transaction(
    given: list[tuple[bool, list[Record | tuple[type[Record], str]]]],
) -> None:
    store = MemoryStore({}, {})
    for is_committed, step in given:
        try:
            async with store.transaction() as change:
                for what in step:
                    if isinstance(what, tuple):
                        change.delete(*what)
                    else:
                        change.put(what)
                    check(
                        (change.index(BlocksInUse), change.index(VolumesOf), change.index(SeenBy)),
                        change.list(VolumeRecord),
                        change.list(HostRecord),
                    )
                if not is_committed:
                    raise LookupError
        except LookupError:
            pass
        check(
            (store.index(BlocksInUse), store.index(VolumesOf), store.index(SeenBy)),
            store.list(VolumeRecord),
            store.list(HostRecord),
        )


async def test_index_merges_many_extents_at_once_as_one_by_one() -> None:
    store = MemoryStore({}, {})
    many = VolumeRecord(
        name="many",
        block_size=512,
        naa="6" * 32,
        extents=Extents.of(
            ExtentRecord(device="sd0/0", lba=3 * (at * 7 % 1000), blocks=2) for at in range(1000)
        ),
    )
    await store.put(many)
    used = store.index(BlocksInUse).by_device[DeviceId("sd0", 0)]
    assert used == RangeSet((3 * at, 2) for at in range(1000))
    await store.delete(VolumeRecord, "many")
    assert not store.index(BlocksInUse).by_device[DeviceId("sd0", 0)]


async def test_jobs_that_have_ended_are_counted_with_their_steps_by_who_asked_for_them() -> None:
    store = MemoryStore({}, {})
    step = StepRecord(
        source="a/0", source_lba=0, destination="b/0", destination_lba=0, blocks=1, block_size=512,
        executor="this controller", delegated=False, reason="",
    )  # fmt: skip

    def job(number: int, asked_by: str, state: JobState, steps: int) -> JobRecord:
        return JobRecord(
            id=number, type="copy", asked_by=asked_by, source="a/0", destination="b/0", request={},
            state=state, steps=(step,) * steps,
        )  # fmt: skip

    await store.put(job(1, "administrator", JobState.RUNNING, 5))
    ended = store.index(EndedJobs)
    assert (ended.of(by_host=False), ended.of(by_host=True)) == ((0, 0), (0, 0))
    await store.put(job(1, "administrator", JobState.DONE, 6))
    await store.put(job(2, "host web1 (iqn.x:web1)", JobState.FAILED, 2))
    await store.put(job(1, "administrator", JobState.DONE, 6))
    assert (ended.of(by_host=False), ended.of(by_host=True)) == ((1, 6), (1, 2))
    async with store.transaction() as change:
        change.delete(JobRecord, "000000000001")
        assert change.index(EndedJobs).of(by_host=False) == (0, 0)
        assert ended.of(by_host=False) == (1, 6)
    assert ended.of(by_host=False) == (0, 0)


async def test_volumes_that_sites_are_offered_are_kept_apart_from_those_that_hosts_see() -> None:
    store = MemoryStore({}, {})
    site = SiteRecord(
        name="osaka", iqn="iqn.2026-11.test:o", portals=("o:1",), initiator="iqn.2026-11.test:i",
        offered={1: "a", 2: "b"},
    )  # fmt: skip
    await store.put(site)
    await store.put(HostRecord(name="h1", initiators=("*",), luns={0: "a"}))
    assert store.index(OfferedTo).volume("a") == (Sight("osaka", 1),)
    assert store.index(SeenBy).volume("a") == (Sight("h1", 0),)
    async with store.transaction() as change:
        change.put(site.model_copy(update={"offered": {3: "b"}}))
        assert change.index(OfferedTo).volume("a") == ()
        assert change.index(OfferedTo).volume("b") == (Sight("osaka", 3),)
    await store.delete(SiteRecord, "osaka")
    assert store.index(OfferedTo).volume("b") == ()
