"""Volumes made by hand, automatically, and of what is there already."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from daiko.command_control.plan import Mode
from daiko.control import volumes
from daiko.control.error import Conflict, ControlError, Invalid, NotFound
from daiko.control.system import System
from daiko.device import awaitable
from daiko.mapping.extent import DeviceId
from daiko.state.index import BlocksInUse
from daiko.state.record import ExtentRecord, HostRecord, JobRecord, JobState, VolumeRecord
from daiko.state.sqlite import SqliteStore

from .conftest import disk

A, B = DeviceId("a", 0), DeviceId("b", 0)


def extent(device: str, lba: int, blocks: int) -> ExtentRecord:
    return ExtentRecord(device=device, lba=lba, blocks=blocks)


async def test_volume_by_hand_lies_on_its_extents_in_their_order(system: System) -> None:
    record = await volumes.create_by_hand(
        system, "v", [extent("b/0", 100, 50), extent("a/0", 0, 10)], mode=Mode.DIRECT
    )
    assert record == system.store.get(VolumeRecord, "v")
    assert (record.blocks, record.block_size, record.mode) == (60, 512, Mode.DIRECT)
    table = system.place("v").table
    assert [(piece.device, piece.lba, piece.blocks) for piece in table.lookup(49, 2)] == [
        (B, 149, 1),
        (A, 0, 1),
    ]


async def test_volume_that_was_made_reads_and_writes_at_once(system: System) -> None:
    await volumes.create_by_hand(system, "v", [extent("b/0", 100, 1), extent("a/0", 7, 1)])
    unit = system.unit("v")
    await awaitable.write(unit.device, 0, b"b" * 512 + b"a" * 512)
    assert await awaitable.read(system.devices.block_device(B), 100, 1) == b"b" * 512
    assert await awaitable.read(system.devices.block_device(A), 7, 1) == b"a" * 512


@pytest.mark.parametrize(
    ("name", "extents", "error", "message"),
    [
        ("v", [], Invalid, "at least one extent"),
        ("Not A Name", [extent("a/0", 0, 1)], Invalid, "is no name"),
        ("taken", [extent("a/0", 0, 1)], Conflict, "a volume taken already"),
        ("a", [extent("a/0", 0, 1)], Conflict, "back end has the name a"),
        ("v", [extent("c/0", 0, 1)], NotFound, "no back end c"),
        ("v", [extent("a/1", 0, 1)], NotFound, r"no LU 1 \(it has: 0\)"),
        ("v", [extent("a", 0, 1)], Invalid, "BACKEND/LUN"),
        ("v", [extent("a/0", 4095, 2)], Conflict, "not part of it: it has 4096"),
        ("v", [extent("a/0", 0, 0)], Conflict, "not part of it"),
        ("v", [extent("a/0", 0, 2), extent("a/0", 1, 1)], Conflict, "used twice"),
        ("v", [extent("b/0", 9, 2)], Conflict, "in use by another volume"),
    ],
    ids=[
        "no-extents",
        "bad-name",
        "name-of-a-volume",
        "name-of-a-back-end",
        "no-such-back-end",
        "no-such-lu",
        "no-device",
        "beyond-the-end",
        "empty-extent",
        "blocks-twice",
        "blocks-of-another-volume",
    ],
)
async def test_volume_that_cannot_be_is_refused_and_nothing_stored(
    system: System, name: str, extents: list[ExtentRecord], error: type[ControlError], message: str
) -> None:
    await volumes.create_by_hand(system, "taken", [extent("b/0", 10, 10)])
    with pytest.raises(error, match=message):
        await volumes.create_by_hand(system, name, extents)
    assert [record.name for record in system.store.list(VolumeRecord)] == ["taken"]


async def test_devices_with_different_blocks_make_no_volume(system: System, tmp_path: Path) -> None:
    await system.attach_backend(disk(tmp_path, "c", 512, block_size=4096))
    with pytest.raises(Invalid, match="blocks of 512 and 4096 bytes"):
        await volumes.create_by_hand(system, "v", [extent("a/0", 0, 8), extent("c/0", 0, 8)])


async def test_identity_is_naa_6_with_the_company_id_and_never_the_same(system: System) -> None:
    made = [await volumes.create_by_hand(system, f"v{n}", [extent("a/0", n, 1)]) for n in range(8)]
    assert all(record.naa.startswith("602da10") and len(record.naa) == 32 for record in made)
    assert len({record.naa for record in made}) == 8


async def test_automatic_volume_takes_free_room_and_leaves_the_rest_alone(system: System) -> None:
    first = await volumes.create_automatic(system, "one", 1 << 20, [A, B])
    second = await volumes.create_automatic(system, "two", 2 << 20, [A, B])
    assert first.blocks * 512 == 1 << 20
    assert second.blocks * 512 == 2 << 20
    used = system.store.index(BlocksInUse).by_device
    assert sum(ranges.blocks for ranges in used.values()) * 512 == 3 << 20


async def test_taken_name_is_told_before_missing_room(system: System) -> None:
    await volumes.create_automatic(system, "one", 1 << 20, [A])
    with pytest.raises(Conflict, match="volume one already") as caught:
        await volumes.create_automatic(system, "one", 1 << 40, [A])
    assert caught.value.next_step


async def test_automatic_volume_spans_devices_where_none_alone_has_room(system: System) -> None:
    record = await volumes.create_automatic(system, "v", 3 << 20, [A, B])
    assert {each.device for each in record.extents} == {"a/0", "b/0"}
    assert record.blocks * 512 == 3 << 20


async def test_automatic_volume_without_room_is_refused(system: System) -> None:
    with pytest.raises(Conflict, match="no room"):
        await volumes.create_automatic(system, "v", 5 << 20, [A, B])
    with pytest.raises(Invalid):
        await volumes.create_automatic(system, "v", 0, [A])
    with pytest.raises(Invalid, match="no device"):
        await volumes.create_automatic(system, "v", 512, [])
    assert system.store.list(VolumeRecord) == ()


async def test_two_requests_at_once_do_not_get_the_same_blocks(system: System) -> None:
    results = await asyncio.gather(
        *(volumes.create_by_hand(system, f"v{n}", [extent("a/0", 0, 1)]) for n in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, VolumeRecord) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 4


async def test_image_shows_the_lu_as_it_is_and_gives_it_back_as_it_is(system: System) -> None:
    device = system.devices.block_device(A)
    await awaitable.write(device, 5, b"x" * 512)
    record = await volumes.take_image(system, "old", A)
    assert record.image
    assert record.blocks == 4096
    assert await awaitable.read(system.unit("old").device, 5, 1) == b"x" * 512
    assert "a/0 holds 4096 blocks" in await volumes.release(system, "old")
    assert system.store.list(VolumeRecord) == ()
    assert await awaitable.read(device, 5, 1) == b"x" * 512


async def test_release_of_what_is_no_image_is_refused(system: System) -> None:
    await volumes.create_by_hand(system, "v", [extent("a/0", 0, 1)])
    with pytest.raises(Invalid, match="not taken in as it is"):
        await volumes.release(system, "v")
    with pytest.raises(NotFound):
        await volumes.release(system, "nobody")


async def test_volume_of_whole_devices_is_both_end_to_end(system: System) -> None:
    record = await volumes.create_whole(system, "v", [B, A])
    assert [(each.device, each.blocks) for each in record.extents] == [("b/0", 4096), ("a/0", 4096)]


async def test_volume_that_a_host_sees_is_not_removed(system: System) -> None:
    await volumes.create_by_hand(system, "v", [extent("a/0", 0, 1)])
    await system.put_host(HostRecord(name="h", initiators=("*",), luns={3: "v"}))
    with pytest.raises(Conflict, match="host h sees v as LUN 3") as caught:
        await volumes.remove(system, "v")
    assert "daiko" in caught.value.next_step
    await system.remove_host("h")
    await volumes.remove(system, "v")
    with pytest.raises(NotFound):
        await volumes.remove(system, "v")


async def test_volume_that_a_job_works_on_is_not_removed(
    system: System, store: SqliteStore
) -> None:
    await volumes.create_by_hand(system, "v", [extent("a/0", 0, 1)])
    job = JobRecord(
        id=9,
        type="backup",
        asked_by="administrator",
        source="v",
        destination="b/0",
        request={},
        state=JobState.RUNNING,
    )
    await store.put(job)
    with pytest.raises(Conflict, match="job 9"):
        await volumes.remove(system, "v")
    await store.put(job.model_copy(update={"state": JobState.DONE}))
    await volumes.remove(system, "v")


async def test_volume_in_any_range_of_a_job_is_not_removed(
    system: System, store: SqliteStore
) -> None:
    """A host's copy may name many: the record's source and destination are those of the first."""
    for number, name in enumerate(("v", "w")):
        await volumes.create_by_hand(system, name, [extent("a/0", 100 * number, 100)])
    job = JobRecord(
        id=9,
        type="copy",
        asked_by="host alice (iqn.2026-11.test:alice)",
        source="a/0",
        destination="b/0",
        request={
            "function": "volume-copy",
            "mode": None,
            "ranges": [[0, 8, 0], [0, 8, 0, "a/0", "v", 1], [0, 8, 0, "w", "b/0", 2]],
        },
        state=JobState.RUNNING,
    )
    await store.put(job)
    for name in ("v", "w"):
        with pytest.raises(Conflict, match="job 9"):
            await volumes.remove(system, name)


async def test_room_of_a_removed_volume_is_free_again(system: System) -> None:
    await volumes.create_whole(system, "v", [A])
    await volumes.remove(system, "v")
    await volumes.create_whole(system, "w", [A])


async def test_whole_disk_of_this_controller_is_a_real_lu_and_all_else_a_virtual_one(
    system: System,
) -> None:
    await volumes.create_whole(system, "real", [A])
    await volumes.create_by_hand(system, "part", [extent("b/0", 0, 4095)])
    assert system.unit("real").identity.product == "LU"
    assert system.unit("part").identity.product == "VIRTUAL LU"
