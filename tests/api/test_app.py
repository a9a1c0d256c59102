"""The API as a whole: its description, who may use it, how it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from openapi_spec_validator import validate
from structlog.testing import capture_logs

from daiko.api.app import create_app
from daiko.control.system import System
from daiko.state.store import StoreError

Attach = Callable[..., Awaitable[Path]]


def client(
    system: System, *, token: str | None = None, host: str = "localhost", **headers: str
) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=create_app(system, token), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}/v1", headers=headers)


async def test_description_is_valid_openapi(api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    validate(document)
    assert document["openapi"].startswith("3.1")


async def test_every_operation_is_described_and_fails_with_problems(
    api: httpx.AsyncClient,
) -> None:
    document = (await api.get("/openapi.json")).json()
    operations = [o for path in document["paths"].values() for o in path.values()]
    assert len(operations) > 40
    assert len({o["operationId"] for o in operations}) == len(operations)
    for operation in operations:
        assert operation["description"]
        assert operation["tags"]
        for status, answer in operation["responses"].items():
            if status >= "400":
                assert list(answer["content"]) == ["application/problem+json"], operation


async def test_error_is_a_problem_document(api: httpx.AsyncClient) -> None:
    answer = await api.get("/volumes/none")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "urn:daiko:problem:not-found",
        "title": "No such thing",
        "status": 404,
        "detail": "no volume is called 'none'",
        "next_step": "there are no volumes yet: add one with `daiko volume add`",
        "field": "",
        "errors": [],
    }


async def test_unknown_path_is_a_problem_document(api: httpx.AsyncClient) -> None:
    answer = await api.get("/nowhere")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:daiko:problem:not-found")
    assert (await api.put("/volumes", json={})).status_code == 405


async def test_body_that_is_not_right_names_every_field_at_fault(api: httpx.AsyncClient) -> None:
    answer = await api.post("/hosts", json={"initiators": "x", "odd": 1})
    assert answer.status_code == 422
    assert {error["field"] for error in answer.json()["errors"]} == {"name", "initiators", "odd"}
    assert (await api.post("/hosts", content=b"{")).status_code == 422


async def test_store_that_fails_is_said_and_nothing_is_changed(
    system: System, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise StoreError("no space left on device")

    monkeypatch.setattr(system.store, "_commit", full)
    answer = await api.post("/hosts", json={"name": "h", "initiators": ["*"]})
    assert answer.status_code == 500
    assert answer.json()["detail"] == "no space left on device"
    monkeypatch.undo()
    assert (await api.get("/hosts")).json() == []


async def test_fault_of_our_own_is_a_problem_and_not_a_broken_connection(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(system, "sessions", broken)
    with capture_logs() as logged:
        async with client(system) as own:
            answer = await own.get("/system")
    assert [(line["event"], line["path"]) for line in logged] == [("request_failed", "/v1/system")]
    assert answer.status_code == 500
    assert answer.json()["detail"] == "RuntimeError: a fault"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 401, id="no-token"),
        pytest.param({"Authorization": "Bearer wrong"}, 401, id="wrong-token"),
        pytest.param({"Authorization": "Bearer "}, 401, id="empty-token"),
        pytest.param({"Authorization": "Basic c2VjcmV0"}, 401, id="another-scheme"),
        pytest.param({"Authorization": "Bearer s\u00e9cret"}, 200, id="right-token"),
    ],
)
async def test_api_with_a_token_serves_only_who_has_it(
    system: System, headers: dict[str, str], status: int
) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    async with client(system, token="s\u00e9cret", host="array1.example") as other:
        answer = await other.get("/system", headers=encoded)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "iqn" not in answer.text


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [
        pytest.param("localhost:80", {}, 200, id="localhost"),
        pytest.param("127.0.0.1:8080", {}, 200, id="loopback"),
        pytest.param("[::1]:8080", {}, 200, id="loopback-6"),
        pytest.param(
            "127.0.0.1.evil.example:8080",
            {"Origin": "http://127.0.0.1.evil.example:8080"},
            403,
            id="name-that-begins-like-loopback",
        ),
        pytest.param("localhost", {"Host": "["}, 403, id="name-that-is-none"),
        pytest.param("localhost", {"Origin": "http://["}, 403, id="page-of-a-site-that-is-none"),
        pytest.param("daiko", {}, 200, id="unix-socket"),
        pytest.param("evil.example", {}, 403, id="name-that-was-pointed-here"),
        pytest.param(
            "localhost", {"Origin": "http://evil.example"}, 403, id="page-of-another-site"
        ),
        pytest.param("localhost", {"Origin": "null"}, 403, id="page-without-a-site"),
        pytest.param("localhost", {"Origin": "http://localhost"}, 200, id="page-of-its-own"),
    ],
)
async def test_api_without_a_token_serves_this_machine_but_no_web_page_of_others(
    system: System, host: str, headers: dict[str, str], status: int
) -> None:
    async with client(system, host=host, **headers) as browser:
        assert (await browser.get("/system")).status_code == status


async def test_system_tells_what_there_is(api: httpx.AsyncClient, attach: Attach) -> None:
    await attach("a")
    await api.post("/volumes", json={"how": "image", "name": "alpha", "device": "a/0"})
    await api.post("/hosts", json={"name": "h", "initiators": ["*"], "luns": {"0": "alpha"}})
    found = (await api.get("/system")).json()
    assert (found["backends"], found["volumes"], found["hosts"]) == (1, 1, 1)
    assert found["volume_bytes"] == 1 << 20
    assert found["unreachable"] == []
    assert found["mode"] == "delegate"


async def test_exported_system_applies_to_itself_without_a_change(
    api: httpx.AsyncClient, attach: Attach
) -> None:
    await attach("a")
    await api.post("/volumes", json={"how": "image", "name": "alpha", "device": "a/0"})
    await api.post("/hosts", json={"name": "h", "initiators": ["*"], "luns": {"0": "alpha"}})
    exported = await api.get("/export")
    assert exported.headers["content-type"].startswith("application/toml")
    assert (await api.post("/apply", json={"toml": exported.text})).json()["changes"] == []
    without = exported.text[: exported.text.index("[host")]
    dry = (await api.post("/apply", json={"toml": without, "dry_run": True})).json()
    assert [(c["action"], c["kind"], c["name"]) for c in dry["changes"]] == [
        ("remove", "host", "h")
    ]
    assert len((await api.get("/hosts")).json()) == 1
    kept = (await api.post("/apply", json={"toml": without, "prune": False})).json()
    assert kept["changes"] == []
    done = (await api.post("/apply", json={"toml": without})).json()
    assert done["changes"] == dry["changes"]
    assert (await api.get("/hosts")).json() == []


async def test_system_file_that_is_not_right_changes_nothing(api: httpx.AsyncClient) -> None:
    for text in ("[[[", "[volume.x]\nsize = 1\n", "[nonsense]\n"):
        answer = await api.post("/apply", json={"toml": text})
        assert answer.status_code == 422, text
