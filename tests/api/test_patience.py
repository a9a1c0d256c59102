"""How long hosts and back ends may take: set, kept, exported, and at work at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from daiko.control.system import System
from daiko.state.record import JobRecord, JobState
from processes import Daiko, image

ISCSI = """
[backend.sd]
iqn = "{iqn}"
portals = ["{portal}"]
"""


async def apply(api: httpx.AsyncClient, toml: str) -> Any:
    answer = await api.post("/apply", json={"toml": toml, "dry_run": False, "prune": False})
    return answer.json().get("changes", answer.json())


async def test_pings_of_hosts_are_changed_at_once_and_exported(
    api: httpx.AsyncClient, system: System
) -> None:
    before = (await api.get("/system")).json()
    assert (before["ping_interval"], before["ping_timeout"]) == (60, 60)
    answer = await api.patch("/system", json={"ping_interval": 10, "ping_timeout": 2.5})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["ping_interval"], answer.json()["mode"]) == (10, before["mode"])
    assert (system._target.ping_interval, system._target.ping_timeout) == (10, 2.5)
    text = (await api.get("/export")).text
    assert "ping_interval = 10.0" in text
    assert await apply(api, text) == []
    (change,) = await apply(api, text.replace("ping_timeout = 2.5", "ping_timeout = 5.0"))
    assert change["kind"] == "system"
    assert system._target.ping_timeout == 5.0
    answer = await api.patch("/system", json={"mode": "direct"})
    assert (answer.json()["mode"], answer.json()["ping_timeout"]) == ("direct", 5.0)


async def test_fewer_jobs_are_kept_as_soon_as_that_is_asked_for(
    api: httpx.AsyncClient, system: System
) -> None:
    assert (await api.get("/system")).json()["jobs_kept"] == 1000
    for number in range(1, 8):
        await system.store.put(
            JobRecord(
                id=number, type="copy", asked_by="administrator", source="a/0", destination="b/0",
                request={}, state=JobState.FAILED, finished=float(number),
            )
        )  # fmt: skip
    assert (await api.patch("/system", json={"jobs_kept": 3})).json()["jobs_kept"] == 3
    await system.copy_manager.retention.stop(20)
    assert [job["id"] for job in (await api.get("/jobs")).json()] == [7, 6, 5]
    text = (await api.get("/export")).text
    assert "jobs_kept = 3" in text
    assert await apply(api, text) == []


@pytest.mark.parametrize(
    "body", [{"ping_interval": 0}, {"ping_timeout": 3601}, {"iqn": "iqn.x"}, {"jobs_kept": 0}]
)
async def test_what_cannot_be_is_refused(api: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await api.patch("/system", json=body)
    assert answer.status_code == 422
    assert answer.json()["field"] == next(iter(body))


async def test_patience_with_a_back_end_is_changed_at_once_and_kept(
    api: httpx.AsyncClient, system: System, tmp_path: Path
) -> None:
    with Daiko(tmp_path, image(tmp_path / "a.img", 1 << 20), mode="local", name="sd") as second:
        address = f"iscsi://{second.portal}/{second.iqn}"
        answer = await api.post("/backends", json={"name": "sd", "address": address})
        assert answer.status_code == 201, answer.text
        assert answer.json()["patience"] == {
            "command": 30, "abort": 15, "reset": 30, "ping_interval": 5, "ping_timeout": 10,
            "reconnect": 30,
        }  # fmt: skip
        answer = await api.patch(
            "/backends/sd", json={"patience": {"abort": 120, "command": 60, "reconnect": 4}}
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["patience"]["abort"] == 120
        controller = system._inventory.attachment("sd").controller
        assert controller is not None
        assert (controller.settings.abort_timeout, controller.command_timeout) == (120, 60)
        assert controller._paths.settings.grace == 4
        session = controller._paths.session
        assert session is not None
        assert session.upkeep.settings.abort_timeout == 120
        text = (await api.get("/export")).text
        assert await apply(api, text) == []
        (change,) = await apply(api, text.replace("abort = 120.0", "abort = 45.0"))
        assert (change["action"], change["kind"], change["name"]) == ("change", "backend", "sd")
        shown = (await api.get("/backends/sd")).json()["patience"]
        assert (shown["abort"], shown["command"]) == (45, 60)
        assert controller.settings.abort_timeout == 45
        # What is looked at again keeps them.
        assert (await api.post("/backends/sd/rescan")).json()["patience"]["abort"] == 45
        answer = await api.patch("/backends/sd", json={"patience": {"abort": 0}})
        assert (answer.status_code, answer.json()["field"]) == (422, "patience.abort")


async def test_own_disk_has_no_time_limits(
    api: httpx.AsyncClient, attach: Callable[..., Any]
) -> None:
    await attach("a")
    answer = await api.patch("/backends/a", json={"patience": {"abort": 20}})
    assert answer.status_code == 422
    assert (await api.patch("/backends/b", json={"patience": {}})).status_code == 404
