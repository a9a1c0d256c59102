"""Copies that are interrupted in the middle come out right, and their reports say what happened.

To be in the middle, and to stay there, the backup device is stopped (SIGSTOP) as soon as the first
block has been copied: the job can neither end nor get further until the test lets it go on.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from processes import PATIENCE, Daiko, Process, Tgt, image, qemu_io, run

MIB = 1 << 20
SIZE = 160 * MIB

SMALL_COMMANDS = """
[[function]]
backend = "source"
function = "direct-backup"
can = true
reason = "many small commands, so that the copy has a middle"

[function.limits]
max_cscds = 2
max_segments = 1
max_list_bytes = 92
max_segment_bytes = 2097152
no_list_id = true
cscd_types = [0xe4, 0xe6]
aliases = true
"""


@dataclass
class Site:
    """A volume `alpha` on `source`, a backup device, and the first controller."""

    first: Daiko
    source: Daiko | Tgt
    vault: Tgt
    image: Path

    def run_backup(self) -> int:
        """Start the backup; returns the number of its job."""
        response = self.first.cli("backup", "run", "alpha", "--to", "vault", "--no-wait", "--json")
        identifier: int = json.loads(response.stdout)["id"]
        return identifier

    def job(self, identifier: int) -> dict[str, Any]:
        found: dict[str, Any] = (
            self.first.rest("GET", f"/v1/jobs/{identifier}").raise_for_status().json()
        )
        return found

    def wait(self, identifier: int, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask for the job until it is as wanted."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            job = self.job(identifier)
            if until(job):
                return job
            time.sleep(0.01)
        raise self.first.failed(f"did not bring the job there: {job}")

    def finish(self, identifier: int) -> dict[str, Any]:
        """The job when it has ended, which it must have done well: the backup is the source."""
        job = self.wait(identifier, lambda job: job["state"] in ("done", "failed", "cancelled"))
        assert job["state"] == "done", job
        assert job["confirmed_blocks"] == job["blocks"] == SIZE // 512
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", self.vault.url(), self.image)
        return job

    @contextmanager
    def in_the_middle(self, identifier: int) -> Iterator[None]:
        """The body runs while the job stands still, begun and not ended."""
        self.wait(identifier, lambda job: job["copied_blocks"] > 0)
        os.kill(self.vault.pid, signal.SIGSTOP)
        try:
            job = self.job(identifier)
            assert job["state"] == "running", job
            assert job["confirmed_blocks"] < job["blocks"]
            yield
        finally:
            os.kill(self.vault.pid, signal.SIGCONT)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def site_with(stack: ExitStack, folder: Path, source: Daiko | Tgt, content: Path) -> Site:
    vault = Tgt(folder, image(folder / "vault.img", SIZE), name="vault")
    first = Daiko(folder, name="first", store=folder / "first")
    processes: list[Process] = [source, vault, first]
    for process in processes:
        stack.enter_context(process)
    if isinstance(source, Daiko):
        source.cli("host", "allow-copy", "any", vault.portal)
    first.cli("backend", "add", "source", f"iscsi://{source.portal}/{source.iqn}")
    first.cli("backend", "add", "vault", f"iscsi://{vault.portal}/{vault.iqn}")
    lun = 0 if isinstance(source, Daiko) else 1
    first.cli("volume", "add", "alpha", "--extent", f"source/{lun}:0:{SIZE // 512}")
    first.cli("host", "add", "any", "--initiator", "*")
    first.cli("host", "map", "any", "alpha", "--lun", "0")
    return Site(first, source, vault, content)


@pytest.fixture
def own_step(stack: ExitStack, tmp_path: Path) -> Site:
    """The source cannot copy, so the first controller does."""
    content = image(tmp_path / "content.img", SIZE, seed=7)
    return site_with(stack, tmp_path, Tgt(tmp_path, content, name="source"), content)


@pytest.fixture
def delegated_step(stack: ExitStack, tmp_path: Path) -> Site:
    """The source is a Daiko that copies by itself."""
    content = image(tmp_path / "content.img", SIZE, seed=8)
    source = Daiko(tmp_path, content, name="source", store=tmp_path / "source", mode="local")
    site = site_with(stack, tmp_path, source, content)
    document = tmp_path / "system.toml"
    document.write_text(site.first.cli("export").stdout + SMALL_COMMANDS)
    site.first.cli("apply", str(document))
    return site


def test_first_controller_stopped_in_its_own_step_goes_on_after_its_restart(
    own_step: Site,
) -> None:
    identifier = own_step.run_backup()
    own_step.wait(identifier, lambda job: job["copied_blocks"] > 0)
    assert own_step.first.stop() == 0
    own_step.first.start()
    own_step.finish(identifier)


def test_first_controller_killed_in_a_delegated_step_goes_on_after_its_restart(
    delegated_step: Site,
) -> None:
    identifier = delegated_step.run_backup()
    with delegated_step.in_the_middle(identifier):
        delegated_step.first.kill()
    delegated_step.first.start()
    job = delegated_step.finish(identifier)
    assert {step["executor"] for step in job["steps"]} == {"second controller source"}


def test_backup_device_killed_in_the_middle_is_taken_up_again(own_step: Site) -> None:
    identifier = own_step.run_backup()
    with own_step.in_the_middle(identifier):
        own_step.vault.kill()
        own_step.vault.start()
    own_step.finish(identifier)


def test_second_controller_that_refuses_half_way_is_replaced_and_the_report_says_so(
    delegated_step: Site,
) -> None:
    site = delegated_step
    assert isinstance(site.source, Daiko)
    identifier = site.run_backup()
    with site.in_the_middle(identifier):
        # From now on it answers ILLEGAL REQUEST, 26h/15h to every copy to the backup device.
        site.source.cli("host", "forbid-copy", "any", site.vault.portal)
    job = site.finish(identifier)
    dropped, taken_up = job["steps"][0], job["steps"][-1]
    assert dropped["executor"] == "second controller source"
    assert dropped["error"]
    assert taken_up["executor"] == "this controller"
    assert 0 < taken_up["blocks"] < SIZE // 512
    assert any(
        rejected["executor"] == "second controller source" for rejected in taken_up["rejected"]
    )


def test_backup_of_a_volume_that_a_host_wrote_to_says_so(own_step: Site) -> None:
    identifier = own_step.run_backup()
    with own_step.in_the_middle(identifier):
        qemu_io(own_step.first.url(), "write -P 9 0 64k")
    job = own_step.wait(identifier, lambda job: job["state"] == "done")
    assert not job["one_instant"]
    assert job["changed_blocks"] == 128
