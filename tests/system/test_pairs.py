"""Pairs through the whole product: real controllers, real hosts, real kills."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kernel_counters import traffic_with
from pair_load import Rig, kill_at_random
from processes import Daiko, ProcessFailed, image, qemu_io

MIB = 1 << 20
SIZE = 96 * MIB
"""More than what a pair catches up with by itself: so there is a round, and a job."""


async def test_killed_at_random_nothing_acknowledged_is_lost_and_paired_means_equal(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, 4 * MIB)
    rig.start()
    try:
        rig.first.cli("pair", "create", "p", "lun0", "lun1", "--yes")
        rig.wait_until_paired()
        assert await kill_at_random(rig, kills=9, seed=1) > 500
    finally:
        rig.stop()


def test_owner_of_both_copies_at_first_and_writes_reach_both_sides(tmp_path: Path) -> None:
    """Fig 22: both volumes lie in one second controller, which can copy."""
    one = image(tmp_path / "one.img", SIZE, seed=3)
    two = image(tmp_path / "two.img", SIZE)
    with (
        Daiko(tmp_path, one, lun={1: [two]}, name="sd1", mode="local") as sd1,
        Daiko(tmp_path, sd1.url(0), lun={1: [sd1.url(1)]}, name="first") as first,
    ):
        refused = first.cli("pair", "create", "p", "lun0", "lun1", check=False)
        assert refused.returncode == 2
        assert "96 MiB of lun1 will be overwritten" in refused.stderr
        before = traffic_with(first.pid, [sd1.port])[sd1.port]
        first.cli("pair", "create", "p", "lun0", "lun1", "--yes")
        first.cli("pair", "wait", "p")
        passed = traffic_with(first.pid, [sd1.port])[sd1.port] - before
        # Commands, their parameter lists, pings: no payload of SIZE, as the kernel counts it.
        assert 0 < passed.total < 64 << 10
        (job,) = first.rest("GET", "/v1/jobs").json()
        assert (job["type"], job["asked_by"], job["state"]) == ("pair", "pair p", "done")
        report = first.rest("GET", f"/v1/jobs/{job['id']}").json()
        assert report["bytes_delegated"] == SIZE
        assert report["bytes_through_first_controller"] == 0
        assert one.read_bytes() == two.read_bytes()

        qemu_io(first.url(0), "write -P 0x11 1M 256k", "write -P 0x22 80M 4k", "write -z -u 2M 1M")
        with pytest.raises(ProcessFailed, match=r"(?i)read-only|permission|protected"):
            qemu_io(first.url(1), "write -P 1 0 4k")
        assert one.read_bytes() == two.read_bytes()

        first.cli("pair", "split", "p")
        qemu_io(first.url(0), "write -P 0x33 4M 64k")
        qemu_io(first.url(1), "write -P 0x44 8M 128k")
        shown = json.loads(first.cli("pair", "show", "p", "--json").stdout)[0]
        assert (shown["state"], shown["differs"], shown["written_to_secondary"]) == (
            "split",
            3 * 64 << 10,
            2 * 64 << 10,
        )
        asked = first.cli("pair", "resync", "p", check=False)
        assert asked.returncode == 2
        assert "192 KiB of lun1 will be overwritten, 128 KiB of it written" in asked.stderr
        first.cli("pair", "resync", "p", "--yes")
        first.cli("pair", "wait", "p", "--timeout", "60")
        assert one.read_bytes() == two.read_bytes()
        qemu_io(first.url(0), "read -P 0x33 4M 64k")

        nothing = first.cli("pair", "resync", "p", "--yes", check=False)
        assert nothing.returncode == 7
        late = first.cli("pair", "wait", "p", "--state", "split", "--timeout", "0", check=False)
        assert late.returncode == 8


def test_lost_secondary_splits_the_pair_and_a_resync_copies_only_what_differs(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, 16 * MIB)
    rig.start()
    try:
        rig.first.cli("pair", "create", "p", "lun0", "lun1", "--yes")
        rig.wait_until_paired()
        rig.first.cli("backend", "set", "sd1", "--reconnect-timeout", "1")
        rig.below[1].kill()
        qemu_io(rig.first.url(0), "write -P 0x55 3M 64k")
        waited = rig.first.cli("pair", "wait", "p", check=False)
        assert waited.returncode == 1
        assert "split by error" in waited.stderr
        rig.below[1].start()
        rig.first.wait_until_connected(rig.below[1].iqn)
        shown = json.loads(rig.first.cli("pair", "show", "p", "--json").stdout)[0]
        assert 64 << 10 <= shown["differs"] <= 4 * 64 << 10
        rig.first.cli("pair", "resync", "p", "--yes")
        rig.wait_until_paired()
        rig.first.cli("pair", "split", "p")
        assert rig.are_equal()
    finally:
        rig.stop()
