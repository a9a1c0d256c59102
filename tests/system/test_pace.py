"""Copies at a pace by real processes, whoever carries them out: a crawl outlives a kill of the
controller, and ends when its pace is taken back.

At 1 KiB/s the first piece is copied and the second would take minutes: while a test runs the copy
can neither end nor get further.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from processes import PATIENCE, Daiko, Process, Tgt, image

MIB = 1 << 20
SIZE = 8 * MIB


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def crawling(first: Daiko, job: int) -> dict[str, Any]:
    """The job as soon as its pace is what limits it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found: dict[str, Any] = first.rest("GET", f"/v1/jobs/{job}").raise_for_status().json()
        if found["limited_by"] == "rate":
            return found
        time.sleep(0.05)
    raise first.failed("does not keep the job to its pace")


def by_second_controller(stack: ExitStack, folder: Path, first: Daiko) -> str:
    """The source can copy, and reaches the backup device."""
    source = Daiko(folder, folder / "source.img", name="source")
    vault = Tgt(folder, folder / "vault.img", name="vault")
    attach(stack, first, source=source, vault=vault)
    source.cli("host", "allow-copy", "any", vault.portal)
    first.cli("function", "probe-reach", "source", "vault/1")
    return "second controller source"


def by_reading_and_writing(stack: ExitStack, folder: Path, first: Daiko) -> str:
    """Neither side can copy."""
    source = Tgt(folder, folder / "source.img", name="source")
    vault = Tgt(folder, folder / "vault.img", name="vault")
    attach(stack, first, source=source, vault=vault)
    return "this controller"


def by_the_kernel(stack: ExitStack, folder: Path, first: Daiko) -> str:
    """Both are disks of the controller itself."""
    stack.enter_context(first)
    for name in ("source", "vault"):
        first.cli("backend", "add", name, str(folder / f"{name}.img"))
    return "this controller"


def attach(stack: ExitStack, first: Daiko, **backends: Daiko | Tgt) -> None:
    for process in (*backends.values(), first):
        assert isinstance(process, Process)
        stack.enter_context(process)
    for name, process in backends.items():
        first.cli("backend", "add", name, f"iscsi://{process.portal}/{process.iqn}")


@pytest.mark.parametrize("way", [by_second_controller, by_reading_and_writing, by_the_kernel])
def test_crawling_copy_outlives_a_kill_and_ends_at_full_pace(
    tmp_path: Path, stack: ExitStack, way: Any
) -> None:
    source = image(tmp_path / "source.img", SIZE, seed=1)
    vault = image(tmp_path / "vault.img", SIZE)
    first = Daiko(tmp_path, name="first", store=tmp_path / "first")
    executor = way(stack, tmp_path, first)
    options = ("--pace", "1KiB/s", "--no-wait", "--json")
    job = json.loads(first.cli("copy", "run", "source", "vault", *options).stdout)["id"]
    found = crawling(first, job)
    assert [step["executor"] for step in found["steps"]] == [executor]
    assert 0 < found["copied_blocks"] < found["blocks"]
    assert "1KiB/s; it limits the copy" in first.cli("job", "show", str(job)).stdout
    first.kill()
    first.start()
    assert crawling(first, job)["pace"] == "1KiB/s"
    said = first.cli("job", "pace", str(job), "full").stdout
    assert said == f"copy {job} goes at pace full now\n"
    done = json.loads(first.cli("job", "wait", str(job), "--json").stdout)
    assert (done["state"], done["pace"]) == ("done", "full")
    assert (done["bytes_in_kernel"] > 0) is (way is by_the_kernel)
    assert vault.read_bytes() == source.read_bytes()


def test_paced_copy_comes_out_right(tmp_path: Path, stack: ExitStack) -> None:
    source = image(tmp_path / "source.img", SIZE, seed=1)
    vault = image(tmp_path / "vault.img", SIZE)
    first = Daiko(tmp_path, name="first", store=tmp_path / "first")
    by_the_kernel(stack, tmp_path, first)
    first.cli("volume", "add", "alpha", "--image", "source")
    done = first.cli("backup", "run", "alpha", "--to", "vault", "--pace", "16MiB/s,latency:50ms")
    assert "16MiB/s,latency:50ms" in done.stdout
    assert "16MiB/s,latency:50ms" in done.stderr
    assert vault.read_bytes() == source.read_bytes()
