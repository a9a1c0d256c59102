"""What the kernel says of the first controller's memory while it copies a large volume itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

from processes import Daiko, Tgt, image

MIB = 1 << 20
SIZE = 1024 * MIB


def peak(pid: int) -> int:
    """The most bytes of memory that a process has held since `forget_peak`."""
    said = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", said)
    assert match is not None, said
    return int(match.group(1)) * 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def test_copy_of_a_large_volume_by_the_first_controller_holds_little_memory(
    tmp_path: Path,
) -> None:
    old = Tgt(tmp_path, image(tmp_path / "old.img", SIZE), name="old")
    vault = Tgt(tmp_path, image(tmp_path / "vault.img", SIZE), name="vault")
    with old, vault, Daiko(tmp_path, name="first", store=tmp_path / "store") as first:
        for target in (old, vault):
            first.cli("backend", "add", target.name, f"iscsi://{target.portal}/{target.iqn}")
        first.cli("volume", "add", "alpha", "--image", "old/1")
        forget_peak(first.pid)
        before = peak(first.pid)
        done = first.cli("backup", "run", "alpha", "--to", "vault", "--json")
        grown = peak(first.pid) - before
        (step,) = json.loads(done.stdout)["steps"]
        assert step["executor"] == "this controller"
        assert step["bytes_through_first_controller"] == SIZE
    print(f"{grown / MIB:.1f} MiB more than before, at most")
    assert grown < 64 * MIB
