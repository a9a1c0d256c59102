"""Migrations through the whole product: real controllers, real hosts, real kills."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from pair_load import Load
from processes import Daiko, image, qemu_io

MIB = 1 << 20
SIZE = 72 * MIB
"""More than what is caught up with without a job: so there is a round."""


def _migration(first: Daiko, volume: str = "lun0") -> dict[str, Any]:
    found: dict[str, Any] = first.rest("GET", f"/v1/volumes/{volume}/migration").json()
    return found


def test_owner_of_both_places_moves_the_volume_by_itself(tmp_path: Path) -> None:
    """Both LUs are of one second controller, which can copy: nothing comes by the first one."""
    one = image(tmp_path / "one.img", SIZE, seed=3)
    two = image(tmp_path / "two.img", SIZE)
    with (
        Daiko(tmp_path, one, lun={1: [two]}, name="sd1", mode="local") as sd1,
        Daiko(tmp_path, sd1.url(0), name="first") as first,
    ):
        (backend,) = first.rest("GET", "/v1/backends").json()
        to, name = f"{backend['name']}/1", backend["name"]
        before = first.rest("GET", "/v1/volumes/lun0").json()
        plan = json.loads(first.cli("explain", "migrate", "lun0", "--to", to, "--json").stdout)
        assert (plan["blocks"] * plan["block_size"], plan["blocks_delegated"]) == (
            SIZE,
            plan["blocks"],
        )
        qemu_io(first.url(0), "write -P 0x11 1M 256k")
        wanted = one.read_bytes()
        first.cli("volume", "migrate", "lun0", "--to", to, "--wait", "--timeout", "60")
        (job,) = first.rest("GET", "/v1/jobs").json()
        assert (job["type"], job["asked_by"], job["state"]) == (
            "migration",
            "migration of lun0",
            "done",
        )
        report = first.rest("GET", f"/v1/jobs/{job['id']}").json()
        assert report["bytes_delegated"] == SIZE
        assert report["bytes_through_first_controller"] == 0
        assert two.read_bytes() == wanted
        found = _migration(first)
        assert found["state"] == "done"
        assert [(c["executor"], c["bytes"]) for c in found["carriers"]] == [
            (f"second controller {name}", SIZE)
        ]
        after = first.rest("GET", "/v1/volumes/lun0").json()
        assert [extent["device"] for extent in after["extents"]] == [to]
        assert (after["naa"], after["mapped_to"]) == (before["naa"], before["mapped_to"])

        qemu_io(first.url(0), "read -P 0x11 1M 256k", "write -P 0x22 70M 4k")
        assert one.read_bytes() == wanted
        assert two.read_bytes()[70 * MIB : 70 * MIB + 4096] == b"\x22" * 4096

        again = first.cli("volume", "migrate", "lun0", "--to", to, check=False)
        assert (again.returncode, "lies there already" in again.stderr) == (7, True)
        back = f"{name}/0"
        first.cli("volume", "migrate", "lun0", "--to", back, "--pace", "1MiB/s")
        late = first.cli("volume", "migrate", "lun0", "--wait", "--timeout", "0", check=False)
        assert late.returncode == 8
        assert f"moving to {back}" in first.cli("volume", "show", "lun0").stdout
        busy = first.rest("DELETE", "/v1/volumes/lun0")
        assert (busy.status_code, "being migrated" in busy.json()["detail"]) == (409, True)
        first.cli("volume", "migrate", "lun0", "--cancel")
        assert "cancelled" in first.cli("volume", "migrations").stdout
        qemu_io(first.url(0), "read -P 0x22 70M 4k")


async def test_killed_under_load_it_goes_on_and_nothing_acknowledged_is_lost(
    tmp_path: Path,
) -> None:
    """From one second controller to another; the first controller is killed on the way, and so is
    the new place."""
    files = [image(tmp_path / f"{name}.img", 8 * MIB, seed=7) for name in ("one", "two")]
    below = [
        Daiko(tmp_path, file, name=f"sd{place}", mode="local", store=tmp_path / f"sd{place}")
        for place, file in enumerate(files)
    ]
    first = Daiko(
        tmp_path,
        below[0].url(),
        name="first",
        store=tmp_path / "first",
    )
    processes = [*below, first]
    for process in processes:
        process.start()
    load = Load(first, 0, seed=5)
    task = asyncio.create_task(load.run())
    try:
        new = f"iscsi://{below[1].portal}/{below[1].iqn}"
        await asyncio.to_thread(first.cli, "backend", "add", "new", new)
        patience = ("--command-timeout", "1", "--reconnect-timeout", "1")
        await asyncio.to_thread(first.cli, "backend", "set", "new", *patience)
        await load.progress(50)
        move = ("volume", "migrate", "lun0")
        await asyncio.to_thread(first.cli, *move, "--to", "new/0", "--pace", "300KiB/s")
        await load.progress(100)
        first.kill()
        await asyncio.to_thread(first.start)
        assert (await asyncio.to_thread(_migration, first))["state"] == "moving"
        await load.progress(50)
        below[1].kill()
        await load.progress(50)
        await asyncio.to_thread(below[1].start)
        await asyncio.to_thread(first.cli, *move, "--pace", "full", check=False)
        for _ in range(5):
            waited = await asyncio.to_thread(
                first.cli, *move, "--wait", "--timeout", "60", check=False
            )
            if waited.returncode == 0:
                break
            await asyncio.to_thread(first.cli, *move, "--resume", check=False)
        assert waited.returncode == 0, waited.stderr
        await load.progress(50)
        below[0].kill()  # nothing lies there any more
        await load.progress(50)
    finally:
        load.stop()
        await asyncio.wait({task}, timeout=30)
        for process in processes:
            process.kill()
    await task
