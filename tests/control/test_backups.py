"""Which backups are still good."""

from __future__ import annotations

import pytest

from daiko.control import backups
from daiko.control.error import Conflict
from daiko.control.system import System
from daiko.copy_manager import overwriting
from daiko.state.record import JobRecord, JobState, StepRecord


def job(number: int, lba: int, *, type: str = "backup", device: str = "b/0") -> JobRecord:
    """Done: 10 blocks of a/0 to `lba` of a device."""
    step = StepRecord(
        source="a/0", source_lba=0, destination=device, destination_lba=lba, blocks=10,
        block_size=512, executor="this controller", delegated=False, reason="",
        confirmed=((0, 10),),
    )  # fmt: skip
    return JobRecord(
        id=number, type=type, asked_by="administrator", source="a/0", destination=device,
        request={"function": "direct-backup", "mode": None, "ranges": [[0, 10, lba]]},
        state=JobState.DONE, steps=(step,), blocks=10, started=1.0,
    )  # fmt: skip


async def test_a_backup_is_good_until_the_first_later_job_that_wrote_over_it(
    system: System,
) -> None:
    for record in (
        job(1, 0),
        job(2, 100),
        job(3, 5, type="copy", device="a/0"),
        job(4, 9, type="copy"),
        job(5, 0),
        job(6, 110),
    ):
        await system.store.put(record)
    found = {backup.job.record.id: backup.why_not for backup in backups.ls(system)}
    assert found == {1: "job 4 (copy) wrote over it", 2: "", 5: "", 6: ""}
    assert {id: backups.show(system, id).why_not for id in found} == found


async def test_a_backup_stays_bad_when_the_job_that_wrote_over_it_is_forgotten(
    system: System,
) -> None:
    marked = job(1, 0).model_copy(update={"overwritten_by": "job 4 (copy)"})
    await system.store.put(marked)
    await system.store.put(job(5, 5, type="copy"))
    assert backups.show(system, 1).why_not == "job 4 (copy) wrote over it"
    with pytest.raises(Conflict, match="job 4"):
        backups.restoration(system, 1)


async def test_the_steps_of_each_job_are_gone_through_a_few_times_however_many_backups_there_are(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the event loop that hosts' commands wait for."""
    for number in range(1, 41):
        await system.store.put(job(number, 10 * number))
    looked_at: list[int] = []
    written = overwriting._written
    monkeypatch.setattr(
        overwriting, "_written", lambda job: looked_at.append(job.id) or written(job)
    )
    found = backups.ls(system)
    assert [backup.restorable for backup in found] == [True] * 40
    assert len(looked_at) <= 2 * 40
