"""Back ends over REST: attach, look, rescan, detach."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

Attach = Callable[..., Awaitable[Path]]


async def test_backend_over_a_file_is_attached_with_one_device(
    api: httpx.AsyncClient, disk: Callable[..., Path]
) -> None:
    path = disk("d", 3 << 20)
    answer = await api.post("/backends", json={"name": "d", "address": str(path)})
    assert answer.status_code == 201
    backend = answer.json()
    assert (backend["name"], backend["type"], backend["path"]) == ("d", "internal", str(path))
    assert backend["connected"] is True
    assert [(d["lun"], d["block_size"], d["blocks"]) for d in backend["devices"]] == [
        (0, 512, 6144)
    ]
    assert (await api.get("/backends")).json() == [backend]
    assert (await api.get("/backends/d")).json() == backend


async def test_backend_with_blocks_of_4096_bytes_counts_in_them(
    api: httpx.AsyncClient, disk: Callable[..., Path]
) -> None:
    answer = await api.post(
        "/backends", json={"name": "d", "address": str(disk("d")), "block_size": 4096}
    )
    assert answer.json()["devices"][0]["blocks"] == 256


async def test_preallocated_file_has_all_of_its_room(
    api: httpx.AsyncClient, disk: Callable[..., Path]
) -> None:
    full, thin = disk("full"), disk("thin")
    for path, preallocate in ((full, True), (thin, False)):
        body = {"name": path.stem, "address": str(path), "preallocate": preallocate}
        assert (await api.post("/backends", json=body)).json()["preallocate"] is preallocate
    assert full.stat().st_blocks * 512 >= full.stat().st_size > thin.stat().st_blocks * 512


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        pytest.param({"name": "Big", "address": "/x"}, 422, "name", id="name-in-capitals"),
        pytest.param({"name": "x", "address": "x.img"}, 422, "address", id="relative-path"),
        pytest.param(
            {"name": "x", "address": "/nowhere/x.img"}, 503, "", id="file-that-is-not-there"
        ),
        pytest.param(
            {"name": "x", "address": "/x", "block_size": 1000},
            422,
            "block_size",
            id="block-size-that-no-disk-has",
        ),
        pytest.param(
            {"name": "x", "address": "/x", "portals": ["h:1"]},
            422,
            "portals",
            id="file-with-a-portal",
        ),
        pytest.param(
            {"name": "x", "address": "iscsi://h/iqn.2026-11.com.example:a/3/4"},
            422,
            "address",
            id="too-long-a-path",
        ),
        pytest.param(
            {"name": "x", "address": "iscsi://h/disk"}, 422, "address", id="no-iscsi-name"
        ),
        pytest.param(
            {"name": "x", "address": "iscsi://h:70000/iqn.2026-11.com.example:a"},
            422,
            "address",
            id="port-beyond-65535",
        ),
        pytest.param(
            {
                "name": "x",
                "address": "iscsi://h/iqn.2026-11.com.example:a",
                "portals": ["h:port"],
            },
            422,
            "portals",
            id="portal-without-a-number",
        ),
    ],
)
async def test_backend_that_cannot_be_is_refused_and_not_attached(
    api: httpx.AsyncClient, body: dict[str, object], status: int, field: str
) -> None:
    answer = await api.post("/backends", json=body)
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert problem["field"] == field
    assert problem["next_step"]
    assert (await api.get("/backends")).json() == []


async def test_name_and_file_are_attached_once_only(
    api: httpx.AsyncClient, attach: Attach, disk: Callable[..., Path]
) -> None:
    path = await attach("d")
    same_name = await api.post("/backends", json={"name": "d", "address": str(disk("other"))})
    same_file = await api.post("/backends", json={"name": "e", "address": str(path)})
    assert (same_name.status_code, same_file.status_code) == (409, 409)
    assert "'d'" in same_file.json()["detail"]
    assert [backend["name"] for backend in (await api.get("/backends")).json()] == ["d"]


async def test_backend_in_use_stays_and_says_by_whom(
    api: httpx.AsyncClient, attach: Attach
) -> None:
    await attach("d")
    await api.post("/volumes", json={"how": "image", "name": "alpha", "device": "d/0"})
    answer = await api.delete("/backends/d")
    assert answer.status_code == 409
    assert "alpha" in answer.json()["detail"]
    assert "daiko volume rm alpha" in answer.json()["next_step"]
    assert (await api.get("/backends/d")).json()["used_by"] == ["alpha"]
    await api.delete("/volumes/alpha")
    assert (await api.delete("/backends/d")).status_code == 204
    assert (await api.get("/backends/d")).status_code == 404


async def test_rescan_sees_a_device_that_has_grown(api: httpx.AsyncClient, attach: Attach) -> None:
    path = await attach("d", 1 << 20)
    with path.open("r+b") as file:
        file.truncate(2 << 20)
    one = await api.post("/backends/d/rescan")
    assert one.status_code == 200, one.text
    assert one.json()["devices"][0]["blocks"] == 4096
    everything = await api.post("/backends/rescan")
    assert [backend["name"] for backend in everything.json()] == ["d"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/backends/none"),
        ("DELETE", "/backends/none"),
        ("POST", "/backends/none/probe"),
        ("POST", "/backends/none/rescan"),
        ("GET", "/functions/none"),
    ],
)
async def test_backend_that_is_not_there_is_not_found_and_the_others_are_named(
    api: httpx.AsyncClient, attach: Attach, method: str, path: str
) -> None:
    await attach("d")
    answer = await api.request(method, path)
    assert answer.status_code == 404
    assert "none" in answer.json()["detail"]
    assert "d" in answer.json()["next_step"]


async def test_disk_of_this_controller_has_no_functions(
    api: httpx.AsyncClient, attach: Attach
) -> None:
    await attach("d")
    assert (await api.get("/functions")).json() == []
    answer = await api.put("/functions/d/direct-backup", json={"can": True})
    assert answer.status_code == 422
    assert answer.json()["field"] == "backend"


async def test_two_at_once_do_not_get_the_same_name(
    api: httpx.AsyncClient, disk: Callable[..., Path]
) -> None:
    bodies = [{"name": "d", "address": str(disk(f"disk{number}"))} for number in range(3)]
    answers = await asyncio.gather(*(api.post("/backends", json=body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
    (backend,) = (await api.get("/backends")).json()
    made = next(answer.json() for answer in answers if answer.status_code == 201)
    assert backend["path"] == made["path"]


async def test_rescan_of_all_goes_on_when_one_does_not_answer(
    api: httpx.AsyncClient, attach: Attach
) -> None:
    gone = await attach("a")
    grown = await attach("b")
    gone.unlink()
    with grown.open("r+b") as file:
        file.truncate(2 << 20)
    found = {backend["name"]: backend for backend in (await api.post("/backends/rescan")).json()}
    assert found["b"]["devices"][0]["blocks"] == 4096
    assert found["a"]["devices"][0]["blocks"] == 2048
