"""A site of real processes that the tests of the command line share, and a way to call `daiko`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from processes import Daiko, Tgt, image, run_with_input

MIB = 1 << 20


@dataclass
class Site:
    """One first controller without disks; sd1 and sd2, which can copy; old, which cannot; a
    backup device that all can reach."""

    folder: Path
    first: Daiko
    sd1: Daiko
    sd2: Daiko
    old: Tgt
    vault: Tgt

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DAIKO_API": self.first.api, "COLUMNS": "200"}

    def run(
        self, *arguments: str, code: int = 0, text: str = "", columns: int = 200
    ) -> subprocess.CompletedProcess[str]:
        """`daiko ARGUMENTS` against the first controller; it must exit with `code`."""
        done = run_with_input(
            text,
            *self.first.program(),
            *arguments,
            env={**self.environment, "COLUMNS": str(columns)},
        )
        assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def json(self, *arguments: str, text: str = "") -> Any:
        """What `daiko ARGUMENTS --json` prints."""
        return json.loads(self.run(*arguments, "--json", text=text).stdout)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site, with its back ends attached and volume alpha laid over sd1, sd2 and old."""
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        site = Site(
            folder,
            first=Daiko(folder, name="first", store=folder / "first"),
            sd1=Daiko(folder, image(folder / "sd1.img", 8 * MIB, seed=1), name="sd1"),
            sd2=Daiko(folder, image(folder / "sd2.img", 8 * MIB, seed=2), name="sd2"),
            old=Tgt(folder, image(folder / "old.img", 8 * MIB, seed=3), name="old"),
            vault=Tgt(folder, image(folder / "vault.img", 32 * MIB), name="vault"),
        )
        for process in (site.sd1, site.sd2, site.old, site.vault, site.first):
            stack.enter_context(process)
        for owner in (site.sd1, site.sd2):
            owner.cli("host", "allow-copy", "any", site.vault.portal)
        for name in ("sd1", "sd2", "old", "vault"):
            process = getattr(site, name)
            site.run("backend", "add", name, f"iscsi://{process.portal}/{process.iqn}")
        extents = [f"{device}:0:8192" for device in ("sd1/0", "sd2/0", "old/1")]
        options = [word for extent in extents for word in ("--extent", extent)]
        site.run("volume", "add", "alpha", *options)
        yield site
