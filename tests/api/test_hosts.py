"""Hosts over REST: names, LUNs, rights."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

Attach = Callable[..., Awaitable[Path]]
IQN = "iqn.1993-08.org.debian:01:abc"


@pytest.fixture(autouse=True)
async def volumes(api: httpx.AsyncClient, attach: Attach) -> None:
    await attach("a")
    for number, name in enumerate(("alpha", "beta", "gamma")):
        extents = [{"device": "a/0", "lba": number * 100, "blocks": 100}]
        answer = await api.post(
            "/volumes", json={"how": "by-hand", "name": name, "extents": extents}
        )
        assert answer.status_code == 201, answer.text


async def test_host_is_known_by_names_in_lower_case(api: httpx.AsyncClient) -> None:
    answer = await api.post("/hosts", json={"name": "h", "initiators": [IQN.upper(), IQN]})
    assert answer.status_code == 201, answer.text
    assert answer.json() == {
        "name": "h",
        "initiators": [IQN],
        "luns": {},
        "portal_groups": [],
        "remote_copy": [],
        "logins": [],
        "chap": None,
    }


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        pytest.param({"name": "h", "initiators": []}, 422, "initiators", id="no-initiator"),
        pytest.param({"name": "h", "initiators": ["disk1"]}, 422, "initiators", id="no-iqn"),
        pytest.param({"name": "h h", "initiators": [IQN]}, 422, "name", id="bad-name"),
        pytest.param({"name": "old", "initiators": [IQN]}, 409, "name", id="name-taken"),
        pytest.param({"name": "h", "initiators": ["*"]}, 409, "initiators", id="initiator-taken"),
        pytest.param(
            {"name": "h", "initiators": [IQN], "luns": {"0": "none"}}, 404, "", id="no-volume"
        ),
        pytest.param(
            {"name": "h", "initiators": [IQN], "luns": {"16384": "alpha"}},
            422,
            "lun",
            id="lun-too-large",
        ),
        pytest.param(
            {"name": "h", "initiators": [IQN], "portal_groups": [2]},
            404,
            "portal_groups",
            id="no-portal-group",
        ),
        pytest.param(
            {"name": "h", "initiators": [IQN], "remote_copy": ["h:x"]},
            422,
            "portals",
            id="bad-portal",
        ),
    ],
)
async def test_host_that_cannot_be_is_refused_and_not_made(
    api: httpx.AsyncClient, body: dict[str, Any], status: int, field: str
) -> None:
    await api.post("/hosts", json={"name": "old", "initiators": ["*"]})
    answer = await api.post("/hosts", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["field"] == field
    assert [host["name"] for host in (await api.get("/hosts")).json()] == ["old"]


async def test_volume_is_mapped_to_the_lowest_free_lun(api: httpx.AsyncClient) -> None:
    await api.post("/hosts", json={"name": "h", "initiators": [IQN], "luns": {"1": "beta"}})
    first = await api.post("/hosts/h/luns", json={"volume": "alpha"})
    second = await api.post("/hosts/h/luns", json={"volume": "gamma"})
    assert (first.json()["lun"], second.json()["lun"]) == (0, 2)
    assert second.json()["host"]["luns"] == {"0": "alpha", "1": "beta", "2": "gamma"}


async def test_mapping_again_changes_nothing(api: httpx.AsyncClient) -> None:
    await api.post("/hosts", json={"name": "h", "initiators": [IQN], "luns": {"5": "beta"}})
    for body in ({"volume": "beta"}, {"volume": "beta", "lun": 5}):
        answer = await api.post("/hosts/h/luns", json=body)
        assert (answer.status_code, answer.json()["lun"]) == (200, 5)
        assert answer.json()["host"]["luns"] == {"5": "beta"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param({"volume": "alpha", "lun": 5}, 409, id="lun-taken"),
        pytest.param({"volume": "beta", "lun": 6}, 409, id="volume-under-another-lun"),
        pytest.param({"volume": "none"}, 404, id="no-such-volume"),
        pytest.param({"volume": "alpha", "lun": -1}, 422, id="negative-lun"),
    ],
)
async def test_mapping_that_cannot_be_is_refused(
    api: httpx.AsyncClient, body: dict[str, Any], status: int
) -> None:
    await api.post("/hosts", json={"name": "h", "initiators": [IQN], "luns": {"5": "beta"}})
    answer = await api.post("/hosts/h/luns", json=body)
    assert answer.status_code == status, answer.text
    assert (await api.get("/hosts/h")).json()["luns"] == {"5": "beta"}


@pytest.mark.parametrize("path", ["/hosts/h/luns/5", "/hosts/h/volumes/beta"])
async def test_volume_is_unmapped_by_lun_or_name(api: httpx.AsyncClient, path: str) -> None:
    luns = {"5": "beta", "6": "alpha"}
    await api.post("/hosts", json={"name": "h", "initiators": [IQN], "luns": luns})
    answer = await api.delete(path)
    assert answer.status_code == 200
    assert answer.json()["luns"] == {"6": "alpha"}
    assert (await api.delete(path)).status_code == 404


async def test_right_to_copy_elsewhere_is_given_and_taken_back(api: httpx.AsyncClient) -> None:
    await api.post("/hosts", json={"name": "h", "initiators": [IQN]})
    given = await api.post("/hosts/h/remote-copy", json={"portals": ["10.0.0.9", "[fd00::1]:99"]})
    assert given.json()["remote_copy"] == ["10.0.0.9:3260", "[fd00::1]:99"]
    again = await api.post("/hosts/h/remote-copy", json={"portals": ["10.0.0.9:3260", "*"]})
    assert again.json()["remote_copy"] == ["10.0.0.9:3260", "[fd00::1]:99", "*"]
    less = await api.delete("/hosts/h/remote-copy", params={"portal": ["10.0.0.9", "*"]})
    assert less.json()["remote_copy"] == ["[fd00::1]:99"]
    missing = await api.delete("/hosts/h/remote-copy", params={"portal": "10.0.0.9"})
    assert missing.status_code == 404
    none = await api.delete("/hosts/h/remote-copy")
    assert none.json()["remote_copy"] == []


async def test_host_is_forgotten(api: httpx.AsyncClient) -> None:
    await api.post("/hosts", json={"name": "h", "initiators": [IQN], "luns": {"0": "alpha"}})
    assert (await api.delete("/hosts/h")).status_code == 204
    assert (await api.get("/hosts/h")).status_code == 404
    assert (await api.get("/volumes/alpha")).json()["mapped_to"] == []


async def test_two_mappings_at_once_do_not_lose_one_another(api: httpx.AsyncClient) -> None:
    await api.post("/hosts", json={"name": "h", "initiators": [IQN]})
    answers = await asyncio.gather(
        *(api.post("/hosts/h/luns", json={"volume": v}) for v in ("alpha", "beta", "gamma"))
    )
    assert sorted(answer.json()["lun"] for answer in answers) == [0, 1, 2]
    assert sorted((await api.get("/hosts/h")).json()["luns"].values()) == [
        "alpha",
        "beta",
        "gamma",
    ]


async def test_host_gets_other_names_and_keeps_its_luns(api: httpx.AsyncClient) -> None:
    await api.post("/hosts", json={"name": "h", "initiators": [IQN], "luns": {"5": "beta"}})
    await api.post("/hosts", json={"name": "other", "initiators": ["*"]})
    other = f"{IQN}:new"
    changed = await api.patch("/hosts/h", json={"initiators": [other, IQN]})
    assert changed.status_code == 200, changed.text
    assert (changed.json()["initiators"], changed.json()["luns"]) == ([other, IQN], {"5": "beta"})
    for initiators, status in (([], 422), (["*"], 409), (["disk"], 422)):
        refused = await api.patch("/hosts/h", json={"initiators": initiators})
        assert refused.status_code == status
    assert (await api.get("/hosts/h")).json()["initiators"] == [other, IQN]
    assert (await api.patch("/hosts/none", json={"initiators": [IQN]})).status_code == 404
