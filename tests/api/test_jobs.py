"""Copies, backups, restores and jobs over REST, and how they are followed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from daiko.control.system import System
from daiko.device.layer.delay import Delay
from daiko.mapping.extent import DeviceId

Attach = Callable[..., Awaitable[Path]]
DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
async def disks(api: httpx.AsyncClient, attach: Attach) -> dict[str, Path]:
    """Volume alpha over the disk `a`, with data; a backup device `vault`; a second one `spare`."""
    paths = {"a": await attach("a", content=DATA)}
    paths["vault"] = await attach("vault")
    paths["spare"] = await attach("spare")
    await api.post("/volumes", json={"how": "image", "name": "alpha", "device": "a/0"})
    return paths


async def ended(api: httpx.AsyncClient, id: int) -> dict[str, Any]:
    """The job when it has ended, followed as the command line does."""
    tag = ""
    while True:
        answer = await api.get(
            f"/jobs/{id}", params={"wait": 20 if tag else 0}, headers={"If-None-Match": tag}
        )
        if answer.status_code == 200:
            tag = answer.headers["ETag"]
            job: dict[str, Any] = answer.json()
            if job["state"] not in ("queued", "running"):
                return job


async def run(api: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await api.post(path, json=body)
    assert answer.status_code == 202, answer.text
    return await ended(api, answer.json()["id"])


class Held(Delay):
    """Takes the place of a device of the system; its completions wait until it lets them go."""

    def __init__(self, system: System, name: str) -> None:
        super().__init__(system.devices.block_device(DeviceId(name, 0)), None)
        self.reached = asyncio.Event()
        self._devices = system._inventory.attachment(name)._devices
        self._devices[0] = self

    def _hold(self, completion: Callable[[], None]) -> None:
        self.reached.set()
        super()._hold(completion)

    def let_go(self) -> None:
        self._devices[0] = self.below
        self.seconds = 0
        self.release()


@pytest.fixture
async def held(system: System, disks: dict[str, Path]) -> AsyncIterator[Held]:
    """The vault answers nothing until it is released."""
    held = Held(system, "vault")
    yield held
    held.let_go()


async def test_backup_is_a_job_whose_report_adds_up(
    api: httpx.AsyncClient, disks: dict[str, Path]
) -> None:
    job = await run(api, "/backups", {"volume": "alpha", "to": "vault"})
    assert job["state"] == "done", job["error"]
    assert disks["vault"].read_bytes() == DATA
    assert (job["type"], job["source"], job["destination"]) == ("backup", "alpha", "vault")
    assert (job["blocks"], job["confirmed_blocks"], job["percent"]) == (2048, 2048, 100.0)
    assert (job["one_instant"], job["changed_blocks"]) == (True, 0)
    (step,) = job["steps"]
    assert step["executor"] == "this controller"
    assert step["delegated"] is False
    assert (step["source"], step["destination"]) == ("a/0", "vault/0")
    assert step["confirmed_blocks"] == 2048
    assert step["reason"]
    assert job["bytes_delegated"] == 0
    assert job["bytes_through_first_controller"] == step["bytes_through_first_controller"] > 0
    backup = (await api.get(f"/backups/{job['id']}")).json()
    assert backup["restorable"] is True
    assert (await api.get("/backups", params={"volume": "alpha"})).json() == [
        backup | {"seconds": backup["seconds"]}
    ]
    assert (await api.get("/backups", params={"volume": "other"})).json() == []


async def test_backup_of_a_range_goes_to_the_same_blocks_unless_told_otherwise(
    api: httpx.AsyncClient, disks: dict[str, Path]
) -> None:
    await run(api, "/backups", {"volume": "alpha", "to": "vault", "first": 8, "blocks": 4})
    await run(
        api, "/backups", {"volume": "alpha", "to": "vault", "first": 16, "blocks": 1, "at": 100}
    )
    found = disks["vault"].read_bytes()
    expected = bytearray(len(DATA))
    expected[8 * 512 : 12 * 512] = DATA[8 * 512 : 12 * 512]
    expected[100 * 512 : 101 * 512] = DATA[16 * 512 : 17 * 512]
    assert found == bytes(expected)


async def test_restore_brings_back_what_was_lost(
    api: httpx.AsyncClient, disks: dict[str, Path]
) -> None:
    backup = await run(api, "/backups", {"volume": "alpha", "to": "vault"})
    disks["a"].write_bytes(bytes(len(DATA)))
    job = await run(api, f"/backups/{backup['id']}/restore", {})
    assert (job["type"], job["state"]) == ("restore", "done")
    assert (job["source"], job["destination"]) == ("vault", "alpha")
    assert disks["a"].read_bytes() == DATA


async def test_restore_goes_elsewhere_when_told(
    api: httpx.AsyncClient, disks: dict[str, Path]
) -> None:
    backup = await run(api, "/backups", {"volume": "alpha", "to": "vault"})
    await run(api, f"/backups/{backup['id']}/restore", {"to": "spare"})
    assert disks["spare"].read_bytes() == DATA


async def test_overwritten_backup_is_not_restored_unless_forced(
    api: httpx.AsyncClient, disks: dict[str, Path]
) -> None:
    first = await run(api, "/backups", {"volume": "alpha", "to": "vault"})
    apart = await run(api, "/backups", {"volume": "alpha", "to": "spare", "first": 0, "blocks": 8})
    beside = await run(api, "/backups", {"volume": "alpha", "to": "spare", "first": 8, "blocks": 8})
    over = await run(api, "/backups", {"volume": "alpha", "to": "vault", "first": 0, "blocks": 1})
    states = {b["id"]: (b["restorable"], b["why_not"]) for b in (await api.get("/backups")).json()}
    assert states == {
        first["id"]: (False, f"job {over['id']} (backup) wrote over it"),
        apart["id"]: (True, ""),
        beside["id"]: (True, ""),
        over["id"]: (True, ""),
    }
    refused = await api.post(f"/backups/{first['id']}/restore", json={})
    assert refused.status_code == 409
    assert "--force" in refused.json()["next_step"]
    forced = await run(api, f"/backups/{first['id']}/restore", {"force": True})
    assert forced["state"] == "done"


async def test_copy_over_a_volume_that_is_not_named_is_refused(
    api: httpx.AsyncClient, disks: dict[str, Path]
) -> None:
    extents = [{"device": "spare/0", "lba": 1000, "blocks": 10}]
    await api.post("/volumes", json={"how": "by-hand", "name": "beta", "extents": extents})
    over = {"source": "vault", "destination": "spare", "blocks": 1001}
    answer = await api.post("/copies", json=over)
    assert answer.status_code == 409
    assert "beta" in answer.json()["detail"]
    assert (await api.post("/plans", json={"type": "copy", **over})).status_code == 409
    beside = await run(api, "/copies", over | {"blocks": 1000})
    assert beside["state"] == "done"
    named = await run(api, "/copies", {"source": "vault", "destination": "beta", "blocks": 10})
    assert named["state"] == "done"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param({"volume": "none", "to": "vault"}, 404, id="no-such-volume"),
        pytest.param({"volume": "alpha", "to": "none"}, 404, id="no-such-device"),
        pytest.param(
            {"volume": "alpha", "to": "vault", "first": 2048, "blocks": 1}, 422, id="beyond-source"
        ),
        pytest.param(
            {"volume": "alpha", "to": "vault", "blocks": 8, "at": 2041}, 422, id="beyond-device"
        ),
        pytest.param({"volume": "alpha", "to": "vault", "first": -1}, 422, id="negative-block"),
        pytest.param({"volume": "alpha", "to": "vault", "blocks": 0}, 422, id="no-blocks"),
        pytest.param({"volume": "alpha", "to": "vault", "mode": "warp"}, 422, id="no-such-mode"),
        pytest.param({"volume": "alpha"}, 422, id="nowhere"),
    ],
)
async def test_backup_that_cannot_be_is_refused_and_leaves_no_job(
    api: httpx.AsyncClient, disks: dict[str, Path], body: dict[str, Any], status: int
) -> None:
    answer = await api.post("/backups", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
    assert (await api.get("/jobs")).json() == []


async def test_explain_gives_the_plan_and_runs_nothing(
    api: httpx.AsyncClient, disks: dict[str, Path]
) -> None:
    body = {"type": "backup", "volume": "alpha", "to": "vault"}
    plan = (await api.post("/plans", json=body)).json()
    assert (plan["type"], plan["blocks"], plan["blocks_delegated"]) == ("backup", 2048, 0)
    (step,) = plan["steps"]
    assert (step["executor"], step["delegated"]) == ("this controller", False)
    assert step["reason"]
    assert (await api.get("/jobs")).json() == []
    assert disks["vault"].read_bytes() == bytes(len(DATA))


async def test_plan_of_a_restore_is_the_plan_of_what_then_runs(
    api: httpx.AsyncClient, disks: dict[str, Path]
) -> None:
    backup = await run(api, "/backups", {"volume": "alpha", "to": "vault"})
    body = {"type": "restore", "backup": backup["id"]}
    plan = (await api.post("/plans", json=body)).json()
    job = await run(api, f"/backups/{backup['id']}/restore", {})
    planned = [(s["source"], s["destination"], s["blocks"], s["executor"]) for s in plan["steps"]]
    ran = [(s["source"], s["destination"], s["blocks"], s["executor"]) for s in job["steps"]]
    assert planned == ran


async def test_running_job_is_cancelled_once(
    system: System, api: httpx.AsyncClient, attach: Attach
) -> None:
    # Larger than all transfers in flight together, so that something is left to be cancelled.
    await attach("large", 64 << 20)
    await attach("vault", 64 << 20)
    held = Held(system, "vault")
    id = (await api.post("/backups", json={"volume": "large", "to": "vault"})).json()["id"]
    await held.reached.wait()
    cancelling = asyncio.ensure_future(api.post(f"/jobs/{id}/cancel"))
    await system.copy_manager._in_hand._live[id].halt.wait()
    held.let_go()  # what is in flight comes to its end first
    answer = await cancelling
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "cancelled"
    assert answer.json()["confirmed_blocks"] < answer.json()["blocks"]
    again = await api.post(f"/jobs/{id}/cancel")
    assert again.status_code == 409
    backup = (await api.get(f"/backups/{id}")).json()
    assert (backup["restorable"], backup["why_not"]) == (False, "it was cancelled")
    refused = await api.post(f"/backups/{id}/restore", json={"force": True})
    assert refused.status_code == 409


async def test_unchanged_job_is_answered_with_304_and_no_body(
    system: System, api: httpx.AsyncClient, disks: dict[str, Path]
) -> None:
    job = await run(api, "/backups", {"volume": "alpha", "to": "vault"})
    await system.copy_manager.wait(job["id"])
    first = await api.get(f"/jobs/{job['id']}")
    again = await api.get(
        f"/jobs/{job['id']}",
        params={"wait": 30},
        headers={"If-None-Match": first.headers["ETag"]},
    )
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]


async def test_wait_is_answered_when_the_job_moves(api: httpx.AsyncClient, held: Held) -> None:
    id = (await api.post("/backups", json={"volume": "alpha", "to": "vault"})).json()["id"]
    tag = (await api.get(f"/jobs/{id}")).headers["ETag"]
    waiting = asyncio.ensure_future(
        api.get(f"/jobs/{id}", params={"wait": 30}, headers={"If-None-Match": tag})
    )
    held.let_go()
    news = await waiting
    assert news.status_code == 200
    assert news.headers["ETag"] != tag


async def test_wait_for_the_end_is_not_answered_before(api: httpx.AsyncClient, held: Held) -> None:
    id = (await api.post("/backups", json={"volume": "alpha", "to": "vault"})).json()["id"]
    early = await api.get(f"/jobs/{id}", params={"ended": True})
    assert early.json()["state"] in ("queued", "running")
    waiting = asyncio.ensure_future(
        api.get(f"/jobs/{id}", params={"ended": True, "wait": 30, "steps": False})
    )
    await held.reached.wait()
    held.let_go()
    job = (await waiting).json()
    assert (job["state"], job["steps"], job["copied_blocks"]) == ("done", [], 2048)


async def test_tag_of_another_process_is_news_at_once(api: httpx.AsyncClient, held: Held) -> None:
    id = (await api.post("/backups", json={"volume": "alpha", "to": "vault"})).json()["id"]
    answer = await api.get(
        f"/jobs/{id}", params={"wait": 30}, headers={"If-None-Match": '"00000000-1"'}
    )
    assert answer.status_code == 200


async def test_events_tell_the_job_until_it_has_ended(
    api: httpx.AsyncClient, disks: dict[str, Path]
) -> None:
    id = (await api.post("/backups", json={"volume": "alpha", "to": "vault"})).json()["id"]
    answer = await api.get(f"/jobs/{id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [
        json.loads(line.removeprefix("data: "))
        for line in answer.text.splitlines()
        if line.startswith("data: ")
    ]
    assert events[-1]["state"] == "done"
    done = [event["confirmed_blocks"] for event in events]
    assert done == sorted(done)
    assert done[-1] == 2048


async def test_jobs_are_listed_newest_first_by_type_state_and_page(
    api: httpx.AsyncClient, disks: dict[str, Path]
) -> None:
    for _ in range(2):
        await run(api, "/backups", {"volume": "alpha", "to": "vault"})
    await run(api, "/copies", {"source": "vault", "destination": "spare"})

    async def ids(**query: Any) -> list[int]:
        return [job["id"] for job in (await api.get("/jobs", params=query)).json()]

    assert await ids() == [3, 2, 1]
    assert await ids(type="backup") == [2, 1]
    assert await ids(type="backup", limit=1) == [2]
    assert await ids(before=2) == [1]
    assert await ids(state="done") == [3, 2, 1]
    assert await ids(state="running") == []
    assert [copy["id"] for copy in (await api.get("/copies")).json()] == [3]
    assert (await api.get("/jobs", params={"state": "odd"})).status_code == 422


async def test_job_of_another_kind_is_not_found_under_that_noun(
    api: httpx.AsyncClient, disks: dict[str, Path]
) -> None:
    job = await run(api, "/copies", {"source": "vault", "destination": "spare"})
    answer = await api.get(f"/backups/{job['id']}")
    assert answer.status_code == 404
    assert f"daiko job show {job['id']}" in answer.json()["next_step"]
    assert (await api.get("/jobs/99")).status_code == 404


async def test_backend_with_a_running_job_is_not_detached(
    api: httpx.AsyncClient, held: Held
) -> None:
    id = (await api.post("/backups", json={"volume": "alpha", "to": "vault"})).json()["id"]
    answer = await api.delete("/backends/vault")
    assert answer.status_code == 409
    assert f"job {id}" in answer.json()["detail"]


# --- the pace


async def held_back(api: httpx.AsyncClient, id: int) -> dict[str, Any]:
    """The job as soon as its pace is what limits it."""
    tag = ""
    while True:
        answer = await api.get(
            f"/jobs/{id}", params={"wait": 20 if tag else 0}, headers={"If-None-Match": tag}
        )
        if answer.status_code == 200:
            tag = answer.headers["ETag"]
            job: dict[str, Any] = answer.json()
            if job["limited_by"]:
                return job


async def test_job_goes_at_its_pace_until_that_is_changed(
    api: httpx.AsyncClient, disks: dict[str, Path]
) -> None:
    body = {"volume": "alpha", "to": "vault", "pace": "1 k/s"}
    id = (await api.post("/backups", json=body)).json()["id"]
    job = await held_back(api, id)
    assert (job["pace"], job["limited_by"]) == ("1KiB/s", "rate")
    assert job["paced_bytes_per_second"] == 1024
    assert job["request"]["pace"] == "1KiB/s"
    changed = await api.patch(f"/jobs/{id}", json={"pace": "2KiB/s,latency:5ms"})
    assert changed.status_code == 200, changed.text
    assert changed.json()["pace"] == "2KiB/s,latency:5ms"
    listed = {job["id"]: job["pace"] for job in (await api.get("/jobs")).json()}
    assert listed == {id: "2KiB/s,latency:5ms"}
    await api.patch(f"/jobs/{id}", json={"pace": "full"})
    job = await ended(api, id)
    assert (job["state"], job["pace"]) == ("done", "full")
    assert (job["limited_by"], job["paced_bytes_per_second"]) == (None, None)
    assert disks["vault"].read_bytes() == DATA


@pytest.mark.parametrize("path", ["/copies", "/backups/1/restore"])
async def test_copies_and_restores_have_a_pace_too(
    api: httpx.AsyncClient, disks: dict[str, Path], path: str
) -> None:
    await run(api, "/backups", {"volume": "alpha", "to": "vault"})
    body = {"source": "alpha", "destination": "spare"} if path == "/copies" else {"to": "spare"}
    job = await run(api, path, {**body, "pace": "100GB/s"})
    assert (job["state"], job["pace"]) == ("done", "100GB/s")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/backups", {"volume": "alpha", "to": "vault"}),
        ("POST", "/copies", {"source": "alpha", "destination": "spare"}),
        ("POST", "/backups/1/restore", {}),
        ("POST", "/plans", {"type": "backup", "volume": "alpha", "to": "vault"}),
        ("PATCH", "/jobs/1", {}),
    ],
)
async def test_what_is_no_pace_is_refused_with_what_is_right(
    api: httpx.AsyncClient, disks: dict[str, Path], method: str, path: str, body: dict[str, Any]
) -> None:
    await run(api, "/backups", {"volume": "alpha", "to": "vault"})
    answer = await api.request(method, path, json={**body, "pace": "50MiB"})
    assert answer.status_code == 422
    problem = answer.json()
    assert (problem["field"], problem["detail"]) == ("pace", "'50MiB' is not a pace")
    assert "50MiB/s,latency:5ms" in problem["next_step"]
    assert len((await api.get("/jobs")).json()) == 1


async def test_pace_of_a_job_that_has_ended_is_not_changed(
    api: httpx.AsyncClient, disks: dict[str, Path]
) -> None:
    job = await run(api, "/backups", {"volume": "alpha", "to": "vault"})
    answer = await api.patch(f"/jobs/{job['id']}", json={"pace": "1MiB/s"})
    assert answer.status_code == 409
    assert "done already" in answer.json()["detail"]
    assert (await api.patch("/jobs/99", json={"pace": "1MiB/s"})).status_code == 404
