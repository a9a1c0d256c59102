"""Portals over REST."""

from __future__ import annotations

import httpx
import pytest

from daiko.control.system import System

FIRST = {"portal": "127.0.0.1:3260", "listening": False}


async def test_portals_are_added_moved_and_removed(api: httpx.AsyncClient) -> None:
    made = await api.post("/portals", json={"portal": "[::1]:3261", "tag": 2})
    assert made.status_code == 201, made.text
    assert made.json() == {
        "tag": 2,
        "portals": [{"portal": "[::1]:3261", "listening": False}],
        "target_port_group": 2,
        "sessions": [],
    }
    assert [group["tag"] for group in (await api.get("/portal-groups")).json()] == [1, 2]
    changed = await api.patch("/portal-groups/2", json={"target_port_group": 1})
    assert changed.json()["target_port_group"] == 1
    moved = await api.patch("/portals/[::1]:3261", json={"tag": 1})
    assert moved.json()["portals"] == [FIRST, {"portal": "[::1]:3261", "listening": False}]
    assert (await api.get("/portal-groups/2")).status_code == 404
    assert (await api.delete("/portals/[::1]:3261")).status_code == 204
    refused = await api.delete("/portals/127.0.0.1:3260")
    assert refused.status_code == 409
    assert "daiko portal add" in refused.json()["next_step"]


async def test_states_are_shown_and_changed(api: httpx.AsyncClient, system: System) -> None:
    await api.post("/portals", json={"portal": "127.0.0.1:3261", "tag": 2})
    changed = await api.patch("/target-port-groups/2", json={"state": "standby", "preferred": True})
    assert changed.json() == {
        "number": 2,
        "portal_groups": [2],
        "state": "standby",
        "preferred": True,
        "by_host": False,
        "volumes": [],
    }
    refused = await api.patch("/target-port-groups/1", json={"state": "unavailable"})
    assert (refused.status_code, refused.json()["field"]) == (409, "state")
    forced = await api.patch("/target-port-groups/1", json={"state": "standby", "force": True})
    assert forced.status_code == 200
    states = [group["state"] for group in (await api.get("/target-port-groups")).json()]
    assert states == ["standby", "standby"]
    none = await api.get("/target-port-groups", params={"volume": "none"})
    assert none.status_code == 404
    none = await api.patch("/volumes/none/target-port-groups/1", json={"state": "standby"})
    assert none.status_code == 404
    none = await api.delete("/volumes/none/target-port-groups/1")
    assert none.status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/portals/127.0.0.1:3260", {"tag": 0}),
        ("/portal-groups/1", {"target_port_group": 65536}),
        ("/target-port-groups/1", {"state": "sleeping"}),
        ("/hosts/any", {}),
    ],
)
async def test_request_that_makes_no_sense_is_refused(
    api: httpx.AsyncClient, path: str, body: dict[str, object]
) -> None:
    assert (await api.patch(path, json=body)).status_code == 422
