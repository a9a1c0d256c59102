"""The addresses of the management over REST."""

from __future__ import annotations

import httpx

URL = "https://daiko.example.com:3261"


async def test_urls_are_set_shown_and_taken_back(api: httpx.AsyncClient) -> None:
    assert (await api.get("/system")).json()["management_urls"] == []
    answer = await api.put("/system/management-urls", json={"urls": [URL, URL]})
    assert (answer.status_code, answer.json()) == (200, {"urls": [URL]})
    assert (await api.get("/system")).json()["management_urls"] == [URL]
    assert f'"{URL}"' in (await api.get("/export")).text
    assert (await api.put("/system/management-urls", json={"urls": []})).json() == {"urls": []}


async def test_what_is_no_url_is_a_problem_in_its_field(api: httpx.AsyncClient) -> None:
    answer = await api.put("/system/management-urls", json={"urls": ["ftp://a"]})
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["field"] == "system.management_urls"
    assert "https://" in problem["next_step"]
