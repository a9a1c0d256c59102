"""CHAP over REST: what is set can be seen, the secrets cannot, anywhere."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from daiko.control.system import System
from daiko.state.record import CredentialRecord

IQN = "iqn.1993-08.org.debian:01:abc"
SECRET, OTHER = "secret of a host", "secret of array!"
ONE_WAY = {"user": "db1", "secret": SECRET}
MUTUAL = {**ONE_WAY, "mutual_user": "array", "mutual_secret": OTHER}


@pytest.fixture(autouse=True)
async def host(api: httpx.AsyncClient) -> None:
    for name, initiator in (("db1", IQN), ("db2", IQN + "2")):
        answer = await api.post("/hosts", json={"name": name, "initiators": [initiator]})
        assert answer.status_code == 201, answer.text


async def export(api: httpx.AsyncClient) -> str:
    return (await api.get("/export")).text


async def apply(api: httpx.AsyncClient, toml: str) -> Any:
    answer = await api.post("/apply", json={"toml": toml, "dry_run": False, "prune": True})
    return answer.json().get("changes", answer.json())


@pytest.mark.parametrize("owner", ["hosts/db1", "discovery"])
async def test_secrets_go_in_and_never_come_out(
    api: httpx.AsyncClient, owner: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = await api.put(f"/{owner}/chap", json=MUTUAL)
    assert answer.status_code == 200, answer.text
    shown = answer.json() if owner == "discovery" else answer.json()["chap"]
    assert shown == {
        "user": "db1", "secret_is_set": True,
        "mutual_user": "array", "mutual_secret_is_set": True,
    }  # fmt: skip
    texts = [answer.text, await export(api), caplog.text]
    for path in ("/hosts", "/hosts/db1", "/discovery/chap", "/system"):
        texts.append((await api.get(path)).text)
    for text in texts:
        assert SECRET not in text
        assert OTHER not in text
    assert 'user = "db1"' in await export(api)
    assert 'secret = "set"' in await export(api)
    assert (await api.delete(f"/{owner}/chap")).status_code in (200, 204)
    assert "chap" not in await export(api)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        pytest.param({"secret": "x" * 11}, "secret", id="too-short"),
        pytest.param({"secret": "x" * 256}, "secret", id="too-long"),
        pytest.param({"user": ""}, "user", id="no-user"),
        pytest.param({"user": "a\nb"}, "user", id="unprintable"),
        pytest.param({"mutual_user": ""}, "mutual_user", id="mutual-secret-without-user"),
        pytest.param({"mutual_secret": ""}, "mutual_secret", id="mutual-user-without-secret"),
        pytest.param({"mutual_secret": SECRET}, "mutual_secret", id="one-for-both"),
        pytest.param({"password": SECRET}, "password", id="unknown-field"),
    ],
)
async def test_what_cannot_be_is_refused_without_repeating_it(
    api: httpx.AsyncClient, change: dict[str, str], field: str
) -> None:
    answer = await api.put("/hosts/db1/chap", json={**MUTUAL, **change})
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert SECRET not in answer.text
    assert "xxxxxxxxxxx" not in answer.text
    assert (await api.get("/hosts/db1")).json()["chap"] is None


async def test_no_host_proves_itself_by_what_the_target_proves_itself_by(
    api: httpx.AsyncClient,
) -> None:
    assert (await api.put("/hosts/db1/chap", json=MUTUAL)).status_code == 200
    reflected = {"user": "db2", "secret": OTHER}
    answer = await api.put("/hosts/db2/chap", json=reflected)
    assert (answer.status_code, answer.json()["field"]) == (422, "secret")
    answer = await api.put("/discovery/chap", json={**MUTUAL, "secret": "x" * 12,
                                                    "mutual_secret": SECRET})  # fmt: skip
    assert (answer.status_code, answer.json()["field"]) == (422, "mutual_secret")
    # The target may prove itself to all hosts by the same secret.
    again = {**MUTUAL, "user": "db2", "secret": "another secret"}
    assert (await api.put("/hosts/db2/chap", json=again)).status_code == 200


async def test_unknown_host_and_own_disk_have_no_chap(
    api: httpx.AsyncClient, attach: Any, disk: Any
) -> None:
    assert (await api.put("/hosts/none/chap", json=ONE_WAY)).status_code == 404
    assert (await api.delete("/hosts/none/chap")).status_code == 404
    await attach("a")
    answer = await api.put("/backends/a/chap", json=ONE_WAY)
    assert answer.status_code == 422
    assert "nobody logs in" in answer.json()["detail"]
    body = {"name": "b", "address": str(disk("b")), "chap": ONE_WAY}
    answer = await api.post("/backends", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, "chap")


async def test_host_that_is_forgotten_leaves_no_secret(
    api: httpx.AsyncClient, system: System, tmp_path: Path
) -> None:
    await api.put("/hosts/db1/chap", json=MUTUAL)
    assert len(system.store.list(CredentialRecord)) == 1
    await api.delete("/hosts/db1")
    assert system.store.list(CredentialRecord) == ()
    await api.put("/hosts/db2/chap", json=MUTUAL)
    await apply(api, "[system]\n")
    assert system.store.list(CredentialRecord) == ()


async def test_store_is_readable_by_its_user_only(api: httpx.AsyncClient, tmp_path: Path) -> None:
    await api.put("/hosts/db1/chap", json=MUTUAL)
    folder = tmp_path / "store"
    assert folder.stat().st_mode & 0o777 == 0o700
    files = [path for path in folder.iterdir() if path.is_file()]
    assert any(SECRET.encode() in path.read_bytes() for path in files)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


async def test_applying_an_export_changes_nothing_and_keeps_the_secrets(
    api: httpx.AsyncClient, system: System
) -> None:
    await api.put("/hosts/db1/chap", json=MUTUAL)
    await api.put("/discovery/chap", json={**ONE_WAY, "user": "finder"})
    before = system.store.list(CredentialRecord)
    assert await apply(api, await export(api)) == []
    # A document that says nothing of CHAP takes none away.
    lines = [line for line in (await export(api)).splitlines() if "chap" not in line]
    text = "\n".join(line for line in lines if not line.startswith(("user", "mutual", "secret")))
    assert await apply(api, text) == []
    assert system.store.list(CredentialRecord) == before


async def test_host_of_a_document_is_kept_out_until_its_secret_is_given(
    api: httpx.AsyncClient, system: System
) -> None:
    await api.put("/hosts/db1/chap", json=MUTUAL)
    await api.put("/discovery/chap", json={**ONE_WAY, "user": "finder"})
    text = await export(api)
    for path in ("/hosts/db1", "/hosts/db2", "/discovery/chap"):
        assert (await api.delete(path)).status_code == 204
    changes = await apply(api, text)
    details = {change["name"]: change["detail"] for change in changes if change["kind"] == "chap"}
    assert details.keys() == {"host:db1", "discovery:"}
    assert "`daiko host set-chap db1`" in details["host:db1"]
    shown = (await api.get("/hosts/db1")).json()["chap"]
    assert (shown["user"], shown["secret_is_set"]) == ("db1", False)
    policy = system._target.authentication
    chap, is_required = policy.demand(IQN, is_discovery=False, is_known=True)
    assert chap is not None
    assert is_required
    assert await apply(api, text) == [], "the second time there is nothing to do"
    assert (await api.put("/hosts/db1/chap", json=MUTUAL)).status_code == 200
    assert 'secret = "set"' in await export(api)


async def test_document_can_rename_the_users_and_drop_the_mutual_one(
    api: httpx.AsyncClient, system: System
) -> None:
    await api.put("/hosts/db1/chap", json=MUTUAL)
    text = (await export(api)).replace('user = "db1"', 'user = "renamed"')
    text = "\n".join(line for line in text.splitlines() if not line.startswith("mutual_user"))
    (change,) = await apply(api, text)
    assert (change["action"], change["kind"]) == ("change", "chap")
    (record,) = system.store.list(CredentialRecord)
    assert (record.user, record.secret) == ("renamed", SECRET)
    assert (record.mutual_user, record.mutual_secret) == ("", "")


async def test_document_cannot_bring_a_back_end_that_needs_a_secret(
    api: httpx.AsyncClient,
) -> None:
    text = """
[backend.sd1]
iqn = "iqn.2026-11.com.example:sd1"
portals = ["127.0.0.1:1"]
chap = { user = "me" }
"""
    problem = await apply(api, text)
    assert problem["field"] == "backend.sd1.chap"
    assert "daiko backend add sd1" in problem["next_step"]
