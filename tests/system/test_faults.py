"""kill -9 in the middle of a backup: of the second controller that copies, of the first controller
that copies. The job ends right in each case, and the copy is compared byte for byte."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import PATIENCE, Daiko, Tgt, image

MIB = 1 << 20
SIZE = 640 * MIB


def volume_image(path: Path) -> Path:
    """Pseudo-random megabytes here and there in a sparse file, so that every misplaced or missing
    stretch of a few megabytes shows."""
    import random

    source = random.Random(7)
    image(path, SIZE)
    with path.open("r+b") as file:
        for position in range(0, SIZE, 4 * MIB):
            file.seek(position + source.randrange(3 * MIB) // 512 * 512)
            file.write(source.randbytes(MIB // 2))
    return path


def wait_until(first: Daiko, job: int, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Follow a job until what is asked holds. Raises AssertionError when it ends before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        seen: dict[str, Any] = first.rest("GET", f"/v1/jobs/{job}").json()
        if holds(seen):
            return seen
        assert seen["state"] in {"queued", "running"}, seen
    raise AssertionError(f"job {job} did not come so far: {seen}")


def started(first: Daiko, *words: str) -> int:
    done = first.cli("backup", "run", "alpha", "--to", "vault", "--no-wait", "--json", *words)
    return int(json.loads(done.stdout)["id"])


def finished(first: Daiko, job: int) -> dict[str, Any]:
    first.cli("job", "wait", str(job))
    shown: dict[str, Any] = json.loads(first.cli("backup", "show", str(job), "--json").stdout)
    assert shown["state"] == "done", shown
    return shown


def copying(job: dict[str, Any]) -> bool:
    return 0 < job["copied_blocks"] < job["blocks"]


def confirming(job: dict[str, Any]) -> bool:
    """Some of it is in the store as confirmed, and the job has not ended."""
    return 0 < job["confirmed_blocks"] < job["blocks"]


def identical(one: Path, other: Path) -> bool:
    with one.open("rb") as left, other.open("rb") as right:
        return all(left.read(MIB) == right.read(MIB) for _ in range(SIZE // MIB))


def test_second_controller_killed_in_a_delegated_step(tmp_path: Path) -> None:
    source, vault = volume_image(tmp_path / "sd1.img"), image(tmp_path / "vault.img", SIZE)
    with (
        Daiko(tmp_path, source, name="sd1", mode="local", store=tmp_path / "sd1") as owner,
        Tgt(tmp_path, vault, name="vault") as device,
        Daiko(tmp_path, name="first", store=tmp_path / "first") as first,
    ):
        owner.cli("host", "allow-copy", "any", device.portal)
        first.cli("backend", "add", "sd1", f"iscsi://{owner.portal}/{owner.iqn}")
        first.cli("backend", "add", "vault", f"iscsi://{device.portal}/{device.iqn}")
        first.cli("volume", "add", "alpha", "--image", "sd1/0")
        job = started(first)
        seen = wait_until(first, job, copying)
        assert seen["steps"][0]["delegated"]
        owner.kill()
        owner.start()
        report = finished(first, job)
        assert sum(step["blocks"] for step in report["steps"]) >= SIZE // 512
    assert identical(source, vault)


def test_first_controller_killed_in_its_own_step(tmp_path: Path) -> None:
    source, vault = volume_image(tmp_path / "old.img"), image(tmp_path / "vault.img", SIZE)
    with (
        Tgt(tmp_path, source, name="old") as owner,
        Tgt(tmp_path, vault, name="vault") as device,
        Daiko(tmp_path, name="first", store=tmp_path / "first") as first,
    ):
        first.cli("backend", "add", "old", f"iscsi://{owner.portal}/{owner.iqn}")
        first.cli("backend", "add", "vault", f"iscsi://{device.portal}/{device.iqn}")
        first.cli("volume", "add", "alpha", "--image", "old/1")
        job = started(first)
        confirmed = wait_until(first, job, confirming)["confirmed_blocks"]
        first.kill()
        first.start()
        resumed = first.rest("GET", f"/v1/jobs/{job}").json()
        assert resumed["confirmed_blocks"] >= confirmed > 0
        report = finished(first, job)
        assert not any(step["delegated"] for step in report["steps"])
    assert identical(source, vault)
