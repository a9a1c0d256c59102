"""What hosts tell units to keep, in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from daiko.control import volumes
from daiko.control.apply import apply_document
from daiko.control.document import Document
from daiko.control.kept import kept_of, medium_work_of, medium_work_record_of, record_of
from daiko.control.system import System
from daiko.scsi import spc
from daiko.scsi.mode_page import CachingPage, pack_mode_parameters
from daiko.scsi.opcode import Status
from daiko.state.record import (
    ExtentRecord,
    HostRecord,
    MediumWorkRecord,
    UnitRecord,
    VolumeRecord,
)
from daiko.state.sqlite import SqliteStore
from daiko.state.store import Change, StoreError
from daiko.target.kept import NOTHING_KEPT, Kept, MediumWork, WorkKind
from target.fake import FakeTask, Host

NAA = "602da10" + "0" * 25
PAGE = CachingPage.pack(wce=0)


async def volume(system: System) -> VolumeRecord:
    return await volumes.create_by_hand(
        system, "alpha", [ExtentRecord(device="a/0", lba=0, blocks=64)]
    )


async def save_page(system: System) -> FakeTask:
    """A host saves the caching mode page; returns its ended command."""
    await system.store.put(HostRecord(name="h", initiators=("*",), luns={0: "alpha"}))
    data = pack_mode_parameters([PAGE], ten=False)
    cdb = spc.ModeSelect6.pack(pf=1, sp=1, parameter_list_length=len(data))
    task = Host(system.access).start(cdb, data)
    assert task.answers == 0, "not before it is on stable storage"
    await system._publication.keepers.settle()
    return task


@pytest.mark.parametrize(
    "kept",
    [
        NOTHING_KEPT,
        Kept(mode_pages=()),
        Kept(mode_pages=(PAGE,), identifying_information=b"\0\1", identifying_text=b"x"),
    ],
)
def test_what_is_stored_is_read_as_it_was(kept: Kept) -> None:
    assert kept_of(record_of(NAA, kept)) == kept


@pytest.mark.parametrize(
    "work",
    [
        MediumWork(WorkKind.BLOCK_ERASE, is_handed_over=True),
        MediumWork(WorkKind.OVERWRITE, b"ab", 3, invert=True, is_restricted=True, has_failed=True),
    ],
    ids=["handed over", "failed"],
)
def test_work_on_the_medium_is_read_as_it_was(work: MediumWork) -> None:
    assert medium_work_of(medium_work_record_of(NAA, work)) == work


def test_work_that_was_stored_before_any_was_handed_over_is_read() -> None:
    stored = medium_work_record_of(NAA, MediumWork(WorkKind.OVERWRITE)).model_dump()
    del stored["is_handed_over"]
    assert not medium_work_of(MediumWorkRecord(**stored)).is_handed_over


async def test_saved_mode_page_holds_after_a_restart_of_the_controller(
    system: System, store: SqliteStore
) -> None:
    made = await volume(system)
    assert (await save_page(system)).status == Status.GOOD
    record = store.get(UnitRecord, made.naa)
    assert record is not None
    assert record.mode_pages == (PAGE.hex(),)
    await system.stop()
    again = await System.start(store)
    assert again.unit("alpha").write_through
    await again.stop()


@pytest.mark.parametrize("way", ["rm", "apply"])
async def test_what_was_kept_goes_with_the_volume(system: System, way: str) -> None:
    await volume(system)
    await save_page(system)
    await system.remove_host("h")
    if way == "rm":
        await volumes.remove(system, "alpha")
    else:
        document = Document.of(system.store)
        await apply_document(system, document.model_copy(update={"volume": {}}), prune=True)
    assert system.store.list(UnitRecord) == ()


async def test_keeping_for_a_volume_that_is_gone_fails_and_leaves_nothing(system: System) -> None:
    await volume(system)
    keeper = system.unit("alpha").keeper
    assert keeper is not None
    await volumes.remove(system, "alpha")
    outcomes: list[bool] = []
    keeper.keep(Kept(mode_pages=(PAGE,)), outcomes.append)
    await system._publication.keepers.settle()
    assert outcomes == [False]
    assert system.store.list(UnitRecord) == ()


async def test_store_that_cannot_be_written_is_reported_to_the_host(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    await volume(system)
    await system.store.put(HostRecord(name="h", initiators=("*",), luns={0: "alpha"}))

    async def fail(changes: Sequence[Change], numbers: Mapping[str, int]) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(system.store, "_commit", fail)
    data = pack_mode_parameters([PAGE], ten=False)
    cdb = spc.ModeSelect6.pack(pf=1, sp=1, parameter_list_length=len(data))
    task = Host(system.access).start(cdb, data)
    await system._publication.keepers.settle()
    assert task.condition == (0x4, 0x44, 0x00)
    monkeypatch.undo()


async def test_stop_waits_for_what_is_being_kept(store: SqliteStore, tmp_path: Path) -> None:
    from control.conftest import disk

    system = await System.start(store)
    await system.attach_backend(disk(tmp_path, "a", 4096))
    made = await volume(system)
    keeper = system.unit("alpha").keeper
    assert keeper is not None
    outcomes: list[bool] = []
    keeper.keep(Kept(mode_pages=(PAGE,)), outcomes.append)
    await system.stop()
    assert outcomes == [True]
    assert store.get(UnitRecord, made.naa) is not None
