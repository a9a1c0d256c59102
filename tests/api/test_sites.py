"""Sites over REST."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from daiko.api.app import create_app
from daiko.control.system import System

IQN = "iqn.2026-11.com.example:osaka"
SECRETS = ("the secret of tokyo", "the secret of osaka")
BODY: dict[str, Any] = {
    "name": "osaka",
    "address": f"iscsi://127.0.0.1:1/{IQN}",
    "chap": {"user": "tokyo", "secret": SECRETS[0]},
    "peer_chap": {"user": "osaka", "secret": SECRETS[1]},
}


async def test_site_is_named_shown_changed_asked_and_forgotten(api: httpx.AsyncClient) -> None:
    added = await api.post("/sites", json={**BODY, "portals": ["127.0.0.1:2"]})
    assert added.status_code == 201, added.text
    site = added.json()
    assert site["portals"] == ["127.0.0.1:1", "127.0.0.1:2"]
    assert (site["state"], site["protocol"], site["software"]) == ("down", "", "")
    assert (site["mode"], site["clock_difference"], site["logins"]) == (None, None, [])
    assert site["detail"]
    assert site["initiator"] == f"{IQN}.initiator"
    assert (site["chap"]["user"], site["peer_chap"]["user"]) == ("tokyo", "osaka")
    assert not any(secret in added.text for secret in SECRETS)
    listed = (await api.get("/sites")).json()
    assert [each["name"] for each in listed] == ["osaka"]
    changed = await api.patch("/sites/osaka", json={"initiator": "IQN.2026-11.com.example:O2"})
    assert changed.json()["initiator"] == "iqn.2026-11.com.example:o2"
    assert (await api.post("/sites/osaka/probe")).json()["state"] == "down"
    assert (await api.delete("/sites/osaka")).status_code == 204
    assert (await api.get("/sites/osaka")).status_code == 404


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        pytest.param({"peer_chap": None}, 422, "peer_chap", id="anybody"),
        pytest.param({"chap": None}, 422, "chap", id="nobody"),
        pytest.param({"name": "O s"}, 422, "name", id="name"),
        pytest.param({"address": "/dev/sda"}, 422, "address", id="no target"),
        pytest.param({"portals": ["h:x"]}, 422, "portals", id="portal"),
        pytest.param({"initiator": "disk"}, 422, "initiator", id="initiator"),
        pytest.param(
            {"peer_chap": BODY["chap"]}, 422, "peer_chap.secret", id="one secret for both"
        ),
        pytest.param({"chap": {"user": "t", "secret": "short"}}, 422, "chap.secret", id="short"),
        pytest.param({"colour": "red"}, 422, "colour", id="unknown field"),
        pytest.param(
            {"address": "iscsi://127.0.0.1:1/iqn.2026-11.com.example:first"}, 422, "address",
            id="this system",
        ),
    ],
)  # fmt: skip
async def test_site_that_cannot_be_is_refused_with_the_field(
    api: httpx.AsyncClient, changes: dict[str, Any], status: int, field: str
) -> None:
    answer = await api.post("/sites", json={**BODY, **changes})
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert field in {problem["field"], *(each["field"] for each in problem["errors"])}
    assert not any(secret in answer.text for secret in SECRETS)
    assert (await api.get("/sites")).json() == []


async def test_address_that_does_not_answer_must_have_an_iqn(api: httpx.AsyncClient) -> None:
    answer = await api.post("/sites", json={**BODY, "address": "iscsi://127.0.0.1:1"})
    assert answer.status_code == 503
    assert "write the IQN" in answer.json()["next_step"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        pytest.param("GET", "/sites/nara", None, 404, id="show"),
        pytest.param("POST", "/sites/nara/probe", None, 404, id="probe"),
        pytest.param("DELETE", "/sites/nara", None, 404, id="rm"),
        pytest.param("PATCH", "/sites/nara", {"without_chap": True}, 404, id="set"),
        pytest.param("PATCH", "/sites/nara", {}, 422, id="nothing"),
        pytest.param("PATCH", "/sites/nara", {"portals": []}, 422, id="nowhere"),
    ],
)
async def test_what_is_not_there_is_not_found(
    api: httpx.AsyncClient, method: str, path: str, body: Any, status: int
) -> None:
    assert (await api.request(method, path, json=body)).status_code == status


def test_description_has_the_sites(system: System) -> None:
    described = create_app(system).openapi()
    assert {"/v1/sites", "/v1/sites/{name}", "/v1/sites/{name}/probe"} <= set(described["paths"])
    view = described["components"]["schemas"]["SiteView"]["properties"]
    assert "secret" not in str(view).replace("secret_is_set", "")
