"""Copies of pairs over two sites by second controllers, straight to those of the other site [0101,
Fig 20-21]: each first controller and each second controller is a process of its own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from processes import PATIENCE, Daiko, image, qemu_io

MIB = 1 << 20
SIZE = 96 * MIB
"""More than what a pair catches up with by itself: so there is a round, and a job."""


class TwoSites:
    """Each has a volume lun0: tokyo's is on sda, osaka's on sdb. sda can copy, and may to sdb."""

    def __init__(self, folder: Path) -> None:
        self.files = [image(folder / "a.img", SIZE, seed=3), image(folder / "b.img", SIZE)]
        self.sda, self.sdb = (
            Daiko(folder, file, name=name, mode="local")
            for file, name in zip(self.files, ("sda", "sdb"), strict=True)
        )
        self.tokyo, self.osaka = (
            Daiko(folder, below.url(0), name=name, store=folder / name)
            for below, name in ((self.sda, "tokyo"), (self.sdb, "osaka"))
        )

    def __enter__(self) -> TwoSites:
        for each in self.all:
            each.start()
        self.sda.rest(
            "POST", "/v1/hosts/any/remote-copy", json={"portals": [self.sdb.portal]}
        ).raise_for_status()
        for here, there in ((self.tokyo, self.osaka), (self.osaka, self.tokyo)):
            site = f"iscsi://{there.portal}/{there.iqn}"
            here.cli("site", "add", there.name, site, "--without-chap")
        self.osaka.cli("site", "offer", "tokyo", "lun0")
        self.tokyo.cli("site", "probe", "osaka")
        return self

    def __exit__(self, *_: object) -> None:
        for each in reversed(self.all):
            each.stop()

    @property
    def all(self) -> tuple[Daiko, ...]:
        return self.sda, self.sdb, self.tokyo, self.osaka

    def are_equal(self) -> bool:
        return self.files[0].read_bytes() == self.files[1].read_bytes()

    def jobs(self) -> list[dict[str, Any]]:
        """The reports of the rounds, in their order."""
        found = sorted(self.tokyo.rest("GET", "/v1/jobs").json(), key=lambda job: job["id"])
        return [self.tokyo.rest("GET", f"/v1/jobs/{job['id']}").json() for job in found]

    def notes(self) -> list[str]:
        """What osaka says of the pair."""
        (found,) = json.loads(self.osaka.cli("pair", "show", "p", "--json").stdout)
        notes: list[str] = found["notes"]
        return notes

    def wait_until_it_copies(self) -> None:
        """Return when a round has confirmed something."""
        deadline = time.monotonic() + PATIENCE
        while not any(job["confirmed_blocks"] for job in self.jobs()):
            assert time.monotonic() < deadline
            time.sleep(0.05)  # As an administrator who looks at it would wait.


def test_leader_that_is_killed_midway_copies_on_and_nothing_passes_it(tmp_path: Path) -> None:
    with TwoSites(tmp_path) as sites:
        tokyo, osaka = sites.tokyo, sites.osaka
        tokyo.cli("pair", "create", "p", "lun0", "osaka:lun0", "--yes", "--pace", "8MiB/s")
        sites.wait_until_it_copies()
        qemu_io(tokyo.url(0), "write -P 0x11 1M 256k", "write -P 0x22 80M 4k")
        tokyo.kill()
        refused = osaka.cli("pair", "swap", "p", "--yes", check=False)
        assert refused.returncode != 0
        assert "second controllers of site tokyo may be writing to its devices" in refused.stderr
        tokyo.start()
        tokyo.cli("pair", "pace", "p", "full")
        tokyo.cli("pair", "wait", "p", "--timeout", "90")
        assert sites.are_equal()
        assert not any("is lent" in note for note in sites.notes())
        first, *_, last = sites.jobs()
        assert (first["state"], last["state"]) == ("interrupted", "done")
        for report in (first, last):
            assert (report["asked_by"], report["destination"]) == ("pair p", "osaka:lun0")
            assert report["bytes_through_first_controller"] == 0
        assert last["bytes_delegated"] > SIZE // 2
        shown = tokyo.cli("job", "show", str(last["id"])).stdout
        assert "and reaches osaka:" in " ".join(shown.split())
        qemu_io(tokyo.url(0), "write -P 0x33 4M 64k")
        assert sites.are_equal()
