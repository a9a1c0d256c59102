"""Copies of pairs over two sites by second controllers, straight to those of the other site [0101,
Fig 20-21]: each first controller and each second controller is a process of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processes import Daiko, image, qemu_io

MIB = 1 << 20
SIZE = 96 * MIB
"""More than what a pair catches up with by itself: so there is a round, and a job."""


class TwoSites:
    """tokyo's alpha lies on sda of tokyo, osaka's beta on sdb of osaka; sda can copy."""

    def __init__(self, folder: Path, *, own: int = 0) -> None:
        """The last `own` bytes of alpha lie on an own disk of tokyo."""
        self.folder = folder
        self.own = image(folder / "own.img", own, seed=5) if own else None
        self.on_sda = SIZE - own
        self.sda = Daiko(folder, image(folder / "a.img", SIZE, seed=3), name="sda", mode="local")
        self.sdb = Daiko(folder, image(folder / "b.img", SIZE), name="sdb", mode="local")
        self.tokyo, self.osaka = (
            Daiko(folder, name=name, store=folder / name) for name in ("tokyo", "osaka")
        )
        self.all = (self.sda, self.sdb, self.tokyo, self.osaka)

    def start(self) -> None:
        for each in self.all:
            each.start()
        for here, there in ((self.tokyo, self.osaka), (self.osaka, self.tokyo)):
            here.cli("site", "add", there.name, f"iscsi://{there.portal}/{there.iqn}",
                     "--without-chap")  # fmt: skip
            here.cli("host", "add", "any", "--initiator", "*")
        self.tokyo.cli("backend", "add", "sda", f"iscsi://{self.sda.portal}/{self.sda.iqn}")
        self.osaka.cli("backend", "add", "sdb", f"iscsi://{self.sdb.portal}/{self.sdb.iqn}")
        extents = ["--extent", f"sda/0:0:{self.on_sda // 512}"]
        if self.own is not None:
            self.tokyo.cli("backend", "add", "own", str(self.own))
            extents += ["--extent", f"own/0:0:{(SIZE - self.on_sda) // 512}"]
        self.tokyo.cli("volume", "add", "alpha", *extents)
        self.osaka.cli("volume", "add", "beta", "--image", "sdb/0")
        self.tokyo.cli("host", "map", "any", "alpha", "--lun", "0")
        self.osaka.cli("host", "map", "any", "beta", "--lun", "0")
        self.osaka.cli("site", "offer", "tokyo", "beta")
        self.tokyo.cli("site", "probe", "osaka")

    def stop(self) -> None:
        for each in reversed(self.all):
            each.stop()

    @property
    def alpha(self) -> bytes:
        own = b"" if self.own is None else self.own.read_bytes()
        return (self.folder / "a.img").read_bytes()[: self.on_sda] + own

    @property
    def beta(self) -> bytes:
        return (self.folder / "b.img").read_bytes()

    def pair(self, *more: str) -> None:
        self.tokyo.cli("pair", "create", "p", "alpha", "osaka:beta", "--yes", *more)

    def wait(self, state: str = "paired") -> None:
        self.tokyo.cli("pair", "wait", "p", "--state", state, "--timeout", "90")

    def jobs(self) -> list[dict[str, Any]]:
        """The reports of the rounds, in their order."""
        found = sorted(self.tokyo.rest("GET", "/v1/jobs").json(), key=lambda job: job["id"])
        return [self.tokyo.rest("GET", f"/v1/jobs/{job['id']}").json() for job in found]

    def followed(self) -> dict[str, Any]:
        """The pair as osaka knows it."""
        (found,) = json.loads(self.osaka.cli("pair", "show", "p", "--json").stdout)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[TwoSites]:
    made = TwoSites(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_owner_of_the_primary_copies_straight_to_the_other_site(sites: TwoSites) -> None:
    sites.pair()
    qemu_io(sites.tokyo.url(0), "write -P 0x11 1M 256k", "write -P 0x22 80M 4k")
    sites.wait()
    assert sites.alpha == sites.beta
    report = sites.jobs()[0]
    print(json.dumps(report, indent=1))
    assert (report["type"], report["asked_by"], report["state"]) == ("pair", "pair p", "done")
    assert report["destination"] == "osaka:beta"
    assert report["bytes_delegated"] == SIZE
    assert report["bytes_through_first_controller"] == 0
