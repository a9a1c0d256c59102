"""The API of a controller that runs as a process, over TCP and over a Unix socket."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openapi_spec_validator import validate

from processes import Daiko, image, run

MIB = 1 << 20


@pytest.fixture
def daiko(tmp_path: Path) -> Iterator[Daiko]:
    """A controller with a volume of 8 MiB and a backup device."""
    with Daiko(tmp_path, image(tmp_path / "disk.img", 8 * MIB, seed=5)) as daiko:
        vault = image(tmp_path / "vault.img", 8 * MIB)
        body = {"name": "vault", "address": str(vault)}
        assert daiko.rest("POST", "/v1/backends", json=body).status_code == 201
        yield daiko


def test_description_of_a_running_controller_is_valid(daiko: Daiko) -> None:
    validate(daiko.rest("GET", "/v1/openapi.json").json())


def test_job_is_told_by_events_while_it_runs_and_its_end_ends_them(
    daiko: Daiko, tmp_path: Path
) -> None:
    started = daiko.rest("POST", "/v1/backups", json={"volume": "lun0", "to": "vault"})
    assert started.status_code == 202, started.text
    url = f"{daiko.api}/v1/jobs/{started.json()['id']}/events"
    with httpx.stream("GET", url, timeout=60) as answer:
        events = [
            json.loads(line.removeprefix("data: "))
            for line in answer.iter_lines()
            if line.startswith("data: ")
        ]
    assert events[-1]["state"] == "done"
    assert (tmp_path / "vault.img").read_bytes() == (tmp_path / "disk.img").read_bytes()


def test_page_of_another_site_is_refused(daiko: Daiko) -> None:
    refused = daiko.rest("GET", "/v1/system", headers={"Origin": "http://evil.example"})
    assert refused.status_code == 403
    renamed = daiko.rest("GET", "/v1/system", headers={"Host": "evil.example"})
    assert renamed.status_code == 403


def test_unix_socket_needs_no_setting_but_its_path(tmp_path: Path) -> None:
    # A socket's path must be short.
    folder = Path(run("mktemp", "-d", "/tmp/daiko-api-XXXXXX").stdout.strip())
    socket = folder / "s"
    disk = image(tmp_path / "disk.img", MIB)
    try:
        with Daiko(tmp_path, disk, options=("--api", f"unix:{socket}")):
            command = [sys.executable, "-m", "daiko", "--api", f"unix:{socket}", "volume", "ls"]
            done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
            assert [volume["name"] for volume in json.loads(done.stdout)] == ["lun0"]
            assert socket.stat().st_mode & 0o077 == 0
        assert not socket.exists()
    finally:
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()
