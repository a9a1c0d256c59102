"""Requests that are too long are refused before they are held."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from daiko.api.app import create_app
from daiko.api.body_limit import BodyLimit
from daiko.control.system import System


@pytest.fixture
async def small(system: System) -> AsyncIterator[httpx.AsyncClient]:
    """An API that takes 100 bytes."""
    transport = httpx.ASGITransport(app=BodyLimit(create_app(system), 100))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/v1") as client:
        yield client


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b" " * 60


@pytest.mark.parametrize("is_announced", [True, False])
async def test_long_body_is_refused_by_what_is_announced_and_by_what_comes(
    small: httpx.AsyncClient, is_announced: bool
) -> None:
    answer = await small.post("/apply", content=b"x" * 101 if is_announced else endless())
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert "100 bytes" in answer.json()["detail"]


async def test_body_of_the_largest_size_is_taken(small: httpx.AsyncClient) -> None:
    body = b'{"toml": "", "dry_run": true}'
    answer = await small.post(
        "/apply", content=body.ljust(100), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200
