"""Volumes and back ends that grow while hosts use them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daiko.control import backends, hosts, volumes
from daiko.control.apply import apply, export
from daiko.control.error import Conflict, Invalid, NotFound
from daiko.control.system import System
from daiko.mapping.extent import DeviceId
from daiko.scsi.opcode import Status
from daiko.scsi.sbc import ReadCapacity16
from daiko.state.record import BackendRecord, ExtentRecord, VolumeRecord
from target.fake import Host

from .conftest import disk

GROWN = (0x6, 0x2A, 0x09)
A, B, C = DeviceId("a", 0), DeviceId("b", 0), DeviceId("c", 0)
"""4,096 blocks of 512 bytes each."""


def part(device: DeviceId, lba: int, blocks: int) -> ExtentRecord:
    return ExtentRecord(device=str(device), lba=lba, blocks=blocks)


def extents(system: System, name: str = "alpha") -> list[tuple[str, int, int]]:
    record = system.store.get(VolumeRecord, name)
    assert record is not None
    return [(extent.device, extent.lba, extent.blocks) for extent in record.extents]


async def host_of(system: System, *names: str) -> Host:
    await hosts.add(system, "any", ["*"], luns=dict(enumerate(names)))
    return Host(system.access)


def capacity(host: Host) -> int:
    """Blocks."""
    data = host.run(ReadCapacity16.pack(allocation_length=32)).data_in
    return int.from_bytes(data[:8], "big") + 1


def read(host: Host, lba: int) -> bytes:
    return host.run(b"\x28\0" + lba.to_bytes(4, "big") + b"\0\0\1\0").data_in


def write(host: Host, lba: int, data: bytes) -> int | None:
    cdb = b"\x2a\0" + lba.to_bytes(4, "big") + b"\0\0\1\0"
    return host.run(cdb, data.ljust(512, b"\0")).status


async def test_volume_grows_in_place_where_there_is_room_right_behind(system: System) -> None:
    await volumes.create_by_hand(system, "alpha", [part(A, 8, 100)])
    host = await host_of(system, "alpha")
    unit = system.unit("alpha")
    assert write(host, 99, b"last") == Status.GOOD
    record = await volumes.grow(system, "alpha", size=200 * 512)
    assert record.blocks == 200
    assert extents(system) == [("a/0", 8, 200)]
    assert system.unit("alpha") is unit
    assert host.run("00" * 6).condition == GROWN
    assert host.run("00" * 6).status == Status.GOOD
    assert capacity(host) == 200
    assert read(host, 99).startswith(b"last")
    assert write(host, 199, b"new") == Status.GOOD
    assert host.run("28000000000000c80100").condition == (0x5, 0x21, 0x00)


async def test_volume_grows_by_further_extents_where_something_is_in_the_way(
    system: System,
) -> None:
    await volumes.create_by_hand(system, "alpha", [part(A, 0, 100)])
    await volumes.create_by_hand(system, "wall", [part(A, 150, 10)])
    record = await volumes.grow(system, "alpha", by=1000 * 512)
    assert record.blocks == 1100
    assert extents(system)[0] == ("a/0", 0, 150)
    assert sum(blocks for _, _, blocks in extents(system)[1:]) == 950
    host = await host_of(system, "alpha")
    assert write(host, 1099, b"x") == Status.GOOD
    assert write(host, 149, b"y") == Status.GOOD


async def test_volume_grows_onto_the_devices_that_are_named(system: System) -> None:
    await volumes.create_by_hand(system, "alpha", [part(A, 0, 100)])
    await volumes.grow(system, "alpha", by=512, candidates=[B])
    assert extents(system) == [("a/0", 0, 100), ("b/0", 0, 1)]


async def test_size_is_rounded_up_to_whole_blocks(system: System) -> None:
    await volumes.create_by_hand(system, "alpha", [part(A, 0, 100)])
    assert (await volumes.grow(system, "alpha", by=1)).blocks == 101
    assert (await volumes.grow(system, "alpha", size=101 * 512 + 1)).blocks == 102
    assert (await volumes.grow(system, "alpha", size=101 * 512 + 1)).blocks == 102


async def test_what_is_in_flight_and_what_is_tracked_survive(system: System) -> None:
    await volumes.create_by_hand(system, "alpha", [part(A, 0, 1000)])
    host = await host_of(system, "alpha")
    tracking = system.devices.track("alpha")
    write(host, 999, b"before")
    await volumes.grow(system, "alpha", size=2000 * 512)
    host.run("00" * 6)
    write(host, 1500, b"after")
    assert tracking.changed_in(0, 1000) == 1
    assert tracking.changed_in(1000, 1000) == 1
    system.devices.untrack("alpha", tracking)
    write(host, 1501, b"unseen")
    assert read(host, 1500).startswith(b"after")


async def test_what_cannot_be_is_refused_and_changes_nothing(
    system: System, tmp_path: Path
) -> None:
    await volumes.create_by_hand(system, "alpha", [part(A, 0, 100)])
    await volumes.take_image(system, "old", B)
    await system.attach_backend(disk(tmp_path, "c", 64, 4096))
    grow = volumes.grow
    for error, words, asked in (
        (Conflict, "does not shrink", grow(system, "alpha", size=99 * 512)),
        (Conflict, "no room for", grow(system, "alpha", size=1 << 40)),
        (Conflict, "is b/0 as it is", grow(system, "old", by=512)),
        (Conflict, "is b/0 as it is", grow(system, "old", by=512, candidates=[A])),
        (Invalid, "does not grow by 0", grow(system, "alpha", by=0)),
        (Invalid, "either", grow(system, "alpha", by=1, size=1 << 20)),
        (Invalid, "blocks of 4096 bytes", grow(system, "alpha", by=1, candidates=[C])),
        (NotFound, "no volume", grow(system, "beta", by=512)),
        (NotFound, "no back end x", grow(system, "alpha", by=512, candidates=[DeviceId("x", 0)])),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            await asked
    assert extents(system) == [("a/0", 0, 100)]
    assert (await volumes.grow(system, "old")).blocks == 4096


# --- back ends


async def test_own_file_grows_and_the_volume_over_it_takes_it(system: System) -> None:
    await volumes.take_image(system, "alpha", A)
    host = await host_of(system, "alpha")
    write(host, 4095, b"end")
    state = await backends.grow(system, "a", 8192 * 512)
    assert state.record.devices[0].blocks == 8192
    # The volume keeps its size until it is told to grow.
    assert host.run("00" * 6).status == Status.GOOD
    assert capacity(host) == 4096
    record = await volumes.grow(system, "alpha")
    assert record.image
    assert host.run("00" * 6).condition == GROWN
    assert capacity(host) == 8192
    assert read(host, 4095).startswith(b"end")
    assert write(host, 8191, b"new end") == Status.GOOD


async def test_preallocated_file_gets_room_for_all_of_its_new_length(
    system: System, tmp_path: Path
) -> None:
    record = disk(tmp_path, "full", 128).model_copy(update={"preallocate": True})
    await system.attach_backend(record)
    await backends.grow(system, "full", 1 << 20)
    facts = os.stat(record.path)
    assert (facts.st_size, facts.st_blocks * 512 >= 1 << 20) == (1 << 20, True)


async def test_growth_of_what_is_no_file_and_shrinking_are_refused(
    system: System, tmp_path: Path
) -> None:
    for error, words, asked in (
        (Conflict, "does not shrink", backends.grow(system, "a", 512)),
        (Invalid, "whole number of blocks", backends.grow(system, "a", 4096 * 512 + 1)),
        (NotFound, "no back end", backends.grow(system, "x", 512)),
    ):
        with pytest.raises(error, match=words):
            await asked
    (tmp_path / "a.img").rename(tmp_path / "away.img")
    with pytest.raises(Invalid, match="is not a file"):
        await backends.grow(system, "a", 1 << 30)


async def test_file_that_has_grown_is_noticed_without_being_asked(
    system: System, tmp_path: Path
) -> None:
    await volumes.take_image(system, "alpha", A)
    os.truncate(tmp_path / "a.img", 5000 * 512)
    seen: list[int] = []
    unwatch = system.store.watch(
        lambda changes: seen.extend(
            change.after.devices[0].blocks
            for change in changes
            if isinstance(change.after, BackendRecord)
        )
    )
    await system._inventory.attachment("a").look_for_growth()
    await system._inventory.settled()
    unwatch()
    assert seen == [5000]
    assert (await volumes.grow(system, "alpha")).blocks == 5000
    os.truncate(tmp_path / "a.img", 100 * 512)
    await system._inventory.attachment("a").look_for_growth()
    assert seen == [5000]


# --- documents


async def test_document_with_more_extents_or_a_larger_size_lets_volumes_grow(
    system: System,
) -> None:
    await volumes.create_by_hand(system, "alpha", [part(A, 0, 100)])
    host = await host_of(system, "alpha")
    text = export(system)
    assert "blocks = 100" in text
    longer = text.replace("blocks = 100", "blocks = 300")
    done = await apply(system, longer)
    assert [(action.verb.value, action.kind, action.name) for action in done] == [
        ("change", "volume", "alpha")
    ]
    assert host.run("00" * 6).condition == GROWN
    assert capacity(host) == 300
    assert await apply(system, longer) == ()
    with pytest.raises(Conflict, match="moves no data"):
        await apply(system, text)
    sized = '[volume.beta]\nsize = "64KiB"\nfrom = ["b/0"]\n'
    await apply(system, sized, prune=False)
    assert await apply(system, sized, prune=False) == ()
    await apply(system, sized.replace("64", "128"), prune=False)
    assert sum(blocks for _, _, blocks in extents(system, "beta")) == 256
    with pytest.raises(Conflict, match="does not shrink"):
        await apply(system, sized, prune=False)
